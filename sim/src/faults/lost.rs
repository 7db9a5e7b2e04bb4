//! What is lost for good, alone: a disk, or a node with its disks. Its fragments must be
//! rebuilt elsewhere, and its journals' replicas replaced (R20, R5).

use std::time::Duration;

use model::time::Time;

use super::{FaultPlan, Kind, Victim};
use crate::plan::topology::NodeName;
use crate::rng::Rng;
use crate::world::Moment;

/// Every so-manieth run loses one, if it loses no site: with that, an older segment would have
/// fewer fragments left than it needs (R24).
const RUNS: u64 = 5;

pub(super) fn add(
    rng: &mut Rng,
    start: Time,
    span: Duration,
    nodes: &[NodeName],
    out: &mut Vec<FaultPlan>,
) {
    let loses_site = out.iter().any(|p| p.kind == Kind::LoseSite);
    if !rng.one_in(RUNS) || loses_site {
        return;
    }
    let moment = match rng.below(4) {
        0 => None,
        1 => Some((Moment::CheckpointSent, 1)),
        2 => Some((Moment::IndexSent, rng.within(1, 6))),
        _ => Some((Moment::WriteAcked, rng.within(1, 20))),
    };
    let victim = match rng.below(3) {
        0 => Victim::Owner,
        1 => Victim::Replica,
        _ => Victim::Node(*rng.pick(nodes)),
    };
    out.push(FaultPlan {
        armed: start + rng.duration(Duration::ZERO, span),
        moment,
        lasts: Duration::from_millis(1),
        kind: if rng.one_in(2) {
            Kind::LoseDisk
        } else {
            Kind::LoseNode
        },
        victim,
        other: rng.within(1, 2),
        power: true,
        both: false,
    });
}
