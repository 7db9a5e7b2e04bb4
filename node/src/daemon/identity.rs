//! Who a node is in its fabric: `identity.json` in its directory, beside its certificate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use model::ids::{Boot, Incarnation, NodeId, SiteId};
use serde::{Deserialize, Serialize};

use super::config::{ConfigError, NodeConfig, load, save};

/// The file's name.
pub(super) const IDENTITY: &str = "identity.json";

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
    /// Whether this node founds the fabric, when it starts for the first time.
    pub founder: bool,
    /// Whether its metadata logs were made: what is missing of them from then on was lost.
    pub started: bool,
    /// The fabric's other nodes, and where, as far as it knew last.
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

    /// For the metadata machine, in this life of the process and of the metadata logs, which
    /// name theirs (R2, R8).
    #[must_use]
    pub fn for_life(
        &self,
        config: &NodeConfig,
        boot: Boot,
        directory: Incarnation,
    ) -> raft_meta::node::Identity {
        raft_meta::node::Identity {
            node: NodeId(self.node),
            boot,
            directory,
            name: config.name.clone(),
            site: SiteId(self.site),
            address: config.quic,
            nbd: config.nbd,
        }
    }
}
