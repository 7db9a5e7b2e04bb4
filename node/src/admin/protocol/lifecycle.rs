//! Who comes, goes, or may.

use serde::{Deserialize, Serialize};

/// A one-time join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// To be given to `atoll join --token`; says where to join.
    pub token: String,
}

/// A node is gone for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name was this.
    pub removed: String,
}

/// A disk is gone for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRemoved {
    /// Its name was this.
    pub removed_disk: String,
}

/// A disk or node is being emptied, or serves again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emptying {
    /// Such as `disk a1/2`.
    pub what: String,
    /// Whether it is being emptied.
    pub draining: bool,
    /// What is left on it.
    pub left: Left,
}

/// What is left on something that is to be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Slots of spreads that lie on it or are moved to it.
    pub slots: u64,
    /// Volumes with a replica of their journal on it.
    pub journals: Vec<String>,
    /// Volumes that it owns.
    pub volumes_owned: Vec<String>,
    /// Bytes of fragments on it; absent if its node does not answer.
    pub fragment_bytes: Option<u64>,
}

/// A node is in maintenance, or serves again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// The node.
    pub node: String,
    /// For how much longer than usual its disks are waited for; none if it serves as any other.
    pub wait_s: Option<u32>,
    /// Volumes with a replica of their journal on its disks.
    pub journals: Vec<String>,
    /// Volumes that it owns.
    pub volumes_owned: Vec<String>,
    /// Whether it may stop now: nothing that could leave it is left, and nothing falls below what
    /// it needs.
    pub safe: bool,
    /// What falls below what it needs.
    pub reasons: Vec<String>,
}

/// Whether a node may stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Safety {
    /// The node.
    pub node: String,
    /// Whether it may.
    pub safe: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

/// A certificate for NBD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NbdCertificate {
    /// The certificate (PEM).
    pub certificate: String,
    /// The authority's (PEM), with which clients verify servers.
    pub authority: String,
}
