//! The protocol between a front end's Client machine, on any node, and the volume's owner.

use bincode::{Decode, Encode};
use model::block::{BlockError, Extent};
use model::ids::{Boot, Epoch, SessionId, Version, VolumeId};
use model::journal::Part;

/// Sent by a Client machine to the node that it believes to own the volume. All but reads are
/// retried with the same [`Part`] until answered (R10).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum VolumeRequest {
    /// Begin a session; a client has one, so that this may be repeated. Answered by `Opened`.
    Open {
        /// The volume.
        volume: VolumeId,
        /// The life of its node that the client is of.
        boot: Boot,
    },
    /// End a session. Answered by `Done`.
    Close {
        /// The volume.
        volume: VolumeId,
        /// The session.
        session: SessionId,
    },
    /// Read. Answered by `Data`.
    Read {
        /// The volume.
        volume: VolumeId,
        /// The session: who saw acknowledged what is gone reads nothing any more.
        session: SessionId,
        /// First byte.
        offset: u64,
        /// How many, at most [`model::journal::PART_BYTES_MAX`].
        length: u32,
    },
    /// Write the payload. Answered by `Done`.
    Write {
        /// The volume.
        volume: VolumeId,
        /// Exactly-once identity.
        part: Part,
        /// First byte.
        offset: u64,
        /// CRC-32C of each piece of the payload, cut at the volume's block boundaries: made
        /// where the bytes entered the fabric.
        sums: Vec<u32>,
    },
    /// Zero or unmap. Answered by `Done`.
    Zero {
        /// The volume.
        volume: VolumeId,
        /// Exactly-once identity.
        part: Part,
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
        /// Whether it stays allocated.
        allocate: bool,
    },
    /// Allocation of a range. Answered by `Status`.
    Status {
        /// The volume.
        volume: VolumeId,
        /// The session.
        session: SessionId,
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
    },
}

impl VolumeRequest {
    /// The volume that it is for.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        match self {
            Self::Open { volume, .. }
            | Self::Close { volume, .. }
            | Self::Read { volume, .. }
            | Self::Write { volume, .. }
            | Self::Zero { volume, .. }
            | Self::Status { volume, .. } => *volume,
        }
    }
}

/// A run of what was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ReadChunk {
    /// The next so many bytes of the payload.
    Data(u32),
    /// That many zeros.
    Zeros(u32),
}

/// A volume's answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum VolumeReply {
    /// To `Open`: the session is committed.
    Opened {
        /// The session.
        session: SessionId,
        /// The volume's size in bytes, as its owner knows.
        size_bytes: u64,
        /// The version of that size.
        resized: Version,
    },
    /// To `Write`, `Zero` and `Close`: committed.
    Done,
    /// To `Read`: what to make of the payload.
    Data(Vec<ReadChunk>),
    /// To `Status`.
    Status(Vec<Extent>),
    /// It was not done.
    Error(BlockError),
    /// Not the owner, or not any more: nothing is said about what was asked. Ask the node
    /// that the placement names once it is newer than `epoch`.
    NotOwner {
        /// What the answering node knows.
        epoch: Epoch,
    },
    /// The owner's queues are full: ask again a little later.
    Busy,
}
