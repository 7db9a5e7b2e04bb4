//! All disks of a site are full for a while (R27): new segments do without that site, and nobody
//! is told that there is no room.

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;

/// Every so-manieth run has one, of those whose other faults leave all sites in the world: with
/// one away, and another one full, there is no room (R24).
const RUNS: u64 = 2;

/// Whether all sites stay in the world, and all disks.
fn is_mild(plan: &FaultPlan) -> bool {
    matches!(
        plan.kind,
        Kind::Kill
            | Kind::Pause
            | Kind::SlowLink
            | Kind::SlowDisks
            | Kind::Succession
            | Kind::MidDrain
            | Kind::Stop
            | Kind::ShutDown
            | Kind::Desert
            | Kind::Move
            | Kind::Drift
            | Kind::Clog
            | Kind::Resize
    )
}

/// Draws it from a stream of its own, so that it shifts nothing else of a seed's run.
pub fn add(
    rng: &mut Rng,
    start: Time,
    span: Duration,
    nodes: &[NodeName],
    out: &mut Vec<FaultPlan>,
) {
    if !rng.one_in(RUNS) || !out.iter().all(is_mild) {
        return;
    }
    let victim = match rng.below(3) {
        0 => Victim::Owner,
        _ => Victim::Node(*rng.pick(nodes)),
    };
    out.push(FaultPlan {
        armed: start + rng.duration(Duration::ZERO, span / 2),
        moment: None,
        // Longer than it is waited for before a full fabric is called one.
        lasts: rng.duration(Duration::from_secs(16), Duration::from_secs(30)),
        kind: Kind::FullSite,
        victim,
        other: 1,
        power: false,
        both: true,
    });
    out.sort_by_key(|p| p.armed);
}
