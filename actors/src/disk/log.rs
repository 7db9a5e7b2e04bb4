//! The records of one volume's replica: Raft's log matching over dense sequence numbers. Pure.

use std::collections::VecDeque;

use model::ids::{Position, Seq};
use model::journal::{Checkpoint, RecordBody, RecordHead};
use model::store::EntryAt;

use super::batch::Serial;

/// Where an entry lies on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Slot {
    /// Its durable place.
    pub(super) at: Option<EntryAt>,
    /// The queued entry that takes its place once durable.
    pub(super) pending: Option<Serial>,
}

/// A record of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) head: RecordHead,
    pub(super) slot: Slot,
}

/// Why an append can't be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// There is no record `prev`.
    Mismatch,
    /// It would truncate committed records: no correct owner asks for that.
    Committed,
}

/// The log of one replica.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Log {
    base: Position,
    committed: Position,
    records: VecDeque<Held>,
    /// Seqs of held checkpoint records, ascending.
    checkpoints: VecDeque<Seq>,
    /// Bytes of the held records, as they weigh.
    bytes: u64,
}

impl Log {
    /// An empty log that starts after `base`, all of it committed.
    pub(super) fn new(base: Position) -> Self {
        Self {
            base,
            committed: base,
            ..Self::default()
        }
    }

    pub(super) fn base(&self) -> Position {
        self.base
    }

    pub(super) fn committed(&self) -> Position {
        self.committed
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The last record's position, or the base.
    pub(super) fn last(&self) -> Position {
        self.records.back().map_or(self.base, |r| r.head.position)
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        let first = self.base.seq.0.checked_add(1)?;
        let index = usize::try_from(seq.0.checked_sub(first)?).ok()?;
        (index < self.records.len()).then_some(index)
    }

    /// The held record with this seq.
    pub(super) fn held(&self, seq: Seq) -> Option<&Held> {
        self.records.get(self.index(seq)?)
    }

    pub(super) fn held_mut(&mut self, seq: Seq) -> Option<&mut Held> {
        let index = self.index(seq)?;
        self.records.get_mut(index)
    }

    /// The position with this seq: the base's or a held record's.
    pub(super) fn position_at(&self, seq: Seq) -> Option<Position> {
        if seq == self.base.seq {
            return Some(self.base);
        }
        self.held(seq).map(|r| r.head.position)
    }

    /// The held records from `seq` on.
    pub(super) fn from(&self, seq: Seq) -> impl Iterator<Item = &Held> {
        let first = self.base.seq.0.saturating_add(1);
        let skip = usize::try_from(seq.0.saturating_sub(first)).unwrap_or(usize::MAX);
        self.records.iter().skip(skip)
    }

    /// How many of `records` (dense, after `prev`) are held already, so that duplicated, reordered
    /// and stale appends are harmless: only a real conflict truncates. Changes nothing.
    ///
    /// # Errors
    /// See [`Refused`].
    pub(super) fn plan(&self, prev: Position, records: &[RecordHead]) -> Result<usize, Refused> {
        let mut skip = 0;
        if prev.seq < self.base.seq {
            // What was trimmed was committed; the log can only be joined at its base.
            let gap = self.base.seq.0 - prev.seq.0;
            let at = usize::try_from(gap - 1).map_err(|_| Refused::Mismatch)?;
            let joint = records.get(at).ok_or(Refused::Mismatch)?;
            if joint.position != self.base {
                return Err(Refused::Mismatch);
            }
            skip = at + 1;
        } else if self.position_at(prev.seq) != Some(prev) {
            return Err(Refused::Mismatch);
        }
        while let Some(record) = records.get(skip) {
            if self.position_at(record.position.seq) != Some(record.position) {
                break;
            }
            skip += 1;
        }
        if let Some(first) = records.get(skip)
            && first.position.seq <= self.committed.seq
        {
            return Err(Refused::Committed);
        }
        Ok(skip)
    }

    /// Drops records from `seq` on; returns the places of those that were durable.
    pub(super) fn truncate_from(&mut self, seq: Seq) -> Vec<EntryAt> {
        assert!(
            seq > self.committed.seq,
            "a committed record is never truncated"
        );
        let keep = usize::try_from(seq.0 - self.base.seq.0 - 1).unwrap_or(usize::MAX);
        let mut freed = Vec::new();
        while self.records.len() > keep {
            let dropped = self.records.pop_back().expect("longer than `keep`");
            self.forget(&dropped, &mut freed);
        }
        while self.checkpoints.back().is_some_and(|s| *s >= seq) {
            self.checkpoints.pop_back();
        }
        freed
    }

    /// Appends a record.
    pub(super) fn push(&mut self, held: Held) {
        let (last, next) = (self.last(), held.head.position);
        assert_eq!(next.seq, last.seq.next(), "sequence numbers are dense");
        assert!(next.epoch >= last.epoch, "epochs never fall along a log");
        if matches!(held.head.body, RecordBody::Checkpoint(_)) {
            self.checkpoints.push_back(next.seq);
        }
        self.bytes += held.head.weight() as u64;
        self.records.push_back(held);
    }

    /// Raises what is known to be committed to `min(committed, matched)`. A `committed` that
    /// this log contradicts raises nothing.
    pub(super) fn commit(&mut self, committed: Position, matched: Position) {
        let to = if committed.seq > matched.seq {
            matched
        } else {
            committed
        };
        if to.seq > self.committed.seq && self.position_at(to.seq) == Some(to) {
            self.committed = to;
        }
    }

    /// The latest committed checkpoint record that is durable, after the one at `known`. One
    /// that covers less than `covers` is passed over: trimming may have gone so far.
    pub(super) fn committed_checkpoint(
        &self,
        known: Seq,
        covers: Seq,
    ) -> Option<(Position, Checkpoint, EntryAt)> {
        let seqs = self.checkpoints.iter().rev();
        for seq in seqs.filter(|s| **s <= self.committed.seq) {
            if *seq <= known {
                return None;
            }
            let held = self.held(*seq).expect("listed checkpoints are held");
            let (Some(at), RecordBody::Checkpoint(checkpoint)) = (held.slot.at, &held.head.body)
            else {
                continue;
            };
            if checkpoint.covers.seq >= covers {
                return Some((held.head.position, *checkpoint, at));
            }
        }
        None
    }

    /// Drops records up to `base`; returns the places of those that were durable.
    pub(super) fn trim(&mut self, base: Position) -> Vec<EntryAt> {
        assert_eq!(
            self.position_at(base.seq),
            Some(base),
            "a trim ends at a record"
        );
        assert!(
            base.seq <= self.committed.seq,
            "only committed records are trimmed"
        );
        let mut freed = Vec::new();
        while self
            .records
            .front()
            .is_some_and(|r| r.head.position.seq <= base.seq)
        {
            let dropped = self.records.pop_front().expect("just seen");
            self.forget(&dropped, &mut freed);
        }
        while self.checkpoints.front().is_some_and(|s| *s <= base.seq) {
            self.checkpoints.pop_front();
        }
        self.base = base;
        freed
    }

    /// Forgets all and starts after `base`; returns the places of what was durable.
    pub(super) fn reset(&mut self, base: Position) -> Vec<EntryAt> {
        let old = std::mem::replace(self, Self::new(base));
        old.records.iter().filter_map(|r| r.slot.at).collect()
    }

    fn forget(&mut self, dropped: &Held, freed: &mut Vec<EntryAt>) {
        self.bytes -= dropped.head.weight() as u64;
        freed.extend(dropped.slot.at);
    }
}
