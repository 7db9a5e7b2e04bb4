//! What the disk knows of rows' moves, durably (R20): the file `stamps`, written anew as a whole
//! whenever something is learnt, which is rare. Two copies, so that rot in one costs nothing;
//! a disk of which neither is intact is not opened: it might take what it promised to refuse.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::geometry::Pool;
use model::ids::Row;
use model::spread::RowStamp;
use model::store::DeviceError;
use model::wire;

use crate::bytes_at::{is_sealed, seal, set_u32, set_u64, u32_at, u64_at};
use crate::file::{File, FileError, FileLayer};
use crate::{BLOCK, round_up};

const PATH: &str = "stamps";
const PATH_NEW: &str = "stamps.new";
const MAGIC: u32 = u32::from_le_bytes(*b"ATSP");
const HEADER_BYTES: usize = 32;

/// Rows that a disk remembers the moves of, at most.
pub const ROWS_MAX: usize = 1 << 18;

/// No copy is longer: a row takes less, with the versions of all slots that there may be.
const COPY_BYTES_MAX: u64 = ROWS_MAX as u64 * 1024;

/// By pool and row. A row that is not in it was never moved, as far as the disk knows.
pub type Adopted = BTreeMap<(Pool, Row), RowStamp>;

/// Reads the file; without one nothing is known.
pub(super) fn load<L: FileLayer>(layer: &L, id: u64) -> Result<Adopted, DeviceError> {
    let during = |error: FileError| error.during("reading the stamps");
    let file = match layer.open(PATH) {
        Err(FileError::NotFound) => return Ok(Adopted::new()),
        file => file.map_err(during)?,
    };
    let copy_bytes = file.size().map_err(during)? / 2;
    for at in [0, copy_bytes] {
        // What can't be read is damaged.
        let adopted = copy(&file, at, copy_bytes).and_then(|bytes| decode(id, &bytes));
        if let Some(adopted) = adopted {
            return Ok(adopted);
        }
    }
    Err(DeviceError {
        what: "reading the stamps",
        detail: "both copies are damaged".to_owned(),
    })
}

/// The copy at `at`, if its header says that it is as long as that: there is no room for anything
/// else.
fn copy<F: File>(file: &F, at: u64, copy_bytes: u64) -> Option<Bytes> {
    let header = file.read_at(at, HEADER_BYTES).ok()?;
    let body = u64_at(&header, 16)?.min(COPY_BYTES_MAX);
    if round_up(HEADER_BYTES as u64 + body) != copy_bytes {
        return None;
    }
    file.read_at(at, usize::try_from(copy_bytes).ok()?).ok()
}

/// Makes all of it durable, atomically.
pub(super) fn store<L: FileLayer>(layer: &L, id: u64, adopted: &Adopted) -> Result<(), FileError> {
    match layer.remove(PATH_NEW) {
        Ok(()) | Err(FileError::NotFound) => {}
        Err(error) => return Err(error),
    }
    let file = layer.create(PATH_NEW)?;
    let copy = Bytes::from(encode(id, adopted));
    file.write_at(0, &[copy.clone(), copy])?;
    file.sync_data()?;
    layer.rename(PATH_NEW, PATH)?;
    layer.sync_dir("")
}

fn encode(id: u64, adopted: &Adopted) -> Vec<u8> {
    let body = wire::encode(adopted);
    let mut bytes = vec![0; HEADER_BYTES];
    set_u32(&mut bytes, 0, MAGIC);
    set_u64(&mut bytes, 8, id);
    set_u64(&mut bytes, 16, body.len() as u64);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
    seal(&mut bytes);
    bytes
}

fn decode(id: u64, bytes: &[u8]) -> Option<Adopted> {
    if u32_at(bytes, 0)? != MAGIC || !is_sealed(bytes) || u64_at(bytes, 8)? != id {
        return None;
    }
    let length = usize::try_from(u64_at(bytes, 16)?).ok()?;
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(length)?)?;
    wire::decode_own(body).ok()
}

#[cfg(test)]
mod tests {
    use model::geometry::Code;
    use model::ids::Version;

    use super::*;
    use crate::file::sim::{Fault, SimFiles};

    const ID: u64 = 7;

    fn table(rows: usize) -> Adopted {
        let pool = |without| Pool {
            without,
            ..Pool::of(Code::Rs { k: 4, m: 2 })
        };
        let stamp = RowStamp::of((0..6).map(|slot| Version(slot + 300)));
        let row = |i: usize| {
            let (site, row) = (i >> 16, i as u16);
            let without = Some(model::ids::SiteId(site as u8));
            ((pool(without), Row(row)), stamp.clone())
        };
        (0..rows).map(row).collect()
    }

    #[test]
    fn a_full_table_is_read_back() {
        let (layer, full) = (SimFiles::new(), table(ROWS_MAX));
        assert_eq!(full.len(), ROWS_MAX);
        store(&layer, ID, &full).expect("stored");
        assert!(load(&layer, ID).is_ok_and(|read| read == full));
    }

    #[test]
    fn a_length_that_no_writer_left_is_damage_and_takes_no_memory() {
        let layer = SimFiles::new();
        store(&layer, ID, &table(3)).expect("stored");
        let file = layer.open(PATH).expect("stored");
        file.set_len(1 << 50).expect("sparse");
        assert!(load(&layer, ID).is_err());
    }

    #[test]
    fn a_copy_that_cannot_be_read_costs_nothing() {
        let layer = SimFiles::new();
        store(&layer, ID, &table(3)).expect("stored");
        layer.inject(Fault::ReadError {
            path: PATH.to_owned(),
            from: 0,
            to: 1,
        });
        assert_eq!(load(&layer, ID), Ok(table(3)));
    }
}
