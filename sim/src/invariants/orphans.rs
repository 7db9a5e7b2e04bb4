//! No fragment is left of a segment that the index does not reach (R15, R16), and of every
//! segment that it reaches there are some.

use std::collections::BTreeSet;

use model::ids::{DiskId, NodeId, SegmentId, VolumeId};
use model::store::{FragmentDone, FragmentOp};

use super::Served;
use crate::world::World;

pub(super) fn check(world: &mut World, volume: VolumeId, served: &Served) -> Option<String> {
    let listed = listed(world, volume);
    let node = world.nodes.get_mut(&served.owner);
    let process = node.and_then(|n| n.process.as_mut());
    let Some(machine) = process.and_then(|p| p.volumes.get_mut(&volume)) else {
        return Some(format!("no orphaned fragments: nobody serves {volume}"));
    };
    let reaches = |segment| machine.reaches(segment);
    differ(&listed, served.stats.segments, reaches).map(|what| {
        let epoch = served.stats.epoch;
        format!("no orphaned fragments: {what} (the owner's epoch is {epoch})")
    })
}

/// How the segments on disks are others than the index reaches: with as many, and none that it
/// does not reach, they are the same.
fn differ(
    listed: &BTreeSet<SegmentId>,
    reached: u64,
    reaches: impl FnMut(SegmentId) -> Option<bool>,
) -> Option<String> {
    if listed.len() as u64 != reached {
        let first: Vec<&SegmentId> = listed.iter().take(3).collect();
        let held = listed.len();
        return Some(format!(
            "the index reaches {reached} segments, disks hold {held}, of which the first are {first:?}"
        ));
    }
    // What takes a page to know that is not in memory counts alone. Of what the index reaches, all
    // that holds anything is read at a run's end: if one of these were an orphan, there would be
    // one too many.
    let known = listed
        .iter()
        .copied()
        .zip(listed.iter().copied().map(reaches));
    let mut orphans = known.filter(|(_, reached)| *reached == Some(false));
    let (orphan, _) = orphans.next()?;
    Some(format!(
        "disks hold {orphan}, which the index does not reach"
    ))
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

#[cfg(test)]
mod tests {
    use model::ids::Epoch;

    use super::*;

    fn segment(counter: u32) -> SegmentId {
        SegmentId {
            volume: VolumeId(1),
            epoch: Epoch(1),
            counter,
        }
    }

    #[test]
    fn one_too_many_and_one_too_few_are_not_the_same() {
        let listed: BTreeSet<SegmentId> = [1, 2, 3].map(segment).into();
        assert_eq!(differ(&listed, 3, |_| Some(true)), None);
        assert_eq!(differ(&listed, 3, |_| None), None);
        assert!(differ(&listed, 2, |_| Some(true)).is_some());
        assert!(differ(&listed, 4, |_| Some(true)).is_some());
        // The index reaches a fourth one, of which nothing is left, and not the second one.
        let reaches = |s: SegmentId| Some(s.counter != 2);
        let told = differ(&listed, 3, reaches).expect("they differ");
        assert!(told.contains(&segment(2).to_string()), "{told}");
    }
}
