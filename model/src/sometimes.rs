//! "Sometimes" assertions: interesting states that machines come to, counted by name, so that
//! the simulator can tell which of them its runs reached at all. A state that no run reaches is
//! a blind spot of the simulator (or dead code).
//!
//! Compiled for the simulator alone (feature `sometimes`): elsewhere [`reached`] is nothing.

/// Declares the states with their names in reports.
macro_rules! states {
    ($($(#[$doc:meta])* $state:ident = $name:literal,)*) => {
        /// A state worth reaching.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Sometimes {
            $($(#[$doc])* $state,)*
        }

        impl Sometimes {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$state,)*];

            /// Its name in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$state => $name,)*
                }
            }
        }
    };
}

states! {
    /// A new owner adopts a log that not every replica that answered its seal has.
    RecoveryDiffers = "recovery: replicas differ at the seal",
    /// A new owner reads from a replica in its site what that has of the log of another one.
    RecoveryNear = "recovery: most of the log is read from a replica that is near",
    /// A replica that is behind the trim gets a reset.
    ReplicaReset = "journal: a replica behind the trim is reset",
    /// An owner is fenced: a replica promised a higher epoch.
    OwnerFenced = "journal: an owner is fenced",
    /// A volume goes on from the log of one replica, by the operator's word.
    RecoveredFromReplica = "recovery: from a minority, with loss",
    /// A volume goes on from its checkpoint, by the operator's word.
    RecoveredFromCheckpoint = "recovery: from the checkpoint, with loss",
    /// A disk could not be opened, for want of room or by its device's error.
    DiskNotOpened = "disk: it could not be opened, and is tried again",
    /// An owner of before a recovery answered after it.
    AnsweredAfterRecovery = "recovery: an owner of before it answered late",
    /// Writes wait for the journal's window.
    WindowFull = "volume: writes wait for the journal's window",
    /// A large write went past the journal.
    Bypassed = "bypass: a large write is in a segment before it is in the journal",
    /// A segment took too long: what it was to bring is journaled.
    BypassLate = "bypass: a segment takes too long",
    /// A segment could not be written: what it was to bring is journaled.
    BypassUnwritable = "bypass: a segment can't be written",
    /// A read is refused or waits, for the lease has run out.
    LeaseLapsed = "volume: a read finds no lease",
    /// A retried write is known by its session.
    RetriedWrite = "sessions: a retried write is known",
    /// Sites were added, and what lies in others alone is spread over them.
    PoolOutgrown = "placement: a site that was added takes its share of what is there",
    /// A session is closed whose client died.
    DeadSessionClosed = "sessions: one whose client died is closed",
    /// A client is told to come again: there are too many sessions.
    SessionsFull = "sessions: one too many waits",
    /// A write of less than a block is merged with its base.
    PartialMerged = "volume: a partial write is merged with its base",
    /// A segment is read by decoding, not from its data fragments alone.
    DegradedRead = "segment: a read decodes what is missing",
    /// A fragment is read again elsewhere since the first one is late.
    HedgedRead = "segment: a late read is hedged",
    /// A segment's id is abandoned: its spread could not be written.
    SegmentAbandoned = "segment: a write is given up for another id",
    /// A piece of a block whose base can't be read is journaled again.
    PatchKept = "drain: a piece without a base is kept",
    /// A drain that finds no room takes its cut back.
    CutTakenBack = "drain: a cut is taken back for want of room",
    /// A full window takes a write that replaces data alone.
    OverwriteTaken = "volume: data that replaces other data is taken on a full fabric",
    /// What replaces data is journaled again as well.
    OverwriteKept = "drain: data that replaces other data finds no room in the reserve",
    /// A full fabric lets even a segment be copied of which little is dead.
    HoleySegment = "rewrite: on a full fabric a segment is written anew that is mostly alive",
    /// A volume that nobody uses is started, for its own sake.
    VolumeWoken = "host: an idle volume is woken",
    /// Blocks of segments that should not stay are written anew.
    SegmentRewritten = "rewriter: blocks are copied to a new segment",
    /// Pages leave sparse index segments beside clients' writes.
    IndexSwept = "index: pages leave sparse segments beside writes",
    /// Pages leave sparse index segments while nobody writes.
    IndexTidied = "index: pages leave sparse segments at rest",
    /// The owner's audit condemns an orphan.
    OrphanCondemned = "audit: an orphan is condemned",
    /// A change of the replicas is adopted.
    ChangeAdopted = "replicas: a change is adopted",
    /// A change of the replicas is cancelled.
    ChangeCancelled = "replicas: a change is cancelled",
    /// What a smaller volume lost is journaled as a hole.
    CutJournaled = "volume: what was cut off is journaled as a hole",
    /// A request beyond the end that the owner knows is served by a newer record.
    BeyondServed = "volume: a request beyond a stale end is served",
    /// A volume that nobody serves grows while a cut is pending.
    GrownUnserved = "volume: it grows while nobody serves it, and a cut is pending",
    /// A clean volume's journal is founded anew.
    CleanFounded = "volume: a clean volume's journal is founded",
    /// A site whose disks take nothing is left alone by new segments.
    SiteUnwritable = "metadata: a site takes no segments",
    /// Its disks take segments again.
    SiteWritable = "metadata: a site takes segments again",
    /// A site is found down by the global group.
    SiteDown = "metadata: a site is found down",
    /// A site is up again.
    SiteUp = "metadata: a site is up again",
    /// A scrub's pass comes to its end.
    ScrubPassed = "scrub: a pass ends",
    /// A fragment is found rotten.
    RotFound = "scrub: a fragment is found rotten",
    /// A rotten fragment is stored anew.
    RotRepaired = "scrub: a rotten fragment is repaired",
    /// A fragment that is gone is brought back.
    AbsentRestored = "scrub: a fragment that is gone is brought back",
    /// The scrub finds damage in a journal.
    JournalRotFound = "scrub: damage in a journal is found",
    /// A disk is emptied for what was found of it.
    DiskFlagged = "disk: one that is slow, or rots, is to be emptied",
    /// A Healer adds up fragments of its site for one of another.
    FragmentsSummed = "repair: fragments are added up before they cross",
    /// A slot is moved to a disk that is emptier for its weight.
    SlotRebalanced = "metadata: a slot is moved to an emptier disk",
    /// A disk that was emptied is gone for good.
    DiskRemoved = "metadata: an emptied disk is removed",
    /// What pins a journal file is copied forward.
    JournalMoved = "disk: what pins a journal file is copied forward",
    /// A disk's journal ends in a torn record after a power loss.
    TornTail = "disk: a torn tail is cut",
    /// A disk's journal is damaged where it was synced.
    DamageFound = "disk: damage of what was synced is found",
}

#[cfg(feature = "sometimes")]
mod counts {
    use std::cell::Cell;

    use super::Sometimes;

    thread_local! {
        static COUNTS: [Cell<u64>; Sometimes::ALL.len()] = const { [const { Cell::new(0) }; Sometimes::ALL.len()] };
    }

    /// Counts a state as reached by this thread.
    pub fn reached(state: Sometimes) {
        COUNTS.with(|counts| {
            let count = &counts[state as usize];
            count.set(count.get() + 1);
        });
    }

    /// What this thread reached since it was last asked.
    #[must_use]
    pub fn take() -> Vec<(Sometimes, u64)> {
        COUNTS.with(|counts| {
            let taken = Sometimes::ALL
                .iter()
                .map(|s| (*s, counts[*s as usize].take()));
            taken.collect()
        })
    }
}

#[cfg(feature = "sometimes")]
pub use counts::{reached, take};

/// Counts a state as reached: nothing, without the feature.
#[cfg(not(feature = "sometimes"))]
#[inline]
pub const fn reached(_state: Sometimes) {}

/// What was reached: unknown, without the feature.
#[cfg(not(feature = "sometimes"))]
#[must_use]
pub const fn take() -> Vec<(Sometimes, u64)> {
    Vec::new()
}
