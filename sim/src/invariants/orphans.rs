//! No fragment is left of a segment that the index does not reach (R15, R16), and of every
//! segment that it reaches there are some.

use std::collections::BTreeSet;

use model::ids::{DiskId, NodeId, SegmentId, VolumeId};
use model::store::{FragmentDone, FragmentOp};

use super::Served;
use crate::world::World;

pub(super) fn check(world: &mut World, volume: VolumeId, served: &Served) -> Option<String> {
    let listed = listed(world, volume);
    let reached = served.stats.segments;
    (listed.len() as u64 != reached).then(|| {
        let first: Vec<&SegmentId> = listed.iter().take(3).collect();
        format!(
            "no orphaned fragments: the index reaches {reached} segments, disks hold {} (the \
             first are {first:?}; the owner's epoch is {})",
            listed.len(),
            served.stats.epoch,
        )
    })
}

/// The segments of which running nodes' disks have fragments.
fn listed(world: &mut World, volume: VolumeId) -> BTreeSet<SegmentId> {
    let mut segments = BTreeSet::new();
    let disks: Vec<(NodeId, DiskId)> = world
        .nodes
        .values()
        .flat_map(|n| n.disks.keys().map(|d| (n.id, *d)))
        .collect();
    for (node, disk) in disks {
        let node = world.nodes.get_mut(&node).expect("just listed");
        let Some(open) = node.disks.get_mut(&disk).and_then(|d| d.open.as_mut()) else {
            continue;
        };
        let all = FragmentOp::List {
            volume,
            after: None,
            limit: u32::MAX,
        };
        if let Ok(FragmentDone::Keys(keys)) = open.fragments.execute(all) {
            segments.extend(keys.into_iter().map(|(key, _)| key.segment));
        }
    }
    segments
}
