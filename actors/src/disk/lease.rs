//! The leases that one replica granted (R7).

use model::ids::Epoch;
use model::time::Time;

use crate::planted::{Bug, planted};

/// A lease that was granted to an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    epoch: Epoch,
    until: Time,
}

/// What one replica granted, on its own clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leases {
    granted: Lease,
    /// Any lease that was granted before a restart: to this epoch or a lower one.
    forgotten: Lease,
    /// Released epochs get no lease any more: this one and all lower ones.
    released: Option<Epoch>,
}

impl Leases {
    /// Of a replica that comes up with `promised`: what it granted before is forgotten, and
    /// has run out at `wait_until`.
    pub(super) fn recovered(promised: Epoch, wait_until: Time) -> Self {
        let (epoch, until) = (promised, wait_until);
        Self {
            granted: Lease {
                epoch: Epoch(0),
                until: Time::ZERO,
            },
            forgotten: Lease { epoch, until },
            released: None,
        }
    }

    /// When a seal at `epoch` may be answered: no lease of a lower epoch runs any more. A
    /// restarted replica waits for every lease that it may have given, whatever the epoch.
    pub(super) fn seal_after(&self, epoch: Epoch) -> Time {
        self.of_lower(epoch).max(self.forgotten.until)
    }

    /// When records of `epoch` may be appended. Strictly, no wait is needed: an owner appends
    /// only after a seal quorum waited, and that quorum met every lease majority. A replica
    /// that missed the seal still treats the append like one, which costs a lease term at
    /// worst and rests on nobody else's care.
    pub(super) fn append_after(&self, epoch: Epoch) -> Time {
        let after = self.of_lower(epoch);
        if self.forgotten.epoch < epoch {
            after.max(self.forgotten.until)
        } else {
            after
        }
    }

    fn of_lower(&self, epoch: Epoch) -> Time {
        if self.granted.epoch < epoch {
            self.granted.until
        } else {
            Time::ZERO
        }
    }

    /// Whether one that is known of runs now.
    pub(super) fn runs(&self, now: Time) -> bool {
        self.granted.until > now
    }

    /// Grants a lease to the promised epoch, unless that epoch released its own for good.
    pub(super) fn grant(&mut self, now: Time, promised: Epoch, until: Time) -> bool {
        if self.released.is_some_and(|r| r >= promised) {
            return false;
        }
        assert!(
            self.granted.epoch == promised || self.granted.until <= now || planted(Bug::HastySeal),
            "never two epochs' leases at once"
        );
        let until = if self.granted.epoch == promised {
            self.granted.until.max(until)
        } else {
            until
        };
        let epoch = promised;
        self.granted = Lease { epoch, until };
        true
    }

    /// The owner of `epoch` stopped: its lease ends, finally for its epoch. What was granted
    /// before a restart stays: it may be another epoch's.
    pub(super) fn release(&mut self, epoch: Epoch) {
        self.released = self.released.max(Some(epoch));
        if self.granted.epoch == epoch {
            self.granted.until = Time::ZERO;
        }
    }
}
