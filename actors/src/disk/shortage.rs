//! A journal without space for another file. That is no error of the device (R8): what would bring
//! more to it is left out of appends, and owners are told, so that they wait, or go on with other
//! replicas; what is queued keeps its place, and what frees files passes.
//!
//! **Invariant (R18):** of what is left of the current file, clients' bytes take half at most.

use std::time::Duration;

use model::store::{JournalOp, JournalRoom, OpId};
use model::time::Time;

use super::{Disk, DiskEffect};

/// How often it is tried whether there is space again.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// What is known of the journal's space.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// So many bytes are left, if there is no file to go on with once the current one is full.
    left_bytes: Option<u64>,
    /// What is queued found no place.
    holds_appends: bool,
    /// Nor did a release.
    holds_releases: bool,
    due: Time,
    trying: Option<OpId>,
}

impl Shortage {
    /// Whether what brings bytes is refused.
    pub(super) fn is_short(&self) -> bool {
        self.left_bytes.is_some()
    }

    /// Whether clients' bytes that stand before what frees files in an owner's log have a place, with
    /// so much queued. (No owner can let the one go without the others.)
    pub(super) fn takes_along(&self, queued_bytes: usize, bytes: usize) -> bool {
        let queued = (queued_bytes + bytes) as u64;
        self.left_bytes.is_none_or(|left| queued <= left / 2)
    }

    pub(super) fn holds_appends(&self) -> bool {
        self.holds_appends
    }

    pub(super) fn holds_releases(&self) -> bool {
        self.holds_releases
    }

    /// What the store said about its room.
    pub(super) fn told(&mut self, now: Time, room: JournalRoom) {
        match room {
            JournalRoom::Ample => *self = Self::default(),
            JournalRoom::Left(left) => {
                if self.left_bytes.replace(left).is_none() {
                    self.due = now + TRY_EVERY;
                }
            }
        }
    }

    /// An append found no place.
    pub(super) fn refused_append(&mut self, now: Time) {
        self.told(now, JournalRoom::Left(0));
        self.holds_appends = true;
    }

    /// A release found none.
    pub(super) fn refused_release(&mut self, now: Time) {
        self.told(now, JournalRoom::Left(0));
        self.holds_releases = true;
    }

    /// When there is something to try.
    pub(super) fn deadline(&self) -> Option<Time> {
        (self.is_short() && self.trying.is_none()).then_some(self.due)
    }
}

impl Disk {
    /// Tries whether there is space again, if that is due.
    pub(super) fn try_prepare(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let due = self.shortage.deadline();
        if self.retired || due.is_none_or(|due| now < due) {
            return;
        }
        let op = self.op();
        self.shortage.trying = Some(op);
        self.shortage.due = now + TRY_EVERY;
        let request = JournalOp::Prepare;
        out.push(DiskEffect::Journal { op, request });
    }

    /// The store's answer to that.
    pub(super) fn prepared(&mut self, now: Time, op: OpId, room: JournalRoom) {
        if self.shortage.trying == Some(op) {
            self.shortage.trying = None;
        }
        self.shortage.told(now, room);
        // A release needs no more than a block.
        self.shortage.holds_releases = false;
    }

    /// Tells the shell when it changed whether the journal has room.
    pub(super) fn tell_shortage(&mut self, out: &mut Vec<DiskEffect>) {
        let is_short = self.shortage.is_short();
        if is_short != self.told_short && !self.retired {
            self.told_short = is_short;
            out.push(DiskEffect::Shortage(is_short));
        }
    }
}
