//! The metadata groups' logs on RocksDB: raft-meta's trait over disk-store's store.
//!
//! Keys of a group: `s` the snapshot, `h` the hard state, `e` and a big-endian index an entry.

use std::path::Path;

use disk_store::raft_log::{Change, MetaStore, MetaStoreError};
use model::ids::{Incarnation, SiteId};
use model::wire::{self, WireError};
use raft_meta::log::{LoadedLog, LogWrite, RaftLog, SnapshotWrite};
use raft_meta::message::{GroupId, LogIndex};
use thiserror::Error;

const SNAPSHOT: &[u8] = b"s";
const HARD: &[u8] = b"h";
const ENTRY: u8 = b'e';

/// The log failed, or holds what no log of this version holds.
#[derive(Debug, Error)]
pub enum RaftLogError {
    /// The store.
    #[error(transparent)]
    Store(#[from] MetaStoreError),
    /// A value does not decode.
    #[error("the metadata log holds a malformed value")]
    Malformed(#[from] WireError),
}

impl RaftLogError {
    /// Whether what was synced is wrong or missing (R8), rather than out of reach now.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Store(MetaStoreError::Damaged(_)) | Self::Malformed(_)
        )
    }
}

/// The logs of a node's groups.
pub struct RocksRaftLog {
    store: MetaStore,
    /// Per group: first and last index held, so that removing a range names its keys.
    held: std::collections::BTreeMap<GroupId, (u64, u64)>,
}

fn group_byte(group: GroupId) -> u8 {
    match group {
        GroupId::Global => 0,
        GroupId::Site(site) => site.0,
    }
}

fn entry_key(index: u64) -> Vec<u8> {
    let mut key = vec![ENTRY];
    key.extend(index.to_be_bytes());
    key
}

impl RocksRaftLog {
    /// Opens the logs in a directory; `None` if there are none.
    ///
    /// # Errors
    /// [`RaftLogError`]; damaged logs mean a new directory incarnation (R8).
    pub fn open(path: &Path) -> Result<Option<Self>, RaftLogError> {
        Ok(MetaStore::open(path)?.map(Self::of))
    }

    /// Makes the logs of a new directory incarnation, in a directory without any.
    ///
    /// # Errors
    /// The device's.
    pub fn create(path: &Path, life: Incarnation) -> Result<Self, RaftLogError> {
        Ok(Self::of(MetaStore::create(path, life)?))
    }

    fn of(store: MetaStore) -> Self {
        Self {
            store,
            held: std::collections::BTreeMap::new(),
        }
    }

    /// The directory incarnation whose logs they are.
    #[must_use]
    pub fn life(&self) -> Incarnation {
        self.store.life()
    }

    fn load_group(&mut self, group: GroupId) -> Result<Option<LoadedLog>, RaftLogError> {
        let Some(pairs) = self.store.load(group_byte(group))? else {
            return Ok(None);
        };
        let mut log = LoadedLog::default();
        for (key, value) in pairs {
            match key.as_slice() {
                SNAPSHOT => log.snapshot = Some(wire::decode_own(&value)?),
                HARD => log.hard = wire::decode_own(&value)?,
                [ENTRY, ..] => log.entries.push(wire::decode_own(&value)?),
                _ => return Err(WireError::Malformed.into()),
            }
        }
        let first = log.entries.first().map_or(0, |e| e.index.0);
        let last = log.entries.last().map_or(0, |e| e.index.0);
        self.held.insert(group, (first, last));
        Ok(Some(log))
    }

    /// The keys of a group's change: what goes, and what comes. From here on they count as held:
    /// a write that fails is the last one (R8).
    fn change(&mut self, group: GroupId, write: &LogWrite) -> Change {
        let (mut first, mut last) = self.held.get(&group).copied().unwrap_or((0, 0));
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        let mut drop_range = |from: u64, to: u64| {
            if from > 0 {
                deletes.extend((from..=to).map(entry_key));
            }
        };
        if let Some(SnapshotWrite { snapshot, reset }) = &write.snapshot {
            let LogIndex(index) = snapshot.index;
            if *reset || index >= last {
                drop_range(first, last);
                (first, last) = (0, 0);
            } else if first > 0 && index >= first {
                drop_range(first, index);
                first = index + 1;
            }
            puts.push((SNAPSHOT.to_vec(), wire::encode(snapshot)));
        }
        if let (Some(new_first), Some(new_last)) = (write.entries.first(), write.entries.last()) {
            let (new_first, new_last) = (new_first.index.0, new_last.index.0);
            if first > 0 && new_first <= last {
                drop_range(new_first, last);
            }
            first = if first == 0 {
                new_first
            } else {
                first.min(new_first)
            };
            last = new_last;
            puts.extend(
                write
                    .entries
                    .iter()
                    .map(|e| (entry_key(e.index.0), wire::encode(e))),
            );
        }
        if let Some(hard) = &write.hard {
            puts.push((HARD.to_vec(), wire::encode(hard)));
        }
        self.held.insert(group, (first, last));
        Change {
            group: group_byte(group),
            deletes,
            puts,
        }
    }
}

impl RaftLog for RocksRaftLog {
    type Error = RaftLogError;

    fn load(&mut self) -> Result<Vec<(GroupId, LoadedLog)>, RaftLogError> {
        let mut logs = Vec::new();
        let sites = (1..u8::MAX).map(|id| GroupId::Site(SiteId(id)));
        for group in std::iter::once(GroupId::Global).chain(sites) {
            if let Some(log) = self.load_group(group)? {
                logs.push((group, log));
            }
        }
        Ok(logs)
    }

    fn write(&mut self, batch: &[(GroupId, LogWrite)]) -> Result<(), RaftLogError> {
        let changes: Vec<Change> = batch
            .iter()
            .map(|(group, write)| self.change(*group, write))
            .collect();
        Ok(self.store.write(&changes)?)
    }
}

#[cfg(test)]
mod tests {
    use model::ids::{Boot, Incarnation, NodeId};
    use raft_meta::message::{EntryBody, LogEntry, MemberId, Members, Snapshot, Term};
    use raft_meta::node::{Config, Identity, MetaNode};

    use super::*;

    fn founding() -> Vec<(GroupId, LogWrite)> {
        let address = "127.0.0.1:1".parse().expect("an address");
        let identity = Identity {
            node: NodeId(1),
            boot: Boot(1),
            directory: Incarnation(1),
            name: "a1".into(),
            site: SiteId(1),
            address,
            nbd: address,
        };
        MetaNode::found(&identity, "a", &Config::default())
    }

    /// A node that founds a fabric, and dies in the middle of it, founds it when it starts again.
    #[test]
    fn a_write_of_several_groups_is_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let mut log = RocksRaftLog::create(&path, Incarnation(1)).expect("is made");
        let mut batch = founding();
        let refused = GroupId::Site(SiteId(u8::MAX));
        batch.push((refused, batch[0].1.clone()));
        assert!(log.write(&batch).is_err());
        assert_eq!(log.load().expect("loads"), []);
        log.write(&founding()).expect("writes");
        assert_eq!(log.load().expect("loads").len(), 2);
    }

    /// Writes of a group within one batch count in their order, and are read back as one.
    #[test]
    fn writes_of_one_batch_follow_each_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let entries = |indices: std::ops::Range<u64>, term: u64| LogWrite {
            entries: indices
                .map(|index| LogEntry {
                    index: LogIndex(index),
                    term: Term(term),
                    body: EntryBody::Empty,
                })
                .collect(),
            ..LogWrite::default()
        };
        let group = GroupId::Global;
        let mut batch = vec![founding().swap_remove(0)];
        batch.push((group, entries(2..7, 1)));
        batch.push((group, entries(4..6, 2)));
        let mut log = RocksRaftLog::create(&path, Incarnation(1)).expect("is made");
        log.write(&batch).expect("writes");
        log.write(&[(group, entries(5..6, 3))]).expect("writes");
        let mut wanted = LoadedLog::default();
        for (_, write) in batch.iter().chain(&[(group, entries(5..6, 3))]) {
            wanted.apply(write);
        }
        drop(log);
        let log = RocksRaftLog::open(&path).expect("opens");
        let loaded = log.expect("it is there").load().expect("loads");
        assert_eq!(loaded, [(group, wanted)]);
    }

    #[test]
    fn a_snapshot_that_is_too_long_to_travel_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        let snapshot = Snapshot {
            index: LogIndex(9),
            term: Term(1),
            members: Members {
                voters: vec![MemberId::new(NodeId(1), Incarnation(1))],
                learners: Vec::new(),
                outgoing: Vec::new(),
            },
            state: vec![7; wire::HEADER_BYTES_MAX + 1],
        };
        let write = LogWrite {
            snapshot: Some(SnapshotWrite {
                snapshot: snapshot.clone(),
                reset: true,
            }),
            ..LogWrite::default()
        };
        let path = directory.path().join("log");
        let mut log = RocksRaftLog::create(&path, Incarnation(1)).expect("is made");
        log.write(&[(GroupId::Global, write)]).expect("writes");
        drop(log);
        let log = RocksRaftLog::open(&path).expect("opens");
        let loaded = log.expect("it is there").load();
        let loaded = loaded.expect("what was written is read");
        assert!(
            matches!(&loaded[..], [(GroupId::Global, log)] if log.snapshot.as_ref() == Some(&snapshot))
        );
    }
}
