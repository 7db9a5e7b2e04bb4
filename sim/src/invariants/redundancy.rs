//! Full redundancy is back (R20): of every segment, each slot's fragment is on the disk that the
//! spread table names; no slot is in motion; no table names a disk that is gone; and no disk
//! keeps a fragment of a slot that is another one's. Slots of a site that is away stay as they
//! are: nothing is moved out of it.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{DiskRef, FragmentKey, NodeId, VolumeId};
use model::placement::{Presence, View};
use model::store::{FragmentDone, FragmentMeta, FragmentOp};

use super::Served;
use crate::world::World;

pub(super) fn check(world: &mut World, volume: VolumeId, served: &Served) -> Option<String> {
    let process = world.nodes[&served.owner].process.as_ref()?;
    let view = std::sync::Arc::clone(process.host.current_view());
    let held = held(world, volume);
    tables(&view, &held).or_else(|| fragments(&view, &held))
}

/// What the disks of running nodes hold.
pub(super) type Held = BTreeMap<DiskRef, BTreeMap<FragmentKey, FragmentMeta>>;

pub(super) fn held(world: &mut World, volume: VolumeId) -> Held {
    let mut held = Held::new();
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    for node in nodes {
        let disks = world
            .nodes
            .get_mut(&node)
            .expect("just listed")
            .disks
            .values_mut();
        for disk in disks {
            let Some(open) = disk.open.as_mut() else {
                continue;
            };
            let all = FragmentOp::List {
                volume,
                after: None,
                limit: u32::MAX,
            };
            if let Ok(FragmentDone::Keys(keys)) = open.fragments.execute(all) {
                held.insert(disk.at, keys.into_iter().collect());
            }
        }
    }
    held
}

fn is_away(view: &View, at: DiskRef) -> bool {
    let site = view.site_of(at.disk).and_then(|site| view.sites.get(&site));
    site.is_none_or(|site| site.presence != Presence::Up)
}

fn tables(view: &View, held: &Held) -> Option<String> {
    for (pool, table) in &view.pools {
        for (row, slot, place) in table.iter() {
            let Some(at) = place.disk.filter(|at| !is_away(view, *at)) else {
                continue;
            };
            if let Some(to) = place.to {
                return Some(format!(
                    "{pool} {row} {slot} is still moved from {at} to {to}"
                ));
            }
            if !held.contains_key(&at) {
                return Some(format!(
                    "{pool} {row} {slot} is on {at}, which nobody serves"
                ));
            }
        }
    }
    None
}

fn fragments(view: &View, held: &Held) -> Option<String> {
    let all = held.values().flatten();
    let segments: BTreeSet<_> = all.map(|(key, meta)| (key.segment, meta.pool)).collect();
    for (segment, pool) in segments {
        let table = view.pools.get(&pool)?;
        let row = table.row(segment);
        for slot in (0..table.slots).map(model::ids::Slot) {
            let place = table.place(row, slot).disk;
            let Some(at) = place.filter(|at| !is_away(view, *at)) else {
                continue;
            };
            let key = FragmentKey { segment, slot };
            let is_there = held.get(&at).is_some_and(|keys| keys.contains_key(&key));
            if !is_there {
                return Some(format!("{segment} {slot} of {pool} {row} is not on {at}"));
            }
            let strays = held
                .iter()
                .filter(|(other, keys)| **other != at && keys.contains_key(&key));
            if let Some((other, _)) = strays.into_iter().next() {
                return Some(format!(
                    "{segment} {slot} of {pool} {row} is on {other} too"
                ));
            }
        }
    }
    None
}
