//! The part of a journal that is not trimmed yet, in memory.

use std::collections::VecDeque;

use model::ids::{Position, Seq};
use model::journal::{RECORD_BYTES, Record, RecordBody, ZERO_PART_BYTES_MAX};

/// Records after `base`, with dense sequence numbers.
#[derive(Clone, Debug, Default)]
pub struct Log {
    base: Position,
    records: VecDeque<Record>,
    written_bytes: u64,
    stored_bytes: u64,
    zeroed_bytes: u64,
}

impl Log {
    /// An empty log after `base`.
    #[must_use]
    pub fn new(base: Position) -> Self {
        Self {
            base,
            records: VecDeque::new(),
            written_bytes: 0,
            stored_bytes: 0,
            zeroed_bytes: 0,
        }
    }

    /// It starts after this position.
    #[must_use]
    pub fn base(&self) -> Position {
        self.base
    }

    /// The last record's position, or the base.
    #[must_use]
    pub fn last(&self) -> Position {
        self.records.back().map_or(self.base, |r| r.head.position)
    }

    /// Bytes of clients' writes held.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Bytes of clients' writes that are in segments already, and that records held refer to.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// What the records held take besides clients' bytes, about.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.records.len() as u64 * RECORD_BYTES
    }

    /// Bytes that records held zero and that stay allocated.
    #[must_use]
    pub fn zeroed_bytes(&self) -> u64 {
        self.zeroed_bytes
    }

    /// Records held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Appends a record.
    pub fn push(&mut self, record: Record) {
        let last = self.last();
        assert_eq!(
            record.head.position.seq,
            last.seq.next(),
            "sequence numbers are dense"
        );
        assert!(
            record.head.position.epoch >= last.epoch,
            "epochs only grow along a log"
        );
        self.written_bytes += written(&record);
        self.stored_bytes += stored(&record);
        self.zeroed_bytes += zeroed(&record);
        self.records.push_back(record);
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        usize::try_from(seq.0.checked_sub(self.base.seq.0 + 1)?).ok()
    }

    /// The record with this number.
    #[must_use]
    pub fn get(&self, seq: Seq) -> Option<&Record> {
        self.records.get(self.index(seq)?)
    }

    /// The position with this number: the base's or a record's.
    #[must_use]
    pub fn position(&self, seq: Seq) -> Option<Position> {
        if seq == self.base.seq {
            return Some(self.base);
        }
        self.get(seq).map(|r| r.head.position)
    }

    /// The records from this number on.
    pub fn from(&self, seq: Seq) -> impl Iterator<Item = &Record> {
        let start = self.index(seq).unwrap_or(0).min(self.records.len());
        self.records.range(start..)
    }

    /// Drops all up to and with `to`.
    pub fn trim(&mut self, to: Position) {
        assert_eq!(
            self.position(to.seq),
            Some(to),
            "a trim point is a position of the log"
        );
        while self.records.front().is_some_and(|r| r.head.position <= to) {
            let record = self.records.pop_front().expect("just seen");
            self.written_bytes -= written(&record);
            self.stored_bytes -= stored(&record);
            self.zeroed_bytes -= zeroed(&record);
        }
        self.base = to;
    }
}

/// What a record counts for in the journal window: a client's bytes.
fn written(record: &Record) -> u64 {
    match record.head.body.brings_bytes() {
        true => record.payload.len() as u64,
        false => 0,
    }
}

/// No owner takes longer parts.
fn zeroed(record: &Record) -> u64 {
    match record.head.body {
        RecordBody::Zero {
            length,
            allocate: true,
            ..
        } => length.min(ZERO_PART_BYTES_MAX),
        _ => 0,
    }
}

fn stored(record: &Record) -> u64 {
    match &record.head.body {
        RecordBody::Stored(stored) => stored.written_bytes(),
        _ => 0,
    }
}
