//! Whether the fabric is full: only then are writes refused for lack of space (R18).
//!
//! A full disk is not a full fabric: other rows may have room. A full site is none either: new
//! segments do without it once that is decided (R27), and until then writes wait.

use std::time::Duration;

use model::ids::SiteId;
use model::time::Time;

use crate::planted::{Bug, planted};

/// So many spreads in a row must have a full disk.
const SPREADS: u32 = 16;

/// And for so long, while new segments could still do without some site.
const PATIENCE: Duration = Duration::from_secs(10);

/// Segments in a row that found a full disk, each on a spread of its own.
#[derive(Debug, Default)]
pub(super) struct Fullness {
    in_a_row: u32,
    since: Time,
    without: Option<SiteId>,
    /// Writes that replace data wait, for which the journal has no place.
    overwrite_waiting: bool,
}

impl Fullness {
    /// New segments do without that site from now on, or without none: what was full before
    /// says nothing about it.
    pub(super) fn without(&mut self, site: Option<SiteId>) {
        if site != self.without {
            self.without = site;
            self.in_a_row = 0;
        }
    }

    /// A segment met a full disk.
    pub(super) fn refused(&mut self, now: Time) {
        if self.in_a_row == 0 {
            self.since = now;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
    }

    /// Whether the last segment met a full disk.
    pub(super) fn is_met(&self) -> bool {
        self.in_a_row > 0
    }

    /// One was stored.
    pub(super) fn stored(&mut self) {
        self.in_a_row = 0;
        self.overwrite_waiting = false;
    }

    /// A write that replaces data waits for a place in the journal, which is taken by what has no
    /// room.
    pub(super) fn overwrite_waits(&mut self) {
        self.overwrite_waiting = true;
    }

    /// Whether one waits.
    pub(super) fn has_overwrite_waiting(&self) -> bool {
        self.overwrite_waiting
    }

    /// The journal is cut anew, for those that wait.
    pub(super) fn cut_anew(&mut self) {
        self.overwrite_waiting = false;
    }

    /// Whether it is certain that there is no room.
    pub(super) fn is_certain(&self, now: Time) -> bool {
        if planted(Bug::FullDisk) {
            return self.in_a_row >= 1;
        }
        let tried = self.without.is_some() || now.since(self.since) >= PATIENCE;
        self.in_a_row >= SPREADS && tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_site_is_waited_for_and_a_full_fabric_is_told() {
        let mut fullness = Fullness::default();
        let at = |s: u64| Time(s * 1_000_000_000);
        for _ in 0..SPREADS {
            assert!(!fullness.is_certain(at(100)));
            fullness.refused(at(1));
        }
        assert!(!fullness.is_certain(at(10)) && fullness.is_certain(at(11)));
        // The site that was full is left: the others have not been tried yet.
        fullness.without(Some(SiteId(1)));
        assert!(!fullness.is_certain(at(11)));
        (0..SPREADS).for_each(|_| fullness.refused(at(12)));
        assert!(fullness.is_certain(at(12)));
        fullness.without(Some(SiteId(1)));
        assert!(fullness.is_certain(at(12)));
        fullness.stored();
        assert!(!fullness.is_certain(at(100)));
    }
}
