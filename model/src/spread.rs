//! Spread tables: which disk holds which slot of which row of a pool, what is being moved, and
//! what a sender knew of a row's moves (R20).

use bincode::{Decode, Encode};

use crate::geometry::Pool;
use crate::ids::{DiskRef, Row, SegmentId, Slot, Version};
use crate::mix;

/// Where a slot of a row lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct SlotPlace {
    /// The disk that holds it; `None` where none is assigned.
    pub disk: Option<DiskRef>,
    /// The disk that it is being moved to: new fragments go there, and older ones are copied
    /// or rebuilt there until the move ends.
    pub to: Option<DiskRef>,
    /// Raised by each beginning of a move.
    pub version: Version,
}

/// The spread table of a pool: row x slot -> place.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SpreadTable {
    /// Number of rows; never changes (R23).
    pub rows: u16,
    /// Place of (row, slot) at `row * slots + slot`.
    pub places: Vec<SlotPlace>,
    /// Slots per row.
    pub slots: u8,
}

impl SpreadTable {
    /// The row of a segment: no per-segment metadata anywhere.
    #[must_use]
    pub fn row(&self, segment: SegmentId) -> Row {
        row_of(segment, self.rows)
    }

    /// The place of one slot of a row.
    #[must_use]
    pub fn place(&self, row: Row, slot: Slot) -> SlotPlace {
        let i = usize::from(row.0) * usize::from(self.slots) + usize::from(slot.0);
        let place = self.places.get(i).filter(|_| slot.0 < self.slots);
        place.copied().unwrap_or_default()
    }

    /// The disk that new fragments of one slot of a row go to.
    #[must_use]
    pub fn disk(&self, row: Row, slot: Slot) -> Option<DiskRef> {
        let place = self.place(row, slot);
        place.to.or(place.disk)
    }

    /// While a slot is being moved: the disk that it is moved from.
    #[must_use]
    pub fn former(&self, row: Row, slot: Slot) -> Option<DiskRef> {
        let place = self.place(row, slot);
        place.disk.filter(|at| place.to.is_some_and(|to| to != *at))
    }

    /// What this table knows of a row's moves.
    #[must_use]
    pub fn stamp(&self, row: Row) -> RowStamp {
        let slots = (0..self.slots).map(Slot);
        RowStamp::of(slots.map(|slot| self.place(row, slot).version))
    }

    /// Every place with its row and slot.
    pub fn iter(&self) -> impl Iterator<Item = (Row, Slot, SlotPlace)> + '_ {
        let all = (0..self.rows).flat_map(|row| (0..self.slots).map(move |slot| (row, slot)));
        all.map(|(row, slot)| (Row(row), Slot(slot), self.place(Row(row), Slot(slot))))
    }
}

/// The row of a segment in a table of so many rows.
#[must_use]
pub fn row_of(segment: SegmentId, rows: u16) -> Row {
    let h = (u64::from(segment.volume.0) << 32 | u64::from(segment.counter))
        ^ segment.epoch.0.rotate_left(40);
    Row(u16::try_from(mix(h) % u64::from(rows.max(1))).expect("below a u16"))
}

/// What somebody knows of a row's moves: the version of each slot, in slot order. Zeros at the
/// end are left out, so that a row in which nothing was ever moved costs one byte.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct RowStamp(Vec<Version>);

impl RowStamp {
    /// Of these versions.
    #[must_use]
    pub fn of(versions: impl Iterator<Item = Version>) -> Self {
        let mut stamp = Self(versions.collect());
        stamp.trim();
        stamp
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&Version(0)) {
            self.0.pop();
        }
    }

    fn at(&self, slot: usize) -> Version {
        self.0.get(slot).copied().unwrap_or_default()
    }

    /// How many slots it speaks of: a peer's may be longer than any row.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.0.len()
    }

    /// Whether it knows of every move that `other` knows of. Stamps are ordered by slots, so
    /// that of two of them each may know of a move that the other one does not.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.covers_where(other, |_| true)
    }

    /// Whether that is so of the slots that count.
    #[must_use]
    pub fn covers_where(&self, other: &Self, counts: impl Fn(Slot) -> bool) -> bool {
        let slots = (0..).map(Slot).zip(0..other.0.len());
        let behind = slots.filter(|(_, i)| self.at(*i) < other.at(*i));
        !behind.into_iter().any(|(slot, _)| counts(slot))
    }

    /// Learns what `other` knows.
    pub fn merge(&mut self, other: &Self) {
        let slots = self.0.len().max(other.0.len());
        *self = Self::of((0..slots).map(|slot| self.at(slot).max(other.at(slot))));
    }
}

/// A slot's move, under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct SlotMove {
    /// The pool.
    pub pool: Pool,
    /// The row.
    pub row: Row,
    /// The slot.
    pub slot: Slot,
    /// The slot's version since the move began.
    pub version: Version,
    /// Where it is moved to.
    pub to: DiskRef,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DiskId, Incarnation};

    fn stamp(versions: &[u64]) -> RowStamp {
        RowStamp::of(versions.iter().map(|v| Version(*v)))
    }

    #[test]
    fn stamps_are_ordered_by_slots() {
        assert_eq!(stamp(&[0, 0]), RowStamp::default());
        assert!(stamp(&[1, 2]).covers(&stamp(&[1, 1])) && stamp(&[1]).covers(&stamp(&[])));
        assert!(!stamp(&[1, 1]).covers(&stamp(&[1, 2])) && !stamp(&[]).covers(&stamp(&[0, 1])));
        // Each knows of a move that the other one does not: a sum would not tell.
        let (a, b) = (stamp(&[2, 0, 1]), stamp(&[0, 3]));
        assert!(!a.covers(&b) && !b.covers(&a));
        assert!(
            a.covers_where(&b, |slot| slot != Slot(1)) && !a.covers_where(&b, |s| s == Slot(1))
        );
        let mut both = a.clone();
        both.merge(&b);
        assert_eq!(both, stamp(&[2, 3, 1]));
        assert!(both.covers(&a) && both.covers(&b));
    }

    #[test]
    fn a_slot_in_motion_is_written_at_its_new_place() {
        let disk = |id| DiskRef {
            disk: DiskId(id),
            incarnation: Incarnation(1),
        };
        let mut table = SpreadTable {
            rows: 1,
            places: vec![SlotPlace::default(); 2],
            slots: 2,
        };
        table.places[1] = SlotPlace {
            disk: Some(disk(1)),
            to: Some(disk(2)),
            version: Version(1),
        };
        assert_eq!(table.disk(Row(0), Slot(1)), Some(disk(2)));
        assert_eq!(table.former(Row(0), Slot(1)), Some(disk(1)));
        assert_eq!(table.stamp(Row(0)), stamp(&[0, 1]));
        assert_eq!(table.place(Row(0), Slot(2)), SlotPlace::default());
        // Back to where it came from: nowhere else to look.
        table.places[1].to = Some(disk(1));
        assert_eq!(table.former(Row(0), Slot(1)), None);
    }
}
