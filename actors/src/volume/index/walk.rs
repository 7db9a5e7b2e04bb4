//! The walk of compaction: from block to block, over those that lie in segments which are to be
//! written anew. There is no map from segments to blocks: a walk of the leaves finds the blocks
//! of all such segments at once, in the volume's own order.

use std::collections::BTreeMap;

use model::ids::BlockNo;

use super::page::{Entry, LEAF_BLOCKS, NodeKey, PAGE_BYTES, Space, follows};
use super::tree::{Found, Wants};
use super::{Index, Missing, Stop};
use crate::messages::SegmentRef;

/// Leaves that one call looks at, at most.
const LEAVES_MAX: usize = 64;

/// A run of blocks that lie in one segment, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The first block.
    pub first: BlockNo,
    /// The segment.
    pub segment: SegmentRef,
    /// Where the first block lies in it, in bytes.
    pub offset: u32,
    /// The CRC-32C of each block (R19).
    pub sums: Vec<u32>,
}

/// What a part of a walk found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pieces {
    /// In the order of blocks.
    pub pieces: Vec<Piece>,
    /// Where to go on; nothing at the end.
    pub next: Option<BlockNo>,
}

impl Index {
    /// The blocks from `from` on that lie in the segments `of`, by counter: at most `max` of
    /// them, fewer if they are far apart. What is being applied may be missing from it.
    ///
    /// # Errors
    /// The pages that must be loaded first.
    pub fn pieces(
        &mut self,
        from: BlockNo,
        of: &BTreeMap<u32, SegmentRef>,
        max: usize,
    ) -> Result<Pieces, Missing> {
        assert!(max > 0, "a walk comes to an end");
        self.forest.cache.begin();
        let found = self.walk(from, of, max);
        self.end(found)
    }

    fn walk(
        &mut self,
        from: BlockNo,
        of: &BTreeMap<u32, SegmentRef>,
        max: usize,
    ) -> Result<Pieces, Stop> {
        self.ensure_loaded()?;
        let mut found = Pieces::default();
        let (mut at, mut left) = (from.0, max);
        for _ in 0..LEAVES_MAX {
            let Some(leaf) = self.next_leaf(at / LEAF_BLOCKS as u64)? else {
                return Ok(found);
            };
            let start = at.max(leaf * LEAF_BLOCKS as u64);
            let count = LEAF_BLOCKS - (start % LEAF_BLOCKS as u64) as usize;
            let mut wants = Wants::default();
            let entries = self.entries(start, count, &mut wants)?;
            if !wants.is_empty() {
                if at > from.0 {
                    break;
                }
                self.want_leaves(leaf, &mut wants)?;
                return Err(Stop::Missing(wants.into_pages()));
            }
            let end = take_pieces(&entries, start, of, &mut left, &mut found.pieces);
            let Some(end) = end else {
                return Ok(found);
            };
            at = end;
            if left == 0 {
                break;
            }
        }
        found.next = Some(BlockNo(at));
        Ok(found)
    }

    /// The first leaf of blocks from `leaf` on of which anything is known.
    fn next_leaf(&mut self, leaf: u64) -> Result<Option<u64>, Stop> {
        let stored = match self.forest.next(Space::Blocks, 0, leaf)? {
            Some(Err(page)) => return Err(Stop::Missing(vec![page])),
            Some(Ok(leaf)) => Some(leaf),
            None => None,
        };
        let pending = self.blocks.next_leaf(leaf);
        Ok([stored, pending].into_iter().flatten().min())
    }

    /// Asks for the leaves after this one too: a walk over a WAN waits once for many.
    fn want_leaves(&mut self, after: u64, wants: &mut Wants) -> Result<(), Stop> {
        let mut leaf = after + 1;
        while !wants.is_full() {
            match self.forest.next(Space::Blocks, 0, leaf)? {
                Some(Ok(next)) => {
                    let key = NodeKey::leaf(Space::Blocks, next);
                    if let Found::Wanted(page) = self.forest.find(key)? {
                        wants.push(page);
                    }
                    leaf = next + 1;
                }
                // An inner page lacks: enough for now.
                Some(Err(_)) | None => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Adds what lies in the segments; the block after the last one looked at, if numbers go on.
fn take_pieces(
    entries: &[Entry],
    start: u64,
    of: &BTreeMap<u32, SegmentRef>,
    left: &mut usize,
    pieces: &mut Vec<Piece>,
) -> Option<u64> {
    let mut i = 0;
    while i < entries.len() && *left > 0 {
        let Entry::Data(data) = entries[i] else {
            i += 1;
            continue;
        };
        let run = entries[i..].iter().enumerate().take(*left);
        let blocks = run
            .take_while(|(n, entry)| follows(entries[i], **entry, *n))
            .count();
        if let Some(segment) = of.get(&data.segment) {
            let sums = entries[i..i + blocks]
                .iter()
                .filter_map(|entry| match entry {
                    Entry::Data(at) => Some(at.sum),
                    Entry::Hole | Entry::Zero => None,
                });
            pieces.push(Piece {
                first: BlockNo(start + i as u64),
                segment: *segment,
                offset: u32::from(data.block) * PAGE_BYTES as u32,
                sums: sums.collect(),
            });
            *left -= blocks;
        }
        i += blocks;
    }
    start.checked_add(i as u64)
}
