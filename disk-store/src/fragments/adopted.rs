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

use crate::BLOCK;
use crate::bytes_at::{is_sealed, seal, set_u32, set_u64, u32_at, u64_at};
use crate::file::{File, FileError, FileLayer};

const PATH: &str = "stamps";
const PATH_NEW: &str = "stamps.new";
const MAGIC: u32 = u32::from_le_bytes(*b"ATSP");
const HEADER_BYTES: usize = 32;

/// Rows that a disk remembers the moves of, at most.
pub const ROWS_MAX: usize = 1 << 18;

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
    for copy in 0..2 {
        let length = usize::try_from(copy_bytes).unwrap_or(0);
        let bytes = file.read_at(copy * copy_bytes, length).map_err(during)?;
        if let Some(adopted) = decode(id, &bytes) {
            return Ok(adopted);
        }
    }
    Err(DeviceError {
        what: "reading the stamps",
        detail: "both copies are damaged".to_owned(),
    })
}

/// Makes all of it durable, atomically.
pub(super) fn store<L: FileLayer>(
    layer: &L,
    id: u64,
    adopted: &Adopted,
) -> Result<(), DeviceError> {
    let write = || -> Result<(), FileError> {
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
    };
    write().map_err(|error| error.during("writing the stamps"))
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
    wire::decode(body).ok()
}
