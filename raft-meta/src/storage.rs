//! The log in memory, as raft-rs reads it: the last snapshot, the entries since (and a tail
//! before it for slow followers). What is durable is the shell's matter ([`crate::log`]).

use std::cell::Cell;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::convert;
use crate::message;

/// Entries kept in memory before the snapshot's index.
const TAIL_ENTRIES: u64 = 1024;

#[derive(Clone, Debug)]
pub(crate) struct MemoryStorage {
    hard: HardState,
    members: ConfState,
    snapshot: Option<message::Snapshot>,
    /// Index and term of the entry before `entries[0]`.
    base: (u64, u64),
    entries: Vec<Entry>,
    /// A member needs a snapshot that names it.
    wanted: Cell<bool>,
}

impl MemoryStorage {
    /// From a checked log; `LoadedLog::check` holds.
    pub(crate) fn load(loaded: &crate::log::LoadedLog) -> Self {
        let base = loaded
            .snapshot
            .as_ref()
            .map_or((0, 0), |s| (s.index.0, s.term.0));
        let entries: Vec<Entry> = loaded.entries.iter().map(convert::entry_to_raft).collect();
        let last = base.0 + entries.len() as u64;
        let mut hard = HardState::default();
        hard.term = loaded.hard.term.0;
        hard.vote = loaded.hard.vote.map_or(0, |v| v.0);
        hard.commit = loaded.hard.commit.0.clamp(base.0, last);
        let members = loaded
            .snapshot
            .as_ref()
            .map(|s| convert::members_to_raft(&s.members));
        Self {
            hard,
            members: members.unwrap_or_default(),
            snapshot: loaded.snapshot.clone(),
            base,
            entries,
            wanted: Cell::new(false),
        }
    }

    pub(crate) fn first(&self) -> u64 {
        self.base.0 + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |s| s.index.0)
    }

    pub(crate) fn latest_snapshot(&self) -> Option<&message::Snapshot> {
        self.snapshot.as_ref()
    }

    /// Whether a newer snapshot was asked for since the last call.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    pub(crate) fn hard(&self) -> &HardState {
        &self.hard
    }

    pub(crate) fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    pub(crate) fn set_members(&mut self, members: ConfState) {
        self.members = members;
    }

    /// Appends entries, replacing those from the first one's index on.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base.0 && first.index <= self.last() + 1);
        self.entries.truncate(usize_of(first.index - self.first()));
        self.entries.extend_from_slice(entries);
    }

    /// Replaces everything by a snapshot that came from the leader.
    pub(crate) fn install(&mut self, snapshot: message::Snapshot) {
        self.base = (snapshot.index.0, snapshot.term.0);
        self.members = convert::members_to_raft(&snapshot.members);
        self.entries.clear();
        self.snapshot = Some(snapshot);
    }

    /// Adopts a snapshot of the applied state and drops what it covers, but for a tail.
    pub(crate) fn compact(&mut self, snapshot: message::Snapshot) {
        assert!(snapshot.index.0 > self.base.0 && snapshot.index.0 <= self.last());
        let keep_from = snapshot.index.0.saturating_sub(TAIL_ENTRIES) + 1;
        if keep_from > self.first() {
            let drop = usize_of(keep_from - self.first());
            let last_dropped = &self.entries[drop - 1];
            self.base = (last_dropped.index, last_dropped.term);
            self.entries.drain(..drop);
        }
        self.snapshot = Some(snapshot);
    }

    /// Entries `[from, to]` that are here; `None` if the first is not.
    pub(crate) fn range(&self, from: u64, to: u64) -> Option<&[Entry]> {
        if from < self.first() || from > to || to > self.last() {
            return None;
        }
        Some(&self.entries[usize_of(from - self.first())..=usize_of(to - self.first())])
    }
}

/// As many entries as have so many bytes of data, and the one after them; one is never too much.
fn at_most(entries: &[Entry], bytes: Option<u64>) -> usize {
    let mut left = bytes.unwrap_or(u64::MAX);
    let fits = |entry: &&Entry| {
        let had = left;
        left = left.saturating_sub(entry.data.len() as u64);
        had > 0
    };
    let count = entries.iter().take_while(fits).count();
    count.max(1).min(entries.len())
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).expect("an index into memory")
}

impl Storage for MemoryStorage {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState {
            hard_state: self.hard.clone(),
            conf_state: self.members.clone(),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let range = usize_of(low - self.first())..usize_of(high - self.first());
        let (range, max) = (&self.entries[range], max_size.into());
        // A leader asks for all that a member lacks, and sends a little of it.
        let mut entries = range[..at_most(range, max)].to_vec();
        raft::util::limit_size(&mut entries, max);
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        if index < self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get(usize_of(index - self.first()));
        entry
            .map(|e| e.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// raft-rs ignores a snapshot whose members do not include the receiver.
    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let fits = |s: &&message::Snapshot| {
            s.index.0 >= request_index && s.members.contains(message::MemberId(to))
        };
        let Some(snapshot) = self.snapshot.as_ref().filter(fits) else {
            self.wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        Ok(convert::snapshot_to_raft(snapshot))
    }
}
