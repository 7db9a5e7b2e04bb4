//! What a volume's journal holds: records, as heads (bincode) with payloads beside them.

use std::ops::Range;

use bincode::{Decode, Encode};

use crate::BLOCK_BYTES;
use crate::cut::Cut;
use crate::geometry::{Pool, SEGMENT_BYTES_MAX};
use crate::ids::{BlockNo, ClientRef, Epoch, Position, SegmentId, SessionId, VolumeId};
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

impl Part {
    /// Whether a client may number a part so, whatever was before.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let end = self.low.checked_add(PARTS_IN_FLIGHT_MAX);
        self.low > 0 && self.n >= self.low && end.is_some_and(|end| self.n < end)
    }
}

/// A mutating part carries at most this much payload; the client splits longer requests.
pub const PART_BYTES_MAX: usize = 1 << 20;

/// What a record takes in memory and in a journal besides its payload, about.
pub const RECORD_BYTES: u64 = 512;

/// A part that zeroes a range which stays allocated is at most so long, since the index has a leaf
/// for each MiB of it; the client splits longer requests.
pub const ZERO_PART_BYTES_MAX: u64 = 256 << 20;

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
    /// were to be drained (R28), or that there was no room for (R18). No client's request.
    Kept {
        /// First byte.
        offset: u64,
    },
    /// The volume was made smaller: a range that is a hole from now on. No client's request.
    Cut(Cut),
    /// Writes of whole blocks whose bytes are in a segment already: the journal carries only
    /// the reference (R14).
    Stored(Stored),
    /// In place of `EpochStart`, by the first owner after a recovery with loss: no session that
    /// was opened before goes on, since its client may have seen acknowledged what is gone.
    Recovered,
}

/// Writes whose bytes lie in one segment that no earlier record refers to. They take effect
/// together, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Stored {
    /// The segment; it survives the policy's losses (R14).
    pub segment: SegmentId,
    /// Its pool.
    pub pool: Pool,
    /// The length of its data in bytes.
    pub segment_bytes: u32,
    /// What it holds.
    pub writes: Vec<StoredWrite>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StoredWrite {
    /// Whose write it is.
    pub part: Part,
    /// First block of the volume.
    pub first: BlockNo,
    /// Where its bytes begin in the segment's data; a multiple of the block size.
    pub at: u32,
    /// CRC-32C of each block.
    pub sums: Vec<u32>,
}

impl StoredWrite {
    /// The bytes of the volume that it writes.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let first = self.first.0.saturating_mul(BLOCK_BYTES as u64);
        first..first.saturating_add((self.sums.len() * BLOCK_BYTES) as u64)
    }
}

impl Stored {
    /// Whether it can be what an owner of `volume` wrote.
    fn is_sound(&self, volume: VolumeId) -> bool {
        let block = BLOCK_BYTES as u64;
        let whole = self.segment_bytes as usize <= SEGMENT_BYTES_MAX
            && self.segment_bytes.is_multiple_of(BLOCK_BYTES as u32);
        let within = |write: &StoredWrite| {
            let end = u64::from(write.at) + write.sums.len() as u64 * block;
            let last = write.first.0.checked_add(write.sums.len() as u64);
            !write.sums.is_empty()
                && write.part.is_sound()
                && write.at.is_multiple_of(BLOCK_BYTES as u32)
                && end <= u64::from(self.segment_bytes)
                && last.is_some_and(|last| last <= u64::MAX / block)
        };
        let mut free = 0;
        let apart = self.writes.iter().all(|write| {
            let begins = write.at >= free;
            free = write
                .at
                .saturating_add((write.sums.len() * BLOCK_BYTES) as u32);
            begins
        });
        let own = self.segment.volume == volume;
        own && self.pool.code.is_sound()
            && whole
            && apart
            && !self.writes.is_empty()
            && self.writes.iter().all(within)
    }

    /// Bytes that clients wrote.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        let blocks = self.writes.iter().map(|write| write.sums.len() as u64);
        blocks.sum::<u64>() * BLOCK_BYTES as u64
    }
}

impl RecordBody {
    /// Whether it brings clients' bytes.
    #[must_use]
    pub fn brings_bytes(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Kept { .. })
    }

    /// Whether it frees a journal's files, or makes the owner who does.
    #[must_use]
    pub fn frees_files(&self) -> bool {
        matches!(
            self,
            Self::Checkpoint(_) | Self::EpochStart | Self::Recovered
        )
    }
}

impl RecordHead {
    /// Whether an owner of `volume` may have written it: else it is damage, or a lie. What passes
    /// can be replayed; whether it follows what is before it in a log is another question.
    #[must_use]
    pub fn is_sound(&self, volume: VolumeId) -> bool {
        let payload = u64::from(self.payload_len);
        let block = BLOCK_BYTES as u64;
        match &self.body {
            RecordBody::Write { part, offset, sums } => {
                part.is_sound() && pieces(*offset, payload) == Some(sums.len() as u64)
            }
            RecordBody::Zero {
                part,
                offset,
                length,
                ..
            } => part.is_sound() && payload == 0 && pieces(*offset, *length).is_some(),
            RecordBody::Checkpoint(checkpoint) => {
                let covers = checkpoint.covers;
                covers.seq < self.position.seq && covers.epoch <= self.position.epoch
            }
            RecordBody::Kept { offset } => pieces(*offset, payload) == Some(1),
            RecordBody::Cut(cut) => {
                let whole = cut.from.is_multiple_of(block) && cut.to.is_multiple_of(block);
                payload == 0 && cut.from < cut.to && whole
            }
            RecordBody::Stored(stored) => {
                let named_before = stored.segment.epoch <= self.position.epoch;
                payload == 0 && named_before && stored.is_sound(volume)
            }
            RecordBody::EpochStart
            | RecordBody::Recovered
            | RecordBody::Open(_)
            | RecordBody::Close(_) => true,
        }
    }

    /// How many bytes it takes in an append, at most: its payload, and the parts and checksums
    /// that stand for one. Other records' heads are so small that they need no count.
    #[must_use]
    pub fn weight(&self) -> usize {
        let instead = match &self.body {
            RecordBody::Stored(stored) => {
                let of = |write: &StoredWrite| 64 + 5 * write.sums.len();
                stored.writes.iter().map(of).sum()
            }
            _ => 0,
        };
        self.payload_len as usize + instead
    }
}

/// Into how many pieces a range of bytes is cut at block boundaries; `None` if it is no range.
fn pieces(offset: u64, length: u64) -> Option<u64> {
    let last = offset.checked_add(length.checked_sub(1)?)?;
    last.checked_add(1)?;
    Some(last / BLOCK_BYTES as u64 - offset / BLOCK_BYTES as u64 + 1)
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

#[cfg(test)]
mod tests;
