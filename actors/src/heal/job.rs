//! One slot's move: passes over its row until one of them brought everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use model::ids::{DiskRef, SegmentId};
use model::spread::SlotMove;
use model::time::Time;

use super::copy::Copy;
use super::listing::{Listing, Missing};
use super::mend::Mend;
use super::sources::Row;

/// The pause between passes doubles so often.
const PAUSE_DOUBLINGS_MAX: u32 = 5;

/// How far a move has come.
#[derive(Debug)]
pub(super) enum State {
    /// Its next pass begins then, once it is its turn.
    Waiting(Time),
    /// The next window is being listed.
    Listing(Listing),
    /// What the window lacks is being brought.
    Copying(Copying),
    /// All is there: it is over but for the entry that says so.
    Done,
}

/// A window being filled.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) queue: VecDeque<Missing>,
    pub(super) running: BTreeMap<SegmentId, Copy>,
    /// Where the next window begins, if there is one.
    pub(super) end: Option<SegmentId>,
}

/// What was done for a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HealProgress {
    /// Fragments copied from where the slot lay.
    pub copied: u64,
    /// Fragments rebuilt from others.
    pub rebuilt: u64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// Bytes read in the site.
    pub local_bytes: u64,
    /// Bytes read over the WAN.
    pub wan_bytes: u64,
    /// Fragments that could not be brought in the last pass, and may be later.
    pub waiting: u64,
    /// Fragments that nobody can bring: their segments were given up, or are lost.
    pub lost: u64,
}

/// A move to a disk of this node; or the mending of a slot that lies there.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) healing: SlotMove,
    pub(super) row: Row,
    pub(super) state: State,
    /// All segments up to here were looked at in this pass.
    pub(super) cursor: Option<SegmentId>,
    /// Disks that took note of the move in this pass.
    pub(super) noted: BTreeSet<DiskRef>,
    /// Fragments that this pass did not bring and another one may.
    pub(super) left: u64,
    pub(super) progress: HealProgress,
    /// Nothing is moved: what rotted or is gone where the slot lies is brought back.
    pub(super) mend: Option<Mend>,
    /// Passes that were not enough since the row's disks last changed.
    passes: u32,
}

impl Job {
    pub(super) fn new(healing: SlotMove, row: Row, now: Time) -> Self {
        Self {
            healing,
            row,
            state: State::Waiting(now),
            cursor: None,
            noted: BTreeSet::new(),
            left: 0,
            progress: HealProgress::default(),
            mend: None,
            passes: 0,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Listing(_) | State::Copying(_))
    }

    /// A pass begins.
    pub(super) fn begin(&mut self) {
        self.cursor = None;
        self.noted.clear();
        self.left = 0;
        self.progress.lost = 0;
        match self.begin_mending() {
            Some(copying) => self.state = State::Copying(copying),
            None => self.list(),
        }
    }

    pub(super) fn list(&mut self) {
        self.state = State::Listing(Listing::of(&self.row));
    }

    /// The row's disks are others now. What was looked at in this pass was listed by those that
    /// served then; the rest is listed by those that serve now. Says whether the window under way
    /// begins anew: no answer to it is awaited any more.
    pub(super) fn row_changed(&mut self, row: Row) -> bool {
        self.row = row;
        self.passes = 0;
        let stale = match &self.state {
            State::Listing(listing) => !listing.is_of(&self.row),
            State::Copying(_) => true,
            State::Waiting(_) | State::Done => false,
        };
        if stale {
            self.list();
        }
        stale
    }

    /// Whether a pass that brought everything is enough (R20): every disk of the row that
    /// serves took note before it was listed, and one of them at least has a fragment of every
    /// segment that was ever stored for good. (What can't be rebuilt now is `left`.)
    pub(super) fn may_end(&self) -> bool {
        let all_noted = self.row.disks.keys().all(|at| self.noted.contains(at));
        self.left == 0 && all_noted && !self.row.complete.is_empty()
    }

    /// A pass ended that was not enough: others follow, further and further apart.
    pub(super) fn pause(&mut self, now: Time, pause: Duration) {
        let wait = pause * (1 << self.passes.min(PAUSE_DOUBLINGS_MAX));
        self.passes += 1;
        self.state = State::Waiting(now + wait);
    }
}
