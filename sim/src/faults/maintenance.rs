//! A node in maintenance: it stops for a while, and what it holds is waited for.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;

/// Every so-manieth run has one.
const RUNS: u64 = 6;

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
    let victim = match rng.below(3) {
        0 => Victim::Owner,
        1 => Victim::Replica,
        _ => Victim::Node(*rng.pick(nodes)),
    };
    out.push(FaultPlan {
        armed: start + rng.duration(Duration::ZERO, span),
        moment: None,
        lasts: rng.duration(Duration::from_secs(1), Duration::from_secs(16)),
        kind: Kind::Maintenance,
        victim,
        other: 1,
        power: false,
        both: false,
    });
    out.sort_by_key(|p| p.armed);
}
