//! The Healer: one a node. It fills the slots that are moved to the node's disks (R20), from the
//! catalogs of the row's other disks: no list of segments is kept anywhere else.
//!
//! A move is worked on in passes. In each, every disk of the row that serves takes note of the
//! move, durably, and from then on refuses what is placed by less; *then* it lists what it has.
//! What the new disk lacks of that is read from where the slot lay, or rebuilt from the cheapest
//! others. A pass that brought everything ends the move; else there is another one.
//!
//! Nothing is kept over a restart: the move is committed, and what was brought is listed by the
//! new disk like everything else.
//!
//! Reading order: `sources` (who may have what), `listing` (who has what), `copy` (one fragment),
//! `parts` (what other sites add up for it), `job` (one move), [`Healer`], `answers`, `sums` (what is
//! added up here for others), `mend` (what rotted, or is gone, where it belongs).

mod answers;
mod config;
mod copy;
mod drive;
#[cfg(test)]
mod fixture;
mod job;
mod listing;
mod mend;
mod pace;
mod parts;
mod seen;
mod sources;
mod sums;
mod survey;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coding::Codec;
use model::geometry::{Code, Pool};
use model::ids::{DiskId, DiskRef, NodeId, RequestId, Row as RowNo, SegmentId, SiteId, Slot};
use model::machine::Machine;
use model::payload::Payload;
use model::placement::View;
use model::spread::SlotMove;
use model::time::Time;

use self::copy::Copy;
use self::job::{Copying, Job, State};
use self::pace::Pace;
use self::sums::Sums;
use self::survey::Survey;
use crate::disk::ScrubNews;
use crate::messages::{DiskReply, DiskRequest, HealerReply, HealerRequest, Message};
use crate::meter::Meter;
use crate::planted::{Bug, planted};

pub use config::HealConfig;
pub use job::HealProgress;
pub use survey::{Count, SlotKey};

/// What may happen to a [`Healer`].
#[allow(
    clippy::large_enum_variant,
    reason = "made and taken apart at once: a box would cost an allocation"
)]
#[derive(Debug)]
pub enum Input {
    /// The placement as it is now. Older ones than the current are ignored.
    View(Arc<View>),
    /// A disk answered.
    Disk {
        /// The disk.
        disk: DiskId,
        /// The request's id.
        id: RequestId,
        /// The answer.
        reply: DiskReply,
        /// The bytes beside it.
        payload: Bytes,
    },
    /// Another node's Healer asks.
    Asked {
        /// The node.
        node: NodeId,
        /// The request's id.
        id: RequestId,
        /// What.
        request: HealerRequest,
    },
    /// Another node's Healer answered.
    Told {
        /// The node.
        node: NodeId,
        /// The request's id.
        id: RequestId,
        /// The answer.
        reply: HealerReply,
        /// The bytes beside it.
        payload: Bytes,
    },
    /// What the scrub of a disk of this node found.
    Scrub {
        /// The disk.
        at: DiskRef,
        /// What.
        news: ScrubNews,
    },
}

/// What a [`Healer`] asks of its shell.
#[allow(
    clippy::large_enum_variant,
    reason = "made and taken apart at once: a box would cost an allocation"
)]
#[derive(Debug)]
pub enum Effect {
    /// Send to a disk; the answer comes back as [`Input::Disk`] with the same id. It may get
    /// lost: the machine asks again, with the same id.
    ToDisk {
        /// Where the disk is.
        node: NodeId,
        /// The disk.
        disk: DiskId,
        /// Correlates the answer.
        id: RequestId,
        /// The request.
        request: DiskRequest,
        /// The bytes beside it.
        payload: Payload,
    },
    /// Send to another node's Healer: a question, whose answer comes back as [`Input::Told`] with
    /// the same id if it does not get lost, or an answer.
    ToHealer {
        /// The node.
        node: NodeId,
        /// Correlates the answer.
        id: RequestId,
        /// What it says.
        message: Message,
        /// The bytes beside it.
        payload: Payload,
    },
    /// All moves that are over but for the entry that ends them; replaces what was said before.
    Healed(Vec<SlotMove>),
}

type Key = (Pool, RowNo, Slot);

/// A question that is out, for a move.
#[derive(Clone, Copy, Debug)]
struct Asked {
    key: Key,
    at: DiskRef,
    about: About,
}

#[derive(Clone, Copy, Debug)]
enum About {
    Page,
    Fetch(SegmentId),
    /// Of that site's Healer.
    Sum(SegmentId, SiteId),
    Put(SegmentId),
}

/// The machine.
#[derive(Debug)]
pub struct Healer {
    node: NodeId,
    config: HealConfig,
    view: Arc<View>,
    jobs: BTreeMap<Key, Job>,
    asked: BTreeMap<RequestId, Asked>,
    next_id: RequestId,
    pace: Pace,
    codecs: BTreeMap<Code, Codec>,
    survey: Survey,
    sums: Sums,
    meter: Meter,
    /// Whether the list of moves that are over is another one than was said.
    news: bool,
}

impl Healer {
    /// A Healer on `node` that numbers its requests from `start` on; see
    /// [`crate::segment::Segments::new`].
    #[must_use]
    pub fn new(node: NodeId, config: HealConfig, start: RequestId) -> Self {
        Self {
            node,
            config,
            view: Arc::default(),
            jobs: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_id: start,
            pace: Pace::new(&config),
            codecs: BTreeMap::new(),
            survey: Survey::default(),
            sums: Sums::default(),
            meter: Meter::default(),
            news: false,
        }
    }

    /// The moves to this node's disks, and what was done for each.
    pub fn progress(&self) -> impl Iterator<Item = (SlotMove, HealProgress)> + '_ {
        let moves = self.jobs.values().filter(|job| job.mend.is_none());
        moves.map(|job| (job.healing, job.progress))
    }

    /// What rows hold of which a slot is weak, and what the slots that are moved here hold by
    /// now, as far as it was counted.
    pub fn counts(&self) -> impl Iterator<Item = (SlotKey, Count)> + '_ {
        self.survey.counts()
    }

    /// Bytes a second that were brought lately.
    #[must_use]
    pub fn bytes_per_s(&self, now: Time) -> u64 {
        self.meter.per_s(now)
    }

    fn codec(&mut self, code: Code) -> Codec {
        let codec = self.codecs.entry(code).or_insert_with(|| {
            Codec::new(code).expect("the groups make pools of sound codes alone")
        });
        codec.clone()
    }

    /// Begins what may begin, asks what is to be asked.
    fn go_on(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.begin_jobs(now);
        for key in self.active_jobs() {
            self.drive(now, key, out);
        }
        let terms = (self.node, self.config.ask_timeout, self.config.page_keys);
        self.survey
            .go_on(now, terms, &self.view, &mut self.next_id, out);
        if std::mem::take(&mut self.news) {
            let done = self
                .jobs
                .values()
                .filter(|j| matches!(j.state, State::Done));
            out.push(Effect::Healed(done.map(|job| job.healing).collect()));
        }
    }

    /// The jobs that are worked on, those with the weakest rows first: they take what room there is
    /// for copies.
    fn active_jobs(&self) -> Vec<Key> {
        let active = self.jobs.iter().filter(|(_, job)| job.is_active());
        let mut active: Vec<_> = active.map(|(key, job)| (rank(key, job), *key)).collect();
        active.sort_unstable();
        active.into_iter().map(|(_, key)| key).collect()
    }

    /// Begins jobs as there is room, those with the weakest rows first.
    fn begin_jobs(&mut self, now: Time) {
        let active = self.jobs.values().filter(|job| job.is_active()).count();
        let room = self.config.moves_max.saturating_sub(active);
        if room == 0 {
            return;
        }
        let is_ready =
            |job: &Job| job.may_run() && matches!(job.state, State::Waiting(until) if until <= now);
        let ready = self.jobs.iter().filter(|(_, job)| is_ready(job));
        let mut ready: Vec<_> = ready.map(|(key, job)| (rank(key, job), *key)).collect();
        ready.sort_unstable();
        for (_, key) in ready.into_iter().take(room) {
            let job = self.jobs.get_mut(&key).expect("it is there");
            if planted(Bug::FinishEarly) && job.mend.is_none() {
                job.state = State::Done;
                self.news = true;
                continue;
            }
            job.begin();
        }
    }

    fn drive(&mut self, now: Time, key: Key, out: &mut Vec<Effect>) {
        // What was mended is gone from the list.
        while let Some(job) = self.jobs.get(&key) {
            match &job.state {
                State::Listing(listing) if listing.is_complete() => self.listed(now, key),
                State::Listing(_) => return self.ask_pages(now, key, out),
                State::Copying(copying)
                    if copying.queue.is_empty() && copying.running.is_empty() =>
                {
                    self.window_filled(now, key);
                }
                State::Copying(_) => {
                    self.start_copies(now, key);
                    if !self.drive_copies(now, key, out) {
                        return;
                    }
                }
                State::Waiting(_) | State::Done => return,
            }
        }
    }

    /// A window is listed: what lacks is to be brought.
    fn listed(&mut self, now: Time, key: Key) {
        let deleted = |volume| self.view.volumes.get(&volume).is_some_and(|v| v.deleted);
        let job = self.jobs.get_mut(&key).expect("it is there");
        let State::Listing(listing) = std::mem::replace(&mut job.state, State::Waiting(now)) else {
            unreachable!("it was listed");
        };
        job.noted.extend(listing.pages.keys());
        let (mut queue, end) = listing.missing(&job.healing, job.rotten());
        // R16: nothing of a deleted volume comes back.
        queue.retain(|missing| !deleted(missing.segment.volume));
        let first_missed = job.not_missed_before(&mut queue);
        job.left += first_missed;
        job.state = State::Copying(Copying {
            queue,
            running: BTreeMap::new(),
            end,
        });
    }

    /// On to the next window; after the last one, the pass is judged.
    fn window_filled(&mut self, now: Time, key: Key) {
        // Nothing of it is awaited any more: what was done without may answer yet.
        self.asked.retain(|_, asked| asked.key != key);
        let job = self.jobs.get_mut(&key).expect("it is there");
        let State::Copying(copying) = &job.state else {
            unreachable!("it was filled");
        };
        if let Some(end) = copying.end {
            job.cursor = Some(end);
            return job.list();
        }
        job.progress.waiting = job.left;
        if job.mend.is_some() {
            self.mend_on(now, key);
        } else if job.may_end() {
            job.state = State::Done;
            self.news = true;
        } else {
            job.pause(now, self.config.pass_pause);
        }
    }

    fn copies_running(&self) -> usize {
        let states = self.jobs.values().map(|job| match &job.state {
            State::Copying(copying) => copying.running.len(),
            _ => 0,
        });
        states.sum()
    }

    /// Takes segments from the window's queue as the pace allows.
    fn start_copies(&mut self, now: Time, key: Key) {
        let mut room = self
            .pace
            .copies_max(now)
            .saturating_sub(self.copies_running());
        let job = self.jobs.get_mut(&key).expect("it is there");
        let State::Copying(copying) = &mut job.state else {
            return;
        };
        while room > 0
            && let Some(missing) = copying.queue.front()
        {
            let bytes = u64::from(missing.meta.fragment_bytes);
            let reads = match missing.holders.contains_key(&key.2) {
                true => 1,
                false => u64::from(key.0.code.rebuilt_from()),
            };
            if !self.pace.take(now, bytes * reads) {
                return;
            }
            let missing = copying.queue.pop_front().expect("just seen");
            copying.running.insert(missing.segment, Copy::new(missing));
            room -= 1;
        }
    }
}

/// What goes first: what is known to lack, and of that the weakest row.
fn rank(key: &Key, job: &Job) -> (bool, Reverse<usize>) {
    let weakness = job.row.weakness(key.0.code.slots());
    (job.only_looks(), Reverse(weakness))
}

impl Machine for Healer {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::View(view) => self.view(now, view),
            Input::Scrub { at, news } => self.scrub_news(now, at, news),
            Input::Disk {
                disk,
                id,
                reply,
                payload,
            } => self.answered(now, disk, id, reply, &payload, out),
            Input::Asked { node, id, request } => {
                let terms = (&self.config, &*self.view, self.node);
                self.sums
                    .asked(now, terms, (node, id), request, &mut self.next_id, out);
            }
            Input::Told {
                node,
                id,
                reply,
                payload,
            } => self.told(now, (node, id), &reply, &payload),
        }
        self.go_on(now, out);
    }

    fn next_deadline(&self) -> Option<Time> {
        let (mut active, mut running, mut paced) = (0, 0, false);
        let (mut begins, mut due) = (None, self.survey.next_deadline());
        let sooner = |due: &mut Option<Time>, at: Time| *due = Some(due.map_or(at, |d| d.min(at)));
        for job in self.jobs.values() {
            active += usize::from(job.is_active());
            match &job.state {
                State::Waiting(until) if job.may_run() => sooner(&mut begins, *until),
                State::Waiting(_) => {}
                State::Listing(listing) => {
                    let out = listing.pages.values().filter_map(|page| page.out);
                    out.for_each(|out| sooner(&mut due, out.due));
                }
                State::Copying(copying) => {
                    running += copying.running.len();
                    paced |= !copying.queue.is_empty();
                    let questions = copying.running.values().flat_map(Copy::questions);
                    questions.for_each(|out| sooner(&mut due, out.due));
                }
                State::Done => {}
            }
        }
        let ready = self.pace.ready_at(running).filter(|_| paced);
        let begins = begins.filter(|_| active < self.config.moves_max);
        let sums = self.sums.next_deadline();
        let due = due.into_iter().chain(sums);
        due.chain(ready).chain(begins).min()
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.sums.expire(now, out);
        self.go_on(now, out);
    }
}
