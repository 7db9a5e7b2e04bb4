//! Where a block's content is looked up: what was committed since the last freeze, what is
//! being drained, the index.

use std::collections::BTreeSet;

use bytes::Bytes;
use model::ids::{BlockNo, Position};

use super::cache::BlockCache;
use super::index::{Index, Mapping, Missing, Piece};
use super::overlay::{Content, Overlay, Patch, StoredBlock};
use crate::messages::SegmentRef;
use model::BLOCK_BYTES;

/// What is being drained: an exact cut of the volume's history (R13).
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) overlay: Overlay,
    /// The cut: every record up to here, and none after, is in it or in the index.
    pub(super) covers: Position,
    /// Patches whose base can't be read: they are journaled again, behind the cut (R28).
    pub(super) unmerged: BTreeSet<BlockNo>,
    /// There is no room for its data: but for what replaces other data, that is journaled again
    /// as well (R18).
    pub(super) crowded_out: bool,
    /// Of such a cut, the blocks whose data takes the place of data in the index.
    pub(super) replacing: BTreeSet<BlockNo>,
    /// All data before this was looked at for that.
    pub(super) looked_to: BlockNo,
    /// The session table at the cut.
    pub(super) sessions: Vec<u8>,
}

/// Where a run of blocks comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Zeros that nothing stores.
    Zeros {
        /// Whether they are allocated.
        allocated: bool,
    },
    /// Blocks of a segment, to be read and checked.
    Stored {
        segment: SegmentRef,
        offset: u32,
        sums: Vec<u32>,
    },
}

/// A run of blocks of one source; patches (single blocks only) are laid over it in order.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) first: BlockNo,
    pub(super) blocks: u64,
    pub(super) source: Source,
    pub(super) patches: Vec<Patch>,
}

/// All of a volume's content, as of now.
#[derive(Debug)]
pub(super) struct Layers {
    pub(super) active: Overlay,
    pub(super) frozen: Option<Frozen>,
    pub(super) index: Index,
    pub(super) cache: BlockCache,
}

impl Layers {
    /// Blocks of data and of patches that no checkpoint has.
    pub(super) fn undrained_blocks(&self) -> u64 {
        let frozen = self.frozen.as_ref().map_or(0, |f| f.overlay.data_blocks());
        self.active.data_blocks() + frozen
    }

    /// Where `[first, first + blocks)` comes from, in order and without a gap.
    ///
    /// # Errors
    /// The index pages that must be loaded first.
    pub(super) fn gather(&mut self, first: BlockNo, blocks: u64) -> Result<Vec<Slot>, Missing> {
        let mut slots = Vec::new();
        for (first, blocks, content) in self.active.lookup(first, blocks) {
            match content {
                Some(Content::Patch(patch)) => {
                    let from = slots.len();
                    match patch.base() {
                        Some(base) => self.stored_block(first, base, &mut slots),
                        None => self.gather_frozen(first, blocks, &mut slots)?,
                    }
                    slots[from].patches.push(patch);
                }
                Some(content) => slot_of(&mut self.cache, (first, blocks), content, &mut slots),
                None => self.gather_frozen(first, blocks, &mut slots)?,
            }
        }
        Ok(slots)
    }

    fn gather_frozen(
        &mut self,
        first: BlockNo,
        blocks: u64,
        slots: &mut Vec<Slot>,
    ) -> Result<(), Missing> {
        let Some(frozen) = &self.frozen else {
            return self.gather_index(first, blocks, slots);
        };
        for (first, blocks, content) in frozen.overlay.lookup(first, blocks) {
            match content {
                Some(Content::Patch(patch)) => {
                    let from = slots.len();
                    match patch.base() {
                        Some(base) => self.stored_block(first, base, slots),
                        None => self.gather_index(first, blocks, slots)?,
                    }
                    slots[from].patches.push(patch);
                }
                Some(content) => slot_of(&mut self.cache, (first, blocks), content, slots),
                None => self.gather_index(first, blocks, slots)?,
            }
        }
        Ok(())
    }

    fn stored_block(&mut self, at: BlockNo, block: StoredBlock, slots: &mut Vec<Slot>) {
        let StoredBlock {
            segment,
            offset,
            sum,
        } = block;
        stored(&mut self.cache, at, (segment, offset, vec![sum]), slots);
    }

    /// Where the base of a patch of the frozen layer is.
    pub(super) fn gather_base(
        &mut self,
        block: BlockNo,
        slots: &mut Vec<Slot>,
    ) -> Result<(), Missing> {
        let frozen = self.frozen.as_ref();
        match frozen.and_then(|frozen| frozen.overlay.get(block)) {
            Some(Content::Patch(patch)) if patch.base().is_some() => {
                let base = patch.base().expect("just seen");
                self.stored_block(block, base, slots);
                Ok(())
            }
            _ => self.gather_index(block, 1, slots),
        }
    }

    /// Pieces of segments, to be read.
    pub(super) fn slots_of(&mut self, pieces: &[Piece]) -> Vec<Slot> {
        let mut slots = Vec::new();
        for piece in pieces {
            let at = (piece.segment, piece.offset, piece.sums.clone());
            stored(&mut self.cache, piece.first, at, &mut slots);
        }
        slots
    }

    /// Where the index alone says that a range is.
    pub(super) fn gather_index(
        &mut self,
        first: BlockNo,
        blocks: u64,
        slots: &mut Vec<Slot>,
    ) -> Result<(), Missing> {
        let mut at = first.0;
        let count = u32::try_from(blocks).expect("reads are bounded");
        for run in self.index.lookup(first, count)? {
            let blocks = u64::from(run.blocks);
            match run.mapping {
                Mapping::Hole => slots.push(zeros(at, blocks, false)),
                Mapping::Zero => slots.push(zeros(at, blocks, true)),
                Mapping::Data {
                    segment,
                    offset,
                    sums,
                } => {
                    stored(&mut self.cache, BlockNo(at), (segment, offset, sums), slots);
                }
            }
            at += blocks;
        }
        assert_eq!(at, first.0 + blocks, "a lookup covers what was asked");
        Ok(())
    }
}

fn zeros(first: u64, blocks: u64, allocated: bool) -> Slot {
    let source = Source::Zeros { allocated };
    Slot {
        first: BlockNo(first),
        blocks,
        source,
        patches: Vec::new(),
    }
}

fn slot_of(
    cache: &mut BlockCache,
    (first, blocks): (BlockNo, u64),
    content: Content,
    slots: &mut Vec<Slot>,
) {
    let source = match content {
        Content::Data { bytes, .. } => Source::Bytes(bytes),
        Content::Stored {
            segment,
            offset,
            sums,
        } => {
            let count = usize::try_from(blocks).expect("a run fits a segment");
            let sums = sums.first(count).to_vec();
            return stored(cache, first, (segment, offset, sums), slots);
        }
        Content::Hole => Source::Zeros { allocated: false },
        Content::Zero => Source::Zeros { allocated: true },
        Content::Patch(_) => unreachable!("a patch needs its base"),
    };
    slots.push(Slot {
        first,
        blocks,
        source,
        patches: Vec::new(),
    });
}

/// Cuts a stored run at what the cache holds.
fn stored(
    cache: &mut BlockCache,
    first: BlockNo,
    (segment, offset, sums): (SegmentRef, u32, Vec<u32>),
    slots: &mut Vec<Slot>,
) {
    let block_bytes = u32::try_from(BLOCK_BYTES).expect("small");
    let block0 = offset / block_bytes;
    let mut open: Option<usize> = None;
    for (i, sum) in sums.iter().enumerate() {
        let step = u32::try_from(i).expect("a run fits a segment");
        let at = BlockNo(first.0 + i as u64);
        if let Some(bytes) = cache.get((segment.id, block0 + step)) {
            let source = Source::Bytes(bytes);
            slots.push(Slot {
                first: at,
                blocks: 1,
                source,
                patches: Vec::new(),
            });
            open = None;
            continue;
        }
        match open {
            Some(slot) => {
                slots[slot].blocks += 1;
                if let Source::Stored { sums, .. } = &mut slots[slot].source {
                    sums.push(*sum);
                }
            }
            None => {
                open = Some(slots.len());
                let offset = offset + step * block_bytes;
                let source = Source::Stored {
                    segment,
                    offset,
                    sums: vec![*sum],
                };
                slots.push(Slot {
                    first: at,
                    blocks: 1,
                    source,
                    patches: Vec::new(),
                });
            }
        }
    }
}
