//! Deleting: remembered until every slot answered (R15), in batches, one at a time a disk.

use std::collections::{BTreeMap, VecDeque};

use coding::{SlotSet, layout};
use model::geometry::Pool;
use model::ids::{DiskId, FragmentKey, RequestId, Row, SegmentId, Slot, Version};
use model::payload::Payload;
use model::time::Time;

use super::Turn;
use super::core::{Core, OnDisk, Place, Purpose, Timer, send};
use crate::messages::{DiskReply, DiskRequest, RowKnown, SegmentRef};

#[derive(Debug, Default)]
pub(super) struct Deletes {
    /// What is left of each segment. A slot without a disk in the view waits here for the
    /// next view.
    left: Left,
    lanes: BTreeMap<DiskId, Lane>,
}

/// Segments of which something is to be deleted.
type Left = BTreeMap<SegmentId, Condemned>;

#[derive(Debug)]
struct Condemned {
    segment: SegmentRef,
    /// Slots that are not known to be gone.
    slots: SlotSet,
    /// Of the others, which version of the slot was known when it was gone.
    gone: Vec<(Slot, Version)>,
}

/// The deletions on one disk.
#[derive(Debug)]
struct Lane {
    on: OnDisk,
    queue: VecDeque<FragmentKey>,
    batch: Option<Batch>,
}

#[derive(Debug)]
struct Batch {
    id: RequestId,
    keys: Vec<FragmentKey>,
    due: Time,
    attempts: u32,
}

impl Deletes {
    pub(super) fn len(&self) -> usize {
        self.left.len()
    }

    pub(super) fn contains(&self, segment: SegmentId) -> bool {
        self.left.contains_key(&segment)
    }

    /// All slots of a segment. A reference with an unsound code names nothing.
    pub(super) fn submit(&mut self, turn: &mut Turn<'_>, segment: SegmentRef) {
        if layout::check_code(segment.pool.code).is_ok() {
            self.add(turn, segment, SlotSet::first(segment.pool.code.slots()));
        }
    }

    /// Some slots of a segment whose code is sound.
    pub(super) fn add(&mut self, turn: &mut Turn<'_>, segment: SegmentRef, slots: SlotSet) {
        let full = self.left.len() >= turn.core.config.deletes_max;
        if full && !self.contains(segment.id) {
            turn.counters.deletes_dropped += 1;
            return;
        }
        let condemned = self.left.entry(segment.id).or_insert(Condemned {
            segment,
            slots: SlotSet::EMPTY,
            gone: Vec::new(),
        });
        let new = slots.without(condemned.slots);
        condemned.slots = condemned.slots.union(slots);
        for slot in new.iter() {
            self.queue(turn, segment, slot);
        }
    }

    fn queue(&mut self, turn: &mut Turn<'_>, segment: SegmentRef, slot: Slot) {
        let key = FragmentKey {
            segment: segment.id,
            slot,
        };
        match turn.core.place(segment.pool, segment.id, slot) {
            Place::Disk(on) => self.lane(on).queue.push_back(key),
            // The fragment went with its disk.
            Place::Lost => self.gone(turn, key),
            Place::Unassigned => {}
        }
        // What a move may yet copy goes too.
        let former = turn.core.former(segment.pool, segment.id, slot);
        if let Some(former) = former.filter(|on| on.up) {
            self.lane(former).queue.push_back(key);
        }
    }

    fn lane(&mut self, on: OnDisk) -> &mut Lane {
        self.lanes.entry(on.at.disk).or_insert_with(|| Lane {
            on,
            queue: VecDeque::new(),
            batch: None,
        })
    }

    /// A disk has it no more. R20: while the slot is being moved, the fragment may be copied
    /// there after all, from what was listed before: it is deleted once more when that is over.
    ///
    /// A move that was not known then may have found it missing, and rebuilt it from slots that were not deleted yet.
    /// Their disks had been told of the move with the question for their list, and would delete only once it is
    /// known here. So once all slots are gone, those that a later version is known of are deleted again.
    fn gone(&mut self, turn: &mut Turn<'_>, key: FragmentKey) {
        let Some(condemned) = self.left.get_mut(&key.segment) else {
            return;
        };
        let (core, segment) = (&*turn.core, condemned.segment);
        if core.is_moving(segment.pool, segment.id, key.slot) {
            return;
        }
        let version = |slot| core.version(segment.pool, segment.id, slot);
        condemned.slots.remove(key.slot);
        condemned.gone.retain(|(slot, _)| *slot != key.slot);
        condemned.gone.push((key.slot, version(key.slot)));
        if !condemned.slots.is_empty() {
            return;
        }
        let outdated = |(slot, known): &&(Slot, Version)| version(*slot) > *known;
        let again: Vec<Slot> = condemned
            .gone
            .iter()
            .filter(outdated)
            .map(|g| g.0)
            .collect();
        if again.is_empty() {
            self.left.remove(&key.segment);
            return;
        }
        for slot in &again {
            condemned.slots.insert(*slot);
        }
        for slot in again {
            self.queue(turn, segment, slot);
        }
    }

    /// Sends a batch on every lane that has none under way.
    pub(super) fn send_ready(&mut self, turn: &mut Turn<'_>) {
        for lane in self.lanes.values_mut().filter(|lane| lane.batch.is_none()) {
            lane.send_next(turn, &self.left);
        }
        self.lanes.retain(|_, lane| lane.batch.is_some());
    }

    pub(super) fn answered(
        &mut self,
        turn: &mut Turn<'_>,
        disk: DiskId,
        id: RequestId,
        reply: &DiskReply,
    ) {
        let lane = self.lanes.get_mut(&disk).expect("a request of a lane");
        let batch = lane.batch.as_mut().expect("a request of a batch");
        assert_eq!(batch.id, id, "one batch at a time a disk");
        match reply {
            // Another life of the disk has none of the old one's fragments.
            DiskReply::Deleted | DiskReply::WrongIncarnation => {
                let batch = lane.batch.take().expect("there is one");
                turn.core.forget(id);
                turn.core.timers.set(Timer::Delete(disk), None);
                for key in batch.keys {
                    self.gone(turn, key);
                }
                self.send_ready(turn);
            }
            _ => {
                batch.due = turn.now + turn.core.config.backoff(batch.attempts);
                turn.core.timers.set(Timer::Delete(disk), Some(batch.due));
            }
        }
    }

    pub(super) fn due(&mut self, turn: &mut Turn<'_>, disk: DiskId) {
        if let Some(lane) = self.lanes.get_mut(&disk) {
            lane.send(turn, &self.left);
        }
    }

    /// Everything that is left goes where the new view says. A batch under way is sent
    /// again: deleting twice is harmless.
    pub(super) fn placement_changed(&mut self, turn: &mut Turn<'_>) {
        for (disk, lane) in std::mem::take(&mut self.lanes) {
            turn.core.timers.set(Timer::Delete(disk), None);
            if let Some(batch) = lane.batch {
                turn.core.forget(batch.id);
            }
        }
        let left = self.left.values().map(|c| (c.segment, c.slots));
        for (segment, slots) in left.collect::<Vec<_>>() {
            for slot in slots.iter() {
                self.queue(turn, segment, slot);
            }
        }
        self.send_ready(turn);
    }
}

impl Lane {
    fn send_next(&mut self, turn: &mut Turn<'_>, left: &Left) {
        assert!(self.batch.is_none(), "one batch at a time");
        let count = self.queue.len().min(turn.core.config.delete_batch_max);
        if count == 0 {
            return;
        }
        let keys = self.queue.drain(..count).collect();
        let id = turn.core.ask(self.on.at.disk, Purpose::Delete);
        self.batch = Some(Batch {
            id,
            keys,
            due: turn.now,
            attempts: 0,
        });
        self.send(turn, left);
    }

    /// Sends the batch, if it is due.
    fn send(&mut self, turn: &mut Turn<'_>, left: &Left) {
        let Some(batch) = &mut self.batch else { return };
        let config = &turn.core.config;
        if batch.due <= turn.now {
            let wait = if self.on.up {
                config.delete_timeout
            } else {
                config.slow_retry
            };
            batch.due = turn.now + wait + config.backoff(batch.attempts);
            batch.attempts = batch.attempts.saturating_add(1);
            let incarnation = self.on.at.incarnation;
            let request = DiskRequest::Delete {
                incarnation,
                keys: batch.keys.clone(),
                rows: rows(turn.core, &batch.keys, left),
            };
            send(
                turn.out,
                self.on.node,
                self.on.at.disk,
                batch.id,
                request,
                Payload::empty(),
            );
        }
        turn.core
            .timers
            .set(Timer::Delete(self.on.at.disk), Some(batch.due));
    }
}

/// What is known of the moves of these fragments' rows (R20).
fn rows(core: &Core, keys: &[FragmentKey], left: &Left) -> Vec<RowKnown> {
    let mut rows: BTreeMap<(Pool, Row), RowKnown> = BTreeMap::new();
    for key in keys {
        let Some(Condemned { segment, .. }) = left.get(&key.segment) else {
            continue;
        };
        let pool = segment.pool;
        let (row, stamp) = core.row(pool, segment.id);
        let slots = Vec::new();
        let known = rows.entry((pool, row)).or_insert(RowKnown {
            pool,
            row,
            stamp,
            slots,
        });
        if !known.slots.contains(&key.slot) {
            known.slots.push(key.slot);
        }
    }
    rows.into_values().collect()
}
