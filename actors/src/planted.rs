//! Planted bugs: one switch a rule, compiled only for the simulator (feature `planted`), to
//! prove that its oracle and invariants would notice.

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bug {
    /// An owner starts from one sealed replica instead of a majority (R1, section 4).
    SkipSeal,
    /// A write is acknowledged when one replica holds it.
    AckByOne,
    /// The journal is trimmed before the checkpoint that covers it is committed (R3).
    EarlyTrim,
    /// Reads are served whether or not the lease runs (R7).
    ExpiredLease,
    /// A disk acknowledges a batch before it is synced (R8).
    LostFsync,
    /// A retried write is applied again (R10).
    ForgetSession,
    /// Deletes follow a checkpoint before it is published (R15).
    EarlyDelete,
}

impl Bug {
    /// All of them, with the rule that each breaks.
    pub const ALL: [(Self, &'static str, &'static str); 7] = [
        (Self::SkipSeal, "R1", "skip-seal"),
        (Self::AckByOne, "R5", "ack-by-one"),
        (Self::EarlyTrim, "R3", "early-trim"),
        (Self::ExpiredLease, "R7", "expired-lease"),
        (Self::LostFsync, "R8", "lost-fsync"),
        (Self::ForgetSession, "R10", "forget-session"),
        (Self::EarlyDelete, "R15", "early-delete"),
    ];
}

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants one bug (or none) in all machines of this thread.
    pub fn plant(bug: Option<Bug>) {
        ACTIVE.set(bug);
    }

    /// Whether this bug is planted.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use switch::{plant, planted};

/// Whether this bug is planted: never, without the feature.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn planted(_bug: Bug) -> bool {
    false
}
