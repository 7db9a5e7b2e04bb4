//! Bytes to pages: see `page.rs` for the format. The bytes are hostile.

use coding::layout::check_code;
use model::geometry::{Code, Pool};
use model::ids::{Epoch, Layout, SegmentId, SiteId, VolumeId};
use model::journal::PagePtr;

use super::Corrupt;
use super::page::{
    AnyGroup, BODY_BYTES_MAX, BlockAt, BlockLeaf, Child, Children, Entry, FANOUT, FORGET, Group,
    HEADER_BYTES, IndexSegment, LEAF_BLOCKS, LEAF_SEGMENTS, LIST_LEVEL_MAX, Location, MAGIC, Node,
    NodeKey, PAGE_BYTES, Page, Root, SEGMENT_BLOCKS_MAX, SegmentEntry, SegmentLeaf, Space, VERSION,
};

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
        let [family, k, m, sites, away, layout] = self.array()?;
        let code = match family {
            0 if sites == 0 => Code::Rs { k, m },
            1 if sites >= 2 => Code::Geo { k, m, sites },
            _ => return Err(Corrupt::Body),
        };
        check_code(code).map_err(|_| Corrupt::Body)?;
        Ok(Pool {
            code,
            without: (away > 0).then_some(SiteId(away)),
            layout: Layout(layout),
        })
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
            segment: SegmentId {
                volume,
                epoch,
                counter,
            },
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
        Ok(BlockAt {
            segment,
            block,
            sum,
        })
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
    let key = NodeKey {
        space,
        level,
        index: first_key.checked_shr(shift).unwrap_or(0),
    };
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
            let at = Location {
                segment: body.u32()?,
                block: body.u16()?,
                sum: body.u32()?,
            };
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
    let dictionary = (0..count)
        .map(|_| body.u32())
        .collect::<Result<Vec<_>, _>>()?;
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
                    *entry = Entry::Data(BlockAt {
                        segment,
                        block,
                        sum: body.u32()?,
                    });
                }
            }
            _ => return Err(Corrupt::Body),
        }
        at += blocks;
    }
    if body.is_empty() {
        Ok(leaf)
    } else {
        Err(Corrupt::Body)
    }
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
    Ok(Root {
        trees,
        deltas,
        mapped_blocks,
        data_segments,
        data_stored,
    })
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
            Ok(AnyGroup::Blocks(Group {
                leaf,
                forget,
                entries,
            }))
        }
        1 if leaf >> (32 - Space::Segments.leaf_bits()) == 0 => {
            let entries = entries(body, count, LEAF_SEGMENTS, |body| match body.u8()? {
                0 => Ok(None),
                1 => Ok(Some(body.segment_entry()?)),
                _ => Err(Corrupt::Body),
            })?;
            Ok(AnyGroup::Segments(Group {
                leaf,
                forget,
                entries,
            }))
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
