//! Kinds of faults.

use serde::{Deserialize, Serialize};

/// A kind of fault. `both` and `power` are those of its [`FaultPlan`](super::FaultPlan).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A node's process is killed.
    Kill,
    /// All nodes of a site are killed.
    KillSite,
    /// Power is lost everywhere at once.
    PowerLoss,
    /// A site is lost, and does not return in this run.
    LoseSite,
    /// A link between two sites is cut, in one direction or both.
    Cut,
    /// A site is cut from all others.
    Isolate,
    /// A node is cut from all others, those of its site included.
    IsolateNode,
    /// A node's process stands still, then goes on as if nothing had happened: a zombie.
    Pause,
    /// A link between two sites is slow.
    SlowLink,
    /// A node's disks are slow.
    SlowDisks,
    /// A site falls behind (its link from the owner's is cut), and when it is back, the owner's
    /// site goes: a new owner that does not look beyond the laggard's journal loses writes.
    Laggard,
    /// The owner is killed again and again, soon after it began to serve.
    Succession,
    /// The owner, or its site, dies while it makes a checkpoint.
    MidDrain,
    /// What a site sends to another one arrives, but not what that one sends.
    CutBack,
    /// A link between two sites is cut, in either direction or both, for so long that work must
    /// go on around it (R27).
    LongCut,
    /// A site hears the others, but they don't hear it.
    Mute,
    /// The others hear a site, but it doesn't hear them.
    Deaf,
    /// All disks of a site are slow.
    SlowSite,
    /// A replica of the journal is away until it is replaced; while its successor is being
    /// filled, slowly, the third one lags; and when the new set is adopted, the owner goes.
    Reform,
    /// A disk is lost, with all that it held.
    LoseDisk,
    /// A node is lost, with its disks.
    LoseNode,
    /// The owner is cut off with what it could not commit; its successor dies as soon as it
    /// serves, and the old one's site is back: what was written in vain must lose.
    Relapse,
    /// The owner is cut off, and the volume is given to another node at once, before its lease
    /// runs out; the replicas that seal may have restarted just now.
    Usurp,
    /// The owner is asked to stop, its clients stay.
    Stop,
    /// The process of a node is asked to end, as for an upgrade: clients leave, volumes end, then
    /// it does, and begins anew at the end.
    ShutDown,
    /// A node is said to be in maintenance, its process is asked to end, and begins anew at the end.
    /// What it holds is waited for.
    Maintenance,
    /// All clients leave, the owner is asked to stop, and the clients are back meanwhile.
    Desert,
    /// The operator moves the volume.
    Move,
    /// A node's clock runs too fast or too slow, within what the lease's margin allows.
    Drift,
    /// A node's clock runs wrong beyond that: only reads may be stale, as long as it lasts.
    DriftFar,
    /// Messages between two sites are held up, and all arrive at once.
    Clog,
    /// Two sites go, and one of them is back before the other.
    TwoSites,
    /// A site is away for so long that everybody went on without it.
    LongAway,
    /// A disk is taken out, and brought back with its old state.
    PullDisk,
    /// A disk answers nothing for a while.
    HangDisk,
    /// A disk is lost, and another one takes its place.
    WipeDisk,
    /// A disk's writes fail: it retires, until its node restarts.
    FailDisk,
    /// Fragments on a disk can't be read for a while.
    Unreadable,
    /// A disk has no room for fragments for a while.
    Full,
    /// Bits of a disk's fragments flip.
    RotFragments,
    /// Bits of a journal flip, in the log of the volume's replica.
    RotJournal,
    /// All files of a journal are gone.
    LoseJournal,
    /// A replica of the journal lags, the owner's own is damaged, and the third one goes: of
    /// the two that are left none has all, and neither may count for it.
    Ruin,
    /// One replica after the other finds its journal damaged, each once the last is healed.
    RotRounds,
    /// A disk's next write of a fragment goes to another place of the disk, or nowhere.
    Misdirect,
    /// A disk's next write of the journal goes to another place of the disk, or nowhere.
    MisdirectJournal,
    /// The operator has a disk emptied; it serves again at the end, or stays as it is (`both`).
    DrainDisk,
    /// The operator has a disk emptied, and takes it out once it is.
    RemoveDisk,
    /// The operator has a node emptied; it serves again at the end, or stays as it is (`both`).
    DrainNode,
    /// The operator makes the volume smaller, and as large as it was at the end.
    Resize,
    /// All disks of a site have no room for fragments for a while.
    FullSite,
    /// The operator gives a node one more disk, as large as the others or twice as large
    /// (`both`).
    AddDisk,
    /// A new node joins a site, with as many disks as the others, as large or twice as large
    /// (`both`).
    AddNode,
    /// A new site comes, with as many nodes and disks as the others.
    AddSite,
    /// The owner dies (`power`) or is cut off, and with it two replicas of the journal go,
    /// or all (`both`): the operator gives them up, and has the volume recovered (R11).
    LoseQuorum,
    /// The same, but the owner is only cut off, and the operator takes it for gone at once: its
    /// lease runs on, and no replica is left that granted it (R7).
    Disown,
}

impl Kind {
    /// Whether it is never mended.
    #[must_use]
    pub fn is_for_good(self) -> bool {
        matches!(self, Self::LoseSite | Self::LoseDisk | Self::LoseNode)
    }
}
