//! Planted bugs: one switch a rule, compiled only for the simulator (feature `planted`), to
//! prove that its oracle and invariants would notice.

/// A rule broken on purpose. Each is one condition in one machine (or, for a lost fsync, one
/// fault of the simulated files), so that what the simulator catches is that rule's absence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bug {
    /// An owner starts from the first replica that answers its seal. *Rule (section 4):* seal a
    /// majority, so that the adopted log meets every majority that acknowledged a write.
    /// Planted in the journal's recovery; shows as a lost write when the replica was behind.
    SkipSeal,
    /// A write is acknowledged when any one replica holds it. *Rule (section 4, R5):* an
    /// acknowledgement needs two of three replicas. Planted in the owner's journal; shows as a
    /// lost write when another owner seals the other two.
    AckByOne,
    /// A checkpoint is recorded, and the journal trimmed behind it, while its data segments are
    /// still being written. *Rule (R3):* a checkpoint counts once its segments meet the policy.
    /// Planted in the drain; shows as unreadable blocks.
    EarlyTrim,
    /// Reads are answered whether or not the lease runs. *Rule (R7):* an owner serves reads only
    /// under a lease that a majority of replicas granted. Planted where reads are answered;
    /// shows as a stale read from an owner that was cut off, or that stood still.
    ExpiredLease,
    /// A disk acknowledges a batch that was not synced. *Rule (R8, section 4):* one fdatasync a
    /// batch before any answer. Planted in the simulated files (journal files' syncs report
    /// success and do nothing); shows after a power loss.
    LostFsync,
    /// A retried write is applied again. *Rule (R10):* a part that the journal holds is answered
    /// once that record commits, never journaled again. Planted in the session table; shows as
    /// an older write over a newer one.
    ForgetSession,
    /// What a checkpoint drops is deleted when it is planned. *Rule (R15):* a segment is deleted
    /// only after the checkpoint that drops it is committed, and published. Planted in the
    /// drain; shows as unreadable blocks when the owner dies before that: its successor starts
    /// from the last checkpoint.
    EarlyDelete,
    /// While the replicas change, the old set alone acknowledges. *Rule (R5):* from a change's
    /// start until it is settled, acknowledgements need both majorities. Planted in the owner's
    /// journal; shows as a lost write when a seal goes by the new set.
    OldSetAlone,
    /// A new set of replicas is adopted before it holds what was acknowledged. *Rule (R5):* the
    /// compare-and-set is sent only once a majority of the new set holds everything up to the
    /// joint start. Planted in the owner's journal; shows as a lost write.
    AdoptBehind,
    /// The audit condemns what is not in the index, of its own epoch too. *Rule (R16):* only
    /// ids of older epochs are condemned. Planted in the owner's audit; shows as unreadable
    /// blocks: a segment is written before the checkpoint that names it.
    CondemnOwn,
    /// A slot's move is reported done before anything was copied. *Rule (R20):* a move finishes
    /// once a listing taken after every live disk of the row knew of it was copied. Planted in
    /// the Healer; shows as fragments that are nowhere once everything healed.
    FinishEarly,
    /// A disk takes fragments placed by fewer moves than it knows of. *Rule (R20):* what is
    /// placed by an older version is refused. Planted in the disk; shows as fragments that
    /// were stored where nobody looks any more.
    OldStamp,
    /// A deletion is forgotten once the new disk of a slot in motion answered. *Rule (R20):*
    /// slots in motion keep tombstones. Planted in the Segment machine; shows as fragments
    /// that were copied after they had been deleted.
    ForgetTombstones,
}

impl Bug {
    /// All of them, with the rule that each breaks and the name that reports use.
    pub const ALL: [(Self, &'static str, &'static str); 13] = [
        (Self::SkipSeal, "R1", "skip-seal"),
        (Self::AckByOne, "R5", "ack-by-one"),
        (Self::EarlyTrim, "R3", "early-trim"),
        (Self::ExpiredLease, "R7", "expired-lease"),
        (Self::LostFsync, "R8", "lost-fsync"),
        (Self::ForgetSession, "R10", "forget-session"),
        (Self::EarlyDelete, "R15", "early-delete"),
        (Self::OldSetAlone, "R5", "old-set-alone"),
        (Self::AdoptBehind, "R5", "adopt-behind"),
        (Self::CondemnOwn, "R16", "condemn-own"),
        (Self::FinishEarly, "R20", "finish-early"),
        (Self::OldStamp, "R20", "old-stamp"),
        (Self::ForgetTombstones, "R20", "forget-tombstones"),
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
