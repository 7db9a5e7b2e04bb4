//! An owner in office: admits, journals and acknowledges writes, answers reads, and keeps the
//! drain going.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use model::block::BlockError;
use model::geometry::Code;
use model::ids::{BlockNo, DiskId, Endpoint, Epoch, Position, RequestId, Seq, SessionId, VolumeId};
use model::journal::{Checkpoint, PART_BYTES_MAX, Part, Record, RecordBody};
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::payload::Payload;
use model::placement::{View, VolumeRecord};
use model::time::Time;
use model::{BLOCK_BYTES, crc32c};

use super::cache::BlockCache;
use super::drain::Drain;
use super::dropped::DroppedSegments;
use super::index::{Index, IndexConfig, SegmentCounter};
use super::journal::{CommittedCheckpoint, Fenced, Journal, RequestIds, ToDisk};
use super::layers::Layers;
use super::overlay::{Content, Overlay, Run, Sums};
use super::read::{Outcome, Reader, Target};
use super::sessions::{Admission, Sessions};
use super::start::at_of;
use super::{Effect, StopReason, VolumeConfig, VolumeStats, Waiting};
use crate::messages::{SegmentReply, SegmentRequest, VolumeReply, VolumeRequest};
use crate::planted::{Bug, planted};

/// How far an owner has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// `EpochStart` is not on a majority yet.
    Electing,
    /// The founded journal is being told to the global group, which until now holds the
    /// volume for clean: whatever happens before is repeated by the next owner (R3).
    Founding { asked: Option<(MetaToken, Time)> },
    /// In office.
    Serving,
}

/// Who is answered once a record is committed.
#[derive(Clone, Copy, Debug)]
struct Ack {
    seq: Seq,
    to: Endpoint,
    id: RequestId,
}

/// An answer that waits for the lease.
#[derive(Debug)]
struct Parked {
    to: Endpoint,
    id: RequestId,
    reply: VolumeReply,
    payload: Payload,
}

/// The owner in office.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) id: VolumeId,
    epoch: Epoch,
    pub(super) config: VolumeConfig,
    pub(super) code: Code,
    size_bytes: u64,
    record: VolumeRecord,
    pub(super) journal: Journal,
    stage: Stage,
    clean_start: bool,
    pub(super) sessions: Sessions,
    pub(super) layers: Layers,
    applied: Position,
    acks: VecDeque<Ack>,
    pub(super) reader: Reader,
    pub(super) drain: Drain,
    pub(super) dropped: DroppedSegments,
    published: Checkpoint,
    publishing: Option<(MetaToken, Position, Checkpoint, Time)>,
    published_at: Time,
    parked: VecDeque<Parked>,
    renewed_at: Time,
    pub(super) last_write: Time,
    pub(super) oldest_write: Option<Time>,
    pub(super) no_space: bool,
    pub(super) stopping: bool,
    ended: Option<StopReason>,
    pub(super) segment_ids: RequestIds,
    pub(super) segment_counter: SegmentCounter,
    pub(super) to_segment: Vec<SegmentRequest>,
    tokens: u64,
    meta: Vec<(MetaToken, MetaRequest)>,
    release: bool,
}

impl Serving {
    pub(super) fn new(
        now: Time,
        config: VolumeConfig,
        record: &VolumeRecord,
        journal: Journal,
        tokens: u64,
    ) -> Self {
        let checkpoint = journal.checkpoint().checkpoint;
        Self {
            id: record.id,
            epoch: record.epoch,
            config,
            code: record.code,
            size_bytes: record.size_bytes,
            record: record.clone(),
            layers: Layers {
                active: Overlay::default(),
                frozen: None,
                index: Index::open(record.id, &checkpoint, index_config(&config)),
                cache: BlockCache::new(config.cache_blocks),
            },
            applied: checkpoint.covers,
            journal,
            stage: Stage::Electing,
            clean_start: record.clean,
            sessions: Sessions::default(),
            acks: VecDeque::new(),
            reader: Reader::default(),
            drain: Drain::Idle,
            dropped: DroppedSegments::default(),
            published: record.checkpoint,
            publishing: None,
            published_at: now,
            parked: VecDeque::new(),
            renewed_at: Time::ZERO,
            last_write: now,
            oldest_write: None,
            no_space: false,
            stopping: false,
            ended: None,
            segment_ids: RequestIds::after(0),
            segment_counter: SegmentCounter::new(record.epoch, checkpoint.next_counter),
            to_segment: Vec::new(),
            tokens,
            meta: Vec::new(),
            release: false,
        }
    }

    /// All up to here is applied.
    pub(super) fn applied(&self) -> Position {
        self.applied
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    pub(super) fn ended(&self) -> Option<StopReason> {
        self.ended
    }

    pub(super) fn fail(&mut self, reason: StopReason) {
        self.ended.get_or_insert(reason);
    }

    pub(super) fn begin_stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn drop_cache(&mut self) {
        self.layers.cache.clear();
    }

    pub(super) fn stats(&self) -> VolumeStats {
        let index = self.layers.index.stats();
        // Payload that the published checkpoint does not cover: what is in the log, and what
        // a checkpoint covers that is not published yet.
        let unpublished = self.published.covers < self.journal.checkpoint().checkpoint.covers;
        VolumeStats {
            epoch: self.epoch,
            serving: self.is_serving(),
            untrimmed_bytes: self.journal.log().written_bytes() + u64::from(unpublished),
            logical_bytes: index.mapped_blocks * BLOCK_BYTES as u64,
            stored_bytes: index.stored_bytes,
            sessions: self.sessions.len(),
            replicas_current: self.journal.replicas_current(),
        }
    }

    pub(super) fn view(&mut self, _now: Time, _view: &Arc<View>, record: &VolumeRecord) {
        if record.epoch == self.epoch {
            self.size_bytes = record.size_bytes;
        }
    }

    pub(super) fn journal_reply(
        &mut self,
        now: Time,
        disk: DiskId,
        id: RequestId,
        reply: &crate::messages::DiskReply,
    ) -> Result<(), Fenced> {
        match at_of(&self.record, disk) {
            Some(at) => self.journal.reply(now, at, id, reply),
            None => Ok(()),
        }
    }

    fn token(&mut self) -> MetaToken {
        self.tokens += 1;
        MetaToken(self.tokens)
    }

    /// Takes a client's request, or gives it back to wait for the window.
    pub(super) fn request(
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
            VolumeRequest::Open { .. } => {
                let position = self.append(now, RecordBody::Open, Payload::empty());
                self.acks.push_back(Ack {
                    seq: position.seq,
                    to: from,
                    id,
                });
            }
            VolumeRequest::Close { session, .. } => {
                if self.sessions.is_open(*session) {
                    self.append(now, RecordBody::Close(*session), Payload::empty());
                }
                answer(out, from, id, VolumeReply::Done);
            }
            VolumeRequest::Read { offset, length, .. } => {
                self.read(from, id, *offset, *length, out);
            }
            VolumeRequest::Status { offset, length, .. } => {
                if !self.in_range(*offset, *length) {
                    answer(out, from, id, VolumeReply::Error(BlockError::OutOfRange));
                    return None;
                }
                let target = Target::Status {
                    from,
                    id,
                    offset: *offset,
                    length: *length,
                };
                self.begin_read(target);
            }
            VolumeRequest::Write { .. } | VolumeRequest::Zero { .. } => {
                return self.mutate(now, waiting, out);
            }
        }
        None
    }

    fn in_range(&self, offset: u64, length: u64) -> bool {
        length > 0
            && offset
                .checked_add(length)
                .is_some_and(|end| end <= self.size_bytes)
    }

    fn read(
        &mut self,
        from: Endpoint,
        id: RequestId,
        offset: u64,
        length: u32,
        out: &mut Vec<Effect>,
    ) {
        let short = length as usize <= PART_BYTES_MAX;
        if !short || !self.in_range(offset, u64::from(length)) {
            answer(out, from, id, VolumeReply::Error(BlockError::OutOfRange));
            return;
        }
        self.begin_read(Target::Read {
            from,
            id,
            offset,
            length,
        });
    }

    pub(super) fn begin_read(&mut self, target: Target) {
        self.reader.begin(
            target,
            &mut self.layers,
            &mut self.segment_ids,
            &mut self.to_segment,
        );
    }

    fn mutate(&mut self, now: Time, waiting: Waiting, out: &mut Vec<Effect>) -> Option<Waiting> {
        let (from, id) = (waiting.from, waiting.id);
        let (part, offset, length) = match &waiting.request {
            VolumeRequest::Write { part, offset, .. } => {
                (*part, *offset, waiting.payload.len() as u64)
            }
            VolumeRequest::Zero {
                part,
                offset,
                length,
                ..
            } => (*part, *offset, *length),
            _ => return None,
        };
        match self.admit(part, from, id, out) {
            Admission::New => {}
            _ => return None,
        }
        if !self.in_range(offset, length) || waiting.payload.len() > PART_BYTES_MAX {
            answer(out, from, id, VolumeReply::Error(BlockError::OutOfRange));
            return None;
        }
        let full = self.journal.log().written_bytes() + length.min(waiting.payload.len() as u64)
            > self.config.window_bytes;
        if full && self.no_space {
            answer(out, from, id, VolumeReply::Error(BlockError::NoSpace));
            return None;
        }
        if full {
            return Some(waiting);
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
        let position = self.append(now, body, Payload::from(waiting.payload));
        self.acks.push_back(Ack {
            seq: position.seq,
            to: from,
            id,
        });
        None
    }

    /// R10: what is not new is answered here, or when its record is committed.
    fn admit(
        &mut self,
        part: Part,
        from: Endpoint,
        id: RequestId,
        out: &mut Vec<Effect>,
    ) -> Admission {
        let admission = self.sessions.admit(part);
        match admission {
            Admission::New | Admission::Answered => {}
            Admission::Known(seq) if seq <= self.applied.seq => {
                answer(out, from, id, VolumeReply::Done);
            }
            Admission::Known(seq) => {
                let at = self.acks.partition_point(|ack| ack.seq <= seq);
                self.acks.insert(at, Ack { seq, to: from, id });
            }
            Admission::NoSession | Admission::OutOfWindow => {
                answer(out, from, id, VolumeReply::Error(BlockError::NoSession));
            }
        }
        admission
    }

    fn append(&mut self, now: Time, body: RecordBody, payload: Payload) -> Position {
        self.last_write = now;
        let position = self.journal.append(body, payload);
        let head = &self
            .journal
            .log()
            .get(position.seq)
            .expect("just appended")
            .head;
        if !matches!(head.body, RecordBody::Open) {
            self.sessions.follow(head);
        }
        position
    }

    /// Applies what was committed, answers, publishes, drains.
    pub(super) fn settle(&mut self, now: Time, view: &Arc<View>, out: &mut Vec<Effect>) {
        if self.journal.advance(now) {
            if self.stage == Stage::Electing {
                self.elected(now);
            }
            if self.stage == Stage::Serving {
                self.apply_committed(now, out);
            }
        }
        self.found(now, out);
        if self.stage == Stage::Serving {
            self.step_drain(now, view);
            if self.layers.index.damage().is_some() {
                self.fail(StopReason::Corrupt);
            }
            self.answer_reads(now, out);
            self.publish(now);
            self.finish_stop(now);
            while let Some(segments) = self.dropped.release(self.reader.oldest()) {
                self.to_segment.push(SegmentRequest::Delete { segments });
            }
        }
        for request in self.to_segment.drain(..) {
            out.push(Effect::ToSegment(request));
        }
        for (token, request) in self.meta.drain(..) {
            out.push(Effect::Meta { token, request });
        }
    }

    /// The lease ends now, if that was decided.
    pub(super) fn give_up(&mut self, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        if std::mem::take(&mut self.release) {
            self.journal.release(ids, out);
        }
    }

    pub(super) fn pump(&mut self, now: Time, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        self.give_up(ids, out);
        self.journal.pump(now, ids, out);
    }

    pub(super) fn expire(&mut self, now: Time) {
        self.journal.expire(now);
    }

    /// `EpochStart` is committed, and with it all that was adopted: the latest checkpoint in
    /// the log counts, and the records after it are replayed.
    fn elected(&mut self, now: Time) {
        let committed = self.journal.committed();
        assert_eq!(committed.epoch, self.epoch);
        let base = self.journal.log().base().seq.next();
        let latest = self
            .journal
            .log()
            .from(base)
            .filter_map(|record| match &record.head.body {
                RecordBody::Checkpoint(checkpoint) => Some(CommittedCheckpoint {
                    at: record.head.position,
                    checkpoint: *checkpoint,
                    sessions: record.payload.clone().into_bytes(),
                }),
                _ => None,
            })
            .last();
        if let Some(latest) = latest
            && latest.checkpoint.covers >= self.journal.log().base()
        {
            self.journal.checkpoint_committed(latest);
        }
        let checkpoint = self.journal.checkpoint();
        let Ok(sessions) = Sessions::decode(&checkpoint.sessions) else {
            self.fail(StopReason::Corrupt);
            return;
        };
        self.sessions = sessions;
        self.applied = checkpoint.checkpoint.covers;
        let checkpoint = checkpoint.checkpoint;
        self.segment_counter = SegmentCounter::new(self.epoch, checkpoint.next_counter);
        self.layers.index = Index::open(self.id, &checkpoint, index_config(&self.config));
        self.stage = Stage::Founding { asked: None };
        if !self.clean_start {
            self.published_at = now;
        }
    }

    /// A clean volume's first record is on a majority: the global group learns that the
    /// journal is founded before anything is acknowledged (R3). Others serve at once.
    fn found(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Stage::Founding { asked } = self.stage else {
            return;
        };
        if self.clean_start {
            if asked.is_some_and(|(_, at)| now.since(at) < self.config.meta_retry * 10) {
                return;
            }
            let token = self.token();
            self.stage = Stage::Founding {
                asked: Some((token, now)),
            };
            let checkpoint = self.journal.checkpoint().checkpoint;
            let (volume, epoch) = (self.id, self.epoch);
            self.meta.push((
                token,
                MetaRequest::Publish {
                    volume,
                    epoch,
                    checkpoint,
                    clean: false,
                },
            ));
            return;
        }
        self.stage = Stage::Serving;
        self.apply_committed(now, out);
        out.push(Effect::Serving { epoch: self.epoch });
    }

    fn apply_committed(&mut self, now: Time, out: &mut Vec<Effect>) {
        let committed = self.journal.committed();
        while self.applied < committed && self.applied.seq < committed.seq {
            let next = self.applied.seq.next();
            let record = self
                .journal
                .log()
                .get(next)
                .expect("committed records are held")
                .clone();
            self.applied = record.head.position;
            self.apply(now, &record, out);
            if self.ended.is_some() {
                return;
            }
        }
        self.answer_acks(out);
    }

    fn apply(&mut self, now: Time, record: &Record, out: &mut Vec<Effect>) {
        let position = record.head.position;
        if position.epoch < self.epoch || matches!(record.head.body, RecordBody::Open) {
            // Replayed, or counted from its commit on; all others were followed when they
            // were appended.
            self.sessions.follow(&record.head);
        }
        match &record.head.body {
            RecordBody::EpochStart | RecordBody::Close(_) => {}
            RecordBody::Open => {
                if let Some(ack) = self.acks.front()
                    && ack.seq == position.seq
                {
                    let session = SessionId(position);
                    let size_bytes = self.size_bytes;
                    answer(
                        out,
                        ack.to,
                        ack.id,
                        VolumeReply::Opened {
                            session,
                            size_bytes,
                        },
                    );
                    self.acks.pop_front();
                }
            }
            RecordBody::Write { offset, sums, .. } => {
                self.oldest_write.get_or_insert(now);
                self.apply_write(*offset, sums, record.payload.clone().into_bytes());
            }
            RecordBody::Zero {
                offset,
                length,
                allocate,
                ..
            } => {
                self.oldest_write.get_or_insert(now);
                self.apply_zero(*offset, *length, *allocate);
            }
            RecordBody::Checkpoint(_) => self.checkpoint_recorded(position),
        }
        self.answer_acks(out);
    }

    fn answer_acks(&mut self, out: &mut Vec<Effect>) {
        while let Some(ack) = self.acks.front() {
            if ack.seq > self.applied.seq {
                break;
            }
            answer(out, ack.to, ack.id, VolumeReply::Done);
            self.acks.pop_front();
        }
    }

    fn apply_write(&mut self, offset: u64, sums: &[u32], bytes: Bytes) {
        let block = BLOCK_BYTES as u64;
        let end = offset + bytes.len() as u64;
        let aligned = (offset.next_multiple_of(block), end / block * block);
        if aligned.0 < aligned.1 {
            let head = usize::from(offset < aligned.0);
            let blocks = (aligned.1 - aligned.0) / block;
            let sums = Sums::new(sums[head..head + blocks as usize].into());
            let from = (aligned.0 - offset) as usize;
            let bytes = bytes.slice(from..from + (blocks * block) as usize);
            let content = Content::Data { bytes, sums };
            self.layers
                .active
                .insert(BlockNo(aligned.0 / block), Run { blocks, content });
        }
        for (from, to) in edges(offset, end) {
            let piece = &bytes[(from - offset) as usize..(to - offset) as usize];
            self.patch(from, piece);
        }
    }

    fn apply_zero(&mut self, offset: u64, length: u64, allocate: bool) {
        let block = BLOCK_BYTES as u64;
        let end = offset + length;
        let (first, last) = (offset.next_multiple_of(block), end / block * block);
        if first < last {
            let content = if allocate {
                Content::Zero
            } else {
                Content::Hole
            };
            let run = Run {
                blocks: (last - first) / block,
                content,
            };
            self.layers.active.insert(BlockNo(first / block), run);
        }
        for (from, to) in edges(offset, end) {
            self.patch(from, &[0; BLOCK_BYTES][..(to - from) as usize]);
        }
    }

    /// R12: byte ranges are merged in seq order.
    fn patch(&mut self, offset: u64, bytes: &[u8]) {
        let block = BlockNo(offset / BLOCK_BYTES as u64);
        let at = (offset % BLOCK_BYTES as u64) as usize;
        let below = self
            .layers
            .frozen
            .as_ref()
            .and_then(|f| f.overlay.get(block));
        self.layers.active.patch(block, at, bytes, below);
    }

    fn publish(&mut self, now: Time) {
        if let Some((_, _, _, at)) = self.publishing {
            if now.since(at) < self.config.meta_retry * 10 {
                return;
            }
            self.publishing = None;
        }
        let current = self.journal.checkpoint();
        let (at, checkpoint) = (current.at, current.checkpoint);
        let news = checkpoint.covers > self.published.covers;
        if !news || now.since(self.published_at) < self.config.publish_every || self.stopping {
            return;
        }
        let token = self.token();
        self.publishing = Some((token, at, checkpoint, now));
        let (volume, epoch) = (self.id, self.epoch);
        self.meta.push((
            token,
            MetaRequest::Publish {
                volume,
                epoch,
                checkpoint,
                clean: false,
            },
        ));
    }

    pub(super) fn meta_reply(&mut self, now: Time, token: MetaToken, reply: &MetaReply) {
        let done = matches!(reply, MetaReply::Done | MetaReply::Volume(_));
        let refused = matches!(reply, MetaReply::Refused { .. });
        if let Stage::Founding {
            asked: Some((t, _)),
        } = self.stage
            && t == token
        {
            self.stage = Stage::Founding { asked: None };
            if done {
                self.clean_start = false;
            }
        } else if let Some((t, at, checkpoint, _)) = self.publishing
            && t == token
        {
            self.publishing = None;
            if done {
                self.published = checkpoint;
                self.published_at = now;
                self.dropped.published(at);
                if self.stopping && self.release_done(checkpoint) {
                    self.fail(StopReason::Clean);
                }
            }
        } else {
            return;
        }
        if refused {
            self.fail(StopReason::Fenced);
        }
    }

    fn release_done(&self, checkpoint: Checkpoint) -> bool {
        self.covered() && checkpoint == self.journal.checkpoint().checkpoint
    }

    /// Whether the committed checkpoint covers every write.
    fn covered(&self) -> bool {
        self.layers.active.is_empty()
            && self.layers.frozen.is_none()
            && self.journal.committed() == self.journal.log().last()
            && self.acks.is_empty()
    }

    /// A passivating owner: all is covered and committed; it gives up its lease, then commits
    /// the clean end (R3), and never acknowledges in this epoch again.
    fn finish_stop(&mut self, now: Time) {
        if !self.stopping || self.publishing.is_some() || !self.covered() {
            return;
        }
        if !matches!(self.drain, Drain::Idle) {
            return;
        }
        let current = self.journal.checkpoint();
        let (at, checkpoint) = (current.at, current.checkpoint);
        self.release = true;
        self.parked.clear();
        if !self.sessions.is_empty() {
            // Sessions live in the journal (R10): the next owner seals it and goes on.
            self.fail(StopReason::Released);
            return;
        }
        let token = self.token();
        self.publishing = Some((token, at, checkpoint, now));
        let (volume, epoch) = (self.id, self.epoch);
        self.meta.push((
            token,
            MetaRequest::Publish {
                volume,
                epoch,
                checkpoint,
                clean: true,
            },
        ));
    }

    /// Sends what was read while the lease runs; else asks for the lease (R7: checked after
    /// the data is fetched).
    fn answer_reads(&mut self, now: Time, out: &mut Vec<Effect>) {
        for outcome in self.reader.take_done() {
            match outcome {
                Outcome::Answer {
                    to,
                    id,
                    reply,
                    payload,
                } => {
                    self.parked.push_back(Parked {
                        to,
                        id,
                        reply,
                        payload,
                    });
                }
                Outcome::Base { block, bytes } => self.base_read(block, bytes),
            }
        }
        if self.parked.is_empty() || self.stopping {
            return;
        }
        let until = self.journal.leased_until();
        if until > now || planted(Bug::ExpiredLease) {
            for Parked {
                to,
                id,
                reply,
                payload,
            } in self.parked.drain(..)
            {
                out.push(Effect::ToClient {
                    to,
                    id,
                    reply,
                    payload,
                });
            }
        }
        let term = self.config.journal.lease;
        let due = now.since(self.renewed_at) >= term / 4 || !self.parked.is_empty();
        if until <= now + term / 2 && due && now.since(self.renewed_at) >= self.config.journal.pause
        {
            self.renewed_at = now;
            self.journal.renew();
        }
    }

    pub(super) fn segment_reply(
        &mut self,
        _now: Time,
        reply: SegmentReply,
        _out: &mut Vec<Effect>,
    ) {
        match reply {
            SegmentReply::Written { id, segment } => self.segment_written(id, segment),
            SegmentReply::Unwritable { id, full, .. } => self.segment_unwritable(id, full),
            SegmentReply::Read { id, runs } => self.segment_read(id, Some(runs)),
            SegmentReply::Unreadable { id } => self.segment_read(id, None),
        }
    }

    fn segment_read(&mut self, id: RequestId, runs: Option<Vec<Bytes>>) {
        let (layers, ids) = (&mut self.layers, &mut self.segment_ids);
        self.reader
            .arrived(id, runs, layers, ids, &mut self.to_segment);
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let mut due = self.journal.next_deadline();
        let mut at = |t: Time| due = Some(due.map_or(t, |d| d.min(t)));
        if let Stage::Founding {
            asked: Some((_, asked)),
        } = self.stage
        {
            at(asked + self.config.meta_retry * 10);
        }
        if let Some(deadline) = self.drain_deadline() {
            at(deadline);
        }
        if self.journal.checkpoint().checkpoint.covers > self.published.covers {
            let asked = self
                .publishing
                .map(|(_, _, _, asked)| asked + self.config.meta_retry * 10);
            at(asked.unwrap_or(self.published_at + self.config.publish_every));
        }
        if !self.parked.is_empty() {
            at(self.renewed_at + self.config.journal.pause);
        }
        due
    }
}

fn index_config(config: &VolumeConfig) -> IndexConfig {
    IndexConfig {
        cache_bytes: config.index_cache_bytes,
        ..IndexConfig::default()
    }
}

fn answer(out: &mut Vec<Effect>, to: Endpoint, id: RequestId, reply: VolumeReply) {
    out.push(Effect::ToClient {
        to,
        id,
        reply,
        payload: Payload::empty(),
    });
}

/// The parts of `[start, end)` that are no whole blocks: at most two, each within a block.
fn edges(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let block = BLOCK_BYTES as u64;
    let (first, last) = (start.next_multiple_of(block), end / block * block);
    let pieces = if last < first {
        // Within one block.
        [Some((start, end)), None]
    } else {
        [
            (start < first).then_some((start, first)),
            (last < end).then_some((last, end)),
        ]
    };
    pieces.into_iter().flatten()
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
