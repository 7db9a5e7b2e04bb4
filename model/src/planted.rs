//! Planted bugs: rules broken on purpose, to prove that the simulator would notice. Compiled
//! only with the feature `planted`, which the simulator alone switches on; without it
//! [`planted`] is a constant `false`, and nothing of a bug is in the product.
//!
//! Each bug is one condition in one machine (a few break the same rule at two places, where
//! either alone would still uphold it). It breaks what its row names: `R..` is a rule of
//! `docs/rules.md`, a word is what stands there beyond the rules.

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $rule:literal $name:literal,)*) => {
        /// A rule broken on purpose.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them, with the rule that each breaks and the name that reports use.
            pub const ALL: [(Self, &'static str, &'static str); [$($name),*].len()] =
                [$((Self::$bug, $rule, $name),)*];

            /// The name that reports and command lines use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }
        }
    };
}

bugs! {
    // Ownership and journal.
    /// An owner that restarts goes on in the epoch that its last life claimed.
    RepeatEpoch = "R1" "repeat-epoch",
    /// A new owner counts its segments from zero: its ids differ by their epoch, but the index
    /// names segments by counter.
    RestartCounter = "R1" "restart-counter",
    /// A disk without the replica, or with a damaged one, counts in a seal, as one with an
    /// empty log.
    UnknownCounts = "R2" "unknown-counts",
    /// A checkpoint is recorded, and the journal trimmed behind it, while its data segments are
    /// still being written.
    EarlyTrim = "R3" "early-trim",
    /// Of the logs that a seal finds, the oldest is adopted.
    AdoptShortest = "R3" "adopt-shortest",
    /// Of the logs that a seal finds, the longest is adopted, whatever its last epoch.
    AdoptLongest = "R4" "adopt-longest",
    /// A new owner reads of a replica that is near, whether or not that has the log it adopts.
    ForeignPrefix = "R4" "foreign-prefix",
    /// Reads see records that are not committed yet.
    ReadUncommitted = "R4" "read-uncommitted",
    /// A new owner serves before its `EpochStart` is committed: records of older epochs count
    /// as committed where a majority holds them.
    NoEpochStart = "R4" "no-epoch-start",
    /// An owner starts from the first replica that answers its seal.
    SkipSeal = "R5" "skip-seal",
    /// A write is acknowledged when any one replica holds it.
    AckByOne = "R5" "ack-by-one",
    /// A lease counts when any one replica granted it.
    LeaseByOne = "R5" "lease-by-one",
    /// While the replicas change, the old set alone acknowledges.
    OldSetAlone = "R5" "old-set-alone",
    /// A new set of replicas is adopted before it holds what was acknowledged.
    AdoptBehind = "R5" "adopt-behind",
    /// The lost replica of a site is replaced in the site of another one.
    TwoInOneSite = "R6" "two-in-one-site",
    /// Reads are answered whether or not the lease runs.
    ExpiredLease = "R7" "expired-lease",
    /// A replica keeps its promise in memory alone.
    LostPromise = "R7" "lost-promise",
    /// A seal is answered while a lower epoch's lease runs, and so are the appends that follow.
    HastySeal = "R7" "hasty-seal",
    /// A replica that restarted takes it that it granted no lease.
    ForgottenLease = "R7" "forgotten-lease",
    /// A lease is counted from the answer, not from before it was asked for.
    LateLease = "R7" "late-lease",
    /// A replica takes appends of epochs below its promise.
    IgnoredEpoch = "R7" "ignored-epoch",
    /// A batch of the journal is answered before it is synced, by the simulated files: syncs of
    /// journal files report success and do nothing.
    LostFsync = "R8" "lost-fsync",
    /// A disk answers an append before the batch is written.
    AckBeforeSync = "R8" "ack-before-sync",
    /// What is wrong in the journal is always taken for a torn tail, and cut.
    DamageIsTorn = "R8" "damage-is-torn",
    /// Fragments are answered before their extent is synced.
    UnsyncedExtent = "R8" "unsynced-extent",
    /// The ledger does not tell which extents changed, so that the catalog's lost rows stay
    /// lost.
    SilentLedger = "R8" "silent-ledger",
    /// A retried write is applied again.
    ForgetSession = "R10" "forget-session",
    /// Checkpoints hold no sessions.
    UntabledSessions = "R10" "untabled-sessions",
    /// A retried write is answered while its first record is not committed.
    KnownAtOnce = "R10" "known-at-once",
    /// A retried write gets a number of its own.
    RenumberedRetry = "R10" "renumbered-retry",
    /// Sessions of a node that is found dead are closed, though it may only be silent.
    SilentEnded = "R10" "silent-ended",
    /// The oldest session goes for one too many, whoever has it.
    EvictedSession = "R10" "evicted-session",
    /// Nobody asks whether clients live: sessions of those that died stay open.
    UnaskedClients = "R10" "unasked-clients",
    /// A recovery with loss leaves the last owner in office.
    RecoverUnfenced = "R11" "recover-unfenced",
    /// After a recovery with loss every later owner starts from the same one replica again.
    RecoverForever = "R11" "recover-forever",
    /// The first owner after a recovery with loss does not wait for leases that replicas granted
    /// which are lost.
    RecoverHasty = "R7" "recover-hasty",
    /// Sessions go on after a recovery with loss.
    RecoverKeepsSessions = "R10" "recover-keeps-sessions",

    // Writes, index, space.
    /// A newer piece of a block is laid under an older one.
    PatchOrder = "R12" "patch-order",
    /// A piece of a block that is zeroed keeps what it held.
    KeptEdges = "R12" "kept-edges",
    /// A trim is answered and never journaled.
    UnjournaledTrim = "R12" "unjournaled-trim",
    /// An owner ends a cut without journaling the hole.
    KeptTail = "size" "kept-tail",
    /// An owner refuses what is beyond the end that it knows, without a look at the record.
    StaleEnd = "size" "stale-end",
    /// An index that is opened takes its pending changes in the wrong order.
    DeltaOrder = "R13" "delta-order",
    /// A leaf that takes pending changes in loses what it held before.
    ForgottenLeaf = "R13" "forgotten-leaf",
    /// Segments that are written anew overwrite what was written meanwhile.
    BlindMove = "R13" "blind-move",
    /// Blocks that lie alone are taken for the first one of the copy that they went into.
    StrayCopy = "R13" "stray-copy",
    /// A large write's reference is journaled while its segment is being written.
    EarlyReference = "R14" "early-reference",
    /// A new owner names segments without a look at those that its log refers to.
    ForgottenReference = "R1" "forgotten-reference",
    /// A piece that is written over a large write is laid over what the index has there.
    PatchBase = "R12" "patch-base",
    /// A segment of large writes that are all overwritten before the drain is left behind.
    LostReference = "R16" "lost-reference",
    /// A segment that was late, and that no record refers to, is left behind.
    LeftSegment = "R16" "left-segment",
    /// What a checkpoint drops is deleted when it is planned.
    EarlyDelete = "R15" "early-delete",
    /// A device that answers nothing is waited for.
    EndlessPatience = "hung" "endless-patience",
    /// What a node in maintenance holds is made anew elsewhere as soon as any other's.
    HealedInMaintenance = "maintenance" "healed-in-maintenance",
    /// The audit condemns what is not in the index, of its own epoch too.
    CondemnOwn = "R16" "condemn-own",
    /// The audit spares what its own epoch gave up.
    SpareOwn = "R16" "spare-own",
    /// A segment that was given up is written again under its old id.
    ReusedId = "R18" "reused-id",
    /// A drain that finds no room waits for some, whatever is trimmed meanwhile.
    HeldSpace = "R18" "held-space",
    /// On a full fabric a write that replaces data is refused as any other.
    RefusedOverwrite = "R18" "refused-overwrite",
    /// What replaces data has no more room than what does not.
    NoReserve = "R18" "no-reserve",
    /// On a full fabric nothing is copied together of which less than half is dead.
    HeldOverwrite = "R18" "held-overwrite",
    /// One full disk is taken for a full fabric.
    FullDisk = "R18" "full-disk",
    /// Neither the disk nor the reader checks a fragment's bytes.
    UncheckedFragment = "R19" "unchecked-fragment",

    // Placement and metadata.
    /// One site votes with a majority of the global group.
    CrowdedVoters = "R21" "crowded-voters",
    /// With one data site left, what is drained there alone leaves the journal, whatever the policy.
    TrimAlone = "R22" "trim-alone",
    /// Index pages are coded as data is.
    WeakIndex = "R25" "weak-index",
    /// With a site away, segments still go to the pool that needs it.
    NoPoolOfLeft = "R26" "no-pool-of-left",
    /// What the loss of a site left with nothing to spare stays so.
    LeftAtRisk = "R26" "left-at-risk",
    /// What could not be read when it was to be written anew is not looked for again.
    LeftUnread = "R26" "left-unread",
    /// A piece of a block whose base can't be read is forgotten by the drain.
    DroppedPatch = "R28" "dropped-patch",
    /// A site whose disks take nothing holds up all drains.
    NeverLeft = "R27" "never-left",
    /// A site whose disks took nothing once is left alone for good.
    LeftForGood = "R27" "left-for-good",
    /// Two fragments of a segment lie on one node though others have none.
    CrowdedNode = "spread" "crowded-node",
    /// A slot's move is reported done before anything was copied. Shows as fragments that are
    /// nowhere once everything healed.
    FinishEarly = "R20" "finish-early",
    /// The scrub calls fragments verified that it did not read.
    BlindScrub = "R24" "blind-scrub",
    /// What is to be mended on a disk that serves no more is worked on all the same, and nothing else.
    LingeringMend = "R24" "lingering-mend",
    /// Once a scrub's pass ends, nobody looks whether the disk has all that it should.
    UnmissedFragment = "R24" "unmissed-fragment",
    /// A fragment is rebuilt from others as if it were another slot's.
    WrongSlot = "R24" "wrong-slot",
    /// A disk that corrupts data, or is slow, again and again goes on as any other.
    TrustedDisk = "health" "trusted-disk",
    /// What another site adds up for a repair is added as it is, whatever its factors.
    UnscaledSum = "R24" "unscaled-sum",
    /// A disk that is to be emptied is given slots as any other.
    DrainedTakes = "drain" "drained-takes",
    /// A slot of a disk that is to be emptied is another one's at once: nobody looks for what
    /// is not copied yet.
    DropDrained = "R20" "drop-drained",
    /// Moves within a site that is away are asked for as any others, though nobody may know them.
    AwayCounts = "R20" "away-counts",
    /// A disk is removed while slots are on it.
    RemoveFull = "drain" "remove-full",
    /// What is there stays in the sites that it lies in, whatever sites are added.
    StaysPut = "spread" "stays-put",
    /// Slots stay where they are, whatever disks are added.
    NeverSpread = "spread" "never-spread",
    /// Slots are moved between disks that are equally full.
    SwingingSpread = "spread" "swinging-spread",
    /// A slot is moved to an emptier disk, whether or not its node holds another one of the row.
    CrowdedMove = "spread" "crowded-move",
    /// A site holds more fragments of a segment than may be lost.
    CrowdedSite = "spread" "crowded-site",
    /// `base:allocation` calls data that a checkpoint holds a hole.
    WrongStatus = "block" "wrong-status",
    /// `base:allocation` is answered for the first extent alone.
    ShortStatus = "block" "short-status",
    /// A read's last chunk is missing in its answer.
    ShortRead = "block" "short-read",
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
