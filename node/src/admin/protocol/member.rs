//! Sites, nodes and disks, as they are told.

use serde::{Deserialize, Serialize};

use crate::admin::scrub::Scrub;

/// A site, node or disk's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It serves.
    Up,
    /// It does not answer, and nothing was decided yet.
    Suspect,
    /// Decided by a committed entry: its work was given to others.
    Away,
    /// Lost for good.
    Lost,
}

/// What becomes of writes with one data site left, beside a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum OneLeft {
    /// They stay in the journals, and wait once those are full.
    Stall,
    /// They go on.
    Write,
}

/// A site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// How it is.
    pub condition: Condition,
    /// It holds journals and votes alone, and says what becomes of writes with one other site left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<OneLeft>,
    /// Its nodes.
    pub nodes: Vec<String>,
    /// How many volumes its nodes own.
    pub volumes_owned: u32,
    /// How much its disks may hold.
    pub capacity_bytes: u64,
    /// How much the disks of those nodes hold that answered; absent if none did.
    pub used_bytes: Option<u64>,
}

/// Sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    /// By name.
    pub sites: Vec<Site>,
    /// Nodes that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// How it is.
    pub condition: Condition,
    /// Whether the operator has it emptied.
    pub draining: bool,
    /// For how much longer than usual it is waited for if it stops, in maintenance.
    #[serde(default)]
    pub maintenance_s: Option<u32>,
    /// Where other nodes reach it (UDP).
    pub quic: String,
    /// Where clients reach it.
    pub nbd: String,
    /// How many volumes it owns.
    pub volumes_owned: u32,
    /// How much its disks may hold.
    pub capacity_bytes: u64,
    /// How much they hold; absent if it does not answer.
    pub used_bytes: Option<u64>,
    /// What its caches hold; absent if it does not answer.
    pub cache_bytes: Option<u64>,
    /// Bytes of repair that came to it from other sites, since its start; absent likewise.
    #[serde(default)]
    pub repair_wan_bytes: Option<u64>,
}

/// Nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// By name.
    pub nodes: Vec<Node>,
    /// Those that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}

/// Why a disk is emptied though nobody asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It corrupts data again and again.
    Rots,
    /// It is slow beside the others of its site.
    Slow,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `node/disk`.
    pub name: String,
    /// Its site.
    pub site: String,
    /// How it is.
    pub condition: Condition,
    /// Whether it is to be emptied.
    pub draining: bool,
    /// For what, if nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Its name in its node's configuration; absent if its node does not serve it now.
    pub label: Option<String>,
    /// Its directory on its node; absent likewise.
    pub path: Option<String>,
    /// How much it may hold.
    pub capacity_bytes: u64,
    /// How much it holds; absent likewise.
    pub used_bytes: Option<u64>,
    /// Its scrub; absent likewise.
    #[serde(default)]
    pub scrub: Option<Scrub>,
}

impl Disk {
    /// Whether people may mean it by that: `node/disk` by number or by name, or its directory.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let by_label = || {
            let (node, _) = self.name.split_once('/')?;
            Some(format!("{node}/{}", self.label.as_ref()?))
        };
        self.name == name
            || self.path.as_deref() == Some(name)
            || by_label().as_deref() == Some(name)
    }
}

/// Disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// By name.
    pub disks: Vec<Disk>,
    /// Nodes that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}
