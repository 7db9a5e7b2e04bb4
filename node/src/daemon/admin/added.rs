//! Sites that were added and hold nothing of what is there yet: what that waits for is said
//! (decision 22).

use std::collections::BTreeSet;

use model::geometry::{Code, Pool};
use model::ids::SiteId;
use model::placement::{Disk, Duty, Node, Presence, View};
use model::units::ByteSize;

use super::show::site_name;

/// A note for each site that new segments of some volume's code do not go to, and could.
pub(super) fn notes(view: &View) -> impl Iterator<Item = String> + '_ {
    let live = view.volumes.values().filter(|v| !v.deleted);
    let flat = live.filter_map(|v| match v.code {
        Code::Rs { .. } => view.newest(Pool::of(v.code)),
        // It has a column for each of its sites, and stays there.
        Code::Geo { .. } => None,
    });
    let pools: BTreeSet<Pool> = flat.collect();
    pools.into_iter().flat_map(|pool| left_out(view, pool))
}

fn left_out(view: &View, pool: Pool) -> Vec<String> {
    let table = &view.pools[&pool];
    let holders: BTreeSet<SiteId> = table
        .places
        .iter()
        .filter_map(|place| view.site_of(place.disk?.disk))
        .collect();
    let nodes_of = |site: SiteId| {
        let up = |n: &&Node| n.site == site && n.presence == Presence::Up;
        view.nodes.values().filter(up).count()
    };
    let room_of = |site: SiteId| {
        let up = |d: &&Disk| {
            let serves = d.presence == Presence::Up && d.duty == Duty::Serve;
            serves && view.site_of(d.at.disk) == Some(site)
        };
        let disks = view.disks.values().filter(up);
        disks.map(|d| d.capacity_bytes).sum::<u64>()
    };
    let data = view
        .sites
        .iter()
        .filter(|(_, s)| s.presence != Presence::Gone && s.role.holds_data());
    let added: Vec<SiteId> = data
        .map(|(id, _)| *id)
        .filter(|id| !holders.contains(id) && nodes_of(*id) > 0)
        .collect();
    let sites = holders.len() + added.len();
    let apart = usize::from(table.slots).div_ceil(sites.max(1));
    let nodes = holders
        .iter()
        .map(|site| nodes_of(*site))
        .min()
        .unwrap_or(1);
    let room = holders.iter().map(|site| room_of(*site)).min().unwrap_or(0);
    let note = |site: &SiteId| {
        format!(
            "site {} holds nothing of {} yet: it takes its share once every site is there, and it serves with {} \
             nodes (has {}) and {} of disks (has {}), half of what the smallest other site has",
            site_name(view, Some(*site)),
            pool.code,
            nodes.min(apart).max(1),
            nodes_of(*site),
            ByteSize(room / 2),
            ByteSize(room_of(*site)),
        )
    };
    added.iter().map(note).collect()
}
