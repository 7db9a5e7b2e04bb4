//! The on-disk format of journal entries' headers. The store keeps them as opaque bytes; the
//! payload lies beside them.
//!
//! A header is the bincode ([`model::wire`]) of [`Header`]: the number of its variant is the
//! format's version, and versions and variants are only ever added at the end, never reused.
//!
//! Replay is a function of the entries in their order (see `recovery.rs`):
//!
//! | entry | payload | effect on the volume's replica |
//! | --- | --- | --- |
//! | `State` | session table | what is known beside the records; drops records up to `base` |
//! | `Reset` | session table | the same, and drops every record before it (R9) |
//! | `Promise` | - | raises the promised epoch |
//! | `Record` | the record's | drops held records from its seq on, then is held |
//! | `Moved` | the record's | a held record's new place, drops nothing |
//! | `Dropped` | - | there is no replica any more |
//! | `DiskDamaged` | - | every replica before it is damaged (R8) |
//! | `DiskWasDamaged` | - | the disk was damaged once |
//!
//! **Invariant:** an entry is needed until a later *durable* entry supersedes it, and files are
//! released from the oldest on. So replaying what is left gives what replaying all would have.

use bincode::{Decode, Encode};
use model::ids::{Epoch, Position, RequestId, VolumeId};
use model::journal::{Checkpoint, RecordHead};
use model::wire::{WireError, decode, encode};

/// Entries about the disk itself are filed under this id; no volume has it.
pub(super) const DISK_MARK: VolumeId = VolumeId(u32::MAX);

/// Whether a replica's log counts in a seal (R8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) enum Health {
    /// It holds all that it ever acknowledged.
    Whole,
    /// It was damaged, then reset, and does not yet hold all that its owner has committed.
    Refilling {
        /// The owner that reset it.
        epoch: Epoch,
        /// The request that did.
        by: RequestId,
    },
    /// It lost bytes that it may have acknowledged.
    Damaged,
}

/// What a replica knows beside its records.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) struct StateEntry {
    pub(super) promised: Epoch,
    pub(super) base: Position,
    pub(super) committed: Position,
    pub(super) health: Health,
    /// The latest committed checkpoint and its record's position; the payload is its table.
    pub(super) checkpoint: Option<(Position, Checkpoint)>,
}

/// What an entry says.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) enum Entry {
    State(StateEntry),
    Reset(StateEntry),
    Promise {
        epoch: Epoch,
    },
    Record {
        head: RecordHead,
        committed: Position,
    },
    Moved {
        head: RecordHead,
        committed: Position,
    },
    Dropped,
    DiskDamaged,
    DiskWasDamaged,
}

/// The versioned header.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
enum Header {
    V1(Entry),
}

impl Entry {
    /// The header's bytes.
    pub(super) fn into_header(self) -> Vec<u8> {
        encode(&Header::V1(self))
    }

    /// The header's bytes of a record (or of its move), and the head back, uncopied.
    pub(super) fn record_header(
        head: RecordHead,
        committed: Position,
        moved: bool,
    ) -> (Vec<u8>, RecordHead) {
        let entry = if moved {
            Self::Moved { head, committed }
        } else {
            Self::Record { head, committed }
        };
        let header = Header::V1(entry);
        let bytes = encode(&header);
        match header {
            Header::V1(Self::Record { head, .. } | Self::Moved { head, .. }) => (bytes, head),
            Header::V1(_) => unreachable!("built above"),
        }
    }

    /// Reads a header found on the disk.
    ///
    /// # Errors
    /// [`WireError::Malformed`] if it is none, or of a version that is not known.
    pub(super) fn from_header(bytes: &[u8]) -> Result<Self, WireError> {
        let Header::V1(entry) = decode(bytes)?;
        Ok(entry)
    }
}
