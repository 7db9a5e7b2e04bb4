//! Moves of slots from disk to disk (R20): each is a state of its own, begun by one entry and
//! ended by another one.

use bincode::{Decode, Encode};
use model::geometry::Pool;
use model::ids::{DiskRef, Row, Slot, Version};
use model::planted::{Bug, planted};
use model::spread::SlotMove;

use super::SiteState;

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
            if !self.has(to) || (self.drains(to) && !planted(Bug::DrainedTakes)) {
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
