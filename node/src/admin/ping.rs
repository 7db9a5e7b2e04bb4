//! What a node says of its own life, at once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A node is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Its name.
    pub node: String,
    /// Whether it serves clients.
    pub ready: bool,
    /// Whether it hears a quorum of the global placement group: what it says of the fabric is
    /// of now, and what it is asked to change can be.
    pub hears_quorum: bool,
    /// What it waits for while it does not.
    pub waiting_for: Option<WaitingFor>,
}

impl Pong {
    /// Whether what it says of the fabric is how the fabric is, as far as it can know by itself.
    #[must_use]
    pub const fn speaks_for_the_fabric(&self) -> bool {
        self.ready && self.hears_quorum
    }
}

/// Why a node that runs does not serve yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// They are being opened.
    Disks,
    /// Nobody decided yet that it is up again.
    SiteGroup,
    /// Its site was decided to be away, and is not back yet.
    GlobalGroup,
    /// Nothing any more: it was removed from the fabric, for good.
    Removed,
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disks => "its disks",
            Self::SiteGroup => "its site group to take it in",
            Self::GlobalGroup => "the global placement group to take its site in",
            Self::Removed => {
                "nobody: it was removed from the fabric; stop it, delete its directory and join anew"
            }
        })
    }
}
