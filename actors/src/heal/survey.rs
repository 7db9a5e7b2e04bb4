//! How much there is to do: what rows hold of which a slot is weak (its disk does not serve, or
//! it is being moved), and what the slots that are moved here have by now. Counted from the
//! catalogs of this node's own disks, one row at a time, anew every so often.

use std::collections::BTreeMap;
use std::time::Duration;

use model::geometry::Pool;
use model::ids::{DiskId, DiskRef, NodeId, RequestId, Row as RowNo, SegmentId, Slot};
use model::payload::Payload;
use model::placement::View;
use model::spread::SpreadTable;
use model::time::Time;

use super::Effect;
use super::listing::Out;
use super::sources::serves;
use crate::messages::{DiskReply, DiskRequest};

/// Counts are so old at most, while there is time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Between two rows.
const PAUSE: Duration = Duration::from_millis(100);

/// A slot of a row.
pub type SlotKey = (Pool, RowNo, Slot);

/// Fragments of a slot of a row on one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// How many.
    pub fragments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is counted, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The slots that are counted here, each with the disk.
    slots: BTreeMap<SlotKey, DiskRef>,
    counts: BTreeMap<SlotKey, (Count, Time)>,
    walk: Option<Walk>,
    /// The next row is not counted before.
    rested: Time,
}

#[derive(Debug)]
struct Walk {
    key: SlotKey,
    at: DiskRef,
    cursor: Option<SegmentId>,
    count: Count,
    out: Out,
}

/// A row whose first slot that is whole lies here, or slots that are moved here.
fn slots_here(view: &View, node: NodeId) -> BTreeMap<SlotKey, DiskRef> {
    let is_here = |at: &DiskRef| view.node_of(*at) == Some(node);
    let mut slots = BTreeMap::new();
    for (pool, table) in &view.pools {
        for row in (0..table.rows).map(RowNo) {
            let mut weak = false;
            let mut whole = None;
            for slot in (0..table.slots).map(Slot) {
                let place = table.place(row, slot);
                let is_whole = place.to.is_none() && place.disk.is_some_and(|at| serves(view, at));
                weak |= !is_whole;
                if is_whole {
                    whole = whole.or(place.disk.map(|at| (slot, at)));
                }
                if let Some(to) = place.to.filter(is_here) {
                    slots.insert((*pool, row, slot), to);
                }
            }
            if let Some((slot, at)) = whole.filter(|(_, at)| weak && is_here(at)) {
                slots.insert((*pool, row, slot), at);
            }
        }
    }
    slots
}

impl Survey {
    pub(super) fn view(&mut self, view: &View, node: NodeId) {
        self.slots = slots_here(view, node);
        let slots = &self.slots;
        self.counts.retain(|key, _| slots.contains_key(key));
        self.walk
            .take_if(|walk| slots.get(&walk.key) != Some(&walk.at));
    }

    /// What was counted last.
    pub(super) fn counts(&self) -> impl Iterator<Item = (SlotKey, Count)> + '_ {
        self.counts.iter().map(|(key, (count, _))| (*key, *count))
    }

    /// A fragment came meanwhile.
    pub(super) fn stored(&mut self, key: SlotKey, bytes: u64) {
        if let Some((count, _)) = self.counts.get_mut(&key) {
            count.fragments += 1;
            count.bytes += bytes;
        }
    }

    /// The slot that was counted longest ago, if that is long.
    fn next(&self, now: Time) -> Option<(SlotKey, DiskRef)> {
        let counted = |key: &SlotKey| self.counts.get(key).map(|(_, at)| *at);
        let due = |key: &SlotKey| counted(key).is_none_or(|at| now.since(at) >= AGAIN_AFTER);
        let due = self.slots.iter().filter(|(key, _)| due(key));
        due.min_by_key(|(key, _)| counted(key))
            .map(|(key, at)| (*key, *at))
    }

    /// Asks what is to be asked now.
    pub(super) fn go_on(
        &mut self,
        now: Time,
        terms: (NodeId, Duration, u32),
        view: &View,
        next_id: &mut RequestId,
        out: &mut Vec<Effect>,
    ) {
        let (node, timeout, limit) = terms;
        if self.walk.is_none()
            && now >= self.rested
            && let Some((key, at)) = self.next(now)
        {
            self.walk = Some(Walk {
                key,
                at,
                cursor: None,
                count: Count::default(),
                out: fresh(now, next_id),
            });
        }
        let Some(walk) = self.walk.as_mut().filter(|walk| walk.out.due <= now) else {
            return;
        };
        let (pool, row, _) = walk.key;
        let Some(table) = view.pools.get(&pool) else {
            return;
        };
        walk.out.due = now + timeout;
        out.push(Effect::ToDisk {
            node,
            disk: walk.at.disk,
            id: walk.out.id,
            request: page(walk, table, pool, row, limit),
            payload: Payload::empty(),
        });
    }

    /// A disk's answer, if this asked; whether it did.
    pub(super) fn answered(
        &mut self,
        now: Time,
        disk: DiskId,
        id: RequestId,
        reply: &DiskReply,
        next_id: &mut RequestId,
    ) -> bool {
        let asked = |walk: &&mut Walk| walk.out.id == id && walk.at.disk == disk;
        let Some(walk) = self.walk.as_mut().filter(asked) else {
            return false;
        };
        // Whatever else it is, it is asked again when that is due.
        let DiskReply::Row { keys, next } = reply else {
            return true;
        };
        let (pool, _, slot) = walk.key;
        let own = keys
            .iter()
            .filter(|f| f.key.slot == slot && f.meta.pool == pool);
        for fragment in own {
            walk.count.fragments += 1;
            walk.count.bytes += u64::from(fragment.meta.fragment_bytes);
        }
        if next.is_some() {
            walk.cursor = *next;
            walk.out = fresh(now, next_id);
        } else {
            self.counts.insert(walk.key, (walk.count, now));
            self.walk = None;
            self.rested = now + PAUSE;
        }
        true
    }

    /// When [`Survey::go_on`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        if let Some(walk) = &self.walk {
            return Some(walk.out.due);
        }
        let counted = |key: &SlotKey| self.counts.get(key).map(|(_, at)| *at + AGAIN_AFTER);
        let due = self.slots.keys().map(|key| counted(key).unwrap_or_default());
        due.min().map(|due| due.max(self.rested))
    }
}

fn fresh(now: Time, next_id: &mut RequestId) -> Out {
    let id = *next_id;
    *next_id = RequestId(id.0 + 1);
    Out {
        id,
        due: now,
        attempts: 0,
    }
}

fn page(walk: &Walk, table: &SpreadTable, pool: Pool, row: RowNo, limit: u32) -> DiskRequest {
    DiskRequest::ListRow {
        incarnation: walk.at.incarnation,
        pool,
        rows: table.rows,
        row,
        stamp: table.stamp(row),
        after: walk.cursor,
        limit,
    }
}
