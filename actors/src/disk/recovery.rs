//! Replicas from the entries that the journal's scan found, in their order. Entries are a
//! disk's bytes: whatever they say, the worst is a damaged replica (R8), never a panic.

use std::collections::BTreeMap;

use model::ids::{Epoch, Position, Seq, VolumeId};
use model::journal::RecordHead;
use model::store::{EntryAt, ScannedEntry};

use super::entry::{DISK_MARK, Entry, Health, StateEntry};
use super::log::{Held, Log, Slot};
use super::replica::{Known, Replayed};

/// What the scan amounts to.
pub(super) struct Recovered {
    /// The replicas; those in `broken` are damaged and no entry says so yet.
    pub(super) replicas: BTreeMap<VolumeId, Replayed>,
    pub(super) broken: Vec<VolumeId>,
    /// The index of each replica's last `Reset`: nothing before it is a part of the replica.
    pub(super) reset_at: BTreeMap<VolumeId, usize>,
    /// The last entry that says that the disk was damaged once: its place.
    pub(super) damaged_mark: Option<EntryAt>,
    /// The index of the last entry by which every replica before it was damaged: nothing that
    /// counts lies before it. A mark that was copied forward says no such thing.
    pub(super) noted: Option<usize>,
}

#[derive(Default)]
struct Replay {
    promised: Epoch,
    state: Option<(StateEntry, EntryAt)>,
    promise: Option<EntryAt>,
    records: BTreeMap<Seq, (RecordHead, EntryAt)>,
    committed: Position,
    /// `DiskDamaged` came after the last state.
    damaged: bool,
    /// An entry since the last reset can't be read.
    unreadable: bool,
}

/// Replays the entries.
pub(super) fn replay(scan: Vec<ScannedEntry>) -> Recovered {
    let mut volumes: BTreeMap<VolumeId, Replay> = BTreeMap::new();
    let (mut damaged_mark, mut noted) = (None, None);
    let mut reset_at = BTreeMap::new();
    for (index, entry) in scan.into_iter().enumerate() {
        let ScannedEntry { volume, header, at } = entry;
        match Entry::from_header(&header) {
            Ok(Entry::DiskDamaged) => {
                damaged_mark = Some(at);
                noted = Some(index);
                for replay in volumes.values_mut() {
                    replay.damaged = true;
                }
            }
            Ok(Entry::DiskWasDamaged) => damaged_mark = Some(at),
            Ok(Entry::Dropped) => {
                volumes.remove(&volume);
            }
            Ok(entry) if volume != DISK_MARK => {
                if matches!(entry, Entry::Reset(_)) {
                    reset_at.insert(volume, index);
                }
                volumes.entry(volume).or_default().apply(entry, at);
            }
            Err(_) if volume != DISK_MARK => volumes.entry(volume).or_default().unreadable = true,
            Ok(_) | Err(_) => {}
        }
    }
    let mut recovered = Recovered {
        replicas: BTreeMap::new(),
        broken: Vec::new(),
        reset_at,
        damaged_mark,
        noted,
    };
    for (volume, replay) in volumes {
        let (replayed, broken) = replay.finish();
        recovered.replicas.insert(volume, replayed);
        if broken {
            recovered.broken.push(volume);
        }
    }
    recovered
}

impl Replay {
    fn apply(&mut self, entry: Entry, at: EntryAt) {
        match entry {
            Entry::State(state) => {
                let base = state.base.seq;
                self.records.retain(|seq, _| *seq > base);
                self.restate(state, at);
            }
            Entry::Reset(state) => {
                self.records.clear();
                self.unreadable = false;
                self.committed = Position::ZERO;
                self.restate(state, at);
            }
            Entry::Promise { epoch } => {
                if epoch > self.promised {
                    self.promised = epoch;
                    self.promise = Some(at);
                }
            }
            Entry::Record { head, committed } => {
                // A record supersedes what was held at its place and after it.
                drop(self.records.split_off(&head.position.seq));
                self.hold(head, committed, at);
            }
            Entry::Moved { head, committed } => self.hold(head, committed, at),
            Entry::Dropped | Entry::DiskDamaged | Entry::DiskWasDamaged => {
                unreachable!("handled before")
            }
        }
    }

    fn restate(&mut self, state: StateEntry, at: EntryAt) {
        self.promised = self.promised.max(state.promised);
        self.promise = None;
        self.damaged = false;
        self.commit(state.committed);
        self.state = Some((state, at));
    }

    fn hold(&mut self, head: RecordHead, committed: Position, at: EntryAt) {
        self.commit(committed);
        self.records.insert(head.position.seq, (head, at));
    }

    fn commit(&mut self, committed: Position) {
        if committed.seq > self.committed.seq {
            self.committed = committed;
        }
    }

    /// The replica, and whether it is damaged in a way that no entry tells of.
    fn finish(self) -> (Replayed, bool) {
        let mut broken = self.unreadable || self.state.is_none();
        let base = self.state.as_ref().map_or(Position::ZERO, |(s, _)| s.base);
        let mut log = Log::new(base);
        for (head, at) in self.records.into_values() {
            let (last, next) = (log.last(), head.position);
            let follows = last.seq.0.checked_add(1) == Some(next.seq.0);
            if !follows || next.epoch < last.epoch || at.payload_len != head.payload_len {
                broken = true;
                break;
            }
            let slot = Slot {
                at: Some(at),
                pending: None,
            };
            log.push(Held { head, slot });
        }
        log.commit(self.committed, log.last());
        let stated = self
            .state
            .as_ref()
            .map_or(Health::Damaged, |(s, _)| s.health);
        let health = if broken || self.damaged {
            Health::Damaged
        } else {
            stated
        };
        let known = self.state.as_ref().and_then(|(state, at)| {
            let (position, checkpoint) = state.checkpoint?;
            Some(Known {
                position,
                checkpoint,
                table: Some(*at),
            })
        });
        let replayed = Replayed {
            promised: self.promised,
            health,
            log,
            known,
            state: self.state.map(|(_, at)| at),
            promise: self.promise,
        };
        let told = replayed.state.is_some() && stated == Health::Damaged;
        (replayed, broken && !told)
    }
}
