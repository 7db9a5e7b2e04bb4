//! Large writes go past the journal: their bytes go straight into a segment, and the journal
//! carries only the reference. What was journaled first would cross to every site twice: once
//! for the journal, and once more, encoded, for the drain.
//!
//! Writes of whole blocks that are under way together share a segment: while some are being
//! written the next ones gather. What would be too little for a segment, or finds a site away or
//! a disk full, is journaled as any other write, and so is what a segment does not take in time.
//!
//! **Invariant (R14):** a reference is appended only once every slot of its segment is durable.
//!
//! **Invariant (R10):** a part that is here is not in the journal, and is looked up anew before
//! its reference is appended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use model::BLOCK_BYTES;
use model::geometry::{Pool, SEGMENT_BYTES_MAX};
use model::ids::{BlockNo, Endpoint, RequestId, SegmentId, Seq, SessionId};
use model::journal::{Part, RecordBody, Stored, StoredWrite};
use model::payload::Payload;
use model::placement::View;
use model::sometimes::{Sometimes, reached};
use model::store::Claim;
use model::time::Time;

use super::serve::{Serving, Way};
use super::{Effect, Pending, Waiting};
use crate::messages::{SegmentRef, SegmentRequest};
use crate::planted::{Bug, planted};

/// Which writes go past the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BypassTerms {
    /// Writes of whole blocks and at least so many bytes may.
    pub write_bytes: usize,
    /// So many bytes at least make a segment: of less, the headers of fragments would cost too
    /// much space.
    pub segment_bytes: usize,
    /// Writes go past the journal while so many bytes of such writes are under way: a lone one is
    /// answered sooner by the journal, which crosses to other sites once before that, not twice.
    pub stream_bytes: usize,
    /// Segments that are being written at a time: fewer than the Segment machine writes at a time,
    /// so that a drain has places beside them.
    pub segments: usize,
    /// Bytes that are under way at most; who brings more waits.
    pub bytes_max: usize,
    /// Bytes in segments at which a drain starts: a delta of their blocks is taken in at one go.
    pub drain_bytes: u64,
    /// Bytes in segments beyond which writes are journaled: a new owner replays what refers to them.
    pub undrained_max: u64,
    /// How long a segment may take before its writes are journaled: longer than a lost request
    /// takes that is sent again.
    pub patience: Duration,
}

impl Default for BypassTerms {
    fn default() -> Self {
        Self {
            write_bytes: 64 << 10,
            segment_bytes: 2 << 20,
            stream_bytes: 4 << 20,
            segments: 2,
            bytes_max: 32 << 20,
            drain_bytes: 64 << 20,
            undrained_max: 256 << 20,
            patience: Duration::from_secs(5),
        }
    }
}

/// What is to become of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It goes past the journal.
    Past,
    /// It is journaled.
    Journal,
    /// It waits: too much is under way.
    Wait,
}

/// A write that goes past the journal.
#[derive(Debug)]
pub(super) struct Large {
    waiting: Waiting,
    part: Part,
    first: BlockNo,
    sums: Vec<u32>,
    /// The last large write that the journal had when this one came.
    beside: Option<Seq>,
}

impl Large {
    /// A write of whole blocks.
    pub(super) fn new(waiting: Waiting, part: Part, offset: u64, sums: Vec<u32>) -> Self {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert_eq!(waiting.payload.len(), sums.len() * BLOCK_BYTES);
        let first = BlockNo(offset / BLOCK_BYTES as u64);
        Self {
            waiting,
            part,
            first,
            sums,
            beside: None,
        }
    }

    fn bytes(&self) -> usize {
        self.waiting.payload.len()
    }

    fn end(&self) -> u64 {
        self.first.0 * BLOCK_BYTES as u64 + self.bytes() as u64
    }
}

/// A segment that is being written, and what it brings.
#[derive(Debug)]
struct Flight {
    segment: SegmentRef,
    since: Time,
    writes: Vec<Large>,
}

/// All writes that go past the journal and are not in it yet.
#[derive(Debug)]
pub(super) struct Bypass {
    terms: BypassTerms,
    gathered: VecDeque<Large>,
    gathered_bytes: usize,
    flying: Pending<Flight>,
    /// Every slot is durable: to be appended.
    landed: Vec<Flight>,
    /// To be journaled after all.
    failed: Vec<Large>,
    /// Given up, and not answered yet.
    late: BTreeMap<RequestId, SegmentRef>,
    /// All that is here.
    parts: BTreeSet<(SessionId, u64)>,
    bytes: usize,
    /// Large writes that the journal has and that are not committed.
    journaled: VecDeque<(Seq, usize)>,
    journaled_bytes: usize,
    /// Nothing goes past the journal before this.
    closed_until: Time,
    /// The pool of all sites takes segments, and they are drained as fast.
    is_open: bool,
    /// Something left in the last step: what waits for that is to look again.
    is_stirred: bool,
    /// To be asked again.
    returned: Vec<Waiting>,
}

impl Bypass {
    pub(super) fn new(terms: BypassTerms) -> Self {
        Self {
            terms,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            flying: Pending::new(),
            landed: Vec::new(),
            failed: Vec::new(),
            late: BTreeMap::new(),
            parts: BTreeSet::new(),
            bytes: 0,
            journaled: VecDeque::new(),
            journaled_bytes: 0,
            closed_until: Time::ZERO,
            is_open: false,
            is_stirred: false,
            returned: Vec::new(),
        }
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.returned.is_empty()
    }

    /// Which way a new write goes.
    pub(super) fn judge(&self, now: Time, offset: u64, bytes: usize) -> Verdict {
        let whole = offset.is_multiple_of(BLOCK_BYTES as u64) && bytes.is_multiple_of(BLOCK_BYTES);
        let closed = !self.is_open || now < self.closed_until;
        if closed || !whole || bytes < self.terms.write_bytes.max(1) {
            return Verdict::Journal;
        }
        if self.bytes + self.journaled_bytes + bytes < self.terms.stream_bytes {
            return Verdict::Journal;
        }
        if self.bytes > 0 && self.bytes + bytes > self.terms.bytes_max {
            return Verdict::Wait;
        }
        Verdict::Past
    }

    /// Takes a new write in.
    pub(super) fn gather(&mut self, mut large: Large) {
        large.beside = self.journaled.back().map(|(seq, _)| *seq);
        let is_new = self.parts.insert((large.part.session, large.part.n));
        assert!(is_new, "a part is here once (R10)");
        self.bytes += large.bytes();
        self.gathered_bytes += large.bytes();
        self.gathered.push_back(large);
    }

    /// A large write went to the journal.
    pub(super) fn journaled(&mut self, at: Seq, bytes: usize) {
        if bytes >= self.terms.write_bytes {
            self.journaled.push_back((at, bytes));
            self.journaled_bytes += bytes;
        }
    }

    /// All up to that number is committed.
    fn committed(&mut self, to: Seq) {
        while let Some((seq, bytes)) = self.journaled.front().copied()
            && seq <= to
        {
            self.journaled.pop_front();
            self.journaled_bytes -= bytes;
        }
    }

    /// Whether a stream is under way: who copies in the background yields to it.
    pub(super) fn is_busy(&self) -> bool {
        self.bytes >= self.terms.stream_bytes.max(1)
    }

    /// Whether a part is here; then it is answered to who asked last.
    pub(super) fn asked_again(&mut self, part: Part, (from, id): (Endpoint, RequestId)) -> bool {
        if !self.parts.contains(&(part.session, part.n)) {
            return false;
        }
        let flights = self.flying.values_mut().chain(&mut self.landed);
        let flying = flights.flat_map(|flight| &mut flight.writes);
        let mut all = flying.chain(&mut self.gathered).chain(&mut self.failed);
        let same = |l: &&mut Large| (l.part.session, l.part.n) == (part.session, part.n);
        if let Some(large) = all.find(same) {
            (large.waiting.from, large.waiting.id) = (from, id);
        }
        true
    }

    /// Takes out what a request was for, if it was made here.
    fn answered(&mut self, id: RequestId) -> Option<Answered> {
        if let Some(flight) = self.flying.remove(&id) {
            return Some(Answered::Flight(flight));
        }
        self.late.remove(&id).map(Answered::Late)
    }

    /// The next writes that make a segment, if it is time for one.
    fn take_next(&mut self) -> Option<Vec<Large>> {
        let due = !self.gathered.is_empty() && self.gathered_bytes >= self.terms.segment_bytes;
        if !due || self.flying.len() >= self.terms.segments {
            return None;
        }
        let mut bytes = 0;
        let mut writes = Vec::new();
        while let Some(next) = self.gathered.front()
            && bytes + next.bytes() <= SEGMENT_BYTES_MAX
        {
            bytes += next.bytes();
            writes.extend(self.gathered.pop_front());
        }
        self.gathered_bytes -= bytes;
        assert!(!writes.is_empty(), "one write fits a segment");
        Some(writes)
    }

    /// Whether what gathered, and is less than a segment's worth, waits for more: until what was
    /// under way before it is answered, and its clients have had the chance to go on. What came
    /// later is no reason to wait.
    fn may_grow(&self) -> bool {
        let Some(oldest) = self.gathered.front() else {
            return true;
        };
        let first = self.journaled.front().map(|(seq, _)| *seq);
        let beside = first.is_some_and(|first| Some(first) <= oldest.beside);
        self.is_open && (beside || !self.flying.is_empty())
    }

    fn give_up_gathered(&mut self) {
        self.gathered_bytes = 0;
        self.failed.extend(self.gathered.drain(..));
    }

    /// Gives up what takes too long.
    fn give_up_late(&mut self, now: Time) {
        let late = |flight: &Flight| now.since(flight.since) >= self.terms.patience;
        let ids: Vec<RequestId> = self
            .flying
            .iter()
            .filter(|(_, flight)| late(flight))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            reached(Sometimes::BypassLate);
            let flight = self.flying.remove(&id).expect("just seen");
            self.late.insert(id, flight.segment);
            self.fail(now, flight);
        }
    }

    fn fail(&mut self, now: Time, flight: Flight) {
        self.closed_until = now + self.terms.patience;
        self.failed.extend(flight.writes);
    }

    /// It leaves, to wherever.
    fn leave(&mut self, large: &Large) {
        let was_here = self.parts.remove(&(large.part.session, large.part.n));
        assert!(was_here, "a part leaves once (R10)");
        self.bytes -= large.bytes();
        self.is_stirred = true;
    }

    /// Those that are to be asked again.
    pub(super) fn take_returned(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.returned)
    }

    /// When what takes too long is given up, or what waits for an end looks again.
    pub(super) fn deadline(&self) -> Option<Time> {
        if self.is_stirred {
            return Some(Time::ZERO);
        }
        let oldest = self.flying.values().map(|flight| flight.since).min();
        oldest.map(|since| since + self.terms.patience)
    }
}

#[derive(Debug)]
enum Answered {
    Flight(Flight),
    Late(SegmentRef),
}

impl Serving {
    /// A segment is durable, if it is one of these.
    pub(super) fn bypass_written(&mut self, id: RequestId, segment: SegmentId) -> bool {
        match self.bypass.answered(id) {
            Some(Answered::Flight(flight)) => {
                assert_eq!(flight.segment.id, segment);
                self.bypass.landed.push(flight);
            }
            // Nothing refers to it, and nothing ever will.
            Some(Answered::Late(segment)) => self.delete_unused(segment),
            None => return false,
        }
        true
    }

    /// A segment can't be written, if it is one of these; nothing is left of it.
    pub(super) fn bypass_unwritable(&mut self, now: Time, id: RequestId) -> bool {
        match self.bypass.answered(id) {
            Some(Answered::Flight(flight)) => {
                reached(Sometimes::BypassUnwritable);
                self.bypass.fail(now, flight);
            }
            Some(Answered::Late(_)) => {}
            None => return false,
        }
        true
    }

    /// The segments that records refer to that are not known for committed.
    pub(super) fn referred(&self) -> Vec<SegmentRef> {
        let from = self.journal.committed().seq.next();
        let records = self.journal.log().from(from);
        let segments = records.filter_map(|record| match &record.head.body {
            RecordBody::Stored(stored) => Some(segment_of(stored)),
            _ => None,
        });
        segments.collect()
    }

    /// R16: a segment that no record ever referred to.
    fn delete_unused(&mut self, segment: SegmentRef) {
        if !planted(Bug::LeftSegment) {
            let segments = vec![segment];
            self.to_segment.push(SegmentRequest::Delete { segments });
        }
    }

    /// Takes the writes that go past the journal as far as they go without waiting.
    pub(super) fn step_bypass(&mut self, now: Time, view: &View, out: &mut Vec<Effect>) {
        self.bypass.is_stirred = false;
        self.bypass.committed(self.applied().seq);
        for flight in std::mem::take(&mut self.bypass.landed) {
            self.land(now, flight, out);
        }
        self.bypass.give_up_late(now);
        let pool = view
            .pool_for(self.code)
            .filter(|pool| pool.without.is_none());
        let undrained = self.journal.log().stored_bytes();
        self.bypass.is_open = pool.is_some()
            && now >= self.bypass.closed_until
            && self.bypass.late.is_empty()
            && undrained < self.bypass.terms.undrained_max
            && !self.fullness.is_met()
            && !self.stopping;
        if let Some(pool) = pool.filter(|_| self.bypass.is_open) {
            while let Some(writes) = self.bypass.take_next() {
                self.launch(now, pool, writes, out);
            }
        }
        if !self.bypass.may_grow() {
            self.bypass.give_up_gathered();
        }
        for large in std::mem::take(&mut self.bypass.failed) {
            self.bypass.leave(&large);
            let back = match self.stopping {
                true => Some(large.waiting),
                false => self.mutate(now, large.waiting, Way::Journal, out),
            };
            self.bypass.returned.extend(back);
        }
    }

    /// Has a segment written that brings these.
    fn launch(&mut self, now: Time, pool: Pool, writes: Vec<Large>, out: &mut Vec<Effect>) {
        let mut data = Payload::empty();
        for large in &writes {
            data.push(large.waiting.payload.clone());
        }
        let name = self.segment_counter.take(self.id);
        let (id, segment) = self.write_data(name, pool, Claim::Client, data);
        let since = now;
        let flight = Flight {
            segment,
            since,
            writes,
        };
        if planted(Bug::EarlyReference) {
            return self.land(now, flight, out);
        }
        self.bypass.flying.insert(id, flight);
    }

    /// Appends the reference to a segment that is durable (R14). A write whose session ended
    /// meanwhile, or that lies beyond a new end, is none of it.
    fn land(&mut self, now: Time, flight: Flight, out: &mut Vec<Effect>) {
        let mut at = 0;
        let (mut writes, mut askers) = (Vec::new(), Vec::new());
        for large in flight.writes {
            self.bypass.leave(&large);
            let (begins, end) = (at, large.end());
            at += u32::try_from(large.bytes()).expect("within a segment");
            let asker = (large.waiting.from, large.waiting.id);
            if self.stopping || !self.reaches(end) {
                self.bypass.returned.push(large.waiting);
            } else if self.is_new(now, large.part, asker, out) {
                askers.push(asker);
                writes.push(StoredWrite {
                    part: large.part,
                    first: large.first,
                    at: begins,
                    sums: large.sums,
                });
            }
        }
        if writes.is_empty() {
            return self.delete_unused(flight.segment);
        }
        reached(Sometimes::Bypassed);
        let SegmentRef { id, pool, bytes } = flight.segment;
        let stored = Stored {
            segment: id,
            pool,
            segment_bytes: bytes,
            writes,
        };
        let position = self.append(now, RecordBody::Stored(stored), Payload::empty());
        for asker in askers {
            self.acknowledge_at(position.seq, asker);
        }
    }
}

/// The segment that a reference is to.
pub(super) fn segment_of(stored: &Stored) -> SegmentRef {
    SegmentRef {
        id: stored.segment,
        pool: stored.pool,
        bytes: stored.segment_bytes,
    }
}

#[cfg(test)]
#[path = "tests/bypass.rs"]
mod tests;
