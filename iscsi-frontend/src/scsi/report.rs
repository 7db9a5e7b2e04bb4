//! Commands that only tell: capacity, target port groups, LUNs, task management functions, and
//! which blocks are allocated.

use model::block::{Allocation, Extent};

use super::cdb::Cdb;
use super::facts::{Facts, SECTOR_BYTES};
use super::opcodes::{self, find};
use super::sense::Sense;

/// READ CAPACITY (10) (SBC-3, 5.15).
#[must_use]
pub(super) fn capacity_10(facts: &Facts) -> Vec<u8> {
    let last = u32::try_from(last_sector(facts)).unwrap_or(u32::MAX);
    [last.to_be_bytes(), SECTOR_BYTES.to_be_bytes()].concat()
}

/// READ CAPACITY (16) (SBC-3, 5.16).
#[must_use]
pub(super) fn capacity_16(facts: &Facts) -> Vec<u8> {
    let mut data = last_sector(facts).to_be_bytes().to_vec();
    data.extend(SECTOR_BYTES.to_be_bytes());
    // LBPME and LBPRZ: thin, and what is unmapped reads as zeros.
    data.extend([0, 0, 0xc0, 0]);
    data.resize(32, 0);
    data
}

fn last_sector(facts: &Facts) -> u64 {
    facts.sectors().saturating_sub(1)
}

/// REPORT TARGET PORT GROUPS (SPC-4, 6.37).
#[must_use]
pub(super) fn groups(cdb: Cdb, facts: &Facts) -> Vec<u8> {
    // Non-optimized and optimized are supported (AN_SUP, AO_SUP): what can't be served waits.
    const SUPPORTED: u8 = 0x03;
    let extended = cdb.byte(1) >> 5 == 1;
    let mut list = Vec::new();
    for group in &facts.groups {
        let ports = u8::try_from(group.ports.len()).unwrap_or(u8::MAX);
        list.extend([group.access as u8, SUPPORTED]);
        list.extend(group.id.to_be_bytes());
        // The state follows from the owner's site: implicitly.
        list.extend([0, 0x02, 0, ports]);
        for port in &group.ports[..usize::from(ports)] {
            list.extend(u32::from(*port).to_be_bytes());
        }
    }
    // The extended header says how long a transition takes, in seconds.
    let header: &[u8] = if extended { &[0x10, 10, 0, 0] } else { &[] };
    let length = u32::try_from(header.len() + list.len()).expect("few sites");
    [&length.to_be_bytes()[..], header, &list].concat()
}

/// REPORT LUNS (SPC-4, 6.33): there is LUN 0 alone, and no well known one.
///
/// # Errors
/// The selection is not known.
pub(super) fn luns(cdb: Cdb) -> Result<Vec<u8>, Sense> {
    let mut data = match cdb.byte(2) {
        0 | 2 => vec![0, 0, 0, 8],
        1 => vec![0; 4],
        _ => return Err(Sense::CDB_FIELD),
    };
    let listed = usize::from(data[3]);
    data.resize(8 + listed, 0);
    Ok(data)
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4, 6.36).
#[must_use]
pub(super) fn functions(cdb: Cdb) -> Vec<u8> {
    // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
    const FUNCTIONS: u8 = 0xda;
    match cdb.has(2, 0x80) {
        true => {
            let mut data = vec![FUNCTIONS, 0, 0, 12];
            data.resize(16, 0);
            data
        }
        false => vec![FUNCTIONS, 0, 0, 0],
    }
}

/// REPORT SUPPORTED OPERATION CODES (SPC-4, 6.35).
///
/// # Errors
/// What is asked and whether the command has service actions don't agree.
pub(super) fn operation_codes(cdb: Cdb) -> Result<Vec<u8>, Sense> {
    let with_timeouts = cdb.has(2, 0x80);
    let (opcode, action) = (cdb.byte(3), cdb.be16(4));
    let has_actions = opcodes::COMMANDS
        .iter()
        .any(|c| c.opcode == opcode && c.action.is_some());
    let action = u8::try_from(action).ok();
    let found = action.and_then(|action| find(opcode, action));
    match cdb.byte(2) & 0x07 {
        0 => Ok(opcodes::report_all(with_timeouts)),
        1 if has_actions => Err(Sense::CDB_FIELD.at(2)),
        1 => Ok(opcodes::report_one(find(opcode, 0), with_timeouts)),
        2 if !has_actions && opcodes::is_known(opcode) => Err(Sense::CDB_FIELD.at(2)),
        2 => Ok(opcodes::report_one(found, with_timeouts)),
        3 => Ok(opcodes::report_one(found, with_timeouts)),
        _ => Err(Sense::CDB_FIELD.at(2)),
    }
}

/// READ DEFECT DATA (10) and (12): there are none (SBC-3, 5.17).
#[must_use]
pub(super) fn defects(cdb: Cdb) -> Vec<u8> {
    match cdb.opcode() {
        opcodes::DEFECTS_10 => vec![0, cdb.byte(2) & 0x1f, 0, 0],
        _ => vec![0, cdb.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0],
    }
}

/// GET LBA STATUS (SBC-3, 5.4), of ranges that begin with that block; `room` bytes at most.
#[must_use]
pub(super) fn lba_status(first: u64, extents: &[Extent], room: u32) -> Vec<u8> {
    const HEADER: usize = 8;
    const DESCRIPTOR: usize = 16;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let descriptors_max = (room.saturating_sub(HEADER) / DESCRIPTOR).clamp(1, 256);
    let mut merged: Vec<(u64, u64, bool)> = Vec::new();
    let mut at = first * u64::from(SECTOR_BYTES);
    for extent in extents {
        let is_hole = extent.state == Allocation::Hole;
        match merged.last_mut() {
            Some((_, length, hole)) if *hole == is_hole => *length += extent.length,
            _ => merged.push((at, extent.length, is_hole)),
        }
        at += extent.length;
    }
    let mut list = Vec::new();
    for (start, length, is_hole) in merged.into_iter().take(descriptors_max) {
        let blocks = length / u64::from(SECTOR_BYTES);
        list.extend((start / u64::from(SECTOR_BYTES)).to_be_bytes());
        list.extend(u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
        // Mapped is 0, deallocated 1.
        list.extend([u8::from(is_hole), 0, 0, 0]);
        if blocks > u64::from(u32::MAX) {
            break;
        }
    }
    // The length does not count itself.
    let length = u32::try_from(list.len() + 4).expect("few descriptors");
    [&length.to_be_bytes()[..], &[0; 4], &list].concat()
}

#[cfg(test)]
mod tests {
    use model::block::{Allocation, Extent};

    use super::lba_status;

    #[test]
    fn equal_neighbours_are_one_range() {
        let of = |length, state| Extent { length, state };
        let extents = [
            of(4096, Allocation::Data),
            of(4096, Allocation::Zero),
            of(8192, Allocation::Hole),
        ];
        let data = lba_status(8, &extents, 1024);
        assert_eq!(data.len(), 8 + 2 * 16);
        assert_eq!(data[..4], [0, 0, 0, 36]);
        assert_eq!(data[8..20], [0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16]);
        assert_eq!(data[24..37], [0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 16, 1]);
        assert_eq!(lba_status(8, &extents, 24).len(), 24);
    }
}
