//! A store that answers nothing at all: the device hangs.
//!
//! Nobody is told of an error, and whoever waits for the disk waits for ever: segments for their last
//! slot, and with them the drain, and writes once the journal's window is full. So the disk is given
//! up after a while, as one that is away, and opened again once the device let go of it.
//!
//! **Invariant:** an operation that was asked for, and neither answered nor given up, is waited for here.

use std::collections::BTreeMap;
use std::time::Duration;

use model::store::{DeviceError, FragmentOp, OpId};
use model::time::Time;

use super::slowness::Slowness;
use super::{Disk, DiskEffect};
use crate::planted::{Bug, planted};

/// How often it is looked whether an operation that takes long is answered: seldom enough to cost
/// nothing, and often enough to see that this process itself stood still.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What one store was asked and did not answer yet.
#[derive(Debug, Default)]
struct Lane {
    /// When each was asked, and whether how long it takes says how slow the device is.
    out: BTreeMap<OpId, (Time, bool)>,
    /// When it answered last.
    answered: Time,
}

impl Lane {
    /// Since when it has answered nothing that it was asked; nothing if nothing is asked.
    fn silent_since(&self) -> Option<Time> {
        let (_, (asked, _)) = self.out.first_key_value()?;
        Some(self.answered.max(*asked))
    }

    /// How long that took, if it says something.
    fn answered(&mut self, now: Time, op: OpId) -> Option<Duration> {
        self.answered = now;
        let (asked, counts) = self.out.remove(&op)?;
        counts.then(|| now.since(asked))
    }
}

/// What both stores are waited for.
#[derive(Debug, Default)]
pub(super) struct Waits {
    journal: Lane,
    fragments: Lane,
    /// When it was looked last.
    looked: Time,
}

impl Waits {
    /// When the device is taken for hung, if nothing is answered until then. A batch of fragments
    /// is answered as a whole, and may take longer than an append.
    fn deadline(&self, after: Duration) -> Option<Time> {
        let journal = self.journal.silent_since().map(|since| since + after);
        let fragments = self.fragments.silent_since().map(|since| since + after * 3);
        journal.into_iter().chain(fragments).min()
    }

    /// When it is looked next, if something is asked.
    fn look_at(&self) -> Option<Time> {
        let lanes = [&self.journal, &self.fragments].into_iter();
        let since = lanes.filter_map(Lane::silent_since).min()?;
        Some(since.max(self.looked) + LOOK_EVERY)
    }

    /// What was said while nobody listened is yet to be heard: it is waited for anew.
    fn begin_anew(&mut self, now: Time) {
        (self.journal.answered, self.fragments.answered) = (now, now);
        self.looked = now;
    }
}

impl Disk {
    pub(super) fn hung_deadline(&self) -> Option<Time> {
        let looks = self.waits.look_at();
        looks.filter(|_| !planted(Bug::EndlessPatience))
    }

    /// A store answered.
    pub(super) fn note_answer(&mut self, now: Time, op: OpId, is_journal: bool) {
        let lane = match is_journal {
            true => &mut self.waits.journal,
            false => &mut self.waits.fragments,
        };
        if let Some(took) = lane.answered(now, op) {
            self.slowness.note(now, took);
        }
    }

    /// What stores are asked from `from` on is waited for.
    pub(super) fn note_asked(&mut self, now: Time, from: usize, out: &[DiskEffect]) {
        for effect in &out[from..] {
            match effect {
                DiskEffect::Journal { op, .. } => {
                    self.waits.journal.out.insert(*op, (now, false));
                }
                DiskEffect::Fragments { op, request } => {
                    let counts = Slowness::counts(request);
                    self.waits.fragments.out.insert(*op, (now, counts));
                    if let FragmentOp::Delete { keys } = request {
                        self.scrub.deleted(keys);
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives the device up if it is time.
    pub(super) fn look_for_hang(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let Some(due) = self
            .hung_deadline()
            .filter(|at| !self.retired && now >= *at)
        else {
            return;
        };
        if now.since(due) >= LOOK_EVERY {
            // A process that was stopped, or a machine that slept: the device may have answered.
            self.waits.begin_anew(now);
            return;
        }
        self.waits.looked = now;
        let given_up = self.waits.deadline(self.config.hung_after);
        if given_up.is_none_or(|at| now < at) {
            return;
        }
        let waited = self.config.hung_after.as_secs();
        let error = DeviceError {
            what: "the device",
            detail: format!("it has answered nothing for {waited} s or longer"),
        };
        self.give_up(error, true, out);
    }
}
