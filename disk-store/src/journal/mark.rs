//! The mark: the second place of the synced position (R8), beside the batch headers.
//!
//! Two slots in two blocks, written in turn after every sync without a sync of their own.
//! After the death of the process the mark is exact; after a power loss it is at least what
//! the last [`Mark::settle`] made durable.

use bytes::Bytes;

use super::batch::NUMBER_MAX;
use crate::BLOCK;
use crate::bytes_at::{is_sealed, seal, set_u32, set_u64, u32_at, u64_at};
use crate::file::{File, FileError, FileLayer};

const PATH: &str = "journal/mark";
const MAGIC: u32 = u32::from_le_bytes(*b"ATJM");
/// One sector: a slot is never torn.
const SLOT_BYTES: usize = 512;

/// What a slot says: this batch, and all before it, was synced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Synced {
    pub(super) term: u64,
    pub(super) seq: u64,
}

pub(super) struct Mark<F> {
    file: F,
    id: u64,
    next_slot: u64,
    is_settled: bool,
}

impl<F: File> Mark<F> {
    /// Opens the mark, or makes it; what its better slot says.
    pub(super) fn open<L: FileLayer<File = F>>(
        layer: &L,
        id: u64,
    ) -> Result<(Self, Option<Synced>), FileError> {
        let file = match layer.open(PATH) {
            Err(FileError::NotFound) => layer.create(PATH)?,
            file => file?,
        };
        let mut best: Option<(Synced, u64)> = None;
        for slot in 0..2 {
            // An unreadable slot says nothing.
            let Ok(bytes) = file.read_at(slot * BLOCK, SLOT_BYTES) else {
                continue;
            };
            let found = decode(id, &bytes).map(|synced| (synced, slot));
            best = best.max(found);
        }
        let next_slot = best.map_or(0, |(_, slot)| 1 - slot);
        let mark = Self {
            file,
            id,
            next_slot,
            is_settled: false,
        };
        Ok((mark, best.map(|(synced, _)| synced)))
    }

    pub(super) fn write(&mut self, synced: Synced) -> Result<(), FileError> {
        let mut bytes = vec![0; SLOT_BYTES];
        set_u32(&mut bytes, 0, MAGIC);
        set_u64(&mut bytes, 16, self.id);
        set_u64(&mut bytes, 24, synced.term);
        set_u64(&mut bytes, 32, synced.seq);
        seal(&mut bytes);
        // A whole block, so that nothing has to be read; the rest of it is zeros.
        bytes.resize(BLOCK as usize, 0);
        self.file
            .write_at(self.next_slot * BLOCK, &[Bytes::from(bytes)])?;
        self.next_slot = 1 - self.next_slot;
        self.is_settled = false;
        Ok(())
    }

    /// Makes the mark durable; false if it was already.
    pub(super) fn settle(&mut self) -> Result<bool, FileError> {
        if self.is_settled {
            return Ok(false);
        }
        self.file.sync_data()?;
        self.is_settled = true;
        Ok(true)
    }
}

fn decode(id: u64, bytes: &[u8]) -> Option<Synced> {
    if u32_at(bytes, 0)? != MAGIC || !is_sealed(bytes) || u64_at(bytes, 16)? != id {
        return None;
    }
    let synced = Synced {
        term: u64_at(bytes, 24)?,
        seq: u64_at(bytes, 32)?,
    };
    (synced.term.max(synced.seq) <= NUMBER_MAX).then_some(synced)
}
