//! The way of committed data out of the journal: freeze an exact cut, merge patches, pack and
//! spread segments, update the index, write its pages, record the checkpoint, trim.
//!
//! **Invariant (R3):** the journal is trimmed only behind a `Checkpoint` record that is on a
//! majority, whose data and index segments are all written. One drain at a time.

mod room;
mod segments;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::geometry::SEGMENT_BYTES_MAX;
use model::ids::{BlockNo, Position};
use model::journal::{Checkpoint, RecordBody};
use model::payload::Payload;
use model::placement::View;
use model::sometimes::{Sometimes, reached};
use model::store::{Claim, SegmentKind};
use model::time::Time;

use super::Pending;
use super::index::{Delta, Pace, Plan};
use super::journal::CommittedCheckpoint;
use super::layers::Frozen;
use super::overlay::{Content, Run};
use super::read::Target;
use super::serve::Serving;
use crate::messages::{SegmentRef, SegmentRequest};
use crate::planted::{Bug, planted};
use segments::Packed;

/// Blocks of a full segment.
pub(super) const SEGMENT_BLOCKS: usize = SEGMENT_BYTES_MAX / BLOCK_BYTES;

/// Attempts to read a block's base before its patch is kept (R28): the first may have looked at
/// a segment that is gone since.
const BASE_ATTEMPTS: u8 = 3;

/// How far the drain has come.
#[derive(Debug)]
pub(super) enum Drain {
    /// Nothing is being drained.
    Idle,
    /// Bases of patched blocks are being read.
    Merging {
        /// Blocks that wait for theirs, and how often it could not be read.
        waiting: BTreeMap<BlockNo, u8>,
        /// What still waits then is kept (R28).
        until: Time,
    },
    /// No pool takes segments, or one was not taken: looked at again with every input.
    Blocked {
        unwritten: Vec<Packed>,
        written: Vec<Packed>,
        writes: Pending<Packed>,
    },
    /// Data segments are being written.
    Writing {
        writes: Pending<Packed>,
        written: Vec<Packed>,
    },
    /// The index takes the changes in; it may need pages.
    Indexing { deltas: VecDeque<Delta> },
    /// Index segments are being written.
    Paging {
        plan: Plan,
        writes: Pending<SegmentRef>,
        failed: bool,
    },
    /// The checkpoint's record is on its way to a majority.
    Recording { at: Position, plan: Plan },
}

impl Serving {
    fn drain_due(&self, now: Time) -> bool {
        if now < self.held_until && !self.stopping {
            return false;
        }
        let log = self.journal.log();
        let active = &self.layers.active;
        let trimmable = self.applied_beyond_checkpoint();
        let bytes = active.data_blocks() * BLOCK_BYTES as u64;
        let oldest = self.oldest_write.map(|t| now.since(t));
        // What was kept waits for its time, however much it is (R28).
        let fresh = trimmable && !self.only_kept();
        let enough = bytes >= self.config.drain_bytes
            || log.len() >= self.config.drain_records
            // Blocks written over and over fill the window, not the segments.
            || log.written_bytes() >= self.config.window_bytes / 2
            || log.zeroed_bytes() >= self.config.zeros_bytes / 2
            || log.stored_bytes() >= self.config.bypass.drain_bytes;
        (fresh && (enough || self.stopping))
            || self.kept_due.is_some_and(|due| now >= due)
            || self.rewriter_wants_checkpoint()
            || self.tidy_due().is_some_and(|due| now >= due)
            || oldest.is_some_and(|age| age >= self.config.drain_age)
            || (oldest.is_some() && now.since(self.last_write) >= self.config.drain_idle)
    }

    /// When the index is to be tidied by a checkpoint of its own: it was not tidy after the last
    /// one, and nobody writes. What was kept is not tried for that before its time (R28).
    fn tidy_due(&self) -> Option<Time> {
        let due = self
            .tidy_from?
            .max(self.last_write + self.config.drain_idle);
        (self.kept_due.is_none() && !self.stopping).then_some(due)
    }

    /// Whether clients write. An owner that stops makes haste.
    fn pace(&self, now: Time) -> Pace {
        let rests = now.since(self.last_write) >= self.config.drain_idle;
        match rests && !self.stopping {
            true => Pace::Resting,
            false => Pace::Busy,
        }
    }

    /// The new segments of the checkpoint whose record is on its way to a majority.
    pub(super) fn recording(&self) -> Option<Vec<SegmentRef>> {
        let Drain::Recording { plan, .. } = &self.drain else {
            return None;
        };
        let pages = plan.segments().iter().map(|(segment, _)| *segment);
        Some(pages.chain(self.layers.index.pending_segments()).collect())
    }

    /// When an idle drain looks again.
    pub(super) fn drain_deadline(&self) -> Option<Time> {
        match self.drain {
            Drain::Idle => {
                let idle = self.last_write + self.config.drain_idle;
                let oldest = self
                    .oldest_write
                    .map(|at| idle.min(at + self.config.drain_age));
                let copied = self.rewriter_wants_checkpoint().then_some(self.held_until);
                let upkeep = self
                    .kept_due
                    .into_iter()
                    .chain(self.tidy_due())
                    .chain(copied);
                let due = oldest.into_iter().chain(upkeep).min();
                due.map(|due| due.max(self.held_until))
            }
            Drain::Merging { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Whether something is applied that the latest checkpoint does not cover, other than the
    /// checkpoint's own record and an epoch's start.
    fn applied_beyond_checkpoint(&self) -> bool {
        if !self.layers.active.is_empty() {
            return true;
        }
        let log = self.journal.log();
        log.from(log.base().seq.next()).any(|r| {
            !matches!(
                r.head.body,
                RecordBody::Checkpoint(_) | RecordBody::EpochStart | RecordBody::Recovered
            )
        })
    }

    /// Takes the drain as far as it goes without waiting.
    pub(super) fn step_drain(&mut self, now: Time, view: &View) {
        loop {
            let makes_room = self.would_make_room(now);
            match &mut self.drain {
                Drain::Idle => {
                    if !self.drain_due(now) {
                        return;
                    }
                    self.freeze(now);
                }
                Drain::Merging { waiting, until } if waiting.is_empty() || now >= *until => {
                    if !self.find_replacing(now) {
                        return;
                    }
                    self.keep(now);
                    self.pack(view);
                }
                Drain::Blocked { writes, .. } if makes_room => {
                    if !writes.is_empty() {
                        return;
                    }
                    self.take_back(now);
                }
                Drain::Blocked { unwritten, .. } if unwritten.iter().any(Packed::has_no_room) => {
                    self.keep_crowded_out(now);
                }
                Drain::Blocked {
                    unwritten,
                    written,
                    writes,
                } => {
                    if view.pool_for(self.code).is_none() {
                        return;
                    }
                    let unwritten = std::mem::take(unwritten);
                    self.drain = Drain::Writing {
                        writes: std::mem::take(writes),
                        written: std::mem::take(written),
                    };
                    for packed in unwritten {
                        self.write_packed(packed, view);
                    }
                }
                Drain::Writing { writes, written }
                    if writes.is_empty() || planted(Bug::EarlyTrim) =>
                {
                    written.extend(std::mem::take(writes).into_values());
                    let written = std::mem::take(written);
                    let mut deltas = VecDeque::from([self.delta(written)]);
                    // After what was written: of that, nothing lies where it was copied from.
                    deltas.extend(self.rewriter.take_moved());
                    let brought = deltas.iter().flat_map(Delta::segments);
                    brought.for_each(|segment| self.segment_counter.indexed(segment));
                    self.drain = Drain::Indexing { deltas };
                }
                Drain::Indexing { .. } => {
                    if !self.index_deltas(now, view) {
                        return;
                    }
                }
                Drain::Paging {
                    writes,
                    failed: true,
                    ..
                } if writes.is_empty() => self.abort_plan(),
                Drain::Paging { writes, .. } if writes.is_empty() => self.record_checkpoint(),
                Drain::Merging { .. }
                | Drain::Writing { .. }
                | Drain::Paging { .. }
                | Drain::Recording { .. } => return,
            }
        }
    }

    /// A page's segment could not be written: the pages are made anew, and what was written of them is
    /// deleted (R16).
    fn abort_plan(&mut self) {
        let Drain::Paging { plan, .. } = std::mem::replace(&mut self.drain, Drain::Idle) else {
            unreachable!("pages were being written")
        };
        let segments = self.layers.index.abort(plan);
        self.to_segment.push(SegmentRequest::Delete { segments });
        self.drain = Drain::Indexing {
            deltas: VecDeque::new(),
        };
    }

    /// Cuts: what was committed until now is drained, what comes after is not (R13).
    fn freeze(&mut self, now: Time) {
        assert!(self.layers.frozen.is_none());
        let covers = self.applied();
        let overlay = std::mem::take(&mut self.layers.active);
        self.oldest_write = None;
        self.kept_due = None;
        self.tidy_from = None;
        let patched: Vec<BlockNo> = overlay
            .runs()
            .filter(|(_, run)| matches!(run.content, Content::Patch(_)))
            .map(|(block, _)| block)
            .collect();
        let sessions = self.sessions.encode(covers);
        self.layers.frozen = Some(Frozen {
            overlay,
            covers,
            unmerged: BTreeSet::new(),
            crowded_out: false,
            replacing: BTreeSet::new(),
            looked_to: BlockNo(0),
            sessions,
        });
        self.drain = Drain::Merging {
            waiting: patched.iter().map(|block| (*block, 0)).collect(),
            until: now + self.config.base_wait,
        };
        for block in patched {
            self.begin_read(Target::Base { block });
        }
    }

    /// A patched block's base arrived: merge, in the frozen layer.
    pub(super) fn base_read(&mut self, block: BlockNo, bytes: Option<Bytes>) {
        // It may come just when it was given up.
        let Drain::Merging { waiting, .. } = &mut self.drain else {
            return;
        };
        let Some(failed) = waiting.get_mut(&block) else {
            return;
        };
        let Some(bytes) = bytes else {
            *failed += 1;
            if *failed < BASE_ATTEMPTS {
                self.begin_read(Target::Base { block });
                return;
            }
            // R28: the drain goes on without it.
            waiting.remove(&block);
            let frozen = self.layers.frozen.as_mut();
            frozen.expect("a drain's layer").unmerged.insert(block);
            return;
        };
        waiting.remove(&block);
        let frozen = self
            .layers
            .frozen
            .as_mut()
            .expect("a merge has a frozen layer");
        let Some(Content::Patch(patch)) = frozen.overlay.get(block) else {
            unreachable!("frozen layers change by merges only")
        };
        reached(Sometimes::PartialMerged);
        let mut whole = bytes.to_vec();
        patch.lay_over(&mut whole);
        let content = Content::block(Bytes::from(whole));
        frozen.overlay.insert(block, Run { blocks: 1, content });
    }

    /// Applies the deltas, then plans the checkpoint; false while pages are being loaded.
    fn index_deltas(&mut self, now: Time, view: &View) -> bool {
        let pace = self.pace(now);
        let Drain::Indexing { deltas } = &mut self.drain else {
            unreachable!("the caller matched")
        };
        while let Some(delta) = deltas.front() {
            if let Err(missing) = self.layers.index.apply(delta) {
                self.reader
                    .load(missing, &mut self.segment_ids, &mut self.to_segment);
                return false;
            }
            deltas.pop_front();
        }
        let leave = self.rewriter.leave();
        if let Err(missing) = self.layers.index.prepare_checkpoint(leave, pace) {
            self.reader
                .load(missing, &mut self.segment_ids, &mut self.to_segment);
            return false;
        }
        let code = if planted(Bug::WeakIndex) {
            self.code
        } else {
            self.code.index()
        };
        let Some(pool) = view.pool_for(code) else {
            return false;
        };
        let covers = self
            .layers
            .frozen
            .as_ref()
            .expect("a drain has a frozen layer")
            .covers;
        let plan = self
            .layers
            .index
            .checkpoint(&mut self.segment_counter, pool, covers);
        let mut writes = Pending::new();
        for (segment, data) in plan.segments() {
            let id = self.segment_ids.take();
            writes.insert(id, *segment);
            self.to_segment.push(SegmentRequest::Write {
                id,
                segment: *segment,
                kind: SegmentKind::Index,
                claim: Claim::Index,
                data: data.clone(),
            });
        }
        if planted(Bug::EarlyDelete) {
            let segments = self.layers.index.dropped_by(&plan);
            self.to_segment.push(SegmentRequest::Delete { segments });
        }
        self.drain = Drain::Paging {
            plan,
            writes,
            failed: false,
        };
        true
    }

    /// Every segment that the checkpoint reaches is written: it may be recorded (R3, R14).
    fn record_checkpoint(&mut self) {
        let Drain::Paging {
            plan,
            writes,
            failed,
        } = std::mem::replace(&mut self.drain, Drain::Idle)
        else {
            unreachable!("the caller matched")
        };
        assert!(writes.is_empty() && !failed);
        let frozen = self
            .layers
            .frozen
            .as_ref()
            .expect("a drain has a frozen layer");
        let checkpoint = plan.checkpoint();
        assert_eq!(checkpoint.covers, frozen.covers);
        let sessions = Payload::from(Bytes::from(frozen.sessions.clone()));
        let at = self
            .journal
            .append(RecordBody::Checkpoint(checkpoint), sessions);
        self.drain = Drain::Recording { at, plan };
    }

    /// The checkpoint's record is committed: it counts (R3). The frozen layer is in the
    /// index, the log behind it goes, and what it dropped may be deleted once it is
    /// published.
    pub(super) fn checkpoint_recorded(&mut self, now: Time, at: Position) {
        let (Some(frozen), Drain::Recording { at: mine, .. }) = (&self.layers.frozen, &self.drain)
        else {
            // Adopted from an earlier owner, and already counted at the election.
            return;
        };
        assert_eq!(at, *mine);
        let sessions = Bytes::from(frozen.sessions.clone());
        let Drain::Recording { plan, .. } = std::mem::replace(&mut self.drain, Drain::Idle) else {
            unreachable!("just matched")
        };
        let checkpoint: Checkpoint = plan.checkpoint();
        self.layers.frozen = None;
        let pages = plan.segments().iter();
        pages.for_each(|(segment, _)| self.segment_counter.settle(segment.id));
        let dropped = self.layers.index.commit(plan);
        self.segment_counter.checkpointed();
        let is_untidy = self.layers.index.is_untidy();
        self.tidy_from = is_untidy.then_some(now + self.config.drain_idle);
        self.journal.checkpoint_committed(CommittedCheckpoint {
            at,
            checkpoint,
            sessions,
        });
        self.inherited_bytes = 0;
        self.rewriter.checkpointed();
        self.dropped.push(at, self.reader.horizon(), dropped);
    }
}
