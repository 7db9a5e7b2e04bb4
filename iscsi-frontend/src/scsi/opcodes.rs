//! The commands that are supported: how long they are, which of their bits mean something
//! (REPORT SUPPORTED OPERATION CODES, SPC-4 6.35), and what reservations say of them.

/// What a command does to the unit, as reservations see it (SPC-4, table 65; SBC-3, table 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Allowed whoever reserved the unit.
    Always,
    /// Allowed under every persistent reservation, but not under SPC-2's RESERVE.
    Status,
    /// Tells something of the medium or the unit.
    Read,
    /// Changes something.
    Write,
}

/// One supported command.
#[derive(Debug)]
pub struct Supported {
    /// The operation code.
    pub opcode: u8,
    /// The service action, of those that have one.
    pub action: Option<u8>,
    /// What reservations say.
    pub access: Access,
    /// The bits that mean something, of each byte of the command; the first is the operation code.
    pub usage: &'static [u8],
}

const fn plain(opcode: u8, access: Access, usage: &'static [u8]) -> Supported {
    Supported {
        opcode,
        action: None,
        access,
        usage,
    }
}

const fn with_action(opcode: u8, action: u8, access: Access, usage: &'static [u8]) -> Supported {
    Supported {
        opcode,
        action: Some(action),
        access,
        usage,
    }
}

const ANY: u8 = 0xff;

/// TEST UNIT READY.
pub const TEST_UNIT_READY: u8 = 0x00;
/// REQUEST SENSE.
pub const REQUEST_SENSE: u8 = 0x03;
/// READ (6).
pub const READ_6: u8 = 0x08;
/// WRITE (6).
pub const WRITE_6: u8 = 0x0a;
/// INQUIRY.
pub const INQUIRY: u8 = 0x12;
/// MODE SELECT (6).
pub const MODE_SELECT_6: u8 = 0x15;
/// RESERVE (6), of SPC-2.
pub const RESERVE_6: u8 = 0x16;
/// RELEASE (6), of SPC-2.
pub const RELEASE_6: u8 = 0x17;
/// MODE SENSE (6).
pub const MODE_SENSE_6: u8 = 0x1a;
/// START STOP UNIT.
pub const START_STOP: u8 = 0x1b;
/// READ CAPACITY (10).
pub const READ_CAPACITY_10: u8 = 0x25;
/// READ (10).
pub const READ_10: u8 = 0x28;
/// WRITE (10).
pub const WRITE_10: u8 = 0x2a;
/// WRITE AND VERIFY (10).
pub const WRITE_VERIFY_10: u8 = 0x2e;
/// VERIFY (10).
pub const VERIFY_10: u8 = 0x2f;
/// PRE-FETCH (10).
pub const PREFETCH_10: u8 = 0x34;
/// SYNCHRONIZE CACHE (10).
pub const SYNC_10: u8 = 0x35;
/// READ DEFECT DATA (10).
pub const DEFECTS_10: u8 = 0x37;
/// WRITE SAME (10).
pub const WRITE_SAME_10: u8 = 0x41;
/// UNMAP.
pub const UNMAP: u8 = 0x42;
/// MODE SELECT (10).
pub const MODE_SELECT_10: u8 = 0x55;
/// MODE SENSE (10).
pub const MODE_SENSE_10: u8 = 0x5a;
/// PERSISTENT RESERVE IN.
pub const RESERVE_IN: u8 = 0x5e;
/// PERSISTENT RESERVE OUT.
pub const RESERVE_OUT: u8 = 0x5f;
/// EXTENDED COPY.
pub const EXTENDED_COPY: u8 = 0x83;
/// RECEIVE COPY RESULTS.
pub const COPY_RESULTS: u8 = 0x84;
/// READ (16).
pub const READ_16: u8 = 0x88;
/// COMPARE AND WRITE.
pub const COMPARE_AND_WRITE: u8 = 0x89;
/// WRITE (16).
pub const WRITE_16: u8 = 0x8a;
/// ORWRITE (16).
pub const ORWRITE_16: u8 = 0x8b;
/// WRITE AND VERIFY (16).
pub const WRITE_VERIFY_16: u8 = 0x8e;
/// VERIFY (16).
pub const VERIFY_16: u8 = 0x8f;
/// PRE-FETCH (16).
pub const PREFETCH_16: u8 = 0x90;
/// SYNCHRONIZE CACHE (16).
pub const SYNC_16: u8 = 0x91;
/// WRITE SAME (16).
pub const WRITE_SAME_16: u8 = 0x93;
/// WRITE ATOMIC (16).
pub const WRITE_ATOMIC_16: u8 = 0x9c;
/// SERVICE ACTION IN (16).
pub const SERVICE_IN_16: u8 = 0x9e;
/// REPORT LUNS.
pub const REPORT_LUNS: u8 = 0xa0;
/// MAINTENANCE IN.
pub const MAINTENANCE_IN: u8 = 0xa3;
/// READ (12).
pub const READ_12: u8 = 0xa8;
/// WRITE (12).
pub const WRITE_12: u8 = 0xaa;
/// WRITE AND VERIFY (12).
pub const WRITE_VERIFY_12: u8 = 0xae;
/// VERIFY (12).
pub const VERIFY_12: u8 = 0xaf;
/// READ DEFECT DATA (12).
pub const DEFECTS_12: u8 = 0xb7;

/// READ CAPACITY (16), of SERVICE ACTION IN (16).
pub const READ_CAPACITY_16: u8 = 0x10;
/// GET LBA STATUS, of SERVICE ACTION IN (16).
pub const GET_LBA_STATUS: u8 = 0x12;
/// REPORT TARGET PORT GROUPS, of MAINTENANCE IN.
pub const REPORT_GROUPS: u8 = 0x0a;
/// REPORT SUPPORTED OPERATION CODES, of MAINTENANCE IN.
pub const REPORT_OPCODES: u8 = 0x0c;
/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, of MAINTENANCE IN.
pub const REPORT_FUNCTIONS: u8 = 0x0d;

const IO_10: [u8; 9] = [0xf8, ANY, ANY, ANY, ANY, 0x1f, ANY, ANY, 0];

/// The usage of a command of ten bytes with a block address and a length.
macro_rules! ten {
    ($opcode:expr, $flags:expr) => {
        &[
            $opcode, $flags, IO_10[1], IO_10[2], IO_10[3], IO_10[4], IO_10[5], IO_10[6], IO_10[7],
            0,
        ]
    };
}

macro_rules! twelve {
    ($opcode:expr, $flags:expr) => {
        &[
            $opcode, $flags, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, 0x1f, 0,
        ]
    };
}

macro_rules! sixteen {
    ($opcode:expr, $flags:expr) => {
        &[
            $opcode, $flags, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, ANY, 0x1f, 0,
        ]
    };
}

macro_rules! reserve {
    ($opcode:expr, $action:expr) => {
        &[$opcode, $action, ANY, 0, 0, ANY, ANY, ANY, ANY, 0]
    };
}

use Access::{Always, Read, Status, Write};

/// All supported commands, by operation code and service action.
pub static COMMANDS: &[Supported] = &[
    plain(TEST_UNIT_READY, Status, &[TEST_UNIT_READY, 0, 0, 0, 0, 0]),
    plain(REQUEST_SENSE, Always, &[REQUEST_SENSE, 1, 0, 0, ANY, 0]),
    plain(READ_6, Read, &[READ_6, 0x1f, ANY, ANY, ANY, 0]),
    plain(WRITE_6, Write, &[WRITE_6, 0x1f, ANY, ANY, ANY, 0]),
    plain(INQUIRY, Always, &[INQUIRY, 1, ANY, ANY, ANY, 0]),
    plain(MODE_SELECT_6, Write, &[MODE_SELECT_6, 0x11, 0, 0, ANY, 0]),
    plain(RESERVE_6, Write, &[RESERVE_6, 0, 0, 0, 0, 0]),
    plain(RELEASE_6, Always, &[RELEASE_6, 0, 0, 0, 0, 0]),
    plain(MODE_SENSE_6, Read, &[MODE_SENSE_6, 8, ANY, ANY, ANY, 0]),
    plain(START_STOP, Write, &[START_STOP, 1, 0, 0x0f, 0xf7, 0]),
    plain(
        READ_CAPACITY_10,
        Status,
        &[READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ),
    plain(READ_10, Read, ten!(READ_10, 0xf8)),
    plain(WRITE_10, Write, ten!(WRITE_10, 0xf8)),
    plain(WRITE_VERIFY_10, Write, ten!(WRITE_VERIFY_10, 0xf2)),
    plain(VERIFY_10, Read, ten!(VERIFY_10, 0xf2)),
    plain(PREFETCH_10, Read, ten!(PREFETCH_10, 0x02)),
    plain(SYNC_10, Write, ten!(SYNC_10, 0x02)),
    plain(
        DEFECTS_10,
        Read,
        &[DEFECTS_10, 0, 0x1f, 0, 0, 0, 0, ANY, ANY, 0],
    ),
    plain(WRITE_SAME_10, Write, ten!(WRITE_SAME_10, 0xf8)),
    plain(UNMAP, Write, &[UNMAP, 0x01, 0, 0, 0, 0, 0x1f, ANY, ANY, 0]),
    plain(
        MODE_SELECT_10,
        Write,
        &[MODE_SELECT_10, 0x11, 0, 0, 0, 0, 0, ANY, ANY, 0],
    ),
    plain(
        MODE_SENSE_10,
        Read,
        &[MODE_SENSE_10, 0x18, ANY, ANY, 0, 0, 0, ANY, ANY, 0],
    ),
    with_action(RESERVE_IN, 0, Status, reserve!(RESERVE_IN, 0)),
    with_action(RESERVE_IN, 1, Status, reserve!(RESERVE_IN, 1)),
    with_action(RESERVE_IN, 2, Status, reserve!(RESERVE_IN, 2)),
    with_action(RESERVE_IN, 3, Status, reserve!(RESERVE_IN, 3)),
    with_action(RESERVE_OUT, 0, Status, reserve!(RESERVE_OUT, 0)),
    with_action(RESERVE_OUT, 1, Status, reserve!(RESERVE_OUT, 1)),
    with_action(RESERVE_OUT, 2, Status, reserve!(RESERVE_OUT, 2)),
    with_action(RESERVE_OUT, 3, Status, reserve!(RESERVE_OUT, 3)),
    with_action(RESERVE_OUT, 4, Status, reserve!(RESERVE_OUT, 4)),
    with_action(RESERVE_OUT, 5, Status, reserve!(RESERVE_OUT, 5)),
    with_action(RESERVE_OUT, 6, Status, reserve!(RESERVE_OUT, 6)),
    with_action(
        EXTENDED_COPY,
        0,
        Write,
        &[
            EXTENDED_COPY,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
        ],
    ),
    with_action(
        COPY_RESULTS,
        0,
        Read,
        &[
            COPY_RESULTS,
            0,
            ANY,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
        ],
    ),
    with_action(
        COPY_RESULTS,
        3,
        Read,
        &[
            COPY_RESULTS,
            3,
            ANY,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
        ],
    ),
    plain(READ_16, Read, sixteen!(READ_16, 0xf8)),
    plain(
        COMPARE_AND_WRITE,
        Write,
        &[
            COMPARE_AND_WRITE,
            0xf8,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
            0,
            ANY,
            0x1f,
            0,
        ],
    ),
    plain(WRITE_16, Write, sixteen!(WRITE_16, 0xf8)),
    plain(ORWRITE_16, Write, sixteen!(ORWRITE_16, 0xf8)),
    plain(WRITE_VERIFY_16, Write, sixteen!(WRITE_VERIFY_16, 0xf2)),
    plain(VERIFY_16, Read, sixteen!(VERIFY_16, 0xf2)),
    plain(PREFETCH_16, Read, sixteen!(PREFETCH_16, 0x02)),
    plain(SYNC_16, Write, sixteen!(SYNC_16, 0x02)),
    plain(WRITE_SAME_16, Write, sixteen!(WRITE_SAME_16, 0xf9)),
    plain(
        WRITE_ATOMIC_16,
        Write,
        &[
            WRITE_ATOMIC_16,
            0xf8,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
            ANY,
            ANY,
            0x1f,
            0,
        ],
    ),
    with_action(
        SERVICE_IN_16,
        READ_CAPACITY_16,
        Status,
        &[
            SERVICE_IN_16,
            READ_CAPACITY_16,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
        ],
    ),
    with_action(
        SERVICE_IN_16,
        GET_LBA_STATUS,
        Read,
        sixteen!(SERVICE_IN_16, GET_LBA_STATUS),
    ),
    plain(
        REPORT_LUNS,
        Always,
        &[REPORT_LUNS, 0, ANY, 0, 0, 0, ANY, ANY, ANY, ANY, 0, 0],
    ),
    with_action(
        MAINTENANCE_IN,
        REPORT_GROUPS,
        Status,
        &[
            MAINTENANCE_IN,
            0xe0 | REPORT_GROUPS,
            0,
            0,
            0,
            0,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
        ],
    ),
    with_action(
        MAINTENANCE_IN,
        REPORT_OPCODES,
        Read,
        &[
            MAINTENANCE_IN,
            REPORT_OPCODES,
            0x87,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
        ],
    ),
    with_action(
        MAINTENANCE_IN,
        REPORT_FUNCTIONS,
        Read,
        &[
            MAINTENANCE_IN,
            REPORT_FUNCTIONS,
            0x80,
            0,
            0,
            0,
            ANY,
            ANY,
            ANY,
            ANY,
            0,
            0,
        ],
    ),
    plain(READ_12, Read, twelve!(READ_12, 0xf8)),
    plain(WRITE_12, Write, twelve!(WRITE_12, 0xf8)),
    plain(WRITE_VERIFY_12, Write, twelve!(WRITE_VERIFY_12, 0xf2)),
    plain(VERIFY_12, Read, twelve!(VERIFY_12, 0xf2)),
    plain(
        DEFECTS_12,
        Read,
        &[DEFECTS_12, 0x1f, 0, 0, 0, 0, ANY, ANY, ANY, ANY, 0, 0],
    ),
];

/// The command of that operation code and, if it has service actions, of that one.
#[must_use]
pub fn find(opcode: u8, action: u8) -> Option<&'static Supported> {
    COMMANDS
        .iter()
        .find(|c| c.opcode == opcode && c.action.is_none_or(|a| a == action))
}

/// Whether any command has that operation code.
#[must_use]
pub fn is_known(opcode: u8) -> bool {
    COMMANDS.iter().any(|c| c.opcode == opcode)
}

/// Bytes of a timeouts descriptor (SPC-4, 6.35.4).
const TIMEOUTS_BYTES: u16 = 12;

/// REPORT SUPPORTED OPERATION CODES, all of them (SPC-4, 6.35.2).
#[must_use]
pub fn report_all(with_timeouts: bool) -> Vec<u8> {
    let mut list = Vec::new();
    for command in COMMANDS {
        let length = u16::try_from(command.usage.len()).expect("a CDB is short");
        list.extend([command.opcode, 0, 0, command.action.unwrap_or(0), 0]);
        list.push(u8::from(command.action.is_some()) | u8::from(with_timeouts) << 1);
        list.extend(length.to_be_bytes());
        if with_timeouts {
            push_timeouts(&mut list);
        }
    }
    let length = u32::try_from(list.len()).expect("a short list");
    [&length.to_be_bytes()[..], &list].concat()
}

/// REPORT SUPPORTED OPERATION CODES, one of them (SPC-4, 6.35.3).
#[must_use]
pub fn report_one(command: Option<&Supported>, with_timeouts: bool) -> Vec<u8> {
    let timeouts = with_timeouts && command.is_some();
    // SUPPORT: 001b is not supported, 011b as the standard says.
    let support = if command.is_some() { 3 } else { 1 };
    let usage = command.map_or(&[][..], |c| c.usage);
    let length = u16::try_from(usage.len()).expect("a CDB is short");
    let mut data = vec![0, support | u8::from(timeouts) << 7];
    data.extend(length.to_be_bytes());
    data.extend(usage);
    if timeouts {
        push_timeouts(&mut data);
    }
    data
}

/// Nothing is promised of how long a command takes.
fn push_timeouts(data: &mut Vec<u8>) {
    data.extend((TIMEOUTS_BYTES - 2).to_be_bytes());
    data.extend([0; TIMEOUTS_BYTES as usize - 2]);
}

#[cfg(test)]
mod tests {
    use super::{COMMANDS, find, report_all};

    #[test]
    fn each_command_is_there_once_and_as_long_as_its_group() {
        for (n, command) in COMMANDS.iter().enumerate() {
            let length = match command.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("group {group}"),
            };
            assert_eq!(command.usage.len(), length, "{:#04x}", command.opcode);
            assert_eq!(command.usage[0], command.opcode);
            let same =
                |c: &&super::Supported| c.opcode == command.opcode && c.action == command.action;
            assert_eq!(COMMANDS.iter().position(|c| same(&c)), Some(n));
            if let Some(action) = command.action {
                assert_eq!(command.usage[1] & 0x1f, action);
            }
        }
        assert!(find(0x9e, 0x11).is_none());
    }

    #[test]
    fn all_are_reported() {
        let without = report_all(false);
        assert_eq!(without.len(), 4 + 8 * COMMANDS.len());
        assert_eq!(report_all(true).len(), 4 + 20 * COMMANDS.len());
    }
}
