//! What the operator has emptied: a disk, which serves again later or is taken out once nothing
//! is on it, or a node. Nothing is lost by that, whatever else goes wrong meanwhile.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

/// Every so-manieth run has some.
const RUNS: u64 = 3;

const KINDS: [Kind; 4] = [
    Kind::DrainDisk,
    Kind::RemoveDisk,
    Kind::RemoveDisk,
    Kind::DrainNode,
];

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
    for _ in 0..rng.within(1, 2) {
        let moment = match rng.below(3) {
            0 => None,
            1 => Some((Moment::IndexSent, rng.within(1, 6))),
            _ => Some((Moment::WriteAcked, rng.within(1, 20))),
        };
        let victim = match rng.below(4) {
            0 => Victim::Owner,
            1 => Victim::Replica,
            2 => Victim::OwnReplica,
            _ => Victim::Node(*rng.pick(nodes)),
        };
        out.push(FaultPlan {
            armed: start + rng.duration(Duration::ZERO, span),
            moment,
            lasts: rng.duration(Duration::from_millis(100), Duration::from_secs(12)),
            kind: *rng.pick(&KINDS),
            victim,
            other: rng.within(1, 2),
            power: false,
            both: rng.one_in(3),
        });
    }
    out.sort_by_key(|p| p.armed);
}
