//! What is told of a volume whose journal lost its quorum, and of its recovery.

use serde::{Deserialize, Serialize};

/// What is left of a volume's journal, and what may be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The volume.
    pub volume: String,
    /// How far it is.
    pub stage: Stage,
    /// The same in words, and what to do next.
    pub why: String,
    /// Its journal's replicas.
    pub replicas: Vec<Replica>,
    /// What the published checkpoint covers, as `epoch.seq`.
    pub checkpoint: String,
    /// When that was published, by its owner's clock; absent if it never was.
    pub published: Option<String>,
    /// What it may be recovered from; absent if it may not be.
    pub offer: Option<RecoveryOffer>,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Enough answer: the volume goes on by itself.
    NotNeeded,
    /// Something may come back.
    Wait,
    /// There are not enough disks for a journal.
    NoDisks,
    /// It may be recovered.
    Offer,
    /// It was.
    Done,
}

/// A journal's replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its disk, as `node/disk`.
    pub disk: String,
    /// Its site.
    pub site: String,
    /// How it is.
    pub state: ReplicaState,
    /// The same in words, and what to do about it.
    pub why: String,
    /// Where its log ends, as `epoch.seq`; absent if it does not count.
    pub last: Option<String>,
    /// For how many seconds nothing was appended to it; absent since its disk was opened.
    pub idle_s: Option<u64>,
}

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// It answers and is whole.
    Holds,
    /// It lost bytes.
    Damaged,
    /// Its disk has it no more.
    Missing,
    /// Its disk is lost for good.
    Lost,
    /// It does not answer.
    Silent,
}

/// From what, and up to where, a volume may be recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryOffer {
    /// `replica NODE/DISK` or `checkpoint`.
    pub from: String,
    /// All up to here is covered, as `epoch.seq`: what `--accept-loss` takes.
    pub covered: String,
    /// About when that was written, or published; absent if it is not known.
    pub until: Option<String>,
    /// Whether something acknowledged may be lost.
    pub loses: bool,
    /// What, in words.
    pub lost: String,
    /// The new journal's replicas.
    pub journal: Vec<String>,
    /// The next owner; absent if nobody need be.
    pub owner: Option<String>,
}

/// That a volume was recovered with loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// `replica NODE/DISK` or `checkpoint`.
    pub from: String,
    /// What followed this is lost, as `epoch.seq`.
    pub covered: String,
    /// When it was recovered.
    pub at: String,
    /// Whether it is not carried out yet.
    pub pending: bool,
}

/// That a volume was recovered with loss, in a line.
#[must_use]
pub fn in_a_line(recovered: &Recovered) -> String {
    let then = if recovered.pending {
        "is being recovered"
    } else {
        "recovered"
    };
    format!(
        "{then} with loss from the {} at {}: what was acknowledged after {} is lost",
        recovered.from, recovered.at, recovered.covered
    )
}
