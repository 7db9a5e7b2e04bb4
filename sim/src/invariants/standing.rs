//! Where segments lie, all is well (R26): nothing that the loss of a site left with just enough to
//! be read is still so once the sites that are left have a pool of their own; nothing that
//! was written without a site stays without it once that is back; and a site that was added has its
//! share of what was there.

use std::collections::BTreeSet;

use model::geometry::{Code, Pool};
use model::ids::{SegmentId, SiteId, VolumeId};
use model::placement::{Disk, Duty, Presence, Site, View};

use super::{Served, redundancy};
use crate::world::World;

pub(super) fn check(world: &mut World, volume: VolumeId, served: &Served) -> Option<String> {
    let process = world.nodes[&served.owner].process.as_ref()?;
    let view = std::sync::Arc::clone(process.host.current_view());
    let code = view.volumes.get(&volume)?.code;
    if let Some(how) = left_out(&view, code) {
        return Some(how);
    }
    let held = redundancy::held(world, volume);
    let all = held.values().flatten();
    let segments: BTreeSet<_> = all.map(|(key, meta)| (key.segment, meta.pool)).collect();
    segments
        .into_iter()
        .find_map(|(segment, pool)| wrong(&view, segment, pool))
}

fn wrong(view: &View, segment: SegmentId, pool: Pool) -> Option<String> {
    let is_back = |site| {
        let known = view.sites.get(&site);
        known.is_some_and(|s| s.presence == Presence::Up && s.takes_segments)
    };
    if pool.without.is_some_and(is_back) {
        return Some(format!("{segment} lies in {pool}, and the site is back"));
    }
    let newest = view.newest(pool)?;
    if newest != pool && pool.without.is_none() && view.without().is_none() {
        return Some(format!("{segment} lies in {pool}, and there is {newest}"));
    }
    let away = view.away()?;
    let has_room = view.pools.keys().any(|p| p.without == Some(away));
    let Code::Rs { m, .. } = pool.code else {
        return None;
    };
    let table = view.pools.get(&pool)?;
    let row = table.row(segment);
    let places = (0..table.slots).map(|slot| table.place(row, model::ids::Slot(slot)));
    // After a restart nobody may be left who knows the disks of that site.
    let is_away = |at: model::ids::DiskRef| view.site_of(at.disk) == Some(away);
    let lost = places.filter(|p| p.disk.is_none_or(is_away)).count();
    (has_room && lost >= usize::from(m))
        .then(|| format!("{segment} of {pool} has nothing to spare without {away}"))
}

/// A site that nothing of the code goes to, though all of its nodes are there with as many disks as
/// others have, and nothing else is wrong.
fn left_out(view: &View, code: Code) -> Option<String> {
    let pool = view.newest(Pool::of(code))?;
    if !matches!(code, Code::Rs { .. }) || view.without().is_some() {
        return None;
    }
    let places = view.pools[&pool].places.iter();
    let held: BTreeSet<SiteId> = places
        .filter_map(|place| view.site_of(place.disk?.disk))
        .collect();
    let is_there = |s: &Site| s.presence == Presence::Up && s.role.holds_data();
    let sites = view.sites.iter().filter(|(_, site)| is_there(site));
    let strength = |site: &SiteId| {
        let serves = |disk: &&Disk| {
            disk.presence == Presence::Up
                && disk.duty == Duty::Serve
                && view.site_of(disk.at.disk) == Some(*site)
        };
        let disks: Vec<&Disk> = view.disks.values().filter(serves).collect();
        let nodes: BTreeSet<_> = disks.iter().map(|disk| disk.node).collect();
        let bytes: u64 = disks.iter().map(|disk| disk.capacity_bytes).sum();
        (nodes.len(), bytes)
    };
    let (nodes, bytes) = held.iter().map(strength).max()?;
    // A table of few rows, or of few slots, may reach others alone: those of the simulator do not.
    let out = sites.map(|(site, _)| site).find(|site| {
        let (own_nodes, own_bytes) = strength(site);
        !held.contains(site) && own_nodes >= nodes && own_bytes >= bytes
    });
    out.map(|site| format!("{site} was added, and {pool} does not reach it"))
}
