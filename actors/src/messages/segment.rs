//! The protocol between a Volume machine and the Segment machine beside it (same node, same
//! arbiter: never on a wire).

use bytes::Bytes;
use model::geometry::Pool;
use model::ids::{RequestId, SegmentId};
use model::payload::Payload;
use model::store::{Claim, SegmentKind};

/// A segment and what must be known to read it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentRef {
    /// Its id.
    pub id: SegmentId,
    /// Its pool.
    pub pool: Pool,
    /// The length of its data in bytes, a multiple of the block size.
    pub bytes: u32,
}

/// Blocks to read: `sums.len()` blocks of a segment, starting at byte `offset`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockRun {
    /// First byte in the segment's data; a multiple of the block size.
    pub offset: u32,
    /// The CRC-32C that each block must have (from the index: end to end, R19).
    pub sums: Vec<u32>,
}

/// Sent by a Volume machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SegmentRequest {
    /// Encode and spread a segment. Answered by `Written` once every slot holds its fragment
    /// durably; with a slot unreachable for good the pool must change: `Unwritable`.
    Write {
        /// Correlates the answer.
        id: RequestId,
        /// The segment.
        segment: SegmentRef,
        /// Data or index.
        kind: SegmentKind,
        /// Who wants the space.
        claim: Claim,
        /// Its data, `segment.bytes` long.
        data: Payload,
    },
    /// Read blocks. Answered by `Read` or `Unreadable`.
    Read {
        /// Correlates the answer.
        id: RequestId,
        /// The segment.
        segment: SegmentRef,
        /// The runs, ascending, not overlapping.
        runs: Vec<BlockRun>,
    },
    /// Nobody waits for that read any more. Not answered; an answer may be on its way.
    Forget {
        /// The read.
        id: RequestId,
    },
    /// Delete segments: retried until every slot answered (R15). Not answered; the machine
    /// remembers until done. Which segments are to be deleted is decided by the Volume
    /// machine's committed checkpoints alone.
    Delete {
        /// The segments.
        segments: Vec<SegmentRef>,
    },
}

/// A Segment machine's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SegmentReply {
    /// To `Write`: every slot is durable; the segment survives the policy's losses.
    Written {
        /// The request.
        id: RequestId,
        /// The segment.
        segment: SegmentId,
    },
    /// To `Write`: abandoned; the Volume machine writes the data under the next counter,
    /// into the pool that the view then names (R18). The id is never used again, and what
    /// was stored of it is being deleted.
    Unwritable {
        /// The request.
        id: RequestId,
        /// The segment.
        segment: SegmentId,
        /// Whether space is what lacks.
        full: bool,
    },
    /// To `Read`: each run's verified bytes, in the order asked for.
    Read {
        /// The request.
        id: RequestId,
        /// A buffer a run.
        runs: Vec<Bytes>,
    },
    /// To `Read`: after every source and every combination was tried, or while too few are
    /// reachable and the volume's policy is to give up.
    Unreadable {
        /// The request.
        id: RequestId,
    },
}
