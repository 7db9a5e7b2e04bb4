//! The steps of a pass: look for blocks, read them, write them, hand their pointers over.

use std::time::Duration;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::ids::{BlockNo, RequestId, SegmentId};
use model::payload::Payload;
use model::placement::View;
use model::sometimes::{Sometimes, reached};
use model::store::Claim;
use model::time::Time;

use super::survey::Survey;
use super::{Cause, MOVED_BLOCKS_MAX, PATIENCE_MAX, Pass, Rewriter, Step, blocks_of};
use crate::messages::SegmentRef;
use crate::planted::{Bug, planted};
use crate::volume::drain::{Drain, SEGMENT_BLOCKS};
use crate::volume::index::{Delta, Missing, NewMapping, Piece};
use crate::volume::read::{JobId, Target};
use crate::volume::serve::Serving;

/// Pause after a copy that found no room.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// A copy of so few blocks that finds no room is not cut any more.
const FULL_BLOCKS: usize = 32;

/// Steps that are taken without letting others have their turn.
const STEPS_MAX: usize = 8;

impl Serving {
    /// Whether the rewriter wants a checkpoint: it has enough, or no more to come.
    pub(in crate::volume) fn rewriter_wants_checkpoint(&self) -> bool {
        let rewriter = &self.rewriter;
        let enough = rewriter.moved_blocks * BLOCK_BYTES as u64 >= self.config.drain_bytes
            || rewriter.moved_blocks >= MOVED_BLOCKS_MAX;
        let last = matches!(rewriter.step, Step::Idle) || self.stopping;
        let has_more = rewriter.pages_stay && !self.stopping;
        enough || (last && (!rewriter.moved.is_empty() || has_more))
    }

    /// Takes the rewriter as far as it goes without waiting.
    pub(in crate::volume) fn step_rewriter(&mut self, now: Time, view: &View) {
        self.rewriter.placement(now, view);
        if self.stopping || self.rewriter.given_up {
            self.give_up_pass();
        }
        self.rewriter.wake = None;
        if self.stopping {
            return;
        }
        for _ in 0..STEPS_MAX {
            let step = std::mem::replace(&mut self.rewriter.step, Step::Idle);
            let (step, goes_on) = match step {
                Step::Idle => self.begin_survey(now),
                Step::Surveying(survey) => self.survey(now, view, survey),
                Step::Walking(pass) => self.walk(now, view, pass),
                Step::Reading(pass, pieces, job, until) => {
                    self.await_copy(now, pass, pieces, job, until)
                }
                Step::Read(pass, pieces, data) => self.write_copy(now, view, pass, pieces, data),
                waits @ Step::Writing { .. } => (waits, false),
            };
            self.rewriter.step = step;
            if !goes_on {
                return;
            }
        }
        self.rewriter.wake = Some(now);
    }

    /// Ends what is under way. A copy that is being written is waited for: it may be of use.
    fn give_up_pass(&mut self) {
        match &self.rewriter.step {
            Step::Writing { .. } => return,
            Step::Reading(..) => self.forget_reads(|target| matches!(target, Target::Copy)),
            Step::Idle | Step::Surveying(_) | Step::Walking(_) | Step::Read(..) => {}
        }
        self.rewriter.given_up = false;
        self.rewriter.changed = true;
        self.rewriter.step = Step::Idle;
    }

    fn begin_survey(&mut self, now: Time) -> (Step, bool) {
        // On a full fabric it may be the rewriter that a drain waits for.
        let stands = self.fullness.is_met() && self.index_is_committed();
        let may_look = stands || matches!(self.drain, Drain::Idle);
        let rewriter = &mut self.rewriter;
        // What is moved is in no row before a checkpoint took it in: that is waited for.
        let may = rewriter.changed && rewriter.moved.is_empty();
        if !may || !may_look {
            return (Step::Idle, false);
        }
        if now < rewriter.due {
            rewriter.wake = Some(rewriter.due);
            return (Step::Idle, false);
        }
        rewriter.changed = false;
        let resting = rewriter.resting(now);
        let crowded = self.fullness.is_met() && !planted(Bug::HeldOverwrite);
        let survey = Survey::new(&rewriter.terms, crowded, resting);
        (Step::Surveying(survey), true)
    }

    fn survey(&mut self, now: Time, view: &View, mut survey: Survey) -> (Step, bool) {
        if let Err(missing) = survey.proceed(&mut self.layers.index, view) {
            self.await_pages(now, missing);
            return (Step::Surveying(survey), false);
        }
        let mapped = self.layers.index.stats().mapped_blocks;
        let rewriter = &mut self.rewriter;
        let terms = rewriter.terms;
        let target = view.pool_for(self.code.index());
        let can_leave = target.is_some_and(|pool| !rewriter.leave.contains(&pool));
        rewriter.pages_stay = can_leave && self.layers.index.lies_in(&rewriter.leave);
        rewriter.at_risk_blocks = survey.at_risk_blocks();
        rewriter.changed |= survey.left_some() && !planted(Bug::LeftUnread);
        match survey.choose(&terms, mapped) {
            Some((cause, of, blocks)) => (Step::Walking(Pass::new(cause, of, blocks)), true),
            None => {
                rewriter.due = now + terms.every;
                (Step::Idle, true)
            }
        }
    }

    fn await_pages(&mut self, now: Time, missing: Missing) {
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
        let filling = self.journal.log().written_bytes() >= self.config.window_bytes / 2;
        let busy = filling || self.bypass.is_busy();
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
        let room = pass.batch.saturating_sub(blocks_of(&pass.found));
        if let Some(at) = pass.next.filter(|_| room > 0) {
            match self.layers.index.pieces(at, &pass.of, room) {
                Ok(found) => {
                    assert!(found.next.is_none_or(|next| next > at), "a walk goes on");
                    pass.found.extend(found.pieces);
                    pass.next = found.next;
                }
                Err(missing) => {
                    self.await_pages(now, missing);
                    return (Step::Walking(pass), false);
                }
            }
            return (Step::Walking(pass), true);
        }
        if pass.found.is_empty() {
            self.rewriter.end_pass(now, &pass);
            return (Step::Idle, true);
        }
        let bytes = (blocks_of(&pass.found) * BLOCK_BYTES) as u64;
        if !self.rewriter.bucket.take(now, bytes) {
            let rewriter = &mut self.rewriter;
            rewriter.hold_until = rewriter.bucket.ready_at();
            rewriter.wake = Some(rewriter.hold_until);
            return (Step::Walking(pass), false);
        }
        let pieces = std::mem::take(&mut pass.found);
        let slots = self.layers.slots_of(&pieces);
        let job = self
            .reader
            .begin_copy(slots, &mut self.segment_ids, &mut self.to_segment);
        let until = now + self.config.base_wait * self.rewriter.patience;
        self.rewriter.wake = Some(until);
        (Step::Reading(pass, pieces, job, until), false)
    }

    /// What waits for fragments that may be away for long holds up no others: neither blocks that
    /// can be read, nor deletes (R15).
    fn await_copy(
        &mut self,
        now: Time,
        pass: Pass,
        pieces: Vec<Piece>,
        job: JobId,
        until: Time,
    ) -> (Step, bool) {
        if now < until {
            self.rewriter.wake = Some(until);
            return (Step::Reading(pass, pieces, job, until), false);
        }
        self.forget_reads(|target| matches!(target, Target::Copy));
        let rewriter = &mut self.rewriter;
        rewriter.patience = (rewriter.patience * 2).min(PATIENCE_MAX);
        (
            Step::Walking(self.rewriter.unreadable(now, pass, &pieces)),
            true,
        )
    }

    /// What was to be copied is here, or can't be read.
    pub(in crate::volume) fn copy_read(
        &mut self,
        now: Time,
        job: JobId,
        bytes: Option<Vec<Bytes>>,
    ) {
        let step = std::mem::replace(&mut self.rewriter.step, Step::Idle);
        self.rewriter.step = match (step, bytes) {
            (Step::Reading(pass, pieces, mine, _), Some(bytes)) if mine == job => {
                let mut data = Payload::empty();
                bytes.into_iter().for_each(|bytes| data.push(bytes));
                let blocks = blocks_of(&pieces);
                assert_eq!(data.len(), blocks * BLOCK_BYTES, "all that was asked for");
                self.rewriter.patience = (self.rewriter.patience / 2).max(1);
                Step::Read(pass, pieces, data)
            }
            (Step::Reading(pass, pieces, mine, _), None) if mine == job => {
                Step::Walking(self.rewriter.unreadable(now, pass, &pieces))
            }
            // Of a pass that was given up.
            (other, _) => other,
        };
    }

    fn write_copy(
        &mut self,
        now: Time,
        view: &View,
        pass: Pass,
        pieces: Vec<Piece>,
        data: Payload,
    ) -> (Step, bool) {
        if now < self.rewriter.hold_until {
            self.rewriter.wake = Some(self.rewriter.hold_until);
            return (Step::Read(pass, pieces, data), false);
        }
        let target = view.pool_for(self.code);
        let sound = target.filter(|pool| !self.rewriter.leave.contains(pool));
        let Some(pool) = sound else {
            return (Step::Read(pass, pieces, data), false);
        };
        // What is at risk takes twice its space: clients' reserve is not for that (R18).
        let claim = match pass.cause {
            Cause::AtRisk | Cause::Misplaced => Claim::Client,
            Cause::Sparse => Claim::Upkeep,
        };
        let name = self.segment_counter.take(self.id);
        let (id, segment) = self.write_data(name, pool, claim, data.clone());
        let step = Step::Writing {
            pass,
            pieces,
            data,
            id,
            segment,
        };
        (step, false)
    }

    /// Whether an answered write was a copy's, which is durable now.
    pub(in crate::volume) fn copy_written(
        &mut self,
        now: Time,
        id: RequestId,
        written: SegmentId,
    ) -> bool {
        let step = std::mem::replace(&mut self.rewriter.step, Step::Idle);
        let (mut pass, pieces, segment) = match step {
            Step::Writing {
                pass,
                pieces,
                id: mine,
                segment,
                ..
            } if mine == id => (pass, pieces, segment),
            other => {
                self.rewriter.step = other;
                return false;
            }
        };
        assert_eq!(segment.id, written);
        reached(Sometimes::SegmentRewritten);
        let blocks = blocks_of(&pieces) as u64;
        let rewriter = &mut self.rewriter;
        rewriter.moved.push(moved(&pieces, segment));
        rewriter.moved_blocks += blocks;
        rewriter.rewritten_blocks += blocks;
        if pass.cause == Cause::AtRisk {
            rewriter.moved_at_risk += blocks;
        }
        rewriter.meter.add(now, blocks * BLOCK_BYTES as u64);
        rewriter.copied_at = now;
        pass.blocks_done += blocks;
        pass.blocks_left = pass.blocks_left.saturating_sub(blocks);
        pass.batch = (pass.batch * 2).min(SEGMENT_BLOCKS);
        rewriter.step = Step::Walking(pass);
        true
    }

    /// Whether a given up write was a copy's: it is written under the next counter (R18). For
    /// want of room the pass ends, if a checkpoint of what it copied makes some; else fewer blocks
    /// are tried: what disks have in reserve may be little.
    pub(in crate::volume) fn copy_unwritable(
        &mut self,
        now: Time,
        id: RequestId,
        full: bool,
    ) -> bool {
        let step = std::mem::replace(&mut self.rewriter.step, Step::Idle);
        match step {
            Step::Writing {
                mut pass,
                pieces,
                data,
                id: mine,
                ..
            } if mine == id => {
                let blocks = blocks_of(&pieces);
                let rewriter = &mut self.rewriter;
                let is_at_risk = pass.cause == Cause::AtRisk;
                rewriter.step = if full && (is_at_risk || !rewriter.moved.is_empty()) {
                    if is_at_risk {
                        // It is not what makes room.
                        rewriter.rest(now, pass.of.keys().copied());
                    }
                    rewriter.changed = true;
                    rewriter.due = now;
                    Step::Idle
                } else if full && blocks > FULL_BLOCKS {
                    pass.batch = (blocks / 2).max(FULL_BLOCKS);
                    pass.next = pieces.first().map(|piece| piece.first);
                    Step::Walking(pass)
                } else {
                    if full {
                        rewriter.hold_until = now + FULL_PAUSE;
                    }
                    Step::Read(pass, pieces, data)
                };
                true
            }
            other => {
                self.rewriter.step = other;
                false
            }
        }
    }

    /// When [`Serving::step_rewriter`] is due without another input.
    pub(in crate::volume) fn rewriter_deadline(&self) -> Option<Time> {
        self.rewriter.wake.filter(|_| !self.stopping)
    }
}

impl Rewriter {
    /// Some of the pieces can't be read now: fewer are tried from there on. The segment of one
    /// block that can't be read by itself is left for a later pass.
    fn unreadable(&mut self, now: Time, mut pass: Pass, pieces: &[Piece]) -> Pass {
        let blocks = blocks_of(pieces);
        let first = pieces.first().map_or(BlockNo(0), |piece| piece.first);
        pass.found.clear();
        pass.next = Some(first);
        pass.batch = (blocks / 2).max(1);
        if let ([piece], 1) = (pieces, blocks) {
            let counter = piece.segment.id.counter;
            pass.of.remove(&counter);
            self.rest(now, std::iter::once(counter));
            pass.batch = SEGMENT_BLOCKS;
        }
        pass
    }
}

/// The pointers to a copy: of blocks that are still where it was made from.
fn moved(pieces: &[Piece], segment: SegmentRef) -> Delta {
    let mut delta = Delta::default();
    let mut offset = 0;
    for piece in pieces {
        let (at, sums) = match planted(Bug::StrayCopy) && piece.sums.len() == 1 {
            true => (0, pieces[0].sums[..1].to_vec()),
            false => (offset, piece.sums.clone()),
        };
        let to = NewMapping::Data {
            segment,
            offset: at,
            sums,
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
