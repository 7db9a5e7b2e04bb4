//! What tests and curious people look at: caches, syncs, journal files.

use serde::{Deserialize, Serialize};

/// Caches are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheDropped {
    /// How much they held together.
    pub dropped_bytes: u64,
    /// By node.
    pub nodes: Vec<NodeCache>,
    /// Nodes that did not answer: their caches may be as they were.
    pub unreachable: Vec<String>,
}

/// A node's caches are empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCache {
    /// The node.
    pub node: String,
    /// How much they held.
    pub dropped_bytes: u64,
}

/// Durable syncs of journal files since the nodes' start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syncs {
    /// By disk.
    pub disks: Vec<DiskSyncs>,
}

/// A disk's syncs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSyncs {
    /// `node/disk`.
    pub disk: String,
    /// Its node.
    pub node: String,
    /// Its site.
    pub site: String,
    /// How often a journal file was made durable.
    pub journal_syncs: u64,
}

/// Journal files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// By disk and name.
    pub files: Vec<JournalFile>,
}

/// A journal file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalFile {
    /// `node/disk`.
    pub disk: String,
    /// Its node.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Where it lies.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Whether nothing in it is needed any more.
    pub trimmed: bool,
}
