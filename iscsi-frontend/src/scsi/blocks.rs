//! Commands that move, compare, prepare or free blocks (SBC-3, 5).

use bytes::Bytes;
use model::block::Request;

use super::Command;
use super::cdb::{Cdb, Range, be16, be32, be64};
use super::facts::{Facts, SECTOR_BYTES, TRANSFER_SECTORS_MAX};
use super::limits::{
    ATOMIC_BYTES, ATOMIC_SECTORS_MAX, LIST_BYTES_MAX, SAME_SECTORS_MAX, UNMAP_BYTES_MAX,
    UNMAP_DESCRIPTORS_MAX,
};
use super::opcodes::{
    COMPARE_AND_WRITE, EXTENDED_COPY, MODE_SELECT_6, MODE_SELECT_10, ORWRITE_16, PREFETCH_10,
    PREFETCH_16, READ_6, READ_10, READ_12, READ_16, RESERVE_OUT, SERVICE_IN_16, SYNC_10, SYNC_16,
    UNMAP, VERIFY_10, VERIFY_12, VERIFY_16, WRITE_6, WRITE_10, WRITE_12, WRITE_16, WRITE_ATOMIC_16,
    WRITE_SAME_10, WRITE_SAME_16, WRITE_VERIFY_10, WRITE_VERIFY_12, WRITE_VERIFY_16,
};
use super::sense::Sense;
use super::task::{Outcome, State, Step, repeated};

const SECTOR: u64 = SECTOR_BYTES as u64;

/// How many bytes of data a command is to bring. What it brings beyond that, nobody reads.
#[must_use]
pub fn data_out(cdb: Cdb) -> u32 {
    let blocks = |count: u32| match count <= TRANSFER_SECTORS_MAX {
        true => count * SECTOR_BYTES,
        // It will be refused.
        false => 0,
    };
    match cdb.opcode() {
        WRITE_6 | WRITE_10 | WRITE_12 | WRITE_16 | WRITE_VERIFY_10 | WRITE_VERIFY_12
        | WRITE_VERIFY_16 | ORWRITE_16 => blocks(cdb.range().blocks),
        WRITE_ATOMIC_16 => blocks(u32::from(cdb.be16(12))),
        VERIFY_10 | VERIFY_12 | VERIFY_16 => match cdb.byte(1) >> 1 & 3 {
            1 => blocks(cdb.range().blocks),
            3 if cdb.range().blocks > 0 => SECTOR_BYTES,
            _ => 0,
        },
        COMPARE_AND_WRITE => 2 * blocks(u32::from(cdb.byte(13))),
        // NDOB: there is no data-out buffer.
        WRITE_SAME_16 if cdb.has(1, 0x01) => 0,
        WRITE_SAME_10 | WRITE_SAME_16 => SECTOR_BYTES,
        UNMAP => u32::from(cdb.be16(7)).min(UNMAP_BYTES_MAX),
        MODE_SELECT_6 => u32::from(cdb.byte(4)),
        MODE_SELECT_10 => u32::from(cdb.be16(7)).min(LIST_BYTES_MAX),
        RESERVE_OUT => cdb.be32(5).min(LIST_BYTES_MAX),
        EXTENDED_COPY => cdb.be32(10).min(LIST_BYTES_MAX),
        _ => 0,
    }
}

/// Whether a command changes what is stored.
pub(super) fn changes_blocks(cdb: Cdb) -> bool {
    matches!(
        cdb.opcode(),
        WRITE_6
            | WRITE_10
            | WRITE_12
            | WRITE_16
            | WRITE_VERIFY_10
            | WRITE_VERIFY_12
            | WRITE_VERIFY_16
            | ORWRITE_16
            | WRITE_ATOMIC_16
            | COMPARE_AND_WRITE
            | WRITE_SAME_10
            | WRITE_SAME_16
            | UNMAP
            | EXTENDED_COPY
    )
}

/// Bytes of a unit.
#[derive(Clone, Copy)]
struct Span {
    at: u64,
    bytes: u64,
}

/// A range of blocks, if all of it is there.
fn span(range: Range, facts: &Facts) -> Result<Span, Sense> {
    let end = range.first.checked_add(range.blocks.into());
    if end.is_none_or(|end| end > facts.sectors()) {
        return Err(Sense::OUT_OF_RANGE);
    }
    Ok(Span {
        at: range.first * SECTOR,
        bytes: u64::from(range.blocks) * SECTOR,
    })
}

/// A range that one command may transfer.
fn transfer(range: Range, facts: &Facts) -> Result<Span, Sense> {
    if range.blocks > TRANSFER_SECTORS_MAX {
        return Err(Sense::CDB_FIELD);
    }
    span(range, facts)
}

/// There is no protection information: RDPROTECT, WRPROTECT, VRPROTECT and ORPROTECT are 0.
fn unprotected(cdb: Cdb) -> Result<(), Sense> {
    match cdb.byte(1) >> 5 {
        0 => Ok(()),
        _ => Err(Sense::CDB_FIELD),
    }
}

/// Begins a command.
pub(super) fn start(command: &Command, facts: &Facts) -> Step {
    begun(command, facts).unwrap_or_else(Step::from)
}

fn begun(command: &Command, facts: &Facts) -> Result<Step, Sense> {
    let cdb = command.cdb;
    match cdb.opcode() {
        READ_6 => read(transfer(cdb.range(), facts)?),
        READ_10 | READ_12 | READ_16 => {
            unprotected(cdb)?;
            read(transfer(cdb.range(), facts)?)
        }
        WRITE_6 => write(command, transfer(cdb.range(), facts)?, None),
        WRITE_10 | WRITE_12 | WRITE_16 => {
            unprotected(cdb)?;
            write(command, transfer(cdb.range(), facts)?, None)
        }
        WRITE_VERIFY_10 | WRITE_VERIFY_12 | WRITE_VERIFY_16 => {
            unprotected(cdb)?;
            let compare = match cdb.byte(1) >> 1 & 3 {
                0 => false,
                1 => true,
                _ => return Err(Sense::CDB_FIELD),
            };
            write(command, transfer(cdb.range(), facts)?, Some(compare))
        }
        WRITE_ATOMIC_16 => atomic(command, facts),
        VERIFY_10 | VERIFY_12 | VERIFY_16 => verify(command, facts),
        PREFETCH_10 | PREFETCH_16 => {
            span(cdb.range(), facts)?;
            // GOOD, not CONDITION MET: it is not promised that all of it is cached.
            Ok(Step::Done(Outcome::good()))
        }
        SYNC_10 | SYNC_16 => {
            span(cdb.range(), facts)?;
            Ok(Step::submit(Request::Flush, State::Plain))
        }
        WRITE_SAME_10 | WRITE_SAME_16 => same(command, facts),
        UNMAP => unmap(command, facts),
        COMPARE_AND_WRITE => compare(command, facts),
        ORWRITE_16 => {
            unprotected(cdb)?;
            let Span { at, bytes } = transfer(cdb.range(), facts)?;
            let data = whole(command)?;
            if data.is_empty() {
                return Ok(Step::Done(Outcome::good()));
            }
            Ok(Step::read(at, bytes, State::Or { at, data }))
        }
        SERVICE_IN_16 => lba_status(cdb, facts),
        _ => Err(Sense::OPCODE),
    }
}

/// Data of a command that can't do with less than all, or more.
fn whole(command: &Command) -> Result<Bytes, Sense> {
    let wanted = data_out(command.cdb);
    let whole = command.expected == wanted && command.data.len() as u64 == u64::from(wanted);
    match whole {
        true => Ok(command.data.clone()),
        false => Err(Sense::INFORMATION_UNIT),
    }
}

fn read(Span { at, bytes }: Span) -> Result<Step, Sense> {
    match bytes {
        0 => Ok(Step::Done(Outcome::good())),
        _ => Ok(Step::read(at, bytes, State::Plain)),
    }
}

/// What the initiator has less than the command says is not written: the residual says so.
fn write(command: &Command, Span { at, .. }: Span, verify: Option<bool>) -> Result<Step, Sense> {
    let data = command.data.clone();
    if data.is_empty() {
        return Ok(Step::Done(Outcome::good()));
    }
    let state = match verify {
        None => State::Plain,
        Some(compare) => State::Written {
            at,
            data: data.clone(),
            compare,
        },
    };
    Ok(Step::submit(Request::Write { offset: at, data }, state))
}

/// WRITE ATOMIC (16) (SBC-4): within one part of the journal nothing is ever torn.
fn atomic(command: &Command, facts: &Facts) -> Result<Step, Sense> {
    let cdb = command.cdb;
    unprotected(cdb)?;
    let blocks = u32::from(cdb.be16(12));
    // ATOMIC BOUNDARY: the write is one whole, there is none to be asked for.
    if blocks > ATOMIC_SECTORS_MAX || cdb.be16(10) != 0 {
        return Err(Sense::CDB_FIELD);
    }
    let first = cdb.be64(2);
    let span = span(Range { first, blocks }, facts)?;
    let part = |at: u64| at / u64::from(ATOMIC_BYTES);
    if span.bytes > 0 && part(span.at) != part(span.at + span.bytes - 1) {
        return Err(Sense::CDB_FIELD);
    }
    whole(command)?;
    write(command, span, None)
}

/// VERIFY: what is there is readable, and equal to the data if there is some (SBC-3, 5.28).
fn verify(command: &Command, facts: &Facts) -> Result<Step, Sense> {
    let cdb = command.cdb;
    unprotected(cdb)?;
    match cdb.byte(1) >> 1 & 3 {
        0 => {
            let Span { at, bytes } = span(cdb.range(), facts)?;
            Ok(Step::verify(at, at + bytes, None))
        }
        1 => {
            let Span { at, bytes } = transfer(cdb.range(), facts)?;
            let data = whole(command)?;
            Ok(Step::verify(at, at + bytes, Some(data)))
        }
        3 => {
            let Span { at, bytes } = transfer(cdb.range(), facts)?;
            let block = whole(command)?;
            let times = usize::try_from(bytes / SECTOR).expect("bounded by the transfer limit");
            Ok(Step::verify(
                at,
                at + bytes,
                Some(block.repeat(times).into()),
            ))
        }
        _ => Err(Sense::CDB_FIELD),
    }
}

fn compare(command: &Command, facts: &Facts) -> Result<Step, Sense> {
    let cdb = command.cdb;
    unprotected(cdb)?;
    let blocks = u32::from(cdb.byte(13));
    let first = cdb.be64(2);
    let Span { at, bytes } = transfer(Range { first, blocks }, facts)?;
    // Data that is not as long as the blocks say.
    let mut expected = whole(command).map_err(|_| Sense::CDB_FIELD)?;
    if expected.is_empty() {
        return Ok(Step::Done(Outcome::good()));
    }
    let data = expected.split_off(expected.len() / 2);
    let state = State::Compare { at, expected, data };
    Ok(Step::read(at, bytes, state))
}

/// WRITE SAME (SBC-3, 5.44): zeros take no data, with UNMAP they take no space.
fn same(command: &Command, facts: &Facts) -> Result<Step, Sense> {
    let cdb = command.cdb;
    unprotected(cdb)?;
    // ANCHOR: nothing is anchored. WSNZ: 0 blocks are not all that follow.
    let (anchor, unmaps) = (cdb.has(1, 0x10), cdb.has(1, 0x08));
    let no_data = cdb.opcode() == WRITE_SAME_16 && cdb.has(1, 0x01);
    let range = cdb.range();
    let Span { at, bytes } = span(range, facts)?;
    if anchor || range.blocks == 0 || range.blocks > SAME_SECTORS_MAX {
        return Err(Sense::CDB_FIELD);
    }
    let block = match no_data {
        true => Bytes::new(),
        false => whole(command)?,
    };
    if block.iter().any(|byte| *byte != 0) {
        return Ok(Step::same(at, at + bytes, repeated(&block, bytes)));
    }
    let (offset, length) = (at, bytes);
    let request = match unmaps {
        true => Request::Trim { offset, length },
        false => Request::Zero {
            offset,
            length,
            allocate: false,
        },
    };
    Ok(Step::submit(request, State::Plain))
}

/// UNMAP (SBC-3, 5.25).
fn unmap(command: &Command, facts: &Facts) -> Result<Step, Sense> {
    const HEADER: usize = 8;
    const DESCRIPTOR: usize = 16;
    let cdb = command.cdb;
    // ANCHOR.
    if cdb.has(1, 0x01) {
        return Err(Sense::CDB_FIELD);
    }
    let list = &command.data[..];
    if cdb.be16(7) == 0 {
        return Ok(Step::Done(Outcome::good()));
    }
    if list.len() < HEADER || list.len() < usize::from(cdb.be16(7)) {
        return Err(Sense::LIST_LENGTH);
    }
    let said = usize::from(be16(list, 2).ok_or(Sense::LIST_LENGTH)?);
    let descriptors = &list[HEADER..];
    let descriptors = &descriptors[..said.min(descriptors.len())];
    if descriptors.len() / DESCRIPTOR > usize::from(UNMAP_DESCRIPTORS_MAX) {
        return Err(Sense::LIST_FIELD);
    }
    let mut ranges = Vec::new();
    for descriptor in descriptors.chunks_exact(DESCRIPTOR) {
        let first = be64(descriptor, 0).ok_or(Sense::LIST_LENGTH)?;
        let blocks = be32(descriptor, 8).ok_or(Sense::LIST_LENGTH)?;
        let Span { at, bytes } = span(Range { first, blocks }, facts)?;
        if bytes > 0 {
            ranges.push((at, bytes));
        }
    }
    ranges.reverse();
    Ok(Step::unmap(ranges))
}

fn lba_status(cdb: Cdb, facts: &Facts) -> Result<Step, Sense> {
    let (first, room) = (cdb.be64(2), cdb.be32(10));
    if first >= facts.sectors() {
        return Err(Sense::OUT_OF_RANGE);
    }
    let offset = first * SECTOR;
    let length = facts.size_bytes - offset;
    let request = Request::Status { offset, length };
    Ok(Step::submit(request, State::Status { first, room }))
}
