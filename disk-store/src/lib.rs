//! On-disk formats: journal files, fragment extents, catalog; crash-safe over an injectable
//! file layer. The byte maps and the commit strategy are in `docs/disk-format.md`.
//!
//! **Invariant:** without the feature `real` nothing here touches an operating system: every
//! byte goes through a [`file::FileLayer`], and the simulator runs this same code over
//! [`file::sim::SimFiles`]. Bytes read from a disk are hostile: they give an error or a
//! verdict, never a panic and never an allocation beyond the file that they lie in.

pub mod catalog;
pub mod file;
pub mod fragments;
pub mod journal;
#[cfg(feature = "real")]
pub mod raft_log;
pub mod superblock;

mod bytes_at;

/// Bytes of a block, as a file offset.
pub const BLOCK: u64 = model::BLOCK_BYTES as u64;

/// The next multiple of [`BLOCK`].
pub(crate) fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}
