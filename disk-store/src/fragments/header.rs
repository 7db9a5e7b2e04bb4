//! A fragment's self-describing header: whole blocks before its data.

use model::BLOCK_BYTES;
use model::geometry::SEGMENT_BYTES_MAX;
use model::ids::{Epoch, FragmentKey, SegmentId, Slot, VolumeId};
use model::store::FragmentMeta;

use crate::bytes_at::{is_sealed, seal, set_u32, set_u64, u32_at, u64_at};
use crate::{BLOCK, round_up};

const MAGIC: u32 = u32::from_le_bytes(*b"ATFR");
const VERSION: u32 = 2;
const META_AT: usize = 80;
const META_MAX: usize = 48;
const SUMS_AT: usize = 128;

/// No disk lives to write so often; what claims more is not a header, and is never written.
pub(super) const PUT_NO_MAX: u64 = 1 << 62;

/// A fragment is no longer than a whole segment.
pub const FRAGMENT_BYTES_MAX: u32 = SEGMENT_BYTES_MAX as u32;

/// What a header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The fragment.
    pub key: FragmentKey,
    /// Its description.
    pub meta: FragmentMeta,
    /// A block sum for each of its blocks.
    pub sums: Vec<u32>,
    /// Number of the write, growing over the disk's life.
    pub put_no: u64,
}

/// Bytes of the header area of a fragment of `fragment_bytes`.
#[must_use]
pub fn area_bytes(fragment_bytes: u32) -> u64 {
    round_up(SUMS_AT as u64 + u64::from(fragment_bytes) / BLOCK * 4)
}

/// The header area for a fragment at `offset` of `extent`; `id` is the disk's incarnation.
#[must_use]
pub fn encode(id: u64, (extent, offset): (u32, u64), header: &Header) -> Vec<u8> {
    let area = area_bytes(header.meta.fragment_bytes);
    let mut bytes = vec![0; area as usize];
    set_u32(&mut bytes, 0, MAGIC);
    set_u32(&mut bytes, 8, VERSION);
    set_u32(&mut bytes, 12, area as u32);
    set_u64(&mut bytes, 16, id);
    set_u32(&mut bytes, 24, extent);
    set_u64(&mut bytes, 32, offset);
    set_u64(&mut bytes, 40, header.put_no);
    set_u32(&mut bytes, 48, header.key.segment.volume.0);
    set_u64(&mut bytes, 52, header.key.segment.epoch.0);
    set_u32(&mut bytes, 60, header.key.segment.counter);
    bytes[64] = header.key.slot.0;
    let meta = model::wire::encode(&header.meta);
    assert!(meta.len() <= META_MAX, "a description fits its place");
    set_u32(&mut bytes, 68, header.sums.len() as u32);
    set_u32(&mut bytes, 72, meta.len() as u32);
    bytes[META_AT..META_AT + meta.len()].copy_from_slice(&meta);
    for (i, sum) in header.sums.iter().enumerate() {
        set_u32(&mut bytes, SUMS_AT + 4 * i, *sum);
    }
    seal(&mut bytes);
    bytes
}

/// Length of the header area that the block at `offset` of `extent` claims, if it looks like
/// a header of this disk; checked by [`decode`] only.
#[must_use]
pub fn area_claimed(id: u64, (extent, offset): (u32, u64), block: &[u8]) -> Option<usize> {
    if u32_at(block, 0)? != MAGIC || u32_at(block, 8)? != VERSION || u64_at(block, 16)? != id {
        return None;
    }
    // Where it says that it lies: a misdirected write does not pass (R19).
    if u32_at(block, 24)? != extent || u64_at(block, 32)? != offset {
        return None;
    }
    let area = u64::from(u32_at(block, 12)?);
    let is_possible =
        area >= BLOCK && area.is_multiple_of(BLOCK) && area <= area_bytes(FRAGMENT_BYTES_MAX);
    is_possible.then_some(area as usize)
}

/// The header whose whole area is `area`; `None` if anything about it is wrong.
#[must_use]
pub fn decode(area: &[u8]) -> Option<Header> {
    if !is_sealed(area) {
        return None;
    }
    let meta_len = u32_at(area, 72)? as usize;
    if meta_len > META_MAX {
        return None;
    }
    let meta: FragmentMeta = model::wire::decode(area.get(META_AT..META_AT + meta_len)?).ok()?;
    let blocks = u32_at(area, 68)? as usize;
    let is_sound = is_possible(&meta)
        && blocks == meta.fragment_bytes as usize / BLOCK_BYTES
        && area.len() as u64 == area_bytes(meta.fragment_bytes);
    if !is_sound {
        return None;
    }
    let mut sums = Vec::with_capacity(blocks);
    for i in 0..blocks {
        sums.push(u32_at(area, SUMS_AT + 4 * i)?);
    }
    let segment = SegmentId {
        volume: VolumeId(u32_at(area, 48)?),
        epoch: Epoch(u64_at(area, 52)?),
        counter: u32_at(area, 60)?,
    };
    let key = FragmentKey {
        segment,
        slot: Slot(*area.get(64)?),
    };
    let put_no = u64_at(area, 40)?;
    (put_no <= PUT_NO_MAX).then_some(Header {
        key,
        meta,
        sums,
        put_no,
    })
}

/// Whether a fragment can have this length.
#[must_use]
pub fn is_possible(meta: &FragmentMeta) -> bool {
    meta.fragment_bytes > 0
        && (meta.fragment_bytes as usize).is_multiple_of(BLOCK_BYTES)
        && meta.fragment_bytes <= FRAGMENT_BYTES_MAX
}
