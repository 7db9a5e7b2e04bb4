//! A volume's journal loses its quorum for good, by more than the policy survives (R24): its owner
//! goes, and with it two of the three replicas, or all. The operator recovers it with loss (R11).

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

/// Every so-manieth run has one, or two one after the other.
const RUNS: u64 = 6;

/// Draws them from a stream of their own, so that they shift nothing else of a seed's run.
pub fn add(rng: &mut Rng, start: Time, span: Duration, _: &[NodeName], out: &mut Vec<FaultPlan>) {
    // What was cut off a volume may come back with what is lost; a lost site takes the journal's
    // third replica; and beside clocks that run wrong nothing is certain of reads.
    let spoils = [Kind::Resize, Kind::LoseSite, Kind::DriftFar];
    if !rng.one_in(RUNS) || out.iter().any(|p| spoils.contains(&p.kind)) {
        return;
    }
    for _ in 0..rng.within(1, 2) {
        let moment = match rng.below(6) {
            0 => None,
            1 => Some((Moment::CheckpointSent, 1)),
            2 => Some((Moment::Serving, 1)),
            _ => Some((Moment::WriteAcked, rng.within(1, 20))),
        };
        out.push(FaultPlan {
            armed: start + rng.duration(Duration::ZERO, span),
            moment,
            lasts: rng.duration(Duration::from_secs(1), Duration::from_secs(8)),
            kind: Kind::LoseQuorum,
            victim: Victim::Owner,
            other: rng.within(1, 4),
            power: rng.one_in(2),
            both: rng.one_in(3),
        });
    }
    out.sort_by_key(|p| p.armed);
}
