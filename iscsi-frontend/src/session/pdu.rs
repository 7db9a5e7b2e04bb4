//! Basic header segments (RFC 7143, 11.2): numbers and fields, and how they are framed.

use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a basic header segment.
pub(super) const BHS_BYTES: usize = 48;
/// No task, no transfer (RFC 7143, 11.2.1.8).
pub(super) const RESERVED_TAG: u32 = u32::MAX;

/// Operation codes of an initiator (RFC 7143, 11.2.1.2).
pub(super) mod request {
    pub(in super::super) const NOP_OUT: u8 = 0x00;
    pub(in super::super) const COMMAND: u8 = 0x01;
    pub(in super::super) const TASK_MANAGEMENT: u8 = 0x02;
    pub(in super::super) const LOGIN: u8 = 0x03;
    pub(in super::super) const TEXT: u8 = 0x04;
    pub(in super::super) const DATA_OUT: u8 = 0x05;
    pub(in super::super) const LOGOUT: u8 = 0x06;
    pub(in super::super) const SNACK: u8 = 0x10;
}

/// Operation codes of a target.
pub(super) mod response {
    pub(in super::super) const NOP_IN: u8 = 0x20;
    pub(in super::super) const COMMAND: u8 = 0x21;
    pub(in super::super) const TASK_MANAGEMENT: u8 = 0x22;
    pub(in super::super) const LOGIN: u8 = 0x23;
    pub(in super::super) const TEXT: u8 = 0x24;
    pub(in super::super) const DATA_IN: u8 = 0x25;
    pub(in super::super) const LOGOUT: u8 = 0x26;
    pub(in super::super) const R2T: u8 = 0x31;
    pub(in super::super) const ASYNC: u8 = 0x32;
    pub(in super::super) const REJECT: u8 = 0x3f;
}

/// F, the final bit, in byte 1 of most.
pub(super) const FINAL: u8 = 0x80;
/// C: the text goes on in the next.
pub(super) const CONTINUE: u8 = 0x40;

/// A basic header segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bhs(pub(super) [u8; BHS_BYTES]);

impl Bhs {
    pub(super) fn new(opcode: u8, flags: u8) -> Self {
        let mut bytes = [0; BHS_BYTES];
        bytes[0] = opcode;
        bytes[1] = flags;
        Self(bytes)
    }

    pub(super) const fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    pub(super) const fn is_immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    pub(super) const fn has(&self, at: usize, bits: u8) -> bool {
        self.0[at] & bits == bits
    }

    pub(super) fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.0[at..at + 2].try_into().expect("two bytes"))
    }

    pub(super) fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    pub(super) fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    pub(super) fn put32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(super) fn put64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    /// Bytes of additional header segments.
    pub(super) const fn ahs_bytes(&self) -> usize {
        self.0[4] as usize * 4
    }

    /// Bytes of data.
    pub(super) fn data_bytes(&self) -> usize {
        (self.be32(4) & 0xff_ffff) as usize
    }

    pub(super) fn put_data_bytes(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("a data segment is small");
        assert!(bytes < 1 << 24, "a data segment's length has 24 bits");
        self.put32(4, bytes);
    }

    /// The initiator task tag.
    pub(super) fn tag(&self) -> u32 {
        self.be32(16)
    }

    /// The logical unit number, in its flat or peripheral form; with a single level, 0 is LUN 0.
    pub(super) fn lun(&self) -> u64 {
        self.be64(8)
    }
}

/// Zeros after a data segment, up to a multiple of four.
pub(super) const fn padding(bytes: usize) -> usize {
    bytes.wrapping_neg() & 3
}

/// CRC-32C in the order of the wire (RFC 7143, 13.1).
pub(super) struct Crc(Digest);

impl Crc {
    pub(super) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn wire(&self) -> [u8; 4] {
        let sum = u32::try_from(self.0.finalize()).expect("a 32-bit checksum fits 32 bits");
        sum.to_le_bytes()
    }

    pub(super) fn of(bytes: &[u8]) -> [u8; 4] {
        let mut crc = Self::new();
        crc.update(bytes);
        crc.wire()
    }
}

#[cfg(test)]
mod tests {
    use super::{Crc, padding};

    /// RFC 7143, appendix A.4.
    #[test]
    fn digests_are_as_published() {
        assert_eq!(Crc::of(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(Crc::of(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
    }

    #[test]
    fn padding_is_to_four() {
        assert_eq!([0, 1, 2, 3, 4].map(padding), [0, 3, 2, 1, 0]);
    }
}
