//! The words of the fabric, as types: ids, geometry, time, block requests, journal records,
//! placement, metadata requests and the operations of a disk's store.
//!
//! **Invariant:** this crate depends on nothing of ours and holds no behaviour that needs a
//! clock, a thread, a random source or I/O.

pub mod block;
pub mod cut;
pub mod geometry;
pub mod ids;
pub mod journal;
pub mod machine;
pub mod meta;
pub mod payload;
pub mod placement;
pub mod planted;
pub mod sometimes;
pub mod spread;
pub mod store;
pub mod time;
pub mod units;
pub mod wire;

/// Bytes in a block: the unit of mapping and of checksum.
pub const BLOCK_BYTES: usize = 4096;

/// CRC-32C (iSCSI polynomial), the fabric's one checksum of payload.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum).expect("a 32-bit checksum fits 32 bits")
}
