//! Lookups: the trees, the overlay over them, and the delta that is being applied over both.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{BlockNo, SegmentId};

use super::page::PAGE_BYTES;
use super::page::{Entry, LEAF_BLOCKS, LEAF_SEGMENTS, Node, NodeKey, SegmentEntry, Space, follows};
use super::tree::{Found, Wants};
use super::{Corrupt, Index, Missing, Stop};
use crate::messages::SegmentRef;

/// What a run of blocks holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// Nothing: reads as zeros.
    Hole,
    /// Allocated, reads as zeros.
    Zero,
    /// Data.
    Data {
        /// The segment.
        segment: SegmentRef,
        /// Where the first block lies in it, in bytes.
        offset: u32,
        /// The CRC-32C of each block (R19).
        sums: Vec<u32>,
    },
}

/// A run of blocks that hold the same kind of thing, and of data in one segment, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappedRun {
    /// How many, at least 1.
    pub blocks: u32,
    /// What they hold.
    pub mapping: Mapping,
}

/// A part of the table of data segments.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SegmentRows {
    /// Segments and their live blocks, by counter.
    pub rows: Vec<(SegmentRef, u32)>,
    /// The counter to go on from; nothing at the end.
    pub next: Option<u32>,
}

/// The row of a data segment, or nothing, or the page to load first.
pub(super) enum Row {
    Known(SegmentEntry),
    Absent,
    Wanted,
}

impl Index {
    /// What `count` blocks from `first` on hold: runs that cover them without a gap. Its memory
    /// is bounded by `count`: callers bound that.
    ///
    /// # Errors
    /// The pages that must be loaded first, as many as are known.
    pub fn lookup(&mut self, first: BlockNo, count: u32) -> Result<Vec<MappedRun>, Missing> {
        self.forest.cache.begin();
        let found = self.runs(first, count);
        self.end(found)
    }

    fn runs(&mut self, first: BlockNo, count: u32) -> Result<Vec<MappedRun>, Stop> {
        self.ensure_loaded()?;
        let mut wants = Wants::default();
        let mut entries = self.entries(first.0, count as usize, &mut wants)?;
        if let Some(applying) = &self.applying {
            applying.lay_over(first.0, &mut entries);
        }
        let segments = self.resolve(&entries, &mut wants)?;
        if !wants.is_empty() {
            return Err(Stop::Missing(wants.into_pages()));
        }
        let mut runs = Vec::new();
        let mut at = 0;
        while at < entries.len() {
            let run = entries[at..].iter().enumerate();
            let blocks = run
                .take_while(|(i, e)| follows(entries[at], **e, *i))
                .count();
            let mapping = match entries[at] {
                Entry::Hole => Mapping::Hole,
                Entry::Zero => Mapping::Zero,
                Entry::Data(data) => {
                    let segment = segments[&data.segment];
                    let offset = u32::from(data.block) * PAGE_BYTES as u32;
                    if offset + blocks as u32 * PAGE_BYTES as u32 > segment.bytes {
                        return Err(Corrupt::WrongRow(data.segment).into());
                    }
                    let sums = entries[at..at + blocks].iter().map(sum_of).collect();
                    Mapping::Data {
                        segment,
                        offset,
                        sums,
                    }
                }
            };
            runs.push(MappedRun {
                blocks: blocks as u32,
                mapping,
            });
            at += blocks;
        }
        Ok(runs)
    }

    /// What the index holds for the blocks, without the delta that is being applied. Where
    /// pages are wanted, holes stand in.
    pub(super) fn entries(
        &mut self,
        first: u64,
        count: usize,
        wants: &mut Wants,
    ) -> Result<Vec<Entry>, Corrupt> {
        let mut entries = Vec::with_capacity(count);
        while entries.len() < count {
            let at = first + entries.len() as u64;
            let leaf = at / LEAF_BLOCKS as u64;
            let low = (at % LEAF_BLOCKS as u64) as usize;
            let here = (LEAF_BLOCKS - low).min(count - entries.len());
            let from = entries.len();
            entries.resize(from + here, Entry::Hole);
            let here = &mut entries[from..];
            let pending = self
                .blocks
                .leaf(leaf)
                .map(|(slot, entry)| (usize::from(slot), entry));
            let pending: Vec<_> = pending
                .filter(|(slot, _)| (low..low + here.len()).contains(slot))
                .collect();
            if pending.len() < here.len() {
                let key = NodeKey::leaf(Space::Blocks, leaf);
                match self.forest.find(key)? {
                    Found::Resident => match self.forest.cache.get(key) {
                        Some(Node::Blocks(stored)) => {
                            here.copy_from_slice(&stored[low..low + here.len()]);
                        }
                        Some(_) | None => unreachable!("a leaf of blocks is in memory"),
                    },
                    Found::Absent => {}
                    Found::Wanted(page) => wants.push(page),
                }
            }
            for (slot, entry) in pending {
                here[slot - low] = entry;
            }
        }
        Ok(entries)
    }

    /// The segments that the entries name.
    fn resolve(
        &mut self,
        entries: &[Entry],
        wants: &mut Wants,
    ) -> Result<BTreeMap<u32, SegmentRef>, Corrupt> {
        let counters: BTreeSet<u32> = entries.iter().filter_map(segment_of).collect();
        let mut segments = BTreeMap::new();
        for counter in counters {
            let introduced = self.applying.as_ref().and_then(|a| a.segment(counter));
            if let Some(segment) = introduced {
                segments.insert(counter, segment);
                continue;
            }
            match self.row(counter, wants)? {
                Row::Known(entry) => {
                    segments.insert(counter, entry.segment(counter));
                }
                Row::Absent => return Err(Corrupt::UnknownSegment(counter)),
                Row::Wanted => {}
            }
        }
        Ok(segments)
    }

    /// A data segment's row.
    pub(super) fn row(&mut self, counter: u32, wants: &mut Wants) -> Result<Row, Corrupt> {
        let key = u64::from(counter);
        let known = match self.segments.get(key) {
            Some(pending) => pending,
            None => {
                let leaf = NodeKey::leaf(Space::Segments, key / LEAF_SEGMENTS as u64);
                match self.forest.find(leaf)? {
                    Found::Wanted(page) => {
                        wants.push(page);
                        return Ok(Row::Wanted);
                    }
                    Found::Absent => None,
                    Found::Resident => match self.forest.cache.get(leaf) {
                        Some(Node::Segments(rows)) => rows[(key % LEAF_SEGMENTS as u64) as usize],
                        Some(_) | None => unreachable!("a leaf of segments is in memory"),
                    },
                }
            }
        };
        Ok(known.map_or(Row::Absent, Row::Known))
    }

    /// Whether the index reaches a segment, of data or of its own pages: what the audit goes
    /// by (R16). A counter may come twice, under two epochs of which one left no checkpoint.
    ///
    /// # Errors
    /// The pages that must be loaded first.
    pub fn reaches(&mut self, segment: SegmentId) -> Result<bool, Missing> {
        self.forest.cache.begin();
        let found = self.has_segment(segment);
        self.end(found)
    }

    fn has_segment(&mut self, segment: SegmentId) -> Result<bool, Stop> {
        // Until then the table of index segments is empty: absence would say nothing.
        self.ensure_loaded()?;
        if self.forest.table.contains(segment) {
            return Ok(true);
        }
        let mut wants = Wants::default();
        match self.row(segment.counter, &mut wants)? {
            Row::Known(entry) => Ok(entry.segment(segment.counter).id == segment),
            Row::Absent => Ok(false),
            Row::Wanted => Err(Stop::Missing(wants.into_pages())),
        }
    }

    /// Data segments with their live blocks, by counter from `from` on: at most `max`, and
    /// where to go on. What compaction goes by.
    ///
    /// # Errors
    /// The pages that must be loaded first.
    pub fn data_segments(&mut self, from: u32, max: usize) -> Result<SegmentRows, Missing> {
        self.forest.cache.begin();
        let found = self.rows_from(from, max);
        self.end(found)
    }

    fn rows_from(&mut self, from: u32, max: usize) -> Result<SegmentRows, Stop> {
        self.ensure_loaded()?;
        let mut rows = Vec::new();
        let mut at = u64::from(from);
        loop {
            let leaf = at / LEAF_SEGMENTS as u64;
            let stored = match self.forest.next(Space::Segments, 0, leaf)? {
                None => None,
                Some(Ok(leaf)) => Some(leaf),
                Some(Err(page)) => return Err(Stop::Missing(vec![page])),
            };
            let next = [stored, self.segments.next_leaf(leaf)]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next else {
                return Ok(SegmentRows { rows, next: None });
            };
            let first = next * LEAF_SEGMENTS as u64;
            for key in first.max(at)..first + LEAF_SEGMENTS as u64 {
                let Ok(counter) = u32::try_from(key) else {
                    return Ok(SegmentRows { rows, next: None });
                };
                if rows.len() == max {
                    return Ok(SegmentRows {
                        rows,
                        next: Some(counter),
                    });
                }
                let mut wants = Wants::default();
                match self.row(counter, &mut wants)? {
                    Row::Known(entry) => rows.push((entry.segment(counter), entry.live)),
                    Row::Absent => {}
                    Row::Wanted => return Err(Stop::Missing(wants.into_pages())),
                }
            }
            at = first + LEAF_SEGMENTS as u64;
        }
    }
}

fn sum_of(entry: &Entry) -> u32 {
    match entry {
        Entry::Data(at) => at.sum,
        Entry::Hole | Entry::Zero => unreachable!("a run is of one kind"),
    }
}

/// The segment that an entry names.
pub(super) fn segment_of(entry: &Entry) -> Option<u32> {
    match entry {
        Entry::Data(at) => Some(at.segment),
        Entry::Hole | Entry::Zero => None,
    }
}
