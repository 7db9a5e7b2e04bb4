//! Pages decode to what was encoded, and any bytes to an error or a page.

use model::geometry::{Code, Pool};
use model::ids::{Epoch, Layout, SegmentId, SiteId, VolumeId};
use model::journal::PagePtr;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest,
};

use super::super::decode::decode;
use super::super::encode::{DeltaWriter, encode_list, encode_node, encode_root, encode_table};
use super::super::page::{
    AnyGroup, BlockAt, Child, Entry, FANOUT, Group, IndexSegment, LEAF_BLOCKS, LEAF_SEGMENTS,
    LIST_ENTRIES_MAX, Location, Node, NodeKey, PAGE_BYTES, Page, Root, SegmentEntry, Space,
    TABLE_ENTRIES_MAX,
};
use super::VOLUME;

fn pool() -> impl Strategy<Value = Pool> {
    let code = prop_oneof![
        Just(Code::INDEX),
        Just(Code::Rs { k: 4, m: 2 }),
        Just(Code::Geo {
            k: 4,
            m: 1,
            sites: 3
        }),
    ];
    let without = option::of((1..=u8::MAX).prop_map(SiteId));
    (code, without, any::<u8>()).prop_map(|(code, without, layout)| Pool {
        code,
        without,
        layout: Layout(layout),
    })
}

fn block_at() -> impl Strategy<Value = BlockAt> {
    (any::<u32>(), 0_u16..1024, any::<u32>()).prop_map(|(segment, block, sum)| BlockAt {
        segment,
        block,
        sum,
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        Just(Entry::Hole),
        Just(Entry::Zero),
        block_at().prop_map(Entry::Data)
    ]
}

fn row() -> impl Strategy<Value = SegmentEntry> {
    (
        any::<u32>(),
        any::<u64>(),
        pool(),
        1_u16..=1024,
        any::<u32>(),
    )
        .prop_map(|(volume, epoch, pool, blocks, live)| SegmentEntry {
            volume: VolumeId(volume),
            epoch: Epoch(epoch),
            pool,
            blocks,
            live,
        })
}

fn pointer() -> impl Strategy<Value = PagePtr> {
    (
        any::<u64>(),
        any::<u32>(),
        pool(),
        1_u32..=1024,
        any::<u32>(),
        any::<u32>(),
    )
        .prop_map(|(epoch, counter, pool, blocks, block, sum)| PagePtr {
            segment: SegmentId {
                volume: VOLUME,
                epoch: Epoch(epoch),
                counter,
            },
            pool,
            segment_bytes: blocks * PAGE_BYTES as u32,
            offset: block % blocks * PAGE_BYTES as u32,
            length: PAGE_BYTES as u32,
            sum,
        })
}

fn node(key: NodeKey, node: Node) {
    let page = encode_node(VOLUME, key, &node, |_, child| match child {
        Child::At(at) => Some(at),
        Child::New | Child::Absent => None,
    });
    assert_eq!(decode(VOLUME, &page), Ok(Page::Node(key, node)));
    assert!(decode(VolumeId(8), &page).is_err(), "of another volume");
}

#[test]
fn the_worst_pages_fit() {
    let pool = Pool {
        without: Some(SiteId(255)),
        ..Pool::of(Code::Geo {
            k: 4,
            m: 1,
            sites: 3,
        })
    };
    let data = |i| {
        Entry::Data(BlockAt {
            segment: u32::MAX - i as u32,
            block: 1023,
            sum: i as u32,
        })
    };
    let leaf = Box::new(std::array::from_fn::<_, LEAF_BLOCKS, _>(data));
    node(
        NodeKey::leaf(Space::Blocks, (1 << 56) - 1),
        Node::Blocks(leaf),
    );
    let row = SegmentEntry {
        volume: VolumeId(u32::MAX),
        epoch: Epoch(u64::MAX),
        pool,
        blocks: 1024,
        live: u32::MAX,
    };
    let leaf = Box::new([Some(row); LEAF_SEGMENTS]);
    node(
        NodeKey::leaf(Space::Segments, (1 << 25) - 1),
        Node::Segments(leaf),
    );
    let at = Child::At(Location {
        segment: u32::MAX,
        block: 1023,
        sum: u32::MAX,
    });
    node(
        NodeKey {
            space: Space::Blocks,
            level: 7,
            index: 0,
        },
        Node::Inner(Box::new([at; FANOUT])),
    );
    let segment = SegmentId {
        volume: VOLUME,
        epoch: Epoch(u64::MAX),
        counter: u32::MAX,
    };
    let ptr = PagePtr {
        segment,
        pool,
        segment_bytes: 4 << 20,
        offset: 4096,
        length: 4096,
        sum: 1,
    };
    let list = encode_list(VOLUME, 2, &[ptr; LIST_ENTRIES_MAX]);
    assert_eq!(
        decode(VOLUME, &list),
        Ok(Page::List {
            level: 2,
            pages: vec![ptr; 135]
        })
    );
    let epoch = Epoch(u64::MAX);
    let row = IndexSegment {
        volume: VOLUME,
        epoch,
        pool,
        blocks: 1024,
        live: 1024,
    };
    let rows = vec![(u32::MAX, row); TABLE_ENTRIES_MAX];
    assert_eq!(
        decode(VOLUME, &encode_table(VOLUME, &rows)),
        Ok(Page::Table(rows))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn leaves(entries in vec((entry(), 1_usize..40), 1..60), index in 0_u64..1 << 56) {
        // Runs, cut at the leaf's end.
        let mut leaf = Box::new([Entry::Hole; LEAF_BLOCKS]);
        let mut at = 0;
        for (entry, blocks) in entries {
            for i in 0..blocks {
                if at < LEAF_BLOCKS {
                    leaf[at] = match entry {
                        Entry::Data(d) if usize::from(d.block) + i < 1024 => {
                            Entry::Data(BlockAt { block: d.block + i as u16, ..d })
                        }
                        other => other,
                    };
                    at += 1;
                }
            }
        }
        node(NodeKey::leaf(Space::Blocks, index), Node::Blocks(leaf));
    }

    #[test]
    fn roots(a in pointer(), b in pointer(), height in 1_u8..=5, deltas in option::of(pointer())) {
        let root = Root {
            trees: [Some((height, a)), None],
            deltas,
            mapped_blocks: 3,
            data_segments: 4,
            data_stored: 5,
        };
        prop_assert_eq!(decode(VOLUME, &encode_root(VOLUME, &root)), Ok(Page::Root(root)));
        let list = encode_list(VOLUME, 0, &[a, b]);
        prop_assert_eq!(decode(VOLUME, &list), Ok(Page::List { level: 0, pages: vec![a, b] }));
    }

    #[test]
    fn deltas(
        blocks in vec((0_u64..1 << 56, any::<bool>(), vec((any::<u8>(), entry()), 0..256)), 0..20),
        rows in vec((0_u64..1 << 25, any::<bool>(), vec((0_u8..128, option::of(row())), 0..128)), 0..8),
    ) {
        let mut writer = DeltaWriter::new(VOLUME);
        let mut groups = Vec::new();
        for (leaf, forget, entries) in blocks {
            let group = Group { leaf, forget, entries };
            writer.blocks(&group);
            groups.push(AnyGroup::Blocks(group));
        }
        for (leaf, forget, entries) in rows {
            let group = Group { leaf, forget, entries };
            writer.segments(&group);
            groups.push(AnyGroup::Segments(group));
        }
        // Groups that were cut at a page's end are put together again.
        let mut decoded: Vec<AnyGroup> = Vec::new();
        for page in writer.finish() {
            let Ok(Page::Delta(parts)) = decode(VOLUME, &page) else { panic!("a delta page") };
            for part in parts {
                let whole = groups.get(decoded.len().wrapping_sub(1));
                match (decoded.last_mut(), part) {
                    (Some(AnyGroup::Blocks(last)), AnyGroup::Blocks(part))
                        if whole != Some(&AnyGroup::Blocks(last.clone())) =>
                    {
                        prop_assert_eq!((last.leaf, part.forget), (part.leaf, false));
                        last.entries.extend(part.entries);
                    }
                    (Some(AnyGroup::Segments(last)), AnyGroup::Segments(part))
                        if whole != Some(&AnyGroup::Segments(last.clone())) =>
                    {
                        prop_assert_eq!((last.leaf, part.forget), (part.leaf, false));
                        last.entries.extend(part.entries);
                    }
                    (_, part) => decoded.push(part),
                }
            }
        }
        prop_assert_eq!(decoded, groups);
    }

    #[test]
    fn hostile_bodies(
        kind in 0_u8..9, space in 0_u8..3, level in 0_u8..9,
        key in any::<u64>(), aligned in any::<bool>(),
        length in 0_u16..5000, body in vec(any::<u8>(), 4072), sparse in any::<bool>(),
    ) {
        let mut page = b"AIXP".to_vec();
        page.extend([1, kind, space, level]);
        page.extend(VOLUME.0.to_le_bytes());
        page.extend(if aligned { 0 } else { key }.to_le_bytes());
        page.extend(length.to_le_bytes());
        page.extend([0, 0]);
        let used = usize::from(length).min(body.len());
        // Small values reach deeper.
        page.extend(body[..used].iter().map(|b| if sparse { b % 3 } else { *b }));
        page.resize(PAGE_BYTES, 0);
        let _ = decode(VOLUME, &page);
    }

    #[test]
    fn flipped_bytes(entries in vec(entry(), LEAF_BLOCKS), flips in vec((0_usize..4096, any::<u8>()), 1..8)) {
        let leaf: Box<[Entry; LEAF_BLOCKS]> = entries.into_boxed_slice().try_into().expect("256");
        let key = NodeKey::leaf(Space::Blocks, 3);
        let mut page = encode_node(VOLUME, key, &Node::Blocks(leaf), |_, _| None);
        flips.iter().for_each(|(at, with)| page[*at] ^= with);
        let _ = decode(VOLUME, &page);
    }

    #[test]
    fn hostile_pages(bytes in vec(any::<u8>(), 0..5000)) {
        let _ = decode(VOLUME, &bytes);
    }
}
