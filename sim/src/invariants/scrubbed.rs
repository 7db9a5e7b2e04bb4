//! Scrub clean (R24): every fragment on every disk that serves is as it was written, and is what
//! the other fragments of its segment say that it is. And of one disk: whether all is there and
//! whole that it should have, so that it may be hurt again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coding::{Codec, SlotSet};
use model::ids::{DiskId, DiskRef, FragmentKey, NodeId, SegmentId, Slot, VolumeId};
use model::placement::View;
use model::store::{FragmentDone, FragmentMeta, FragmentOp};

use crate::world::World;

/// A fragment, and its bytes if they are as they were written.
type Read = (DiskRef, FragmentMeta, Option<Bytes>);

pub(super) fn check(world: &mut World, volume: VolumeId) -> Option<String> {
    let mut segments: BTreeMap<SegmentId, BTreeMap<Slot, Read>> = BTreeMap::new();
    for (node, disk) in disks(world) {
        for (key, read) in read_all(world, node, disk, volume) {
            if read.2.is_none() {
                return Some(format!("scrub clean: {key:?} is rotten on {}", read.0));
            }
            segments
                .entry(key.segment)
                .or_default()
                .insert(key.slot, read);
        }
    }
    segments
        .iter()
        .find_map(|(id, slots)| contradicts(*id, slots))
}

/// Whether one of a segment's fragments is not what the others say.
fn contradicts(segment: SegmentId, slots: &BTreeMap<Slot, Read>) -> Option<String> {
    let (_, meta, _) = slots.values().next()?;
    let codec = Codec::new(meta.pool.code).ok()?;
    let all: SlotSet = slots.keys().copied().collect();
    for (slot, (at, _, bytes)) in slots {
        let others = all.without(SlotSet::from_iter([*slot]));
        let Some(from) = codec.cheapest(SlotSet::from_iter([*slot]), others, |_| 1) else {
            continue;
        };
        let have: Vec<(Slot, Bytes)> = from
            .iter()
            .filter_map(|s| Some((s, slots[&s].2.clone()?)))
            .collect();
        let said = codec.reconstruct(&[*slot], &have).ok()?;
        if said.first() != bytes.as_ref() {
            return Some(format!(
                "scrub clean: {segment} {slot} on {at} is not what {from:?} say"
            ));
        }
    }
    None
}

/// Whether all that a disk should have of a volume is there, and whole. False if not every disk
/// that the tables name is there to be asked, or if the disk still has a fault to come.
pub fn is_sound(world: &mut World, view: &View, volume: VolumeId, disk: DiskId) -> bool {
    let named: BTreeSet<DiskRef> = view
        .pools
        .values()
        .flat_map(|table| table.iter())
        .flat_map(|(_, _, place)| [place.disk, place.to])
        .flatten()
        .collect();
    if named.iter().any(|at| world.open_of(*at).is_none()) {
        return false;
    }
    let Some(node) = world.nodes.values().find(|n| n.disks.contains_key(&disk)) else {
        // It is gone, and nothing lies on it.
        return !named.iter().any(|at| at.disk == disk);
    };
    let (node, files) = (node.id, node.disks[&disk].files.clone());
    if files.has_faults() {
        return false;
    }
    let own = read_all(world, node, disk, volume);
    if own.values().any(|(_, _, bytes)| bytes.is_none()) {
        return false;
    }
    let mut listed: BTreeMap<SegmentId, FragmentMeta> = BTreeMap::new();
    for (node, other) in disks(world) {
        let keys = list(world, node, other, volume).into_iter();
        listed.extend(keys.map(|(key, meta)| (key.segment, meta)));
    }
    listed.into_iter().all(|(segment, meta)| {
        let Some(table) = view.pools.get(&meta.pool) else {
            return false;
        };
        let row = table.row(segment);
        (0..table.slots).map(Slot).all(|slot| {
            let here = table
                .place(row, slot)
                .disk
                .is_some_and(|at| at.disk == disk);
            !here || own.contains_key(&FragmentKey { segment, slot })
        })
    })
}

fn disks(world: &World) -> Vec<(NodeId, DiskId)> {
    let nodes = world.nodes.values();
    let disks = nodes.flat_map(|n| n.disks.keys().map(|disk| (n.id, *disk)));
    disks.collect()
}

fn list(
    world: &mut World,
    node: NodeId,
    disk: DiskId,
    volume: VolumeId,
) -> Vec<(FragmentKey, FragmentMeta)> {
    let all = FragmentOp::List {
        volume,
        after: None,
        limit: u32::MAX,
    };
    let node = world.nodes.get_mut(&node).expect("just listed");
    let open = node.disks.get_mut(&disk).and_then(|d| d.open.as_mut());
    match open.map(|open| open.fragments.execute(all)) {
        Some(Ok(FragmentDone::Keys(keys))) => keys,
        _ => Vec::new(),
    }
}

fn read_all(
    world: &mut World,
    node: NodeId,
    disk: DiskId,
    volume: VolumeId,
) -> BTreeMap<FragmentKey, Read> {
    let mut found = BTreeMap::new();
    for (key, meta) in list(world, node, disk, volume) {
        let n = world.nodes.get_mut(&node).expect("just listed");
        let disk = n.disks.get_mut(&disk).expect("just listed");
        let Some(open) = disk.open.as_mut() else {
            continue;
        };
        let ranges = vec![(0, meta.fragment_bytes)];
        let bytes = match open.fragments.execute(FragmentOp::Get { key, ranges }) {
            Ok(FragmentDone::Data { ranges, .. }) => ranges.into_iter().next().flatten(),
            _ => None,
        };
        found.insert(key, (disk.at, meta, bytes));
    }
    found
}
