//! What machines ask of the global placement group, and its answers. Every request is a
//! linearizable read or an exactly-once command; a token correlates the answer.

use bincode::{Decode, Encode};

use crate::geometry::Code;
use crate::ids::{DiskRef, Epoch, NodeId, Position, SiteId, Version, VolumeId};
use crate::journal::Checkpoint;
use crate::placement::{RecoveredFrom, VolumeRecord};
use crate::time::WallTime;

/// Correlates a [`MetaReply`] with its [`MetaRequest`] within one node's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct MetaToken(pub u64);

/// Asked of the global placement group by machines of a node.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum MetaRequest {
    /// A Volume machine starts: raise the epoch and be its owner (R1). Refused unless the
    /// record's epoch is still `expected` and, where another node owns it, that was asked by
    /// nobody else. Answered with [`MetaReply::Volume`].
    Claim {
        /// The volume.
        volume: VolumeId,
        /// Compare-and-set.
        expected: Epoch,
        /// The claiming node.
        node: NodeId,
        /// Of a clean volume, the journal's replicas from now on, if they are not to be those that
        /// the record names: nothing was acknowledged that those alone have, so that a new journal
        /// needs none of them (R3). Otherwise it says nothing.
        found_on: Option<Vec<DiskRef>>,
    },
    /// A linearizable read of a volume's record. Answered with [`MetaReply::Volume`].
    ReadVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// The owner publishes a committed checkpoint (R3). Until its first publication a volume
    /// that was clean stays clean: the owner founds the journal, then publishes, and only then
    /// acknowledges. Answered with [`MetaReply::Done`].
    Publish {
        /// The volume.
        volume: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// The checkpoint.
        checkpoint: Checkpoint,
        /// Whether it is a passivation: all is covered, and the owner will never acknowledge
        /// in this epoch again (R3).
        clean: bool,
        /// When, by the owner's clock.
        at: WallTime,
    },
    /// Begin a change of the journal's replicas (R5). Answered with [`MetaReply::Volume`].
    BeginJournalChange {
        /// The volume.
        volume: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// Compare-and-set.
        version: Version,
        /// The new set.
        replicas: Vec<DiskRef>,
    },
    /// Settle or cancel a change of the journal's replicas (R5). Answered with
    /// [`MetaReply::Volume`].
    EndJournalChange {
        /// The volume.
        volume: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// Compare-and-set.
        version: Version,
        /// Whether the next set is adopted.
        adopt: bool,
    },
    /// Make a volume. Answered with [`MetaReply::Volume`].
    CreateVolume {
        /// Its name: 1 to 255 bytes, no '@' and no '/'.
        name: String,
        /// Its size.
        size_bytes: u64,
        /// The code of its data.
        code: Code,
        /// Its home site.
        home: SiteId,
        /// One disk in each site, home's first.
        journal: Vec<DiskRef>,
    },
    /// Change a volume's size. What a smaller one cuts off is gone for good: until its owner
    /// has made it so, an owned volume can't grow. Answered with [`MetaReply::Volume`].
    ResizeVolume {
        /// The volume.
        volume: VolumeId,
        /// Compare-and-set: a request that comes late must not cut off what was written since.
        expected: Version,
        /// Its new size.
        size_bytes: u64,
    },
    /// Delete a volume: its record becomes a tombstone. Answered with [`MetaReply::Volume`].
    DeleteVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Assign a volume to another node (a planned move or a failover): the epoch rises and
    /// the named node is to claim it. Answered with [`MetaReply::Volume`].
    MoveVolume {
        /// The volume.
        volume: VolumeId,
        /// Compare-and-set.
        expected: Epoch,
        /// The new owner.
        to: NodeId,
    },
    /// By the operator's word: the volume goes on without a quorum of its journal, from what is
    /// left. What was acknowledged behind `covered` may be lost. The epoch's generation rises
    /// (R11), and nothing of lower epochs counts any more: no owner, no session, no other
    /// replica's log. Answered with [`MetaReply::Volume`].
    RecoverVolume {
        /// The volume.
        volume: VolumeId,
        /// Compare-and-set.
        expected: Epoch,
        /// Compare-and-set: the journal configuration.
        version: Version,
        /// What it goes on from.
        from: RecoveredFrom,
        /// What that is known to cover. Nothing below what the record knows is taken: the
        /// published checkpoint, the journal's founding.
        covered: Position,
        /// The new journal's replicas.
        replicas: Vec<DiskRef>,
        /// The next owner; of a volume that goes on from a checkpoint nobody need be.
        to: Option<NodeId>,
        /// When, by the clock of the node that was asked.
        at: WallTime,
    },
    /// The owner journaled that what was cut off is a hole, and it is committed: the cut is
    /// over. Answered with [`MetaReply::Volume`].
    EndCut {
        /// The volume.
        volume: VolumeId,
        /// Compare-and-set.
        epoch: Epoch,
        /// Compare-and-set: the cut is that of this version.
        resized: Version,
    },
}

/// The group's answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum MetaReply {
    /// Done.
    Done,
    /// The volume's record now (after the command, if it was one).
    Volume(Option<VolumeRecord>),
    /// A compare-and-set failed, or the request makes no sense; nothing was changed. The
    /// record as it is.
    Refused {
        /// Why.
        reason: Refusal,
        /// The record, if there is one.
        record: Option<VolumeRecord>,
    },
    /// No quorum answered in time: unknown whether it happened. Ask again.
    Unavailable,
}

/// Why a command was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Refusal {
    /// The epoch is another one now.
    StaleEpoch,
    /// The version of the journal configuration, or of the size, is another one now.
    StaleVersion,
    /// No such volume, or it was deleted.
    NoVolume,
    /// The name is taken or not allowed.
    BadName,
    /// The size is zero, more than any client counts to, or not a multiple of the block size.
    BadSize,
    /// The replicas are not one in each of the sites, or name unknown disks (R6).
    BadReplicas,
    /// The code does not fit the fabric's sites.
    BadCode,
    /// The node is unknown, or another one owns the volume.
    NotYours,
    /// The volume can't grow yet: its owner has not journaled what was cut off it.
    CutPending,
    /// What the volume is to be recovered from is older than what its record knows.
    BelowRecord,
    /// The metadata holds as many volumes, deleted ones included, as one snapshot may carry.
    Full,
}
