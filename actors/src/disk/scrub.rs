//! The scrub: everything that the disk holds is read and checked, one pass after the other, at a
//! bounded pace. What is not as it was written is told to the node's Healer, which rebuilds it
//! from other disks and stores it here anew.
//!
//! A pass walks the catalog in pages of whole segments; how far it has come is kept durably now
//! and then. What a reader met damage in is looked at first. Whether the disk has everything
//! that it should have is not the disk's to know: the Healer compares it with others once a
//! pass ends.
//!
//! **Invariants:**
//! - A fragment is called verified only after the store read all of it in this pass.
//! - One that is rotten is told of until it is whole, or gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use model::ids::{FragmentKey, SegmentId};
use model::sometimes::{Sometimes, reached};
use model::store::{FragmentDone, FragmentMeta, FragmentOp, OpId, ScrubMark};
use model::time::Time;

use super::api::{ScrubNews, ScrubStats};
use super::config::ScrubConfig;
use super::{Disk, DiskEffect};
use crate::bucket::Bucket;
use crate::messages::FragmentAt;
use crate::planted::{Bug, planted};

/// Rotten fragments, and such that may be, that are remembered: a pass finds all others again.
const REMEMBERED_MAX: usize = 4096;

/// So often in a row do clients go first.
const YIELDS_MAX: u32 = 10;

/// While no pass is under way, it is kept so many times as rarely how long ago the last one was.
const KEPT_AT_REST: u32 = 12;

/// What reading a fragment of unknown length costs, until its length is known.
const SUSPECT_BYTES: u64 = 1 << 20;

#[derive(Debug)]
enum Phase {
    /// The next pass begins when it is due.
    Resting,
    /// A page is being looked up.
    Listing,
    /// A page is being read.
    Walking {
        queue: VecDeque<(FragmentKey, FragmentMeta)>,
        /// Where the next page begins, if there is one.
        next: Option<SegmentId>,
    },
}

/// What the store does for the scrub.
#[derive(Clone, Copy, Debug)]
enum Running {
    List,
    Verify {
        key: FragmentKey,
        walked: bool,
    },
    Keep,
    /// A fragment that was deleted since it was asked for.
    Forgotten,
}

/// The scrub of one disk.
#[derive(Debug)]
pub(super) struct Scrub {
    config: ScrubConfig,
    bucket: Bucket,
    mark: ScrubMark,
    /// Since when [`ScrubMark::pass_ns`] was not brought up to date.
    counted: Time,
    phase: Phase,
    running: Option<(OpId, Running)>,
    suspects: BTreeSet<FragmentKey>,
    rotten: BTreeMap<FragmentKey, FragmentMeta>,
    /// Nothing is to be done before.
    due: Time,
    /// When what is rotten is looked at again.
    again: Time,
    kept: Time,
    yields: u32,
}

impl Scrub {
    /// Goes on where an earlier life of the machine said that it was.
    pub(super) fn resumed(config: ScrubConfig, now: Time, mark: ScrubMark) -> Self {
        let phase = match mark.cursor {
            None => Phase::Resting,
            Some(at) => Phase::Walking {
                queue: VecDeque::new(),
                next: Some(at),
            },
        };
        Self {
            config,
            bucket: Bucket::new(config.bytes_per_s),
            mark,
            counted: now,
            phase,
            running: None,
            suspects: BTreeSet::new(),
            rotten: BTreeMap::new(),
            due: now + config.pause,
            again: now,
            kept: now,
            yields: 0,
        }
    }

    pub(super) fn stats(&self) -> ScrubStats {
        let running = !matches!(self.phase, Phase::Resting);
        let passed = Duration::from_nanos(self.mark.pass_ns);
        ScrubStats {
            mark: self.mark,
            running,
            next_in: (!running).then(|| self.config.every.saturating_sub(passed)),
            bytes_per_s: self.config.bytes_per_s,
            rotten: self.rotten.len() as u64,
            flagged: self.mark.found >= self.config.flagged_at,
        }
    }

    /// Whether so much rotted that what the disk holds is better elsewhere.
    pub(super) fn rots(&self) -> bool {
        self.mark.repaired >= self.config.emptied_at
    }

    /// When [`Disk::scrub_on`] has something to do; the store's answer comes by itself.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.running.is_none().then_some(self.due)
    }

    /// The operator wants a pass.
    pub(super) fn start(&mut self, now: Time) {
        if matches!(self.phase, Phase::Resting) {
            self.begin(now);
        }
    }

    fn begin(&mut self, now: Time) {
        assert!(
            matches!(self.phase, Phase::Resting),
            "one pass after the other"
        );
        self.count(now);
        self.mark.pass_ns = 0;
        self.mark.pass_bytes = 0;
        self.mark.cursor = None;
        self.phase = Phase::Listing;
        self.due = now;
    }

    fn count(&mut self, now: Time) {
        let passed = u64::try_from(now.since(self.counted).as_nanos()).unwrap_or(u64::MAX);
        self.mark.pass_ns = self.mark.pass_ns.saturating_add(passed);
        self.counted = now;
    }

    /// Somebody met damage in this fragment, or what looks like it.
    pub(super) fn suspect(&mut self, key: FragmentKey) {
        if self.suspects.len() < REMEMBERED_MAX && !self.rotten.contains_key(&key) {
            self.suspects.insert(key);
            self.due = Time::ZERO;
        }
    }

    /// A fragment was stored; `mends` tells whether the Healer brought it to where it had been.
    pub(super) fn stored(&mut self, key: FragmentKey, mends: bool) {
        if self.rotten.remove(&key).is_some() {
            reached(Sometimes::RotRepaired);
            self.mark.repaired += 1;
            // What was just written is read again: the place may be bad.
            self.suspect(key);
        } else if mends {
            self.mark.restored += 1;
        }
    }

    /// Fragments are being deleted: nobody is to repair them, and what is read of them says nothing.
    pub(super) fn deleted(&mut self, keys: &[FragmentKey]) {
        for key in keys {
            self.rotten.remove(key);
            self.suspects.remove(key);
        }
        if let Some((_, running)) = &mut self.running
            && matches!(running, Running::Verify { key, .. } if keys.contains(key))
        {
            *running = Running::Forgotten;
        }
    }

    /// What is rotten, and nobody has repaired.
    fn look_again(&mut self, now: Time) {
        if self.rotten.is_empty() || now < self.again {
            return;
        }
        self.again = now + self.config.again;
        self.suspects.extend(self.rotten.keys());
    }

    /// When something is due with nothing to read now.
    fn rest_until(&self, now: Time) -> Time {
        let passed = Duration::from_nanos(self.mark.pass_ns);
        let pass = now + self.config.every.saturating_sub(passed);
        let pass = pass.min(self.kept + self.config.keep_every * KEPT_AT_REST);
        match self.rotten.is_empty() {
            true => pass,
            false => pass.min(self.again),
        }
    }

    /// What is to be read next, if the pace allows it.
    fn next(&mut self, now: Time) -> Option<Running> {
        let suspect = self.suspects.first().copied();
        let walked = match &self.phase {
            Phase::Walking { queue, .. } => queue.front().copied(),
            Phase::Resting | Phase::Listing => None,
        };
        let (key, bytes, walked) = match (suspect, walked) {
            (Some(key), _) => (key, SUSPECT_BYTES, false),
            (None, Some((key, meta))) => (key, u64::from(meta.fragment_bytes), true),
            (None, None) => return None,
        };
        if !self.bucket.take(now, bytes) {
            self.due = self.bucket.ready_at();
            return None;
        }
        if walked && let Phase::Walking { queue, .. } = &mut self.phase {
            queue.pop_front();
        }
        self.suspects.remove(&key);
        Some(Running::Verify { key, walked })
    }
}

impl Disk {
    /// Goes on, if anything is due.
    pub(super) fn scrub_on(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let scrub = &mut self.scrub;
        if self.retired || scrub.running.is_some() || now < scrub.due {
            return;
        }
        scrub.count(now);
        if self.fragments.count() >= scrub.config.busy_at && scrub.yields < YIELDS_MAX {
            scrub.yields += 1;
            scrub.due = now + scrub.config.pause;
            return;
        }
        scrub.yields = 0;
        scrub.look_again(now);
        if scrub.suspects.is_empty() && matches!(scrub.phase, Phase::Resting) {
            if Duration::from_nanos(scrub.mark.pass_ns) < scrub.config.every {
                return self.rest(now, out);
            }
            scrub.begin(now);
        }
        if let Some(Running::Verify { key, walked }) = scrub.next(now) {
            if planted(Bug::BlindScrub) {
                scrub.due = now;
                scrub.mark.verified_bytes += 1;
                return;
            }
            let running = Running::Verify { key, walked };
            return self.scrub_ask(running, FragmentOp::Verify { key }, out);
        }
        if scrub.suspects.is_empty() {
            self.turn_page(now, out);
        }
    }

    /// Nothing is to be read now.
    fn rest(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let scrub = &mut self.scrub;
        if now < scrub.kept + scrub.config.keep_every * KEPT_AT_REST {
            scrub.due = scrub.rest_until(now);
            return;
        }
        scrub.kept = now;
        let mark = scrub.mark;
        self.scrub_ask(Running::Keep, FragmentOp::KeepScrub(mark), out);
    }

    /// A page is read: on to the next one, or the pass is over.
    fn turn_page(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let scrub = &mut self.scrub;
        let after = match &scrub.phase {
            Phase::Resting => return,
            Phase::Listing => None,
            Phase::Walking { queue, .. } if !queue.is_empty() => return,
            Phase::Walking { next: None, .. } => return self.end_pass(now, out),
            Phase::Walking { next, .. } => *next,
        };
        scrub.mark.cursor = after;
        if now.since(scrub.kept) >= scrub.config.keep_every && after.is_some() {
            scrub.kept = now;
            let mark = scrub.mark;
            return self.scrub_ask(Running::Keep, FragmentOp::KeepScrub(mark), out);
        }
        let limit = scrub.config.page_keys;
        scrub.phase = Phase::Listing;
        let page = FragmentOp::Scan {
            of: None,
            after,
            limit,
        };
        self.scrub_ask(Running::List, page, out);
    }

    fn end_pass(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let scrub = &mut self.scrub;
        reached(Sometimes::ScrubPassed);
        let read = |phase: &Phase| matches!(phase, Phase::Walking { queue, next: None } if queue.is_empty());
        assert!(read(&scrub.phase), "a pass ends when all was read");
        scrub.phase = Phase::Resting;
        scrub.mark.cursor = None;
        scrub.mark.passes += 1;
        scrub.kept = now;
        scrub.due = scrub.rest_until(now);
        let mark = scrub.mark;
        out.push(DiskEffect::Scrub(ScrubNews::Walked));
        self.scrub_ask(Running::Keep, FragmentOp::KeepScrub(mark), out);
    }

    fn scrub_ask(&mut self, running: Running, request: FragmentOp, out: &mut Vec<DiskEffect>) {
        assert!(
            self.scrub.running.is_none(),
            "the store has one question at a time"
        );
        let op = self.op();
        self.scrub.running = Some((op, running));
        out.push(DiskEffect::Fragments { op, request });
    }

    /// The store's answer, if it is one to the scrub.
    pub(super) fn scrubbed(
        &mut self,
        now: Time,
        op: OpId,
        done: FragmentDone,
        out: &mut Vec<DiskEffect>,
    ) -> Option<FragmentDone> {
        let scrub = &mut self.scrub;
        let Some((_, running)) = scrub.running.take_if(|(asked, _)| *asked == op) else {
            return Some(done);
        };
        scrub.due = now;
        match (running, done) {
            (Running::List, FragmentDone::Scanned { keys, next }) => {
                let queue = keys.into();
                scrub.phase = Phase::Walking { queue, next };
            }
            (Running::Verify { key, walked }, FragmentDone::Verified { meta, whole }) => {
                let bytes = u64::from(meta.fragment_bytes);
                scrub.mark.verified_bytes += bytes;
                scrub.mark.pass_bytes += bytes * u64::from(walked);
                match whole {
                    true => {
                        scrub.rotten.remove(&key);
                    }
                    false => self.rotten(now, FragmentAt { key, meta }, out),
                }
            }
            // It was deleted meanwhile.
            (Running::Verify { key, .. }, _) => {
                scrub.rotten.remove(&key);
            }
            (Running::Keep | Running::List | Running::Forgotten, _) => {}
        }
        None
    }

    fn rotten(&mut self, now: Time, found: FragmentAt, out: &mut Vec<DiskEffect>) {
        let scrub = &mut self.scrub;
        let is_new = !scrub.rotten.contains_key(&found.key);
        if is_new {
            reached(Sometimes::RotFound);
            scrub.mark.found += 1;
        }
        if scrub.rotten.is_empty() {
            scrub.again = now + scrub.config.again;
        }
        if !is_new || scrub.rotten.len() < REMEMBERED_MAX {
            scrub.rotten.insert(found.key, found.meta);
        }
        out.push(DiskEffect::Scrub(ScrubNews::Rotten(found)));
    }
}
