//! The tables of segments: index segments, in memory whole; rows of data segments, which lie
//! in a tree of their own.

use std::collections::BTreeMap;

use coding::layout::fragment_bytes;
use model::geometry::Pool;
use model::ids::SegmentId;
use model::journal::PagePtr;

use super::page::{IndexSegment, Location, PAGE_BYTES, SegmentEntry, in_blocks};
use crate::messages::SegmentRef;

/// Bytes of all fragments of a segment.
pub(super) fn stored_bytes(pool: Pool, blocks: u16) -> u64 {
    let bytes = u32::from(blocks) * PAGE_BYTES as u32;
    u64::from(fragment_bytes(pool.code, bytes)) * u64::from(pool.code.slots())
}

impl SegmentEntry {
    /// A row of a data segment of which nothing is mapped.
    pub(super) fn new(segment: &SegmentRef) -> Self {
        let SegmentId {
            volume,
            epoch,
            counter: _,
        } = segment.id;
        Self {
            volume,
            epoch,
            pool: segment.pool,
            blocks: in_blocks(segment.bytes),
            live: 0,
        }
    }

    pub(super) fn segment(&self, counter: u32) -> SegmentRef {
        SegmentRef {
            id: SegmentId {
                volume: self.volume,
                epoch: self.epoch,
                counter,
            },
            pool: self.pool,
            bytes: u32::from(self.blocks) * PAGE_BYTES as u32,
        }
    }
}

/// The table of index segments.
#[derive(Clone, Debug, Default)]
pub(super) struct IndexSegments {
    rows: BTreeMap<u32, IndexSegment>,
}

impl IndexSegments {
    /// Adds a row; whether there was none.
    pub(super) fn insert(&mut self, counter: u32, row: IndexSegment) -> bool {
        self.rows.insert(counter, row).is_none()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (u32, IndexSegment)> + '_ {
        self.rows.iter().map(|(counter, row)| (*counter, *row))
    }

    pub(super) fn contains(&self, segment: SegmentId) -> bool {
        let row = self.rows.get(&segment.counter);
        row.is_some_and(|row| Self::segment(segment.counter, row).id == segment)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn segment(counter: u32, row: &IndexSegment) -> SegmentRef {
        SegmentRef {
            id: SegmentId {
                volume: row.volume,
                epoch: row.epoch,
                counter,
            },
            pool: row.pool,
            bytes: u32::from(row.blocks) * PAGE_BYTES as u32,
        }
    }

    /// All that must be known to read the page there; `None` if there is no such segment.
    pub(super) fn pointer(&self, at: Location) -> Option<PagePtr> {
        let row = self
            .rows
            .get(&at.segment)
            .filter(|row| at.block < row.blocks)?;
        let SegmentRef {
            id: segment,
            pool,
            bytes: segment_bytes,
        } = Self::segment(at.segment, row);
        let offset = u32::from(at.block) * PAGE_BYTES as u32;
        let length = PAGE_BYTES as u32;
        Some(PagePtr {
            segment,
            pool,
            segment_bytes,
            offset,
            length,
            sum: at.sum,
        })
    }

    /// Pages of `counter` that nothing refers to any more.
    pub(super) fn release(&mut self, counter: u32, pages: u32) {
        // Saturating: what a stored table claims is no reason to stop the owner.
        if let Some(row) = self.rows.get_mut(&counter) {
            row.live = u32::from(row.live).saturating_sub(pages) as u16;
        }
    }

    /// How much of a segment is live, in 65536ths.
    pub(super) fn live_share(&self, counter: u32) -> u64 {
        let row = self.rows.get(&counter);
        row.map_or(0, |row| {
            (u64::from(row.live) << 16) / u64::from(row.blocks.max(1))
        })
    }

    /// Removes and returns the segments without a live page.
    pub(super) fn take_dead(&mut self) -> Vec<SegmentRef> {
        let is_dead = |row: &IndexSegment| row.live == 0;
        let dead = self.rows.iter().filter(|(_, row)| is_dead(row));
        let dead = dead
            .map(|(counter, row)| Self::segment(*counter, row))
            .collect();
        self.rows.retain(|_, row| !is_dead(row));
        dead
    }

    /// Pages of all segments, and the live ones.
    pub(super) fn pages(&self) -> (u64, u64) {
        self.rows.values().fold((0, 0), |(all, live), row| {
            (all + u64::from(row.blocks), live + u64::from(row.live))
        })
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        self.rows
            .values()
            .map(|row| stored_bytes(row.pool, row.blocks))
            .sum()
    }
}

/// Where a page lies, without what the table knows.
pub(super) fn location(ptr: &PagePtr) -> Location {
    Location {
        segment: ptr.segment.counter,
        block: in_blocks(ptr.offset),
        sum: ptr.sum,
    }
}
