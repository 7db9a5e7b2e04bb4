//! The bytes of a batch: a header area of whole blocks, then the payloads.

use bytes::Bytes;
use model::ids::VolumeId;
use model::store::{EntryAt, FileNo, JournalEntry};

use crate::bytes_at::{is_sealed, seal, set_u32, set_u64, u32_at, u64_at};
use crate::{BLOCK, round_up};

const MAGIC: u32 = u32::from_le_bytes(*b"ATJB");
const VERSION: u32 = 1;
/// Bytes before the first entry header.
const FIXED: usize = 104;
/// Bytes of an entry header before the machine's own header.
const ENTRY_FIXED: usize = 20;

/// A batch's header area is no longer; a longer batch is split.
pub const HEADER_AREA_MAX: u64 = 1 << 20;
/// A batch has no more entries; a longer one is split.
pub const BATCH_ENTRIES_MAX: usize = 4096;

/// No journal lives to count so far; what claims more is not a batch, and is never written.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// The batch opens a term: everything before it that it does not follow is void.
pub(super) const FLAG_OPEN: u32 = 1;
/// The opening that wrote this batch found the end before it missing (R8).
pub(super) const FLAG_DAMAGED: u32 = 2;

/// The fixed part of a batch header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// The file's lap.
    pub(super) file: FileNo,
    /// Where in the file the batch begins: a misdirected one does not pass (R19).
    pub(super) offset: u64,
    /// Opening of the journal that wrote it.
    pub(super) term: u64,
    /// First batch of that term.
    pub(super) term_start: u64,
    /// Number of the batch, dense; a later term reuses the numbers of a torn tail.
    pub(super) seq: u64,
    /// All up to here was synced before this batch was written.
    pub(super) synced: u64,
    /// First file that is not released.
    pub(super) oldest: FileNo,
    /// First batch of that file.
    pub(super) oldest_seq: u64,
    /// `FLAG_*`.
    pub(super) flags: u32,
}

impl Head {
    /// Whether a journal can have come to these numbers.
    pub(super) fn is_possible(&self) -> bool {
        self.term_start <= self.seq
            && self.synced < self.seq
            && self.oldest <= self.file
            && self.oldest_seq <= self.seq
            && self.seq.max(self.term).max(self.file.0) <= NUMBER_MAX
    }
}

/// An entry's header as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) volume: VolumeId,
    pub(super) header: Vec<u8>,
    pub(super) at: EntryAt,
}

/// A batch whose header is intact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    pub(super) head: Head,
    /// Header area and payloads, whole blocks.
    pub(super) bytes: u64,
    pub(super) entries: Vec<Entry>,
}

/// How many bytes the parts of a batch take.
#[derive(Clone, Copy, Default)]
pub(super) struct Size {
    header: u64,
    aligned: u64,
    ragged: u64,
    entries: usize,
}

impl Size {
    pub(super) fn with(self, entry: &JournalEntry) -> Self {
        let payload = entry.payload.len() as u64;
        let whole_blocks = payload.is_multiple_of(BLOCK);
        Self {
            header: self.header + (ENTRY_FIXED + entry.header.len()) as u64,
            aligned: self.aligned + if whole_blocks { payload } else { 0 },
            ragged: self.ragged + if whole_blocks { 0 } else { payload },
            entries: self.entries + 1,
        }
    }

    fn area(self) -> u64 {
        round_up(FIXED as u64 + self.header)
    }

    pub(super) fn total(self) -> u64 {
        self.area() + self.aligned + round_up(self.ragged)
    }

    /// Whether one batch of at most `space` bytes holds this.
    pub(super) fn fits(self, space: u64) -> bool {
        self.entries <= BATCH_ENTRIES_MAX && self.area() <= HEADER_AREA_MAX && self.total() <= space
    }
}

/// The bytes to write, as chunks, and where each payload will lie. Payloads of whole blocks
/// come first, so that they stay aligned; the others are packed behind them.
pub(super) fn encode(
    id: u64,
    head: &Head,
    entries: &[JournalEntry],
    chunks: &mut Vec<Bytes>,
) -> (u64, Vec<EntryAt>) {
    let size = entries.iter().fold(Size::default(), Size::with);
    assert!(
        size.fits(u64::from(u32::MAX)),
        "batches are split before they are encoded"
    );
    let area = size.area();
    let mut block = vec![0; area as usize];
    set_u32(&mut block, 0, MAGIC);
    set_u32(&mut block, 8, VERSION);
    set_u32(&mut block, 12, area as u32);
    set_u64(&mut block, 16, id);
    set_u64(&mut block, 24, head.file.0);
    set_u64(&mut block, 32, head.offset);
    set_u64(&mut block, 40, size.total());
    set_u64(&mut block, 48, head.term);
    set_u64(&mut block, 56, head.term_start);
    set_u64(&mut block, 64, head.seq);
    set_u64(&mut block, 72, head.synced);
    set_u64(&mut block, 80, head.oldest.0);
    set_u64(&mut block, 88, head.oldest_seq);
    set_u32(&mut block, 96, head.flags);
    set_u32(&mut block, 100, entries.len() as u32);
    let (mut aligned, mut ragged) = (area, area + size.aligned);
    let mut places = Vec::with_capacity(entries.len());
    let mut at = FIXED;
    for entry in entries {
        let len = entry.payload.len() as u64;
        let next = if len.is_multiple_of(BLOCK) {
            &mut aligned
        } else {
            &mut ragged
        };
        let within = *next;
        *next += len;
        let sum = payload_sum(entry);
        set_u32(&mut block, at, entry.volume.0);
        set_u32(&mut block, at + 4, entry.header.len() as u32);
        set_u32(&mut block, at + 8, within as u32);
        set_u32(&mut block, at + 12, len as u32);
        set_u32(&mut block, at + 16, sum);
        at += ENTRY_FIXED;
        block[at..at + entry.header.len()].copy_from_slice(&entry.header);
        at += entry.header.len();
        places.push(EntryAt {
            file: head.file,
            offset: head.offset + within,
            payload_len: len as u32,
            payload_sum: sum,
        });
    }
    seal(&mut block);
    chunks.push(Bytes::from(block));
    let whole = |entry: &&JournalEntry| (entry.payload.len() as u64).is_multiple_of(BLOCK);
    for entry in entries.iter().filter(whole) {
        chunks.extend(entry.payload.chunks().iter().cloned());
    }
    for entry in entries.iter().filter(|entry| !whole(entry)) {
        chunks.extend(entry.payload.chunks().iter().cloned());
    }
    let padding = size.total() - area - size.aligned - size.ragged;
    if padding > 0 {
        static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        chunks.push(Bytes::from_static(&ZEROS[..padding as usize]));
    }
    (size.total(), places)
}

fn payload_sum(entry: &JournalEntry) -> u32 {
    match entry.payload.chunks() {
        [] => model::crc32c(&[]),
        [one] => model::crc32c(one),
        _ => {
            let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
            for chunk in entry.payload.chunks() {
                digest.update(chunk);
            }
            digest.finalize() as u32
        }
    }
}

/// Length of the header area that a batch at `offset` claims, if its first block looks like
/// one of this journal's; checked by [`decode`] only.
pub(super) fn area_claimed(id: u64, offset: u64, file_bytes: u64, block: &[u8]) -> Option<usize> {
    if u32_at(block, 0)? != MAGIC || u32_at(block, 8)? != VERSION || u64_at(block, 16)? != id {
        return None;
    }
    let area = u64::from(u32_at(block, 12)?);
    let is_possible = area >= BLOCK
        && area.is_multiple_of(BLOCK)
        && area <= HEADER_AREA_MAX
        && offset.checked_add(area)? <= file_bytes
        && u64_at(block, 32)? == offset;
    is_possible.then_some(area as usize)
}

/// The batch whose whole header area is `area`; `None` if anything about it is wrong.
pub(super) fn decode(offset: u64, file_bytes: u64, area: &[u8]) -> Option<Batch> {
    if !is_sealed(area) {
        return None;
    }
    let head = Head {
        file: FileNo(u64_at(area, 24)?),
        offset,
        term: u64_at(area, 48)?,
        term_start: u64_at(area, 56)?,
        seq: u64_at(area, 64)?,
        synced: u64_at(area, 72)?,
        oldest: FileNo(u64_at(area, 80)?),
        oldest_seq: u64_at(area, 88)?,
        flags: u32_at(area, 96)?,
    };
    let bytes = u64_at(area, 40)?;
    let is_inside = bytes >= area.len() as u64
        && bytes.is_multiple_of(BLOCK)
        && offset.checked_add(bytes)? <= file_bytes;
    let count = u32_at(area, 100)? as usize;
    if !is_inside || !head.is_possible() || count > BATCH_ENTRIES_MAX {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    let mut at = FIXED;
    for _ in 0..count {
        let header_len = u32_at(area, at + 4)? as usize;
        let within = u64::from(u32_at(area, at + 8)?);
        let payload_len = u32_at(area, at + 12)?;
        if within < area.len() as u64 || within + u64::from(payload_len) > bytes {
            return None;
        }
        let from = at + ENTRY_FIXED;
        entries.push(Entry {
            volume: VolumeId(u32_at(area, at)?),
            header: area.get(from..from.checked_add(header_len)?)?.to_vec(),
            at: EntryAt {
                file: head.file,
                offset: offset + within,
                payload_len,
                payload_sum: u32_at(area, at + 16)?,
            },
        });
        at = from + header_len;
    }
    Some(Batch {
        head,
        bytes,
        entries,
    })
}
