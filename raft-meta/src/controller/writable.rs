//! R27: whether a site's disks take new segments, as the global placement group's leader hears.

use std::time::Duration;

use model::geometry::Pool;
use model::ids::{DiskRef, NodeId, Row, SiteId};
use model::placement::Presence;
use model::planted::{Bug, planted};

use super::global::{Facts, SiteKnown};
use crate::detector::Liveness;
use crate::global::{GlobalCommand, PoolEntry};

/// New segments do without a site once its disks have taken nothing for so long: a node that
/// restarts is none whose disks take nothing.
const LEFT_AFTER: Duration = Duration::from_secs(3);

/// They go there again once there has been room for so long, so that what frees a little does
/// not make the site come and go.
const TAKEN_AFTER: Duration = Duration::from_secs(5);

impl Facts<'_> {
    /// The site that new segments should do without, or should go to again. None if another one
    /// takes nothing either: then the fabric is full, and without one of its sites there would be
    /// less room still.
    pub(super) fn writability(&self) -> Option<GlobalCommand> {
        let settled = self.state.data_sites();
        let refuses = |site: &SiteId| {
            let known = self.sites.get(site);
            known.is_some_and(|known| self.refuses(*site, known))
        };
        if let Some(site) = self.state.unwritable {
            let takes = self.sites.get(&site).is_some_and(|k| self.takes(site, k));
            let is_full = settled.iter().any(|other| *other != site && refuses(other));
            let back = (takes || is_full) && !planted(Bug::LeftForGood);
            return back.then_some(GlobalCommand::TakeWritable { site });
        }
        let mut refusing = settled.into_iter().filter(refuses);
        let site = refusing.next().filter(|_| !planted(Bug::NeverLeft))?;
        if refusing.next().is_some() || !self.state.may_leave(site) {
            return None;
        }
        let live = self.live_outside(site);
        Some(GlobalCommand::LeaveUnwritable { site, live })
    }

    /// The nodes of other sites that are not dead, as far as is heard.
    pub(super) fn live_outside(&self, site: SiteId) -> Vec<NodeId> {
        let nodes = self.state.nodes.iter();
        let left = nodes.filter(|(_, e)| e.site != site && !e.gone);
        let lives = |n: &NodeId| self.detector.liveness(self.now, *n) != Liveness::Dead;
        left.map(|(n, _)| *n).filter(lives).collect()
    }

    /// Whether in some pool every row has had a slot in the site, for a while, that can't be
    /// written to.
    fn refuses(&self, site: SiteId, known: &SiteKnown<'_>) -> bool {
        let refuses = |at: &DiskRef| self.room(known, *at, false) >= Some(LEFT_AFTER);
        let disks = known.state.disks.values();
        let mut counted = disks.filter(|d| d.presence != Presence::Gone);
        if !counted.any(|d| refuses(&d.at)) {
            return false;
        }
        let mut pools = self.state.whole_pools();
        pools.any(|(pool, entry)| {
            let rows = rows(site, known, *pool, entry);
            rows.is_some_and(|rows| rows.iter().all(|row| row.iter().any(refuses)))
        })
    }

    /// Whether every pool has a row all of whose slots in the site have had room for a while.
    fn takes(&self, site: SiteId, known: &SiteKnown<'_>) -> bool {
        let takes = |at: &DiskRef| self.room(known, *at, true) >= Some(TAKEN_AFTER);
        let mut pools = self.state.whole_pools();
        pools.all(|(pool, entry)| {
            let rows = rows(site, known, *pool, entry);
            rows.is_some_and(|rows| rows.iter().any(|row| row.iter().all(takes)))
        })
    }

    /// For how long a disk has had room, or has had none.
    fn room(&self, known: &SiteKnown<'_>, at: DiskRef, wanted: bool) -> Option<Duration> {
        let node = known.state.disks.get(&at.disk)?.node;
        let (has_room, long) = self.detector.room(self.now, node, at)?;
        (has_room == wanted).then_some(long)
    }
}

/// Where new fragments go in a site, row by row; nothing if that is not decided yet.
fn rows(
    site: SiteId,
    known: &SiteKnown<'_>,
    pool: Pool,
    entry: &PoolEntry,
) -> Option<Vec<Vec<DiskRef>>> {
    let slots = (0..).map(Row).zip(entry.slots_of(site));
    let of_row = |(row, slots): (Row, Vec<_>)| {
        let places = slots.into_iter().map(|slot| {
            let at = known.state.slot(pool, row, slot)?;
            Some(at.target())
        });
        places.collect()
    };
    slots.map(of_row).collect()
}
