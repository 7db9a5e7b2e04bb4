//! Processes that are asked to end, as for an upgrade: clients leave, volumes end cleanly, and the
//! process after them; it begins anew later. One node, or one after the other.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

/// Every so-manieth run has some.
const RUNS: u64 = 4;

/// Draws them from a stream of their own, so that they shift nothing else of a seed's run.
pub fn add(
    rng: &mut Rng,
    start: Time,
    span: Duration,
    nodes: &[NodeName],
    out: &mut Vec<FaultPlan>,
) {
    if !rng.one_in(RUNS) {
        return;
    }
    for _ in 0..rng.within(1, 3) {
        let moment = match rng.below(4) {
            0 => None,
            1 => Some((Moment::IndexSent, rng.within(1, 6))),
            2 => Some((Moment::Serving, 1)),
            _ => Some((Moment::WriteAcked, rng.within(1, 20))),
        };
        let victim = match rng.below(3) {
            0 => Victim::Node(*rng.pick(nodes)),
            _ => Victim::Owner,
        };
        out.push(FaultPlan {
            armed: start + rng.duration(Duration::ZERO, span),
            moment,
            lasts: rng.duration(Duration::from_millis(500), Duration::from_secs(12)),
            kind: Kind::ShutDown,
            victim,
            other: 1,
            power: false,
            both: false,
        });
    }
    out.sort_by_key(|p| p.armed);
}
