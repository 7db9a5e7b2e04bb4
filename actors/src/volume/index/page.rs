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
//! pool[6]      0 rs or 1 geo, k, m, sites (0 for rs), 0 or 1 and the site that is away
//! ```

use std::collections::BTreeMap;

use coding::layout::check_code;
use model::BLOCK_BYTES;
use model::geometry::{Code, Pool, SEGMENT_BYTES_MAX};
use model::ids::{Epoch, SegmentId, SiteId, VolumeId};
use model::journal::PagePtr;

use super::Corrupt;

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

const MAGIC: [u8; 4] = *b"AIXP";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 24;
pub(super) const BODY_BYTES_MAX: usize = PAGE_BYTES - HEADER_BYTES;
const DELTA_GROUP_BYTES: usize = 11;
const FORGET: u8 = 2;

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
        Self { space, level: 0, index }
    }

    pub(super) const fn at(self, level: u8) -> Self {
        assert!(level >= self.level);
        let shift = 8 * (level - self.level) as u32;
        let index = if shift >= 64 { 0 } else { self.index >> shift };
        Self { space: self.space, level, index }
    }

    pub(super) const fn child(self, slot: u8) -> Self {
        let index = self.index << 8 | slot as u64;
        Self { space: self.space, level: self.level - 1, index }
    }

    /// Its place in its parent.
    pub(super) const fn slot(self) -> usize {
        (self.index & 0xff) as usize
    }

    fn first_key(self) -> u64 {
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

/// Reads little-endian integers from hostile bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Corrupt::Body)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Corrupt> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Corrupt> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Corrupt> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Corrupt> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn pool(&mut self) -> Result<Pool, Corrupt> {
        let [family, k, m, sites, away, site] = self.array()?;
        let code = match family {
            0 if sites == 0 => Code::Rs { k, m },
            1 if sites >= 2 => Code::Geo { k, m, sites },
            _ => return Err(Corrupt::Body),
        };
        check_code(code).map_err(|_| Corrupt::Body)?;
        let without = match (away, site) {
            (0, 0) => None,
            (1, site) => Some(SiteId(site)),
            _ => return Err(Corrupt::Body),
        };
        Ok(Pool { code, without })
    }

    /// Blocks of a segment.
    fn blocks(&mut self) -> Result<u16, Corrupt> {
        let blocks = self.u16()?;
        let sane = (1..=SEGMENT_BLOCKS_MAX).contains(&blocks);
        sane.then_some(blocks).ok_or(Corrupt::Body)
    }

    fn pointer(&mut self) -> Result<PagePtr, Corrupt> {
        let volume = VolumeId(self.u32()?);
        let epoch = Epoch(self.u64()?);
        let counter = self.u32()?;
        let pool = self.pool()?;
        let blocks = self.blocks()?;
        let block = self.u16()?;
        let sum = self.u32()?;
        if block >= blocks {
            return Err(Corrupt::Body);
        }
        Ok(PagePtr {
            segment: SegmentId { volume, epoch, counter },
            pool,
            segment_bytes: u32::from(blocks) * PAGE_BYTES as u32,
            offset: u32::from(block) * PAGE_BYTES as u32,
            length: PAGE_BYTES as u32,
            sum,
        })
    }

    fn segment_entry(&mut self) -> Result<SegmentEntry, Corrupt> {
        Ok(SegmentEntry {
            volume: VolumeId(self.u32()?),
            epoch: Epoch(self.u64()?),
            pool: self.pool()?,
            blocks: self.blocks()?,
            live: self.u32()?,
        })
    }

    fn block_at(&mut self) -> Result<BlockAt, Corrupt> {
        let (segment, block, sum) = (self.u32()?, self.u16()?, self.u32()?);
        if block >= SEGMENT_BLOCKS_MAX {
            return Err(Corrupt::Body);
        }
        Ok(BlockAt { segment, block, sum })
    }
}

fn put_pool(out: &mut Vec<u8>, pool: Pool) {
    match pool.code {
        Code::Rs { k, m } => out.extend([0, k, m, 0]),
        Code::Geo { k, m, sites } => out.extend([1, k, m, sites]),
    }
    match pool.without {
        None => out.extend([0, 0]),
        Some(site) => out.extend([1, site.0]),
    }
}

/// A length in bytes as blocks; segments are at most 4 MiB.
pub(super) fn in_blocks(bytes: u32) -> u16 {
    let blocks = bytes / PAGE_BYTES as u32;
    assert!(bytes.is_multiple_of(PAGE_BYTES as u32) && blocks <= u32::from(SEGMENT_BLOCKS_MAX));
    blocks as u16
}

fn put_pointer(out: &mut Vec<u8>, ptr: &PagePtr) {
    out.extend(ptr.segment.volume.0.to_le_bytes());
    out.extend(ptr.segment.epoch.0.to_le_bytes());
    out.extend(ptr.segment.counter.to_le_bytes());
    put_pool(out, ptr.pool);
    out.extend(in_blocks(ptr.segment_bytes).to_le_bytes());
    out.extend(in_blocks(ptr.offset).to_le_bytes());
    out.extend(ptr.sum.to_le_bytes());
}

fn put_segment_entry(out: &mut Vec<u8>, entry: &SegmentEntry) {
    out.extend(entry.volume.0.to_le_bytes());
    out.extend(entry.epoch.0.to_le_bytes());
    put_pool(out, entry.pool);
    out.extend(entry.blocks.to_le_bytes());
    out.extend(entry.live.to_le_bytes());
}

/// What a header says.
struct Header {
    kind: u8,
    space: u8,
    level: u8,
    first_key: u64,
}

/// Puts header, body and padding together: a page of [`PAGE_BYTES`].
fn page(volume: VolumeId, header: &Header, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= BODY_BYTES_MAX, "a page's worst case fits a block");
    let mut out = Vec::with_capacity(PAGE_BYTES);
    out.extend(MAGIC);
    out.extend([VERSION, header.kind, header.space, header.level]);
    out.extend(volume.0.to_le_bytes());
    out.extend(header.first_key.to_le_bytes());
    out.extend((body.len() as u16).to_le_bytes());
    out.extend([0, 0]);
    out.extend(body);
    out.resize(PAGE_BYTES, 0);
    out
}

/// Encodes a tree's page. `locate` tells where a child lies now; every child that is not
/// [`Child::Absent`] must lie somewhere.
pub(super) fn encode_node(
    volume: VolumeId,
    key: NodeKey,
    node: &Node,
    locate: impl Fn(NodeKey, Child) -> Option<Location>,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(BODY_BYTES_MAX);
    let kind = match node {
        Node::Inner(children) => {
            encode_inner(&mut body, key, children, locate);
            1
        }
        Node::Blocks(leaf) => {
            encode_blocks(&mut body, leaf);
            2
        }
        Node::Segments(leaf) => {
            for (slot, entry) in leaf.iter().enumerate() {
                if let Some(entry) = entry {
                    body.push(slot as u8);
                    put_segment_entry(&mut body, entry);
                }
            }
            3
        }
    };
    let header =
        Header { kind, space: key.space as u8, level: key.level, first_key: key.first_key() };
    page(volume, &header, &body)
}

fn encode_inner(
    body: &mut Vec<u8>,
    key: NodeKey,
    children: &Children,
    locate: impl Fn(NodeKey, Child) -> Option<Location>,
) {
    let mut bitmap = [0_u8; FANOUT / 8];
    let mut pointers = Vec::new();
    for (slot, child) in children.iter().enumerate() {
        if *child == Child::Absent {
            continue;
        }
        let at = locate(key.child(slot as u8), *child).expect("children are stored first");
        bitmap[slot / 8] |= 1 << (slot % 8);
        pointers.extend(at.segment.to_le_bytes());
        pointers.extend(at.block.to_le_bytes());
        pointers.extend(at.sum.to_le_bytes());
    }
    body.extend(bitmap);
    body.extend(pointers);
}

fn encode_blocks(body: &mut Vec<u8>, leaf: &BlockLeaf) {
    // In order of first use; at most 256, so that a byte names each.
    let mut places: BTreeMap<u32, u8> = BTreeMap::new();
    let mut dictionary = Vec::new();
    for entry in leaf.iter() {
        if let Entry::Data(at) = entry {
            places.entry(at.segment).or_insert_with(|| {
                dictionary.push(at.segment);
                (dictionary.len() - 1) as u8
            });
        }
    }
    body.extend((dictionary.len() as u16).to_le_bytes());
    dictionary.iter().for_each(|counter| body.extend(counter.to_le_bytes()));
    let mut at = 0;
    while at < LEAF_BLOCKS {
        let run = leaf[at..].iter().enumerate().take_while(|(i, e)| follows(leaf[at], **e, *i));
        let blocks = run.count();
        let (state, place) = match leaf[at] {
            Entry::Hole => (0, None),
            Entry::Zero => (1, None),
            Entry::Data(first) => (2, Some(first)),
        };
        body.extend([state, (blocks - 1) as u8]);
        if let Some(first) = place {
            body.push(places[&first.segment]);
            body.extend(first.block.to_le_bytes());
            for entry in &leaf[at..at + blocks] {
                let Entry::Data(block) = entry else { unreachable!("a run is of one state") };
                body.extend(block.sum.to_le_bytes());
            }
        }
        at += blocks;
    }
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

/// Encodes the root page.
pub(super) fn encode_root(volume: VolumeId, root: &Root) -> Vec<u8> {
    let mut body = Vec::new();
    for tree in &root.trees {
        match tree {
            None => body.push(0),
            Some((height, ptr)) => {
                body.push(*height);
                put_pointer(&mut body, ptr);
            }
        }
    }
    match &root.deltas {
        None => body.push(0),
        Some(ptr) => {
            body.push(1);
            put_pointer(&mut body, ptr);
        }
    }
    body.extend(root.mapped_blocks.to_le_bytes());
    body.extend(root.data_segments.to_le_bytes());
    body.extend(root.data_stored.to_le_bytes());
    page(volume, &Header { kind: 4, space: 0, level: 0, first_key: 0 }, &body)
}

/// Encodes a list of at most [`LIST_ENTRIES_MAX`] pages.
pub(super) fn encode_list(volume: VolumeId, level: u8, pages: &[PagePtr]) -> Vec<u8> {
    assert!(pages.len() <= LIST_ENTRIES_MAX && level <= LIST_LEVEL_MAX);
    let mut body = Vec::new();
    pages.iter().for_each(|ptr| put_pointer(&mut body, ptr));
    page(volume, &Header { kind: 5, space: 0, level, first_key: 0 }, &body)
}

/// Encodes at most [`TABLE_ENTRIES_MAX`] rows of the table of index segments.
pub(super) fn encode_table(volume: VolumeId, rows: &[(u32, IndexSegment)]) -> Vec<u8> {
    assert!(rows.len() <= TABLE_ENTRIES_MAX);
    let mut body = Vec::new();
    for (counter, row) in rows {
        body.extend(counter.to_le_bytes());
        body.extend(row.volume.0.to_le_bytes());
        body.extend(row.epoch.0.to_le_bytes());
        put_pool(&mut body, row.pool);
        body.extend(row.blocks.to_le_bytes());
        body.extend(row.live.to_le_bytes());
    }
    page(volume, &Header { kind: 6, space: 0, level: 0, first_key: 0 }, &body)
}

/// Writes groups of changes into as many delta pages as they need.
pub(super) struct DeltaWriter {
    volume: VolumeId,
    pages: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl DeltaWriter {
    pub(super) fn new(volume: VolumeId) -> Self {
        Self { volume, pages: Vec::new(), body: Vec::new() }
    }

    pub(super) fn blocks(&mut self, group: &Group<Entry>) {
        self.group(0, group, |out, entry| match entry {
            Entry::Hole => out.push(0),
            Entry::Zero => out.push(1),
            Entry::Data(at) => {
                out.push(2);
                out.extend(at.segment.to_le_bytes());
                out.extend(at.block.to_le_bytes());
                out.extend(at.sum.to_le_bytes());
            }
        });
    }

    pub(super) fn segments(&mut self, group: &Group<Option<SegmentEntry>>) {
        self.group(1, group, |out, entry| match entry {
            None => out.push(0),
            Some(entry) => {
                out.push(1);
                put_segment_entry(out, entry);
            }
        });
    }

    /// A group that does not fit is cut; only its first part forgets.
    fn group<V>(&mut self, space: u8, group: &Group<V>, put: impl Fn(&mut Vec<u8>, &V)) {
        const ENTRY_BYTES_MAX: usize = 26;
        let mut flags = space | if group.forget { FORGET } else { 0 };
        let mut rest = group.entries.as_slice();
        loop {
            if self.body.len() + DELTA_GROUP_BYTES + ENTRY_BYTES_MAX > BODY_BYTES_MAX {
                self.flush();
            }
            self.body.push(flags);
            self.body.extend(group.leaf.to_le_bytes());
            let count_at = self.body.len();
            self.body.extend([0, 0]);
            let mut count = 0_u16;
            while let Some(((slot, value), after)) = rest.split_first() {
                if self.body.len() + ENTRY_BYTES_MAX > BODY_BYTES_MAX {
                    break;
                }
                self.body.push(*slot);
                put(&mut self.body, value);
                count += 1;
                rest = after;
            }
            self.body[count_at..count_at + 2].copy_from_slice(&count.to_le_bytes());
            if rest.is_empty() {
                return;
            }
            flags &= !FORGET;
        }
    }

    fn flush(&mut self) {
        let header = Header { kind: 7, space: 0, level: 0, first_key: 0 };
        self.pages.push(page(self.volume, &header, &self.body));
        self.body.clear();
    }

    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.body.is_empty() {
            self.flush();
        }
        self.pages
    }
}

/// Decodes a page that `volume` wrote. The bytes are hostile: an error, never a panic, and
/// never more memory than a few pages.
pub(super) fn decode(volume: VolumeId, bytes: &[u8]) -> Result<Page, Corrupt> {
    if bytes.len() != PAGE_BYTES {
        return Err(Corrupt::Length);
    }
    let mut header = Reader(&bytes[..HEADER_BYTES]);
    let magic: [u8; 4] = header.array()?;
    let [version, kind, space, level] = header.array()?;
    let owner = header.u32()?;
    let first_key = header.u64()?;
    let length = usize::from(header.u16()?);
    let zero = header.u16()?;
    if magic != MAGIC || version != VERSION || zero != 0 || length > BODY_BYTES_MAX {
        return Err(Corrupt::Header);
    }
    if owner != volume.0 {
        return Err(Corrupt::Misplaced);
    }
    let (body, padding) = bytes[HEADER_BYTES..].split_at(length);
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Corrupt::Header);
    }
    let mut body = Reader(body);
    let node = |node| Ok(Page::Node(node_key(space, level, first_key)?, node));
    match kind {
        1 if level > 0 => node(Node::Inner(decode_inner(&mut body)?)),
        2 if space == 0 && level == 0 => node(Node::Blocks(decode_blocks(&mut body)?)),
        3 if space == 1 && level == 0 => node(Node::Segments(decode_segments(&mut body)?)),
        4 => Ok(Page::Root(decode_root(&mut body)?)),
        5 if level <= LIST_LEVEL_MAX => {
            let pages = until_end(&mut body, Reader::pointer)?;
            Ok(Page::List { level, pages })
        }
        6 => Ok(Page::Table(until_end(&mut body, table_row)?)),
        7 => Ok(Page::Delta(until_end(&mut body, decode_group)?)),
        _ => Err(Corrupt::Header),
    }
}

fn node_key(space: u8, level: u8, first_key: u64) -> Result<NodeKey, Corrupt> {
    let space = match space {
        0 => Space::Blocks,
        1 => Space::Segments,
        _ => return Err(Corrupt::Header),
    };
    if level >= space.height_max() {
        return Err(Corrupt::Header);
    }
    let shift = space.leaf_bits() + 8 * u32::from(level);
    let key = NodeKey { space, level, index: first_key.checked_shr(shift).unwrap_or(0) };
    let fits = space == Space::Blocks || first_key <= u64::from(u32::MAX);
    if key.first_key() != first_key || !fits {
        return Err(Corrupt::Header);
    }
    Ok(key)
}

/// Items up to the end of the body: bounded by the page's size.
fn until_end<'a, T>(
    body: &mut Reader<'a>,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, Corrupt>,
) -> Result<Vec<T>, Corrupt> {
    let mut items = Vec::new();
    while !body.is_empty() {
        items.push(item(body)?);
    }
    Ok(items)
}

fn decode_inner(body: &mut Reader<'_>) -> Result<Children, Corrupt> {
    let bitmap: [u8; FANOUT / 8] = body.array()?;
    let mut children = Box::new([Child::Absent; FANOUT]);
    for (slot, child) in children.iter_mut().enumerate() {
        if bitmap[slot / 8] >> (slot % 8) & 1 == 1 {
            let at = Location { segment: body.u32()?, block: body.u16()?, sum: body.u32()? };
            *child = Child::At(at);
        }
    }
    // No empty page is ever stored.
    if !body.is_empty() || bitmap == [0; FANOUT / 8] {
        return Err(Corrupt::Body);
    }
    Ok(children)
}

fn decode_blocks(body: &mut Reader<'_>) -> Result<BlockLeaf, Corrupt> {
    let count = body.u16()?;
    if usize::from(count) > LEAF_BLOCKS {
        return Err(Corrupt::Body);
    }
    let dictionary = (0..count).map(|_| body.u32()).collect::<Result<Vec<_>, _>>()?;
    let mut leaf = Box::new([Entry::Hole; LEAF_BLOCKS]);
    let mut at = 0;
    while at < LEAF_BLOCKS {
        let (state, blocks) = (body.u8()?, usize::from(body.u8()?) + 1);
        let run = leaf.get_mut(at..at + blocks).ok_or(Corrupt::Body)?;
        match state {
            0 => {}
            1 => run.fill(Entry::Zero),
            2 => {
                let place = usize::from(body.u8()?);
                let segment = *dictionary.get(place).ok_or(Corrupt::Body)?;
                let first = usize::from(body.u16()?);
                if first + blocks > usize::from(SEGMENT_BLOCKS_MAX) {
                    return Err(Corrupt::Body);
                }
                for (i, entry) in run.iter_mut().enumerate() {
                    let block = (first + i) as u16;
                    *entry = Entry::Data(BlockAt { segment, block, sum: body.u32()? });
                }
            }
            _ => return Err(Corrupt::Body),
        }
        at += blocks;
    }
    if body.is_empty() { Ok(leaf) } else { Err(Corrupt::Body) }
}

fn decode_segments(body: &mut Reader<'_>) -> Result<SegmentLeaf, Corrupt> {
    let mut leaf = Box::new([None; LEAF_SEGMENTS]);
    while !body.is_empty() {
        let slot = usize::from(body.u8()?);
        *leaf.get_mut(slot).ok_or(Corrupt::Body)? = Some(body.segment_entry()?);
    }
    Ok(leaf)
}

fn decode_root(body: &mut Reader<'_>) -> Result<Root, Corrupt> {
    let mut trees = [None; 2];
    for (tree, space) in trees.iter_mut().zip([Space::Blocks, Space::Segments]) {
        let height = body.u8()?;
        if height > space.height_max() {
            return Err(Corrupt::Body);
        }
        if height > 0 {
            *tree = Some((height, body.pointer()?));
        }
    }
    let deltas = match body.u8()? {
        0 => None,
        1 => Some(body.pointer()?),
        _ => return Err(Corrupt::Body),
    };
    let (mapped_blocks, data_segments, data_stored) = (body.u64()?, body.u64()?, body.u64()?);
    if !body.is_empty() {
        return Err(Corrupt::Body);
    }
    Ok(Root { trees, deltas, mapped_blocks, data_segments, data_stored })
}

fn table_row(body: &mut Reader<'_>) -> Result<(u32, IndexSegment), Corrupt> {
    let counter = body.u32()?;
    let row = IndexSegment {
        volume: VolumeId(body.u32()?),
        epoch: Epoch(body.u64()?),
        pool: body.pool()?,
        blocks: body.blocks()?,
        live: body.u16()?,
    };
    if row.live > row.blocks {
        return Err(Corrupt::Body);
    }
    Ok((counter, row))
}

fn decode_group(body: &mut Reader<'_>) -> Result<AnyGroup, Corrupt> {
    let flags = body.u8()?;
    let leaf = body.u64()?;
    let count = body.u16()?;
    let forget = flags & FORGET != 0;
    match flags & !FORGET {
        0 if leaf >> (64 - Space::Blocks.leaf_bits()) == 0 => {
            let entries = entries(body, count, LEAF_BLOCKS, |body| match body.u8()? {
                0 => Ok(Entry::Hole),
                1 => Ok(Entry::Zero),
                2 => Ok(Entry::Data(body.block_at()?)),
                _ => Err(Corrupt::Body),
            })?;
            Ok(AnyGroup::Blocks(Group { leaf, forget, entries }))
        }
        1 if leaf >> (32 - Space::Segments.leaf_bits()) == 0 => {
            let entries = entries(body, count, LEAF_SEGMENTS, |body| match body.u8()? {
                0 => Ok(None),
                1 => Ok(Some(body.segment_entry()?)),
                _ => Err(Corrupt::Body),
            })?;
            Ok(AnyGroup::Segments(Group { leaf, forget, entries }))
        }
        _ => Err(Corrupt::Body),
    }
}

fn entries<'a, V>(
    body: &mut Reader<'a>,
    count: u16,
    slots: usize,
    value: impl Fn(&mut Reader<'a>) -> Result<V, Corrupt>,
) -> Result<Vec<(u8, V)>, Corrupt> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let slot = body.u8()?;
        if usize::from(slot) >= slots {
            return Err(Corrupt::Body);
        }
        entries.push((slot, value(body)?));
    }
    Ok(entries)
}
