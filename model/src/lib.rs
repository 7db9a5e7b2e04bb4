//! The words of the fabric, as types: ids, geometry, time, block requests, journal records,
//! placement, metadata requests and the operations of a disk's store.
//!
//! **Invariant:** this crate depends on nothing of ours and holds no behaviour that needs a
//! clock, a thread, a random source or I/O.

pub mod block;
pub mod cut;
pub mod geometry;
pub mod ids;
pub mod iscsi;
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
pub mod volumes;
pub mod wire;

/// Bytes in a block: the unit of mapping and of checksum.
pub const BLOCK_BYTES: usize = 4096;

/// CRC-32C (iSCSI polynomial), the fabric's one checksum of payload.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum).expect("a 32-bit checksum fits 32 bits")
}

/// SplitMix64's finalizer: every bit of the input reaches every bit of the output. Where things lie
/// follows from it (a segment's row, a slot's disk): it never changes.
#[must_use]
pub fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

#[cfg(test)]
mod tests {
    use super::mix;

    /// What SplitMix64 draws with the seed 0, as published.
    #[test]
    fn mixing_is_as_published() {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let drawn = [1, 2, 3].map(|n| mix(step.wrapping_mul(n)));
        let published = [
            0xe220_a839_7b1d_cdaf,
            0x6e78_9e6a_a1b9_65f4,
            0x06c4_5d18_8009_454f,
        ];
        assert_eq!(drawn, published);
    }
}
