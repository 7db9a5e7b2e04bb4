//! Reading an extent's headers: the truth that the catalog reflects.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::ids::FragmentKey;
use model::planted::{Bug, planted};
use model::store::block_sum;

use super::header::{self, Header};
use crate::BLOCK;
use crate::catalog::Row;
use crate::file::{File, FileError};

/// A fragment found in an extent.
pub(super) struct Found {
    pub(super) row: Row,
    pub(super) put_no: u64,
}

/// The header at a place, if an intact one of this disk is there. An unreadable one is as
/// good as none.
pub(super) fn header_at<F: File>(id: u64, file: &F, place: (u32, u64)) -> Option<Header> {
    let block = file.read_at(place.1, BLOCK as usize).ok()?;
    let area = header::area_claimed(id, place, &block)?;
    if area == block.len() {
        return header::decode(&block);
    }
    header::decode(&file.read_at(place.1, area).ok()?)
}

/// Whether every block of a fragment is what its header says.
pub(super) fn is_whole<F: File>(file: &F, row: &Row, header: &Header) -> bool {
    let Ok(data) = file.read_at(row.data_offset(), row.meta.fragment_bytes as usize) else {
        return false;
    };
    are_sums(header.key, 0, &header.sums, &data)
}

/// Whether the blocks from `first` on have these sums.
pub(super) fn are_sums(key: FragmentKey, first: u32, sums: &[u32], data: &[u8]) -> bool {
    let blocks = data.chunks_exact(BLOCK_BYTES);
    blocks.len() == sums.len()
        && (first..)
            .zip(blocks)
            .zip(sums)
            .all(|((block, bytes), sum)| {
                block_sum(key, block, bytes) == *sum || planted(Bug::UncheckedFragment)
            })
}

/// Adds an extent's fragments to `found`. One with a higher write number than `settled_put`
/// may have been torn before it was ever synced: if its data is not what its header says, it
/// was never answered for as far as can be known, and its header is invalidated. Of two
/// headers of one fragment the later written stands. Returns how many were dropped.
pub(super) fn scan_extent<F: File>(
    id: u64,
    extent: u32,
    file: &F,
    settled_put: u64,
    found: &mut BTreeMap<FragmentKey, Found>,
    stale: &mut Vec<(u32, u64)>,
) -> Result<(), FileError> {
    let size = file.size()?;
    let mut offset = 0;
    while offset + BLOCK <= size {
        let Some(header) = header_at(id, file, (extent, offset)) else {
            offset += BLOCK;
            continue;
        };
        let header_bytes = header::area_bytes(header.meta.fragment_bytes) as u32;
        let row = Row {
            extent,
            offset,
            header_bytes,
            meta: header.meta,
        };
        if header.put_no > settled_put && !is_whole(file, &row, &header) {
            // What lies under it may be older fragments that are still alive.
            stale.push((extent, offset));
            offset += BLOCK;
            continue;
        }
        offset += row.bytes();
        let new = Found {
            row,
            put_no: header.put_no,
        };
        match found.get(&header.key) {
            Some(old) if old.put_no >= new.put_no => stale.push((extent, row.offset)),
            old => {
                stale.extend(old.map(|old| (old.row.extent, old.row.offset)));
                found.insert(header.key, new);
            }
        }
    }
    Ok(())
}

/// The highest write number in an extent.
pub(super) fn newest_put<F: File>(id: u64, extent: u32, file: &F) -> Result<u64, FileError> {
    let size = file.size()?;
    let (mut offset, mut newest) = (0, 0);
    while offset + BLOCK <= size {
        let Some(header) = header_at(id, file, (extent, offset)) else {
            offset += BLOCK;
            continue;
        };
        newest = newest.max(header.put_no);
        let bytes = header.meta.fragment_bytes;
        offset += header::area_bytes(bytes) + u64::from(bytes);
    }
    Ok(newest)
}

/// Takes the header away for good (not synced here).
pub(super) fn invalidate<F: File>(file: &F, offset: u64) -> Result<(), FileError> {
    static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
    file.write_at(offset, &[Bytes::from_static(&ZEROS)])
}
