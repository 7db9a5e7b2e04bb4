//! Statuses and sense data: how a command ended (SAM-5 5.3, SPC-4 4.5).

/// A command's status (SAM-5, 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Not done, or not as asked: the sense data says why.
    CheckCondition = 0x02,
    /// Another nexus holds a reservation.
    ReservationConflict = 0x18,
    /// No room for one more task.
    TaskSetFull = 0x28,
}

/// What kind of trouble it is (SPC-4, 4.5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// None.
    NoSense = 0x0,
    /// The medium can't be read.
    MediumError = 0x3,
    /// The unit can't do it.
    HardwareError = 0x4,
    /// The command makes no sense.
    IllegalRequest = 0x5,
    /// Something happened that the initiator does not know of.
    UnitAttention = 0x6,
    /// It may not be written.
    DataProtect = 0x7,
    /// EXTENDED COPY was given up.
    CopyAborted = 0xa,
    /// The command was given up.
    AbortedCommand = 0xb,
    /// What was compared differs.
    Miscompare = 0xe,
}

/// Sense data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The kind.
    pub key: Key,
    /// ASC and ASCQ.
    pub code: u16,
    /// INFORMATION, if it says something.
    pub information: Option<u32>,
    /// The byte of the command that is wrong, if that is known.
    pub field: Option<u16>,
}

/// Bytes of fixed-format sense data.
pub const SENSE_BYTES: usize = 18;

impl Sense {
    /// Sense data that says nothing more.
    #[must_use]
    pub const fn new(key: Key, code: u16) -> Self {
        Self {
            key,
            code,
            information: None,
            field: None,
        }
    }

    /// An ILLEGAL REQUEST.
    #[must_use]
    pub const fn illegal(code: u16) -> Self {
        Self::new(Key::IllegalRequest, code)
    }

    /// Nothing to say.
    pub const NONE: Self = Self::new(Key::NoSense, 0);
    /// PARAMETER LIST LENGTH ERROR.
    pub const LIST_LENGTH: Self = Self::illegal(0x1a00);
    /// MISCOMPARE DURING VERIFY OPERATION.
    pub const MISCOMPARE: Self = Self::new(Key::Miscompare, 0x1d00);
    /// INVALID COMMAND OPERATION CODE.
    pub const OPCODE: Self = Self::illegal(0x2000);
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub const OUT_OF_RANGE: Self = Self::illegal(0x2100);
    /// INVALID FIELD IN CDB.
    pub const CDB_FIELD: Self = Self::illegal(0x2400);
    /// LOGICAL UNIT NOT SUPPORTED.
    pub const NO_UNIT: Self = Self::illegal(0x2500);
    /// INVALID FIELD IN PARAMETER LIST.
    pub const LIST_FIELD: Self = Self::illegal(0x2600);
    /// TOO MANY TARGET DESCRIPTORS.
    pub const TOO_MANY_TARGETS: Self = Self::illegal(0x2606);
    /// UNSUPPORTED TARGET DESCRIPTOR TYPE CODE.
    pub const TARGET_TYPE: Self = Self::illegal(0x2607);
    /// TOO MANY SEGMENT DESCRIPTORS.
    pub const TOO_MANY_SEGMENTS: Self = Self::illegal(0x2608);
    /// UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE.
    pub const SEGMENT_TYPE: Self = Self::illegal(0x2609);
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    pub const RELEASE: Self = Self::illegal(0x2604);
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub const REGISTRATIONS: Self = Self::illegal(0x5504);
    /// INVALID FIELD IN COMMAND INFORMATION UNIT.
    pub const INFORMATION_UNIT: Self = Self::illegal(0x0e03);
    /// WRITE PROTECTED.
    pub const PROTECTED: Self = Self::new(Key::DataProtect, 0x2700);
    /// SPACE ALLOCATION FAILED WRITE PROTECT: a thin unit has no room (SBC-3, 4.7.3.6).
    pub const NO_SPACE: Self = Self::new(Key::DataProtect, 0x2707);
    /// UNRECOVERED READ ERROR.
    pub const UNREADABLE: Self = Self::new(Key::MediumError, 0x1100);
    /// INTERNAL TARGET FAILURE.
    pub const FAILURE: Self = Self::new(Key::HardwareError, 0x4400);
    /// COPY TARGET DEVICE NOT REACHABLE.
    pub const COPY_UNREACHABLE: Self = Self::new(Key::CopyAborted, 0x0d02);
    /// EXTENDED COPY stopped: a segment is not there to be copied.
    pub const COPY_ABORTED: Self = Self::new(Key::CopyAborted, 0x0000);

    /// The same, with INFORMATION.
    #[must_use]
    pub const fn with_information(self, information: u32) -> Self {
        Self {
            information: Some(information),
            ..self
        }
    }

    /// The same, of that byte of the command.
    #[must_use]
    pub const fn at(self, field: u16) -> Self {
        Self {
            field: Some(field),
            ..self
        }
    }

    /// Fixed format (SPC-4, 4.5.3).
    #[must_use]
    pub fn bytes(&self) -> [u8; SENSE_BYTES] {
        let mut bytes = [0; SENSE_BYTES];
        bytes[0] = 0x70 | u8::from(self.information.is_some()) << 7;
        bytes[2] = self.key as u8;
        bytes[3..7].copy_from_slice(&self.information.unwrap_or(0).to_be_bytes());
        bytes[7] = 10;
        bytes[12..14].copy_from_slice(&self.code.to_be_bytes());
        if let Some(field) = self.field {
            // SKSV, and C/D: a byte of the command (SPC-4, 4.5.2.4.2).
            bytes[15] = 0xc0;
            bytes[16..].copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Sense;

    #[test]
    fn fixed_format() {
        let bytes = Sense::MISCOMPARE.with_information(0x0102).bytes();
        let expected = [
            0xf0, 0, 0x0e, 0, 0, 1, 2, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(Sense::OPCODE.bytes()[0], 0x70);
    }
}
