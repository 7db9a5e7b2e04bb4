//! The owner's audit (R16): fragments that no checkpoint reaches are freed. They were left by an
//! owner that died between writing a segment and committing the checkpoint that names it, or
//! between committing one that drops it and deleting; or by this one, where a disk was lost, its
//! slots moved, and they came back to it with what it had.
//!
//! **Invariant:** only the current owner condemns, and only what is older than its epoch, or what
//! it is done with itself: such a segment never enters the index any more, so that absence from
//! the committed index, seen once, is final. It is looked at only while the index is as the committed checkpoint says,
//! and once no older root is in the global record. What a disk does *not* list is never
//! evidence of anything.

use std::collections::{BTreeMap, VecDeque};

use model::ids::{DiskId, DiskRef, FragmentKey, RequestId};
use model::payload::Payload;
use model::placement::{Presence, View};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::Serving;
use crate::messages::{DiskReply, DiskRequest, FragmentAt};
use crate::planted::{Bug, planted};
use crate::volume::drain::Drain;
use crate::volume::journal::{RequestIds, ToDisk};

/// Fragments looked at with one question.
const PAGE_KEYS: u32 = 256;

/// Disks visited at once.
const VISITS_MAX: usize = 4;

/// Silences after which a disk is left to the next audit.
const ATTEMPTS_MAX: u8 = 5;

/// An audit of all disks, and when it is due again.
#[derive(Debug, Default)]
pub(super) struct Audit {
    due: Time,
    /// Disks that are still to be visited.
    queue: VecDeque<DiskRef>,
    visits: BTreeMap<DiskId, Visit>,
}

impl Audit {
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.visits.is_empty()
    }

    /// Whether a disk waits to be visited and may be: visits that nobody answered ended.
    fn may_visit(&self) -> bool {
        !self.queue.is_empty() && self.visits.len() < VISITS_MAX
    }

    fn begin_visits(&mut self) {
        while self.visits.len() < VISITS_MAX
            && let Some(at) = self.queue.pop_front()
        {
            let visit = Visit {
                at,
                after: None,
                step: Step::List,
                asked: None,
                attempts: 0,
            };
            self.visits.insert(at.disk, visit);
        }
    }
}

/// How far the audit of one disk has come.
#[derive(Debug)]
struct Visit {
    at: DiskRef,
    /// Where the next page begins.
    after: Option<FragmentKey>,
    step: Step,
    asked: Option<(RequestId, Time)>,
    attempts: u8,
}

#[derive(Debug)]
enum Step {
    /// The next page is asked for.
    List,
    /// A page is to be looked at, as soon as the index allows it.
    Judge(Vec<FragmentAt>),
    /// What was condemned is being deleted.
    Delete(Vec<FragmentKey>),
}

impl Serving {
    /// Begins an audit if one is due, and looks at what the disks listed.
    pub(super) fn step_audit(&mut self, now: Time, view: &View) {
        if self.stopping {
            return;
        }
        if self.audit.is_idle() && now >= self.audit.due && self.may_audit() {
            self.begin_audit(now, view);
        }
        let is_judged = |v: &&Visit| matches!(v.step, Step::Judge(_));
        if self.index_is_committed() {
            let judged = self.audit.visits.values().filter(is_judged);
            let judged: Vec<DiskId> = judged.map(|v| v.at.disk).collect();
            for id in judged {
                self.judge(id);
            }
        }
        self.audit.begin_visits();
    }

    /// Whether the index holds what the committed checkpoint says, no more and no less.
    pub(in crate::volume) fn index_is_committed(&self) -> bool {
        matches!(
            self.drain,
            Drain::Idle | Drain::Merging { .. } | Drain::Blocked { .. } | Drain::Writing { .. }
        )
    }

    /// The first checkpoint after replay is made, or there was nothing to replay; and nothing
    /// older is in the global record.
    fn may_audit(&self) -> bool {
        let current = self.journal.checkpoint();
        let nothing_replayed = self.layers.active.is_empty() && self.layers.frozen.is_none();
        let replayed = current.at.epoch == self.epoch || nothing_replayed;
        replayed && self.index_is_committed() && self.published.covers == current.checkpoint.covers
    }

    fn begin_audit(&mut self, now: Time, view: &View) {
        self.audit.due = now + self.config.audit_every;
        let up = view.disks.values().filter(|d| d.presence == Presence::Up);
        self.audit.queue.extend(up.map(|d| d.at));
    }

    /// Condemns what a page shows to be unreachable.
    fn judge(&mut self, id: DiskId) {
        // R16: what a pending checkpoint drops is still reached by the committed one.
        assert!(self.index_is_committed());
        let visit = self.audit.visits.get_mut(&id).expect("just listed");
        let Step::Judge(page) = &visit.step else {
            return;
        };
        let mut condemned = Vec::new();
        for FragmentAt { key, .. } in page {
            let segment = key.segment;
            let foreign = segment.volume != self.id;
            let names = &self.segment_counter;
            let spared = segment.epoch == self.epoch && planted(Bug::SpareOwn);
            let too_young = !names.is_settled(segment) && !planted(Bug::CondemnOwn) || spared;
            if foreign || too_young || self.dropped.contains(segment) {
                continue;
            }
            match self.layers.index.reaches(segment) {
                Ok(true) => {}
                Ok(false) => condemned.push(*key),
                Err(missing) => {
                    // Damage is seen by the next settle; pages arrive, and it is looked again.
                    let (ids, out) = (&mut self.segment_ids, &mut self.to_segment);
                    self.reader.load(missing, ids, out);
                    return;
                }
            }
        }
        visit.after = page.last().map(|f| f.key).or(visit.after);
        let is_last = page.len() < PAGE_KEYS as usize;
        if !condemned.is_empty() {
            reached(Sometimes::OrphanCondemned);
            self.freed_orphans += condemned.len() as u64;
            visit.step = Step::Delete(condemned);
        } else if is_last {
            self.audit.visits.remove(&id);
        } else {
            visit.step = Step::List;
        }
    }

    /// Sends what is due to the disks that are visited.
    pub(super) fn pump_audit(&mut self, now: Time, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        let retry = self.config.meta_retry * 10;
        let volume = self.id;
        self.audit.visits.retain(|_, visit| {
            if visit.asked.is_some_and(|(_, at)| now.since(at) < retry) {
                return true;
            }
            let incarnation = visit.at.incarnation;
            let request = match &visit.step {
                Step::Judge(_) => return true,
                Step::List => DiskRequest::List {
                    incarnation,
                    volume,
                    after: visit.after,
                    limit: PAGE_KEYS,
                },
                Step::Delete(keys) => DiskRequest::Delete {
                    incarnation,
                    keys: keys.clone(),
                    rows: Vec::new(),
                },
            };
            visit.attempts += 1;
            if visit.attempts > ATTEMPTS_MAX {
                return false;
            }
            let id = ids.take();
            visit.asked = Some((id, now));
            out.push(ToDisk {
                at: visit.at,
                id,
                request,
                payload: Payload::empty(),
            });
            true
        });
    }

    /// Takes a disk's answer, if it is one to the audit.
    pub(super) fn audit_reply(&mut self, disk: DiskId, id: RequestId, reply: &DiskReply) -> bool {
        let Some(visit) = self.audit.visits.get_mut(&disk) else {
            return false;
        };
        if visit.asked.is_none_or(|(asked, _)| asked != id) {
            return false;
        }
        match (&visit.step, reply) {
            (Step::List, DiskReply::Keys(page)) => {
                visit.step = Step::Judge(page.clone());
            }
            (Step::Delete(_), DiskReply::Deleted) => visit.step = Step::List,
            // Another life of the disk has nothing of the old one's.
            (_, DiskReply::WrongIncarnation) => {
                self.audit.visits.remove(&disk);
                return true;
            }
            // Busy: asked again after a while.
            _ => return true,
        }
        visit.asked = None;
        visit.attempts = 0;
        true
    }

    /// When [`Serving::step_audit`] or [`Serving::pump_audit`] is due without another input.
    pub(super) fn audit_deadline(&self) -> Option<Time> {
        // An idle volume has no other input then (simulator seeds 457 and 754).
        if self.audit.may_visit() && !self.stopping {
            return Some(Time::ZERO);
        }
        let retry = self.config.meta_retry * 10;
        let visits = self.audit.visits.values();
        let asked = visits.filter_map(|v| Some(v.asked?.1 + retry)).min();
        match asked {
            Some(at) => Some(at),
            None if self.audit.is_idle() && self.is_serving() && self.may_audit() => {
                Some(self.audit.due)
            }
            None => None,
        }
    }
}
