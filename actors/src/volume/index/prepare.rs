//! Before a checkpoint: which leaves take their pending changes in, and which pages move out
//! of sparse index segments. Both change only where things are stored, never what is mapped.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use model::geometry::Pool;

use super::overlay::Overlay;
use super::page::{Entry, LEAF_BLOCKS, LEAF_SEGMENTS, Node, NodeKey, SegmentEntry, Space};
use super::tree::{Found, Wants};
use super::{Index, Missing, Stop};
use crate::planted::{Bug, planted};

/// Pending entries from which on a leaf's page costs no more than its deltas do: merged at
/// once.
const DENSE_BLOCKS: usize = LEAF_BLOCKS / 4;
const DENSE_SEGMENTS: usize = LEAF_SEGMENTS / 4;

/// Leaves that one checkpoint merges at most.
const MERGE_LEAVES_MAX: usize = 4096;

/// Pages beyond twice the live ones that index segments may hold before they are compacted.
const SPARSE_PAGES_MIN: u64 = 64;

/// Inner pages that one checkpoint looks through, and pages that it moves, at most.
const SWEEP_INNER_MAX: usize = 256;
const SWEEP_PAGES_MAX: usize = 1024;

/// What is left to do.
#[derive(Debug)]
pub(super) struct Preparation {
    merges: VecDeque<NodeKey>,
    sweep: Option<Sweep>,
}

/// Moves pages out of sparse segments.
#[derive(Debug)]
struct Sweep {
    victims: BTreeSet<u32>,
    inner_left: usize,
    pages_left: usize,
    /// Trees that were begun at their start.
    wrapped: u8,
}

/// Where the next sweep goes on: the inner page one level above the leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct SweepAt {
    space: Space,
    index: u64,
}

impl SweepAt {
    pub(super) const START: Self = Self {
        space: Space::Blocks,
        index: 0,
    };
}

impl Index {
    /// Makes ready for [`Index::checkpoint`]. A checkpoint without it is sound, but writes
    /// every pending change as deltas and moves nothing. Pages that lie in one of the pools
    /// `leave` are stored elsewhere by and by: see [`Index::lies_in`].
    ///
    /// # Errors
    /// The pages that must be loaded before it is tried again.
    ///
    /// # Panics
    /// If a delta is being applied, or a checkpoint is planned.
    pub fn prepare_checkpoint(&mut self, leave: &BTreeSet<Pool>) -> Result<(), Missing> {
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
        let result = self.prepare();
        self.end(result)
    }

    /// Whether stored pages that the index reaches lie in one of these pools.
    #[must_use]
    pub fn lies_in(&self, pools: &BTreeSet<Pool>) -> bool {
        let mut rows = self.forest.table.rows();
        !pools.is_empty() && rows.any(|(_, row)| pools.contains(&row.pool))
    }

    fn prepare(&mut self) -> Result<(), Stop> {
        self.ensure_loaded()?;
        let preparation = match self.preparation.take() {
            Some(preparation) => preparation,
            None => Preparation {
                merges: self.choose_merges(),
                sweep: self.choose_victims(),
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

    /// Segments less than half live, if index segments take more than twice what is live; and
    /// those of pools that are to be left.
    fn choose_victims(&self) -> Option<Sweep> {
        let (pages, live) = self.forest.table.pages();
        let is_sparse = pages > 2 * live + SPARSE_PAGES_MIN;
        let victims: BTreeSet<u32> = self
            .forest
            .table
            .rows()
            .filter(|(_, row)| {
                let sparse = is_sparse && u32::from(row.live) * 2 <= u32::from(row.blocks);
                sparse || self.leave.contains(&row.pool)
            })
            .map(|(counter, _)| counter)
            .collect();
        if victims.is_empty() {
            return None;
        }
        let (inner_left, pages_left) = (SWEEP_INNER_MAX, SWEEP_PAGES_MAX);
        Some(Sweep {
            victims,
            inner_left,
            pages_left,
            wrapped: 0,
        })
    }

    fn sweep(&mut self, sweep: &mut Sweep) -> Result<(), Stop> {
        // Twice round at most: from the middle of one tree, the other, and the first's rest.
        while sweep.inner_left > 0 && sweep.pages_left > 0 && sweep.wrapped < 3 {
            let SweepAt { space, index } = self.sweep_at;
            if index == 0 {
                self.sweep_path(sweep, space)?;
            }
            match self.forest.next(space, 1, index)? {
                Some(Err(page)) => return Err(Stop::Missing(vec![page])),
                Some(Ok(index)) => {
                    let key = NodeKey {
                        space,
                        level: 1,
                        index,
                    };
                    self.sweep_inner(sweep, key)?;
                    sweep.inner_left -= 1;
                    self.sweep_at.index = index + 1;
                }
                None => {
                    sweep.wrapped += 1;
                    let space = match space {
                        Space::Blocks => Space::Segments,
                        Space::Segments => Space::Blocks,
                    };
                    self.sweep_at = SweepAt { space, index: 0 };
                }
            }
        }
        Ok(())
    }

    /// The root moves, if it lies in a victim: the only page of a tree of height 1.
    fn sweep_path(&mut self, sweep: &mut Sweep, space: Space) -> Result<(), Stop> {
        let height = self.forest.tree(space).height;
        if height == 0 {
            return Ok(());
        }
        let root = NodeKey {
            space,
            level: height - 1,
            index: 0,
        };
        self.sweep_pages(sweep, &[root])
    }

    /// Pages above and below an inner page, and itself.
    fn sweep_inner(&mut self, sweep: &mut Sweep, key: NodeKey) -> Result<(), Stop> {
        let height = self.forest.tree(key.space).height;
        let mut pages: Vec<NodeKey> = (key.level..height).map(|level| key.at(level)).collect();
        pages.extend(self.forest.children_in(key, &sweep.victims));
        self.sweep_pages(sweep, &pages)
    }

    /// Makes those dirty that lie in a victim, so that the checkpoint stores them elsewhere.
    fn sweep_pages(&mut self, sweep: &mut Sweep, pages: &[NodeKey]) -> Result<(), Stop> {
        let mut wants = Wants::default();
        let mut moves = Vec::new();
        for key in pages {
            match self.forest.find(*key)? {
                Found::Wanted(page) => wants.push(page),
                Found::Absent => {}
                Found::Resident => {
                    let at = self.forest.cache.stored_at(*key);
                    let stale = at.is_some_and(|at| sweep.victims.contains(&at.segment));
                    if stale && !self.forest.cache.is_dirty(*key) {
                        moves.push(*key);
                    }
                }
            }
        }
        sweep.pages_left = sweep.pages_left.saturating_sub(moves.len());
        moves
            .into_iter()
            .for_each(|key| self.forest.make_dirty(key));
        if wants.is_empty() {
            Ok(())
        } else {
            Err(Stop::Missing(wants.into_pages()))
        }
    }
}
