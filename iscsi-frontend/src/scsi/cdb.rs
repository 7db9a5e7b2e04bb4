//! Fields of command descriptor blocks. Multi-byte fields are big-endian (SPC-4, 3.7).

/// A command descriptor block, as iSCSI carries it: zeros follow a shorter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb(pub [u8; 16]);

impl Cdb {
    /// The operation code.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// A byte.
    #[must_use]
    pub const fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// Whether all these bits of a byte are set.
    #[must_use]
    pub const fn has(&self, at: usize, bits: u8) -> bool {
        self.0[at] & bits == bits
    }

    /// The service action of commands that have it in byte 1.
    #[must_use]
    pub const fn action(&self) -> u8 {
        self.0[1] & 0x1f
    }

    /// 16 bits.
    #[must_use]
    pub fn be16(&self, at: usize) -> u16 {
        be16(&self.0, at).expect("within a CDB")
    }

    /// 32 bits.
    #[must_use]
    pub fn be32(&self, at: usize) -> u32 {
        be32(&self.0, at).expect("within a CDB")
    }

    /// 64 bits.
    #[must_use]
    pub fn be64(&self, at: usize) -> u64 {
        be64(&self.0, at).expect("within a CDB")
    }

    /// First block and number of blocks of a command of that form.
    #[must_use]
    pub fn range(&self) -> Range {
        let (first, blocks) = match self.opcode() >> 5 {
            // 21 bits of address, and 0 stands for 256 blocks (SBC-3, 5.7).
            0 => {
                let first = u64::from(self.be32(0) & 0x1f_ffff);
                let blocks = u32::from(self.byte(4));
                (first, if blocks == 0 { 256 } else { blocks })
            }
            1 | 2 => (u64::from(self.be32(2)), u32::from(self.be16(7))),
            5 => (u64::from(self.be32(2)), self.be32(6)),
            _ => (self.be64(2), self.be32(10)),
        };
        Range { first, blocks }
    }
}

/// Blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u64,
    /// How many.
    pub blocks: u32,
}

/// 16 bits of foreign bytes, if there are so many.
#[must_use]
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(field.try_into().ok()?))
}

/// 32 bits of foreign bytes, if there are so many.
#[must_use]
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

/// 64 bits of foreign bytes, if there are so many.
#[must_use]
pub fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Cdb, Range};

    fn range(bytes: &[u8]) -> (u64, u32) {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        let Range { first, blocks } = Cdb(cdb).range();
        (first, blocks)
    }

    #[test]
    fn ranges_of_each_form() {
        assert_eq!(range(&[0x08, 0xe1, 2, 3, 4, 0]), (0x1_0203, 4));
        assert_eq!(range(&[0x08, 0, 0, 0, 0, 0]), (0, 256));
        assert_eq!(
            range(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]),
            (0x0102_0304, 0x0506)
        );
        assert_eq!(
            range(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]),
            (0x0102_0304, 0x0506_0708)
        );
        let long = [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 9, 0, 0];
        assert_eq!(range(&long), (0x0102_0304_0506_0708, 9));
    }
}
