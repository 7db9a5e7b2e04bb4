//! Who a node is in its fabric: `identity.json` in its directory, beside its certificate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use model::ids::{Boot, Incarnation, NodeId, SiteId};
use serde::{Deserialize, Serialize};

use super::config::{ConfigError, NodeConfig, load, save};

/// The file's name.
const IDENTITY: &str = "identity.json";

/// What `atoll init` or `atoll join` learnt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeIdentity {
    /// The fabric's number, for its disks' superblocks.
    pub fabric: u64,
    /// The node's id.
    pub node: u16,
    /// Its site's id.
    pub site: u8,
    /// The metadata directory's life (R2, R8).
    pub directory: u64,
    /// Whether this node founds the fabric.
    pub founder: bool,
    /// Nodes that were there when it joined, and where.
    pub contacts: BTreeMap<u16, SocketAddr>,
}

impl NodeIdentity {
    /// Reads it.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] when the node was not made; any other [`ConfigError`].
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        load(&directory.join(IDENTITY))?.ok_or_else(|| ConfigError::Missing(directory.to_owned()))
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// [`ConfigError::Io`].
    pub fn save(&self, directory: &Path) -> Result<(), ConfigError> {
        save(&directory.join(IDENTITY), self)
    }

    /// For the metadata machine, in this life.
    #[must_use]
    pub fn for_life(&self, config: &NodeConfig, boot: Boot) -> raft_meta::node::Identity {
        raft_meta::node::Identity {
            node: NodeId(self.node),
            boot,
            directory: Incarnation(self.directory),
            name: config.name.clone(),
            site: SiteId(self.site),
            address: config.quic,
            nbd: config.nbd,
        }
    }
}
