//! Opening a disk: its machine, from what its stores hold.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::Pool;
use model::ids::{DiskRef, NodeId, Row, VolumeId};
use model::payload::Payload;
use model::placement::DiskHealth;
use model::spread::RowStamp;
use model::store::{FileNo, JournalRoom, ScannedEntry, ScrubMark};
use model::time::Time;

use super::batch::{Batcher, Subject};
use super::entry::{DISK_MARK, Entry, Health};
use super::files::Files;
use super::fragments::Fragments;
use super::gone::Gone;
use super::hung::Waits;
use super::journal_scrub::JournalScrub;
use super::lacking::Lacking;
use super::log::Slot;
use super::moves::Moves;
use super::pressure::Pressure;
use super::recovery::{self, Recovered};
use super::replica::Replica;
use super::room::Room;
use super::scrub::Scrub;
use super::shortage::Shortage;
use super::slowness::Slowness;
use super::{Disk, DiskConfig};
use crate::planted::{Bug, planted};

/// What opening a disk's stores found. The default is a new disk's.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What the journal's scan found, in the order of appending.
    pub scan: Vec<ScannedEntry>,
    /// How many of those come before the last place where something is missing that may have
    /// been synced, if there is one (R8). Damage that an earlier life of the machine already wrote
    /// down is not taken for new.
    pub damage_before: Option<usize>,
    /// What the journal has to go on with.
    pub room: JournalRoom,
    /// What the disk knows of rows' moves (R20).
    pub moves: BTreeMap<(Pool, Row), RowStamp>,
    /// How far its scrub had come when that was last kept.
    pub scrubbed: ScrubMark,
}

impl Disk {
    /// A disk's machine. Call [`Machine::tick`](model::machine::Machine::tick) soon:
    /// [`Machine::next_deadline`](model::machine::Machine::next_deadline) says so if there is
    /// something to write at once.
    #[must_use]
    pub fn open(config: DiskConfig, at: DiskRef, node: NodeId, now: Time, found: Found) -> Self {
        let Found {
            scan,
            damage_before,
            room,
            moves,
            scrubbed,
        } = found;
        let oldest = scan.iter().map(|e| e.at.file).min();
        let newest = scan.iter().map(|e| e.at.file).max();
        let credit = config.move_credit_bytes_max;
        let files = Files::new(oldest.unwrap_or(FileNo(0)), newest, credit);
        let mut disk = Self {
            config,
            at,
            node,
            started: now,
            replicas: BTreeMap::new(),
            batcher: Batcher::new(config.batch_bytes_max, config.batch_entries_max),
            files,
            reads: BTreeMap::new(),
            joins: BTreeMap::new(),
            timers: BTreeMap::new(),
            restate: BTreeSet::new(),
            look_for_moves: true,
            moved_bytes: 0,
            fragments: Fragments::new(config.fragments_max, config.fragment_bytes_max),
            gone: Gone::default(),
            moves: Moves::knowing(moves),
            scrub: Scrub::resumed(config.scrub, now, scrubbed),
            journal_scrub: JournalScrub::new(now, config.scrub.journals_every),
            lacking: Lacking::default(),
            room: Room::default(),
            told_room: true,
            slowness: Slowness::new(config.slowness),
            told_health: DiskHealth::default(),
            shortage: Shortage::default(),
            waits: Waits::default(),
            pressure: Pressure::default(),
            told_short: false,
            appends: 0,
            controls: 0,
            damaged: false,
            damaged_mark: Slot::default(),
            last_op: 0,
            last_token: 0,
            last_timer: 0,
            retired: false,
        };
        disk.shortage.told(now, room);
        disk.take_over(now, recovery::replay(scan), damage_before);
        disk
    }

    /// Goes on with the replicas that the journal holds.
    fn take_over(&mut self, now: Time, recovered: Recovered, damage_before: Option<usize>) {
        // R7: it forgot what leases it granted; each has run out after one term from now.
        let wait_until = if planted(Bug::ForgottenLease) {
            now
        } else {
            now + self.config.lease_term + self.config.lease_margin
        };
        for (volume, replayed) in recovered.replicas {
            let replica = Replica::found(volume, replayed, wait_until, &mut self.batcher);
            for at in replica.places() {
                self.files.need(at, volume);
            }
            self.replicas.insert(volume, replica);
        }
        if let Some(mark) = recovered.damaged_mark {
            self.damaged = true;
            self.files.need(mark, DISK_MARK);
            self.damaged_mark.at = Some(mark);
        }
        let is_new = |before: &usize| recovered.noted.is_none_or(|index| index < *before);
        if let Some(before) = damage_before.filter(is_new) {
            // What a replica lost before its last reset, it was refilled with since: damage
            // that was found while the disk ran, and healed, is not new after a restart.
            let resets = &recovered.reset_at;
            let is_healed = |id: &VolumeId| resets.get(id).is_some_and(|index| *index >= before);
            let is_hit = |(id, replica): &(&VolumeId, &Replica)| {
                // An older mark may be all that says so, and the new one takes its place.
                replica.health() == Health::Damaged || !is_healed(id)
            };
            let hit: Vec<VolumeId> = self.replicas.iter().filter(is_hit).map(|r| *r.0).collect();
            self.note_new_damage(&hit);
        }
        self.note_broken(&recovered.broken);
    }

    /// R8: makes damage durable first of all, whatever a later scan makes of the same files.
    fn note_new_damage(&mut self, hit: &[VolumeId]) {
        self.damaged = true;
        if hit.len() == self.replicas.len() {
            for replica in self.replicas.values_mut() {
                replica.mark_damaged();
            }
            self.mark_damaged_disk(Entry::DiskDamaged);
            return;
        }
        // Each says it for itself; the mark comes last, so that it never stands alone.
        self.note_broken(hit);
        self.mark_damaged_disk(Entry::DiskWasDamaged);
    }

    fn note_broken(&mut self, broken: &[VolumeId]) {
        for volume in broken {
            let replica = self.replicas.get_mut(volume).expect("found at replay");
            replica.queue_damage(&mut self.batcher);
        }
    }

    pub(super) fn mark_damaged_disk(&mut self, entry: Entry) {
        let header = entry.into_header();
        let (serial, _) = self
            .batcher
            .push(DISK_MARK, Subject::DiskMark, header, Payload::empty());
        self.damaged_mark.pending = Some(serial);
    }
}
