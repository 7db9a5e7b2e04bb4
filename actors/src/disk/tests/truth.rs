//! What is true of a volume: its owners' logs, and what the disk said that it holds.

use std::collections::BTreeSet;

use model::ids::{Position, Seq, VolumeId};
use model::journal::{Checkpoint, RecordBody, RecordHead};
use model::time::Time;

use super::bench::at;
use crate::disk::Disk;
use crate::disk::entry::Health;
use crate::disk::log::Log;

/// One owner's log, from the first record of all on; its epoch is its index plus one.
#[derive(Clone, Default)]
pub(super) struct Owner {
    pub(super) log: Vec<RecordHead>,
    pub(super) committed: Position,
    pub(super) trim: Position,
}

impl Owner {
    pub(super) fn position(&self, seq: u64) -> Position {
        let before = seq.checked_sub(1).and_then(|i| usize::try_from(i).ok());
        before
            .and_then(|i| self.log.get(i))
            .map_or(Position::ZERO, |r| r.position)
    }

    pub(super) fn contains(&self, p: Position) -> bool {
        p == Position::ZERO || self.position(p.seq.0) == p
    }

    pub(super) fn len(&self) -> u64 {
        self.log.len() as u64
    }

    pub(super) fn push(&mut self, epoch: u64, body: RecordBody) {
        let position = at(epoch, self.len() + 1);
        let payload_len = 2;
        self.log.push(RecordHead {
            position,
            body,
            payload_len,
        });
    }

    /// The latest committed checkpoint.
    pub(super) fn checkpoint(&self) -> Option<(Position, Checkpoint)> {
        let committed = self.log.iter().rev();
        let mut committed = committed.filter(|r| r.position.seq <= self.committed.seq);
        committed.find_map(|r| match r.body {
            RecordBody::Checkpoint(c) => Some((r.position, c)),
            _ => None,
        })
    }
}

pub(super) fn payload_of(p: Position) -> [u8; 2] {
    let byte = |n: u64| u8::try_from(n % 256).unwrap();
    [byte(p.epoch.0), byte(p.seq.0)]
}

/// What is true of one volume, and what this disk said.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) owners: Vec<Owner>,
    /// The highest epoch that it said to have promised.
    pub(super) promised: u64,
    /// (epoch, last) that it said to hold.
    pub(super) claims: Vec<(u64, Position)>,
    /// (epoch, until) of leases that owners may count on.
    pub(super) leases: Vec<(u64, Time)>,
    pub(super) released: BTreeSet<u64>,
    /// Epochs whose appends or resets reached it.
    pub(super) wrote: BTreeSet<u64>,
    /// It lost synced bytes and has not said that it is whole again.
    pub(super) wounded: bool,
}

impl Truth {
    pub(super) fn epoch(&self) -> u64 {
        self.owners.len() as u64
    }

    pub(super) fn owner(&self, epoch: u64) -> &Owner {
        &self.owners[usize::try_from(epoch).unwrap() - 1]
    }

    pub(super) fn pick(&self, old: bool) -> u64 {
        let newest = self.epoch();
        if old {
            newest.saturating_sub(1).max(1)
        } else {
            newest
        }
    }

    /// Whether a claim must still hold: no later owner that wrote here has another history.
    pub(super) fn is_valid(&self, (epoch, last): (u64, Position)) -> bool {
        let mut later = self.wrote.iter().filter(|e| **e > epoch);
        later.all(|e| self.owner(*e).contains(last))
    }

    /// Everything held is some owner's history (log matching), with honest bounds.
    pub(super) fn check_log(&self, log: &Log) {
        let last = log.last();
        if last == Position::ZERO {
            return;
        }
        let owner = self.owner(last.epoch.0);
        let base = log.base();
        assert!(owner.contains(base), "the base is in the log's history");
        for held in log.from(Seq(0)) {
            let position = held.head.position;
            assert_eq!(
                owner.log[usize::try_from(position.seq.0).unwrap() - 1],
                held.head
            );
        }
        assert!(log.committed().seq >= base.seq && log.committed().seq <= last.seq);
        let newest = self.owners.last().unwrap();
        assert!(
            newest.contains(log.committed()),
            "what it takes for committed is"
        );
    }

    pub(super) fn check_claims(&self, log: &Log) {
        for claim in self.claims.iter().filter(|c| self.is_valid(**c)) {
            let last = claim.1;
            let held = log.position_at(last.seq) == Some(last) || log.base().seq >= last.seq;
            assert!(held, "{claim:?} was acknowledged and is gone: {log:?}");
        }
    }

    pub(super) fn check_trim(&self, disk: &Disk, v: VolumeId) {
        let replica = &disk.replicas[&v];
        let base = replica.log().base();
        if base != Position::ZERO && replica.health() != Health::Damaged {
            let known = replica
                .known()
                .expect("a checkpoint covers what is trimmed");
            assert!(
                known.checkpoint.covers.seq >= base.seq,
                "never beyond it (R3)"
            );
            let newest = self.owners.last().unwrap();
            assert!(newest.contains(known.position) && newest.committed >= known.position);
        }
    }
}
