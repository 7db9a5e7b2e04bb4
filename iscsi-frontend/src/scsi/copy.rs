//! EXTENDED COPY within a unit (SPC-4, 6.6 and 6.3): block device to block device, whole and with
//! offsets. What it reads it writes, a step at a time.

use bytes::Bytes;
use model::block::{Reply, Request};

use super::cdb::{be16, be32, be64};
use super::facts::{Facts, SECTOR_BYTES};
use super::limits::STEP_BYTES;
use super::sense::Sense;
use super::task::{Outcome, State, Step, copy_failed, gathered};

/// Target descriptors of one command.
const TARGETS_MAX: usize = 2;
/// Segment descriptors of one command.
const SEGMENTS_MAX: usize = 8;
/// Bytes of one segment: as many as a descriptor with offsets says in whole steps.
const SEGMENT_BYTES_MAX: u32 = 64 << 20;
const HEADER_BYTES: usize = 16;
const TARGET_BYTES: usize = 32;
/// A segment descriptor without offsets, and one with them.
const SEGMENT_BYTES: usize = 28;
const OFFSETS_BYTES: usize = 32;
const TARGET_IDENTIFICATION: u8 = 0xe4;
const SEGMENT_BLOCKS: u8 = 0x02;
const SEGMENT_OFFSETS: u8 = 0x0a;
/// Bytes of the descriptors of one command, at most.
const LIST_BYTES: usize = TARGETS_MAX * TARGET_BYTES + SEGMENTS_MAX * OFFSETS_BYTES;

/// Bytes from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    from: u64,
    to: u64,
    bytes: u64,
}

/// A copy under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copying {
    /// What is left, last first; the last is under way.
    left: Vec<Segment>,
    /// Whether what was read is being written: so many bytes.
    writing: Option<u64>,
}

impl Copying {
    pub(super) fn resume(mut self, reply: Reply) -> Step {
        match (self.writing.take(), reply) {
            (_, Reply::Error(error)) => copy_failed(error).into(),
            (None, Reply::Data(chunks)) => self.write(gathered(chunks)),
            (Some(bytes), Reply::Done) => {
                let Some(segment) = self.left.last_mut() else {
                    return Sense::FAILURE.into();
                };
                segment.from += bytes;
                segment.to += bytes;
                segment.bytes = segment.bytes.saturating_sub(bytes);
                self.read()
            }
            _ => Sense::FAILURE.into(),
        }
    }

    fn read(mut self) -> Step {
        while self.left.pop_if(|segment| segment.bytes == 0).is_some() {}
        let Some(segment) = self.left.last() else {
            return Step::Done(Outcome::good());
        };
        let (at, length) = (segment.from, segment.bytes.min(u64::from(STEP_BYTES)));
        Step::read(at, length, State::Copy(self))
    }

    fn write(mut self, data: Bytes) -> Step {
        let Some(segment) = self.left.last() else {
            return Sense::FAILURE.into();
        };
        let offset = segment.to;
        self.writing = Some(data.len() as u64);
        Step::submit(Request::Write { offset, data }, State::Copy(self))
    }
}

/// Begins a copy.
pub(super) fn start(list: &[u8], facts: &Facts) -> Step {
    if list.is_empty() {
        return Step::Done(Outcome::good());
    }
    match parsed(list, facts) {
        Ok(mut left) => {
            left.reverse();
            let writing = None;
            Copying { left, writing }.read()
        }
        Err(sense) => sense.into(),
    }
}

/// The segments of a parameter list (SPC-4, 6.3.1: LID1).
fn parsed(list: &[u8], facts: &Facts) -> Result<Vec<Segment>, Sense> {
    let field16 = |at| be16(list, at).map(usize::from).ok_or(Sense::LIST_LENGTH);
    let field32 = |at| be32(list, at).ok_or(Sense::LIST_LENGTH);
    let targets_bytes = field16(2)?;
    let segments_bytes = usize::try_from(field32(8)?).map_err(|_| Sense::LIST_LENGTH)?;
    let inline = field32(12)?;
    if inline != 0 {
        return Err(Sense::LIST_FIELD);
    }
    let end = HEADER_BYTES + targets_bytes;
    let targets = list.get(HEADER_BYTES..end).ok_or(Sense::LIST_LENGTH)?;
    let segments = list
        .get(end..end.saturating_add(segments_bytes))
        .ok_or(Sense::LIST_LENGTH)?;
    if targets.len().saturating_add(segments.len()) > LIST_BYTES {
        return Err(Sense::LIST_LENGTH);
    }
    if targets.len().div_ceil(TARGET_BYTES) > TARGETS_MAX {
        return Err(Sense::TOO_MANY_TARGETS);
    }
    let mut known = Vec::new();
    for target in targets.chunks(TARGET_BYTES) {
        known.push(is_this_unit(target, facts)?);
    }
    segments_of(segments, &known, facts)
}

/// Whether an identification descriptor names the unit that was asked (SPC-4, 6.3.6.4).
fn is_this_unit(target: &[u8], facts: &Facts) -> Result<bool, Sense> {
    if target[0] != TARGET_IDENTIFICATION {
        return Err(Sense::TARGET_TYPE);
    }
    if target.len() < TARGET_BYTES {
        return Err(Sense::LIST_LENGTH);
    }
    let (association, kind, length) = (target[5] >> 4 & 3, target[5] & 0x0f, target[7]);
    let length = usize::from(length);
    let designator = target.get(8..8 + length).ok_or(Sense::LIST_FIELD)?;
    let is_naa = association == 0 && kind == 3;
    let is_t10 = association == 0 && kind == 1;
    let serial = facts.identity.serial.as_bytes();
    Ok((is_naa && designator == facts.identity.naa.to_be_bytes())
        // A designation is cut to what the descriptor holds of it.
        || (is_t10 && designator.len() > 8 && serial.starts_with(&designator[8..])))
}

fn segments_of(mut bytes: &[u8], known: &[bool], facts: &Facts) -> Result<Vec<Segment>, Sense> {
    let mut segments = Vec::new();
    while !bytes.is_empty() {
        if segments.len() == SEGMENTS_MAX {
            return Err(Sense::TOO_MANY_SEGMENTS);
        }
        let length = match bytes[0] {
            SEGMENT_BLOCKS => SEGMENT_BYTES,
            SEGMENT_OFFSETS => OFFSETS_BYTES,
            _ => return Err(Sense::SEGMENT_TYPE),
        };
        let segment = bytes.get(..length).ok_or(Sense::LIST_LENGTH)?;
        if usize::from(be16(segment, 2).unwrap_or(0)) != length - 4 {
            return Err(Sense::LIST_FIELD);
        }
        for at in [4, 6] {
            let index = be16(segment, at).unwrap_or(u16::MAX);
            let of_this_unit = known.get(usize::from(index)).copied().unwrap_or(false);
            if !of_this_unit {
                return Err(Sense::COPY_UNREACHABLE);
            }
        }
        segments.push(one_segment(segment, facts)?);
        bytes = &bytes[length..];
    }
    Ok(segments)
}

/// SPC-4, 6.3.7.5 and 6.3.7.7.
fn one_segment(segment: &[u8], facts: &Facts) -> Result<Segment, Sense> {
    let sector = u64::from(SECTOR_BYTES);
    let field = |at| be64(segment, at).ok_or(Sense::LIST_LENGTH);
    let (from, to) = (field(12)?, field(20)?);
    let place = |block: u64, offset: u16| {
        let start = block.checked_mul(sector)?;
        start.checked_add(offset.into())
    };
    let (bytes, offsets) = match segment[0] {
        SEGMENT_BLOCKS => (u64::from(be16(segment, 10).unwrap_or(0)) * sector, (0, 0)),
        // 32 bits of length, then where it begins and ends up, in blocks and bytes on top.
        _ => {
            let bytes = be32(segment, 8).unwrap_or(0);
            if bytes > SEGMENT_BYTES_MAX {
                return Err(Sense::LIST_FIELD);
            }
            let offset = |at| be16(segment, at).unwrap_or(0);
            (u64::from(bytes), (offset(28), offset(30)))
        }
    };
    let (from, to) = match (place(from, offsets.0), place(to, offsets.1)) {
        (Some(from), Some(to)) => (from, to),
        _ => return Err(Sense::COPY_ABORTED),
    };
    let fits = |at: u64| {
        at.checked_add(bytes)
            .is_some_and(|end| end <= facts.size_bytes)
    };
    if !fits(from) || !fits(to) {
        return Err(Sense::COPY_ABORTED);
    }
    Ok(Segment { from, to, bytes })
}

/// RECEIVE COPY RESULTS, operating parameters (SPC-4, 6.24.4).
pub(super) fn operating_parameters() -> Vec<u8> {
    let mut data = vec![0; 44];
    let long = |n: usize| u32::try_from(n).expect("a small bound").to_be_bytes();
    data[4] = 1;
    data[9] = u8::try_from(TARGETS_MAX).expect("a few");
    data[11] = u8::try_from(SEGMENTS_MAX).expect("a few");
    data[12..16].copy_from_slice(&long(LIST_BYTES));
    data[16..20].copy_from_slice(&SEGMENT_BYTES_MAX.to_be_bytes());
    // A data segment of 512 bytes, as a power of two; one copy at a time.
    data[36] = 1;
    data[37] = 9;
    data.extend([SEGMENT_BLOCKS, SEGMENT_OFFSETS, TARGET_IDENTIFICATION]);
    data[43] = 3;
    let length = long(data.len() - 4);
    data[..4].copy_from_slice(&length);
    data
}

/// RECEIVE COPY RESULTS, copy status (SPC-4, 6.24.2), of the copy with that list identifier.
pub(super) fn status(last: Option<&LastCopy>, list: u8) -> Result<Vec<u8>, Sense> {
    let last = last
        .filter(|last| last.list == list)
        .ok_or(Sense::CDB_FIELD)?;
    let mut data = vec![0, 0, 0, 8];
    // Completed without errors is 1, with errors 2.
    data.push(if last.failed { 2 } else { 1 });
    data.extend(last.segments.to_be_bytes());
    data.push(0);
    data.extend(last.bytes.to_be_bytes());
    Ok(data)
}

/// The last copy of a session, of which its initiator may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastCopy {
    pub(super) list: u8,
    pub(super) failed: bool,
    pub(super) segments: u16,
    pub(super) bytes: u32,
}
