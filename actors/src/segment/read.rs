//! Reading, the direct path: each block from the fragment that holds it. What is late, missing
//! or wrong is looked for elsewhere (`rescue`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use coding::{Codec, SlotSet, layout};
use model::BLOCK_BYTES;
use model::geometry::Pool;
use model::ids::{DiskRef, FragmentKey, NodeId, RequestId, SiteId, Slot};
use model::payload::Payload;
use model::sometimes::{Sometimes, reached};
use model::store::FragmentMeta;
use model::time::Time;

use super::core::{Core, OnDisk, Place, Purpose, Timer, send};
use super::rescue::Row;
use super::run::Runs;
use super::tries::Tries;
use super::{SegmentConfig, SegmentCounters, Turn};
use crate::messages::{BlockRun, DiskReply, DiskRequest, SegmentRef, SegmentReply};

pub(super) const BLOCK: u32 = BLOCK_BYTES as u32;

/// A disk takes at most so many ranges in a Get.
pub(super) const RANGES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Reads {
    queue: VecDeque<(RequestId, SegmentRef, Vec<BlockRun>)>,
    running: BTreeMap<RequestId, Job>,
    hedges: Hedges,
}

/// One read under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) segment: SegmentRef,
    pub(super) codec: Codec,
    pub(super) runs: Runs,
    pub(super) gets: BTreeMap<RequestId, Get>,
    /// Rows of which some block must be found elsewhere.
    pub(super) rows: BTreeMap<u32, Row>,
    /// Rows that may be able to go on.
    pub(super) stirred: BTreeSet<u32>,
    /// Slots whose disk said that it has no such fragment.
    pub(super) absent: SlotSet,
    /// Slots in motion whose new disk has no such fragment (yet): they are read where they lay
    /// before. Which new disk said so.
    fallen: BTreeMap<Slot, DiskRef>,
    /// Slots that are asked block by block: one of their longer ranges was damaged.
    pub(super) fine: SlotSet,
    /// Which disk each definite answer in `absent` and `Row::bad` came from.
    pub(super) verdicts: BTreeMap<Slot, DiskRef>,
    /// Whether a block was rebuilt.
    pub(super) degraded: bool,
    pub(super) combinations_max: usize,
}

/// An unanswered request for ranges of a fragment.
#[derive(Debug)]
pub(super) struct Get {
    pub(super) slot: Slot,
    pub(super) at: DiskRef,
    node: NodeId,
    site: SiteId,
    pub(super) ranges: Vec<(u32, u32)>,
    sent: Time,
    /// When it is sent again.
    due: Time,
    pub(super) tries: Tries,
    /// Whether the disk takes part, by the newest view.
    up: bool,
    /// When others are asked; passed if `slow`.
    hedge_at: Time,
    pub(super) slow: bool,
}

impl Get {
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> + use<> {
        rows_of(self.ranges.clone())
    }

    pub(super) fn covers(&self, row: u32) -> bool {
        let at = row * BLOCK;
        self.ranges
            .iter()
            .any(|(offset, length)| (*offset..offset + length).contains(&at))
    }
}

fn rows_of(ranges: Vec<(u32, u32)>) -> impl Iterator<Item = u32> {
    ranges
        .into_iter()
        .flat_map(|(offset, length)| offset / BLOCK..(offset + length) / BLOCK)
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.running.len()
    }

    pub(super) fn submit(
        &mut self,
        turn: &mut Turn<'_>,
        id: RequestId,
        segment: SegmentRef,
        runs: Vec<BlockRun>,
    ) {
        self.queue.push_back((id, segment, runs));
        self.admit(turn);
    }

    fn admit(&mut self, turn: &mut Turn<'_>) {
        while self.running.len() < turn.core.config.reads_max {
            let Some((id, segment, runs)) = self.queue.pop_front() else {
                break;
            };
            // A reference that makes no sense came out of a damaged index.
            let Some(job) = Job::new(turn.core, segment, runs) else {
                turn.counters.unreadable += 1;
                turn.reply(SegmentReply::Unreadable { id });
                continue;
            };
            let before = self.running.insert(id, job);
            assert!(before.is_none(), "the Volume machine numbers its requests");
            self.go(turn, id, Job::ask_direct);
        }
    }

    /// Ends a read that nobody waits for.
    pub(super) fn forget(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        self.queue.retain(|(queued, ..)| *queued != id);
        if let Some(job) = self.running.remove(&id) {
            turn.core.timers.set(Timer::Read(id), None);
            job.gets.keys().for_each(|get| turn.core.forget(*get));
        }
        self.admit(turn);
    }

    /// Does something to a read, lets it go on, and ends it if it is complete or hopeless.
    fn go(
        &mut self,
        turn: &mut Turn<'_>,
        id: RequestId,
        act: impl FnOnce(&mut Job, &mut Asker<'_, '_>),
    ) {
        let Some(job) = self.running.get_mut(&id) else {
            return;
        };
        let mut asker = Asker {
            turn,
            hedges: &mut self.hedges,
            read: id,
        };
        act(job, &mut asker);
        let hopeful = job.rescue(&mut asker);
        if hopeful && !job.runs.is_done() {
            let deadline = job.gets.values().map(Get::deadline).min();
            let waits_for_view = || job.has_unassigned(turn.core);
            assert!(
                deadline.is_some() || waits_for_view(),
                "an open read waits for something"
            );
            return turn.core.timers.set(Timer::Read(id), deadline);
        }
        let job = self.running.remove(&id).expect("it runs");
        turn.core.timers.set(Timer::Read(id), None);
        job.gets.keys().for_each(|get| turn.core.forget(*get));
        if job.runs.is_done() {
            turn.counters.reads += 1;
            turn.counters.degraded_reads += u64::from(job.degraded);
            turn.reply(SegmentReply::Read {
                id,
                runs: job.runs.into_bytes(),
            });
        } else {
            turn.counters.unreadable += 1;
            turn.reply(SegmentReply::Unreadable { id });
        }
    }

    pub(super) fn answered(
        &mut self,
        turn: &mut Turn<'_>,
        read: RequestId,
        get: RequestId,
        reply: DiskReply,
        payload: &Bytes,
    ) {
        self.go(turn, read, |job, asker| {
            job.answered(asker, get, reply, payload)
        });
        self.admit(turn);
    }

    pub(super) fn due(&mut self, turn: &mut Turn<'_>, read: RequestId) {
        self.go(turn, read, Job::due);
        self.admit(turn);
    }

    pub(super) fn placement_changed(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<RequestId> = self.running.keys().copied().collect();
        for id in ids {
            self.go(turn, id, Job::placement_changed);
        }
        self.admit(turn);
    }
}

/// What a read asks with.
pub(super) struct Asker<'a, 'b> {
    turn: &'a mut Turn<'b>,
    hedges: &'a mut Hedges,
    read: RequestId,
}

impl Asker<'_, '_> {
    pub(super) fn core(&self) -> &Core {
        self.turn.core
    }

    pub(super) fn counters(&mut self) -> &mut SegmentCounters {
        self.turn.counters
    }

    fn transmit(&mut self, id: RequestId, pool: Pool, key: FragmentKey, get: &Get) {
        let incarnation = get.at.incarnation;
        let request = DiskRequest::Get {
            incarnation,
            key,
            pool,
            ranges: get.ranges.clone(),
        };
        send(
            self.turn.out,
            get.node,
            get.at.disk,
            id,
            request,
            Payload::empty(),
        );
    }
}

impl Get {
    fn deadline(&self) -> Time {
        if self.slow {
            self.due
        } else {
            self.due.min(self.hedge_at)
        }
    }
}

impl Job {
    fn new(core: &mut Core, segment: SegmentRef, runs: Vec<BlockRun>) -> Option<Self> {
        let codec = core.codec(segment.pool.code).ok()?;
        layout::check_length(segment.bytes as usize).ok()?;
        let runs = Runs::new(runs, segment.bytes)?;
        Some(Self {
            segment,
            codec,
            runs,
            gets: BTreeMap::new(),
            rows: BTreeMap::new(),
            stirred: BTreeSet::new(),
            absent: SlotSet::EMPTY,
            fallen: BTreeMap::new(),
            fine: SlotSet::EMPTY,
            verdicts: BTreeMap::new(),
            degraded: false,
            combinations_max: core.config.combinations_max,
        })
    }

    pub(super) fn place(&self, core: &Core, slot: Slot) -> Place {
        let (pool, id) = (self.segment.pool, self.segment.id);
        if self.fallen.contains_key(&slot) {
            return core.former(pool, id, slot).map_or(Place::Lost, Place::Disk);
        }
        core.place(pool, id, slot)
    }

    /// The new disk of a slot in motion has nothing: the old one is asked. Whether there is one.
    fn fall_back(&mut self, asker: &mut Asker<'_, '_>, get: &Get) -> bool {
        let former = asker
            .core()
            .former(self.segment.pool, self.segment.id, get.slot);
        let Some(former) = former.filter(|on| on.at != get.at) else {
            return false;
        };
        self.fallen.insert(get.slot, get.at);
        if former.up {
            self.ask(asker, get.slot, former, get.ranges.clone());
        } else {
            self.want_all(get);
        }
        true
    }

    /// Slots that the new view has elsewhere are read there first again.
    fn rise(&mut self, core: &Core) {
        let (pool, id) = (self.segment.pool, self.segment.id);
        self.fallen.retain(|slot, to| {
            let place = core.place(pool, id, *slot).disk();
            core.former(pool, id, *slot).is_some() && place.is_some_and(|on| on.at == *to)
        });
    }

    fn has_unassigned(&self, core: &Core) -> bool {
        self.codec
            .all()
            .iter()
            .any(|slot| self.place(core, slot) == Place::Unassigned)
    }

    /// Where a block of a fragment lies in the segment's data; `None` for parity and padding.
    pub(super) fn position(&self, slot: Slot, row: u32) -> Option<u32> {
        layout::position(self.codec.code(), self.segment.bytes, slot, row * BLOCK)
    }

    /// Asks each fragment for the blocks it holds; adjacent runs travel as one range.
    fn ask_direct(&mut self, asker: &mut Asker<'_, '_>) {
        let mut ranges: Vec<(Slot, Vec<(u32, u32)>)> = Vec::new();
        for (offset, length) in self.runs.ranges() {
            for piece in layout::pieces(self.codec.code(), self.segment.bytes, offset, length) {
                match ranges.last_mut() {
                    Some((slot, of_slot)) if *slot == piece.slot => {
                        push_range(of_slot, piece.offset, piece.length, false);
                    }
                    // Runs and data fragments both ascend.
                    _ => ranges.push((piece.slot, vec![(piece.offset, piece.length)])),
                }
            }
        }
        for (slot, ranges) in ranges {
            match self.place(asker.core(), slot) {
                Place::Disk(on) if on.up => self.ask(asker, slot, on, ranges),
                Place::Disk(_) | Place::Lost | Place::Unassigned => {
                    rows_of(ranges).for_each(|row| self.want(slot, row));
                }
            }
        }
    }

    /// Asks for ranges of one fragment.
    pub(super) fn ask(
        &mut self,
        asker: &mut Asker<'_, '_>,
        slot: Slot,
        on: OnDisk,
        mut ranges: Vec<(u32, u32)>,
    ) {
        let now = asker.turn.now;
        while !ranges.is_empty() {
            let later = ranges.split_off(ranges.len().min(RANGES_MAX));
            let config = asker.turn.core.config;
            let mut tries = Tries::default();
            let get = Get {
                slot,
                at: on.at,
                node: on.node,
                site: on.site,
                ranges: std::mem::replace(&mut ranges, later),
                sent: now,
                due: now + tries.sent(config.get_timeout),
                tries,
                up: on.up,
                hedge_at: now + asker.hedges.after(on.site, &config),
                slow: false,
            };
            for row in get.rows() {
                if let Some(row) = self.rows.get_mut(&row) {
                    row.asked.insert(slot);
                }
            }
            let purpose = Purpose::Get { read: asker.read };
            let id = asker.turn.core.ask(on.at.disk, purpose);
            asker.transmit(
                id,
                self.segment.pool,
                FragmentKey {
                    segment: self.segment.id,
                    slot,
                },
                &get,
            );
            self.gets.insert(id, get);
        }
    }

    fn answered(
        &mut self,
        asker: &mut Asker<'_, '_>,
        id: RequestId,
        reply: DiskReply,
        payload: &Bytes,
    ) {
        let now = asker.turn.now;
        let (good, expected) = match reply {
            DiskReply::Data { meta, good, .. } => (good, self.is_mine(meta)),
            DiskReply::NotFound | DiskReply::WrongIncarnation => {
                let get = self.take_get(asker, id);
                if self.fall_back(asker, &get) {
                    return;
                }
                self.absent.insert(get.slot);
                self.verdicts.insert(get.slot, get.at);
                return self.want_all(&get);
            }
            // `Busy`, or `NotMine`, which says nothing of the fragment (R20), or an answer that
            // makes no sense: later again, and others meanwhile.
            _ => {
                let get = self.gets.get_mut(&id).expect("an open request");
                get.slow = true;
                get.due = now + get.tries.put_off(&asker.turn.core.config);
                let rows = get.rows();
                let slot = get.slot;
                return rows.for_each(|row| self.want(slot, row));
            }
        };
        let get = self.take_get(asker, id);
        if !get.tries.in_vain() {
            let config = asker.turn.core.config;
            asker.hedges.observe(get.site, now.since(get.sent), &config);
        }
        let lengths = get.ranges.iter().zip(&good).filter(|(_, good)| **good);
        let length: usize = lengths.map(|((_, length), _)| *length as usize).sum();
        if !expected || good.len() != get.ranges.len() || length != payload.len() {
            // Another segment's fragment, or not what was asked for.
            return get.rows().for_each(|row| self.bad(asker, &get, row));
        }
        let mut at = 0;
        for (&(offset, length), good) in get.ranges.iter().zip(good) {
            if good {
                let bytes = payload.slice(at..at + length as usize);
                at += length as usize;
                self.take_range(asker, &get, offset, &bytes);
            } else if length == BLOCK {
                self.bad(asker, &get, offset / BLOCK);
            } else {
                // Some block of many: ask for each.
                self.fine.insert(get.slot);
                rows_of(vec![(offset, length)]).for_each(|row| self.want(get.slot, row));
            }
        }
    }

    /// Whether a fragment's description is that of this segment's fragments.
    fn is_mine(&self, meta: FragmentMeta) -> bool {
        let length = layout::fragment_bytes(self.codec.code(), self.segment.bytes);
        meta.pool == self.segment.pool
            && meta.segment_bytes == self.segment.bytes
            && meta.fragment_bytes == length
    }

    /// Takes a range's bytes: whole runs without a copy, else block by block.
    fn take_range(&mut self, asker: &mut Asker<'_, '_>, get: &Get, offset: u32, bytes: &Bytes) {
        let mut at = 0;
        while at < bytes.len() {
            let row = offset / BLOCK + u32::try_from(at / BLOCK_BYTES).expect("a fragment's");
            let open = !self.rows.is_empty();
            let position = self.position(get.slot, row).filter(|_| !open);
            let taken = position.and_then(|p| self.runs.put_whole(p, &bytes.slice(at..)));
            if let Some(taken) = taken {
                at += taken;
                continue;
            }
            self.take_block(asker, get, row, bytes.slice(at..at + BLOCK_BYTES));
            at += BLOCK_BYTES;
        }
    }

    fn take_get(&mut self, asker: &mut Asker<'_, '_>, id: RequestId) -> Get {
        asker.turn.core.forget(id);
        let get = self.gets.remove(&id).expect("an open request");
        if !self.rows.is_empty() {
            for row in get.rows() {
                if let Some(open) = self.rows.get_mut(&row) {
                    open.asked.remove(get.slot);
                    self.stirred.insert(row);
                }
            }
        }
        get
    }

    /// The blocks of a request are looked for elsewhere.
    fn want_all(&mut self, get: &Get) {
        get.rows().for_each(|row| self.want(get.slot, row));
    }

    /// The clock passed some request's deadline.
    fn due(&mut self, asker: &mut Asker<'_, '_>) {
        let now = asker.turn.now;
        let mut late = Vec::new();
        for (id, get) in &mut self.gets {
            if !get.slow && get.hedge_at <= now {
                get.slow = true;
                reached(Sometimes::HedgedRead);
                asker.turn.counters.hedged_gets += 1;
                late.extend(get.rows().map(|row| (get.slot, row)));
            }
            if get.due <= now {
                if !get.tries.in_vain() {
                    late.extend(get.rows().map(|row| (get.slot, row)));
                }
                get.due = now + get.tries.sent(asker.turn.core.config.get_timeout);
                let key = FragmentKey {
                    segment: self.segment.id,
                    slot: get.slot,
                };
                asker.transmit(*id, self.segment.pool, key, get);
            }
        }
        late.into_iter()
            .for_each(|(slot, row)| self.want(slot, row));
    }

    /// Requests to disks that the view no longer names are dropped, verdicts of such disks
    /// are void, and those that are down now are not waited for.
    fn placement_changed(&mut self, asker: &mut Asker<'_, '_>) {
        self.rise(asker.core());
        let moved = |job: &Self, core: &Core, slot, at| {
            job.place(core, slot).disk().is_none_or(|on| on.at != at)
        };
        let ids: Vec<RequestId> = self.gets.keys().copied().collect();
        for id in ids {
            let get = &self.gets[&id];
            let (slot, at) = (get.slot, get.at);
            if moved(self, asker.core(), slot, at) {
                let get = self.take_get(asker, id);
                self.want_all(&get);
                continue;
            }
            let on = self.place(asker.core(), slot).disk();
            let get = self.gets.get_mut(&id).expect("it is there");
            let is_up = on.expect("it has not moved").up;
            let was_up = std::mem::replace(&mut get.up, is_up);
            if is_up && !was_up && get.tries.in_vain() {
                // It is back: what it was asked in vain it is asked now.
                get.due = asker.turn.now;
            } else if !is_up {
                get.slow = true;
                let rows = get.rows();
                rows.for_each(|row| self.want(slot, row));
            }
        }
        for (slot, at) in self.verdicts.clone() {
            if moved(self, asker.core(), slot, at) {
                self.verdicts.remove(&slot);
                self.absent.remove(slot);
                self.rows.values_mut().for_each(|row| row.bad.remove(slot));
            }
        }
        self.stirred.extend(self.rows.keys());
    }
}

/// Appends a range, joined with the last one where they touch (unless each block is asked for
/// by itself).
pub(super) fn push_range(ranges: &mut Vec<(u32, u32)>, offset: u32, length: u32, fine: bool) {
    match ranges.last_mut() {
        Some((start, len)) if !fine && *start + *len == offset => *len += length,
        _ => ranges.push((offset, length)),
    }
}

/// How long each site's answers are waited for before others are asked: the 95th percentile
/// and a quarter, so that a site that answers evenly is not hedged at all.
#[derive(Debug, Default)]
pub(super) struct Hedges {
    p95: BTreeMap<SiteId, Duration>,
}

impl Hedges {
    fn after(&self, site: SiteId, config: &SegmentConfig) -> Duration {
        let hedge = self
            .p95
            .get(&site)
            .map_or(config.hedge_start, |p95| *p95 + *p95 / 4);
        hedge.clamp(config.hedge_min, config.hedge_max)
    }

    /// Follows the 95th percentile: a step up for each answer above it is 19 steps down for
    /// answers below.
    fn observe(&mut self, site: SiteId, latency: Duration, config: &SegmentConfig) {
        let p95 = self.p95.entry(site).or_insert(config.hedge_start * 4 / 5);
        let step = (*p95 / 200).max(Duration::from_micros(1));
        *p95 = if latency > *p95 {
            *p95 + step * 19
        } else {
            p95.saturating_sub(step)
        };
        *p95 = (*p95).clamp(config.hedge_min, config.hedge_max);
    }
}
