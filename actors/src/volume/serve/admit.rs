//! What clients ask: in range, within the window, each mutating part once (R10).

use model::block::{Allocation, BlockError};
use model::ids::{Actor, Boot, ClientRef, Endpoint, Position, RequestId, Seq, SessionId};
use model::journal::{PART_BYTES_MAX, Part, RecordBody, ZERO_PART_BYTES_MAX};
use model::payload::Payload;
use model::sometimes::{Sometimes, reached};
use model::time::Time;
use model::{BLOCK_BYTES, crc32c};

use super::{Ack, Serving, Stage, answer};
use crate::messages::{VolumeReply, VolumeRequest};
use crate::planted::{Bug, planted};
use crate::volume::bypass::{Large, Verdict};
use crate::volume::read::{self, Target};
use crate::volume::sessions::{Admission, SESSIONS_MAX};
use crate::volume::{Effect, Waiting};

/// Records without regard to their payload take so many windows at most: of writes, and of what
/// may free space and lead out of a window that is full.
const WINDOWS_OF_WRITES: u64 = 2;
const WINDOWS_OF_OTHERS: u64 = 4;

/// On a full fabric, data that takes the place of other data may fill so many windows: the first
/// may be full of what has no room.
const WINDOWS_OF_OVERWRITES: u64 = 2;

/// What becomes of a write for which the window has no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Overflow {
    /// It is journaled all the same.
    Taken,
    Waits,
    Refused,
}

/// Which ways a mutating part may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::volume) enum Way {
    /// By the journal, or past it.
    Any,
    /// By the journal.
    Journal,
}

impl Serving {
    /// Bytes of writes that the journal holds before further ones wait. What a new owner took
    /// over comes on top, once: else a volume that was written to as fast as it drains would
    /// wait for a whole drain after each failover.
    fn window_bytes(&self) -> u64 {
        self.config.window_bytes + self.inherited_bytes.min(self.config.window_bytes)
    }

    /// Takes a client's request, or gives it back to wait for the window.
    pub(in crate::volume) fn request(
        &mut self,
        now: Time,
        waiting: Waiting,
        out: &mut Vec<Effect>,
    ) -> Option<Waiting> {
        assert_eq!(self.stage, Stage::Serving);
        let (from, id) = (waiting.from, waiting.id);
        if self.stopping {
            return Some(waiting);
        }
        match &waiting.request {
            VolumeRequest::Open { boot, .. } => self.open(now, (from, id), *boot, out),
            VolumeRequest::Close { session, .. } => {
                if self.sessions.is_open(*session) {
                    self.append(now, RecordBody::Close(*session), Payload::empty());
                }
                answer(out, from, id, VolumeReply::Done);
            }
            // R10: not only writes. A session that is over may have seen what is gone.
            VolumeRequest::Read { session, .. } | VolumeRequest::Status { session, .. }
                if !self.sessions.is_open(*session) =>
            {
                self.refuse(now, (from, id), BlockError::NoSession, out);
            }
            VolumeRequest::Read { offset, length, .. } => {
                let (offset, length) = (*offset, *length);
                if length as usize > PART_BYTES_MAX {
                    self.refuse(now, (from, id), BlockError::OutOfRange, out);
                } else if self
                    .in_range(now, waiting, (offset, u64::from(length)), out)
                    .is_some()
                {
                    self.begin_read(Target::Read {
                        from,
                        id,
                        offset,
                        length,
                    });
                }
            }
            VolumeRequest::Status { offset, length, .. } => {
                let (offset, length) = (*offset, *length);
                if self.in_range(now, waiting, (offset, length), out).is_some() {
                    self.begin_read(Target::Status {
                        from,
                        id,
                        offset,
                        length,
                    });
                }
            }
            VolumeRequest::Write { .. } | VolumeRequest::Zero { .. } => {
                return self.mutate(now, waiting, Way::Any, out);
            }
        }
        None
    }

    /// R10: a client has one session, however often it asks for it, and one that is open is
    /// never given up for another one's.
    fn open(
        &mut self,
        now: Time,
        (from, id): (Endpoint, RequestId),
        boot: Boot,
        out: &mut Vec<Effect>,
    ) {
        let Actor::Client(client) = from.actor else {
            return;
        };
        let node = from.node;
        let client = ClientRef { node, boot, client };
        let opened = |session: SessionId| Ack {
            seq: session.0.seq,
            to: from,
            id,
            opens: Some(session),
        };
        if let Some(session) = self.sessions.of(client) {
            return self.acknowledge(opened(session), out);
        }
        let full = self.sessions.len() >= self.config.sessions_max.min(SESSIONS_MAX);
        if let Some(oldest) = self.sessions.oldest()
            && full
            && planted(Bug::EvictedSession)
        {
            self.append(now, RecordBody::Close(oldest), Payload::empty());
        } else if self.journal.log().record_bytes() >= WINDOWS_OF_OTHERS * self.window_bytes() {
            return answer(out, from, id, VolumeReply::Busy);
        } else if full {
            reached(Sometimes::SessionsFull);
            self.hasten_roll();
            return answer(out, from, id, VolumeReply::Busy);
        }
        self.begin_roll(now);
        let position = self.append(now, RecordBody::Open(client), Payload::empty());
        let session = SessionId(position);
        assert_eq!(self.sessions.of(client), Some(session));
        self.acks.push_back(opened(session));
    }

    /// Answers now if the record is committed, else then.
    fn acknowledge(&mut self, ack: Ack, out: &mut Vec<Effect>) {
        if ack.seq <= self.applied.seq {
            return self.answer_ack(ack, out);
        }
        self.await_commit(ack);
    }

    /// Gives a request back that reaches no further than what is served; others are refused, or
    /// wait until that is certain.
    fn in_range(
        &mut self,
        now: Time,
        waiting: Waiting,
        (offset, length): (u64, u64),
        out: &mut Vec<Effect>,
    ) -> Option<Waiting> {
        match offset.checked_add(length).filter(|end| *end > offset) {
            Some(end) if self.bounds.serves(end) => return Some(waiting),
            Some(end) => self.reach_beyond(now, waiting, end, out),
            // None that any size would have room for.
            None => self.refuse_for_good(now, &waiting, BlockError::OutOfRange, out),
        }
        None
    }

    pub(in crate::volume) fn begin_read(&mut self, target: Target) {
        self.reader.begin(
            target,
            &mut self.layers,
            &mut self.segment_ids,
            &mut self.to_segment,
        );
    }

    /// Whether so many windows have no room for so much payload.
    fn is_window_full(&self, windows: u64, payload: u64) -> bool {
        let bytes = windows * self.window_bytes();
        // Blocks that are written piecemeal take far more memory than the journal says.
        let crowded = self.layers.undrained_blocks() * BLOCK_BYTES as u64 > 2 * bytes;
        let log = self.journal.log();
        crowded
            || self.journal.is_short()
            || log.written_bytes() + payload > bytes
            // A drain that can't end must not let small records grow without bound either.
            || log.record_bytes() >= WINDOWS_OF_WRITES * bytes
    }

    /// What becomes of a write for which the window has no room. R18: on a full fabric it is
    /// refused, unless it replaces data alone: that has a window of its own, and then waits for
    /// the room that it makes.
    fn judge_overflow(&mut self, now: Time, offset: u64, payload: u64) -> Overflow {
        if !self.fullness.is_certain(now) {
            return Overflow::Waits;
        }
        let Some(replaces) = self.replaces_data(offset, payload) else {
            return Overflow::Waits;
        };
        if !replaces || planted(Bug::RefusedOverwrite) {
            return Overflow::Refused;
        }
        if !self.is_window_full(WINDOWS_OF_OVERWRITES, payload) {
            return Overflow::Taken;
        }
        self.fullness.overwrite_waits();
        Overflow::Waits
    }

    /// Whether a range holds nothing but data; unknown while pages of the index are loaded.
    fn replaces_data(&mut self, offset: u64, length: u64) -> Option<bool> {
        let (first, blocks) = read::blocks(offset, length);
        match self.layers.gather(first, blocks) {
            Ok(slots) => {
                let extents = read::extents(&slots, offset, length);
                Some(extents.iter().all(|e| e.state == Allocation::Data))
            }
            Err(missing) => {
                self.reader
                    .load(missing, &mut self.segment_ids, &mut self.to_segment);
                None
            }
        }
    }

    /// Whether the journal has no place for a mutating part now. Those without payload take none of
    /// the window: a trim that waited for it would wait for the room that it makes (R18).
    fn must_wait(&self, waiting: &Waiting) -> bool {
        let log = self.journal.log();
        match waiting.request {
            VolumeRequest::Zero {
                length, allocate, ..
            } => {
                let zeroed = log.zeroed_bytes();
                let many = log.record_bytes() >= WINDOWS_OF_OTHERS * self.window_bytes();
                many || (allocate && zeroed > 0 && zeroed + length > self.config.zeros_bytes)
            }
            _ => self.is_window_full(1, waiting.payload.len() as u64),
        }
    }

    /// Takes a mutating part, or gives it back to wait.
    pub(in crate::volume) fn mutate(
        &mut self,
        now: Time,
        waiting: Waiting,
        way: Way,
        out: &mut Vec<Effect>,
    ) -> Option<Waiting> {
        let (from, id) = (waiting.from, waiting.id);
        let (part, offset, length) = changes(&waiting)?;
        if self.bypass.asked_again(part, (from, id)) || !self.is_new(now, part, (from, id), out) {
            return None;
        }
        if waiting.payload.len() > PART_BYTES_MAX || zeros(&waiting) > ZERO_PART_BYTES_MAX {
            self.refuse_for_good(now, &waiting, BlockError::OutOfRange, out);
            return None;
        }
        let waiting = self.in_range(now, waiting, (offset, length), out)?;
        if way == Way::Any && matches!(waiting.request, VolumeRequest::Write { .. }) {
            match self.bypass.judge(now, offset, waiting.payload.len()) {
                Verdict::Past => return self.go_past(waiting, out),
                Verdict::Wait => return Some(waiting),
                Verdict::Journal => {}
            }
        }
        if self.must_wait(&waiting) {
            match self.overflow(now, &waiting, (offset, length)) {
                Overflow::Taken => reached(Sometimes::OverwriteTaken),
                Overflow::Refused => {
                    self.refuse_for_good(now, &waiting, BlockError::NoSpace, out);
                    return None;
                }
                Overflow::Waits => {
                    reached(Sometimes::WindowFull);
                    return Some(waiting);
                }
            }
        }
        let body = match waiting.request {
            VolumeRequest::Write { sums, .. } => {
                if !sums_hold(offset, &waiting.payload, &sums) {
                    // Damaged on its way: the client sends it again.
                    answer(out, from, id, VolumeReply::Busy);
                    return None;
                }
                RecordBody::Write { part, offset, sums }
            }
            VolumeRequest::Zero { allocate, .. } => RecordBody::Zero {
                part,
                offset,
                length,
                allocate,
            },
            _ => return None,
        };
        if planted(Bug::UnjournaledTrim)
            && let RecordBody::Zero {
                offset,
                length,
                allocate: false,
                ..
            } = body
        {
            self.apply_zero(offset, length, false);
            answer(out, from, id, VolumeReply::Done);
            return None;
        }
        let bytes = waiting.payload.len();
        let position = self.append(now, body, Payload::from(waiting.payload));
        self.bypass.journaled(position.seq, bytes);
        self.acknowledge_at(position.seq, (from, id));
        None
    }

    /// What becomes of a part for which the window has no room: what reads as zeros needs none, and a
    /// trim makes some.
    fn overflow(&mut self, now: Time, waiting: &Waiting, (offset, length): (u64, u64)) -> Overflow {
        match waiting.request {
            VolumeRequest::Write { .. } => self.judge_overflow(now, offset, length),
            _ => Overflow::Waits,
        }
    }

    /// Takes a large write in that goes past the journal.
    fn go_past(&mut self, mut waiting: Waiting, out: &mut Vec<Effect>) -> Option<Waiting> {
        let VolumeRequest::Write {
            part, offset, sums, ..
        } = &mut waiting.request
        else {
            return Some(waiting);
        };
        if !sums_hold(*offset, &waiting.payload, sums) {
            answer(out, waiting.from, waiting.id, VolumeReply::Busy);
            return None;
        }
        let (part, offset, sums) = (*part, *offset, sums.clone());
        self.bypass.gather(Large::new(waiting, part, offset, sums));
        None
    }

    /// Who asked is answered once the record of that number, just appended, is committed.
    pub(in crate::volume) fn acknowledge_at(&mut self, seq: Seq, (to, id): (Endpoint, RequestId)) {
        self.await_commit(Ack {
            seq,
            to,
            id,
            opens: None,
        });
    }

    /// Puts one down who is to be answered, once however often the same is asked again.
    fn await_commit(&mut self, ack: Ack) {
        let end = self.acks.partition_point(|other| other.seq <= ack.seq);
        let same_seq = self.acks.range(..end).rev();
        let asker = (ack.to, ack.id);
        let waits = same_seq
            .take_while(|other| other.seq == ack.seq)
            .any(|other| (other.to, other.id) == asker);
        if !waits {
            self.acks.insert(end, ack);
        }
    }

    /// Whether what ends there is served.
    pub(in crate::volume) fn reaches(&self, end: u64) -> bool {
        self.bounds.serves(end)
    }

    /// R10: whether a part was never seen; any other is answered here, or when its record is
    /// committed.
    pub(in crate::volume) fn is_new(
        &mut self,
        now: Time,
        part: Part,
        asker: (Endpoint, RequestId),
        out: &mut Vec<Effect>,
    ) -> bool {
        self.admit(now, part, asker, out) == Admission::New
    }

    fn admit(
        &mut self,
        now: Time,
        part: Part,
        (from, id): (Endpoint, RequestId),
        out: &mut Vec<Effect>,
    ) -> Admission {
        let admission = match self.sessions.admit(part) {
            Admission::New => self.refusals.admit(part),
            known => known,
        };
        match admission {
            Admission::Refused(error) => self.refuse(now, (from, id), error, out),
            Admission::New | Admission::Answered => {}
            Admission::Known(_) if planted(Bug::KnownAtOnce) => {
                answer(out, from, id, VolumeReply::Done);
            }
            Admission::Known(seq) => {
                if seq > self.applied.seq {
                    reached(Sometimes::RetriedWrite);
                }
                let ack = Ack {
                    seq,
                    to: from,
                    id,
                    opens: None,
                };
                self.acknowledge(ack, out);
            }
            Admission::NoSession | Admission::OutOfWindow => {
                self.refuse(now, (from, id), BlockError::NoSession, out);
            }
        }
        admission
    }

    pub(in crate::volume) fn append(
        &mut self,
        now: Time,
        body: RecordBody,
        payload: Payload,
    ) -> Position {
        self.last_write = now;
        let position = self.journal.append(body, payload);
        let head = &self
            .journal
            .log()
            .get(position.seq)
            .expect("just appended")
            .head;
        assert!(head.is_sound(self.id), "what is appended can be replayed");
        self.sessions.follow(head);
        position
    }
}

/// Bytes that a request zeroes and that stay allocated.
fn zeros(waiting: &Waiting) -> u64 {
    match waiting.request {
        VolumeRequest::Zero {
            length,
            allocate: true,
            ..
        } => length,
        _ => 0,
    }
}

/// What a mutating request is, and the bytes that it changes: first, and how many.
pub(super) fn changes(waiting: &Waiting) -> Option<(Part, u64, u64)> {
    match &waiting.request {
        VolumeRequest::Write { part, offset, .. } => {
            Some((*part, *offset, waiting.payload.len() as u64))
        }
        VolumeRequest::Zero {
            part,
            offset,
            length,
            ..
        } => Some((*part, *offset, *length)),
        _ => None,
    }
}

/// The checksums that a write must carry: one a piece, cut at block boundaries.
#[must_use]
pub fn write_sums(offset: u64, bytes: &[u8]) -> Vec<u32> {
    pieces(offset, bytes).map(crc32c).collect()
}

fn pieces(offset: u64, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = (BLOCK_BYTES - (offset % BLOCK_BYTES as u64) as usize) % BLOCK_BYTES;
    let (head, rest) = bytes.split_at(head.min(bytes.len()));
    let head = (!head.is_empty()).then_some(head);
    head.into_iter().chain(rest.chunks(BLOCK_BYTES))
}

fn sums_hold(offset: u64, bytes: &[u8], sums: &[u32]) -> bool {
    let mut given = sums.iter();
    pieces(offset, bytes).all(|piece| given.next() == Some(&crc32c(piece)))
        && given.next().is_none()
}
