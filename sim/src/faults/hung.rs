//! A disk that hangs: it answers nothing for a while, and says of no error.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

/// Every so-manieth run has one.
const RUNS: u64 = 5;

/// Draws it from a stream of its own, so that it shifts nothing else of a seed's run.
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
    let victim = match rng.below(4) {
        0 => Victim::Owner,
        1 => Victim::Replica,
        2 => Victim::OwnReplica,
        _ => Victim::Node(*rng.pick(nodes)),
    };
    let moment = match rng.below(3) {
        0 => None,
        1 => Some((Moment::IndexSent, rng.within(1, 6))),
        _ => Some((Moment::WriteAcked, rng.within(1, 20))),
    };
    out.push(FaultPlan {
        armed: start + rng.duration(Duration::ZERO, span),
        moment,
        lasts: rng.duration(Duration::from_millis(100), Duration::from_secs(16)),
        kind: Kind::HangDisk,
        victim,
        other: rng.within(0, 3),
        power: false,
        both: rng.one_in(2),
    });
    out.sort_by_key(|p| p.armed);
}
