//! What the groups are told of the disk beside that it serves: whether it is well, and whether it has
//! room for fragments. A put that was refused says that it has none; that
//! it has again is tried now and then, since nobody writes where there is no room (R27).

use std::time::Duration;

use model::placement::DiskHealth;
use model::store::{FragmentDone, FragmentOp, OpId};
use model::time::Time;

use super::{Disk, DiskEffect};

/// How often it is tried whether there is room again.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// What is known of the disk's room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// The largest fragment that had no room, since there was room last.
    lacks: Option<u32>,
    due: Time,
    trying: Option<OpId>,
}

impl Room {
    /// A fragment of so many bytes was refused.
    pub(super) fn refused(&mut self, bytes: u32) {
        self.lacks = self.lacks.max(Some(bytes));
    }

    /// When there is something to try.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.lacks.filter(|_| self.trying.is_none())?;
        Some(self.due)
    }
}

impl Disk {
    /// Whether it takes fragments, as far as it knows.
    #[must_use]
    pub fn takes_fragments(&self) -> bool {
        self.room.lacks.is_none() && !self.retired
    }

    /// Tries whether there is room again, if that is due.
    pub(super) fn try_room(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let Some(bytes) = self.room.lacks else {
            return;
        };
        if self.retired || self.room.trying.is_some() || now < self.room.due {
            return;
        }
        let op = self.op();
        self.room.trying = Some(op);
        self.room.due = now + TRY_EVERY;
        let request = FragmentOp::Try {
            fragment_bytes: bytes,
        };
        out.push(DiskEffect::Fragments { op, request });
    }

    /// Takes the store's answer, if it is one to a try.
    pub(super) fn tried(&mut self, op: OpId, done: FragmentDone) -> Option<FragmentDone> {
        if self.room.trying != Some(op) {
            return Some(done);
        }
        self.room.trying = None;
        if done == FragmentDone::HasRoom {
            self.room.lacks = None;
        }
        None
    }

    /// Tells the shell when it changed whether there is room.
    pub(super) fn tell_room(&mut self, out: &mut Vec<DiskEffect>) {
        let has_room = self.takes_fragments();
        if has_room != self.told_room && !self.retired {
            self.told_room = has_room;
            out.push(DiskEffect::Room(has_room));
        }
    }

    /// What it says of itself beside that it serves.
    #[must_use]
    pub fn health(&self) -> DiskHealth {
        DiskHealth {
            rots: self.scrub.rots(),
            latency: self.slowness.latency(),
        }
    }

    /// Tells the shell when that changed.
    pub(super) fn tell_health(&mut self, out: &mut Vec<DiskEffect>) {
        let health = self.health();
        if health != self.told_health && !self.retired {
            self.told_health = health;
            out.push(DiskEffect::Health(health));
        }
    }
}
