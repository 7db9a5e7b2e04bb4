//! What a volume's journal holds: records, as heads (bincode) with payloads beside them.

use bincode::{Decode, Encode};

use crate::cut::Cut;
use crate::geometry::Pool;
use crate::ids::{ClientRef, Epoch, Position, SegmentId, SessionId};
use crate::payload::Payload;

/// Identifies one mutating part of a client's request for exactly-once application (R10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct Part {
    /// The client's session.
    pub session: SessionId,
    /// The part's number in the session, from 1.
    pub n: u64,
    /// The lowest number that the client has no answer to; `n < low + PARTS_IN_FLIGHT_MAX`.
    pub low: u64,
}

/// Bound of a session's unanswered parts (R10).
pub const PARTS_IN_FLIGHT_MAX: u64 = 1024;

/// A mutating part carries at most this much payload; the client splits longer requests.
pub const PART_BYTES_MAX: usize = 1 << 20;

/// A journal record without its payload.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RecordHead {
    /// Its name and place.
    pub position: Position,
    /// What it says.
    pub body: RecordBody,
    /// Bytes of payload beside it.
    pub payload_len: u32,
}

/// What a journal record says.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum RecordBody {
    /// First record of an owner's epoch; commits everything before it.
    EpochStart,
    /// A client's session begins; its id is this record's position.
    Open(ClientRef),
    /// A client session ends.
    Close(SessionId),
    /// Bytes written. The payload is `sums`-checked: one CRC-32C per block-aligned piece
    /// (the first and last piece may be shorter than a block).
    Write {
        /// Whose write it is.
        part: Part,
        /// First byte.
        offset: u64,
        /// CRC-32C of each piece of the payload, cut at block boundaries of the volume.
        sums: Vec<u32>,
    },
    /// A range that reads as zeros from now on.
    Zero {
        /// Whose request it is.
        part: Part,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Whether it stays allocated.
        allocate: bool,
    },
    /// A durable checkpoint (R3). The payload holds the session table (see actors::volume).
    Checkpoint(Checkpoint),
    /// Bytes within one block that were written before, whose base could not be read when they
    /// were to be drained (R28). No client's request.
    Kept {
        /// First byte.
        offset: u64,
    },
    /// The volume was made smaller: a range that is a hole from now on. No client's request.
    Cut(Cut),
    /// In place of `EpochStart`, by the first owner after a recovery with loss: no session that
    /// was opened before goes on, since its client may have seen acknowledged what is gone.
    Recovered,
}

/// A record with its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The head.
    pub head: RecordHead,
    /// The payload, `head.payload_len` bytes.
    pub payload: Payload,
}

/// Where an index page lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct PagePtr {
    /// The index segment.
    pub segment: SegmentId,
    /// The segment's pool.
    pub pool: Pool,
    /// The segment's data length in bytes (its fragments' length follows from it).
    pub segment_bytes: u32,
    /// First byte of the page in the segment; a multiple of the block size.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// CRC-32C of the page.
    pub sum: u32,
}

/// An index root plus the journal position that it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Checkpoint {
    /// Every record up to here is in the index (R4: epoch and seq, never seq alone).
    pub covers: Position,
    /// The tree's root page; `None` for an empty volume.
    pub root: Option<PagePtr>,
    /// The table of index segments; `None` for an empty volume.
    pub table: Option<PagePtr>,
    /// The next segment counter.
    pub next_counter: u32,
    /// Blocks that hold data.
    pub mapped_blocks: u64,
    /// Bytes of all live segments' fragments, as stored.
    pub stored_bytes: u64,
}

impl Checkpoint {
    /// The checkpoint of a new volume.
    pub const EMPTY: Self = Self {
        covers: Position::ZERO,
        root: None,
        table: None,
        next_counter: 0,
        mapped_blocks: 0,
        stored_bytes: 0,
    };
}

/// What a replica reports of itself when it is sealed at `epoch`.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SealReport {
    /// The epoch that it promised.
    pub epoch: Epoch,
    /// Its log starts after this position (trimmed up to here, or reset to here).
    pub base: Position,
    /// Its last record, or `base`.
    pub last: Position,
    /// The last position that it knows to be committed.
    pub committed: Position,
    /// The latest committed checkpoint that it knows (kept outside trimming), with the
    /// position of its record and its session table's bytes.
    pub checkpoint: Option<(Position, Checkpoint, Vec<u8>)>,
}
