//! A site that the operator adds while a volume is there: what it holds is spread over that one, too.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;

/// Every so-manieth run has one.
const RUNS: u64 = 12;

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
    out.push(FaultPlan {
        armed: start + rng.duration(Duration::ZERO, span),
        moment: None,
        lasts: Duration::from_millis(1),
        kind: Kind::AddSite,
        victim: Victim::Node(*rng.pick(nodes)),
        other: 1,
        power: false,
        both: false,
    });
    out.sort_by_key(|p| p.armed);
}
