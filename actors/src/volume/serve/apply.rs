//! Committed records take effect, in order: replay after an election, then one by one (R4, R12).

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::ids::BlockNo;
use model::journal::{Record, RecordBody, Stored};
use model::time::Time;

use super::{Ack, Serving, Stage, answer, index_config};
use crate::messages::VolumeReply;
use crate::planted::{Bug, planted};
use crate::volume::bypass::segment_of;
use crate::volume::index::{Index, SegmentCounter};
use crate::volume::journal::CommittedCheckpoint;
use crate::volume::overlay::{Content, Run, Sums};
use crate::volume::sessions::Sessions;
use crate::volume::{Effect, StopReason};

/// Segments that owners name between two checkpoints, at most: a log that refers to later ones is
/// damaged.
const NAMED_MAX: u32 = 1 << 24;

impl Serving {
    /// `EpochStart` is committed, and with it all that was adopted: the latest checkpoint in
    /// the log counts, and the records after it are replayed.
    pub(super) fn elected(&mut self, now: Time) {
        let committed = self.journal.committed();
        assert!(committed.epoch == self.epoch || planted(Bug::NoEpochStart));
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
        self.inherited_bytes = self.journal.log().written_bytes();
        self.applied = checkpoint.checkpoint.covers;
        let checkpoint = checkpoint.checkpoint;
        // What the log refers to was named after the checkpoint.
        let after = |record: &Record| match &record.head.body {
            RecordBody::Stored(stored) => Some(stored.segment.counter.saturating_add(1)),
            _ => None,
        };
        let log = self.journal.log();
        let referred = log.from(log.base().seq.next()).filter_map(after).max();
        if referred.is_some_and(|next| next > checkpoint.next_counter.saturating_add(NAMED_MAX)) {
            self.fail(StopReason::Corrupt);
            return;
        }
        let next = match referred.filter(|_| !planted(Bug::ForgottenReference)) {
            _ if planted(Bug::RestartCounter) => 0,
            Some(referred) => referred.max(checkpoint.next_counter),
            None => checkpoint.next_counter,
        };
        self.segment_counter = SegmentCounter::new(self.epoch, next);
        self.layers.index = Index::open(self.id, &checkpoint, index_config(&self.config));
        self.stage = Stage::Founding { asked: None };
        if !self.founds {
            self.published_at = now;
        }
    }

    /// The first record of a volume that was clean, or was recovered, is on a majority: the
    /// global group learns that the journal is founded before anything is acknowledged (R3).
    /// Others serve at once.
    pub(super) fn found(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Stage::Founding { asked } = self.stage else {
            return;
        };
        if now < self.serves_from {
            // R7: replicas that are lost may have granted leases that nobody seals any more.
            return;
        }
        if self.founds {
            if asked.is_some_and(|(_, at)| now.since(at) < self.config.meta_retry * 10) {
                return;
            }
            let checkpoint = self.backstop();
            let token = self.ask_to_publish(now, checkpoint, false);
            self.stage = Stage::Founding {
                asked: Some((token, now)),
            };
            return;
        }
        self.stage = Stage::Serving;
        self.apply_committed(now, out);
        out.push(Effect::Serving { epoch: self.epoch });
    }

    pub(super) fn apply_committed(&mut self, now: Time, out: &mut Vec<Effect>) {
        let committed = if planted(Bug::ReadUncommitted) {
            self.journal.log().last()
        } else {
            self.journal.committed()
        };
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

    pub(super) fn apply(&mut self, now: Time, record: &Record, out: &mut Vec<Effect>) {
        let position = record.head.position;
        let is_first = record.head.body == RecordBody::Recovered;
        if position.epoch < self.epoch || is_first {
            // Replayed; its own were followed when they were appended, but for the first one,
            // which ends those that were replayed before it.
            self.sessions.follow(&record.head);
        }
        match &record.head.body {
            RecordBody::EpochStart
            | RecordBody::Recovered
            | RecordBody::Open(_)
            | RecordBody::Close(_) => {}
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
            RecordBody::Cut(cut) => {
                self.oldest_write.get_or_insert(now);
                self.apply_zero(cut.from, cut.bytes(), false);
            }
            RecordBody::Kept { offset, .. } => {
                let bytes = record.payload.clone().into_bytes();
                self.apply_kept(now, *offset, &bytes);
            }
            RecordBody::Stored(stored) => {
                self.oldest_write.get_or_insert(now);
                if !self.apply_stored(stored) {
                    return self.fail(StopReason::Corrupt);
                }
            }
            RecordBody::Checkpoint(_) => self.checkpoint_recorded(now, position),
        }
        self.answer_acks(out);
    }

    pub(super) fn answer_acks(&mut self, out: &mut Vec<Effect>) {
        while let Some(ack) = self.acks.front() {
            if ack.seq > self.applied.seq.min(self.journal.committed().seq) {
                break;
            }
            self.answer_ack(*ack, out);
            self.acks.pop_front();
        }
    }

    /// Tells that a record is committed.
    pub(super) fn answer_ack(&self, ack: Ack, out: &mut Vec<Effect>) {
        let reply = match ack.opens {
            Some(session) => {
                let (size_bytes, resized) = self.bounds.size();
                VolumeReply::Opened {
                    session,
                    size_bytes,
                    resized,
                }
            }
            None => VolumeReply::Done,
        };
        answer(out, ack.to, ack.id, reply);
    }

    pub(super) fn apply_write(&mut self, offset: u64, sums: &[u32], bytes: Bytes) {
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

    /// R14: what is read from the segment is what the record's checksums say. False if another
    /// record has a segment of that number: no owner wrote both.
    fn apply_stored(&mut self, stored: &Stored) -> bool {
        let segment = segment_of(stored);
        if !self.layers.active.bring(segment) {
            return false;
        }
        for write in &stored.writes {
            let content = Content::Stored {
                segment,
                offset: write.at,
                sums: Sums::new(write.sums.as_slice().into()),
            };
            let blocks = write.sums.len() as u64;
            self.layers
                .active
                .insert(write.first, Run { blocks, content });
        }
        true
    }

    pub(super) fn apply_zero(&mut self, offset: u64, length: u64, allocate: bool) {
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
        for (from, to) in edges(offset, end).filter(|_| !planted(Bug::KeptEdges)) {
            self.patch(from, &[0; BLOCK_BYTES][..(to - from) as usize]);
        }
    }

    /// R12: byte ranges are merged in seq order.
    pub(in crate::volume) fn patch(&mut self, offset: u64, bytes: &[u8]) {
        let block = BlockNo(offset / BLOCK_BYTES as u64);
        let at = (offset % BLOCK_BYTES as u64) as usize;
        let below = self
            .layers
            .frozen
            .as_ref()
            .and_then(|f| f.overlay.get(block));
        self.layers.active.patch(block, at, bytes, below);
    }
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
