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
mod copy;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::geometry::Pool;
use model::ids::{BlockNo, RequestId, Version};
use model::payload::Payload;
use model::placement::View;
use model::time::Time;

pub use cause::Cause;
use cause::Causes;
use survey::Survey;

use super::drain::SEGMENT_BLOCKS;
use super::index::{Delta, Piece};
use super::read::JobId;
use crate::bucket::Bucket;
use crate::messages::SegmentRef;
use crate::meter::Meter;
use crate::planted::{Bug, planted};

/// Blocks that wait for a checkpoint at most.
const MOVED_BLOCKS_MAX: u64 = 8 * SEGMENT_BLOCKS as u64;

/// So many times as long as usual is waited for what is read, at most.
const PATIENCE_MAX: u32 = 8;

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
    /// Where the walk goes on; nothing at its end.
    next: Option<BlockNo>,
    /// What it found and what is not copied yet: far apart or not, a copy is a full segment.
    found: Vec<Piece>,
    /// Blocks that are copied at a time: fewer while something unreadable is among them.
    batch: usize,
    blocks_done: u64,
    blocks_left: u64,
}

impl Pass {
    fn new(cause: Cause, of: BTreeMap<u32, SegmentRef>, blocks: u64) -> Self {
        Self {
            cause,
            of,
            next: Some(BlockNo(0)),
            found: Vec::new(),
            batch: SEGMENT_BLOCKS,
            blocks_done: 0,
            blocks_left: blocks,
        }
    }
}

fn blocks_of(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.sums.len()).sum()
}

#[derive(Debug)]
enum Step {
    /// Nothing is being done.
    Idle,
    /// The rows of all data segments are looked through.
    Surveying(Survey),
    /// The next blocks are looked for.
    Walking(Pass),
    /// They are being read, until then.
    Reading(Pass, Vec<Piece>, JobId, Time),
    /// They are here.
    Read(Pass, Vec<Piece>, Payload),
    /// The new segment is being written.
    Writing {
        pass: Pass,
        pieces: Vec<Piece>,
        data: Payload,
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
    /// What is being done is not to be done any more.
    given_up: bool,
    /// How many times as long as usual is waited for what is read: it doubles when that was in
    /// vain. On a narrow link an answer takes long, and the next one longer if it is asked for again.
    patience: u32,
    /// Segments that could not be read, or for whose copies there was no room, by counter, and
    /// until when they are left alone.
    resting: BTreeMap<u32, Time>,
    /// Pools that nothing is to stay in.
    leave: BTreeSet<Pool>,
    /// Pages of the index lie in such a pool.
    pages_stay: bool,
    /// Blocks with [`Cause::AtRisk`] that no checkpoint has elsewhere yet.
    at_risk_blocks: u64,
    /// Of those, the copied ones: waiting for a checkpoint, and in one that is not committed yet.
    moved_at_risk: u64,
    taken_at_risk: u64,
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
            given_up: false,
            patience: 1,
            resting: BTreeMap::new(),
            leave: BTreeSet::new(),
            pages_stay: false,
            at_risk_blocks: 0,
            moved_at_risk: 0,
            taken_at_risk: 0,
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
        self.taken_at_risk += std::mem::take(&mut self.moved_at_risk);
        std::mem::take(&mut self.moved)
    }

    /// Whether there is nothing that only this life of the owner knows.
    pub(super) fn is_quiet(&self) -> bool {
        self.moved.is_empty() && !matches!(self.step, Step::Writing { .. })
    }

    /// Blocks that the next loss may make unreadable.
    pub(super) fn at_risk_blocks(&self) -> u64 {
        self.at_risk_blocks
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

    /// Leaves segments alone that could not be copied: they hold up neither what can be, nor what
    /// is less urgent.
    fn rest(&mut self, now: Time, segments: impl Iterator<Item = u32>) {
        let until = now + self.terms.every;
        self.resting
            .extend(segments.map(|counter| (counter, until)));
    }

    /// Segments that are left alone now.
    fn resting(&mut self, now: Time) -> BTreeSet<u32> {
        self.resting.retain(|_, until| *until > now);
        self.resting.keys().copied().collect()
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
        let safe = std::mem::take(&mut self.taken_at_risk);
        self.at_risk_blocks = self.at_risk_blocks.saturating_sub(safe);
        if std::mem::take(&mut self.pages_stay) {
            self.due = Time::ZERO;
        }
    }

    /// The placement changed: what is wrong with where segments lie is seen at once, and a pass
    /// that may not be what is needed most any more is given up.
    fn placement(&mut self, now: Time, view: &View) {
        if self.placed == Some(view.version) {
            return;
        }
        self.placed = Some(view.version);
        let leave: BTreeSet<Pool> = view
            .pools
            .keys()
            .filter(|pool| !Causes::of(view, **pool).is_empty())
            .copied()
            .collect();
        if leave == self.leave {
            return;
        }
        self.leave = leave;
        self.resting.clear();
        self.changed = true;
        self.due = now;
        self.given_up = true;
    }

    /// When to look again after a pass: at once for what is at risk or misplaced, unless nothing
    /// of it could be copied. What the pass left behind was unreadable or is overwritten: without
    /// a copy no checkpoint follows, so that it would never be looked for again.
    fn end_pass(&mut self, now: Time, pass: &Pass) {
        self.changed |= pass.blocks_left > 0 && !planted(Bug::LeftUnread);
        self.due = match pass.cause {
            Cause::AtRisk | Cause::Misplaced if pass.blocks_done > 0 => now,
            Cause::AtRisk | Cause::Misplaced | Cause::Sparse => now + self.terms.every,
        };
    }
}
