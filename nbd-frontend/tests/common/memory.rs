//! A plain volume in memory, for tests only.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::block::{Allocation, BlockError, Chunk, Extent, Reply, Request};

const BLOCK: u64 = 4096;

/// A sparse array of blocks; what is absent is a hole.
#[derive(Debug, Default)]
pub struct Memory {
    pub size: u64,
    /// An empty vector is an allocated block of zeros.
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Memory {
    pub fn new(size: u64) -> Self {
        Self {
            size,
            blocks: BTreeMap::new(),
        }
    }

    pub fn execute(&mut self, request: Request) -> Reply {
        let (offset, length) = match &request {
            Request::Read { offset, length } => (*offset, u64::from(*length)),
            Request::Write { offset, data } => (*offset, data.len() as u64),
            Request::Zero { offset, length, .. }
            | Request::Trim { offset, length }
            | Request::Status { offset, length } => (*offset, *length),
            Request::Flush => return Reply::Done,
        };
        assert!(length > 0, "the session never submits nothing");
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Reply::Error(BlockError::OutOfRange);
        }
        match request {
            Request::Read { .. } => self.read(offset, length),
            Request::Write { data, .. } => {
                let mut done = 0;
                for (block, start, count) in parts(offset, length) {
                    let bytes = self.blocks.entry(block).or_default();
                    bytes.resize(BLOCK as usize, 0);
                    bytes[start..start + count].copy_from_slice(&data[done..done + count]);
                    done += count;
                }
                Reply::Done
            }
            Request::Zero { allocate, .. } => self.zero(offset, length, allocate),
            Request::Trim { .. } => self.zero(offset, length, false),
            Request::Status { .. } => {
                let extents = parts(offset, length).map(|(block, _, count)| Extent {
                    length: count as u64,
                    state: match self.blocks.get(&block) {
                        None => Allocation::Hole,
                        Some(bytes) if bytes.is_empty() => Allocation::Zero,
                        Some(_) => Allocation::Data,
                    },
                });
                Reply::Status(extents.collect())
            }
            Request::Flush => unreachable!(),
        }
    }

    fn read(&self, offset: u64, length: u64) -> Reply {
        let chunks =
            parts(offset, length).map(|(block, start, count)| match self.blocks.get(&block) {
                Some(bytes) if !bytes.is_empty() => {
                    Chunk::Data(Bytes::copy_from_slice(&bytes[start..start + count]))
                }
                _ => Chunk::Zeros(count as u64),
            });
        Reply::Data(chunks.collect())
    }

    fn zero(&mut self, offset: u64, length: u64, allocate: bool) -> Reply {
        for (block, start, count) in parts(offset, length) {
            if count == BLOCK as usize && !allocate {
                self.blocks.remove(&block);
            } else if count == BLOCK as usize {
                self.blocks.insert(block, Vec::new());
            } else if let Some(bytes) = self.blocks.get_mut(&block)
                && !bytes.is_empty()
            {
                bytes[start..start + count].fill(0);
            }
        }
        Reply::Done
    }
}

/// The blocks of a range: number, first byte in it, bytes in it.
fn parts(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + length;
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        let first = offset.max(block * BLOCK);
        let last = end.min((block + 1) * BLOCK);
        (
            block,
            (first - block * BLOCK) as usize,
            (last - first) as usize,
        )
    })
}
