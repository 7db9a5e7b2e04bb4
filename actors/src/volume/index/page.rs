//! The page format. A page is exactly one block of an index segment, so that the sum in its
//! [`PagePtr`] is the block's sum that a read of the segment is checked with.
//!
//! Integers are little-endian.
//!
//! ```text
//! header    0  magic "AIXP"      4  version (1)     5  kind        6  space (0 blocks, 1 segments)
//!           7  level             8  volume u32     12  first key u64
//!          20  body length u16  22  zero u16       24  body, then zeros up to 4096
//! inner   (kind 1)  bitmap of children [32], then a child: segment counter u32, block u16, sum u32
//! blocks  (kind 2)  n u16, n x data segment counter u32 (the dictionary); runs to the end:
//!                   state u8 (0 hole, 1 zero, 2 data), blocks - 1 u8, and for data:
//!                   dictionary index u8, first block in the segment u16, a sum u32 for each
//! segments (kind 3) a present entry: slot u8, entry[24]
//! root    (kind 4)  for each space: height u8, and if not 0 pointer[30]; deltas: 0 u8, or 1 and
//!                   pointer[30]; mapped blocks u64, data segments u64, data bytes stored u64
//! list    (kind 5)  pointers[30] of pages (level 0) or of lists one level lower
//! table   (kind 6)  an index segment: counter u32, volume u32, epoch u64, pool[6], blocks u16,
//!                   live blocks u16
//! delta   (kind 7)  groups: flags u8 (1: space segments, 2: forget what earlier groups say of
//!                   this leaf), leaf index u64, n u16, n entries: slot u8, state u8, and
//!                   blocks: for state 2 counter u32, block u16, sum u32
//!                   segments: for state 1 entry[24] (0: gone)
//! entry[24]    volume u32, epoch u64, pool[6], blocks u16, live blocks u32
//! pointer[30]  volume u32, epoch u64, counter u32, pool[6], blocks of the segment u16,
//!              block u16, sum u32
//! pool[6]      0 rs or 1 geo, k, m, sites (0 for rs), the site that is away or 0, layout
//! ```

use model::BLOCK_BYTES;
use model::geometry::{Pool, SEGMENT_BYTES_MAX};
use model::ids::{Epoch, VolumeId};
use model::journal::PagePtr;

/// A page is a block.
pub(super) const PAGE_BYTES: usize = BLOCK_BYTES;
pub(super) const SEGMENT_BLOCKS_MAX: u16 = (SEGMENT_BYTES_MAX / BLOCK_BYTES) as u16;
pub(super) const LIST_ENTRIES_MAX: usize = 135;
pub(super) const TABLE_ENTRIES_MAX: usize = 156;
/// Lists nest at most so deep: 135^3 pages.
pub(super) const LIST_LEVEL_MAX: u8 = 2;
/// Children of an inner page.
pub(super) const FANOUT: usize = 256;
/// Blocks of a leaf.
pub(super) const LEAF_BLOCKS: usize = 256;
/// Data segments of a leaf of the segment table: so few that the worst case fits a page.
pub(super) const LEAF_SEGMENTS: usize = 128;

/// First bytes of every page.
pub(super) const MAGIC: [u8; 4] = *b"AIXP";
pub(super) const VERSION: u8 = 2;
pub(super) const HEADER_BYTES: usize = 24;
pub(super) const BODY_BYTES_MAX: usize = PAGE_BYTES - HEADER_BYTES;
/// Flag of a delta's group.
pub(super) const FORGET: u8 = 2;

/// A key space of the index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Space {
    /// Keys are block numbers.
    Blocks,
    /// Keys are counters of data segments.
    Segments,
}

impl Space {
    pub(super) const fn leaf_bits(self) -> u32 {
        match self {
            Self::Blocks => 8,
            Self::Segments => 7,
        }
    }

    /// A tree of this height holds every key of the space.
    pub(super) const fn height_max(self) -> u8 {
        match self {
            Self::Blocks => 8,
            Self::Segments => 5,
        }
    }
}

/// Names a page of a tree: the one that covers these keys at this level. Leaves are level 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct NodeKey {
    pub(super) space: Space,
    pub(super) level: u8,
    pub(super) index: u64,
}

impl NodeKey {
    pub(super) const fn leaf(space: Space, index: u64) -> Self {
        Self {
            space,
            level: 0,
            index,
        }
    }

    pub(super) const fn at(self, level: u8) -> Self {
        assert!(level >= self.level);
        let shift = 8 * (level - self.level) as u32;
        let index = if shift >= 64 { 0 } else { self.index >> shift };
        Self {
            space: self.space,
            level,
            index,
        }
    }

    pub(super) const fn child(self, slot: u8) -> Self {
        let index = self.index << 8 | slot as u64;
        Self {
            space: self.space,
            level: self.level - 1,
            index,
        }
    }

    /// Its place in its parent.
    pub(super) const fn slot(self) -> usize {
        (self.index & 0xff) as usize
    }

    pub(super) fn first_key(self) -> u64 {
        let shift = self.space.leaf_bits() + 8 * u32::from(self.level);
        self.index.checked_shl(shift).unwrap_or(0)
    }
}

/// Where a page lies; the table of index segments knows the rest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Location {
    pub(super) segment: u32,
    pub(super) block: u16,
    pub(super) sum: u32,
}

/// A child of an inner page, or a tree's root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Child {
    /// Nothing is mapped there.
    #[default]
    Absent,
    /// In memory only, and dirty.
    New,
    /// Stored; memory may hold it, and a newer version of it.
    At(Location),
}

/// What is mapped to a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Entry {
    #[default]
    Hole,
    Zero,
    Data(BlockAt),
}

/// A block of a data segment, with its checksum (R19).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BlockAt {
    pub(super) segment: u32,
    pub(super) block: u16,
    pub(super) sum: u32,
}

/// A row of the segment table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentEntry {
    pub(super) volume: VolumeId,
    pub(super) epoch: Epoch,
    pub(super) pool: Pool,
    pub(super) blocks: u16,
    pub(super) live: u32,
}

/// A row of the table of index segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IndexSegment {
    pub(super) volume: VolumeId,
    pub(super) epoch: Epoch,
    pub(super) pool: Pool,
    pub(super) blocks: u16,
    pub(super) live: u16,
}

pub(super) type Children = Box<[Child; FANOUT]>;
pub(super) type BlockLeaf = Box<[Entry; LEAF_BLOCKS]>;
pub(super) type SegmentLeaf = Box<[Option<SegmentEntry>; LEAF_SEGMENTS]>;

/// A page of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Inner(Children),
    Blocks(BlockLeaf),
    Segments(SegmentLeaf),
}

/// What the root page says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Root {
    /// Height and root of the tree over blocks, and of the segment table.
    pub(super) trees: [Option<(u8, PagePtr)>; 2],
    /// The list of delta pages.
    pub(super) deltas: Option<PagePtr>,
    pub(super) mapped_blocks: u64,
    pub(super) data_segments: u64,
    pub(super) data_stored: u64,
}

/// What the changes of one leaf say; `V` is [`Entry`] or an optional [`SegmentEntry`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Group<V> {
    /// The leaf's index.
    pub(super) leaf: u64,
    /// Whether earlier groups of this leaf are void.
    pub(super) forget: bool,
    /// Slots, ascending, and what they hold.
    pub(super) entries: Vec<(u8, V)>,
}

/// A group of either space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum AnyGroup {
    Blocks(Group<Entry>),
    Segments(Group<Option<SegmentEntry>>),
}

/// A decoded page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Page {
    Node(NodeKey, Node),
    Root(Root),
    List { level: u8, pages: Vec<PagePtr> },
    Table(Vec<(u32, IndexSegment)>),
    Delta(Vec<AnyGroup>),
}

/// A length in bytes as blocks; segments are at most 4 MiB.
pub(super) fn in_blocks(bytes: u32) -> u16 {
    let blocks = bytes / PAGE_BYTES as u32;
    assert!(bytes.is_multiple_of(PAGE_BYTES as u32) && blocks <= u32::from(SEGMENT_BLOCKS_MAX));
    blocks as u16
}

/// Whether `entry`, `distance` blocks after `first`, continues its run.
pub(super) fn follows(first: Entry, entry: Entry, distance: usize) -> bool {
    match (first, entry) {
        (Entry::Hole, Entry::Hole) | (Entry::Zero, Entry::Zero) => true,
        (Entry::Data(a), Entry::Data(b)) => {
            a.segment == b.segment && usize::from(a.block) + distance == usize::from(b.block)
        }
        _ => false,
    }
}
