//! Changes: a delta is applied leaf by leaf, as its pages arrive.

use std::collections::BTreeMap;

use model::ids::{BlockNo, SegmentId};

use super::lookup::{Row, segment_of};
use super::page::{BlockAt, Entry, LEAF_BLOCKS, Node, NodeKey, SegmentEntry, Space, in_blocks};
use super::table::stored_bytes;
use super::tree::{Found, Wants};
use super::{Corrupt, Index, Missing, Stop};
use crate::messages::SegmentRef;

/// Leaves that are looked at ahead for pages to load.
const AHEAD_LEAVES_MAX: usize = 256;

/// What blocks are to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewMapping {
    /// Nothing.
    Hole,
    /// Zeros that stay allocated.
    Zero,
    /// Data.
    Data {
        /// A segment that is new, or still live.
        segment: SegmentRef,
        /// Where the first block lies in it, in bytes.
        offset: u32,
        /// The CRC-32C of each block.
        sums: Vec<u32>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Change {
    first: u64,
    blocks: u64,
    to: NewMapping,
    /// Only blocks that still lie there: segment and block of the first (R13).
    from: Option<(u32, u16)>,
}

/// Changes that belong together: ranges that do not overlap, in any order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    changes: Vec<Change>,
    /// Segments that come with it, whether or not anything in them is mapped.
    brought: Vec<SegmentRef>,
}

impl Delta {
    /// Adds a range.
    ///
    /// # Panics
    /// If data's checksums are not one a block, or the data is not within its segment.
    pub fn push(&mut self, first: BlockNo, blocks: u64, to: NewMapping) {
        self.add(first, blocks, to, None);
    }

    /// Adds a range of blocks that were copied from `offset` of segment `from` by compaction:
    /// only those that still lie there change (R13).
    ///
    /// # Panics
    /// As [`Self::push`].
    pub fn push_moved(&mut self, first: BlockNo, from: SegmentId, offset: u32, to: NewMapping) {
        let NewMapping::Data { sums, .. } = &to else {
            panic!("only data moves")
        };
        let blocks = sums.len() as u64;
        self.add(first, blocks, to, Some((from.counter, in_blocks(offset))));
    }

    fn add(&mut self, first: BlockNo, blocks: u64, to: NewMapping, from: Option<(u32, u16)>) {
        assert!(first.0.checked_add(blocks).is_some(), "the range ends");
        if let NewMapping::Data {
            segment,
            offset,
            sums,
        } = &to
        {
            assert_eq!(sums.len() as u64, blocks, "a checksum a block");
            let end = u64::from(in_blocks(*offset)) + blocks;
            assert!(
                end <= u64::from(in_blocks(segment.bytes)),
                "data is within its segment"
            );
        }
        if blocks > 0 {
            self.changes.push(Change {
                first: first.0,
                blocks,
                to,
                from,
            });
        }
    }

    /// Adds a segment that exists already: what of it is not mapped by the delta is dropped.
    pub fn bring(&mut self, segment: SegmentRef) {
        self.brought.push(segment);
    }

    /// The segments that it brings, each once or more.
    pub fn segments(&self) -> impl Iterator<Item = SegmentId> + '_ {
        let mapped = self.changes.iter().filter_map(|change| match &change.to {
            NewMapping::Data { segment, .. } => Some(segment.id),
            NewMapping::Hole | NewMapping::Zero => None,
        });
        mapped.chain(self.brought.iter().map(|segment| segment.id))
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.brought.is_empty()
    }
}

impl Change {
    fn end(&self) -> u64 {
        self.first + self.blocks
    }

    /// What block `at` holds after this change, if it held `old` before.
    fn entry(&self, at: u64, old: Entry) -> Entry {
        let i = at - self.first;
        if let Some((segment, block)) = self.from {
            let there = matches!(old, Entry::Data(old)
                if old.segment == segment && u64::from(old.block) == u64::from(block) + i);
            if !there {
                return old;
            }
        }
        match &self.to {
            NewMapping::Hole => Entry::Hole,
            NewMapping::Zero => Entry::Zero,
            NewMapping::Data {
                segment,
                offset,
                sums,
            } => Entry::Data(BlockAt {
                segment: segment.id.counter,
                block: (u64::from(in_blocks(*offset)) + i) as u16,
                sum: sums[i as usize],
            }),
        }
    }
}

/// A delta that is being applied.
#[derive(Debug)]
pub(super) struct Applying {
    delta: Delta,
    /// By first block.
    changes: Vec<Change>,
    segments: BTreeMap<u32, SegmentRef>,
    /// Whether the rows of `segments` exist.
    introduced: bool,
    at: Cursor,
}

#[derive(Clone, Copy, Debug)]
struct Cursor {
    change: usize,
    block: u64,
}

/// Blocks of one change in one leaf.
#[derive(Clone, Copy, Debug)]
struct Piece {
    change: usize,
    leaf: u64,
    first: u64,
    blocks: usize,
}

impl Applying {
    fn new(delta: &Delta) -> Self {
        let mut changes = delta.changes.clone();
        changes.sort_by_key(|change| change.first);
        let apart = changes
            .windows(2)
            .all(|pair| pair[0].end() <= pair[1].first);
        assert!(apart, "the ranges of a delta do not overlap");
        let mut segments = BTreeMap::new();
        let mapped = changes.iter().filter_map(|change| match &change.to {
            NewMapping::Data { segment, .. } => Some(*segment),
            NewMapping::Hole | NewMapping::Zero => None,
        });
        for segment in mapped.chain(delta.brought.iter().copied()) {
            let known = *segments.entry(segment.id.counter).or_insert(segment);
            assert_eq!(known, segment, "a counter names one segment");
        }
        let block = changes.first().map_or(0, |change| change.first);
        let at = Cursor { change: 0, block };
        Self {
            delta: delta.clone(),
            changes,
            segments,
            introduced: false,
            at,
        }
    }

    /// A segment that the delta maps.
    pub(super) fn segment(&self, counter: u32) -> Option<SegmentRef> {
        self.segments.get(&counter).copied()
    }

    /// What entries from `first` on are once all is applied; what is applied already stays.
    pub(super) fn lay_over(&self, first: u64, entries: &mut [Entry]) {
        let end = first + entries.len() as u64;
        let from = self.changes.partition_point(|change| change.end() <= first);
        for change in &self.changes[from..] {
            if change.first >= end {
                return;
            }
            for at in change.first.max(first)..change.end().min(end) {
                let entry = &mut entries[(at - first) as usize];
                *entry = change.entry(at, *entry);
            }
        }
    }

    fn advance(&self, at: &mut Cursor, to: u64) {
        if to < self.changes[at.change].end() {
            at.block = to;
            return;
        }
        at.change += 1;
        at.block = self.changes.get(at.change).map_or(0, |change| change.first);
    }

    fn piece(&self, at: Cursor) -> Piece {
        let change = &self.changes[at.change];
        let leaf = at.block / LEAF_BLOCKS as u64;
        // The last leaf ends where the numbers do.
        let leaf_end = leaf
            .checked_add(1)
            .and_then(|l| l.checked_mul(LEAF_BLOCKS as u64));
        let end = leaf_end.map_or(change.end(), |leaf_end| change.end().min(leaf_end));
        let blocks = (end - at.block) as usize;
        Piece {
            change: at.change,
            leaf,
            first: at.block,
            blocks,
        }
    }
}

impl Index {
    /// Applies a delta, in order with others (R13). Lookups see all of it from the first
    /// attempt on, whatever that answers.
    ///
    /// # Errors
    /// The pages that must be loaded before it is tried again, with the same delta.
    ///
    /// # Panics
    /// If another delta was begun and is not done, or a checkpoint is planned and neither
    /// committed nor aborted.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), Missing> {
        assert!(!self.planned, "a planned checkpoint is an exact cut (R13)");
        self.forest.cache.begin();
        match &self.applying {
            None => self.applying = Some(Applying::new(delta)),
            Some(applying) => assert_eq!(applying.delta, *delta, "one delta after the other"),
        }
        let mut applying = self.applying.take().expect("just made");
        let result = self.proceed(&mut applying);
        if result.is_err() {
            self.applying = Some(applying);
        }
        self.end(result)
    }

    fn proceed(&mut self, applying: &mut Applying) -> Result<(), Stop> {
        self.ensure_loaded()?;
        if !applying.introduced {
            self.introduce(applying)?;
        }
        while let Some(piece) = self.next_piece(applying)? {
            let mut wants = Wants::default();
            if !self.change(applying, piece, &mut wants)? {
                self.look_ahead(applying, &mut wants)?;
                return Err(Stop::Missing(wants.into_pages()));
            }
            let mut at = applying.at;
            applying.advance(&mut at, piece.first + piece.blocks as u64);
            applying.at = at;
        }
        // What the delta brought and nothing of it is mapped, is dropped at once.
        let mut wants = Wants::default();
        let mut unused = Vec::new();
        for counter in applying.segments.keys() {
            match self.row(*counter, &mut wants)? {
                Row::Known(row) if row.live == 0 => unused.push((*counter, row)),
                Row::Known(_) | Row::Absent | Row::Wanted => {}
            }
        }
        if !wants.is_empty() {
            return Err(Stop::Missing(wants.into_pages()));
        }
        for (counter, row) in unused {
            self.drop_segment(counter, &row);
        }
        Ok(())
    }

    /// Makes the rows of the delta's new segments.
    fn introduce(&mut self, applying: &mut Applying) -> Result<(), Stop> {
        let mut wants = Wants::default();
        let mut new = Vec::new();
        for (counter, segment) in &applying.segments {
            match self.row(*counter, &mut wants)? {
                Row::Known(row) if row.segment(*counter) == *segment => {}
                Row::Known(_) => return Err(Corrupt::WrongRow(*counter).into()),
                Row::Absent => new.push(*segment),
                Row::Wanted => {}
            }
        }
        if !wants.is_empty() {
            return Err(Stop::Missing(wants.into_pages()));
        }
        for segment in new {
            let row = SegmentEntry::new(&segment);
            self.counts.data_segments += 1;
            self.counts.data_stored += stored_bytes(row.pool, row.blocks);
            self.segments.put(u64::from(segment.id.counter), Some(row));
        }
        applying.introduced = true;
        Ok(())
    }

    /// Where something is to be done next. Unmapping skips what is not mapped.
    fn next_piece(&mut self, applying: &mut Applying) -> Result<Option<Piece>, Stop> {
        while let Some(change) = applying.changes.get(applying.at.change) {
            if change.to != NewMapping::Hole {
                return Ok(Some(applying.piece(applying.at)));
            }
            let leaf = applying.at.block / LEAF_BLOCKS as u64;
            let stored = match self.forest.next(Space::Blocks, 0, leaf)? {
                Some(Err(page)) => return Err(Stop::Missing(vec![page])),
                Some(Ok(leaf)) => Some(leaf),
                None => None,
            };
            let next = [stored, self.blocks.next_leaf(leaf)]
                .into_iter()
                .flatten()
                .min();
            let first = next.map_or(u64::MAX, |next| next * LEAF_BLOCKS as u64);
            let mut at = applying.at;
            if first < change.end() {
                at.block = at.block.max(first);
                applying.at = at;
                return Ok(Some(applying.piece(at)));
            }
            applying.advance(&mut at, u64::MAX);
            applying.at = at;
        }
        Ok(None)
    }

    /// Asks for the pages that the next pieces need as well.
    fn look_ahead(&mut self, applying: &Applying, wants: &mut Wants) -> Result<(), Stop> {
        let mut at = applying.at;
        for _ in 0..AHEAD_LEAVES_MAX {
            let Some(change) = applying.changes.get(at.change) else {
                return Ok(());
            };
            if wants.is_full() {
                return Ok(());
            }
            if change.to == NewMapping::Hole {
                let leaf = at.block / LEAF_BLOCKS as u64;
                match self.forest.next(Space::Blocks, 0, leaf)? {
                    Some(Ok(leaf)) if leaf < change.end().div_ceil(LEAF_BLOCKS as u64) => {
                        at.block = at.block.max(leaf * LEAF_BLOCKS as u64);
                    }
                    Some(Err(page)) => {
                        wants.push(page);
                        return Ok(());
                    }
                    Some(Ok(_)) | None => {
                        applying.advance(&mut at, u64::MAX);
                        continue;
                    }
                }
            }
            let piece = applying.piece(at);
            let key = NodeKey::leaf(Space::Blocks, piece.leaf);
            if let Found::Wanted(page) = self.forest.find(key)? {
                wants.push(page);
            }
            applying.advance(&mut at, piece.first + piece.blocks as u64);
        }
        Ok(())
    }

    /// Changes the blocks of a piece, all or none: false if pages are wanted.
    fn change(
        &mut self,
        applying: &Applying,
        piece: Piece,
        wants: &mut Wants,
    ) -> Result<bool, Corrupt> {
        let change = &applying.changes[piece.change];
        let whole = piece.blocks == LEAF_BLOCKS && change.from.is_none();
        if whole {
            let key = NodeKey::leaf(Space::Blocks, piece.leaf);
            if let Found::Wanted(page) = self.forest.find(key)? {
                wants.push(page);
            }
        }
        let old = self.entries(piece.first, piece.blocks, wants)?;
        if !wants.is_empty() {
            return Ok(false);
        }
        let blocks = piece.first..;
        let new: Vec<Entry> = blocks
            .zip(&old)
            .map(|(at, old)| change.entry(at, *old))
            .collect();
        let Some(rows) = self.recount(applying, &old, &new, wants)? else {
            return Ok(false);
        };
        for (counter, row) in rows {
            if row.live == 0 && applying.segment(counter).is_none() {
                self.drop_segment(counter, &row);
            } else {
                self.segments.put(u64::from(counter), Some(row));
            }
        }
        let data = |entries: &[Entry]| entries.iter().filter_map(segment_of).count() as u64;
        self.counts.mapped_blocks += data(&new);
        self.counts.mapped_blocks = self.counts.mapped_blocks.saturating_sub(data(&old));
        if whole {
            self.replace_leaf(piece.leaf, &new)?;
        } else {
            for (at, (old, new)) in (piece.first..).zip(old.iter().zip(&new)) {
                if old != new {
                    self.blocks.put(at, *new);
                }
            }
        }
        Ok(true)
    }

    /// The rows of the segments that blocks leave or enter; `None` if pages are wanted.
    fn recount(
        &mut self,
        applying: &Applying,
        old: &[Entry],
        new: &[Entry],
        wants: &mut Wants,
    ) -> Result<Option<BTreeMap<u32, SegmentEntry>>, Corrupt> {
        let mut moved: BTreeMap<u32, i64> = BTreeMap::new();
        for (old, new) in old.iter().zip(new).filter(|(old, new)| old != new) {
            if let Some(counter) = segment_of(old) {
                *moved.entry(counter).or_insert(0) -= 1;
            }
            if let Some(counter) = segment_of(new) {
                *moved.entry(counter).or_insert(0) += 1;
            }
        }
        let mut rows = BTreeMap::new();
        for (counter, by) in moved {
            match self.row(counter, wants)? {
                Row::Known(mut row) => {
                    let live = i64::from(row.live) + by;
                    row.live = u32::try_from(live).map_err(|_| Corrupt::WrongRow(counter))?;
                    rows.insert(counter, row);
                }
                Row::Absent => {
                    assert!(
                        applying.segment(counter).is_none(),
                        "new segments have rows"
                    );
                    return Err(Corrupt::UnknownSegment(counter));
                }
                Row::Wanted => {}
            }
        }
        Ok(wants.is_empty().then_some(rows))
    }

    /// Nothing of a data segment is mapped any more.
    fn drop_segment(&mut self, counter: u32, row: &SegmentEntry) {
        let counts = &mut self.counts;
        counts.data_segments = counts.data_segments.saturating_sub(1);
        let stored = stored_bytes(row.pool, row.blocks);
        counts.data_stored = counts.data_stored.saturating_sub(stored);
        self.segments.put(u64::from(counter), None);
        self.dropped.push(row.segment(counter));
    }

    /// All blocks of a leaf, which was found, change: past the overlay.
    fn replace_leaf(&mut self, leaf: u64, new: &[Entry]) -> Result<(), Corrupt> {
        let key = NodeKey::leaf(Space::Blocks, leaf);
        let found = self.forest.find(key)?;
        self.blocks.remove_leaf(leaf);
        if new.iter().all(|entry| *entry == Entry::Hole) {
            if found == Found::Resident {
                self.forest.remove(key);
            }
            return Ok(());
        }
        match self.forest.leaf_mut(Space::Blocks, leaf) {
            Node::Blocks(entries) => entries.copy_from_slice(new),
            Node::Inner(_) | Node::Segments(_) => unreachable!("a leaf of blocks"),
        }
        Ok(())
    }
}
