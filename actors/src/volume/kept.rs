//! Pieces of blocks whose base can't be read now (R28). The drain goes on without them: their
//! bytes are journaled once more, behind the cut, so that the journal is trimmed and a later
//! drain tries again. Until then a read of the piece's block fails, if it needs the base.
//!
//! **Invariant (R12):** what is journaled again is older than all that was appended meanwhile: of
//! its bytes only those are, that nothing since the cut writes.

use std::ops::Range;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::ids::BlockNo;
use model::journal::{Record, RecordBody, StoredWrite};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::drain::Drain;
use super::overlay::{Content, Patch};
use super::read::Target;
use super::serve::Serving;
use crate::planted::{Bug, planted};

impl Serving {
    /// Ends a merge: what still waits for a base is not waited for, and all that the frozen layer
    /// could not merge is journaled again.
    pub(super) fn keep_unmerged(&mut self, now: Time) {
        if let Drain::Merging { waiting, .. } = &mut self.drain {
            let late = std::mem::take(waiting).into_keys();
            let frozen = self.layers.frozen.as_mut().expect("a drain's layer");
            frozen.unmerged.extend(late);
            self.forget_reads(|target| matches!(target, Target::Base { .. }));
        }
        let frozen = self.layers.frozen.as_ref().expect("a drain's layer");
        let mut kept = Vec::new();
        for block in &frozen.unmerged {
            let Some(Content::Patch(patch)) = frozen.overlay.get(*block) else {
                unreachable!("only patches wait for a base")
            };
            kept.extend(
                self.still_newest(*block, patch)
                    .map(|patch| (*block, patch)),
            );
        }
        for (block, patch) in kept {
            reached(Sometimes::PatchKept);
            if planted(Bug::DroppedPatch) {
                continue;
            }
            for (at, bytes) in patch.pieces() {
                let offset = block.0 * BLOCK_BYTES as u64 + at as u64;
                self.append(now, RecordBody::Kept { offset }, bytes.into());
            }
        }
    }

    /// What nothing since the cut writes, of a patch that belongs to it.
    fn still_newest(&self, block: BlockNo, mut patch: Patch) -> Option<Patch> {
        match self.layers.active.get(block) {
            None => {}
            // Over a base of its own layer it has all of the block.
            Some(Content::Patch(newer)) if newer.base().is_none() => patch.forget(&newer),
            Some(_) => return None,
        }
        let first = block.0 * BLOCK_BYTES as u64;
        for record in self.journal.log().from(self.applied().seq.next()) {
            for range in written(record) {
                let from = range.start.clamp(first, first + BLOCK_BYTES as u64) - first;
                let to = range.end.clamp(first, first + BLOCK_BYTES as u64) - first;
                patch.forget_range(from as usize..to as usize);
            }
        }
        (!patch.is_empty()).then_some(patch)
    }

    /// A kept piece is committed: a drain tries again, after a while.
    pub(super) fn apply_kept(&mut self, now: Time, offset: u64, bytes: &Bytes) {
        self.patch(offset, bytes);
        self.kept_due.get_or_insert(now + self.config.drain_age);
    }

    /// Whether nothing waits for a drain but kept pieces.
    pub(super) fn only_kept(&self) -> bool {
        let log = self.journal.log();
        let mut waiting = log.from(log.base().seq.next());
        self.kept_due.is_some()
            && waiting.all(|r| {
                matches!(
                    r.head.body,
                    RecordBody::Checkpoint(_)
                        | RecordBody::EpochStart
                        | RecordBody::Recovered
                        | RecordBody::Kept { .. }
                )
            })
    }
}

/// The bytes of the volume that a record writes.
fn written(record: &Record) -> Vec<Range<u64>> {
    let payload = u64::from(record.head.payload_len);
    let range = match &record.head.body {
        RecordBody::Write { offset, .. } | RecordBody::Kept { offset, .. } => {
            *offset..*offset + payload
        }
        RecordBody::Zero { offset, length, .. } => *offset..*offset + *length,
        RecordBody::Cut(cut) => cut.from..cut.to,
        RecordBody::Stored(stored) => {
            return stored.writes.iter().map(StoredWrite::range).collect();
        }
        RecordBody::EpochStart
        | RecordBody::Recovered
        | RecordBody::Open(_)
        | RecordBody::Close(_)
        | RecordBody::Checkpoint(_) => return Vec::new(),
    };
    std::iter::once(range).collect()
}
