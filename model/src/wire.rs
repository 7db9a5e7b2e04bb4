//! The one place that knows bincode: headers to bytes and back, with a bound.

use bincode::enc::EncoderImpl;
use bincode::enc::write::SizeWriter;
use bincode::{Decode, Encode};
use thiserror::Error;

/// No header of the fabric is longer; a peer that claims more is refused unread.
pub const HEADER_BYTES_MAX: usize = 16 << 20;

/// A peer's or a disk's bytes were not what they should be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// The bytes do not decode to the expected type, or are longer than they should be.
    #[error("malformed header")]
    Malformed,
}

/// The header's bytes. Integers are variable-length, little-endian.
#[must_use]
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, bincode::config::standard())
        .expect("encoding to memory does not fail")
}

/// How many bytes [`encode`] makes of it.
#[must_use]
pub fn encoded_len<T: Encode>(value: &T) -> usize {
    let config = bincode::config::standard();
    let mut counting = EncoderImpl::new(SizeWriter::default(), config);
    value.encode(&mut counting).expect("counting does not fail");
    counting.into_writer().bytes_written
}

/// Decodes exactly `bytes`; trailing bytes are an error.
///
/// # Errors
/// [`WireError::Malformed`] on anything else. Never claims more than [`claim_max`] of memory on
/// behalf of the bytes, and never more than [`HEADER_BYTES_MAX`].
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    match claim_max(bytes.len()) {
        FEW => within::<FEW, T>(bytes),
        SOME => within::<SOME, T>(bytes),
        _ => within::<HEADER_BYTES_MAX, T>(bytes),
    }
}

/// No snapshot of a metadata group, and no table, that a node wrote for itself is longer.
pub const OWN_BYTES_MAX: usize = 1 << 30;

/// [`decode`] for what a node wrote for itself and read back from its disk, which may be longer
/// than any header; never for a peer's bytes.
///
/// # Errors
/// [`WireError::Malformed`]. Never claims more than [`claim_max`] of memory.
pub fn decode_own<T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    match claim_max(bytes.len()) {
        FEW => within::<FEW, T>(bytes),
        SOME => within::<SOME, T>(bytes),
        HEADER_BYTES_MAX => within::<HEADER_BYTES_MAX, T>(bytes),
        _ => within::<OWN_BYTES_MAX, T>(bytes),
    }
}

/// Nothing takes more memory for each of its bytes on the wire: bounds the elements of lists,
/// which are as large as their largest variant.
pub const CLAIM_PER_BYTE: usize = 512;

const FEW: usize = 64 << 10;
const SOME: usize = 1 << 20;

/// Memory that so many bytes may claim. A decoder makes room for all elements that a length claims
/// before it reads the first: so it is the bytes that are there that bound it, in a few steps,
/// since bincode's limit is a constant.
#[must_use]
pub const fn claim_max(bytes: usize) -> usize {
    let needed = bytes.saturating_mul(CLAIM_PER_BYTE);
    if needed <= FEW {
        FEW
    } else if needed <= SOME {
        SOME
    } else if needed <= HEADER_BYTES_MAX {
        HEADER_BYTES_MAX
    } else {
        OWN_BYTES_MAX
    }
}

fn within<const LIMIT: usize, T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    match bincode::decode_from_slice(bytes, config) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        _ => Err(WireError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::{CLAIM_PER_BYTE, WireError, claim_max, decode, decode_own, encode, encoded_len};

    /// A list whose elements take as much memory for a byte as any may.
    #[derive(bincode::Encode, bincode::Decode, Clone, PartialEq, Debug)]
    #[expect(clippy::large_enum_variant, reason = "that is what is tested")]
    enum Element {
        Small,
        Large([u64; CLAIM_PER_BYTE / 8 - 1]),
    }

    #[test]
    fn what_was_encoded_is_never_claimed_too_much() {
        assert_eq!(size_of::<Element>(), CLAIM_PER_BYTE);
        for count in [1, 100, 127, 250, 2000, 32 << 10, 100 << 10] {
            let list = vec![Element::Small; count];
            assert_eq!(encoded_len(&list), encode(&list).len());
            assert!(decode_own(&encode(&list)) == Ok(list), "{count}");
        }
    }

    #[test]
    fn the_claim_is_bounded_by_the_bytes() {
        assert!(claim_max(10) < 1 << 17 && claim_max(1000) < 2 << 20);
        let claims = [&[253], &(1_u64 << 15).to_le_bytes()[..]].concat();
        assert_eq!(decode::<Vec<u64>>(&claims), Err(WireError::Malformed));
        assert_eq!(
            decode::<Vec<u8>>(&encode(&vec![7_u8; 17 << 20])),
            Err(WireError::Malformed)
        );
        assert!(decode_own::<Vec<u8>>(&encode(&vec![7_u8; 17 << 20])).is_ok());
    }
}
