//! Pages to bytes: see `page.rs` for the format.

use std::collections::BTreeMap;

use model::geometry::{Code, Pool};
use model::ids::{SiteId, VolumeId};
use model::journal::PagePtr;

use super::page::{
    BODY_BYTES_MAX, BlockLeaf, Child, Children, Entry, FANOUT, FORGET, Group, IndexSegment,
    LEAF_BLOCKS, LIST_ENTRIES_MAX, LIST_LEVEL_MAX, Location, MAGIC, Node, NodeKey, PAGE_BYTES,
    Root, SegmentEntry, TABLE_ENTRIES_MAX, VERSION, follows, in_blocks,
};

const DELTA_GROUP_BYTES: usize = 11;

/// What a header says.
struct Header {
    kind: u8,
    space: u8,
    level: u8,
    first_key: u64,
}

fn put_pool(out: &mut Vec<u8>, pool: Pool) {
    match pool.code {
        Code::Rs { k, m } => out.extend([0, k, m, 0]),
        Code::Geo { k, m, sites } => out.extend([1, k, m, sites]),
    }
    assert_ne!(pool.without, Some(SiteId(0)), "sites are counted from 1");
    out.extend([pool.without.map_or(0, |site| site.0), pool.layout.0]);
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

/// Puts header, body and padding together: a page of [`PAGE_BYTES`].
fn page(volume: VolumeId, header: &Header, body: &[u8]) -> Vec<u8> {
    assert!(
        body.len() <= BODY_BYTES_MAX,
        "a page's worst case fits a block"
    );
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
    let header = Header {
        kind,
        space: key.space as u8,
        level: key.level,
        first_key: key.first_key(),
    };
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
    dictionary
        .iter()
        .for_each(|counter| body.extend(counter.to_le_bytes()));
    let mut at = 0;
    while at < LEAF_BLOCKS {
        let run = leaf[at..]
            .iter()
            .enumerate()
            .take_while(|(i, e)| follows(leaf[at], **e, *i));
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
                let Entry::Data(block) = entry else {
                    unreachable!("a run is of one state")
                };
                body.extend(block.sum.to_le_bytes());
            }
        }
        at += blocks;
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
    page(
        volume,
        &Header {
            kind: 4,
            space: 0,
            level: 0,
            first_key: 0,
        },
        &body,
    )
}

/// Encodes a list of at most [`LIST_ENTRIES_MAX`] pages.
pub(super) fn encode_list(volume: VolumeId, level: u8, pages: &[PagePtr]) -> Vec<u8> {
    assert!(pages.len() <= LIST_ENTRIES_MAX && level <= LIST_LEVEL_MAX);
    let mut body = Vec::new();
    pages.iter().for_each(|ptr| put_pointer(&mut body, ptr));
    page(
        volume,
        &Header {
            kind: 5,
            space: 0,
            level,
            first_key: 0,
        },
        &body,
    )
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
    page(
        volume,
        &Header {
            kind: 6,
            space: 0,
            level: 0,
            first_key: 0,
        },
        &body,
    )
}

/// Writes groups of changes into as many delta pages as they need.
pub(super) struct DeltaWriter {
    volume: VolumeId,
    pages: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl DeltaWriter {
    pub(super) fn new(volume: VolumeId) -> Self {
        Self {
            volume,
            pages: Vec::new(),
            body: Vec::new(),
        }
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
        let header = Header {
            kind: 7,
            space: 0,
            level: 0,
            first_key: 0,
        };
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
