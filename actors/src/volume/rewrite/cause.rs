//! Why a segment is written anew.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::{Code, Pool};
use model::ids::Row;
use model::placement::{Presence, View};

/// Weakest first: what is lost with the next disk goes before what only costs space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// A site is away, and what is left of the segment is just enough to read it (R26).
    AtRisk,
    /// It was written while a site was away that is back, or before one was added: it lies in the
    /// others alone.
    Misplaced,
    /// Most of it is dead, or it is one of many that are small.
    Sparse,
}

/// What is wrong with the segments of a pool: with those of some rows, and with all.
#[derive(Debug)]
pub(super) struct Causes {
    /// Its rows that are at risk. Others of the same pool may have less in the site that is away.
    weak: BTreeSet<Row>,
    /// All of them are in one site, and need not be any more (R22).
    alone: bool,
    misplaced: bool,
}

impl Causes {
    pub(super) fn of(view: &View, pool: Pool) -> Self {
        // A site whose disks take nothing is there, and still to be done without (R27).
        let is_back = |site| {
            let known = view.sites.get(&site);
            known.is_some_and(|s| s.presence == Presence::Up) && view.without() != Some(site)
        };
        let misplaced = pool.without.is_some_and(is_back) || view.is_outgrown(pool);
        Self {
            weak: weak_rows(view, pool),
            alone: misplaced && view.is_of_one_site(pool),
            misplaced,
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.weak.is_empty() && !self.misplaced
    }

    /// What is wrong with the segments of a row; of a pool that has no table none is known.
    pub(super) fn of_row(&self, row: Option<Row>) -> Option<Cause> {
        if self.alone || row.is_some_and(|row| self.weak.contains(&row)) {
            return Some(Cause::AtRisk);
        }
        self.misplaced.then_some(Cause::Misplaced)
    }
}

/// The rows of a pool in which the site that is away took all the fragments that a segment can do
/// without. A `geo` code never comes to that: each site that is left has parity of its own.
fn weak_rows(view: &View, pool: Pool) -> BTreeSet<Row> {
    let (Code::Rs { m, .. }, Some(table)) = (pool.code, view.pools.get(&pool)) else {
        return BTreeSet::new();
    };
    let mut lost: BTreeMap<Row, u8> = BTreeMap::new();
    for (row, _, place) in table.iter() {
        *lost.entry(row).or_default() += u8::from(view.is_slot_away(place));
    }
    let weak = lost.into_iter().filter(|(_, lost)| *lost >= m);
    weak.map(|(row, _)| row).collect()
}
