use model::geometry::{Code, Pool};
use model::ids::{Epoch, SegmentId, VolumeId};
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::*;

const BLOCKS: u64 = 24;

#[derive(Clone, Debug)]
enum Op {
    Data {
        first: u64,
        blocks: u64,
        fill: u8,
    },
    Stored {
        first: u64,
        blocks: u64,
        counter: u32,
    },
    Hole {
        first: u64,
        blocks: u64,
    },
    Zero {
        first: u64,
        blocks: u64,
    },
    Patch {
        block: u64,
        at: usize,
        len: usize,
        fill: u8,
    },
}

fn ops() -> impl Strategy<Value = Op> {
    let range = (0..BLOCKS).prop_flat_map(|first| (Just(first), 1..=BLOCKS - first));
    let patch = (0..BLOCKS, 0..BLOCK_BYTES)
        .prop_flat_map(|(block, at)| (Just(block), Just(at), 1..=BLOCK_BYTES - at, any::<u8>()));
    prop_oneof![
        (range.clone(), any::<u8>()).prop_map(|((first, blocks), fill)| Op::Data {
            first,
            blocks,
            fill
        }),
        (range.clone(), any::<u8>()).prop_map(|((first, blocks), counter)| Op::Stored {
            first,
            blocks,
            counter: counter.into(),
        }),
        range
            .clone()
            .prop_map(|(first, blocks)| Op::Hole { first, blocks }),
        range.prop_map(|(first, blocks)| Op::Zero { first, blocks }),
        patch.prop_map(|(block, at, len, fill)| Op::Patch {
            block,
            at,
            len,
            fill
        }),
    ]
}

/// Each byte: written with a value here, or not at all (the base's).
type Plain = Vec<Option<u8>>;

/// A segment whose blocks hold the lowest byte of its counter, counted up.
fn segment(counter: u32) -> SegmentRef {
    let (volume, epoch) = (VolumeId(1), Epoch(1));
    SegmentRef {
        id: SegmentId {
            volume,
            epoch,
            counter,
        },
        pool: Pool::of(Code::INDEX),
        bytes: (BLOCKS as usize * BLOCK_BYTES) as u32,
    }
}

/// What stands for the checksum of a block of a segment.
fn sum_at(counter: u32, block: u32) -> u32 {
    counter << 16 | block
}

fn stored_byte(segment: &SegmentRef, offset: u32) -> u8 {
    let block = offset as usize / BLOCK_BYTES;
    (segment.id.counter as u8).wrapping_add(block as u8)
}

fn plain_of(overlay: &Overlay) -> Plain {
    let mut out = vec![None; BLOCKS as usize * BLOCK_BYTES];
    for (first, blocks, content) in overlay.lookup(BlockNo(0), BLOCKS) {
        let start = first.0 as usize * BLOCK_BYTES;
        for i in 0..blocks as usize * BLOCK_BYTES {
            out[start + i] = match &content {
                None => None,
                Some(Content::Data { bytes, .. }) => Some(bytes[i]),
                Some(Content::Stored {
                    segment, offset, ..
                }) => Some(stored_byte(segment, offset + i as u32)),
                Some(Content::Hole | Content::Zero) => Some(0),
                Some(Content::Patch(patch)) => {
                    let written = patch.written[i / 64] >> (i % 64) & 1 == 1;
                    let base = || {
                        let base = patch.base()?;
                        Some(stored_byte(&base.segment, base.offset))
                    };
                    written.then(|| patch.bytes[i]).or_else(base)
                }
            };
        }
    }
    out
}

proptest! {
    #[test]
    fn agrees_with_a_plain_array(ops in proptest::collection::vec(ops(), 1..24)) {
        let mut overlay = Overlay::default();
        let mut plain: Plain = vec![None; BLOCKS as usize * BLOCK_BYTES];
        for op in ops {
            let (start, len, value) = match op {
                Op::Data { first, blocks, fill } => {
                    let bytes = Bytes::from(vec![fill; blocks as usize * BLOCK_BYTES]);
                    let sum = crc32c(&bytes[..BLOCK_BYTES]);
                    let sums = Sums::new(vec![sum; blocks as usize].into());
                    overlay.insert(BlockNo(first), Run { blocks, content: Content::Data { bytes, sums } });
                    (first as usize * BLOCK_BYTES, blocks as usize * BLOCK_BYTES, fill)
                }
                Op::Stored { first, blocks, counter } => {
                    let segment = segment(counter);
                    let sums = (0..blocks as u32).map(|i| sum_at(counter, i)).collect::<Vec<_>>();
                    let content = Content::Stored { segment, offset: 0, sums: Sums::new(sums.into()) };
                    overlay.insert(BlockNo(first), Run { blocks, content });
                    for i in 0..blocks as usize {
                        let at = (first as usize + i) * BLOCK_BYTES;
                        let byte = stored_byte(&segment, (i * BLOCK_BYTES) as u32);
                        plain[at..at + BLOCK_BYTES].fill(Some(byte));
                    }
                    continue;
                }
                Op::Hole { first, blocks } => {
                    overlay.insert(BlockNo(first), Run { blocks, content: Content::Hole });
                    (first as usize * BLOCK_BYTES, blocks as usize * BLOCK_BYTES, 0)
                }
                Op::Zero { first, blocks } => {
                    overlay.insert(BlockNo(first), Run { blocks, content: Content::Zero });
                    (first as usize * BLOCK_BYTES, blocks as usize * BLOCK_BYTES, 0)
                }
                Op::Patch { block, at, len, fill } => {
                    overlay.patch(BlockNo(block), at, &vec![fill; len], None);
                    (block as usize * BLOCK_BYTES + at, len, fill)
                }
            };
            plain[start..start + len].fill(Some(value));
        }
        prop_assert_eq!(plain_of(&overlay), plain);
        // Every block's checksum is its own, also after runs were cut.
        for (_, run) in overlay.runs() {
            if let Content::Stored { segment, offset, sums } = &run.content {
                let first = offset / BLOCK_BYTES as u32;
                for (i, sum) in (first..).zip(sums.first(run.blocks as usize)) {
                    prop_assert_eq!(*sum, sum_at(segment.id.counter, i));
                }
            }
            if let Content::Data { bytes, sums } = &run.content {
                for (i, sum) in sums.first(run.blocks as usize).iter().enumerate() {
                    prop_assert_eq!(*sum, crc32c(&bytes[i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES]));
                }
            }
        }
    }
}

/// R12: a layer that takes a newer one in is as if all had been written to it.
#[test]
fn a_newer_layer_is_laid_over_an_older_one() {
    let data = |tag: u8, blocks: u64| {
        let bytes = Bytes::from(vec![tag; blocks as usize * BLOCK_BYTES]);
        let sums = Sums::new(vec![0; blocks as usize].into());
        let content = Content::Data { bytes, sums };
        Run { blocks, content }
    };
    let mut older = Overlay::default();
    older.insert(BlockNo(0), data(1, 4));
    older.patch(BlockNo(9), 0, &[2; 10], None);
    assert!(!older.unmaps());
    let mut newer = Overlay::default();
    let content = Content::Hole;
    newer.insert(BlockNo(1), Run { blocks: 2, content });
    newer.patch(BlockNo(3), 0, &[3; 4], None);
    newer.patch(BlockNo(9), 8, &[4; 4], None);
    older.take_in(newer);
    assert!(older.unmaps());
    assert_eq!(older.data_blocks(), 3);
    assert!(matches!(older.get(BlockNo(2)), Some(Content::Hole)));
    let Some(Content::Data { bytes, .. }) = older.get(BlockNo(3)) else {
        panic!("a piece over data is data")
    };
    assert_eq!(bytes[..5], [3, 3, 3, 3, 1]);
    let Some(Content::Patch(patch)) = older.get(BlockNo(9)) else {
        panic!("a piece over a piece is one")
    };
    let pieces = [(0, Bytes::from_static(&[2, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4, 4]))];
    assert_eq!(patch.pieces(), pieces);
}

#[test]
fn a_patch_knows_its_pieces() {
    let patch_of = |ranges: &[(usize, usize)], tag: u8| {
        let mut overlay = Overlay::default();
        for (at, len) in ranges {
            overlay.patch(BlockNo(3), *at, &vec![tag; *len], None);
        }
        match overlay.get(BlockNo(3)) {
            Some(Content::Patch(patch)) => patch,
            other => panic!("no patch: {other:?}"),
        }
    };
    let places = |patch: &Patch| -> Vec<(usize, usize)> {
        let pieces = patch.pieces().into_iter();
        pieces.map(|(at, bytes)| (at, bytes.len())).collect()
    };
    let patch = patch_of(&[(0, 10), (63, 2), (100, 50), (4090, 6)], 7);
    assert_eq!(places(&patch), [(0, 10), (63, 2), (100, 50), (4090, 6)]);
    assert_eq!(patch.pieces()[1], (63, Bytes::from_static(&[7, 7])));
}
