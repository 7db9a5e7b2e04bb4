//! Sites that were added and hold nothing of what is there yet: what that waits for is said
//! (decision 22).

use std::collections::BTreeSet;

use model::geometry::{Code, Pool};
use model::ids::SiteId;
use model::placement::{Presence, View};

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
        let up = |n: &&model::placement::Node| n.site == site && n.presence == Presence::Up;
        view.nodes.values().filter(up).count()
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
    let note = |site: &SiteId| {
        format!(
            "site {} holds nothing of {} yet: it takes its share once every site is there and it serves with at \
             least {} of its nodes and half of the disk space of the smallest site that holds some",
            site_name(view, Some(*site)),
            pool.code,
            nodes.min(apart).max(1),
        )
    };
    added.iter().map(note).collect()
}
