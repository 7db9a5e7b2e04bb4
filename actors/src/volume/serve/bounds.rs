//! How far the volume reaches, and what becomes of what a smaller size cuts off.
//!
//! The size is the global group's word, and an owner may learn of it late. A cut is pending in
//! the record until the owner has journaled a hole there and a committed entry says so; until
//! then an owned volume can't grow. So an owner that lags serves too much only while nobody was
//! promised anything beyond the end, and what it acknowledged there is cut off with the rest.
//!
//! **Invariant:** nothing is served beyond the end that the owner knows, nor from a pending cut
//! on. A request that reaches further waits until the record was read after it came; if it still
//! reaches too far then, it is refused, and if a cut is pending there, it waits for its end.

use std::collections::VecDeque;
use std::time::Duration;

use model::block::BlockError;
use model::cut::Cut;
use model::ids::{Position, Version};
use model::journal::RecordBody;
use model::meta::{MetaReply, MetaRequest, MetaToken, Refusal};
use model::payload::Payload;
use model::placement::VolumeRecord;
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::{Serving, answer};
use crate::messages::VolumeReply;
use crate::planted::{Bug, planted};
use crate::volume::{Effect, StopReason, Waiting};

/// So many requests beyond the end wait at most; who asks for more is told to come again.
const BEYOND_MAX: usize = 256;

/// A request that reaches beyond the end.
#[derive(Debug)]
struct Beyond {
    waiting: Waiting,
    /// The first byte after its range.
    end: u64,
    look: Look,
}

/// Whether the record was read since a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    Due,
    Asked,
    Done,
}

/// How far a pending cut has come.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It is to be journaled.
    Due,
    /// It is journaled there.
    Journaled(Position),
    /// The global group is asked to end it.
    Ending(MetaToken, Time),
}

/// How far the volume reaches, as its owner knows.
#[derive(Debug)]
pub(super) struct Bounds {
    size_bytes: u64,
    resized: Version,
    cut: Option<(Cut, Step)>,
    beyond: VecDeque<Beyond>,
    asked: Option<(MetaToken, Time)>,
}

impl Bounds {
    pub(super) fn new(record: &VolumeRecord) -> Self {
        Self {
            size_bytes: record.size_bytes,
            resized: record.resized,
            cut: record.cut.map(|cut| (cut, Step::Due)),
            beyond: VecDeque::new(),
            asked: None,
        }
    }

    /// The size, as the record said it last, and its version.
    pub(super) fn size(&self) -> (u64, Version) {
        (self.size_bytes, self.resized)
    }

    /// The first byte that is not served.
    fn served(&self) -> u64 {
        self.cut
            .map_or(self.size_bytes, |(cut, _)| self.size_bytes.min(cut.from))
    }

    /// Whether what ends there is served.
    pub(super) fn serves(&self, end: u64) -> bool {
        end <= self.served()
    }

    /// Whether a request waits for a look at the record that nobody asked for yet.
    fn looks_due(&self) -> bool {
        let mut beyond = self.beyond.iter();
        beyond.any(|r| r.look == Look::Due && r.end > self.size_bytes)
    }

    /// Takes what a record of this epoch says, if it is newer than what is known.
    fn learn(&mut self, record: &VolumeRecord) {
        if record.resized > self.resized {
            self.size_bytes = record.size_bytes;
            self.resized = record.resized;
            self.cut = record.cut.map(|cut| (cut, Step::Due));
        }
    }

    /// When the group is to be asked, or asked again.
    pub(super) fn deadline(&self, retry: Duration) -> Option<Time> {
        if self.asked.is_none() && self.looks_due() {
            return Some(Time::ZERO);
        }
        let ending = self.cut.and_then(|(_, step)| match step {
            Step::Ending(_, at) => Some(at),
            Step::Due | Step::Journaled(_) => None,
        });
        let asked = self.asked.map(|(_, at)| at);
        Some(ending.into_iter().chain(asked).min()? + retry)
    }
}

impl Serving {
    /// The record as somebody committed it, now or a while ago.
    pub(in crate::volume) fn learn(&mut self, record: &VolumeRecord) {
        if record.epoch == self.epoch {
            self.bounds.learn(record);
        }
    }

    /// A request that reaches beyond the end, up to `end`: it waits for a look at the record.
    pub(super) fn reach_beyond(
        &mut self,
        now: Time,
        waiting: Waiting,
        end: u64,
        out: &mut Vec<Effect>,
    ) {
        assert!(!self.bounds.serves(end));
        let (from, id) = (waiting.from, waiting.id);
        if planted(Bug::StaleEnd) && end > self.bounds.size_bytes {
            self.refuse(now, (from, id), BlockError::OutOfRange, out);
            return;
        }
        let same = |b: &Beyond| (b.waiting.from, b.waiting.id) == (from, id);
        if self.bounds.beyond.iter().any(same) {
            // Its client asks again; one of the two is enough.
            return;
        }
        if self.bounds.beyond.len() >= BEYOND_MAX {
            answer(out, from, id, VolumeReply::Busy);
            return;
        }
        self.bounds.beyond.push_back(Beyond {
            waiting,
            end,
            look: Look::Due,
        });
    }

    /// Looks at the record for those that wait for it, refuses what it does not reach, and
    /// takes a pending cut further.
    pub(super) fn step_bounds(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.step_cut(now);
        let retry = self.config.meta_retry * 10;
        if self
            .bounds
            .asked
            .is_some_and(|(_, at)| now.since(at) >= retry)
        {
            self.look_failed();
        }
        let size = self.bounds.size_bytes;
        let mut kept = VecDeque::new();
        let mut refused: Vec<Waiting> = Vec::new();
        for request in std::mem::take(&mut self.bounds.beyond) {
            if request.look == Look::Done && request.end > size {
                refused.push(request.waiting);
                continue;
            }
            kept.push_back(request);
        }
        self.bounds.beyond = kept;
        for request in refused {
            self.refuse_for_good(now, &request, BlockError::OutOfRange, out);
        }
        if self.bounds.asked.is_none() && self.bounds.looks_due() {
            let token = self.token();
            let request = MetaRequest::ReadVolume { volume: self.id };
            self.meta.push((token, request));
            self.bounds.asked = Some((token, now));
            for request in &mut self.bounds.beyond {
                request.look = match request.look {
                    Look::Due => Look::Asked,
                    look => look,
                };
            }
        }
    }

    /// The requests that are no longer beyond the end; all of them if the owner ends.
    pub(in crate::volume) fn no_longer_beyond(&mut self) -> Vec<Waiting> {
        let mut out = Vec::new();
        if self.bounds.beyond.is_empty() {
            return out;
        }
        for request in std::mem::take(&mut self.bounds.beyond) {
            let serves = self.bounds.serves(request.end);
            if serves || self.ended.is_some() {
                if serves {
                    reached(Sometimes::BeyondServed);
                }
                out.push(request.waiting);
            } else {
                self.bounds.beyond.push_back(request);
            }
        }
        out
    }

    /// A pending cut is journaled as a hole; once that is committed, the cut is ended. All that
    /// was acknowledged beyond the end before is in the journal before the hole.
    fn step_cut(&mut self, now: Time) {
        let Some((cut, step)) = self.bounds.cut else {
            return;
        };
        if self.stopping {
            return;
        }
        let retry = self.config.meta_retry * 10;
        let next = match step {
            Step::Due if planted(Bug::KeptTail) => Step::Journaled(self.applied),
            Step::Due => {
                reached(Sometimes::CutJournaled);
                Step::Journaled(self.append(now, RecordBody::Cut(cut), Payload::empty()))
            }
            Step::Journaled(at) if self.applied >= at => self.ask_to_end_cut(now),
            Step::Ending(_, at) if now.since(at) >= retry => self.ask_to_end_cut(now),
            Step::Journaled(_) | Step::Ending(..) => return,
        };
        self.bounds.cut = Some((cut, next));
    }

    fn ask_to_end_cut(&mut self, now: Time) -> Step {
        let token = self.token();
        let request = MetaRequest::EndCut {
            volume: self.id,
            epoch: self.epoch,
            resized: self.bounds.resized,
        };
        self.meta.push((token, request));
        Step::Ending(token, now)
    }

    fn look_failed(&mut self) {
        self.bounds.asked = None;
        for request in &mut self.bounds.beyond {
            if request.look == Look::Asked {
                request.look = Look::Due;
            }
        }
    }

    /// Takes the group's answer, if it is one to a question of this file.
    pub(super) fn bounds_reply(&mut self, token: MetaToken, reply: &MetaReply) -> bool {
        if self.bounds.asked.is_some_and(|(asked, _)| asked == token) {
            self.looked(reply);
            return true;
        }
        let ending = matches!(self.bounds.cut, Some((_, Step::Ending(asked, _))) if asked == token);
        if ending {
            match reply {
                MetaReply::Volume(Some(record))
                | MetaReply::Refused {
                    reason: Refusal::StaleVersion,
                    record: Some(record),
                } => self.learn(record),
                MetaReply::Refused { .. } | MetaReply::Volume(None) => {
                    self.fail(StopReason::Fenced);
                }
                // Unknown whether it happened: it is asked again.
                MetaReply::Done | MetaReply::Unavailable => {}
            }
        }
        ending
    }

    fn looked(&mut self, reply: &MetaReply) {
        let MetaReply::Volume(Some(record)) = reply else {
            // It is asked again; that the volume is no more, the view will tell.
            return self.look_failed();
        };
        if record.epoch != self.epoch {
            self.fail(StopReason::Fenced);
            return;
        }
        self.bounds.asked = None;
        self.bounds.learn(record);
        for request in &mut self.bounds.beyond {
            if request.look == Look::Asked {
                request.look = Look::Done;
            }
        }
    }
}
