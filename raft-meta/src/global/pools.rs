//! Pools: which site holds which slot.

use model::geometry::{Code, Pool, SLOTS_MAX};
use model::ids::SiteId;
use model::planted::{Bug, planted};

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
    /// Makes a pool over the settled sites, but for the one that it is `without`, if there is
    /// none yet.
    pub(super) fn create_pool(&mut self, pool: Pool) -> Result<(), AdminRefusal> {
        if self.pools.contains_key(&pool) {
            return Ok(());
        }
        let mut sites = self.data_sites();
        sites.retain(|s| pool.without != Some(*s));
        if !fits(pool.code, sites.len()) {
            return Err(AdminRefusal::BadCode);
        }
        if self.pools.len() >= POOLS_MAX {
            return Err(AdminRefusal::Full);
        }
        self.pools
            .insert(pool, spread(pool.code, self.pool_rows, &sites));
        Ok(())
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
        self.create_pool(Pool {
            code: code.index(),
            without: None,
        })?;
        self.create_pool(Pool {
            code,
            without: None,
        })
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
