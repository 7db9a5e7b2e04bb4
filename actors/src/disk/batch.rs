//! Group commit without timers: while one append is in flight, everything else gathers, and
//! goes out as the next one. One fdatasync a batch, whatever the number of volumes.
//!
//! Batches become durable in their order, so a machine's state may run ahead of the disk: a
//! reply only has to wait for the batch (its *ticket*) that holds the last entry it rests on.

use std::collections::VecDeque;

use model::ids::{Seq, VolumeId};
use model::payload::Payload;
use model::store::{EntryAt, JournalEntry, OpId};

use super::after::After;

/// Numbers batches; 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct BatchNo(u64);

/// Numbers queued entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Serial(u64);

/// What a queued entry is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    State,
    Promise,
    Record(Seq),
    Moved(Seq),
    Dropped,
    DiskMark,
}

/// A queued entry's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queued {
    pub(super) serial: Serial,
    pub(super) volume: VolumeId,
    pub(super) subject: Subject,
}

/// Entries that become durable together, and what happens then.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) number: BatchNo,
    entries: Vec<JournalEntry>,
    pub(super) queued: Vec<Queued>,
    /// Entries that are needed no more once this batch is durable, not before: else a crash
    /// between would find neither the old entry nor the new one.
    pub(super) garbage: Vec<(EntryAt, VolumeId)>,
    pub(super) after: Vec<After>,
    bytes: usize,
}

/// The queue of batches.
#[derive(Debug)]
pub(super) struct Batcher {
    waiting: VecDeque<Batch>,
    in_flight: Option<(OpId, Batch)>,
    durable: BatchNo,
    last_number: u64,
    last_serial: u64,
    bytes: usize,
    batch_bytes_max: usize,
    batch_entries_max: usize,
    syncs: u64,
}

impl Batcher {
    pub(super) fn new(batch_bytes_max: usize, batch_entries_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: None,
            durable: BatchNo(0),
            last_number: 0,
            last_serial: 0,
            bytes: 0,
            batch_bytes_max,
            batch_entries_max,
            syncs: 0,
        }
    }

    /// Bytes queued and in flight.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many appends (each one fdatasync) were asked for.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Whether everything up to `ticket` is durable.
    pub(super) fn is_durable(&self, ticket: BatchNo) -> bool {
        ticket <= self.durable
    }

    /// Whether a batch waits to be submitted.
    pub(super) fn is_ready(&self) -> bool {
        self.in_flight.is_none() && !self.waiting.is_empty()
    }

    /// A number that no other entry or lineage has.
    pub(super) fn serial(&mut self) -> Serial {
        self.last_serial += 1;
        Serial(self.last_serial)
    }

    /// Queues an entry; returns its name and the batch that it is in.
    pub(super) fn push(
        &mut self,
        volume: VolumeId,
        subject: Subject,
        header: Vec<u8>,
        payload: Payload,
    ) -> (Serial, BatchNo) {
        let serial = self.serial();
        let bytes = header.len() + payload.len();
        let fits = self.waiting.back().is_some_and(|b| {
            b.bytes + bytes <= self.batch_bytes_max && b.entries.len() < self.batch_entries_max
        });
        if !fits {
            self.last_number += 1;
            self.waiting.push_back(Batch {
                number: BatchNo(self.last_number),
                entries: Vec::new(),
                queued: Vec::new(),
                garbage: Vec::new(),
                after: Vec::new(),
                bytes: 0,
            });
        }
        let batch = self.waiting.back_mut().expect("just made sure");
        batch.entries.push(JournalEntry {
            volume,
            header,
            payload,
        });
        batch.queued.push(Queued {
            serial,
            volume,
            subject,
        });
        batch.bytes += bytes;
        self.bytes += bytes;
        (serial, batch.number)
    }

    /// The entry at `at` is not needed any more once all that is queued now is durable.
    /// Returns whether anything is queued; if not, it is not needed as of now.
    pub(super) fn garbage(&mut self, at: EntryAt, volume: VolumeId) -> bool {
        let tail = match (self.waiting.back_mut(), self.in_flight.as_mut()) {
            (Some(batch), _) | (None, Some((_, batch))) => batch,
            (None, None) => return false,
        };
        tail.garbage.push((at, volume));
        true
    }

    /// Does something once `ticket` is durable; hands it back if it is already.
    pub(super) fn after(&mut self, ticket: BatchNo, after: After) -> Option<After> {
        if self.is_durable(ticket) {
            return Some(after);
        }
        if let Some((_, batch)) = self.in_flight.as_mut()
            && batch.number == ticket
        {
            batch.after.push(after);
            return None;
        }
        let batch = self.waiting.iter_mut().find(|b| b.number == ticket);
        batch
            .expect("a ticket's batch is queued until durable")
            .after
            .push(after);
        None
    }

    /// The next batch's entries, if none is in flight.
    pub(super) fn submit(&mut self, op: OpId) -> Option<Vec<JournalEntry>> {
        if !self.is_ready() {
            return None;
        }
        let mut batch = self.waiting.pop_front()?;
        assert_eq!(
            batch.number.0,
            self.durable.0 + 1,
            "batches go out in order"
        );
        let entries = std::mem::take(&mut batch.entries);
        self.in_flight = Some((op, batch));
        self.syncs += 1;
        Some(entries)
    }

    /// There was no space for an append: it keeps its place, and goes out again. `entries` are its
    /// own.
    pub(super) fn put_back(&mut self, op: OpId, entries: Vec<JournalEntry>) -> bool {
        let Some((_, mut batch)) = self.in_flight.take_if(|(o, _)| *o == op) else {
            return false;
        };
        batch.entries = entries;
        self.waiting.push_front(batch);
        true
    }

    /// The batch of a finished append: durable as of now.
    pub(super) fn complete(&mut self, op: OpId) -> Option<Batch> {
        if self.in_flight.as_ref().is_none_or(|(o, _)| *o != op) {
            return None;
        }
        let (_, batch) = self.in_flight.take()?;
        self.durable = batch.number;
        self.bytes -= batch.bytes;
        Some(batch)
    }

    /// Everything that still waited, of a queue that will never move again.
    pub(super) fn abandon(&mut self) -> Vec<After> {
        let in_flight = self.in_flight.take().map(|(_, batch)| batch);
        let batches = in_flight.into_iter().chain(self.waiting.drain(..));
        let after = batches.flat_map(|b| b.after).collect();
        self.bytes = 0;
        after
    }
}
