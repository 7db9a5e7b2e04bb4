//! Before a checkpoint: which leaves take their pending changes in, and which pages move out
//! of sparse index segments (`sweep.rs`). Both change only where things are stored, never what
//! is mapped.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use model::geometry::Pool;

use super::overlay::Overlay;
use super::page::{Entry, LEAF_BLOCKS, LEAF_SEGMENTS, Node, NodeKey, SegmentEntry, Space};
use super::sweep::{Pace, Sweep};
use super::tree::{Found, Wants};
use super::{Index, Missing, Stop};
use crate::planted::{Bug, planted};

/// Pending entries from which on a leaf's page costs no more than its deltas do: merged at
/// once.
const DENSE_BLOCKS: usize = LEAF_BLOCKS / 4;
const DENSE_SEGMENTS: usize = LEAF_SEGMENTS / 4;

/// Leaves that one checkpoint merges at most.
const MERGE_LEAVES_MAX: usize = 4096;

/// What is left to do.
#[derive(Debug)]
pub(super) struct Preparation {
    merges: VecDeque<NodeKey>,
    sweep: Option<Sweep>,
}

impl Index {
    /// Makes ready for [`Index::checkpoint`]. A checkpoint without it is sound, but writes
    /// every pending change as deltas and moves nothing. Pages that lie in one of the pools
    /// `leave` are stored elsewhere by and by: see [`Index::lies_in`]. How much is moved out of
    /// sparse segments depends on the `pace`: see [`Index::is_untidy`].
    ///
    /// # Errors
    /// The pages that must be loaded before it is tried again.
    ///
    /// # Panics
    /// If a delta is being applied, or a checkpoint is planned.
    pub fn prepare_checkpoint(
        &mut self,
        leave: &BTreeSet<Pool>,
        pace: Pace,
    ) -> Result<(), Missing> {
        assert!(!self.planned, "one checkpoint at a time");
        assert!(
            self.applying.is_none(),
            "a checkpoint is an exact cut (R13)"
        );
        self.forest.cache.begin();
        if self.leave != *leave {
            self.leave.clone_from(leave);
            self.preparation = None;
        }
        let result = self.prepare(pace);
        self.end(result)
    }

    /// Whether stored pages that the index reaches lie in one of these pools.
    #[must_use]
    pub fn lies_in(&self, pools: &BTreeSet<Pool>) -> bool {
        let mut rows = self.forest.table.rows();
        !pools.is_empty() && rows.any(|(_, row)| pools.contains(&row.pool))
    }

    fn prepare(&mut self, pace: Pace) -> Result<(), Stop> {
        self.ensure_loaded()?;
        let preparation = match self.preparation.take() {
            Some(preparation) => preparation,
            None => Preparation {
                merges: self.choose_merges(),
                sweep: self.begin_sweep(pace),
            },
        };
        let preparation = self.preparation.insert(preparation);
        let mut merges = std::mem::take(&mut preparation.merges);
        let mut sweep = preparation.sweep.take();
        let result = self.merge_all(&mut merges).and_then(|()| match &mut sweep {
            Some(sweep) => self.sweep(sweep),
            None => Ok(()),
        });
        let done = result.is_ok();
        self.preparation = (!done).then_some(Preparation { merges, sweep });
        result
    }

    /// Dense leaves, and while too much is pending, those with the most changes.
    fn choose_merges(&self) -> VecDeque<NodeKey> {
        let blocks = self
            .blocks
            .leaves()
            .map(|(leaf, n)| (n, NodeKey::leaf(Space::Blocks, leaf)));
        let rows = self.segments.leaves();
        let rows = rows.map(|(leaf, n)| (n, NodeKey::leaf(Space::Segments, leaf)));
        let mut leaves: Vec<(usize, NodeKey)> = blocks.chain(rows).collect();
        leaves.sort_by_key(|(entries, key)| (Reverse(*entries), *key));
        let mut bytes = self.blocks.bytes() + self.segments.bytes();
        let target = if bytes > self.config.pending_bytes_max {
            self.config.pending_bytes_max / 4 * 3
        } else {
            usize::MAX
        };
        let mut merges = VecDeque::new();
        for (entries, key) in leaves {
            let dense = entries
                >= match key.space {
                    Space::Blocks => DENSE_BLOCKS,
                    Space::Segments => DENSE_SEGMENTS,
                };
            if merges.len() < MERGE_LEAVES_MAX && (dense || bytes > target) {
                merges.push_back(key);
                bytes -= Overlay::<Entry>::cost(1, entries);
            }
        }
        merges
    }

    fn merge_all(&mut self, merges: &mut VecDeque<NodeKey>) -> Result<(), Stop> {
        while let Some(key) = merges.front().copied() {
            let found = self.forest.find(key)?;
            if let Found::Wanted(_) = found {
                let mut wants = Wants::default();
                for key in merges.iter() {
                    if wants.is_full() {
                        break;
                    }
                    if let Found::Wanted(page) = self.forest.find(*key)? {
                        wants.push(page);
                    }
                }
                return Err(Stop::Missing(wants.into_pages()));
            }
            self.merge(key, found == Found::Resident);
            merges.pop_front();
        }
        Ok(())
    }

    /// Takes a leaf's pending changes into its page.
    fn merge(&mut self, key: NodeKey, exists: bool) {
        let merged = match key.space {
            Space::Blocks => {
                let mut leaf = match self.forest.cache.get(key) {
                    Some(Node::Blocks(leaf)) if !planted(Bug::ForgottenLeaf) => leaf.clone(),
                    _ => Box::new([Entry::Hole; LEAF_BLOCKS]),
                };
                self.blocks
                    .leaf(key.index)
                    .for_each(|(slot, e)| leaf[usize::from(slot)] = e);
                self.blocks.remove_leaf(key.index);
                let mapped = leaf.iter().any(|entry| *entry != Entry::Hole);
                mapped.then_some(Node::Blocks(leaf))
            }
            Space::Segments => {
                let mut leaf = match self.forest.cache.get(key) {
                    Some(Node::Segments(leaf)) => leaf.clone(),
                    _ => Box::new([None::<SegmentEntry>; LEAF_SEGMENTS]),
                };
                self.segments
                    .leaf(key.index)
                    .for_each(|(slot, e)| leaf[usize::from(slot)] = e);
                self.segments.remove_leaf(key.index);
                let mapped = leaf.iter().any(Option::is_some);
                mapped.then_some(Node::Segments(leaf))
            }
        };
        match merged {
            Some(node) => *self.forest.leaf_mut(key.space, key.index) = node,
            None if exists => self.forest.remove(key),
            None => {}
        }
    }
}
