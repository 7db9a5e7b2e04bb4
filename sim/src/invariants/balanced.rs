//! The slots of a site are spread over its disks by their capacities: none is fuller of a pool than
//! another one would be that one of its slots could go to, and no row has two slots on one node
//! while another node has none (decision 15). While a site is away, nothing is moved for that.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::Pool;
use model::ids::{DiskRef, NodeId, SiteId};
use model::placement::{Disk, Duty, Presence, SpreadTable, View};

use super::Served;
use crate::world::World;

/// Disks that take slots, with their nodes and capacities.
type Disks = BTreeMap<DiskRef, (NodeId, u64)>;

/// The slots of a row in a site, each by its disk and node.
type RowOfSite = Vec<(DiskRef, NodeId)>;

pub(super) fn check(world: &World, served: &Served) -> Option<String> {
    let process = world.nodes[&served.owner].process.as_ref()?;
    let view = process.host.current_view();
    if view.sites.values().any(|s| s.presence != Presence::Up) {
        return None;
    }
    let pools = view.pools.iter();
    let mut of_sites =
        pools.flat_map(|(pool, table)| view.sites.keys().map(move |s| (pool, table, s)));
    of_sites.find_map(|(pool, table, site)| uneven(view, *site, *pool, table))
}

fn uneven(view: &View, site: SiteId, pool: Pool, table: &SpreadTable) -> Option<String> {
    let takes = |d: &&Disk| {
        let node = view.nodes.get(&d.node);
        let node = node.filter(|n| n.site == site && n.presence == Presence::Up);
        node.is_some() && d.presence == Presence::Up && d.duty == Duty::Serve
    };
    let disks: Disks = view
        .disks
        .values()
        .filter(takes)
        .map(|d| (d.at, (d.node, d.capacity_bytes)))
        .collect();
    let rows = rows(view, site, table);
    crowded(&rows, &disks)
        .or_else(|| unshared(&rows, &disks))
        .map(|what| format!("{pool} in {site}: {what}"))
}

fn rows(view: &View, site: SiteId, table: &SpreadTable) -> Vec<RowOfSite> {
    let mut rows = vec![RowOfSite::new(); usize::from(table.rows)];
    for (row, _, place) in table.iter() {
        let Some(at) = place.disk else { continue };
        if let Some(node) = view
            .node_of(at)
            .filter(|_| view.site_of(at.disk) == Some(site))
        {
            rows[usize::from(row.0)].push((at, node));
        }
    }
    rows
}

fn crowded(rows: &[RowOfSite], disks: &Disks) -> Option<String> {
    let nodes: BTreeSet<NodeId> = disks.values().map(|(node, _)| *node).collect();
    let is_crowded = |row: &&RowOfSite| {
        let used: BTreeSet<NodeId> = row.iter().map(|(_, node)| *node).collect();
        used.len() < row.len() && nodes.iter().any(|node| !used.contains(node))
    };
    let row = rows.iter().find(is_crowded)?;
    Some(format!("two of {row:?} share a node"))
}

fn unshared(rows: &[RowOfSite], disks: &Disks) -> Option<String> {
    let mut held: BTreeMap<DiskRef, u64> = disks.keys().map(|at| (*at, 0)).collect();
    for (at, _) in rows.iter().flatten() {
        held.entry(*at).and_modify(|n| *n += 1);
    }
    for (from, many) in held.iter().filter(|(_, many)| **many > 0) {
        for (to, few) in &held {
            let ((own, own_bytes), (other, bytes)) = (disks[from], disks[to]);
            // With one slot less it is still no emptier than the other one with one more.
            let is_fuller = (many - 1) * (bytes >> 20) >= (few + 1) * (own_bytes >> 20);
            let bears = |row| bears(row, (*from, own), (*to, other));
            if is_fuller && rows.iter().any(bears) {
                return Some(format!("{from} has {many} slots, {to} has {few}"));
            }
        }
    }
    None
}

/// Whether a slot of a row on one disk could be on another one, with no more neighbours.
fn bears(row: &RowOfSite, from: (DiskRef, NodeId), to: (DiskRef, NodeId)) -> bool {
    let Some(own) = row.iter().position(|place| *place == from) else {
        return false;
    };
    let others = || row.iter().enumerate().filter(|(i, _)| *i != own);
    let neighbours = |(disk, node): (DiskRef, NodeId)| {
        let of_disk = others().filter(|(_, other)| other.0 == disk).count();
        let of_node = others().filter(|(_, other)| other.1 == node).count();
        (of_disk, of_node)
    };
    neighbours(to) <= neighbours(from)
}
