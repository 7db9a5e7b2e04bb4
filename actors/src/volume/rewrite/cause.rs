//! Why a segment is written anew.

use model::geometry::{Code, Pool};
use model::ids::DiskRef;
use model::placement::{Presence, View};

/// Weakest first: what is lost with the next disk goes before what only costs space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// A site is away, and what is left of the segment is just enough to read it (R26).
    AtRisk,
    /// It was written while a site was away that is back: it lies in the others alone.
    Misplaced,
    /// Most of it is dead, or it is one of many that are small.
    Sparse,
}

/// What is wrong with all segments of a pool, if anything is.
pub(super) fn of_pool(view: &View, pool: Pool) -> Option<Cause> {
    if is_at_risk(view, pool) {
        return Some(Cause::AtRisk);
    }
    // A site whose disks take nothing is there, and still to be done without (R27).
    let is_back = |site| {
        let known = view.sites.get(&site);
        known.is_some_and(|s| s.presence == Presence::Up) && view.without() != Some(site)
    };
    pool.without
        .is_some_and(is_back)
        .then_some(Cause::Misplaced)
}

/// Whether the site that is away took all the fragments that a segment can do without. A `geo`
/// code never comes to that: each site that is left has parity of its own.
fn is_at_risk(view: &View, pool: Pool) -> bool {
    let (Some(away), Code::Rs { m, .. }) = (view.away(), pool.code) else {
        return false;
    };
    let Some(table) = view.pools.get(&pool) else {
        return false;
    };
    let is_away = |disk: DiskRef| view.site_of(disk.disk) == Some(away);
    let mut lost = vec![0_u8; usize::from(table.rows)];
    for (row, _, place) in table.iter() {
        lost[usize::from(row.0)] += u8::from(place.disk.is_some_and(is_away));
    }
    lost.into_iter().max().unwrap_or(0) >= m
}
