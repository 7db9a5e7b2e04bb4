//! What the operator has emptied becomes empty, if its site has another disk: no slot of a
//! table is on it, no journal's replica, no fragment; and a disk that was removed was empty
//! before it went.

use std::collections::BTreeSet;

use model::ids::{DiskId, DiskRef, NodeId, VolumeId};
use model::placement::{Disk, Duty, Presence, View};
use model::store::{FragmentDone, FragmentOp};
use raft_meta::GroupId;

use super::{Broken, Served, broken};
use crate::world::World;

/// A disk goes for good by the operator's word alone, and then nothing names it: neither a
/// table of the same view, nor a journal.
pub(super) fn check_removed(world: &World, node: NodeId) -> Result<(), Broken> {
    let Some(process) = world.nodes[&node].process.as_ref() else {
        return Ok(());
    };
    let view = process.host.current_view();
    for id in &world.removing {
        let Some(disk) = view.disks.get(id) else {
            continue;
        };
        let of_node = view.nodes.get(&disk.node).map(|n| n.presence);
        if disk.presence != Presence::Gone || of_node == Some(Presence::Gone) {
            continue;
        }
        if let Some(named) = slot_on(view, disk.at) {
            let how = format_args!("{id} is gone, and {named}");
            return Err(broken("a disk that is removed is empty", how));
        }
    }
    Ok(())
}

fn slot_on(view: &View, at: DiskRef) -> Option<String> {
    view.pools.iter().find_map(|(pool, table)| {
        let mut places = table.iter();
        let (row, slot, _) =
            places.find(|(_, _, place)| place.disk == Some(at) || place.to == Some(at))?;
        Some(format!("{pool} {row} {slot} is on it"))
    })
}

/// What is not empty yet.
pub(super) fn check(world: &mut World, volume: VolumeId, served: &Served) -> Option<String> {
    let process = world.nodes[&served.owner].process.as_ref()?;
    let view = std::sync::Arc::clone(process.host.current_view());
    let leaving = leaving(world, &view);
    let journal = &view.volumes.get(&volume)?.journal;
    for at in &leaving {
        if let Some(named) = slot_on(&view, *at) {
            return Some(format!("{at} is to be empty, and {named}"));
        }
        if journal.replicas.contains(at) {
            return Some(format!("{at} is to be empty, and has a journal's replica"));
        }
        if let Some(left) = left_on(world, volume, *at) {
            return Some(format!("{at} is to be empty, and holds {left}"));
        }
    }
    let takes = |n: &NodeId| view.takes_volumes(*n);
    let drained = |n: NodeId| view.nodes.get(&n).is_some_and(|n| n.duty == Duty::Drain);
    (drained(served.owner) && view.nodes.keys().any(takes))
        .then(|| format!("{} is to be empty, and owns the volume", served.owner))
}

/// The disks that are to be emptied, by the newest word, and for which there is another one.
fn leaving(world: &World, view: &View) -> BTreeSet<DiskRef> {
    let newest = world
        .running()
        .max_by_key(|p| p.meta.applied(GroupId::Global));
    let Some(global) = newest.and_then(|p| p.meta.global()) else {
        return BTreeSet::new();
    };
    let has_other = |id: DiskId| {
        let site = view.site_of(id);
        let of_site = |d: &Disk| view.site_of(d.at.disk) == site;
        let is_up = site.and_then(|s| view.sites.get(&s));
        let takes = |d: &Disk| d.presence == Presence::Up && d.duty == Duty::Serve;
        is_up.is_some_and(|s| s.presence == Presence::Up)
            && view.disks.values().any(|d| of_site(d) && takes(d))
    };
    let drained = global.disks.values();
    let drained = drained.filter(|d| global.duty_of_disk(d) == Duty::Drain);
    let drained = drained.filter(|d| has_other(d.at.disk));
    drained.map(|d| d.at).collect()
}

fn left_on(world: &mut World, volume: VolumeId, at: DiskRef) -> Option<String> {
    let mut disks = world.nodes.values_mut().flat_map(|n| n.disks.values_mut());
    let open = disks.find(|d| d.at == at)?.open.as_mut()?;
    let replica = open.machine.stats().replicas.contains_key(&volume);
    if replica {
        return Some("a journal's replica".to_owned());
    }
    let all = FragmentOp::List {
        volume,
        after: None,
        limit: u32::MAX,
    };
    match open.fragments.execute(all) {
        Ok(FragmentDone::Keys(keys)) if !keys.is_empty() => {
            Some(format!("{} fragments", keys.len()))
        }
        _ => None,
    }
}
