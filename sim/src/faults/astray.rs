//! Fragments whose writes go astray when a run is nearly over. If the power goes then, a disk may
//! know nothing of them any more: only who looks whether it has all that it should finds out (R24).

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;

/// Every so-manieth run has some, of those that lose nothing for good.
const RUNS: u64 = 2;

/// Draws them from a stream of their own, so that they shift nothing else of a seed's run.
pub fn add(
    rng: &mut Rng,
    start: Time,
    span: Duration,
    nodes: &[NodeName],
    out: &mut Vec<FaultPlan>,
) {
    if !rng.one_in(RUNS) || out.iter().any(|p| p.kind.is_for_good()) {
        return;
    }
    // All at one node, which has one fragment of a segment: several of one segment are beyond
    // what it can do without.
    let node = *rng.pick(nodes);
    for _ in 0..rng.within(2, 6) {
        out.push(FaultPlan {
            armed: start + rng.duration(span / 2, span),
            moment: None,
            lasts: Duration::from_millis(1),
            kind: Kind::Misdirect,
            victim: Victim::Node(node),
            other: rng.within(1, 2),
            power: false,
            both: false,
        });
    }
    out.sort_by_key(|p| p.armed);
}
