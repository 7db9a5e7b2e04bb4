//! What reading the disk's headers may have missed: it was stored and answered for, and nobody asks
//! for it by name. The node's Healer is told, and compares with what others have.

use std::time::Duration;

use model::time::Time;

use super::{Disk, DiskEffect, ScrubNews};

/// So long after the view shows this disk: by then the Healer sees it as well.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// Whether something may be missing that nobody was told of.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    is_untold: bool,
    due: Option<Time>,
}

impl Lacking {
    /// Something may be missing.
    pub(super) fn note(&mut self) {
        self.is_untold = true;
    }

    /// When it is to be told, as long as the view shows this disk.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due
    }
}

impl Disk {
    pub(super) fn tell_lacking(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        let seen = self.moves.view().disks.get(&self.at.disk);
        let is_seen = seen.is_some_and(|disk| disk.at == self.at);
        if self.retired || !self.lacking.is_untold || !is_seen {
            self.lacking.due = None;
            return;
        }
        if now >= *self.lacking.due.get_or_insert(now + TELL_AFTER) {
            self.lacking = Lacking::default();
            out.push(DiskEffect::Scrub(ScrubNews::Lacking));
        }
    }
}
