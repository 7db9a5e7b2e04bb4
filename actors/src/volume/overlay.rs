//! Committed writes that no index holds yet, by block: what a read looks at first (R4: only
//! committed records get here), and what a drain packs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use model::ids::BlockNo;
use model::{BLOCK_BYTES, crc32c};

use crate::messages::SegmentRef;
use crate::planted::{Bug, planted};

/// Per-block checksums of a run, shared with the record that brought them.
#[derive(Clone, Debug)]
pub struct Sums {
    all: Arc<[u32]>,
    start: usize,
}

impl Sums {
    /// Wraps a record's checksums.
    #[must_use]
    pub fn new(all: Arc<[u32]>) -> Self {
        Self { all, start: 0 }
    }

    fn skip(&self, blocks: usize) -> Self {
        Self {
            all: Arc::clone(&self.all),
            start: self.start + blocks,
        }
    }

    /// The first `n` checksums.
    #[must_use]
    pub fn first(&self, n: usize) -> &[u32] {
        &self.all[self.start..self.start + n]
    }
}

/// A block of a segment that no index reaches yet (R14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredBlock {
    /// The segment.
    pub segment: SegmentRef,
    /// Where the block begins in the segment's data.
    pub offset: u32,
    /// Its checksum.
    pub sum: u32,
}

/// Bytes of a block that were written piecemeal over a base that is not in memory (R12).
#[derive(Clone, Debug)]
pub struct Patch {
    bytes: Box<[u8; BLOCK_BYTES]>,
    written: Box<[u64; BLOCK_BYTES / 64]>,
    base: Option<StoredBlock>,
}

impl Patch {
    fn over(base: Option<StoredBlock>) -> Self {
        Self {
            bytes: Box::new([0; BLOCK_BYTES]),
            written: Box::new([0; BLOCK_BYTES / 64]),
            base,
        }
    }

    /// What the layer of the patch has under it; else it is what the layers below say.
    #[must_use]
    pub fn base(&self) -> Option<StoredBlock> {
        self.base
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if planted(Bug::PatchOrder) {
            for (i, byte) in (at..).zip(bytes) {
                let old = self.written[i / 64] >> (i % 64) & 1 == 1;
                self.bytes[i] = if old { self.bytes[i] } else { *byte };
            }
        } else {
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
        for i in at..at + bytes.len() {
            self.written[i / 64] |= 1 << (i % 64);
        }
    }

    /// What is written: runs of bytes with where they begin.
    #[must_use]
    pub fn pieces(&self) -> Vec<(usize, Bytes)> {
        let is_written = |i: usize| i < BLOCK_BYTES && self.written[i / 64] >> (i % 64) & 1 == 1;
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < BLOCK_BYTES {
            let end = (at..=BLOCK_BYTES)
                .find(|i| !is_written(*i))
                .unwrap_or(BLOCK_BYTES);
            if end > at {
                pieces.push((at, Bytes::copy_from_slice(&self.bytes[at..end])));
            }
            at = end + 1;
        }
        pieces
    }

    fn whole(&self) -> bool {
        self.written.iter().all(|word| *word == u64::MAX)
    }

    /// Lays the written bytes over `base`, a block.
    pub fn lay_over(&self, base: &mut [u8]) {
        assert_eq!(base.len(), BLOCK_BYTES);
        for (i, byte) in base.iter_mut().enumerate() {
            if self.written[i / 64] >> (i % 64) & 1 == 1 {
                *byte = self.bytes[i];
            }
        }
    }
}

/// What a run of blocks holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes, a multiple of the block size, with a checksum a block.
    Data {
        /// The bytes.
        bytes: Bytes,
        /// Their blocks' checksums.
        sums: Sums,
    },
    /// Blocks of a segment that a record brought (R14).
    Stored {
        /// The segment.
        segment: SegmentRef,
        /// Where the first block begins in its data.
        offset: u32,
        /// The blocks' checksums.
        sums: Sums,
    },
    /// Unmapped; reads as zeros.
    Hole,
    /// Allocated; reads as zeros.
    Zero,
    /// One block: some bytes over a base from a lower layer.
    Patch(Patch),
}

impl Content {
    /// A single block of data, with its checksum made at the merge (R12).
    #[must_use]
    pub fn block(bytes: Bytes) -> Self {
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let sums = Sums::new(Arc::from([crc32c(&bytes)]));
        Self::Data { bytes, sums }
    }

    fn skip(&self, blocks: u64) -> Self {
        match self {
            Self::Data { bytes, sums } => {
                let n = usize::try_from(blocks).expect("a data run fits memory");
                Self::Data {
                    bytes: bytes.slice(n * BLOCK_BYTES..),
                    sums: sums.skip(n),
                }
            }
            Self::Stored {
                segment,
                offset,
                sums,
            } => {
                let n = usize::try_from(blocks).expect("a run fits a segment");
                let skipped = u32::try_from(n * BLOCK_BYTES).expect("a run fits a segment");
                Self::Stored {
                    segment: *segment,
                    offset: offset + skipped,
                    sums: sums.skip(n),
                }
            }
            other => other.clone(),
        }
    }

    fn truncate(&self, blocks: u64) -> Self {
        match self {
            Self::Data { bytes, sums } => {
                let n = usize::try_from(blocks).expect("a data run fits memory");
                Self::Data {
                    bytes: bytes.slice(..n * BLOCK_BYTES),
                    sums: sums.clone(),
                }
            }
            other => other.clone(),
        }
    }
}

/// A run of blocks of one kind.
#[derive(Clone, Debug)]
pub struct Run {
    /// How many blocks.
    pub blocks: u64,
    /// What they hold.
    pub content: Content,
}

/// One layer of committed, not yet indexed contents.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    runs: BTreeMap<u64, Run>,
    data_blocks: u64,
    /// Segments that records brought, by number, whatever is left of them.
    brought: BTreeMap<u32, SegmentRef>,
}

impl Overlay {
    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// A record brings a segment; false if another one brought it, or one of its number.
    pub fn bring(&mut self, segment: SegmentRef) -> bool {
        let number = segment.id.counter;
        self.brought.insert(number, segment).is_none()
    }

    /// The segments that records brought.
    pub fn brought(&self) -> impl Iterator<Item = SegmentRef> {
        self.brought.values().copied()
    }

    /// Blocks of data and patches.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// All runs in block order.
    pub fn runs(&self) -> impl Iterator<Item = (BlockNo, &Run)> {
        self.runs.iter().map(|(first, run)| (BlockNo(*first), run))
    }

    fn cost(run: &Run) -> u64 {
        match run.content {
            Content::Data { .. } | Content::Patch(_) => run.blocks,
            Content::Stored { .. } | Content::Hole | Content::Zero => 0,
        }
    }

    fn put(&mut self, first: u64, run: Run) {
        debug_assert!(run.blocks > 0);
        self.data_blocks += Self::cost(&run);
        let replaced = self.runs.insert(first, run);
        assert!(replaced.is_none(), "a run was put over another");
    }

    fn take(&mut self, first: u64) -> Option<Run> {
        let run = self.runs.remove(&first)?;
        self.data_blocks -= Self::cost(&run);
        Some(run)
    }

    /// Removes `[first, end)`, splitting runs at its borders.
    fn clear(&mut self, first: u64, end: u64) {
        let before = self.runs.range(..first).next_back();
        if let Some((&start, run)) = before
            && start + run.blocks > first
        {
            let run = self.take(start).expect("just seen");
            let kept = first - start;
            let tail = start + run.blocks;
            self.put(
                start,
                Run {
                    blocks: kept,
                    content: run.content.truncate(kept),
                },
            );
            if tail > end {
                let content = run.content.skip(end - start);
                self.put(
                    end,
                    Run {
                        blocks: tail - end,
                        content,
                    },
                );
            }
        }
        while let Some((&start, _)) = self.runs.range(first..end).next() {
            let run = self.take(start).expect("just seen");
            let tail = start + run.blocks;
            if tail > end {
                let content = run.content.skip(end - start);
                self.put(
                    end,
                    Run {
                        blocks: tail - end,
                        content,
                    },
                );
            }
        }
    }

    /// Replaces a run of blocks.
    pub fn insert(&mut self, first: BlockNo, run: Run) {
        assert!(run.blocks > 0);
        if let Content::Data { bytes, .. } = &run.content {
            assert_eq!(bytes.len() as u64, run.blocks * BLOCK_BYTES as u64);
        }
        self.clear(first.0, first.0 + run.blocks);
        self.put(first.0, run);
    }

    /// What one block holds here.
    #[must_use]
    pub fn get(&self, block: BlockNo) -> Option<Content> {
        let (&start, run) = self.runs.range(..=block.0).next_back()?;
        (start + run.blocks > block.0).then(|| run.content.skip(block.0 - start).truncate(1))
    }

    /// Writes a part of a block. `below` is what the layers below hold for it: full content
    /// in memory (data, hole or zero), or anything else if that must be read first.
    pub fn patch(&mut self, block: BlockNo, at: usize, bytes: &[u8], below: Option<Content>) {
        assert!(at + bytes.len() <= BLOCK_BYTES && !bytes.is_empty());
        let base = match self.get(block) {
            Some(content) => Some(content),
            None => below
                .filter(|content| !matches!(content, Content::Patch(_) | Content::Stored { .. })),
        };
        let content = match base {
            Some(Content::Data { bytes: old, .. }) => merged(&old, at, bytes),
            Some(Content::Hole | Content::Zero) => merged(&[0; BLOCK_BYTES], at, bytes),
            Some(Content::Patch(mut patch)) => grown(&mut patch, at, bytes),
            Some(Content::Stored {
                segment,
                offset,
                sums,
            }) => {
                let sum = sums.first(1)[0];
                let base = StoredBlock {
                    segment,
                    offset,
                    sum,
                };
                let base = Some(base).filter(|_| !planted(Bug::PatchBase));
                grown(&mut Patch::over(base), at, bytes)
            }
            None => grown(&mut Patch::over(None), at, bytes),
        };
        self.insert(block, Run { blocks: 1, content });
    }

    /// Lays a newer layer over this one (R12).
    pub fn take_in(&mut self, newer: Self) {
        for (first, run) in newer.runs {
            match run.content {
                // Over a base of its own layer it has all of the block.
                Content::Patch(patch) if patch.base().is_none() => {
                    for (at, bytes) in patch.pieces() {
                        self.patch(BlockNo(first), at, &bytes, None);
                    }
                }
                _ => self.insert(BlockNo(first), run),
            }
        }
        let before = self.brought.len() + newer.brought.len();
        self.brought.extend(newer.brought);
        assert_eq!(self.brought.len(), before, "a segment is brought once (R1)");
    }

    /// Whether something was unmapped.
    #[must_use]
    pub fn unmaps(&self) -> bool {
        let mut runs = self.runs.values();
        runs.any(|run| matches!(run.content, Content::Hole))
    }

    /// The runs that meet `[first, first + blocks)`, clipped to it, with gaps as `None`, in
    /// order and without a hole.
    #[must_use]
    pub fn lookup(&self, first: BlockNo, blocks: u64) -> Vec<(BlockNo, u64, Option<Content>)> {
        let end = first.0 + blocks;
        let mut out = Vec::new();
        let mut at = first.0;
        let start = match self.runs.range(..=first.0).next_back() {
            Some((&start, run)) if start + run.blocks > first.0 => start,
            _ => first.0,
        };
        for (&start, run) in self.runs.range(start..end) {
            let from = start.max(first.0);
            if from > at {
                out.push((BlockNo(at), from - at, None));
            }
            let to = (start + run.blocks).min(end);
            let content = run.content.skip(from - start).truncate(to - from);
            out.push((BlockNo(from), to - from, Some(content)));
            at = to;
        }
        if at < end {
            out.push((BlockNo(at), end - at, None));
        }
        out
    }
}

fn merged(base: &[u8], at: usize, bytes: &[u8]) -> Content {
    let mut block = BytesMut::from(base);
    block[at..at + bytes.len()].copy_from_slice(bytes);
    Content::block(block.freeze())
}

fn grown(patch: &mut Patch, at: usize, bytes: &[u8]) -> Content {
    patch.write(at, bytes);
    if patch.whole() {
        return Content::block(Bytes::copy_from_slice(&patch.bytes[..]));
    }
    Content::Patch(patch.clone())
}

#[cfg(test)]
#[path = "tests/overlay.rs"]
mod tests;
