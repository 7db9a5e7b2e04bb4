//! What is told of volumes as iSCSI targets.

use serde::{Deserialize, Serialize};

/// A name and a secret of CHAP.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chap {
    /// The name.
    pub user: String,
    /// The secret.
    pub secret: String,
}

/// A secret is in no log.
impl std::fmt::Debug for Chap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Chap").field(&self.user).finish()
    }
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IscsiTarget {
    /// The volume.
    pub volume: String,
    /// The target's name.
    pub iqn: String,
    /// The volume's unit in it.
    pub lun: u64,
    /// Where nodes that answer serve it.
    pub portals: Vec<String>,
    /// Who may log in; anybody if empty.
    pub initiators: Vec<String>,
    /// Whether initiators prove who they are.
    pub chap: bool,
    /// Whether the target does, too.
    pub mutual_chap: bool,
    /// Initiator ports that are registered for persistent reservations.
    pub registrations: u64,
    /// Who holds the unit: by a persistent reservation, or by RESERVE.
    pub reserved_by: Option<String>,
}

/// All targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IscsiTargets {
    /// By volume.
    pub targets: Vec<IscsiTarget>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IscsiSession {
    /// The node that serves it.
    pub node: String,
    /// The target's name.
    pub iqn: String,
    /// The initiator port's name.
    pub initiator: String,
    /// The initiator's address.
    pub client: Option<String>,
}

/// All sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IscsiSessions {
    /// By node.
    pub sessions: Vec<IscsiSession>,
    /// Nodes that did not answer: their sessions are missing.
    pub unreachable: Vec<String>,
}

/// A volume that is no target any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IscsiUnmapped {
    /// The volume.
    pub unmapped: String,
}
