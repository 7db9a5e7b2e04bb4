//! Bit rot: bytes of fragments are flipped on a disk's files, under the node that serves it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use disk_store::file::real::RealFiles;
use disk_store::fragments::header::{self, Header};
use disk_store::superblock::Superblock;

use super::error::{DrillError, at};

const BLOCK: u64 = model::BLOCK_BYTES as u64;

/// Fragments to flip: far below what makes a disk be flagged.
pub(super) const FRAGMENTS: usize = 3;

/// Where a fragment lies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    extent: PathBuf,
    number: u32,
    offset: u64,
    put_no: u64,
    /// Of its data.
    data: u64,
    bytes: u64,
}

/// Fragments of a disk, and the damage to be done to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rot {
    /// `node/disk`.
    pub(super) disk: String,
    incarnation: u64,
    places: Vec<Place>,
}

impl Rot {
    /// The fragments of a disk that were written last.
    pub(super) fn aim(disk: &str, path: &Path) -> Result<Self, DrillError> {
        let superblock = Superblock::open(&RealFiles::new(path));
        let superblock = superblock.map_err(|e| at(path)(io::Error::other(e)))?;
        let incarnation = superblock.identity().incarnation.0;
        let mut places = Vec::new();
        let extents = path.join("extents");
        for entry in fs::read_dir(&extents).map_err(at(&extents))? {
            let extent = entry.map_err(at(&extents))?.path();
            let number = extent.file_name().and_then(|n| n.to_str());
            // The ledger lies beside them.
            if let Some(number) = number.and_then(|n| n.parse().ok()) {
                let file = File::open(&extent).map_err(at(&extent))?;
                find(incarnation, &file, (&extent, number), &mut places).map_err(at(&extent))?;
            }
        }
        places.sort_by_key(|p| std::cmp::Reverse(p.put_no));
        places.truncate(FRAGMENTS);
        if places.is_empty() {
            return Err(DrillError::NothingToRot(disk.to_owned()));
        }
        Ok(Self {
            disk: disk.to_owned(),
            incarnation,
            places,
        })
    }

    /// How many fragments.
    pub(super) fn fragments(&self) -> usize {
        self.places.len()
    }

    /// Flips a byte in each.
    pub(super) fn strike(&self) -> Result<(), DrillError> {
        for place in &self.places {
            let flip = || -> io::Result<()> {
                let file = File::options().read(true).write(true).open(&place.extent)?;
                let mut byte = [0];
                let middle = place.data + place.bytes / 2;
                file.read_exact_at(&mut byte, middle)?;
                file.write_all_at(&[!byte[0]], middle)?;
                file.sync_data()
            };
            flip().map_err(at(&place.extent))?;
        }
        Ok(())
    }

    /// How many of them still stand where they were hit: a repair stores a fragment anew, at
    /// another place, and invalidates the old one.
    pub(super) fn left(&self) -> Result<usize, DrillError> {
        let mut left = 0;
        for place in &self.places {
            let file = File::open(&place.extent).map_err(at(&place.extent))?;
            let header = header_at(self.incarnation, &file, (place.number, place.offset));
            let header = header.map_err(at(&place.extent))?;
            left += usize::from(header.is_some_and(|h| h.put_no == place.put_no));
        }
        Ok(left)
    }
}

/// The header at a place, if an intact one is there.
fn header_at(id: u64, file: &File, place: (u32, u64)) -> io::Result<Option<Header>> {
    let mut block = vec![0; model::BLOCK_BYTES];
    match file.read_exact_at(&mut block, place.1) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let Some(area) = header::area_claimed(id, place, &block) else {
        return Ok(None);
    };
    block.resize(area, 0);
    match file.read_exact_at(&mut block, place.1) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| header::decode(&block)),
    }
}

/// All fragments of an extent.
fn find(
    id: u64,
    file: &File,
    (extent, number): (&Path, u32),
    found: &mut Vec<Place>,
) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut offset = 0;
    while offset + BLOCK <= size {
        let Some(header) = header_at(id, file, (number, offset))? else {
            offset += BLOCK;
            continue;
        };
        let area = header::area_bytes(header.meta.fragment_bytes);
        let bytes = u64::from(header.meta.fragment_bytes);
        found.push(Place {
            extent: extent.to_owned(),
            number,
            offset,
            put_no: header.put_no,
            data: offset + area,
            bytes,
        });
        offset += area + bytes;
    }
    Ok(())
}

impl fmt::Display for Rot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.places.len();
        let s = if n == 1 { "" } else { "s" };
        write!(f, "a byte flips in {n} fragment{s} on disk {}", self.disk)
    }
}
