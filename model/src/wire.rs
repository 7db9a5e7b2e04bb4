//! The one place that knows bincode: headers to bytes and back, with a bound.

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

/// Decodes exactly `bytes`; trailing bytes are an error.
///
/// # Errors
/// [`WireError::Malformed`] on anything else. Never allocates more than
/// [`HEADER_BYTES_MAX`] on behalf of the bytes.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<HEADER_BYTES_MAX>();
    match bincode::decode_from_slice(bytes, config) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        _ => Err(WireError::Malformed),
    }
}

/// No snapshot of a metadata group that a node wrote for itself is longer.
pub const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

/// [`decode`] for a node's own snapshots, which may be longer than any header; never for a
/// peer's bytes.
///
/// # Errors
/// [`WireError::Malformed`]. Never allocates more than [`SNAPSHOT_BYTES_MAX`].
pub fn decode_snapshot<T: Decode<()>>(bytes: &[u8]) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<SNAPSHOT_BYTES_MAX>();
    match bincode::decode_from_slice(bytes, config) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        _ => Err(WireError::Malformed),
    }
}
