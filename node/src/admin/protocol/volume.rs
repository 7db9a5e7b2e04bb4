//! Volumes, as they are told.

use serde::{Deserialize, Serialize};

use crate::admin::recovery::Recovered;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its size as clients see it.
    pub size_bytes: u64,
    /// Its home site.
    pub home: String,
    /// Its code, such as `rs:4+2`.
    pub code: String,
    /// Whether it is served.
    pub state: VolumeState,
    /// The node that serves it now; absent while there is none.
    pub owner: Option<String>,
    /// The owner's epoch: its high 16 bits are the generation.
    pub epoch: u64,
    /// What its owner tells of it, or its last checkpoint while nobody needs to serve it.
    pub stats: Option<VolumeStats>,
    /// Why there are no stats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats_missing: Option<String>,
    /// Its journal's replicas, as `node/disk`.
    pub journal: Vec<String>,
    /// Its last recovery with loss, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Box<Recovered>>,
}

/// Whether a volume is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Nobody serves it and nobody needs to: its checkpoint is all there is.
    Idle,
    /// Its owner serves it.
    Serving,
    /// An owner is being made, or recovers it.
    Starting,
    /// Its owner does not answer.
    Unknown,
}

/// A volume's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStats {
    /// Bytes of its blocks that are mapped.
    pub logical_bytes: u64,
    /// Bytes that its segments take on disks, coding included.
    pub stored_bytes: u64,
    /// Journaled bytes that the published checkpoint does not cover.
    pub untrimmed_bytes: u64,
    /// Open client sessions.
    pub sessions: u64,
    /// Journal replicas that hold all that is committed; absent while nobody serves it.
    pub replicas_current: Option<u64>,
}

/// Volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volumes {
    /// By name.
    pub volumes: Vec<Volume>,
    /// Nodes that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}

/// A volume is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Its name was this.
    pub deleted: String,
}
