//! A fault that struck: what a plan came to.

use model::ids::{DiskId, NodeId, SiteId};
use model::time::Time;

use super::Ill;
use crate::plan::topology::NodeName;

/// A fault that struck, with whom it hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// These processes were killed.
    Killed {
        /// The nodes.
        nodes: Vec<NodeId>,
        /// Whether the power failed.
        power: bool,
        /// Whether they stay away until the run's end.
        for_good: bool,
    },
    /// These directions between sites were cut.
    Cut(Vec<(SiteId, SiteId)>),
    /// These directions between sites were slow.
    Slow(Vec<(SiteId, SiteId)>),
    /// This node was cut off.
    CutNode(NodeId),
    /// This node stood still.
    Paused(NodeId),
    /// These nodes' disks were slow.
    SlowDisks(Vec<NodeId>),
    /// This disk of a node was lost for good.
    LostDisk(NodeId, DiskId),
    /// Messages in these directions between sites waited for its end.
    Clogged(Vec<(SiteId, SiteId)>),
    /// This node's clock ran so many millionths too fast; beyond the lease's margin or not.
    Drifted {
        /// The node.
        node: NodeId,
        /// How much too fast; too slow if negative.
        ppm: i64,
        /// Whether reads may be stale because of it.
        far: bool,
    },
    /// Something befell a disk.
    Disk {
        /// Its node.
        node: NodeId,
        /// The disk.
        disk: DiskId,
        /// What.
        ill: Ill,
    },
    /// This node's process was asked to end.
    ShutDown(NodeId),
    /// This node is in maintenance, and its process was asked to end.
    Maintained(NodeId),
    /// This node was asked to stop serving the volume.
    Stopped(NodeId),
    /// All clients left.
    Deserted,
    /// The volume was given to that node.
    Moved(NodeId),
    /// The volume was made smaller: it got these sizes, in blocks, one after the other.
    Resized(Vec<u64>),
    /// All these disks, a site's, have no room.
    FullSite(Vec<(NodeId, DiskId)>),
    /// This node gets one more disk, that large.
    DiskAdded(NodeId, u64),
    /// A node joins, with disks that large.
    NodeAdded(NodeName, u64),
    /// A site comes: the so-manieth, counted from 0.
    SiteAdded(u64),
    /// The operator has a node, or one disk of it, emptied.
    Drained {
        /// The node.
        node: NodeId,
        /// The disk, if it is one alone.
        disk: Option<DiskId>,
        /// Whether it is to go for good.
        remove: bool,
        /// Whether it serves again at the end.
        back: bool,
    },
    /// The owner is gone, and so are these replicas of the journal.
    QuorumLost {
        /// The owner.
        owner: NodeId,
        /// How it goes.
        parting: Parting,
        /// The replicas' disks.
        disks: Vec<(NodeId, DiskId)>,
        /// Whether they come back at the end as they were, though they were given up.
        returns: bool,
    },
    /// Nothing: it would have been more than the policy promises to survive.
    Spared,
}

/// How an owner goes whose journal loses its quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// Its process is killed.
    Killed,
    /// It is cut off, and waited for until it is found dead.
    Cut,
    /// It is cut off, and the operator takes it for gone at once.
    Disowned,
}

/// A fault that struck, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Struck {
    /// When it happened.
    pub at: Time,
    /// When it was mended.
    pub until: Time,
    /// Who owned the volume then.
    pub owner: Option<NodeId>,
    /// What it was.
    pub fault: Fault,
}
