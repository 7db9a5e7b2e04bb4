//! Pools: which site holds which slot.
//!
//! **Invariant (R23):** a table's sites and size never change once data may be in it. What is there
//! is spread over more sites by another pool, the next layout of its code, and by its owners' writing
//! it anew ([decision 22](../../../docs/decisions/0022-a-site-that-is-added-makes-a-layout.md)).

use std::collections::BTreeSet;

use model::geometry::{Code, Pool, SLOTS_MAX};
use model::ids::{Layout, SiteId};
use model::placement::Presence;
use model::planted::{Bug, planted};
use model::sometimes::{Sometimes, reached};

use super::{GlobalState, PoolEntry};
use crate::node::AdminRefusal;
use crate::site::POOLS_MAX;

/// Whether the numbers are such that nothing overflows: a code may come from anywhere.
fn is_sound(code: Code) -> bool {
    let (k, m, sites) = match code {
        Code::Rs { k, m } => (k, m, 1),
        Code::Geo { k, m, sites } => (k, m, sites),
    };
    let slots = (u32::from(k) + u32::from(m)) * u32::from(sites);
    k > 0 && m > 0 && sites > 0 && slots <= u32::from(SLOTS_MAX)
}

/// Whether so many sites can hold it such that one site's loss stays decodable. A single
/// site can't survive its own loss: any flat code does there.
fn fits(code: Code, sites: usize) -> bool {
    if !is_sound(code) || sites == 0 {
        return false;
    }
    match code {
        Code::Rs { m, .. } => {
            sites == 1 || usize::from(code.slots()).div_ceil(sites) <= usize::from(m)
        }
        Code::Geo { sites: columns, .. } => columns >= 2 && usize::from(columns) == sites,
    }
}

/// Slot -> site, row by row: flat codes deal slots to the sites in turn, each row starting
/// with the next one; a `geo` code's columns are rotated likewise.
fn spread(code: Code, rows: u16, sites: &[SiteId]) -> PoolEntry {
    let slots = code.slots();
    let place = |row: u16, slot: u8| {
        let turn = match code {
            Code::Rs { .. } if planted(Bug::CrowdedSite) => usize::from(slot / 3),
            Code::Rs { .. } => usize::from(slot),
            Code::Geo { k, m, .. } => usize::from(slot / (k + m)),
        };
        sites[(usize::from(row) + turn) % sites.len()]
    };
    let of_row = |row: u16| (0..slots).map(move |slot| place(row, slot));
    PoolEntry {
        rows,
        slots,
        sites: (0..rows).flat_map(of_row).collect(),
    }
}

impl GlobalState {
    /// The last layout of a code, without the same site as this pool.
    #[must_use]
    pub fn newest(&self, pool: Pool) -> Option<(Pool, &PoolEntry)> {
        let mut layouts = self.pools.range(pool.layouts());
        layouts.next_back().map(|(pool, entry)| (*pool, entry))
    }

    /// The pools that new segments may go to while nothing is done without.
    pub fn whole_pools(&self) -> impl Iterator<Item = (&Pool, &PoolEntry)> {
        let whole = self.pools.iter().filter(|(pool, _)| pool.without.is_none());
        let is_newest = |pool: Pool| self.newest(pool).is_some_and(|(newest, _)| newest == pool);
        whole.filter(move |(pool, _)| is_newest(**pool))
    }

    /// Makes a pool over the settled sites, but for the one that it is `without`, if the code has none
    /// yet.
    pub(super) fn create_pool(&mut self, pool: Pool) -> Result<(), AdminRefusal> {
        match self.newest(pool) {
            Some(_) => Ok(()),
            None => self.create_layout(pool, None),
        }
    }

    /// Makes a pool over the sites that hold data now, but for the one that it is `without`: the next
    /// layout after the `last` one.
    pub(super) fn create_layout(
        &mut self,
        pool: Pool,
        last: Option<Layout>,
    ) -> Result<(), AdminRefusal> {
        let sites = self.sites_for(pool);
        if !fits(pool.code, sites.len()) {
            return Err(AdminRefusal::BadCode);
        }
        let layout = match last {
            None => Layout(0),
            Some(Layout(u8::MAX)) => return Err(AdminRefusal::Full),
            Some(Layout(last)) => Layout(last + 1),
        };
        if self.pools.len() >= POOLS_MAX {
            return Err(AdminRefusal::Full);
        }
        let entry = spread(pool.code, self.pool_rows, &sites);
        let replaced = self.pools.insert(Pool { layout, ..pool }, entry);
        assert!(replaced.is_none(), "R23: a table never changes");
        Ok(())
    }

    /// The sites that hold data now, but for the one that a pool is `without`.
    pub(super) fn sites_for(&self, pool: Pool) -> Vec<SiteId> {
        let mut sites = self.data_sites();
        sites.retain(|s| pool.without != Some(*s));
        sites
    }

    /// Whether a pool that was made now, of that code, would reach a site that this one does not.
    pub(super) fn is_outgrown(&self, pool: Pool, entry: &PoolEntry) -> bool {
        let held: BTreeSet<SiteId> = entry.sites.iter().copied().collect();
        let sites = self.sites_for(pool);
        let added = sites.iter().any(|site| !held.contains(site));
        // A table of few rows may reach none of them anyway.
        let reaches = || spread(pool.code, self.pool_rows, &sites).sites;
        added && fits(pool.code, sites.len()) && reaches().iter().any(|site| !held.contains(site))
    }

    /// The codes whose segments lie in fewer sites than they could: of pools that were made before a
    /// site was added. Not those of `geo` volumes, which have a column for each of their sites, and
    /// whose index lies as their data does (decision 21).
    #[must_use]
    pub fn outgrown(&self) -> Vec<Code> {
        let codes = self.whole_pools().map(|(pool, _)| pool.code);
        let indices: BTreeSet<Code> = codes
            .filter(|code| matches!(code, Code::Geo { .. }))
            .map(Code::index)
            .collect();
        let outgrown = self
            .whole_pools()
            .filter(|(pool, entry)| self.is_outgrown(**pool, entry));
        let codes = outgrown.map(|(pool, _)| pool.code);
        codes.filter(|code| !indices.contains(code)).collect()
    }

    /// Whether no site is away, one of which all nodes were removed neither, and none is done
    /// without.
    #[must_use]
    pub fn are_all_there(&self) -> bool {
        let there = self.sites.values().filter(|s| s.presence != Presence::Gone);
        let mut founded = there.filter(|s| s.is_settled() || s.generation > 0);
        founded.all(|s| s.is_settled() && s.presence == Presence::Up) && self.unwritable.is_none()
    }

    /// All that is outgrown gets its next layout, if every site is there: a table that nobody can
    /// fill would take what is written meanwhile.
    pub(super) fn respread(&mut self) -> bool {
        if !self.are_all_there() {
            return false;
        }
        let mut any = false;
        for code in self.outgrown() {
            let last = self.newest(Pool::of(code)).map(|(pool, _)| pool.layout);
            any |= self.create_layout(Pool::of(code), last).is_ok();
        }
        if any {
            reached(Sometimes::PoolOutgrown);
        }
        any
    }

    /// A site was added, or is for something else: pools that no data is in yet are over those that
    /// hold data now, and those that do not fit them go. Afterwards a table changes by moves only.
    pub(super) fn respread_unused_pools(&mut self) {
        if !self.volumes.is_empty() {
            return;
        }
        let sites = self.data_sites();
        // Those without a site are made again when one is away.
        self.pools
            .retain(|pool, _| pool.without.is_none() && fits(pool.code, sites.len()));
        for (pool, entry) in &mut self.pools {
            *entry = spread(pool.code, entry.rows, &sites);
        }
    }

    /// The pools of a code and of its index.
    pub(super) fn create_pools_for(&mut self, code: Code) -> Result<(), AdminRefusal> {
        let sites = self.data_sites().len();
        if !fits(code, sites) || !fits(code.index(), sites) {
            return Err(AdminRefusal::BadCode);
        }
        self.create_pool(Pool::of(code.index()))?;
        self.create_pool(Pool::of(code))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, proptest};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_site_holds_more_than_may_be_lost(
            k in 1u8..9, m in 1u8..9, count in 2u8..8, geo in any::<bool>(),
        ) {
            let code = if geo { Code::Geo { k, m, sites: count } } else { Code::Rs { k, m } };
            let sites: Vec<_> = (1..=count).map(SiteId).collect();
            if !fits(code, sites.len()) {
                return Ok(());
            }
            let entry = spread(code, 16, &sites);
            for row in entry.sites.chunks(usize::from(code.slots())) {
                for site in &sites {
                    let held = row.iter().filter(|s| *s == site).count();
                    prop_assert!(held <= usize::from(code.slots_per_site_max()));
                }
            }
        }

        #[test]
        fn any_numbers_are_judged(k in any::<u8>(), m in any::<u8>(), sites in any::<u8>()) {
            for code in [Code::Rs { k, m }, Code::Geo { k, m, sites }] {
                if fits(code, usize::from(sites)) {
                    prop_assert!(code.slots() <= SLOTS_MAX && code.data_fragments() > 0);
                }
            }
        }
    }

    #[test]
    fn the_default_codes_fit_three_sites() {
        let geo = Code::Geo {
            k: 2,
            m: 1,
            sites: 3,
        };
        for code in [Code::Rs { k: 4, m: 2 }, Code::INDEX, geo, geo.index()] {
            assert!(fits(code, 3));
        }
        assert!(!fits(Code::Rs { k: 4, m: 2 }, 2) && !fits(geo, 2));
        assert!(fits(Code::Rs { k: 4, m: 2 }, 1) && fits(Code::INDEX, 2));
    }
}
