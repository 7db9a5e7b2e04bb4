//! The operator makes the volume smaller, and as large as it was again: what was cut off is gone
//! for good, whatever else goes wrong meanwhile.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

/// Every so-manieth run has some.
const RUNS: u64 = 3;

/// It grows again so soon that its owner may not know yet that it was smaller.
const SOON: Duration = Duration::from_millis(100);

/// Draws them from a stream of their own, so that they shift nothing else of a seed's run.
pub fn add(rng: &mut Rng, start: Time, span: Duration, _: &[NodeName], out: &mut Vec<FaultPlan>) {
    if !rng.one_in(RUNS) {
        return;
    }
    for _ in 0..rng.within(1, 4) {
        let moment = match rng.below(6) {
            0 => None,
            1 => Some((Moment::IndexSent, rng.within(1, 4))),
            2 => Some((Moment::CheckpointSent, 1)),
            3 => Some((Moment::Serving, 1)),
            _ => Some((Moment::WriteAcked, rng.within(1, 20))),
        };
        let longest = match rng.one_in(2) {
            true => SOON,
            false => Duration::from_secs(4),
        };
        out.push(FaultPlan {
            armed: start + rng.duration(Duration::ZERO, span),
            moment,
            lasts: rng.duration(Duration::from_millis(1), longest),
            kind: Kind::Resize,
            victim: Victim::Owner,
            other: rng.within(1, 4),
            power: false,
            both: rng.one_in(3),
        });
    }
    out.sort_by_key(|p| p.armed);
}
