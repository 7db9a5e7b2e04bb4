//! The store's part of the scrub: a fragment is read whole and checked, and how far the disk's
//! scrub has come is kept in the file `scrub`. That is nothing that anything rests on: without
//! it, or with a damaged one, the scrub begins anew.

use bytes::Bytes;
use model::ids::FragmentKey;
use model::store::{DeviceError, FragmentDone, ScrubMark};
use model::wire;

use super::{Fragments, scan};
use crate::BLOCK;
use crate::bytes_at::{is_sealed, seal, set_u32, set_u64, u32_at, u64_at};
use crate::catalog::Catalog;
use crate::file::{File, FileError, FileLayer};

const PATH: &str = "scrub";
const PATH_NEW: &str = "scrub.new";
const MAGIC: u32 = u32::from_le_bytes(*b"ATSC");
const HEADER_BYTES: usize = 32;

impl<L: FileLayer, C: Catalog> Fragments<L, C> {
    /// Reads all of a fragment; what can't be read is not whole.
    pub(super) fn verify(&mut self, key: FragmentKey) -> Result<FragmentDone, DeviceError> {
        let Some(row) = self.lookup(key)? else {
            return Ok(FragmentDone::NotFound);
        };
        let file = &self.extents[&row.extent];
        let header = scan::header_at(self.config.id, file, (row.extent, row.offset));
        let header = header.filter(|header| header.key == key && header.meta == row.meta);
        let whole = header.is_some_and(|header| scan::is_whole(file, &row, &header));
        let meta = row.meta;
        Ok(FragmentDone::Verified { meta, whole })
    }

    /// Makes it durable, atomically.
    pub(super) fn keep_scrub(&mut self, mark: ScrubMark) -> Result<FragmentDone, DeviceError> {
        let write = || -> Result<(), FileError> {
            match self.layer.remove(PATH_NEW) {
                Ok(()) | Err(FileError::NotFound) => {}
                Err(error) => return Err(error),
            }
            let file = self.layer.create(PATH_NEW)?;
            file.write_at(0, &[Bytes::from(encode(self.config.id, &mark))])?;
            file.sync_data()?;
            self.layer.rename(PATH_NEW, PATH)?;
            self.layer.sync_dir("")
        };
        match write() {
            Ok(()) => self.scrubbed = mark,
            // On a full disk the scrub goes on, and begins anew after a restart.
            Err(FileError::NoSpace) => {}
            Err(error) => return Err(error.during("keeping the scrub's place")),
        }
        Ok(FragmentDone::Kept)
    }
}

/// Reads the file; whatever is wrong with it, the scrub begins anew.
pub(super) fn load<L: FileLayer>(layer: &L, id: u64) -> ScrubMark {
    let read = || -> Option<ScrubMark> {
        let bytes = layer.open(PATH).ok()?.read_at(0, BLOCK as usize).ok()?;
        decode(id, &bytes)
    };
    read().unwrap_or_default()
}

fn encode(id: u64, mark: &ScrubMark) -> Vec<u8> {
    let body = wire::encode(mark);
    let mut bytes = vec![0; HEADER_BYTES];
    set_u32(&mut bytes, 0, MAGIC);
    set_u64(&mut bytes, 8, id);
    set_u64(&mut bytes, 16, body.len() as u64);
    bytes.extend(body);
    assert!(bytes.len() as u64 <= BLOCK, "it fits a block");
    bytes.resize(BLOCK as usize, 0);
    seal(&mut bytes);
    bytes
}

fn decode(id: u64, bytes: &[u8]) -> Option<ScrubMark> {
    if u32_at(bytes, 0)? != MAGIC || !is_sealed(bytes) || u64_at(bytes, 8)? != id {
        return None;
    }
    let length = usize::try_from(u64_at(bytes, 16)?).ok()?;
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(length)?)?;
    wire::decode(body).ok()
}
