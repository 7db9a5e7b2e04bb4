//! The volume's index: from block to (segment, offset, checksum), as a pure data structure.
//! It does no I/O: an operation that needs pages answers [`Missing`], the caller reads them
//! (each is one block of an index segment, its checksum in the pointer), hands them to
//! [`Index::arrived`] and tries again.
//!
//! - Two 256-way copy-on-write radix trees under one root page: over blocks (leaves of 256
//!   blocks), and over the counters of data segments (leaves of 128 rows: id, pool, length,
//!   live blocks). Block leaves name data segments by counter, so that a leaf whose blocks all
//!   lie in different segments fits one page. The table of index segments is in memory whole
//!   and is stored with every checkpoint.
//! - **Lazy merging**: changes go to an overlay; a checkpoint writes it, sorted, as delta
//!   pages, and rewrites a leaf only when enough of it changed. A random write costs about 25
//!   bytes of delta pages until its leaf is merged together with others.
//! - **Exact cuts (R13)**: deltas are applied in order; [`Index::apply`] may need several
//!   attempts, but lookups see it as whole from the first one on, and no checkpoint is planned
//!   before it is done.
//! - **Live accounting (R15)**: a segment is dropped exactly by the checkpoint that no longer
//!   reaches it. The caller deletes it once no other recoverable root does either.
//! - **Index space**: at each checkpoint pages in sparse index segments are rewritten
//!   (bounded), so that at most a quarter as many pages are dead as live once clients rest, and
//!   about as many while they write: see `sweep.rs`.
//! - **Memory**: clean pages are bounded by [`IndexConfig::cache_bytes`], pending and dirty
//!   ones by checkpoints ([`Index::dirty_bytes`]). Unmapping any range costs no more dirty
//!   pages than its two edges and the rows of the segments that it touches; a *zero* range
//!   that stays allocated costs a leaf per MiB, so callers split huge ones
//!   ([`model::journal::ZERO_PART_BYTES_MAX`]) and make checkpoints in between.
//!
//! The page format is in `page.rs`.

mod apply;
mod cache;
mod counter;
mod decode;
mod encode;
mod load;
mod lookup;
mod overlay;
mod page;
mod plan;
mod prepare;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod walk;

use std::collections::BTreeSet;

use bytes::Bytes;
use model::geometry::Pool;
use model::ids::VolumeId;
use model::journal::{Checkpoint, PagePtr};
use thiserror::Error;

pub use apply::{Delta, NewMapping};
pub use counter::SegmentCounter;
pub use lookup::{MappedRun, Mapping, SegmentRows};
pub use plan::Plan;
pub use sweep::Pace;
pub use walk::{Piece, Pieces};

use crate::messages::SegmentRef;
use apply::Applying;
use cache::PAGE_MEMORY;
use load::Loading;
use overlay::Overlay;
use page::{Entry, Location, PAGE_BYTES, Page, SegmentEntry, Space};
use prepare::Preparation;
use sweep::SweepAt;
use tree::Forest;

/// Bounds of an index.
#[derive(Clone, Copy, Debug)]
pub struct IndexConfig {
    /// Memory for clean pages, in bytes. An operation may exceed it by what it needs itself.
    pub cache_bytes: usize,
    /// Pending changes, in bytes, above which leaves are merged.
    pub pending_bytes_max: usize,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            pending_bytes_max: 1 << 20,
        }
    }
}

/// Pages that must be loaded before the operation is tried again. No pages means that the
/// index is damaged for good: see [`Index::damage`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{} index pages must be loaded first", pages.len())]
pub struct Missing {
    /// The pages, at most 64.
    pub pages: Vec<PagePtr>,
}

/// A stored page is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Corrupt {
    /// It has another length.
    #[error("an index page has the wrong length")]
    Length,
    /// Its checksum differs from the pointer's (R19).
    #[error("an index page's checksum is wrong")]
    Sum,
    /// Its header is none of this version.
    #[error("an index page's header is malformed")]
    Header,
    /// Its body does not decode.
    #[error("an index page's body is malformed")]
    Body,
    /// It is a page, but not the one that should be there.
    #[error("an index page belongs elsewhere")]
    Misplaced,
    /// It refers to a segment that the tables don't know.
    #[error("an index page refers to segment {0}, which is unknown")]
    UnknownSegment(u32),
    /// A segment has fewer live blocks than are unmapped, or is shorter than what is mapped.
    #[error("the row of segment {0} contradicts the pages")]
    WrongRow(u32),
    /// It claims more pages than any index has.
    #[error("an index claims too many pages")]
    TooLarge,
}

/// Why an operation stopped.
#[derive(Debug)]
enum Stop {
    Missing(Vec<PagePtr>),
    Damaged(Corrupt),
}

impl From<Corrupt> for Stop {
    fn from(corrupt: Corrupt) -> Self {
        Self::Damaged(corrupt)
    }
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    mapped_blocks: u64,
    data_segments: u64,
    data_stored: u64,
}

/// Sizes of an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndexStats {
    /// Blocks that hold data.
    pub mapped_blocks: u64,
    /// Bytes of all fragments of all segments that it reaches.
    pub stored_bytes: u64,
    /// Data segments that it reaches; 0 until it is loaded.
    pub data_segments: u64,
    /// Index segments that it reaches; 0 until it is loaded.
    pub index_segments: u64,
    /// Bytes of those, before coding.
    pub index_bytes: u64,
    /// Bytes of the pages in those that it reaches.
    pub index_live_bytes: u64,
    /// Memory of clean pages.
    pub cache_bytes: usize,
    /// Memory of changes that are not merged into leaves.
    pub pending_bytes: usize,
}

/// A volume's index.
#[derive(Debug)]
pub struct Index {
    volume: VolumeId,
    config: IndexConfig,
    loading: Option<Loading>,
    damage: Option<Corrupt>,
    forest: Forest,
    blocks: Overlay<Entry>,
    segments: Overlay<Option<SegmentEntry>>,
    counts: Counts,
    applying: Option<Applying>,
    preparation: Option<Preparation>,
    sweep_at: SweepAt,
    planned: bool,
    /// Pools that stored pages are to leave.
    leave: BTreeSet<Pool>,
    /// Index segments that delta pages are to leave with the next checkpoint.
    emptied: BTreeSet<u32>,
    /// The last sweep at [`Pace::Resting`] found no page to move.
    swept_in_vain: bool,
    /// Data segments that the next checkpoint no longer reaches.
    dropped: Vec<SegmentRef>,
    /// The stored delta pages, in order.
    deltas: Vec<Location>,
    /// The stored root, lists and table pages: every checkpoint replaces them.
    meta: Vec<Location>,
}

impl Index {
    /// The index as of a checkpoint; its pages are asked for by the first operation.
    #[must_use]
    pub fn open(volume: VolumeId, checkpoint: &Checkpoint, config: IndexConfig) -> Self {
        Self {
            volume,
            config,
            loading: Loading::new(checkpoint),
            damage: None,
            forest: Forest::default(),
            blocks: Overlay::new(Space::Blocks.leaf_bits()),
            segments: Overlay::new(Space::Segments.leaf_bits()),
            counts: Counts {
                mapped_blocks: checkpoint.mapped_blocks,
                data_segments: 0,
                data_stored: checkpoint.stored_bytes,
            },
            applying: None,
            preparation: None,
            sweep_at: SweepAt::START,
            planned: false,
            leave: BTreeSet::new(),
            emptied: BTreeSet::new(),
            swept_in_vain: false,
            dropped: Vec::new(),
            deltas: Vec::new(),
            meta: Vec::new(),
        }
    }

    /// A page that was asked for is here. One that is no longer needed is ignored.
    ///
    /// # Errors
    /// [`Corrupt::Length`] and [`Corrupt::Sum`]: the bytes are not that page, another copy must
    /// be read; nothing changed. Any other: the page was stored so; the index is damaged.
    pub fn arrived(&mut self, ptr: PagePtr, bytes: Bytes) -> Result<(), Corrupt> {
        if bytes.len() != PAGE_BYTES || ptr.length as usize != PAGE_BYTES {
            return Err(Corrupt::Length);
        }
        if model::crc32c(&bytes) != ptr.sum {
            return Err(Corrupt::Sum);
        }
        self.take_in(&ptr, &bytes)
            .inspect_err(|corrupt| self.damage = Some(corrupt.clone()))
    }

    fn take_in(&mut self, ptr: &PagePtr, bytes: &[u8]) -> Result<(), Corrupt> {
        let page = decode::decode(ptr.segment.volume, bytes)?;
        if self.loading.is_some() {
            return self.load(ptr, page);
        }
        match (page, self.forest.awaited(ptr)) {
            (Page::Node(key, _), Some(awaited)) if key != awaited => Err(Corrupt::Misplaced),
            (Page::Node(key, node), _) => self.forest.arrived(ptr, key, node),
            (Page::Root(_) | Page::List { .. } | Page::Table(_) | Page::Delta(_), None) => Ok(()),
            (_, Some(_)) => Err(Corrupt::Misplaced),
        }
    }

    /// Why the index can't be used any more: stored pages whose checksums are right contradict
    /// each other.
    #[must_use]
    pub fn damage(&self) -> Option<&Corrupt> {
        self.damage.as_ref()
    }

    /// Sizes, as of the last applied change.
    #[must_use]
    pub fn stats(&self) -> IndexStats {
        let (all, live) = self.forest.table.pages();
        IndexStats {
            mapped_blocks: self.counts.mapped_blocks,
            stored_bytes: self.counts.data_stored + self.forest.table.stored_bytes(),
            data_segments: self.counts.data_segments,
            index_segments: self.forest.table.len() as u64,
            index_bytes: all * PAGE_BYTES as u64,
            index_live_bytes: live * PAGE_BYTES as u64,
            cache_bytes: self.forest.cache.clean_len() * PAGE_MEMORY,
            pending_bytes: self.blocks.bytes() + self.segments.bytes(),
        }
    }

    /// Memory of changes and pages that only checkpoints give back: the caller makes one
    /// when it is more than it likes.
    #[must_use]
    pub fn dirty_bytes(&self) -> usize {
        self.forest.cache.dirty_len() * PAGE_MEMORY + self.blocks.bytes() + self.segments.bytes()
    }

    /// The index segments that the last committed checkpoint reaches.
    pub fn index_segments(&self) -> impl Iterator<Item = SegmentRef> + '_ {
        self.forest
            .table
            .rows()
            .map(|(counter, row)| table::IndexSegments::segment(counter, &row))
    }

    /// The data segments whose rows changed since they were last merged into the tree.
    pub fn pending_segments(&self) -> impl Iterator<Item = SegmentRef> + '_ {
        let rows = self.segments.entries();
        rows.filter_map(|(counter, row)| Some(row?.segment(u32::try_from(counter).ok()?)))
    }

    /// Ends an operation: keeps the cache's bound, and tells the caller what to do.
    fn end<T>(&mut self, result: Result<T, Stop>) -> Result<T, Missing> {
        let pages_max = self.config.cache_bytes / PAGE_MEMORY;
        self.forest.cache.evict(pages_max, result.is_err());
        result.map_err(|stop| match stop {
            Stop::Missing(pages) => Missing { pages },
            Stop::Damaged(corrupt) => {
                self.damage = Some(corrupt);
                Missing { pages: Vec::new() }
            }
        })
    }
}
