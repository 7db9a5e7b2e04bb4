//! Bounds of single commands, as the block limits page tells them.

use super::facts::{GRANULE_SECTORS, SECTOR_BYTES};

/// Blocks of COMPARE AND WRITE: as many as its one byte can say.
pub const COMPARE_SECTORS_MAX: u8 = u8::MAX;
/// Blocks of WRITE SAME: one that repeats other bytes than zeros is written out.
pub const SAME_SECTORS_MAX: u32 = (32 << 20) / SECTOR_BYTES - GRANULE_SECTORS;
/// Ranges of one UNMAP.
pub const UNMAP_DESCRIPTORS_MAX: u16 = 256;
/// Bytes of its parameter list.
pub const UNMAP_BYTES_MAX: u32 = 8 + 16 * UNMAP_DESCRIPTORS_MAX as u32;
/// Blocks of WRITE ATOMIC: one part of a volume's journal, within which nothing is ever torn.
pub const ATOMIC_SECTORS_MAX: u32 = ATOMIC_BYTES / SECTOR_BYTES;
/// Bytes of a part.
pub const ATOMIC_BYTES: u32 = model::journal::PART_BYTES_MAX as u32;
/// Bytes of any other parameter list.
pub const LIST_BYTES_MAX: u32 = 4096;
/// Bytes that a command of several steps reads or writes at once.
pub const STEP_BYTES: u32 = 1 << 20;
