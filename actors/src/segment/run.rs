//! The runs of a read, as they fill up with verified bytes.

use bytes::Bytes;
use model::BLOCK_BYTES;

use crate::messages::BlockRun;
use crate::planted::{Bug, planted};

const BLOCK: u32 = BLOCK_BYTES as u32;

/// All runs of one read.
#[derive(Debug)]
pub(super) struct Runs {
    runs: Vec<Run>,
    /// Blocks not yet read.
    left: usize,
}

#[derive(Debug)]
struct Run {
    /// First byte in the segment's data.
    offset: u32,
    sums: Vec<u32>,
    bytes: Filled,
}

/// What is there of a run. Only bytes that have the index's checksum get here (R19).
#[derive(Debug)]
enum Filled {
    Nothing,
    /// All of it, a part of the buffer that one disk's answer came in.
    Whole(Bytes),
    /// Block by block.
    Blocks {
        buffer: Vec<u8>,
        done: Vec<u64>,
    },
}

/// Which block of which run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At {
    run: usize,
    block: usize,
}

impl Run {
    fn len(&self) -> u32 {
        u32::try_from(self.sums.len()).expect("bounded by the segment") * BLOCK
    }
}

impl Runs {
    /// `None` unless the runs are whole blocks within the segment, ascending and apart.
    pub(super) fn new(runs: Vec<BlockRun>, segment_bytes: u32) -> Option<Self> {
        let mut end = 0_u64;
        let mut left = 0;
        for run in &runs {
            let (start, blocks) = (u64::from(run.offset), run.sums.len());
            if start < end || !start.is_multiple_of(u64::from(BLOCK)) || blocks == 0 {
                return None;
            }
            end = start + blocks as u64 * u64::from(BLOCK);
            left += blocks;
        }
        if end > u64::from(segment_bytes) {
            return None;
        }
        let new = |run: BlockRun| Run {
            offset: run.offset,
            sums: run.sums,
            bytes: Filled::Nothing,
        };
        Some(Self {
            runs: runs.into_iter().map(new).collect(),
            left,
        })
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Each run's (offset, length) in the segment's data.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u32, u32)> {
        self.runs.iter().map(|run| (run.offset, run.len()))
    }

    /// The block of the segment's data at a byte offset, if it is asked for.
    pub(super) fn find(&self, offset: u32) -> Option<At> {
        let run = self
            .runs
            .partition_point(|run| run.offset <= offset)
            .checked_sub(1)?;
        let block = ((offset - self.runs[run].offset) / BLOCK) as usize;
        (block < self.runs[run].sums.len()).then_some(At { run, block })
    }

    /// Whether bytes are what the index says of this block.
    pub(super) fn verify(&self, at: At, bytes: &[u8]) -> bool {
        bytes.len() == BLOCK_BYTES
            && (model::crc32c(bytes) == self.runs[at.run].sums[at.block]
                || planted(Bug::UncheckedFragment))
    }

    /// Whether the block was read already.
    pub(super) fn has(&self, at: At) -> bool {
        match &self.runs[at.run].bytes {
            Filled::Nothing => false,
            Filled::Whole(_) => true,
            Filled::Blocks { done, .. } => done[at.block / 64] >> (at.block % 64) & 1 == 1,
        }
    }

    /// The bytes of a block that was read already.
    pub(super) fn get(&self, at: At) -> Option<Bytes> {
        let range = at.block * BLOCK_BYTES..(at.block + 1) * BLOCK_BYTES;
        match &self.runs[at.run].bytes {
            Filled::Whole(bytes) => Some(bytes.slice(range)),
            Filled::Blocks { buffer, .. } if self.has(at) => {
                Some(Bytes::copy_from_slice(&buffer[range]))
            }
            Filled::Nothing | Filled::Blocks { .. } => None,
        }
    }

    /// Takes a verified block; a second time is harmless.
    pub(super) fn put(&mut self, at: At, bytes: &[u8]) {
        if self.has(at) {
            return;
        }
        let run = &mut self.runs[at.run];
        if let Filled::Nothing = run.bytes {
            let blocks = run.sums.len();
            run.bytes = Filled::Blocks {
                buffer: vec![0; blocks * BLOCK_BYTES],
                done: vec![0; blocks.div_ceil(64)],
            };
        }
        let Filled::Blocks { buffer, done } = &mut run.bytes else {
            unreachable!("a whole run has all its blocks");
        };
        buffer[at.block * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(bytes);
        done[at.block / 64] |= 1 << (at.block % 64);
        self.left = self.left.checked_sub(1).expect("a block is put once");
    }

    /// If the run that begins at `offset` lies wholly at the start of `bytes`, has nothing yet
    /// and verifies, takes it without a copy. Answers how many bytes were taken.
    pub(super) fn put_whole(&mut self, offset: u32, bytes: &Bytes) -> Option<usize> {
        let index = self
            .runs
            .binary_search_by_key(&offset, |run| run.offset)
            .ok()?;
        let run = &mut self.runs[index];
        let len = run.sums.len() * BLOCK_BYTES;
        if len > bytes.len() || !matches!(run.bytes, Filled::Nothing) {
            return None;
        }
        let blocks = bytes[..len].chunks_exact(BLOCK_BYTES);
        if !blocks
            .zip(&run.sums)
            .all(|(block, sum)| model::crc32c(block) == *sum || planted(Bug::UncheckedFragment))
        {
            return None;
        }
        run.bytes = Filled::Whole(bytes.slice(..len));
        self.left = self
            .left
            .checked_sub(run.sums.len())
            .expect("a run is put once");
        Some(len)
    }

    /// Each run's bytes, in order.
    pub(super) fn into_bytes(self) -> Vec<Bytes> {
        assert_eq!(self.left, 0, "a read is answered when it is complete");
        let all = self.runs.into_iter().map(|run| match run.bytes {
            Filled::Whole(bytes) => bytes,
            Filled::Blocks { buffer, .. } => Bytes::from(buffer),
            Filled::Nothing => unreachable!("a complete run has bytes"),
        });
        all.collect()
    }
}
