//! The free ranges of all extents, derived when the store is opened.

use std::collections::{BTreeMap, BTreeSet};

/// A place in an extent.
pub type Place = (u32, u64);

/// Free ranges, merged with their neighbours; never two that touch.
#[derive(Clone, Default, Debug)]
pub struct FreeMap {
    by_place: BTreeMap<Place, u64>,
    by_len: BTreeSet<(u64, Place)>,
    free_bytes: u64,
}

impl FreeMap {
    /// No extent, no space.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of all free ranges.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// Takes `len` bytes from the start of the smallest range that has them.
    pub fn alloc(&mut self, len: u64) -> Option<Place> {
        let (found, place) = *self.by_len.range((len, (0, 0))..).next()?;
        self.remove(place, found);
        if found > len {
            self.insert((place.0, place.1 + len), found - len);
        }
        Some(place)
    }

    /// Takes exactly `[offset, offset + len)` of an extent; false, and nothing is taken, if
    /// part of it is not free.
    #[must_use]
    pub fn claim(&mut self, (extent, offset): Place, len: u64) -> bool {
        let Some(end) = offset.checked_add(len) else {
            return false;
        };
        let Some((&place, &found)) = self.by_place.range(..=(extent, offset)).next_back() else {
            return false;
        };
        if place.0 != extent || end > place.1 + found || len == 0 {
            return false;
        }
        self.remove(place, found);
        if offset > place.1 {
            self.insert(place, offset - place.1);
        }
        if place.1 + found > end {
            self.insert((extent, end), place.1 + found - end);
        }
        true
    }

    /// Gives a range back (or adds a new extent's); false, and nothing changes, if part of it
    /// is free already.
    #[must_use]
    pub fn free(&mut self, (extent, offset): Place, len: u64) -> bool {
        let Some(end) = offset.checked_add(len) else {
            return false;
        };
        if len == 0 {
            return false;
        }
        let (mut start, mut until) = (offset, end);
        let before = self
            .by_place
            .range(..(extent, end))
            .next_back()
            .map(|(place, len)| (*place, *len));
        if let Some((place, found)) = before
            && place.0 == extent
        {
            if place.1 + found > offset {
                return false;
            }
            if place.1 + found == offset {
                self.remove(place, found);
                start = place.1;
            }
        }
        if let Some(&found) = self.by_place.get(&(extent, end)) {
            self.remove((extent, end), found);
            until = end + found;
        }
        self.insert((extent, start), until - start);
        true
    }

    fn insert(&mut self, place: Place, len: u64) {
        self.by_place.insert(place, len);
        self.by_len.insert((len, place));
        self.free_bytes += len;
    }

    fn remove(&mut self, place: Place, len: u64) {
        let was_there =
            self.by_place.remove(&place) == Some(len) && self.by_len.remove(&(len, place));
        assert!(was_there, "both indexes of the free map agree");
        self.free_bytes -= len;
    }
}
