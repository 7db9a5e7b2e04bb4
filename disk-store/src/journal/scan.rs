//! What a journal's files hold when it is opened, and what that proves (R8).

use model::planted::{Bug, planted};
use model::sometimes::{Sometimes, reached};
use model::store::{EntryAt, FileNo, ScannedEntry};

use super::batch::{self, Batch, FLAG_DAMAGED, Head};
use super::mark::Synced;
use crate::BLOCK;
use crate::file::{File, FileError};

/// A batch with an intact header, and the file that holds it.
pub(super) struct Found {
    pub(super) slot: usize,
    pub(super) batch: Batch,
}

/// The verdict on all files.
#[derive(Default)]
pub(super) struct Scan {
    /// Live entries, in the order of appending.
    pub(super) entries: Vec<ScannedEntry>,
    /// For each live file that holds a live batch: lap, slot, first batch.
    pub(super) files: Vec<(FileNo, usize, u64)>,
    /// Where the next batch goes: after the last live one.
    pub(super) tail: Option<(FileNo, u64)>,
    /// The last live batch.
    pub(super) seq: u64,
    /// The highest term that was ever seen.
    pub(super) term: u64,
    /// The highest lap that was ever seen.
    pub(super) last_file: FileNo,
    /// Index of the entry after the last place where something is missing or wrong that was,
    /// or may have been, synced.
    pub(super) damage_before: Option<usize>,
    /// Whether the end is missing: once more is appended, nothing shows that any more, so that
    /// this opening's batch has to tell. A hole or a rotten batch shows for as long as its file
    /// is live, and in its place: what was appended after it is sound.
    pub(super) is_end_missing: bool,
}

/// All batches with an intact header in all files.
///
/// What a released file held may hide what was written over it since: where the first write of a
/// later lap was lost, an old batch is intact in its place, and the later lap's follow *within* it.
/// So no released batch is stepped over whole; that of a live one is, so that nothing in a payload
/// is ever taken for a batch.
pub(super) fn scan_files<F: File>(id: u64, files: &[F]) -> Result<Vec<Found>, FileError> {
    let mut live_from = FileNo(0);
    let mut by_file = Vec::with_capacity(files.len());
    for (slot, file) in files.iter().enumerate() {
        by_file.push(scan_file(id, slot, file, live_from)?);
    }
    // What is found anew may say that more was released.
    while let Some(newest) = newest(by_file.iter().flatten())
        && newest.oldest > live_from
    {
        live_from = newest.oldest;
        for (slot, file) in files.iter().enumerate() {
            let is_released = |f: &Found| f.batch.head.file < live_from;
            if by_file[slot].iter().any(is_released) {
                by_file[slot] = scan_file(id, slot, file, live_from)?;
            }
        }
    }
    Ok(by_file.into_iter().flatten().collect())
}

fn newest<'a>(found: impl Iterator<Item = &'a Found>) -> Option<Head> {
    found
        .map(|f| f.batch.head)
        .max_by_key(|head| (head.term, head.seq))
}

/// All batches with an intact header in one file. One that continues what came before in this
/// file, and is of a file from `live_from` on, is stepped over whole; anything else is searched
/// block by block, so that a batch behind a damaged or a released one is found.
fn scan_file<F: File>(
    id: u64,
    slot: usize,
    file: &F,
    live_from: FileNo,
) -> Result<Vec<Found>, FileError> {
    let bytes = file.size()?;
    let (mut offset, mut last, mut found) = (0, None, Vec::new());
    while offset + BLOCK <= bytes {
        let Some(batch) = batch_at(id, file, bytes, offset) else {
            offset += BLOCK;
            continue;
        };
        let order = (batch.head.file, batch.head.term, batch.head.seq);
        if last.is_some_and(|last| order <= last) {
            // Left over from an earlier lap or from a tail that was cut: not of this log.
            offset += BLOCK;
            continue;
        }
        last = Some(order);
        let is_live = batch.head.file >= live_from;
        offset += if is_live { batch.bytes } else { BLOCK };
        found.push(Found { slot, batch });
    }
    Ok(found)
}

fn batch_at<F: File>(id: u64, file: &F, bytes: u64, offset: u64) -> Option<Batch> {
    // An unreadable block is a damaged one: the chain of batches tells whether it matters.
    let block = file.read_at(offset, BLOCK as usize).ok()?;
    let area = batch::area_claimed(id, offset, bytes, &block)?;
    if area == block.len() {
        return batch::decode(offset, bytes, &block);
    }
    batch::decode(offset, bytes, &file.read_at(offset, area).ok()?)
}

/// Whether the payload is what its entry header says.
pub(super) fn read_payload<F: File>(file: &F, at: &EntryAt) -> Option<bytes::Bytes> {
    let payload = file.read_at(at.offset, at.payload_len as usize).ok()?;
    (model::crc32c(&payload) == at.payload_sum).then_some(payload)
}

/// Orders the batches, drops what is released or void, cuts the torn tail, and says whether
/// anything that may have been synced is missing.
pub(super) fn judge<F: File>(
    mut found: Vec<Found>,
    mark: Option<Synced>,
    file_of: impl Fn(usize) -> F,
) -> Scan {
    let mut scan = Scan {
        term: found.iter().map(|f| f.batch.head.term).max().unwrap_or(0),
        last_file: found
            .iter()
            .map(|f| f.batch.head.file)
            .max()
            .unwrap_or_default(),
        ..Scan::default()
    };
    let Some(newest) = newest(found.iter()) else {
        // A journal that was created holds a batch: nothing at all is damage.
        scan.term = mark.map_or(0, |mark| mark.term);
        scan.seq = mark.map_or(0, |mark| mark.seq);
        scan.damage_before = Some(0);
        scan.is_end_missing = true;
        return scan;
    };
    found.retain(|f| f.batch.head.file >= newest.oldest);
    retain_valid(&mut found);
    let claimed = claimed(&found, newest.term);
    // A later term than any that is there was synced: it is gone.
    let is_end_lost = mark.is_some_and(|mark| mark.term > newest.term);
    let synced = match mark {
        Some(mark) if mark.term == newest.term => claimed.max(mark.seq),
        Some(mark) if is_end_lost => {
            scan.term = mark.term;
            claimed.max(newest.seq)
        }
        _ => claimed,
    };
    walk(
        &mut scan,
        found,
        newest.oldest_seq,
        synced,
        is_end_lost,
        file_of,
    );
    scan
}

/// Up to where the headers of a term say that everything was synced.
fn claimed(found: &[Found], term: u64) -> u64 {
    let of_term = found
        .iter()
        .map(|f| f.batch.head)
        .filter(|head| head.term == term);
    of_term.map(|head| head.synced).max().unwrap_or(0)
}

/// Follows the dense numbers from `oldest` on, up to the first batch that is not whole and
/// that nothing says was synced.
fn walk<F: File>(
    scan: &mut Scan,
    found: Vec<Found>,
    oldest: u64,
    synced: u64,
    is_end_lost: bool,
    file_of: impl Fn(usize) -> F,
) {
    let (mut is_cut, mut expected) = (false, oldest);
    for Found { slot, batch } in found {
        let head = batch.head;
        let is_torn = || {
            let file = file_of(slot);
            !batch
                .entries
                .iter()
                .all(|entry| read_payload(&file, &entry.at).is_some())
        };
        let is_whole = head.seq == expected && !is_torn();
        if !is_whole && (expected.min(head.seq) > synced || planted(Bug::DamageIsTorn)) {
            reached(Sometimes::TornTail);
            is_cut = true;
            break;
        }
        if !is_whole {
            reached(Sometimes::DamageFound);
            scan.damage_before = Some(scan.entries.len() + batch.entries.len());
        } else if head.flags & FLAG_DAMAGED != 0 {
            scan.damage_before = Some(scan.entries.len());
        }
        // The first file keeps the number that it is to begin with: a lost one stays missed.
        let first = if scan.files.is_empty() {
            oldest
        } else {
            head.seq
        };
        accept(scan, slot, batch, first);
        expected = head.seq + 1;
    }
    let is_end_lost = is_end_lost && !planted(Bug::DamageIsTorn);
    if is_end_lost || (!is_cut && expected <= synced) {
        scan.damage_before = Some(scan.entries.len());
        scan.is_end_missing = true;
    }
    scan.seq = expected.saturating_sub(1);
}

/// Drops what a later term made void, and sorts the rest by number.
fn retain_valid(found: &mut Vec<Found>) {
    found.sort_by_key(|f| (f.batch.head.seq, std::cmp::Reverse(f.batch.head.term)));
    found.dedup_by_key(|f| f.batch.head.seq);
    // From the end: a batch of a lower term than one that follows must lie before its start.
    let (mut term, mut term_start) = (0, u64::MAX);
    let mut keep: Vec<bool> = Vec::with_capacity(found.len());
    let mut heads: Vec<_> = found.iter().map(|f| f.batch.head).collect();
    heads.sort_by_key(|head| std::cmp::Reverse((head.term, head.seq)));
    let mut starts = Vec::new();
    for head in heads {
        if head.term != term || starts.is_empty() {
            term = head.term;
            term_start = term_start.min(head.term_start);
            starts.push((term, term_start));
        }
    }
    for f in found.iter() {
        // The lowest start of any higher term.
        let higher = starts
            .iter()
            .rev()
            .find(|(term, _)| *term > f.batch.head.term);
        keep.push(higher.is_none_or(|(_, start)| f.batch.head.seq < *start));
    }
    let mut keep = keep.into_iter();
    found.retain(|_| keep.next().unwrap_or(false));
}

fn accept(scan: &mut Scan, slot: usize, batch: Batch, first: u64) {
    let head = batch.head;
    if scan
        .files
        .last()
        .is_none_or(|(file, _, _)| *file < head.file)
    {
        scan.files.push((head.file, slot, first));
    }
    scan.tail = Some((head.file, head.offset + batch.bytes));
    scan.entries
        .extend(batch.entries.into_iter().map(|entry| ScannedEntry {
            volume: entry.volume,
            header: entry.header,
            at: entry.at,
        }));
}
