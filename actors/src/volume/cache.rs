//! Verified blocks of segments, in bounded memory. Segments are immutable and their ids never
//! reused, so nothing here is ever stale.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use model::ids::SegmentId;

/// Names a block of a segment: its id and the block's index in it.
pub type CacheKey = (SegmentId, u32);

/// A second-chance cache of blocks.
#[derive(Debug)]
pub struct BlockCache {
    blocks: BTreeMap<CacheKey, (Bytes, bool)>,
    order: VecDeque<CacheKey>,
    blocks_max: usize,
}

impl BlockCache {
    /// A cache of at most so many blocks.
    #[must_use]
    pub fn new(blocks_max: usize) -> Self {
        Self {
            blocks: BTreeMap::new(),
            order: VecDeque::new(),
            blocks_max,
        }
    }

    /// A block, if it is here.
    pub fn get(&mut self, key: CacheKey) -> Option<Bytes> {
        let (bytes, used) = self.blocks.get_mut(&key)?;
        *used = true;
        Some(bytes.clone())
    }

    /// Keeps a block.
    pub fn put(&mut self, key: CacheKey, bytes: Bytes) {
        if self.blocks_max == 0 {
            return;
        }
        if self.blocks.insert(key, (bytes, false)).is_none() {
            self.order.push_back(key);
        }
        while self.blocks.len() > self.blocks_max {
            let oldest = self.order.pop_front().expect("as many keys as blocks");
            match self.blocks.get_mut(&oldest) {
                Some((_, used)) if *used => {
                    *used = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    self.blocks.remove(&oldest);
                }
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.order.clear();
    }

    /// Blocks held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}
