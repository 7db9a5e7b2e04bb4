//! Segments that are written anew (R13, R26): an owner looks through the rows of its data
//! segments, walks over the blocks that lie in those that should not stay as they are, copies
//! them into new segments, and hands the changed pointers to the next checkpoint. That drops
//! the old segments, as any overwriting does.
//!
//! **Invariant (R13):** a pointer is changed only if it is still the one that was copied from.
//!
//! **Invariant (R15):** nothing is deleted here. A source goes once the checkpoint that reaches
//! it no more is committed and published; a copy of which nothing is mapped goes with the
//! checkpoint that would have brought it; one that its owner left behind is the audit's (R16).

mod cause;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::geometry::{Code, Pool};
use model::ids::{BlockNo, RequestId, SegmentId, Version};
use model::payload::Payload;
use model::placement::View;
use model::sometimes::{Sometimes, reached};
use model::store::{Claim, SegmentKind};
use model::time::Time;

pub use cause::Cause;
use survey::Survey;

use super::drain::{Drain, SEGMENT_BLOCKS};
use super::index::{Delta, NewMapping, Piece};
use super::read::JobId;
use super::serve::Serving;
use crate::bucket::Bucket;
use crate::messages::{SegmentRef, SegmentRequest};
use crate::meter::Meter;
use crate::planted::{Bug, planted};

/// Blocks that wait for a checkpoint at most.
const MOVED_BLOCKS_MAX: u64 = 8 * SEGMENT_BLOCKS as u64;

/// Pieces that are read together at most.
const PIECES_MAX: usize = 256;

/// Pause after a copy that could not be written.
const UNWRITABLE_PAUSE: Duration = Duration::from_millis(500);

/// When segments are written anew, and how fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RewriteTerms {
    /// What costs only space is looked for so often.
    pub every: Duration,
    /// Bytes a second that are copied at most.
    pub per_s: u64,
    /// Segments at most half alive are written anew once so many of their blocks are dead.
    pub dead_blocks: u64,
    /// Segments of fewer blocks than this are small.
    pub small_blocks: u32,
    /// So many small segments are brought together.
    pub small_segments: u32,
}

impl Default for RewriteTerms {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(10),
            per_s: 64 << 20,
            dead_blocks: 4 * SEGMENT_BLOCKS as u64,
            small_blocks: 64,
            small_segments: 64,
        }
    }
}

/// What is being written anew, for those who look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewriting {
    /// Why.
    pub cause: Cause,
    /// Blocks that were copied in this pass.
    pub blocks_done: u64,
    /// Blocks that are still to be copied.
    pub blocks_left: u64,
    /// Bytes a second, lately.
    pub bytes_per_s: u64,
}

/// One walk over the blocks of segments with one cause.
#[derive(Debug)]
struct Pass {
    cause: Cause,
    /// The segments, by counter.
    of: BTreeMap<u32, SegmentRef>,
    at: BlockNo,
    /// Blocks that are copied at a time: less after something was unreadable.
    batch: usize,
    blocks_done: u64,
    blocks_left: u64,
}

/// Blocks that are copied together, into one segment.
#[derive(Debug)]
struct Batch {
    pieces: Vec<Piece>,
    /// Where the walk goes on.
    next: Option<BlockNo>,
}

impl Batch {
    fn blocks(&self) -> usize {
        self.pieces.iter().map(|piece| piece.sums.len()).sum()
    }
}

#[derive(Debug)]
enum Step {
    /// Nothing is being done.
    Idle,
    /// The rows of all data segments are looked through.
    Surveying(Survey),
    /// The next blocks are looked for.
    Walking(Pass),
    /// They are being read.
    Reading(Pass, Batch, JobId),
    /// They are here.
    Read(Pass, Batch, Vec<Bytes>),
    /// The new segment is being written.
    Writing {
        pass: Pass,
        batch: Batch,
        id: RequestId,
        segment: SegmentRef,
    },
}

/// The owner's part that writes segments anew.
#[derive(Debug)]
pub(super) struct Rewriter {
    terms: RewriteTerms,
    step: Step,
    /// Something changed since the last survey began.
    changed: bool,
    due: Time,
    bucket: Bucket,
    /// Nothing is copied before this.
    hold_until: Time,
    /// When it goes on without another input.
    wake: Option<Time>,
    /// Copies that the next checkpoint takes in.
    moved: Vec<Delta>,
    moved_blocks: u64,
    /// The placement that was looked at last.
    placed: Option<Version>,
    /// Pools that nothing is to stay in.
    leave: BTreeSet<Pool>,
    /// Pages of the index lie in such a pool.
    pages_stay: bool,
    /// Blocks with [`Cause::AtRisk`], as of the last survey.
    at_risk_blocks: u64,
    rewritten_blocks: u64,
    meter: Meter,
    copied_at: Time,
}

impl Rewriter {
    pub(super) fn new(now: Time, terms: RewriteTerms) -> Self {
        Self {
            terms,
            step: Step::Idle,
            changed: true,
            due: now,
            bucket: Bucket::new(terms.per_s),
            hold_until: now,
            wake: None,
            moved: Vec::new(),
            moved_blocks: 0,
            placed: None,
            leave: BTreeSet::new(),
            pages_stay: false,
            at_risk_blocks: 0,
            rewritten_blocks: 0,
            meter: Meter::default(),
            copied_at: now,
        }
    }

    /// Pools that the index's pages are to leave with the next checkpoint.
    pub(super) fn leave(&self) -> &BTreeSet<Pool> {
        &self.leave
    }

    /// The pointers that changed, in the order in which they are to be applied.
    pub(super) fn take_moved(&mut self) -> Vec<Delta> {
        self.moved_blocks = 0;
        std::mem::take(&mut self.moved)
    }

    /// Whether there is nothing that only this life of the owner knows.
    pub(super) fn is_quiet(&self) -> bool {
        self.moved.is_empty() && !matches!(self.step, Step::Writing { .. })
    }

    /// Blocks that the next loss may make unreadable.
    pub(super) fn at_risk_blocks(&self) -> u64 {
        match self.pass() {
            Some(pass) if pass.cause == Cause::AtRisk => pass.blocks_left + self.moved_blocks,
            Some(_) | None => self.at_risk_blocks,
        }
    }

    pub(super) fn rewriting(&self) -> Option<Rewriting> {
        let pass = self.pass()?;
        Some(Rewriting {
            cause: pass.cause,
            blocks_done: pass.blocks_done,
            blocks_left: pass.blocks_left,
            bytes_per_s: self.meter.per_s(self.copied_at),
        })
    }

    pub(super) fn rewritten_blocks(&self) -> u64 {
        self.rewritten_blocks
    }

    fn pass(&self) -> Option<&Pass> {
        match &self.step {
            Step::Idle | Step::Surveying(_) => None,
            Step::Walking(pass)
            | Step::Reading(pass, ..)
            | Step::Read(pass, ..)
            | Step::Writing { pass, .. } => Some(pass),
        }
    }

    /// A checkpoint is committed: segments may have become sparse, and pages of the index have
    /// moved.
    pub(super) fn checkpointed(&mut self) {
        self.changed = true;
        if std::mem::take(&mut self.pages_stay) {
            self.due = Time::ZERO;
        }
    }

    /// The placement changed: what is wrong with where segments lie is seen at once. Pools that
    /// were to be left and are not any more stop a walk that would leave them.
    fn placement(&mut self, now: Time, view: &View) {
        if self.placed == Some(view.version) {
            return;
        }
        self.placed = Some(view.version);
        let leave: BTreeSet<Pool> = view
            .pools
            .keys()
            .filter(|pool| cause::of_pool(view, **pool).is_some())
            .copied()
            .collect();
        if leave == self.leave {
            return;
        }
        self.leave = leave;
        self.changed = true;
        self.due = now;
        if !matches!(self.step, Step::Writing { .. }) {
            self.step = Step::Idle;
        }
    }

    /// Ends a pass; what is at risk or misplaced is looked for again at once.
    fn end_pass(&mut self, now: Time, cause: Cause) {
        self.due = match cause {
            Cause::AtRisk | Cause::Misplaced => now,
            Cause::Sparse => now + self.terms.every,
        };
        self.step = Step::Idle;
    }
}

impl Serving {
    /// Whether the rewriter wants a checkpoint: it has enough, or no more to come.
    pub(super) fn rewriter_wants_checkpoint(&self) -> bool {
        let rewriter = &self.rewriter;
        let enough = rewriter.moved_blocks * BLOCK_BYTES as u64 >= self.config.drain_bytes
            || rewriter.moved_blocks >= MOVED_BLOCKS_MAX;
        let last = matches!(rewriter.step, Step::Idle) || self.stopping;
        enough || (last && (!rewriter.moved.is_empty() || (rewriter.pages_stay && !self.stopping)))
    }

    /// The placement changed.
    pub(super) fn rewriter_view(&mut self, now: Time, view: &View) {
        self.rewriter.placement(now, view);
    }

    /// Takes the rewriter as far as it goes without waiting.
    pub(super) fn step_rewriter(&mut self, now: Time, view: &View) {
        if self.stopping {
            if !matches!(self.rewriter.step, Step::Writing { .. }) {
                self.rewriter.step = Step::Idle;
            }
            return;
        }
        self.rewriter.wake = None;
        loop {
            let step = std::mem::replace(&mut self.rewriter.step, Step::Idle);
            let (step, goes_on) = match step {
                Step::Idle => self.begin_survey(now),
                Step::Surveying(survey) => self.survey(now, view, survey),
                Step::Walking(pass) => self.walk(now, view, pass),
                Step::Read(pass, batch, bytes) => self.write_copy(view, pass, batch, bytes),
                waits @ (Step::Reading(..) | Step::Writing { .. }) => (waits, false),
            };
            self.rewriter.step = step;
            if !goes_on {
                return;
            }
        }
    }

    fn begin_survey(&mut self, now: Time) -> (Step, bool) {
        let rewriter = &mut self.rewriter;
        // What is moved is in no row before a checkpoint took it in: that is waited for.
        let may = rewriter.changed && rewriter.moved.is_empty();
        if !may || !matches!(self.drain, Drain::Idle) {
            return (Step::Idle, false);
        }
        if now < rewriter.due {
            rewriter.wake = Some(rewriter.due);
            return (Step::Idle, false);
        }
        rewriter.changed = false;
        let survey = Survey::new(&rewriter.terms);
        (Step::Surveying(survey), true)
    }

    fn survey(&mut self, now: Time, view: &View, mut survey: Survey) -> (Step, bool) {
        if let Err(missing) = survey.proceed(&mut self.layers.index, view) {
            self.await_pages(now, missing);
            return (Step::Surveying(survey), false);
        }
        let rewriter = &mut self.rewriter;
        let terms = rewriter.terms;
        let target = view.pool_for(Code::INDEX);
        let can_leave = target.is_some_and(|pool| !rewriter.leave.contains(&pool));
        rewriter.pages_stay = can_leave && self.layers.index.lies_in(&rewriter.leave);
        rewriter.at_risk_blocks = survey.at_risk_blocks();
        match survey.choose(&terms) {
            Some((cause, of, blocks)) => {
                let pass = Pass {
                    cause,
                    of,
                    at: BlockNo(0),
                    batch: SEGMENT_BLOCKS,
                    blocks_done: 0,
                    blocks_left: blocks,
                };
                (Step::Walking(pass), true)
            }
            None => {
                rewriter.due = now + terms.every;
                (Step::Idle, false)
            }
        }
    }

    fn await_pages(&mut self, now: Time, missing: super::index::Missing) {
        self.reader
            .load(missing, &mut self.segment_ids, &mut self.to_segment);
        self.rewriter.wake = Some(now + self.config.meta_retry);
    }

    /// Whether copying waits: for clients who need the disks more, for a checkpoint, for a pool.
    /// What ends that is an input.
    fn is_held(&self, view: &View, cause: Cause) -> bool {
        let target = view.pool_for(self.code);
        let no_pool = target.is_none_or(|pool| self.rewriter.leave.contains(&pool));
        let is_urgent = cause == Cause::AtRisk || self.fullness.is_met();
        let busy = self.journal.log().written_bytes() >= self.config.window_bytes / 2;
        no_pool || (busy && !is_urgent) || self.rewriter.moved_blocks >= MOVED_BLOCKS_MAX
    }

    fn walk(&mut self, now: Time, view: &View, mut pass: Pass) -> (Step, bool) {
        if self.is_held(view, pass.cause) {
            return (Step::Walking(pass), false);
        }
        if now < self.rewriter.hold_until {
            self.rewriter.wake = Some(self.rewriter.hold_until);
            return (Step::Walking(pass), false);
        }
        let found = self.layers.index.pieces(pass.at, &pass.of, pass.batch);
        let mut found = match found {
            Ok(found) => found,
            Err(missing) => {
                self.await_pages(now, missing);
                return (Step::Walking(pass), false);
            }
        };
        if found.pieces.is_empty() {
            let Some(next) = found.next else {
                self.rewriter.end_pass(now, pass.cause);
                return (Step::Idle, true);
            };
            assert!(next > pass.at, "a walk goes on");
            pass.at = next;
            return (Step::Walking(pass), true);
        }
        // Clients' reads wait for no more than these.
        if let Some(beyond) = found.pieces.get(PIECES_MAX) {
            found.next = Some(beyond.first);
            found.pieces.truncate(PIECES_MAX);
        }
        let batch = Batch {
            pieces: found.pieces,
            next: found.next,
        };
        let bytes = (batch.blocks() * BLOCK_BYTES) as u64;
        if !self.rewriter.bucket.take(now, bytes) {
            let rewriter = &mut self.rewriter;
            rewriter.hold_until = rewriter.bucket.ready_at();
            rewriter.wake = Some(rewriter.hold_until);
            return (Step::Walking(pass), false);
        }
        let slots = self.layers.slots_of(&batch.pieces);
        let (layers, ids) = (&mut self.layers, &mut self.segment_ids);
        let job = self
            .reader
            .begin_copy(slots, layers, ids, &mut self.to_segment);
        (Step::Reading(pass, batch, job), false)
    }

    /// What was to be copied is here, or can't be read.
    pub(super) fn copy_read(&mut self, job: JobId, bytes: Option<Vec<Bytes>>) {
        let step = std::mem::replace(&mut self.rewriter.step, Step::Idle);
        self.rewriter.step = match (step, bytes) {
            (Step::Reading(pass, batch, mine), Some(bytes)) if mine == job => {
                Step::Read(pass, batch, bytes)
            }
            (Step::Reading(mut pass, batch, mine), None) if mine == job => {
                pass.batch = (batch.blocks() / 2).max(1);
                if batch.blocks() == 1 {
                    // It stays, for a later pass to try.
                    pass.at = BlockNo(batch.pieces[0].first.0 + 1);
                }
                Step::Walking(pass)
            }
            // Of a pass that was given up: the placement changed, or the owner stops.
            (other, _) => other,
        };
    }

    fn write_copy(
        &mut self,
        view: &View,
        pass: Pass,
        batch: Batch,
        bytes: Vec<Bytes>,
    ) -> (Step, bool) {
        let target = view.pool_for(self.code);
        let sound = target.filter(|pool| !self.rewriter.leave.contains(pool));
        let Some(pool) = sound else {
            return (Step::Walking(pass), false);
        };
        let mut data = Payload::empty();
        bytes.into_iter().for_each(|bytes| data.push(bytes));
        assert_eq!(
            data.len(),
            batch.blocks() * BLOCK_BYTES,
            "all that was asked for"
        );
        let segment = SegmentRef {
            id: self.segment_counter.take(self.id),
            pool,
            bytes: u32::try_from(data.len()).expect("within a segment"),
        };
        let id = self.segment_ids.take();
        self.to_segment.push(SegmentRequest::Write {
            id,
            segment,
            kind: SegmentKind::Data,
            claim: Claim::Upkeep,
            data,
        });
        let step = Step::Writing {
            pass,
            batch,
            id,
            segment,
        };
        (step, false)
    }

    /// Whether an answered write was a copy's, which is durable now.
    pub(super) fn copy_written(&mut self, now: Time, id: RequestId, written: SegmentId) -> bool {
        if !matches!(&self.rewriter.step, Step::Writing { id: mine, .. } if *mine == id) {
            return false;
        }
        let step = std::mem::replace(&mut self.rewriter.step, Step::Idle);
        let Step::Writing {
            mut pass,
            batch,
            segment,
            ..
        } = step
        else {
            unreachable!("just seen")
        };
        assert_eq!(segment.id, written);
        reached(Sometimes::SegmentRewritten);
        let blocks = batch.blocks() as u64;
        let rewriter = &mut self.rewriter;
        rewriter.moved.push(moved(&batch.pieces, segment));
        rewriter.moved_blocks += blocks;
        rewriter.rewritten_blocks += blocks;
        rewriter.meter.add(now, blocks * BLOCK_BYTES as u64);
        rewriter.copied_at = now;
        pass.blocks_done += blocks;
        pass.blocks_left = pass.blocks_left.saturating_sub(blocks);
        pass.batch = (pass.batch * 2).min(SEGMENT_BLOCKS);
        match batch.next {
            Some(next) => {
                pass.at = next;
                rewriter.step = Step::Walking(pass);
            }
            None => rewriter.end_pass(now, pass.cause),
        }
        true
    }

    /// Whether a given up write was a copy's: it is made again, a little later (R18).
    pub(super) fn copy_unwritable(&mut self, now: Time, id: RequestId) -> bool {
        let step = std::mem::replace(&mut self.rewriter.step, Step::Idle);
        match step {
            Step::Writing { pass, id: mine, .. } if mine == id => {
                self.rewriter.hold_until = now + UNWRITABLE_PAUSE;
                self.rewriter.step = Step::Walking(pass);
                true
            }
            other => {
                self.rewriter.step = other;
                false
            }
        }
    }

    /// When [`Serving::step_rewriter`] is due without another input.
    pub(super) fn rewriter_deadline(&self) -> Option<Time> {
        self.rewriter.wake.filter(|_| !self.stopping)
    }
}

/// The pointers to a copy: of blocks that are still where it was made from.
fn moved(pieces: &[Piece], segment: SegmentRef) -> Delta {
    let mut delta = Delta::default();
    let mut offset = 0;
    for piece in pieces {
        let to = NewMapping::Data {
            segment,
            offset,
            sums: piece.sums.clone(),
        };
        offset += u32::try_from(piece.sums.len() * BLOCK_BYTES).expect("within a segment");
        if planted(Bug::BlindMove) {
            delta.push(piece.first, piece.sums.len() as u64, to);
        } else {
            delta.push_moved(piece.first, piece.segment.id, piece.offset, to);
        }
    }
    assert_eq!(offset, segment.bytes, "all of the copy is mapped");
    delta
}
