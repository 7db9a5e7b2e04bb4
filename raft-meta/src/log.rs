//! The durable side of a group's log: what is written, in which order it counts, and what a
//! restart gets back. The shell implements [`RaftLog`] (RocksDB in disk-store); the machines
//! only say what is to be written.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::message::{GroupId, LogEntry, LogIndex, MemberId, Snapshot, Term};

/// Raft's promise; durable before any message that rests on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct HardState {
    /// The current term.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<MemberId>,
    /// A position known to be committed; may lag.
    pub commit: LogIndex,
}

/// A snapshot that is to be written.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SnapshotWrite {
    /// The snapshot; replaces the older one.
    pub snapshot: Snapshot,
    /// Whether the whole log goes (it came from the leader); else only the entries that the
    /// snapshot covers go.
    pub reset: bool,
}

/// One atomic change of a group's log. The parts count in the order of the fields.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct LogWrite {
    /// The snapshot, if there is a new one.
    pub snapshot: Option<SnapshotWrite>,
    /// Entries, ascending without gaps. The log's entries from the first one's index on are
    /// removed before.
    pub entries: Vec<LogEntry>,
    /// The hard state, if it changed.
    pub hard: Option<HardState>,
}

/// A group's log as it was found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct LoadedLog {
    /// The snapshot; a group that was ever written has one.
    pub snapshot: Option<Snapshot>,
    /// The entries after it, ascending without gaps.
    pub entries: Vec<LogEntry>,
    /// The hard state.
    pub hard: HardState,
}

/// A loaded log is not one that this crate could have written.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LogDamage {
    /// Entries without a snapshot, with a gap, or with falling terms.
    #[error("the log's entries are not contiguous")]
    Gap,
    /// The snapshot does not decode, or names impossible members.
    #[error("the log's snapshot is damaged")]
    Snapshot,
    /// The hard state's term lies before the log's.
    #[error("the log's hard state is older than its entries")]
    HardState,
}

impl LoadedLog {
    /// Carries out a write, as a [`RaftLog`] does durably.
    pub fn apply(&mut self, write: &LogWrite) {
        if let Some(SnapshotWrite { snapshot, reset }) = &write.snapshot {
            if *reset {
                self.entries.clear();
            }
            self.entries.retain(|e| e.index > snapshot.index);
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|e| e.index < first.index);
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard) = write.hard {
            self.hard = hard;
        }
    }

    /// The last index, zero if there is none.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        let of_snapshot = self.snapshot.as_ref().map_or(LogIndex(0), |s| s.index);
        self.entries.last().map_or(of_snapshot, |e| e.index)
    }

    /// Checks what a machine relies on. Bytes from a disk never panic.
    ///
    /// # Errors
    /// See [`LogDamage`].
    pub fn check(&self) -> Result<(), LogDamage> {
        let Some(snapshot) = &self.snapshot else {
            return if self.entries.is_empty() {
                Ok(())
            } else {
                Err(LogDamage::Gap)
            };
        };
        if !snapshot.members.is_sound() || snapshot.index.0 == 0 || snapshot.term.0 == 0 {
            return Err(LogDamage::Snapshot);
        }
        let (mut index, mut term) = (snapshot.index.0, snapshot.term);
        for entry in &self.entries {
            if Some(entry.index.0) != index.checked_add(1) || entry.term < term {
                return Err(LogDamage::Gap);
            }
            (index, term) = (entry.index.0, entry.term);
        }
        if self.hard.term < term {
            return Err(LogDamage::HardState);
        }
        Ok(())
    }
}

/// The durable log of all of a node's groups.
pub trait RaftLog {
    /// What may go wrong. After an error of `write` nothing is known: the node stops (R8).
    type Error: std::error::Error + Send + Sync + 'static;

    /// All groups' logs, at start.
    ///
    /// # Errors
    /// The device failed, or the log was recovered to less than was synced (R8): the node
    /// must then start with a new directory incarnation and no logs.
    fn load(&mut self) -> Result<Vec<(GroupId, LoadedLog)>, Self::Error>;

    /// Makes a batch durable, atomically: returns after the sync.
    ///
    /// # Errors
    /// The device failed.
    fn write(&mut self, batch: &[(GroupId, LogWrite)]) -> Result<(), Self::Error>;
}

/// A log in memory: for tests and the simulator, which decides itself what survives a crash.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    groups: BTreeMap<GroupId, LoadedLog>,
}

impl MemoryLog {
    /// A group's log as it is durable now.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&LoadedLog> {
        self.groups.get(&group)
    }
}

impl RaftLog for MemoryLog {
    type Error = Infallible;

    fn load(&mut self) -> Result<Vec<(GroupId, LoadedLog)>, Infallible> {
        Ok(self.groups.iter().map(|(g, l)| (*g, l.clone())).collect())
    }

    fn write(&mut self, batch: &[(GroupId, LogWrite)]) -> Result<(), Infallible> {
        for (group, write) in batch {
            self.groups.entry(*group).or_default().apply(write);
        }
        Ok(())
    }
}
