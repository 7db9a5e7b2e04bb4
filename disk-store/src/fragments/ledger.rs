//! The ledger: which extents changed since the catalog was last settled, and at which
//! generation and write that was. It is synced before an extent changes for the first time
//! after a settling, so that a catalog that lost unsynced rows is found out (R8).

use std::collections::BTreeSet;

use bytes::Bytes;

use super::header::PUT_NO_MAX;
use crate::BLOCK;
use crate::bytes_at::{is_sealed, seal, set_u32, set_u64, u32_at, u64_at};
use crate::file::{File, FileError, FileLayer};

pub(super) const NAME: &str = "ledger";
const PATH: &str = "extents/ledger";
const MAGIC: u32 = u32::from_le_bytes(*b"ATLG");
const BITMAP_AT: usize = 64;
/// At most this many extents: a bit each in one block of the ledger.
pub const EXTENTS_MAX: u32 = (BLOCK as u32 - BITMAP_AT as u32) * 8;

/// No catalog is settled so often; what claims more is no ledger, and begins anew from the headers.
const GENERATION_MAX: u64 = 1 << 62;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct State {
    /// The catalog is at least at this generation, or it is rebuilt.
    pub(super) generation: u64,
    /// Fragments with a higher write number may be torn.
    pub(super) settled_put: u64,
    /// Extents that changed since.
    pub(super) changed: BTreeSet<u32>,
}

pub(super) struct Ledger<F> {
    file: F,
    id: u64,
}

impl<F: File> Ledger<F> {
    /// Opens the ledger or makes it. `None` if it is not intact: then the extents' headers
    /// are the only truth, and every block is suspect.
    pub(super) fn open<L: FileLayer<File = F>>(
        layer: &L,
        id: u64,
    ) -> Result<(Self, Option<State>), FileError> {
        let file = match layer.open(PATH) {
            Err(FileError::NotFound) => {
                let file = layer.create(PATH)?;
                layer.sync_dir("extents")?;
                file
            }
            file => file?,
        };
        let state = file
            .read_at(0, BLOCK as usize)
            .ok()
            .and_then(|block| decode(id, &block));
        Ok((Self { file, id }, state))
    }

    /// Writes it, durably. A tear is found by the checksum, and costs a rebuild.
    pub(super) fn write(&self, state: &State) -> Result<(), FileError> {
        self.file
            .write_at(0, &[Bytes::from(encode(self.id, state))])?;
        self.file.sync_data()
    }
}

fn encode(id: u64, state: &State) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    set_u32(&mut block, 0, MAGIC);
    set_u64(&mut block, 16, id);
    set_u64(&mut block, 24, state.generation);
    set_u64(&mut block, 32, state.settled_put);
    for &extent in &state.changed {
        assert!(
            extent < EXTENTS_MAX,
            "extents are bounded when they are made"
        );
        block[BITMAP_AT + extent as usize / 8] |= 1 << (extent % 8);
    }
    seal(&mut block);
    block
}

fn decode(id: u64, block: &[u8]) -> Option<State> {
    if u32_at(block, 0)? != MAGIC || !is_sealed(block) || u64_at(block, 16)? != id {
        return None;
    }
    let (generation, settled_put) = (u64_at(block, 24)?, u64_at(block, 32)?);
    if generation > GENERATION_MAX || settled_put > PUT_NO_MAX {
        return None;
    }
    let bits = block
        .get(BITMAP_AT..)?
        .iter()
        .zip((0..EXTENTS_MAX).step_by(8));
    let some = bits.filter(|(byte, _)| **byte != 0);
    let changed = some
        .flat_map(|(byte, first)| (first..first + 8).filter(move |e| byte & (1 << (e % 8)) != 0));
    Some(State {
        generation,
        settled_put,
        changed: changed.collect(),
    })
}
