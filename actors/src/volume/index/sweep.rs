//! Dead pages: live ones move out of sparse index segments, so that those go.
//!
//! | clients | swept once so many pages are dead | victims | pages that a checkpoint moves |
//! | --- | --- | --- | --- |
//! | rest | a quarter of the live ones | at most three quarters live | 1024 |
//! | write | a quarter | the same | 256 of those in memory |
//! | write | as many | at most half live | 1024 |
//!
//! and 64 more, so that small indexes are left alone. What is swept costs three pages written
//! for one that it frees, at most, and about one while random writes fill a volume. While
//! clients write it reads nothing and adds at most a MiB to the 16 MiB that a checkpoint drains;
//! only if half of all is dead it may cost what it costs. The rest is done once they rest.

use std::collections::BTreeSet;

use model::sometimes::{Sometimes, reached};

use super::page::{NodeKey, Space};
use super::table::IndexSegments;
use super::tree::{Found, Wants};
use super::{Index, Stop};

/// Dead pages that are nothing to a small index.
const DEAD_PAGES_MIN: u64 = 64;

/// Inner pages that one checkpoint looks through, and pages that it moves, at most.
const INNER_MAX: usize = 256;
const PAGES_MAX: usize = 1024;

/// Pages in memory that one checkpoint moves beside what clients write.
const MEMORY_PAGES_MAX: usize = 256;

/// Whether a checkpoint is made beside clients' writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Clients write: what only saves space may cost little.
    Busy,
    /// Nothing was written for a while.
    Resting,
}

/// Moves pages out of sparse segments.
#[derive(Debug)]
pub(super) struct Sweep {
    victims: BTreeSet<u32>,
    /// Whether pages are loaded for it.
    loads: bool,
    pace: Pace,
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

/// Which segments are sparse: those with at most so many quarters of their pages live.
fn sparse(table: &IndexSegments, quarters: u32) -> BTreeSet<u32> {
    let rows = table.rows();
    let sparse = rows.filter(|(_, r)| u32::from(r.live) * 4 <= u32::from(r.blocks) * quarters);
    sparse.map(|(counter, _)| counter).collect()
}

impl Index {
    /// Whether a checkpoint at [`Pace::Resting`] would give pages back to the disks. Each moves a
    /// bounded number of pages: another one may follow, until it is tidy.
    #[must_use]
    pub fn is_untidy(&self) -> bool {
        !self.swept_in_vain && !self.sparse_segments(Pace::Resting).0.is_empty()
    }

    /// The segments to be swept for their space, and whether pages may be loaded for it.
    fn sparse_segments(&self, pace: Pace) -> (BTreeSet<u32>, bool) {
        let table = &self.forest.table;
        let (pages, live) = table.pages();
        let dead = pages.saturating_sub(live);
        let is_untidy = dead > live / 4 + DEAD_PAGES_MIN;
        let is_pressing = dead > live + DEAD_PAGES_MIN;
        match pace {
            _ if !is_untidy => (BTreeSet::new(), false),
            Pace::Busy if is_pressing => (sparse(table, 2), true),
            Pace::Busy => (sparse(table, 3), false),
            Pace::Resting => (sparse(table, 3), true),
        }
    }

    /// A sweep of sparse segments, and of those in pools that are to be left.
    pub(super) fn begin_sweep(&mut self, pace: Pace) -> Option<Sweep> {
        let (mut victims, mut loads) = self.sparse_segments(pace);
        self.emptied = match pace {
            Pace::Busy => BTreeSet::new(),
            Pace::Resting => victims.clone(),
        };
        self.swept_in_vain = !self.emptied.is_empty();
        let rows = self.forest.table.rows();
        let left = rows.filter(|(_, row)| self.leave.contains(&row.pool));
        for (counter, _) in left {
            victims.insert(counter);
            loads = true;
        }
        let (inner_left, pages_left) = match loads {
            true => (INNER_MAX, PAGES_MAX),
            false => (0, MEMORY_PAGES_MAX),
        };
        (!victims.is_empty()).then_some(Sweep {
            victims,
            loads,
            pace,
            inner_left,
            pages_left,
            wrapped: 0,
        })
    }

    pub(super) fn sweep(&mut self, sweep: &mut Sweep) -> Result<(), Stop> {
        if !sweep.loads {
            return self.sweep_memory(sweep);
        }
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

    /// What is in memory moves, out of the sparsest segments first.
    fn sweep_memory(&mut self, sweep: &mut Sweep) -> Result<(), Stop> {
        let table = &self.forest.table;
        let clean = self.forest.cache.clean();
        let stale = clean.filter(|(_, at)| sweep.victims.contains(&at.segment));
        let mut pages: Vec<(u64, NodeKey)> = stale
            .map(|(key, at)| (table.live_share(at.segment), key))
            .collect();
        pages.sort_unstable();
        for (_, key) in pages {
            if sweep.pages_left == 0 {
                break;
            }
            if self.forest.find(key)? == Found::Resident {
                reached(Sometimes::IndexSwept);
                self.forest.make_dirty(key);
                sweep.pages_left -= 1;
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
        self.swept_in_vain &= moves.is_empty();
        if !moves.is_empty() && sweep.pace == Pace::Resting {
            reached(Sometimes::IndexTidied);
        }
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
