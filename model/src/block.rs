//! What a front end asks of a volume, and what it is told: the language between front ends
//! and Volume actors. Offsets and lengths are bytes.

use bincode::{Decode, Encode};
use bytes::Bytes;
use thiserror::Error;

/// A front end's request on one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read `length` bytes.
    Read {
        /// First byte.
        offset: u64,
        /// How many, not 0.
        length: u32,
    },
    /// Write bytes. Answered when a majority of sites holds them durably, so FUA is implied.
    Write {
        /// First byte.
        offset: u64,
        /// The bytes, not empty.
        data: Bytes,
    },
    /// Make a range read as zeros.
    Zero {
        /// First byte.
        offset: u64,
        /// How many, not 0.
        length: u64,
        /// Whether the range must stay allocated (NBD's NO_HOLE).
        allocate: bool,
    },
    /// Unmap a range; it reads as zeros.
    Trim {
        /// First byte.
        offset: u64,
        /// How many, not 0.
        length: u64,
    },
    /// Everything acknowledged before is durable: it is already.
    Flush,
    /// Which ranges are allocated.
    Status {
        /// First byte.
        offset: u64,
        /// How many, not 0.
        length: u64,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A mutation or a flush is done and durable.
    Done,
    /// What was read, in order, covering exactly what was asked.
    Data(Vec<Chunk>),
    /// The ranges, in order, from the offset asked for; may stop short of the end asked for,
    /// but never before its first byte.
    Status(Vec<Extent>),
    /// It was not done.
    Error(BlockError),
}

/// A run of what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes.
    Data(Bytes),
    /// That many zeros which are not stored.
    Zeros(u64),
}

/// A run of equal allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Extent {
    /// Bytes.
    pub length: u64,
    /// How it is allocated.
    pub state: Allocation,
}

/// How a range is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Allocation {
    /// Data is stored.
    Data,
    /// Allocated, reads as zeros.
    Zero,
    /// Not allocated, reads as zeros.
    Hole,
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Error)]
pub enum BlockError {
    /// The range reaches past the end of the volume.
    #[error("the range reaches past the end of the volume")]
    OutOfRange,
    /// There is no space left.
    #[error("no space left in the fabric")]
    NoSpace,
    /// The export is read-only.
    #[error("the export is read-only")]
    ReadOnly,
    /// The data cannot be read and nothing can rebuild it.
    #[error("the data cannot be read")]
    Unreadable,
    /// The client's session is gone: the connection must be dropped (R10).
    #[error("the session is gone")]
    NoSession,
    /// The volume does not exist, or was deleted.
    #[error("no such volume")]
    NoVolume,
}
