//! Moves of slots from disk to disk (R20): each is a state of its own, begun by one entry and
//! ended by another one.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use model::geometry::Pool;
use model::ids::{DiskRef, Row, Slot, Version};
use model::planted::{Bug, planted};
use model::sometimes::{Sometimes, reached};
use model::spread::SlotMove;

use super::SiteState;
use crate::loads::Loads;
use crate::rendezvous::RowUse;

/// A slot of this site: which disk holds it, and what is being done about that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SlotAt {
    /// The disk that holds it.
    pub disk: DiskRef,
    /// The disk that it is being moved to.
    pub to: Option<DiskRef>,
    /// Raised by each beginning of a move.
    pub version: Version,
}

impl SlotAt {
    /// A slot that was never moved.
    #[must_use]
    pub fn new(disk: DiskRef) -> Self {
        Self {
            disk,
            to: None,
            version: Version(0),
        }
    }

    /// A slot of a site that was founded anew (R11): what its lost disk held is to be rebuilt.
    #[must_use]
    pub fn lost(to: DiskRef, version: Version) -> Self {
        Self {
            disk: DiskRef::NONE,
            to: Some(to),
            version,
        }
    }

    /// Where new fragments go.
    #[must_use]
    pub fn target(&self) -> DiskRef {
        self.to.unwrap_or(self.disk)
    }
}

/// The beginning of a move, or another target for one that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct MoveBegin {
    /// The pool.
    pub pool: Pool,
    /// The row.
    pub row: Row,
    /// The slot.
    pub slot: Slot,
    /// Compare: the slot's version.
    pub version: Version,
    /// The disk that is to have it.
    pub to: DiskRef,
}

/// Bound of the moves in one command.
pub const MOVES_PER_COMMAND_MAX: usize = 256;

impl SiteState {
    fn slot_mut(&mut self, pool: Pool, row: Row, slot: Slot) -> Option<&mut SlotAt> {
        let rows = self.slots.get_mut(&pool)?;
        rows.get_mut(usize::from(row.0))?.get_mut(&slot)
    }

    /// A slot of this site.
    #[must_use]
    pub fn slot(&self, pool: Pool, row: Row, slot: Slot) -> Option<SlotAt> {
        let rows = self.slots.get(&pool)?;
        rows.get(usize::from(row.0))?.get(&slot).copied()
    }

    pub(super) fn begin_moves(&mut self, moves: &[MoveBegin]) -> bool {
        let mut begun = false;
        for begin in moves.iter().take(MOVES_PER_COMMAND_MAX) {
            let MoveBegin {
                pool,
                row,
                slot,
                version,
                to,
            } = *begin;
            // One that is to be emptied is given nothing, by whomever that was decided before.
            let leaves = self.drains(to) && !planted(Bug::DrainedTakes);
            if !self.has(to) || leaves || self.rests(to) {
                continue;
            }
            let drained = self
                .slot(pool, row, slot)
                .is_some_and(|at| self.drains(at.disk));
            let Some(at) = self.slot_mut(pool, row, slot) else {
                continue;
            };
            if at.version == version && at.target() != to {
                at.to = Some(to);
                at.version = version.next();
                if drained && planted(Bug::DropDrained) {
                    (at.disk, at.to) = (to, None);
                }
                begun = true;
            }
        }
        begun
    }

    /// How full of a pool the disks are that may be given slots; a slot in motion counts where
    /// it goes.
    pub(crate) fn loads(&self, pool: Pool) -> Loads {
        let rows = self.slots.get(&pool).into_iter().flatten();
        let targets = rows.flat_map(BTreeMap::values).map(SlotAt::target);
        Loads::new(&self.candidates(), targets, 0)
    }

    /// **Invariant:** a rebalancing move lowers the imbalance of its pool, spreads its row no
    /// worse, and its row is otherwise at rest, by the very state that it is applied to. So moves
    /// that were decided at once, or by a leader that knew less, undo nothing of each other.
    pub(super) fn rebalance(&mut self, moves: &[MoveBegin]) -> bool {
        let mut begun = false;
        let mut loads: BTreeMap<Pool, Loads> = BTreeMap::new();
        for begin in moves.iter().take(MOVES_PER_COMMAND_MAX) {
            let pool = begin.pool;
            let of_pool = loads.entry(pool).or_insert_with(|| self.loads(pool));
            let Some(from) = self.leaves_at_rest(begin) else {
                continue;
            };
            if of_pool.pays(from, begin.to) && self.begin_moves(std::slice::from_ref(begin)) {
                of_pool.take(from);
                of_pool.add(begin.to);
                begun = true;
                reached(Sometimes::SlotRebalanced);
            }
        }
        begun
    }

    /// The disk that a slot would leave, if no slot of its row is in motion and the row is
    /// spread no worse after that.
    fn leaves_at_rest(&self, begin: &MoveBegin) -> Option<DiskRef> {
        let row = self.slots.get(&begin.pool)?.get(usize::from(begin.row.0))?;
        let from = row.get(&begin.slot)?.disk;
        let place = |at: DiskRef| Some((at, self.disks.get(&at.disk)?.node));
        let mut used = RowUse::default();
        for (slot, at) in row {
            if at.to.is_some() {
                return None;
            }
            if let Some((disk, node)) = place(at.disk).filter(|_| *slot != begin.slot) {
                used.add(disk, node);
            }
        }
        used.bears(place(from)?, place(begin.to)?).then_some(from)
    }

    pub(super) fn end_moves(&mut self, moves: &[SlotMove]) -> bool {
        let mut ended = false;
        for end in moves.iter().take(MOVES_PER_COMMAND_MAX) {
            let Some(at) = self.slot_mut(end.pool, end.row, end.slot) else {
                continue;
            };
            if at.version == end.version && at.to == Some(end.to) {
                (at.disk, at.to) = (end.to, None);
                ended = true;
            }
        }
        ended
    }
}
