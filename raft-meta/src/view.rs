//! The placement as machines read it, put together from the groups' states.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::geometry::Pool;
use model::ids::{SiteId, Version};
use model::placement::{Disk, Node, Presence, Site, SlotPlace, SpreadTable, View};

use crate::global::{DiskEntry, GlobalState, PoolEntry};
use crate::site::SiteState;

/// Builds a view. Tables are in it once every slot has a disk; the slots of a site that is
/// away may lack one, since nobody may be left who knows it.
pub(crate) fn build(
    version: Version,
    global: &GlobalState,
    sites: &BTreeMap<SiteId, &SiteState>,
) -> View {
    let mut view = View {
        version,
        sites: global
            .sites
            .iter()
            .map(|(id, s)| {
                (
                    *id,
                    Site {
                        name: s.name.clone(),
                        presence: s.presence,
                        takes_segments: global.unwritable != Some(*id),
                        role: s.role,
                    },
                )
            })
            .collect(),
        volumes: global.volumes.records().clone(),
        iscsi: Arc::clone(&global.iscsi),
        ..View::default()
    };
    add_nodes(&mut view, global, sites);
    add_disks(&mut view, global, sites);
    for (pool, entry) in &global.pools {
        if let Some(table) = table(*pool, entry, global, sites) {
            view.pools.insert(*pool, table);
        }
    }
    view
}

/// The weaker of two: what is in a dead node is dead, what is in a removed one is gone.
fn weaker(a: Presence, b: Presence) -> Presence {
    match (a, b) {
        (Presence::Gone, _) | (_, Presence::Gone) => Presence::Gone,
        (Presence::Down, _) | (_, Presence::Down) => Presence::Down,
        (Presence::Up, Presence::Up) => Presence::Up,
    }
}

fn add_nodes(view: &mut View, global: &GlobalState, sites: &BTreeMap<SiteId, &SiteState>) {
    for (id, entry) in &global.nodes {
        let registered = sites.get(&entry.site).and_then(|s| s.nodes.get(id));
        // Until it registers it does not take part.
        let own = registered.map_or(Presence::Down, |n| n.presence);
        let of_site = global
            .sites
            .get(&entry.site)
            .map_or(Presence::Gone, |s| s.presence);
        let presence = if entry.gone {
            Presence::Gone
        } else {
            weaker(own, of_site)
        };
        let (address, nbd) = registered.map_or((entry.address, entry.nbd), |n| (n.address, n.nbd));
        let node = Node {
            name: entry.name.clone(),
            site: entry.site,
            address,
            nbd,
            presence,
            duty: entry.duty,
        };
        view.nodes.insert(*id, node);
    }
}

fn add_disks(view: &mut View, global: &GlobalState, sites: &BTreeMap<SiteId, &SiteState>) {
    for (id, disk) in sites.values().flat_map(|s| &s.disks) {
        // A state of the global group that is older than the site's may not know the node yet: then
        // it is not removed (seed 8000112).
        let of_node = view
            .nodes
            .get(&disk.node)
            .map_or(Presence::Down, |n| n.presence);
        let presence = weaker(disk.presence, of_node);
        let capacity_bytes = disk.capacity_bytes;
        view.disks.insert(
            *id,
            Disk {
                at: disk.at,
                node: disk.node,
                capacity_bytes,
                presence,
                duty: disk.duty,
                fault: global.disks.get(id).and_then(DiskEntry::fault),
            },
        );
    }
    // Of a site that is away, perhaps nobody is left who knows its group's state: its disks
    // are away all the same, and it must be known in which site they were (R6).
    for (id, disk) in &global.disks {
        let node = view.nodes.get(&disk.node);
        let of_site = node.and_then(|n| view.sites.get(&n.site));
        let away = of_site.is_some_and(|s| s.presence != Presence::Up);
        if let Some(node) = node.filter(|_| away) {
            view.disks.entry(*id).or_insert(Disk {
                at: disk.at,
                node: disk.node,
                capacity_bytes: 0,
                presence: node.presence,
                duty: global.duty_of_disk(disk),
                fault: disk.fault(),
            });
        }
    }
}

fn table(
    pool: Pool,
    entry: &PoolEntry,
    global: &GlobalState,
    sites: &BTreeMap<SiteId, &SiteState>,
) -> Option<SpreadTable> {
    let slots = usize::from(entry.slots);
    let mut places: Vec<Option<SlotPlace>> = vec![None; usize::from(entry.rows) * slots];
    // A table has thousands of places: what each site has of it is gone through, not looked up.
    for (site, state) in sites
        .iter()
        .filter(|(site, _)| global.sites.contains_key(site))
    {
        let rows = state.slots.get(&pool).into_iter().flatten();
        for (row, of_row) in rows.enumerate() {
            let known = of_row.iter().filter(|(slot, _)| slot.0 < entry.slots);
            for (slot, at) in known {
                let i = row * slots + usize::from(slot.0);
                if entry.sites.get(i) == Some(site)
                    && let Some(place) = places.get_mut(i)
                {
                    *place = Some(SlotPlace {
                        disk: Some(at.disk),
                        to: at.to,
                        version: at.version,
                    });
                }
            }
        }
    }
    let is_away = |site: &SiteId| {
        let entry = global.sites.get(site);
        entry.is_none_or(|entry| entry.presence != Presence::Up)
    };
    let mut all = Vec::with_capacity(places.len());
    for (i, place) in places.into_iter().enumerate() {
        let site = entry.sites.get(i)?;
        all.push(match place {
            Some(place) => place,
            None if is_away(site) => SlotPlace::default(),
            None => return None,
        });
    }
    Some(SpreadTable {
        rows: entry.rows,
        places: all,
        slots: entry.slots,
    })
}

#[cfg(test)]
mod tests {
    use model::ids::{Boot, DiskId, DiskRef, Incarnation, NodeId};
    use model::placement::Duty;

    use super::*;
    use crate::global::NodeEntry;
    use crate::site::SiteDisk;

    /// A node that starts may know a site's state that is newer than its global one.
    #[test]
    fn a_disk_of_a_node_that_is_not_known_yet_is_not_gone() {
        let site = SiteId(1);
        let mut state = SiteState::new(site, 0);
        let at = DiskRef {
            disk: DiskId(7),
            incarnation: Incarnation(1),
        };
        let disk = SiteDisk {
            at,
            node: NodeId(9),
            capacity_bytes: 1 << 30,
            presence: Presence::Up,
            duty: Duty::Serve,
        };
        state.disks.insert(at.disk, disk);
        let address = "127.0.0.1:1".parse().expect("an address");
        let founder = NodeEntry {
            name: "a1".to_owned(),
            site,
            address,
            nbd: address,
            duty: Duty::Serve,
            gone: false,
        };
        let first = (NodeId(1), Boot(1));
        let global = GlobalState::new(64, "a".to_owned(), first, founder);
        let view = build(Version(1), &global, &BTreeMap::from([(site, &state)]));
        assert_eq!(view.disks[&at.disk].presence, Presence::Down);
    }
}
