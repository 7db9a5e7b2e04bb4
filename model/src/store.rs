//! The operations that a Disk machine asks of its store, and their results. disk-store
//! carries them out on real files; the simulator runs the same code over simulated ones.

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::geometry::Pool;
use crate::ids::{FragmentKey, Row, SegmentId, VolumeId};
use crate::payload::Payload;
use crate::spread::RowStamp;

/// Correlates a completion with its operation; unique within the Disk machine's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// A journal file's name: grows by one for each file begun, over recycling ("lap").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct FileNo(pub u64);

/// Where a journal entry lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryAt {
    /// The file.
    pub file: FileNo,
    /// Byte offset of the entry's payload in the file.
    pub offset: u64,
    /// Payload bytes.
    pub payload_len: u32,
    /// CRC-32C of the payload: the read is checked against it.
    pub payload_sum: u32,
}

/// One entry for the journal: a volume's record or a replica's promise. The header is the
/// Disk machine's own bincode; the store does not look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Whose it is.
    pub volume: VolumeId,
    /// The Disk machine's header.
    pub header: Vec<u8>,
    /// The payload beside it.
    pub payload: Payload,
}

/// An entry that was found when the journal was opened, in the order of appending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedEntry {
    /// Whose it is.
    pub volume: VolumeId,
    /// The Disk machine's header.
    pub header: Vec<u8>,
    /// Where its payload lies.
    pub at: EntryAt,
}

/// What opening the journal found (R8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanVerdict {
    /// All that was ever synced is there.
    Whole,
    /// Something that may have been synced is missing or wrong: no volume's replica on this
    /// disk is countable in a seal until it is refilled.
    Damaged,
}

/// Asked of the journal's store. Appends of one call are durable together.
#[derive(Clone, Debug)]
pub enum JournalOp {
    /// Append all and make them durable with one fdatasync.
    Append(Vec<JournalEntry>),
    /// Read entries' payloads.
    Read(Vec<EntryAt>),
    /// Files before this one hold nothing that is needed: recycle them.
    ReleaseBefore(FileNo),
    /// Try again to prepare the file that follows the current one.
    Prepare,
}

/// What a journal has to go on with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum JournalRoom {
    /// A file is prepared for when the current one is full, or need not be yet.
    #[default]
    Ample,
    /// There is no space for another file. So many bytes of the current one are left to entries: for
    /// what frees files (R18).
    Left(u64),
}

/// The journal store's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalDone {
    /// Durable.
    Appended {
        /// Where each payload lies, in order.
        places: Vec<EntryAt>,
        /// What is left to go on with.
        room: JournalRoom,
    },
    /// There is no space: of an `Append` (whose entries these are) or a `ReleaseBefore` nothing
    /// was done.
    Full(Vec<JournalEntry>),
    /// The payloads, in order; `None` where it is damaged.
    Read(Vec<Option<Bytes>>),
    /// Recycled: there is room.
    Released,
    /// To `Prepare`: what is left to go on with.
    Prepared(JournalRoom),
}

/// A fragment's description: what its self-describing header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct FragmentMeta {
    /// Its pool.
    pub pool: Pool,
    /// Length of the whole segment's data in bytes.
    pub segment_bytes: u32,
    /// Its own length in bytes: a multiple of the block size.
    pub fragment_bytes: u32,
    /// What the segment holds.
    pub kind: SegmentKind,
}

/// Who wants the space: reserves rank (R18), so that what frees space, and what keeps data
/// safe, still has some when clients have none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum Claim {
    /// New data of clients: none of the reserve.
    Client,
    /// Data of clients that takes the place of other data, and with that makes room for as much:
    /// half of the reserve.
    Overwrite,
    /// Compaction, repair: three quarters of the reserve.
    Upkeep,
    /// The index, without which nothing is freed: seven eighths of the reserve. Deletes alone have
    /// the rest.
    Index,
}

/// What a segment holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum SegmentKind {
    /// Blocks of the volume.
    Data,
    /// Index pages (R25).
    Index,
}

/// Asked of the fragments' store.
#[derive(Clone, Debug)]
pub enum FragmentOp {
    /// Store a fragment durably, then the catalog's row. Storing the same key again with the
    /// same bytes is a success, and repairs what is damaged of it; with other bytes it replaces
    /// nothing and fails.
    Put {
        /// Its name.
        key: FragmentKey,
        /// Its description.
        meta: FragmentMeta,
        /// Who wants the space.
        claim: Claim,
        /// CRC-32C of each 4 KiB block of it, as [`block_sum`] computes it.
        sums: Vec<u32>,
        /// Its bytes.
        data: Payload,
    },
    /// Read ranges of a fragment; offsets and lengths are multiples of the block size.
    Get {
        /// Its name.
        key: FragmentKey,
        /// (offset, length) pairs in bytes.
        ranges: Vec<(u32, u32)>,
    },
    /// Delete fragments: the catalog's rows, then the space (a hole). Absent ones are fine.
    Delete {
        /// Their names.
        keys: Vec<FragmentKey>,
    },
    /// The keys of a volume's fragments, at most `limit`, after `after`.
    List {
        /// The volume.
        volume: VolumeId,
        /// Exclusive start.
        after: Option<FragmentKey>,
        /// How many.
        limit: u32,
    },
    /// Durably remember what is known of a row's moves (R20).
    Adopt {
        /// The pool.
        pool: Pool,
        /// The row.
        row: Row,
        /// All that is known of it.
        stamp: RowStamp,
    },
    /// The fragments of whole segments, ascending, after `after`.
    Scan {
        /// Those of this row alone, of a table of so many rows.
        of: Option<(Pool, u16, Row)>,
        /// Exclusive start.
        after: Option<SegmentId>,
        /// About how many.
        limit: u32,
    },
    /// Read a fragment whole, and check all of it.
    Verify {
        /// Its name.
        key: FragmentKey,
    },
    /// Durably remember how far the scrub has come.
    KeepScrub(ScrubMark),
    /// Whether a fragment of data would find room: its place is written to, and given back.
    Try {
        /// Of so many bytes.
        fragment_bytes: u32,
    },
}

/// How far a disk's scrub has come, as it outlives the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct ScrubMark {
    /// The pass that is under way has verified all segments up to here; `None`: none is.
    pub cursor: Option<SegmentId>,
    /// Time since the pass began, or the last one did, in which the disk was served.
    pub pass_ns: u64,
    /// Bytes that the pass has verified.
    pub pass_bytes: u64,
    /// Passes that came to their end.
    pub passes: u64,
    /// Bytes verified in all.
    pub verified_bytes: u64,
    /// Fragments that were found rotten.
    pub found: u64,
    /// Those of them that were rebuilt and stored anew.
    pub repaired: u64,
    /// Fragments that were gone and were brought back.
    pub restored: u64,
}

/// The fragments store's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FragmentDone {
    /// Stored and durable.
    Stored,
    /// There is no space (the reserve for deletes and the index is kept).
    Full,
    /// The key is taken by other bytes.
    Conflict,
    /// The ranges' bytes, in order, one buffer each; `None` where a block's checksum or the
    /// device says that it is damaged.
    Data {
        /// The fragment's description.
        meta: FragmentMeta,
        /// A buffer a range.
        ranges: Vec<Option<Bytes>>,
    },
    /// There is no such fragment.
    NotFound,
    /// Deleted, durably.
    Deleted,
    /// The keys, ascending, with their descriptions.
    Keys(Vec<(FragmentKey, FragmentMeta)>),
    /// To `Adopt`: remembered, durably; else `Full`, and nothing of it is.
    Adopted,
    /// To `Verify`.
    Verified {
        /// The fragment's description.
        meta: FragmentMeta,
        /// Whether its header and every block are as they were written.
        whole: bool,
    },
    /// To `KeepScrub`: remembered, durably.
    Kept,
    /// To `Try`; else `Full`.
    HasRoom,
    /// To `Scan`.
    Scanned {
        /// The keys, ascending, with their descriptions.
        keys: Vec<(FragmentKey, FragmentMeta)>,
        /// All segments up to this one were looked at; `None`: there are no more.
        next: Option<SegmentId>,
    },
}

/// The device failed: the disk retires (R8: never retried after a failed fdatasync).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} failed: {detail}")]
pub struct DeviceError {
    /// Which operation.
    pub what: &'static str,
    /// The system's word.
    pub detail: String,
}

/// A fragment block's checksum (R19): CRC-32C of the bytes xor that of the key and the block
/// number, so that a misdirected or lost write never passes.
#[must_use]
pub fn block_sum(key: FragmentKey, block: u32, bytes: &[u8]) -> u32 {
    let mut name = [0_u8; 21];
    name[..4].copy_from_slice(&key.segment.volume.0.to_le_bytes());
    name[4..12].copy_from_slice(&key.segment.epoch.0.to_le_bytes());
    name[12..16].copy_from_slice(&key.segment.counter.to_le_bytes());
    name[16] = key.slot.0;
    name[17..21].copy_from_slice(&block.to_le_bytes());
    crate::crc32c(bytes) ^ crate::crc32c(&name)
}
