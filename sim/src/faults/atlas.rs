//! The fault atlas: what may still be hurt, computed from the placement (R24). Within it a run
//! must lose nothing and recover; beyond it, nothing is struck.
//!
//! A disk on which something rotted counts against the budget of its rows until the scrub has had
//! all of it repaired. What went with its disk counts until its slots are moved (R20). A damaged replica of a journal is refilled, and counts until then.

use std::collections::{BTreeMap, BTreeSet};

use coding::Codec;
use model::geometry::Pool;
use model::ids::{DiskId, DiskRef, Row, Slot, VolumeId};
use model::placement::{SpreadTable, View};

use crate::invariants::is_sound;
use crate::world::World;

/// Rows of each pool that no lost disk touches, at least.
const ROWS_MIN: usize = 2;

/// What was hurt so far.
#[derive(Clone, Debug, Default)]
pub struct Atlas {
    /// A site is lost for good in this run. It takes all the slack of `rs:4+2`, and leaves a
    /// journal with two replicas, of which each may be needed.
    pub loses_site: bool,
    /// Disks of which fragments were lost for good.
    fragments: BTreeSet<DiskId>,
    /// Disks that have no room now.
    full: BTreeSet<DiskId>,
    /// Disks on which fragments rotted that may not be repaired yet.
    rotten: BTreeSet<DiskId>,
    /// Disks whose journal was damaged, and their nodes' lives then.
    journals: BTreeMap<DiskId, u64>,
}

impl Atlas {
    /// Whether fragments of a disk may be lost for good: in each row of each pool as many slots
    /// stay whole as decoding needs.
    #[must_use]
    pub fn allows_fragments(&self, view: &View, disk: DiskId) -> bool {
        let hurt = |at: &DiskRef| at.disk == disk || self.is_hurt(at.disk);
        // A slot keeps a disk that serves, whatever rotted there, and one that is lost until it
        // is given up: segments go to what rows are left.
        let writable = |(pool, table): (&Pool, &SpreadTable)| {
            let whole = rows(*pool, table).filter(|row| !row.iter().any(hurt));
            whole.count() >= ROWS_MIN
        };
        self.allows_loss(view, &[disk]) && view.pools.iter().all(writable)
    }

    /// Whether these disks may go for good at once: every row stays decodable.
    #[must_use]
    pub fn allows_loss(&self, view: &View, disks: &[DiskId]) -> bool {
        // Of a slot that is being moved, each of both places may hold what the other one lacks.
        let hurt = |(at, former): &Place| {
            let gone = |at: &DiskRef| disks.contains(&at.disk) || self.is_hurt(at.disk);
            gone(at) || former.as_ref().is_some_and(gone)
        };
        let decodable = |(pool, table): (&Pool, &SpreadTable)| {
            let Ok(codec) = Codec::new(pool.code) else {
                return false;
            };
            places(*pool, table).all(|row| {
                let left = row.iter().filter(|(_, at)| !hurt(at));
                codec.decodable(left.map(|(slot, _)| *slot).collect())
            })
        };
        !self.loses_site && view.pools.iter().all(decodable)
    }

    /// Whether a disk may be full: each pool keeps rows with room, so that nobody may be told that
    /// there is none (R18).
    #[must_use]
    pub fn allows_full(&self, view: &View, disk: DiskId) -> bool {
        let taken = |at: &DiskRef| {
            let hurt = self.full.contains(&at.disk) || self.is_hurt(at.disk);
            at.disk == disk || hurt
        };
        view.pools.iter().all(|(pool, table)| {
            let roomy = rows(*pool, table).filter(|row| !row.iter().any(taken));
            roomy.count() >= ROWS_MIN
        })
    }

    /// A disk has no room, or has it again.
    pub fn note_full(&mut self, disk: DiskId, full: bool) {
        match full {
            true => self.full.insert(disk),
            false => self.full.remove(&disk),
        };
    }

    /// Whether some disk has no room now.
    #[must_use]
    pub fn any_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Whether a journal on a disk may be damaged: every other replica of the volume is whole,
    /// and was not damaged in a way that its disk may not have found out. They may be away, or
    /// behind: what they lack, others have, and a seal waits for those.
    #[must_use]
    pub fn allows_journal(&mut self, world: &World, volume: VolumeId, disk: DiskId) -> bool {
        self.forget_healed(world, volume);
        let Some(record) = world.record(volume) else {
            return false;
        };
        let is_other = |at: &&DiskRef| at.disk != disk;
        let next = record.journal.next.iter().flatten();
        let all: Vec<DiskRef> = record
            .journal
            .replicas
            .iter()
            .chain(next)
            .copied()
            .collect();
        !self.loses_site
            && self.journals.keys().all(|hurt| *hurt == disk)
            && record.journal.next.is_none()
            && all.len() >= 3
            && all
                .iter()
                .filter(is_other)
                .all(|at| is_whole(world, volume, *at))
    }

    fn is_hurt(&self, disk: DiskId) -> bool {
        self.fragments.contains(&disk) || self.rotten.contains(&disk)
    }

    /// Fragments of a disk rotted, or will.
    pub fn note_rot(&mut self, disk: DiskId) {
        self.rotten.insert(disk);
    }

    /// Disks that have all that they should count no more.
    pub fn forget_repaired(&mut self, world: &mut World, volume: VolumeId) {
        let Some(view) = world.whole_view().cloned() else {
            return;
        };
        self.rotten
            .retain(|disk| !is_sound(world, &view, volume, *disk));
    }

    /// Fragments of a disk are lost.
    pub fn note_fragments(&mut self, disk: DiskId) {
        self.fragments.insert(disk);
    }

    /// The journal on a disk is damaged, in that life of its node.
    pub fn note_journal(&mut self, disk: DiskId, life: u64) {
        self.journals.insert(disk, life);
    }

    /// A damaged journal is healed once its disk was opened since, which finds all damage, and
    /// it is refilled; or once nothing names it any more.
    fn forget_healed(&mut self, world: &World, volume: VolumeId) {
        let Some(record) = world.record(volume) else {
            return;
        };
        let next = record.journal.next.iter().flatten();
        let named: Vec<DiskRef> = record
            .journal
            .replicas
            .iter()
            .chain(next)
            .copied()
            .collect();
        self.journals.retain(|disk, life| {
            let Some(at) = named.iter().find(|at| at.disk == *disk) else {
                return false;
            };
            let node = world.nodes.values().find(|n| n.disks.contains_key(disk));
            let reopened = node.is_some_and(|n| n.life > *life);
            !(reopened && counts(world, volume, *at))
        });
    }
}

/// Whether a replica is whole, as far as its disk knows; one that is down is as it was.
fn is_whole(world: &World, volume: VolumeId, at: DiskRef) -> bool {
    let Some(disk) = world.sim_disk(at) else {
        return false;
    };
    let stats = disk.open.as_ref().map(|open| open.machine.stats());
    stats.is_none_or(|s| s.replicas.get(&volume).is_some_and(|r| r.whole))
}

/// Whether a replica is open, whole, and holds all that its volume's owner committed.
fn counts(world: &World, volume: VolumeId, at: DiskRef) -> bool {
    let owner = world.owner(volume).and_then(|node| world.nodes.get(&node));
    let machine = owner
        .and_then(|n| n.process.as_ref())
        .and_then(|p| p.volumes.get(&volume));
    let committed = machine.and_then(actors::volume::Volume::committed);
    let Some(open) = world.open_of(at) else {
        return false;
    };
    let stats = open.machine.stats();
    let whole = stats.replicas.get(&volume).is_some_and(|r| r.whole);
    whole && committed.is_some_and(|(_, at)| open.machine.holds(volume, at))
}

/// The disks of each row of a pool.
fn rows(pool: Pool, table: &SpreadTable) -> impl Iterator<Item = Vec<DiskRef>> + '_ {
    places(pool, table).map(|row| row.into_iter().map(|(_, (at, _))| at).collect())
}

/// A slot's disk, and the one that it is moved from.
type Place = (DiskRef, Option<DiskRef>);

/// The places of each row of a pool, by slot.
fn places(pool: Pool, table: &SpreadTable) -> impl Iterator<Item = Vec<(Slot, Place)>> + '_ {
    (0..table.rows).map(Row).map(move |row| {
        let slots = (0..pool.code.slots()).map(Slot);
        let at = |slot| Some((slot, (table.disk(row, slot)?, table.former(row, slot))));
        slots.filter_map(at).collect()
    })
}
