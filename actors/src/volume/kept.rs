//! What a drain's cut can't bring to segments now: pieces of blocks whose base can't be read (R28),
//! and its data if there is no room and it takes the place of none (R18). The drain goes on without it: those bytes are
//! journaled once more, behind the cut, so that the journal is trimmed and a later drain tries
//! again. Until then a read of such a piece's block fails, if it needs the base.
//!
//! **Invariant (R12):** what is journaled again is older than all that was appended meanwhile: of
//! its bytes only those are, that nothing since the cut writes.

use std::ops::Range;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::ids::{BlockNo, Position};
use model::journal::{Record, RecordBody, StoredWrite};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::drain::Drain;
use super::layers::Frozen;
use super::overlay::Content;
use super::read::Target;
use super::serve::Serving;
use crate::planted::{Bug, planted};

impl Serving {
    /// Ends a merge: what still waits for a base is not waited for, and all that the frozen layer
    /// has and can't bring is journaled again.
    pub(super) fn keep(&mut self, now: Time) {
        if let Drain::Merging { waiting, .. } = &mut self.drain {
            let late = std::mem::take(waiting).into_keys();
            let frozen = self.layers.frozen.as_mut().expect("a drain's layer");
            frozen.unmerged.extend(late);
            self.forget_reads(|target| matches!(target, Target::Base { .. }));
        }
        let frozen = self.layers.frozen.as_ref().expect("a drain's layer");
        if frozen.unmerged.is_empty() && !frozen.crowded_out {
            return;
        }
        let left = left_behind(frozen);
        self.journal_again(now, left);
    }

    /// Appends bytes of the frozen layer, by where they begin, behind its cut.
    pub(super) fn journal_again(&mut self, now: Time, left: Vec<(u64, Bytes)>) {
        let frozen = self.layers.frozen.as_ref().expect("a drain's layer");
        let newer = self.written_since(frozen.covers);
        for (at, bytes) in left {
            for range in gaps(&newer, at..at + bytes.len() as u64) {
                let offset = range.start;
                let within = (offset - at) as usize..(range.end - at) as usize;
                let bytes = bytes.slice(within);
                self.append(now, RecordBody::Kept { offset }, bytes.into());
            }
        }
    }

    /// The bytes that records after a position write: ranges that do not meet, in order.
    fn written_since(&self, cut: Position) -> Vec<Range<u64>> {
        let records = self.journal.log().from(cut.seq.next());
        let mut all: Vec<Range<u64>> = records.flat_map(written).collect();
        all.sort_by_key(|range| range.start);
        let mut apart: Vec<Range<u64>> = Vec::new();
        for range in all {
            match apart.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => apart.push(range),
            }
        }
        apart
    }

    /// A kept piece is committed: a drain tries again, after a while.
    pub(super) fn apply_kept(&mut self, now: Time, offset: u64, bytes: &Bytes) {
        self.patch(offset, bytes);
        self.kept_due.get_or_insert(now + self.config.drain_age);
    }

    /// Whether nothing waits for a drain but kept pieces.
    pub(super) fn only_kept(&self) -> bool {
        let log = self.journal.log();
        let mut waiting = log.from(log.base().seq.next());
        self.kept_due.is_some()
            && waiting.all(|r| {
                matches!(
                    r.head.body,
                    RecordBody::Checkpoint(_)
                        | RecordBody::EpochStart
                        | RecordBody::Recovered
                        | RecordBody::Kept { .. }
                )
            })
    }
}

/// What a frozen layer can't bring, by where it begins: each piece within a block.
fn left_behind(frozen: &Frozen) -> Vec<(u64, Bytes)> {
    let mut left = Vec::new();
    for (first, run) in frozen.overlay.runs() {
        let start = first.0 * BLOCK_BYTES as u64;
        match &run.content {
            Content::Patch(patch) if frozen.unmerged.contains(&first) => {
                reached(Sometimes::PatchKept);
                let pieces = patch.pieces().into_iter();
                let pieces = pieces.filter(|_| !planted(Bug::DroppedPatch));
                left.extend(pieces.map(|(at, bytes)| (start + at as u64, bytes)));
            }
            Content::Data { bytes, .. } if frozen.crowded_out => {
                let replaces = |block: u64| frozen.replacing.contains(&BlockNo(block));
                let blocks = (first.0..).zip((0..bytes.len()).step_by(BLOCK_BYTES));
                let blocks = blocks.filter(|(block, _)| !replaces(*block));
                left.extend(blocks.map(|(block, at)| {
                    let bytes = bytes.slice(at..at + BLOCK_BYTES);
                    (block * BLOCK_BYTES as u64, bytes)
                }));
            }
            _ => {}
        }
    }
    left
}

/// What of a range none of the others meets.
fn gaps(others: &[Range<u64>], range: Range<u64>) -> Vec<Range<u64>> {
    let mut gaps = Vec::new();
    let mut at = range.start;
    let from = others.partition_point(|other| other.end <= range.start);
    for other in &others[from..] {
        if other.start >= range.end {
            break;
        }
        if other.start > at {
            gaps.push(at..other.start);
        }
        at = at.max(other.end);
    }
    if at < range.end {
        gaps.push(at..range.end);
    }
    gaps
}

/// The bytes of the volume that a record writes.
fn written(record: &Record) -> Vec<Range<u64>> {
    let payload = u64::from(record.head.payload_len);
    let range = match &record.head.body {
        RecordBody::Write { offset, .. } | RecordBody::Kept { offset, .. } => {
            *offset..*offset + payload
        }
        RecordBody::Zero { offset, length, .. } => *offset..*offset + *length,
        RecordBody::Cut(cut) => cut.from..cut.to,
        RecordBody::Stored(stored) => {
            return stored.writes.iter().map(StoredWrite::range).collect();
        }
        RecordBody::EpochStart
        | RecordBody::Recovered
        | RecordBody::Open(_)
        | RecordBody::Close(_)
        | RecordBody::Checkpoint(_) => return Vec::new(),
    };
    std::iter::once(range).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::overlay::{Overlay, Run, Sums};
    use super::*;

    /// R12: what was written since is in no gap, all else is in one.
    #[test]
    fn what_is_journaled_again_is_what_nothing_newer_writes() {
        let newer = [5..75, 149..150, 4095..9000];
        let gaps = |range| -> Vec<(u64, u64)> {
            let gaps = gaps(&newer, range).into_iter();
            gaps.map(|gap| (gap.start, gap.end)).collect()
        };
        assert_eq!(gaps(0..10), [(0, 5)]);
        assert_eq!(gaps(63..65), []);
        assert_eq!(gaps(100..200), [(100, 149), (150, 200)]);
        assert_eq!(gaps(0..4096), [(0, 5), (75, 149), (150, 4095)]);
        assert_eq!(gaps(8000..10_000), [(9000, 10_000)]);
    }

    #[test]
    fn data_stays_behind_only_if_there_is_no_room_and_it_replaces_none() {
        let mut overlay = Overlay::default();
        let bytes = Bytes::from([[1; BLOCK_BYTES], [2; BLOCK_BYTES]].concat());
        let sums = Sums::new([0, 0].into());
        let content = Content::Data {
            bytes: bytes.clone(),
            sums,
        };
        overlay.insert(BlockNo(7), Run { blocks: 2, content });
        let content = Content::Hole;
        overlay.insert(BlockNo(9), Run { blocks: 1, content });
        overlay.patch(BlockNo(3), 10, b"piece", None);
        let mut frozen = Frozen {
            overlay,
            covers: Position::ZERO,
            unmerged: [BlockNo(3)].into(),
            crowded_out: false,
            replacing: BTreeSet::new(),
            looked_to: BlockNo(0),
            sessions: Vec::new(),
        };
        let piece = (3 * 4096 + 10, Bytes::from_static(b"piece"));
        assert_eq!(left_behind(&frozen), std::slice::from_ref(&piece));
        frozen.crowded_out = true;
        let block = |i: usize| bytes.slice(i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES);
        let all = [piece.clone(), (7 * 4096, block(0)), (8 * 4096, block(1))];
        assert_eq!(left_behind(&frozen), all);
        frozen.replacing.insert(BlockNo(7));
        assert_eq!(left_behind(&frozen), [piece, (8 * 4096, block(1))]);
    }
}
