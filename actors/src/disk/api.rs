//! What a Disk machine takes and what it asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::ids::{Endpoint, Epoch, Position, RequestId, VolumeId};
use model::meta::{MetaReply, MetaToken};
use model::payload::Payload;
use model::placement::{DiskHealth, View};
use model::store::{
    DeviceError, FragmentDone, FragmentOp, JournalDone, JournalOp, OpId, ScrubMark,
};
use model::time::Time;

use crate::messages::{DiskReply, DiskRequest, FragmentAt};

/// What may happen to a Disk machine.
#[derive(Debug)]
pub enum DiskInput {
    /// A Volume or Segment machine asks something. Answered by one [`DiskEffect::Reply`].
    Request {
        /// Who asks.
        from: Endpoint,
        /// Repeated in the reply.
        id: RequestId,
        /// What.
        request: DiskRequest,
        /// The payload beside it.
        payload: Bytes,
    },
    /// The journal's store finished an operation.
    Journal {
        /// Which.
        op: OpId,
        /// How.
        done: Result<JournalDone, DeviceError>,
    },
    /// The fragments' store finished an operation.
    Fragments {
        /// Which.
        op: OpId,
        /// How.
        done: Result<FragmentDone, DeviceError>,
    },
    /// The answer to [`DiskEffect::ReadVolume`].
    Volume {
        /// Repeated from the question.
        token: MetaToken,
        /// A volume's record, or that it was not to be had.
        reply: MetaReply,
    },
    /// The placement changed: what it takes away goes (R16).
    View(Arc<View>),
    /// The operator wants a pass of the scrub now; one that is under way goes on.
    ScrubNow,
    /// Something that was stored may be missing: headers were dropped, or the catalog was made anew
    /// from what headers there are.
    Lacking,
    /// The device failed outside an operation, or its path is another one now (R2): retire.
    Failed(DeviceError),
}

/// What a Disk machine asks of its shell, to be carried out in order.
#[derive(Clone, Debug)]
pub enum DiskEffect {
    /// Tell the node's Healer what the scrub found.
    Scrub(ScrubNews),
    /// Answer a request.
    Reply {
        /// Who asked.
        to: Endpoint,
        /// The request's id.
        id: RequestId,
        /// The answer.
        reply: DiskReply,
        /// The payload beside it.
        payload: Payload,
    },
    /// Start an operation of the journal's store; answered by [`DiskInput::Journal`].
    Journal {
        /// Names the completion.
        op: OpId,
        /// What to do.
        request: JournalOp,
    },
    /// Start an operation of the fragments' store; answered by [`DiskInput::Fragments`].
    Fragments {
        /// Names the completion.
        op: OpId,
        /// What to do.
        request: FragmentOp,
    },
    /// Read a volume's record linearizably (R2, R8); answered by [`DiskInput::Volume`].
    ReadVolume {
        /// Names the answer.
        token: MetaToken,
        /// Whose.
        volume: VolumeId,
    },
    /// Tell the node's metadata whether there is room for fragments (R27). It is taken that there
    /// is, until this says otherwise.
    Room(bool),
    /// Tell the node's metadata what there is to be said of the disk beside that. It is taken that
    /// there is nothing, until this says otherwise.
    Health(DiskHealth),
    /// Whether the journal is without space for another file. It is taken that it is not, until this
    /// says otherwise.
    Shortage(bool),
    /// The device failed, or hangs: this machine will never again do anything. Said once.
    Retire {
        /// Why.
        error: DeviceError,
        /// It answers nothing, and nothing is known to have failed: once it let go of what it was
        /// asked, without an error, it may be opened again.
        hangs: bool,
    },
}

/// What a disk's scrub tells the node's Healer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubNews {
    /// This fragment is not as it was written: it is to be rebuilt from others. Told again until
    /// it is whole or gone.
    Rotten(FragmentAt),
    /// All that the disk has was read. Whether it has all that it should, others know.
    Walked,
    /// Reading its headers may have missed something: compare as after a pass.
    Lacking,
}

/// How a disk's scrub is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubStats {
    /// What it did, over the disk's whole life.
    pub mark: ScrubMark,
    /// Whether a pass is under way.
    pub running: bool,
    /// When the next pass begins, if none is under way.
    pub next_in: Option<Duration>,
    /// The pace of a pass.
    pub bytes_per_s: u64,
    /// Fragments that are rotten and not repaired yet.
    pub rotten: u64,
    /// Whether so many rotted that the disk is not to be trusted.
    pub flagged: bool,
}

/// How one volume's replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicaStats {
    /// Payload bytes of its untrimmed records.
    pub untrimmed_bytes: u64,
    /// How many there are.
    pub records: u64,
    /// Whether its log counts in a seal (R8).
    pub whole: bool,
    /// The highest epoch that it promised (R7).
    pub promised: Epoch,
    /// Its log starts after this.
    pub base: Position,
    /// Its log ends here.
    pub last: Position,
    /// When it was appended to last, in this life of the disk's machine.
    pub appended: Option<Time>,
    /// What the latest committed checkpoint that it knows covers (R3).
    pub covers: Option<Position>,
}

/// How a disk is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskStats {
    /// Its replicas.
    pub replicas: BTreeMap<VolumeId, ReplicaStats>,
    /// Journal files from the oldest needed to the newest.
    pub files: u64,
    /// fdatasyncs asked of the journal's store since the start.
    pub syncs: u64,
    /// Bytes copied forward since the start.
    pub moved_bytes: u64,
    /// Its scrub.
    pub scrub: ScrubStats,
    /// Whether the device failed.
    pub retired: bool,
}
