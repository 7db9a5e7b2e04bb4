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
        let due = self
            .slots
            .keys()
            .map(|key| counted(key).unwrap_or_default());
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

#[cfg(test)]
mod tests {
    use model::ids::{Epoch, FragmentKey, VolumeId};
    use model::store::{FragmentMeta, SegmentKind};

    use super::*;
    use crate::heal::fixture::{POOL, at, place, site_of_four};
    use crate::messages::FragmentAt;

    const SECOND: Duration = Duration::from_secs(1);

    /// Node n has disk n; two rows of three slots on the disks 1, 2 and 3. Of the first row,
    /// slot 1 is being moved from 2 to 4.
    fn view() -> View {
        let mut view = site_of_four();
        let mut places = [1, 2, 3, 1, 2, 3].map(place).to_vec();
        places[1].to = Some(at(4));
        let table = SpreadTable {
            rows: 2,
            places,
            slots: 3,
        };
        view.pools.insert(POOL, table);
        view
    }

    fn fragment(counter: u32, slot: u8) -> FragmentAt {
        let segment = SegmentId {
            volume: VolumeId(1),
            epoch: Epoch(1),
            counter,
        };
        FragmentAt {
            key: FragmentKey {
                segment,
                slot: Slot(slot),
            },
            meta: FragmentMeta {
                pool: POOL,
                segment_bytes: 8192,
                fragment_bytes: 4096,
                kind: SegmentKind::Data,
            },
        }
    }

    #[test]
    fn the_first_whole_slot_and_the_new_disk_are_counted_where_they_lie() {
        let view = view();
        let key = |slot| (POOL, RowNo(0), Slot(slot));
        let of = |node| slots_here(&view, NodeId(node));
        assert_eq!(of(1), BTreeMap::from([(key(0), at(1))]), "row 1 is whole");
        assert_eq!(of(4), BTreeMap::from([(key(1), at(4))]));
        assert!(of(2).is_empty() && of(3).is_empty());
    }

    #[test]
    fn pages_add_up_and_are_counted_anew_later() {
        let view = view();
        let mut survey = Survey::default();
        survey.view(&view, NodeId(1));
        let mut next_id = RequestId(7);
        let ask = |survey: &mut Survey, now: Time, next_id: &mut RequestId| {
            let mut out = Vec::new();
            let terms = (NodeId(1), SECOND, 2);
            survey.go_on(now, terms, &view, next_id, &mut out);
            out.into_iter().find_map(|effect| match effect {
                Effect::ToDisk { id, request, .. } => Some((id, request)),
                Effect::Healed(_) | Effect::ToHealer { .. } => None,
            })
        };
        let now = Time(SECOND.as_nanos() as u64);
        let (id, _) = ask(&mut survey, now, &mut next_id).expect("a page");
        assert!(ask(&mut survey, now, &mut next_id).is_none(), "it is out");
        // A late answer to nobody's question is none.
        let nobody = DiskReply::Busy;
        assert!(!survey.answered(now, DiskId(2), id, &nobody, &mut next_id));
        let row = |keys, next| DiskReply::Row { keys, next };
        let first = row(
            vec![fragment(1, 0), fragment(1, 2)],
            Some(fragment(1, 0).key.segment),
        );
        assert!(survey.answered(now, DiskId(1), id, &first, &mut next_id));
        let (id, request) = ask(&mut survey, now, &mut next_id).expect("the next page");
        assert!(matches!(
            request,
            DiskRequest::ListRow { after: Some(_), .. }
        ));
        let last = row(vec![fragment(2, 0)], None);
        assert!(survey.answered(now, DiskId(1), id, &last, &mut next_id));
        let counted: Vec<(SlotKey, Count)> = survey.counts().collect();
        let two = Count {
            fragments: 2,
            bytes: 8192,
        };
        assert_eq!(counted, [((POOL, RowNo(0), Slot(0)), two)]);
        assert!(ask(&mut survey, now + SECOND, &mut next_id).is_none());
        let later = survey.next_deadline().expect("anew");
        assert_eq!(later, now + AGAIN_AFTER);
        assert!(ask(&mut survey, later, &mut next_id).is_some());
    }
}
