//! What is told of scrubs: every byte that disks hold is read in the background, what rotted is
//! rebuilt from others.

use serde::{Deserialize, Serialize};

/// The scrub of one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// Whether a pass is under way.
    pub running: bool,
    /// Bytes that the pass under way, or the last one, verified.
    pub pass_bytes: u64,
    /// Bytes that the disk holds: what a pass has to read.
    pub held_bytes: u64,
    /// The pace of a pass.
    pub bytes_per_s: u64,
    /// When the pass that is under way should end.
    pub eta_s: Option<u64>,
    /// When the next one begins, if none is under way.
    pub next_in_s: Option<u64>,
    /// Passes that came to their end.
    pub passes: u64,
    /// Bytes verified over the disk's whole life.
    pub verified_bytes: u64,
    /// Fragments that were found rotten.
    pub found: u64,
    /// Those of them that were rebuilt from others and stored anew.
    pub repaired: u64,
    /// Fragments that were gone and were brought back.
    pub restored: u64,
    /// Fragments that are rotten and not repaired yet.
    pub rotten: u64,
    /// Whether so many rotted that the disk should be replaced.
    pub flagged: bool,
}

impl Scrub {
    /// How much of the pass that is under way is done, in percent.
    #[must_use]
    pub fn percent(&self) -> u64 {
        match self.held_bytes {
            0 => 100,
            held => (u128::from(self.pass_bytes) * 100 / u128::from(held)).min(100) as u64,
        }
    }
}

/// A disk with its scrub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskScrub {
    /// `node/disk`.
    pub disk: String,
    /// Its site.
    pub site: String,
    /// Its scrub; absent if its node does not answer, or does not serve it.
    pub scrub: Option<Scrub>,
}

/// Scrubs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubs {
    /// By disk.
    pub disks: Vec<DiskScrub>,
    /// Nodes that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}
