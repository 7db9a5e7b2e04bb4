//! What a switchboard is made of.

use std::fmt;
use std::sync::Arc;

use actix::Addr;
use model::ids::{Boot, DiskId, NodeId};
use model::meta::{MetaRequest, MetaToken};
use model::placement::DiskHealth;
use transport::net::endpoint::Transport;

use crate::client::ClientConfig;
use crate::disk::DiskConfig;
use crate::heal::HealConfig;
use crate::runtime::disk::Closing;
use crate::runtime::heal::HealedPort;
use crate::runtime::switchboard::Switchboard;
use crate::segment::SegmentConfig;
use crate::volume::VolumeConfig;

/// The way to the node's metadata machine, which has a thread of its own.
pub type MetaPort = Arc<dyn Fn(MetaToken, MetaRequest) + Send + Sync>;

/// The way to who opens disks.
pub type Reopen = Arc<dyn Fn(DiskId, Closing, Addr<Switchboard>) + Send + Sync>;

/// What a switchboard is made of.
pub struct SwitchboardConfig {
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub boot: Boot,
    /// The network.
    pub transport: Transport,
    /// The metadata.
    pub meta: MetaPort,
    /// Told when a disk retires, so that the site group is.
    pub retired: Arc<dyn Fn(DiskId) + Send + Sync>,
    /// Told when a disk whose machine broke is to be opened again: once its threads have ended. It
    /// is attached here then, and announced again.
    pub reopen: Reopen,
    /// Told when it changes whether a disk has room, so that the groups are.
    pub room: Arc<dyn Fn(DiskId, bool) + Send + Sync>,
    /// Told when a disk says something else of itself, likewise.
    pub health: Arc<dyn Fn(DiskId, DiskHealth) + Send + Sync>,
    /// The volumes' bounds and terms.
    pub volume: VolumeConfig,
    /// The Segment machines'.
    pub segment: SegmentConfig,
    /// The disks'.
    pub disk: DiskConfig,
    /// The Healer's.
    pub heal: HealConfig,
    /// Told which moves of slots are done.
    pub healed: HealedPort,
    /// The clients'.
    pub client: ClientConfig,
}

impl fmt::Debug for SwitchboardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwitchboardConfig")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
