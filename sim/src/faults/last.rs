//! A site goes for good when a run is nearly over: what was written until then has lost all that
//! it could do without, and must be safe against the next loss all the same (R26).

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;

/// Every so-manieth run ends so, of those that lose nothing else and have room (R24).
const RUNS: u64 = 3;

/// Draws it from a stream of its own, so that it shifts nothing else of a seed's run.
pub fn add(
    rng: &mut Rng,
    start: Time,
    span: Duration,
    nodes: &[NodeName],
    out: &mut Vec<FaultPlan>,
) {
    let full = |p: &FaultPlan| matches!(p.kind, Kind::Full | Kind::FullSite);
    let spent = |p: &FaultPlan| p.kind.is_for_good() || full(p);
    if !rng.one_in(RUNS) || out.iter().any(spent) {
        return;
    }
    let victim = match rng.below(2) {
        0 => Victim::Owner,
        _ => Victim::Node(*rng.pick(nodes)),
    };
    out.push(FaultPlan {
        armed: start + rng.duration(span / 4 * 3, span),
        moment: None,
        lasts: Duration::from_millis(1),
        kind: Kind::LoseSite,
        victim,
        other: 1,
        power: true,
        both: false,
    });
    out.sort_by_key(|p| p.armed);
}
