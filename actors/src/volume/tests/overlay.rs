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

fn plain_of(overlay: &Overlay) -> Plain {
    let mut out = vec![None; BLOCKS as usize * BLOCK_BYTES];
    for (first, blocks, content) in overlay.lookup(BlockNo(0), BLOCKS) {
        let start = first.0 as usize * BLOCK_BYTES;
        for i in 0..blocks as usize * BLOCK_BYTES {
            out[start + i] = match &content {
                None => None,
                Some(Content::Data { bytes, .. }) => Some(bytes[i]),
                Some(Content::Hole | Content::Zero) => Some(0),
                Some(Content::Patch(patch)) => {
                    (patch.written[i / 64] >> (i % 64) & 1 == 1).then(|| patch.bytes[i])
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
        // Every data block's checksum is its own.
        for (_, run) in overlay.runs() {
            if let Content::Data { bytes, sums } = &run.content {
                for (i, sum) in sums.first(run.blocks as usize).iter().enumerate() {
                    prop_assert_eq!(*sum, crc32c(&bytes[i * BLOCK_BYTES..(i + 1) * BLOCK_BYTES]));
                }
            }
        }
    }
}
