//! Where a segment's bytes lie in its fragments.
//!
//! A segment of `segment_bytes` of data (whole blocks) is cut into `code.data_fragments()`
//! contiguous pieces of equal length, whole blocks each, the end padded with zeros. Fragment
//! `i` lies in slot `code.data_slot(i)`; parity slots have the same length. Block `r` of all
//! fragments together is *row* `r`: a code word, coded independently of every other row.

use model::BLOCK_BYTES;
use model::geometry::{Code, SEGMENT_BYTES_MAX};
use model::ids::Slot;

use crate::CodingError;

const BLOCK: u32 = BLOCK_BYTES as u32;

/// Whether a code's widths are sound. Codes that come from a disk or a peer pass here before
/// anything computes with them.
///
/// # Errors
/// [`CodingError::BadCode`].
pub fn check_code(code: Code) -> Result<(), CodingError> {
    if !code.is_sound() {
        return Err(CodingError::BadCode(code));
    }
    Ok(())
}

/// Whether a segment may have this length.
///
/// # Errors
/// [`CodingError::BadLength`].
pub fn check_length(segment_bytes: usize) -> Result<(), CodingError> {
    let whole = segment_bytes.is_multiple_of(BLOCK_BYTES);
    if segment_bytes == 0 || !whole || segment_bytes > SEGMENT_BYTES_MAX {
        return Err(CodingError::BadLength(segment_bytes));
    }
    Ok(())
}

/// Length in bytes of each fragment of a segment. Code and length are sound ([`check_code`],
/// [`check_length`]).
#[must_use]
pub fn fragment_bytes(code: Code, segment_bytes: u32) -> u32 {
    (segment_bytes / BLOCK).div_ceil(u32::from(code.data_fragments())) * BLOCK
}

/// The slot that holds byte `offset` of a segment's data, and where in that fragment.
///
/// # Panics
/// If `offset` is not below `segment_bytes`.
#[must_use]
pub fn locate(code: Code, segment_bytes: u32, offset: u32) -> (Slot, u32) {
    assert!(offset < segment_bytes, "past the segment's end");
    let length = fragment_bytes(code, segment_bytes);
    let fragment = u8::try_from(offset / length).expect("fewer than 64 fragments");
    (code.data_slot(fragment), offset % length)
}

/// Where in the segment's data a byte of a data fragment lies: the inverse of [`locate`].
/// `None` for a parity slot and for padding.
#[must_use]
pub fn position(code: Code, segment_bytes: u32, slot: Slot, offset: u32) -> Option<u32> {
    let length = fragment_bytes(code, segment_bytes);
    let fragment = data_fragment(code, slot)?;
    let at = u32::from(fragment) * length + offset;
    (offset < length && at < segment_bytes).then_some(at)
}

/// The number of the data fragment that a slot holds; `None` for a parity slot.
#[must_use]
pub fn data_fragment(code: Code, slot: Slot) -> Option<u8> {
    match code {
        Code::Rs { k, .. } => (slot.0 < k).then_some(slot.0),
        Code::Geo { k, m, sites } => {
            let (column, place) = (slot.0 / (k + m), slot.0 % (k + m));
            (column + 1 < sites && place < k).then(|| column * k + place)
        }
    }
}

/// A part of a byte range that lies in one fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The slot that holds it.
    pub slot: Slot,
    /// Its first byte in the fragment.
    pub offset: u32,
    /// Its length in bytes.
    pub length: u32,
}

/// Cuts the range `[offset, offset + length)` of a segment's data at fragment boundaries, in
/// order.
///
/// # Panics
/// If the range reaches past the segment's end.
pub fn pieces(
    code: Code,
    segment_bytes: u32,
    offset: u32,
    length: u32,
) -> impl Iterator<Item = Piece> {
    let fits = offset
        .checked_add(length)
        .is_some_and(|end| end <= segment_bytes);
    assert!(fits, "past the segment's end");
    let whole = fragment_bytes(code, segment_bytes);
    let (mut at, mut left) = (offset, length);
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let (slot, offset) = locate(code, segment_bytes, at);
        let length = left.min(whole - offset);
        at += length;
        left -= length;
        Some(Piece {
            slot,
            offset,
            length,
        })
    })
}
