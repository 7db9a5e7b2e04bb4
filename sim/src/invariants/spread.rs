//! Spread constraints: a site holds at most so many fragments of a segment as may be lost, the
//! tables of the founding put them on distinct nodes; never two replicas of one
//! volume's journal in one site (R6).

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::Pool;
use model::ids::{DiskRef, NodeId, Row, SiteId, Slot};
use model::placement::{SpreadTable, View};

use super::{Broken, broken};
use crate::world::World;

/// The tables that were looked at: they do not change by themselves.
#[derive(Debug, Default)]
pub(super) struct Spread {
    seen: BTreeSet<Pool>,
}

impl Spread {
    pub(super) fn check(&mut self, world: &World, node: NodeId) -> Result<(), Broken> {
        let process = world.nodes[&node].process.as_ref();
        let Some(process) = process else {
            return Ok(());
        };
        let view = process.host.current_view();
        for (pool, table) in &view.pools {
            if !self.seen.contains(pool) {
                check_table(view, *pool, table)?;
                self.seen.insert(*pool);
            }
        }
        for record in view.volumes.values() {
            let next = record.journal.next.iter();
            for set in std::iter::once(&record.journal.replicas).chain(next) {
                let of = |at: &DiskRef| view.site_of(at.disk);
                let known: Vec<SiteId> = set.iter().filter_map(of).collect();
                let sites: BTreeSet<&SiteId> = known.iter().collect();
                if sites.len() < known.len() {
                    return Err(broken("R6", format_args!("two of {set:?} are in one site")));
                }
            }
        }
        Ok(())
    }
}

fn check_table(view: &View, pool: Pool, table: &SpreadTable) -> Result<(), Broken> {
    for row in (0..table.rows).map(Row) {
        let slots = (0..table.slots).map(Slot);
        let disks: Vec<DiskRef> = slots.filter_map(|slot| table.disk(row, slot)).collect();
        let mut by_site: BTreeMap<SiteId, Vec<NodeId>> = BTreeMap::new();
        for at in &disks {
            if let (Some(site), Some(disk)) = (view.site_of(at.disk), view.disks.get(&at.disk)) {
                by_site.entry(site).or_default().push(disk.node);
            }
        }
        // R22: one site holds all, by a policy alone (`stored`).
        let is_alone = by_site.len() == 1 && pool.without.is_some();
        for (site, nodes) in by_site {
            let most = match is_alone {
                true => pool.code.slots(),
                false => pool.code.slots_per_site_max(),
            };
            let most = usize::from(most);
            let of_site = view.nodes.values().filter(|n| n.site == site).count();
            let distinct: BTreeSet<&NodeId> = nodes.iter().collect();
            // A pool that is made later than at the founding takes the nodes that are up then
            // (`balanced` sees to them).
            let first = Pool::of(pool.code) == pool;
            let apart = !first || distinct.len() == nodes.len().min(of_site);
            if nodes.len() > most || !apart {
                let how = format_args!("{pool}, {row:?}: {site} holds slots on {nodes:?}");
                return Err(broken("spread", how));
            }
        }
    }
    Ok(())
}
