//! A set of slots.

use std::fmt;

use model::geometry::SLOTS_MAX;
use model::ids::Slot;

/// A set of slots of one segment, as a bit set: [`SLOTS_MAX`] fits a word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SlotSet(u64);

const _: () = assert!(SLOTS_MAX as u32 == u64::BITS);

impl SlotSet {
    /// No slot.
    pub const EMPTY: Self = Self(0);

    /// The slots `0..count`.
    ///
    /// # Panics
    /// If `count` is above [`SLOTS_MAX`].
    #[must_use]
    pub fn first(count: u8) -> Self {
        assert!(count <= SLOTS_MAX, "more slots than a segment has");
        if count == SLOTS_MAX {
            Self(u64::MAX)
        } else {
            Self((1 << count) - 1)
        }
    }

    /// Whether the slot is in the set.
    #[must_use]
    pub fn contains(self, slot: Slot) -> bool {
        slot.0 < SLOTS_MAX && self.0 >> slot.0 & 1 == 1
    }

    /// Adds a slot.
    ///
    /// # Panics
    /// If no segment can have such a slot.
    pub fn insert(&mut self, slot: Slot) {
        assert!(slot.0 < SLOTS_MAX, "no segment has such a slot");
        self.0 |= 1 << slot.0;
    }

    /// Takes a slot out.
    pub fn remove(&mut self, slot: Slot) {
        if slot.0 < SLOTS_MAX {
            self.0 &= !(1 << slot.0);
        }
    }

    /// How many slots.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// In this set and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether every slot of this set is in the other.
    #[must_use]
    pub fn is_subset(self, other: Self) -> bool {
        self.without(other).is_empty()
    }

    /// The slots, ascending.
    pub fn iter(self) -> impl Iterator<Item = Slot> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let lowest = u8::try_from(left.trailing_zeros()).expect("at most 64");
            (left != 0).then(|| {
                left &= left - 1;
                Slot(lowest)
            })
        })
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::EMPTY;
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|slot| slot.0))
            .finish()
    }
}
