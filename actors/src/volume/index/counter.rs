//! The names of one owner's segments, and which of them it is done with.
//!
//! **Invariant (R16):** a name that may yet come into the index is open. What was forgotten to be
//! settled stays open: its fragments may be left over, but none is condemned too early.

use std::collections::BTreeSet;

use model::ids::{Epoch, SegmentId, VolumeId};

/// Names the segments of one owner: its epoch, and a counter that continues over epochs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentCounter {
    epoch: Epoch,
    next: u32,
    /// Being written, or written and not in the index.
    open: BTreeSet<u32>,
    /// In the index, of which no checkpoint is committed yet.
    indexed: BTreeSet<u32>,
}

impl SegmentCounter {
    /// The owner of `epoch`; `next` is the checkpoint's `next_counter`.
    #[must_use]
    pub const fn new(epoch: Epoch, next: u32) -> Self {
        Self {
            epoch,
            next,
            open: BTreeSet::new(),
            indexed: BTreeSet::new(),
        }
    }

    /// A segment id that was never used.
    ///
    /// # Panics
    /// After 2^32 segments of one volume.
    pub fn take(&mut self, volume: VolumeId) -> SegmentId {
        let id = SegmentId {
            volume,
            epoch: self.epoch,
            counter: self.next,
        };
        self.open.insert(self.next);
        self.next = self
            .next
            .checked_add(1)
            .expect("a volume has fewer than 2^32 segments");
        id
    }

    /// The counter of the next segment.
    #[must_use]
    pub const fn next(&self) -> u32 {
        self.next
    }

    /// The index takes it in.
    pub fn indexed(&mut self, segment: SegmentId) {
        if segment.epoch == self.epoch && self.open.remove(&segment.counter) {
            self.indexed.insert(segment.counter);
        }
    }

    /// A checkpoint of all that the index took in is committed: what it does not reach, nothing
    /// ever will.
    pub fn checkpointed(&mut self) {
        self.indexed.clear();
    }

    /// It was abandoned, or is to be deleted.
    pub fn settle(&mut self, segment: SegmentId) {
        if segment.epoch == self.epoch {
            self.open.remove(&segment.counter);
        }
    }

    /// Whether the committed index says all there is to say of this segment: the owner's name for
    /// it is settled, or an earlier owner gave it.
    #[must_use]
    pub fn is_settled(&self, segment: SegmentId) -> bool {
        if segment.epoch != self.epoch {
            return segment.epoch < self.epoch;
        }
        let is_named = segment.counter < self.next;
        is_named
            && !self.open.contains(&segment.counter)
            && !self.indexed.contains(&segment.counter)
    }
}
