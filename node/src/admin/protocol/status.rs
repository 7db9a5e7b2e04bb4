//! How the fabric is.

use serde::{Deserialize, Serialize};

/// How the fabric is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether nothing is degraded.
    pub healthy: bool,
    /// What is.
    pub degraded: Vec<Degraded>,
    /// Bytes of segments that would not survive what a fabric promises to (the loss of any one
    /// site; while one is away, of any one node), since disks that held some of their fragments
    /// do not serve and they are not elsewhere yet. Not counted are replicas of journals, and what
    /// rotted and nobody read. Absent while nothing is counted;
    /// what silent nodes know is missing.
    pub at_risk_bytes: Option<u64>,
    /// What is being moved or rebuilt.
    pub repairs: Vec<Repair>,
    /// What is worth knowing though nothing is degraded by it: volumes that were recovered with
    /// loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The node that answered; what it says is its view.
    pub seen_by: String,
    /// Sites that are up, and all.
    pub sites: UpOf,
    /// Nodes that are up, and all.
    pub nodes: UpOf,
    /// Disks that are up, and all.
    pub disks: UpOf,
    /// Volumes that have a serving owner, and all.
    pub volumes: UpOf,
}

/// How many of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpOf {
    /// That are well.
    pub up: u32,
    /// That there are.
    pub of: u32,
}

/// Why something is moved or written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairKind {
    /// The disk that held it does not serve.
    Rebuild,
    /// The operator has its disk emptied.
    Drain,
    /// It shares a node with something that it should be apart from.
    Spread,
    /// Its disk is fuller than others are, for its size: nothing is less safe for that.
    Rebalance,
    /// Segments are written anew, since a site is away or back.
    Rewrite,
}

/// Slots that leave a disk, or segments that are written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Why.
    pub kind: RepairKind,
    /// Such as `draining disk a1/2`.
    pub what: String,
    /// The disk that they leave, or what the segments have in common.
    pub from: String,
    /// Their new disks; of segments, `new segments`.
    pub to: Vec<String>,
    /// How many slots of spreads; 0 of segments.
    pub slots: u64,
    /// Fragments that are at their new disks.
    pub done_fragments: u64,
    /// Fragments that there are to be; absent until they are counted.
    pub total_fragments: Option<u64>,
    /// Bytes likewise.
    pub done_bytes: u64,
    /// Bytes likewise.
    pub total_bytes: Option<u64>,
    /// What the nodes of the new disks brought a second, lately, for all that they bring.
    pub bytes_per_s: u64,
    /// Seconds until it is done, at that pace; absent until it is known.
    pub eta_s: Option<u64>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// What, such as `site c`.
    pub what: String,
    /// Why, such as `none of its nodes has answered for 12 s`.
    pub why: String,
    /// What is being done about it, or what the operator should do.
    pub doing: String,
}
