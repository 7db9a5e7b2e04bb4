//! An owner in office: admits, journals and acknowledges writes, answers reads, and keeps the
//! drain going.

mod admit;
mod apply;
mod audit;
mod bounds;
mod publish;
mod refuse;
mod replicas;
mod roll;

pub(super) use admit::Way;
pub use admit::write_sums;
use audit::Audit;
use bounds::Bounds;
use refuse::Refusals;
use replicas::Change;
use roll::Roll;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::geometry::{Code, Pool};
use model::ids::{
    DiskId, Endpoint, Epoch, Position, RequestId, SegmentId, Seq, SessionId, VolumeId,
};
use model::journal::Checkpoint;
use model::meta::{MetaRequest, MetaToken};
use model::payload::Payload;
use model::placement::{View, VolumeRecord};
use model::sometimes::{Sometimes, reached};
use model::store::{Claim, SegmentKind};
use model::time::Time;

use crate::messages::{SegmentRef, SegmentReply, SegmentRequest, VolumeReply};
use crate::planted::{Bug, planted};
use crate::volume::asking::Asking;
use crate::volume::bypass::Bypass;
use crate::volume::cache::BlockCache;
use crate::volume::drain::Drain;
use crate::volume::dropped::DroppedSegments;
use crate::volume::fullness::Fullness;
use crate::volume::index::{Index, IndexConfig, SegmentCounter};
use crate::volume::journal::{Fenced, Journal, RequestIds, ToDisk};
use crate::volume::layers::Layers;
use crate::volume::overlay::Overlay;
use crate::volume::read::{Outcome, Reader, Target};
use crate::volume::rewrite::Rewriter;
use crate::volume::sessions::Sessions;
use crate::volume::{Effect, StopReason, VolumeConfig, VolumeStats};

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
    /// The session that the record opens, if it is one's `Open`.
    opens: Option<SessionId>,
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
    bounds: Bounds,
    pub(super) journal: Journal,
    stage: Stage,
    /// Whether it founds the journal.
    founds: bool,
    /// Whether its log is the only copy: no replica is changed before the journal is founded.
    salvages: bool,
    /// It serves nobody before.
    serves_from: Time,
    pub(super) sessions: Sessions,
    roll: Roll,
    pub(super) layers: Layers,
    applied: Position,
    /// Bytes of earlier owners' writes that no checkpoint of this epoch covers yet.
    pub(super) inherited_bytes: u64,
    acks: VecDeque<Ack>,
    pub(super) bypass: Bypass,
    pub(super) reader: Reader,
    /// When pages that could not be read are asked for again by upkeep.
    rest_until: Option<Time>,
    pub(super) drain: Drain,
    pub(super) dropped: DroppedSegments,
    pub(super) rewriter: Rewriter,
    published: Checkpoint,
    change: Change,
    audit: Audit,
    freed_orphans: u64,
    publishing: Option<(MetaToken, Position, Checkpoint, Time)>,
    /// When a checkpoint was told, or put off, last.
    published_at: Time,
    /// Since when none was told because it is no backstop.
    put_off_since: Option<Time>,
    parked: VecDeque<Parked>,
    refusals: Refusals,
    renewed_at: Time,
    pub(super) last_write: Time,
    pub(super) oldest_write: Option<Time>,
    /// When kept pieces are tried again (R28).
    pub(super) kept_due: Option<Time>,
    /// The index is not tidy: from here on it is made so, once nobody writes.
    pub(super) tidy_from: Option<Time>,
    /// No drain begins before this: there was no room for the last one's data (R18).
    pub(super) held_until: Time,
    pub(super) fullness: Fullness,
    pub(super) stopping: bool,
    ended: Option<StopReason>,
    pub(super) segment_ids: RequestIds,
    pub(super) segment_counter: SegmentCounter,
    pub(super) to_segment: Vec<SegmentRequest>,
    asking: Asking,
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
            bounds: Bounds::new(record),
            layers: Layers {
                active: Overlay::default(),
                frozen: None,
                index: Index::open(record.id, &checkpoint, index_config(&config)),
                cache: BlockCache::new(config.cache_blocks),
            },
            applied: checkpoint.covers,
            inherited_bytes: 0,
            journal,
            stage: Stage::Electing,
            founds: record.is_to_found(),
            salvages: record.to_salvage().is_some(),
            serves_from: serves_from(now, &config, record),
            sessions: Sessions::default(),
            roll: Roll::default(),
            acks: VecDeque::new(),
            bypass: Bypass::new(config.bypass),
            reader: Reader::default(),
            rest_until: None,
            drain: Drain::Idle,
            dropped: DroppedSegments::default(),
            rewriter: Rewriter::new(now, config.rewrite),
            published: record.checkpoint,
            change: Change::default(),
            audit: Audit::default(),
            freed_orphans: 0,
            publishing: None,
            published_at: now,
            put_off_since: None,
            parked: VecDeque::new(),
            refusals: Refusals::default(),
            renewed_at: Time::ZERO,
            last_write: now,
            oldest_write: None,
            kept_due: None,
            tidy_from: None,
            held_until: now,
            fullness: Fullness::default(),
            stopping: false,
            ended: None,
            segment_ids: RequestIds::default(),
            segment_counter: SegmentCounter::new(record.epoch, checkpoint.next_counter),
            to_segment: Vec::new(),
            asking: Asking::new(config.segment_room),
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

    /// Whether its log is not known to be on a majority yet, and one replica has the only copy.
    fn is_salvaging(&self) -> bool {
        self.founds && self.salvages
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
        // Payload that the published checkpoint does not cover is in the log. What a committed
        // checkpoint covers that is not published yet was trimmed, and nobody counts its bytes: one
        // more, so that nothing is left only when it is zero.
        let log = self.journal.log();
        let unpublished = self.published.covers < self.journal.checkpoint().checkpoint.covers;
        VolumeStats {
            epoch: self.epoch,
            serving: self.is_serving(),
            untrimmed_bytes: log.written_bytes() + log.stored_bytes() + u64::from(unpublished),
            logical_bytes: index.mapped_blocks * BLOCK_BYTES as u64,
            stored_bytes: index.stored_bytes,
            sessions: self.sessions.len(),
            replicas_current: self.journal.replicas_current(),
            replicas_in_step: self.journal.replicas_in_step(),
            replicas_lost: 0,
            replicas: self.journal.members().len(),
            segments: index.data_segments + index.index_segments,
            freed_orphans: self.freed_orphans,
            at_risk_bytes: self.rewriter.at_risk_blocks() * BLOCK_BYTES as u64,
            rewriting: self.rewriter.rewriting(),
            rewritten_bytes: self.rewriter.rewritten_blocks() * BLOCK_BYTES as u64,
            cache_bytes: (self.layers.cache.len() * BLOCK_BYTES) as u64,
            committed: (!self.is_salvaging()).then(|| self.journal.committed()),
        }
    }

    pub(super) fn disk_reply(
        &mut self,
        now: Time,
        disk: DiskId,
        id: RequestId,
        reply: &crate::messages::DiskReply,
    ) -> Result<(), Fenced> {
        if self.audit_reply(disk, id, reply) {
            return Ok(());
        }
        self.journal.reply(now, disk, id, reply)
    }

    fn token(&mut self) -> MetaToken {
        self.tokens += 1;
        MetaToken(self.tokens)
    }

    /// Applies what was committed, answers, publishes, drains.
    pub(super) fn settle(&mut self, now: Time, view: &Arc<View>, out: &mut Vec<Effect>) {
        if self.journal.advance(now) || planted(Bug::ReadUncommitted) {
            let is_elected = self.journal.committed().epoch == self.epoch;
            if self.stage == Stage::Electing && (is_elected || planted(Bug::NoEpochStart)) {
                self.elected(now);
            }
            if self.stage == Stage::Serving {
                self.apply_committed(now, out);
            }
        }
        self.found(now, out);
        if !self.is_salvaging() {
            self.step_replicas(now, view);
        }
        if self.stage == Stage::Serving {
            self.step_bounds(now, out);
            if self.rest_until.take_if(|until| *until <= now).is_some() {
                self.reader.rested();
            }
            self.step_drain(now, view);
            if self.layers.index.damage().is_some() {
                self.fail(StopReason::Corrupt);
            }
            self.answer_reads(now, out);
            self.answer_refused(now, out);
            self.step_rewriter(now, view);
            // The last base that a merge waited for may have been among the answers, or the last
            // copy that a checkpoint is for: an idle volume has no other input that would take the
            // drain on.
            let goes_on = match &self.drain {
                Drain::Merging { waiting, .. } => waiting.is_empty(),
                Drain::Idle => self.rewriter_wants_checkpoint(),
                _ => false,
            };
            if goes_on {
                self.step_drain(now, view);
            }
            self.step_roll(now, view, out);
            self.publish(now);
            self.step_audit(now, view);
            self.finish_stop(now);
            while let Some(segments) = self.dropped.release(self.reader.oldest()) {
                self.to_segment.push(SegmentRequest::Delete { segments });
            }
        }
        for (token, request) in self.meta.drain(..) {
            out.push(Effect::Meta { token, request });
        }
    }

    /// Has a new segment of data written under a name that was never used (R1).
    pub(super) fn write_data(
        &mut self,
        name: SegmentId,
        pool: Pool,
        claim: Claim,
        data: Payload,
    ) -> (RequestId, SegmentRef) {
        let bytes = u32::try_from(data.len()).expect("within a segment");
        let segment = SegmentRef {
            id: name,
            pool,
            bytes,
        };
        let id = self.segment_ids.take();
        self.to_segment.push(SegmentRequest::Write {
            id,
            segment,
            kind: SegmentKind::Data,
            claim,
            data,
        });
        (id, segment)
    }

    /// Hands over what the Segment machine is asked, as far as it has room.
    pub(super) fn send_to_segment(&mut self, out: &mut Vec<Effect>) {
        for request in self.to_segment.drain(..) {
            if let SegmentRequest::Delete { segments } = &request {
                let settled = segments.iter().map(|segment| segment.id);
                settled.for_each(|segment| self.segment_counter.settle(segment));
            }
            let by = self.reader.reading(&request);
            out.extend(self.asking.ask(request, by).map(Effect::ToSegment));
        }
        self.asking
            .send(|request| out.push(Effect::ToSegment(request)));
    }

    /// Calls off reads that nobody waits for any more: they take no room from others.
    pub(super) fn forget_reads(&mut self, is: impl Fn(&Target) -> bool) {
        let ids = self.reader.abandon(is);
        for id in self.asking.forget(ids) {
            self.to_segment.push(SegmentRequest::Forget { id });
        }
    }

    /// The lease ends now, if that was decided.
    pub(super) fn give_up(&mut self, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        if std::mem::take(&mut self.release) {
            self.journal.release(ids, out);
        }
    }

    /// The lease ends now: another owner was decided on.
    pub(super) fn release(&mut self, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        self.journal.release(ids, out);
    }

    pub(super) fn pump(&mut self, now: Time, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        self.give_up(ids, out);
        self.journal.pump(now, ids, out);
        self.pump_audit(now, ids, out);
    }

    pub(super) fn expire(&mut self, now: Time) {
        self.journal.expire(now);
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
                Outcome::Copied { job, bytes } => self.copy_read(now, job, bytes),
            }
        }
        let until = self.journal.leased_until();
        if self.stopping || self.parked.is_empty() {
            return;
        }
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
        if until <= now && !self.parked.is_empty() {
            reached(Sometimes::LeaseLapsed);
        }
        self.renew_lease(now);
    }

    /// Asks for the lease while it is needed: before it ends if somebody reads, at once if an
    /// answer waits for it.
    pub(super) fn renew_lease(&mut self, now: Time) {
        let term = self.config.journal.lease;
        let waits = !self.parked.is_empty() || !self.refusals.is_empty();
        let passed = now.since(self.renewed_at);
        let due = waits || passed >= term / 4;
        let ends = self.journal.leased_until() <= now + term / 2 || !self.refusals.is_empty();
        if ends && due && passed >= self.config.journal.pause {
            self.renewed_at = now;
            self.journal.renew();
        }
    }

    pub(super) fn segment_reply(&mut self, now: Time, reply: SegmentReply) {
        let (SegmentReply::Written { id, .. }
        | SegmentReply::Unwritable { id, .. }
        | SegmentReply::Read { id, .. }
        | SegmentReply::Unreadable { id }) = &reply;
        if !self.asking.answered(*id) {
            // It was called off meanwhile.
            return;
        }
        match reply {
            SegmentReply::Written { id, segment } => self.segment_written(now, id, segment),
            SegmentReply::Unwritable { id, segment, full } => {
                self.segment_counter.settle(segment);
                self.segment_unwritable(now, id, full);
            }
            SegmentReply::Read { id, runs } => self.segment_read(id, Some(runs)),
            SegmentReply::Unreadable { id } => self.segment_read(id, None),
        }
        if self.reader.is_resting() {
            let pause = self.config.meta_retry;
            self.rest_until.get_or_insert(now + pause);
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
        if let Stage::Founding { asked } = self.stage {
            let retry = self.config.meta_retry * 10;
            at(asked.map_or(self.serves_from, |(_, asked)| asked + retry));
        }
        if self.reader.has_done() {
            at(Time::ZERO);
        }
        let own = [
            self.drain_deadline(),
            self.change_deadline(),
            self.audit_deadline(),
            self.rewriter_deadline(),
            self.roll_deadline(),
            self.bounds.deadline(self.config.meta_retry * 10),
            self.bypass.deadline(),
            self.rest_until,
        ];
        own.into_iter().flatten().for_each(&mut at);
        if self.journal.checkpoint().checkpoint.covers > self.published.covers {
            let asked = self
                .publishing
                .map(|(_, _, _, asked)| asked + self.config.meta_retry * 10);
            at(asked.unwrap_or(self.published_at + self.config.publish_every));
        }
        if !self.parked.is_empty() || !self.refusals.is_empty() {
            at(self.renewed_at + self.config.journal.pause);
        }
        due
    }
}

/// R7: after a recovery with loss, no replica that granted a lease to an earlier owner is left to
/// tell when it ends. Each ended a term after it was granted, and none was once the epoch rose
/// and the owner knew; the margin for clocks that differ is as long as the term.
fn serves_from(now: Time, config: &VolumeConfig, record: &VolumeRecord) -> Time {
    let waits = record.to_recover().is_some() && !planted(Bug::RecoverHasty);
    if waits {
        now + 2 * config.journal.lease
    } else {
        now
    }
}

fn index_config(config: &VolumeConfig) -> IndexConfig {
    IndexConfig {
        cache_bytes: config.index_cache_bytes,
        pending_bytes_max: config.index_pending_bytes,
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
