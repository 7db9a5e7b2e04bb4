//! What the operator adds: a disk to a node, or a node to a site. Its share of the slots must come
//! to it, whatever goes wrong meanwhile (decision 15).

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;

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
    for _ in 0..rng.within(1, 2) {
        out.push(FaultPlan {
            armed: start + rng.duration(Duration::ZERO, span),
            moment: None,
            lasts: Duration::from_millis(1),
            kind: *rng.pick(&[Kind::AddDisk, Kind::AddNode]),
            victim: Victim::Node(*rng.pick(nodes)),
            other: 1,
            power: false,
            both: rng.one_in(2),
        });
    }
    out.sort_by_key(|p| p.armed);
}
