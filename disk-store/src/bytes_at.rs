//! Little-endian integers at fixed offsets; reading past the end is `None`.

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

pub(crate) fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn set_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Writes the checksum of everything after it at offset 4: the shape of every header here.
pub(crate) fn seal(bytes: &mut [u8]) {
    let sum = model::crc32c(&bytes[8..]);
    set_u32(bytes, 4, sum);
}

/// Whether the checksum at offset 4 holds.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.len() > 8 && u32_at(bytes, 4) == Some(model::crc32c(&bytes[8..]))
}
