//! Fragments: requests checked and handed to the store, its answers handed back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::geometry::{Code, Pool, SEGMENT_BYTES_MAX, SLOTS_MAX};
use model::ids::{Actor, FragmentKey, Slot};
use model::payload::Payload;
use model::store::{FragmentDone, FragmentMeta, FragmentOp, OpId};
use model::time::Time;

use super::admission::Asker;
use super::config::{KEYS_MAX, RANGES_MAX};
use super::moves::Note;
use super::{Disk, DiskEffect};
use crate::messages::{DiskReply, DiskRequest, FragmentAt, PutFragment};

/// A request that the store works on.
#[derive(Debug)]
struct Running {
    asker: Asker,
    bytes: usize,
    /// The lengths that a `Get` asked for.
    lengths: Vec<u32>,
    keys_max: usize,
    /// Of a `Get`: where the fragment belongs.
    get: Option<(Pool, FragmentKey)>,
    /// Of a `Put`: what is stored.
    put: Option<(Pool, FragmentKey)>,
    /// Of a `Put`: its bytes.
    put_bytes: u32,
    /// The note that it rests on, if that is not durable yet (R20).
    note: Option<OpId>,
    /// There was no space for that.
    is_unnoted: bool,
}

impl Running {
    fn of(asker: Asker) -> Self {
        Self {
            asker,
            bytes: 0,
            lengths: Vec::new(),
            keys_max: 0,
            get: None,
            put: None,
            put_bytes: 0,
            note: None,
            is_unnoted: false,
        }
    }
}

impl Running {
    /// Which of the ranges that were asked for are there: those bytes go into `payload`.
    fn take_ranges(&self, ranges: Vec<Option<Bytes>>, payload: &mut Payload) -> Vec<bool> {
        let mut ranges = ranges.into_iter();
        let mut take = |length: &u32| {
            // A buffer of another length than asked for is as good as none.
            let bytes = ranges.next().flatten();
            let bytes = bytes.filter(|b| b.len() == *length as usize);
            let is_there = bytes.is_some();
            payload.push(bytes.unwrap_or_default());
            is_there
        };
        self.lengths.iter().map(&mut take).collect()
    }
}

/// The fragment requests under way.
#[derive(Debug)]
pub(super) struct Fragments {
    running: BTreeMap<OpId, Running>,
    /// Admitted and unanswered requests.
    count: usize,
    bytes: usize,
    bytes_max: usize,
    buried: Buried,
}

/// Fragments that were deleted lately. An id is never written again (R1), so a Put that comes
/// after its Delete was under way for longer, by another way: what it would bring back nothing
/// would free in this epoch (R16).
#[derive(Debug, Default)]
struct Buried {
    keys: BTreeSet<FragmentKey>,
    order: VecDeque<FragmentKey>,
}

/// So many of them: far more than an owner deletes while a message is under way.
const BURIED_MAX: usize = 16 << 10;

impl Buried {
    fn bury(&mut self, key: FragmentKey) {
        if !self.keys.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > BURIED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

impl Fragments {
    pub(super) fn new(count_max: usize, bytes_max: usize) -> Self {
        assert!(
            count_max > 0 && bytes_max > 0,
            "bounds that admit something"
        );
        Self {
            running: BTreeMap::new(),
            count: 0,
            bytes: 0,
            bytes_max,
            buried: Buried::default(),
        }
    }

    /// Admitted and unanswered requests.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn count_mut(&mut self) -> &mut usize {
        &mut self.count
    }

    /// There was no space for a note: nothing that rests on it is answered as if it was made.
    pub(super) fn note_failed(&mut self, note: OpId) {
        for running in self.running.values_mut() {
            running.is_unnoted |= running.note == Some(note);
        }
    }

    /// Who still waits, of a store that will never answer.
    pub(super) fn abandon(&mut self) -> Vec<Asker> {
        self.bytes = 0;
        let running = std::mem::take(&mut self.running);
        running.into_values().map(|r| r.asker).collect()
    }
}

impl Disk {
    pub(super) fn fragment(
        &mut self,
        asker: Asker,
        request: DiskRequest,
        payload: Bytes,
        out: &mut Vec<DiskEffect>,
    ) {
        let mut running = Running::of(asker);
        let request = match self.fragment_op(request, payload, &mut running, out) {
            Ok(op) => op,
            Err(reply) => return self.answer(asker, *reply, out),
        };
        let bytes = self.fragments.bytes + running.bytes;
        if self.fragments.bytes > 0 && bytes > self.fragments.bytes_max {
            return self.answer(asker, DiskReply::Busy, out);
        }
        self.fragments.bytes = bytes;
        let op = self.op();
        self.fragments.running.insert(op, running);
        out.push(DiskEffect::Fragments { op, request });
    }

    /// What the store is asked to do, or why nothing is.
    fn fragment_op(
        &mut self,
        request: DiskRequest,
        payload: Bytes,
        running: &mut Running,
        out: &mut Vec<DiskEffect>,
    ) -> Result<FragmentOp, Box<DiskReply>> {
        match request {
            DiskRequest::Put(put) => self.put(put, payload, running, out),
            DiskRequest::Get {
                key, pool, ranges, ..
            } if are_ranges_well_formed(&ranges) => {
                running.get = Some((pool, key));
                running.lengths = ranges.iter().map(|(_, len)| *len).collect();
                running.bytes = running.lengths.iter().map(|len| *len as usize).sum();
                Ok(FragmentOp::Get { key, ranges })
            }
            DiskRequest::Delete { keys, rows, .. }
                if keys.len() <= KEYS_MAX && rows.len() <= KEYS_MAX =>
            {
                if let Some(stamp) = self.outdated(&rows) {
                    return Err(DiskReply::NotMine { stamp }.into());
                }
                for key in &keys {
                    self.fragments.buried.bury(*key);
                }
                Ok(FragmentOp::Delete { keys })
            }
            DiskRequest::List {
                volume,
                after,
                limit,
                ..
            } => {
                let keys_max = u32::try_from(KEYS_MAX).expect("small");
                let limit = limit.min(keys_max);
                running.keys_max = limit as usize;
                Ok(FragmentOp::List {
                    volume,
                    after,
                    limit,
                })
            }
            DiskRequest::ListRow {
                pool,
                rows,
                row,
                stamp,
                after,
                limit,
                ..
            } if stamp.slots() <= usize::from(SLOTS_MAX) => {
                if self
                    .take_note((pool, row), stamp, Note::Listed, out)
                    .is_err()
                {
                    return Err(DiskReply::Busy.into());
                }
                running.note = self.moves.noting((pool, row));
                running.keys_max = KEYS_MAX;
                let limit =
                    limit.min(u32::try_from(KEYS_MAX).expect("small") - u32::from(SLOTS_MAX));
                let of = Some((pool, rows, row));
                Ok(FragmentOp::Scan { of, after, limit })
            }
            // Malformed: nothing was done.
            _ => Err(DiskReply::Busy.into()),
        }
    }

    fn put(
        &mut self,
        put: PutFragment,
        payload: Bytes,
        running: &mut Running,
        out: &mut Vec<DiskEffect>,
    ) -> Result<FragmentOp, Box<DiskReply>> {
        // R16: nothing of a deleted volume comes back.
        if self.gone.is_deleted(put.key.segment.volume) {
            return Err(DiskReply::Busy.into());
        }
        if self.fragments.buried.keys.contains(&put.key) {
            return Err(DiskReply::Conflict.into());
        }
        if !is_put_well_formed(&put, &payload) {
            return Err(DiskReply::Busy.into());
        }
        let placed = (put.meta.pool, put.row);
        if let Err(stamp) = self.take_note(placed, put.stamp, Note::Placed(put.key.slot), out) {
            return Err(DiskReply::NotMine { stamp }.into());
        }
        running.note = self.moves.noting(placed);
        running.bytes = payload.len();
        running.put = Some((put.meta.pool, put.key));
        running.put_bytes = put.meta.fragment_bytes;
        Ok(FragmentOp::Put {
            key: put.key,
            meta: put.meta,
            claim: put.claim,
            sums: put.sums,
            data: payload.into(),
        })
    }

    pub(super) fn fragment_done(
        &mut self,
        now: Time,
        op: OpId,
        done: FragmentDone,
        out: &mut Vec<DiskEffect>,
    ) {
        let running = self.fragments.running.remove(&op);
        let running = running.expect("the store finishes what was asked for");
        assert!(self.fragments.bytes >= running.bytes);
        self.fragments.bytes -= running.bytes;
        if running.is_unnoted {
            return self.answer(running.asker, DiskReply::Busy, out);
        }
        let is_pressed = self.pressure.is_pressed(now);
        let mut payload = Payload::empty();
        let reply = match done {
            FragmentDone::Stored => {
                if let Some((pool, key)) = running.put {
                    // What a move brings was never gone from here.
                    let is_own = self.lies_here(pool, key);
                    let mends = is_own && running.asker.to.actor == Actor::Healer;
                    self.scrub.stored(key, mends);
                }
                DiskReply::Stored { is_pressed }
            }
            FragmentDone::Full => {
                self.room.refused(running.put_bytes);
                DiskReply::Full
            }
            FragmentDone::Conflict => DiskReply::Conflict,
            FragmentDone::NotFound => self.not_found(running.get),
            FragmentDone::Adopted
            | FragmentDone::Verified { .. }
            | FragmentDone::Kept
            | FragmentDone::HasRoom => unreachable!("nobody's request"),
            FragmentDone::Scanned { keys, next } => {
                assert!(keys.len() <= running.keys_max, "a bounded listing");
                let keys = keys.into_iter();
                let keys = keys.map(|(key, meta)| FragmentAt { key, meta }).collect();
                DiskReply::Row { keys, next }
            }
            FragmentDone::Deleted => DiskReply::Deleted,
            FragmentDone::Keys(keys) => {
                let keys = keys.into_iter().take(running.keys_max);
                DiskReply::Keys(keys.map(|(key, meta)| FragmentAt { key, meta }).collect())
            }
            FragmentDone::Data { meta, ranges } => {
                let good = running.take_ranges(ranges, &mut payload);
                if good.contains(&false)
                    && let Some((_, key)) = running.get
                {
                    self.scrub.suspect(key);
                }
                DiskReply::Data {
                    meta,
                    good,
                    is_pressed,
                }
            }
        };
        self.answer_with(running.asker, reply, payload, out);
    }
}

fn is_put_well_formed(put: &PutFragment, payload: &Bytes) -> bool {
    let FragmentMeta {
        pool,
        segment_bytes,
        fragment_bytes,
        kind: _,
    } = put.meta;
    let fragment_bytes = fragment_bytes as usize;
    fragment_bytes == payload.len()
        && fragment_bytes > 0
        && fragment_bytes <= SEGMENT_BYTES_MAX
        && fragment_bytes.is_multiple_of(BLOCK_BYTES)
        && put.sums.len() == fragment_bytes / BLOCK_BYTES
        && segment_bytes as usize <= SEGMENT_BYTES_MAX
        && is_slot_of(put.key.slot, pool)
        && put.stamp.slots() <= usize::from(SLOTS_MAX)
}

/// Whether the pool's code makes sense and has that slot; computed wide: the widths are a
/// peer's.
fn is_slot_of(slot: Slot, pool: Pool) -> bool {
    let slots = match pool.code {
        Code::Rs { k, m } => u32::from(k) + u32::from(m),
        Code::Geo { k, m, sites } => (u32::from(k) + u32::from(m)) * u32::from(sites),
    };
    slots <= u32::from(SLOTS_MAX) && u32::from(slot.0) < slots
}

fn are_ranges_well_formed(ranges: &[(u32, u32)]) -> bool {
    let is_good = |(offset, len): &(u32, u32)| {
        let (offset, len) = (*offset as usize, *len as usize);
        len > 0
            && offset.is_multiple_of(BLOCK_BYTES)
            && len.is_multiple_of(BLOCK_BYTES)
            && offset + len <= SEGMENT_BYTES_MAX
    };
    let bytes: usize = ranges.iter().map(|(_, len)| *len as usize).sum();
    !ranges.is_empty()
        && ranges.len() <= RANGES_MAX
        && ranges.iter().all(is_good)
        && bytes <= 2 * SEGMENT_BYTES_MAX
}
