//! The protocol with Disk machines: journal replicas and fragments.

use bincode::{Decode, Encode};
use model::geometry::Pool;
use model::ids::{
    Epoch, FragmentKey, Incarnation, Position, Row, SegmentId, Seq, Slot, Version, VolumeId,
};
use model::journal::{Checkpoint, RecordHead, SealReport};
use model::spread::RowStamp;
use model::store::{Claim, FragmentMeta};

/// What is known of a row's moves to whoever deletes fragments of some of its slots (R20).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RowKnown {
    /// The row's pool.
    pub pool: Pool,
    /// The row.
    pub row: Row,
    /// How often each of its slots was moved.
    pub stamp: RowStamp,
    /// The slots of what is deleted: what a fragment's key does not tell is which of the rows it is of.
    pub slots: Vec<Slot>,
}

/// Sent by a Volume machine (journal) or a Segment machine (fragments) to a disk. Every
/// request names the disk's life that it is meant for; another life answers
/// [`DiskReply::WrongIncarnation`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum DiskRequest {
    /// By an owner: be a replica of this journal from now on. The replica first makes sure by
    /// a linearizable read of its own that `epoch` is current (R2), then persists. Answered
    /// by [`DiskReply::Joined`], `Fenced` or `Busy` (the read was not to be had). A replica
    /// that exists already answers `Joined` with what it has.
    Join {
        /// Addressed life.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
        /// The owner's epoch.
        epoch: Epoch,
        /// The journal configuration that names this replica.
        version: Version,
    },
    /// By an owner: append records after `prev` (Raft's log matching), learn what is
    /// committed and what may be trimmed, and grant a lease. With no records it is a renewal
    /// or a probe. The payload is the records' payloads, one after the other. Answered by
    /// `Appended`, `Mismatch`, `Fenced`, `Unknown`, `Damaged` or `Busy`.
    Append {
        /// Addressed life.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
        /// The owner's epoch.
        epoch: Epoch,
        /// The record before the first.
        prev: Position,
        /// The records, with dense seqs.
        records: Vec<RecordHead>,
        /// All up to here is committed.
        committed: Position,
        /// All up to here may be dropped: a committed checkpoint covers it (R3).
        trim: Position,
        /// Whether a lease is asked for.
        lease: bool,
    },
    /// By an owner, to a replica whose log ends before `base` (R9): forget the log, start at
    /// `base` with this committed checkpoint, atomically and durably. The payload is the
    /// checkpoint record's payload. Answered by `Appended` (with `last = base`) or as Append.
    Reset {
        /// Addressed life.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
        /// The owner's epoch.
        epoch: Epoch,
        /// The new log's base.
        base: Position,
        /// Position of the checkpoint's record.
        at: Position,
        /// The checkpoint.
        checkpoint: Checkpoint,
        /// The epoch that founded the journal: a log that ends in a lower one is from before
        /// the volume was clean, and goes whatever it holds (R3).
        founded: Epoch,
    },
    /// By a new owner: promise `epoch`, and once no lower epoch's lease runs any more, say
    /// what the log holds. Answered by `Sealed`, `Fenced`, `Unknown` or `Damaged`.
    Seal {
        /// Addressed life.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
        /// The new owner's epoch.
        epoch: Epoch,
    },
    /// By an owner that sealed this replica: read records from `from` on, at most about
    /// `bytes_max` of payload, at least one record if there is one. Answered by `Fetched`,
    /// `Fenced`, `Unknown` or `Damaged`.
    Fetch {
        /// Addressed life.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
        /// The owner's epoch.
        epoch: Epoch,
        /// The first record.
        from: Seq,
        /// Payload bound.
        bytes_max: u32,
    },
    /// By an owner that stops: the lease ends now; final for its epoch (R7). Answered by
    /// `Released`.
    Release {
        /// Addressed life.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
        /// The owner's epoch.
        epoch: Epoch,
    },
    /// By a Segment machine, or by the disk's node's Healer: store a fragment durably. The
    /// payload is its bytes. Answered by `Stored`, `Full`, `Conflict`, `NotMine` or `Busy`.
    Put(PutFragment),
    /// By a Segment machine or a Healer: read ranges of a fragment. Answered by `Data`
    /// (payload: the good ranges' bytes, one after the other), `NotFound`, `NotMine` or `Busy`.
    Get {
        /// Addressed life.
        incarnation: Incarnation,
        /// The fragment.
        key: FragmentKey,
        /// Its pool.
        pool: Pool,
        /// (offset, length) pairs in bytes, multiples of the block size, at most 1024.
        ranges: Vec<(u32, u32)>,
    },
    /// By a Segment machine or an owner's audit: delete fragments (R15). Answered by `Deleted`,
    /// `NotMine` or `Busy`.
    Delete {
        /// Addressed life.
        incarnation: Incarnation,
        /// The fragments.
        keys: Vec<FragmentKey>,
        /// What a Segment machine knew of the moves of their rows: with less than the disk
        /// knows, a fragment that was listed already might be copied after its deletion is
        /// forgotten (R20). An audit comes again: it says nothing.
        rows: Vec<RowKnown>,
    },
    /// By the owner's audit (R16): which fragments of this volume are there? Answered by
    /// `Keys`.
    List {
        /// Addressed life.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
        /// Exclusive start.
        after: Option<FragmentKey>,
        /// How many at most.
        limit: u32,
    },
    /// By a Healer (R20): durably take note of these moves, refusing from then on whatever is
    /// placed by less; and then, which fragments of this row are there? Answered by `Row` or
    /// `Busy`.
    ListRow {
        /// Addressed life.
        incarnation: Incarnation,
        /// The pool.
        pool: Pool,
        /// Rows of its table.
        rows: u16,
        /// The row.
        row: Row,
        /// What the Healer knows of its moves.
        stamp: RowStamp,
        /// Exclusive start.
        after: Option<SegmentId>,
        /// About how many.
        limit: u32,
    },
}

/// A fragment to be stored.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PutFragment {
    /// Addressed life.
    pub incarnation: Incarnation,
    /// Its name.
    pub key: FragmentKey,
    /// Its description.
    pub meta: FragmentMeta,
    /// Who wants the space.
    pub claim: Claim,
    /// [`model::store::block_sum`] of each of its blocks.
    pub sums: Vec<u32>,
    /// Its segment's row.
    pub row: Row,
    /// What the sender knew of the row's moves when it chose this disk (R20).
    pub stamp: RowStamp,
}

/// A fragment that a disk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct FragmentAt {
    /// Its name.
    pub key: FragmentKey,
    /// Its description.
    pub meta: FragmentMeta,
}

/// A disk's answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum DiskReply {
    /// To `Join`: durable.
    Joined {
        /// What the replica holds (a new one: base and last are zero).
        report: SealReport,
    },
    /// To `Append` and `Reset`: all up to `last` is durable here, in the sender's epoch.
    Appended {
        /// The last position that matches the request's: before its end if there was no room for the
        /// rest.
        last: Position,
        /// Whether the lease was granted (the owner counts it from before it asked).
        leased: bool,
        /// There is no space for another file: of an append, only what frees files is taken, and
        /// what stands before that, as far as there is room.
        short: bool,
    },
    /// To `Append`: there is no record `prev`. The owner steps back to `last` or before.
    Mismatch {
        /// The log's base: the owner may not go below (R9).
        base: Position,
        /// The log's last position.
        last: Position,
    },
    /// To `Seal`: promised, and no lease of a lower epoch runs any more.
    Sealed(SealReport),
    /// To `Fetch`. The payload is the records' payloads, one after the other.
    Fetched {
        /// The records; empty if there are none from there on.
        records: Vec<RecordHead>,
    },
    /// To `Release`.
    Released,
    /// A higher epoch was promised: the sender is no longer the owner.
    Fenced {
        /// The promise.
        promised: Epoch,
    },
    /// No replica of that volume here: counts for nothing (R2).
    Unknown,
    /// The replica lost synced bytes (R8): it promised, but its log counts for nothing until
    /// refilled from `Reset` on.
    Damaged,
    /// The request was meant for another life of this disk.
    WrongIncarnation,
    /// To `Put`: durable.
    Stored {
        /// Whether clients wanted something of the disk just before: a Healer goes slowly then.
        is_pressed: bool,
    },
    /// To `Put`: no space.
    Full,
    /// To `Put`: the key is taken by other bytes.
    Conflict,
    /// To `Get`.
    Data {
        /// The fragment's description.
        meta: FragmentMeta,
        /// For each range asked for, whether its bytes are in the payload (else damaged).
        good: Vec<bool>,
        /// Whether clients wanted something of the disk just before: a Healer goes slowly then.
        is_pressed: bool,
    },
    /// To `Get`: no such fragment here.
    NotFound,
    /// To `Put` and `Delete`: a row has moves that the sender did not know of; it waits for a
    /// newer view (R20), and nothing was done. To `Get`: nothing is here, and the slot is another disk's by what this one knows,
    /// or was never this one's: that says nothing of the fragment.
    NotMine {
        /// What the disk knows of the row's moves.
        stamp: RowStamp,
    },
    /// To `Delete`: durable.
    Deleted,
    /// To `List`.
    Keys(Vec<FragmentAt>),
    /// To `ListRow`: the moves are noted, durably, and this was listed afterwards.
    Row {
        /// The fragments.
        keys: Vec<FragmentAt>,
        /// All segments up to this one were looked at; `None`: there are no more.
        next: Option<SegmentId>,
    },
    /// A queue is full, or the device failed; nothing was done. Try again, or elsewhere.
    Busy,
}
