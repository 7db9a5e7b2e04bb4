//! Where fragments of one segment share a node or a disk, because their site has no other: what
//! that costs in safety is said (design section 5).

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::Pool;
use model::ids::{DiskId, SiteId};
use model::placement::{SpreadTable, View};

use super::show::site_name;

/// In how many of a pool's rows fragments share something in a site.
#[derive(Clone, Copy, Default)]
struct Shared {
    disk: usize,
    node: usize,
}

/// A note for each site and pool of new segments.
pub(super) fn notes(view: &View) -> Vec<String> {
    let current = |pool: &Pool| view.pool_for(pool.code) == Some(*pool);
    let pools = view.pools.iter().filter(|(pool, _)| current(pool));
    pools
        .flat_map(|(pool, table)| notes_of(view, *pool, table))
        .collect()
}

fn notes_of(view: &View, pool: Pool, table: &SpreadTable) -> Vec<String> {
    let mut sites: BTreeMap<SiteId, Shared> = BTreeMap::new();
    for row in table.places.chunks(usize::from(table.slots).max(1)) {
        let disks = row.iter().filter_map(|place| Some(place.disk?.disk));
        let mut of_site: BTreeMap<SiteId, Vec<DiskId>> = BTreeMap::new();
        for disk in disks {
            if let Some(site) = view.site_of(disk) {
                of_site.entry(site).or_default().push(disk);
            }
        }
        for (site, disks) in of_site {
            let apart: BTreeSet<_> = disks.iter().collect();
            let nodes: BTreeSet<_> = disks.iter().map(|d| view.disks[d].node).collect();
            let shared = sites.entry(site).or_default();
            shared.disk += usize::from(apart.len() < disks.len());
            shared.node += usize::from(nodes.len() < disks.len());
        }
    }
    let told = sites.into_iter().filter(|(_, shared)| shared.node > 0);
    told.map(|(site, shared)| note(view, site, pool, shared, table.rows))
        .collect()
}

fn note(view: &View, site: SiteId, pool: Pool, shared: Shared, rows: u16) -> String {
    let (on, count, add) = match shared.disk {
        0 => ("node", shared.node, "nodes"),
        disks => ("disk", disks, "disks or nodes"),
    };
    format!(
        "site {}: in {count} of {rows} rows of {} fragments of one segment are on one {on}, whose loss \
         counts as that of all of them; add {add} there",
        site_name(view, Some(site)),
        pool.code,
    )
}
