//! What the placement says is no longer this disk's: replicas and fragments of deleted volumes
//! (R16), and replicas that a committed change left behind (R5).
//!
//! **Invariant:** a replica goes only by a tombstone, or by this disk's own linearizable read
//! of a record that names it no more, with no Join in between. A volume that a view does not
//! show is no evidence (R16).

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{DiskRef, VolumeId};
use model::meta::{MetaReply, MetaToken};
use model::placement::{View, VolumeRecord};
use model::store::{FragmentDone, FragmentOp, OpId};
use model::time::Time;
use model::volumes::VolumeMap;

use super::config::KEYS_MAX;
use super::{Disk, DiskEffect};

/// Records read at once because a replica may have been left behind.
const READS_MAX: usize = 16;

/// What is to go, and what is known to be gone.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Volumes with a committed tombstone.
    tombstones: BTreeSet<VolumeId>,
    /// Those whose fragments may still be here.
    to_sweep: BTreeSet<VolumeId>,
    /// The fragment store's operation for the one that is swept.
    sweep: Option<(OpId, VolumeId)>,
    /// The volumes of the last view.
    seen: VolumeMap,
    /// Records being read, since when.
    reads: BTreeMap<VolumeId, (MetaToken, Time)>,
}

impl Gone {
    /// Whether nothing of this volume is taken any more.
    pub(super) fn is_deleted(&self, volume: VolumeId) -> bool {
        self.tombstones.contains(&volume)
    }

    /// A Join: what was asked before says nothing about the replica that may come of it.
    pub(super) fn joined(&mut self, volume: VolumeId) {
        self.reads.remove(&volume);
    }
}

/// Whether a record counts on that disk, now or after a change.
fn names(record: &VolumeRecord, at: DiskRef) -> bool {
    let next = record.journal.next.iter().flatten();
    record.journal.replicas.iter().chain(next).any(|r| *r == at)
}

impl Disk {
    pub(super) fn view(&mut self, now: Time, view: &View, out: &mut Vec<DiskEffect>) {
        // A tombstone stays: those of what was seen before are known.
        let new = view.volumes.unlike(&self.gone.seen);
        let deleted: Vec<VolumeId> = new.filter(|v| v.deleted).map(|v| v.id).collect();
        for volume in deleted {
            if self.gone.tombstones.insert(volume) {
                self.gone.to_sweep.insert(volume);
                self.cancel_joins(volume, out);
                self.drop_replica(now, volume, out);
            }
        }
        self.gone.seen = view.volumes.clone();
        self.sweep(out);
        let retry = self.config.join_wait_max;
        let left: Vec<VolumeId> = self
            .replicas
            .iter()
            .filter(|(id, replica)| {
                let record = view.volumes.get(id);
                record.is_some_and(|r| r.epoch >= replica.promised() && !names(r, self.at))
            })
            .map(|(id, _)| *id)
            .filter(|id| match self.gone.reads.get(id) {
                Some((_, asked)) => now.since(*asked) >= retry,
                None => true,
            })
            .collect();
        for volume in left {
            if self.gone.reads.len() >= READS_MAX && !self.gone.reads.contains_key(&volume) {
                break;
            }
            self.last_token += 1;
            let token = MetaToken(self.last_token);
            self.gone.reads.insert(volume, (token, now));
            out.push(DiskEffect::ReadVolume { token, volume });
        }
    }

    /// The record of a replica that may have been left behind; whether that was asked.
    pub(super) fn left_behind(
        &mut self,
        now: Time,
        token: MetaToken,
        reply: &MetaReply,
        out: &mut Vec<DiskEffect>,
    ) -> bool {
        let mut reads = self.gone.reads.iter();
        let Some(volume) = reads.find(|(_, (t, _))| *t == token).map(|(id, _)| *id) else {
            return false;
        };
        self.gone.reads.remove(&volume);
        let MetaReply::Volume(Some(record)) = reply else {
            return true;
        };
        let promised = self.replicas.get(&volume).map(super::Replica::promised);
        let current = promised.is_some_and(|promised| record.epoch >= promised);
        if record.id == volume && current && !names(record, self.at) {
            self.drop_replica(now, volume, out);
        }
        true
    }

    fn drop_replica(&mut self, now: Time, volume: VolumeId, out: &mut Vec<DiskEffect>) {
        self.gone.reads.remove(&volume);
        if let Some(replica) = self.replicas.remove(&volume) {
            replica.queue_dropped(&mut self.batcher);
            self.restate.remove(&volume);
            self.wake_reports(now, volume, out);
        }
    }

    // Fragments of deleted volumes.

    /// Lists what the next deleted volume has here, unless a sweep is under way.
    fn sweep(&mut self, out: &mut Vec<DiskEffect>) {
        if self.gone.sweep.is_some() {
            return;
        }
        let Some(volume) = self.gone.to_sweep.first().copied() else {
            return;
        };
        let limit = u32::try_from(KEYS_MAX).expect("small");
        let after = None;
        let request = FragmentOp::List {
            volume,
            after,
            limit,
        };
        self.start_sweep(volume, request, out);
    }

    fn start_sweep(&mut self, volume: VolumeId, request: FragmentOp, out: &mut Vec<DiskEffect>) {
        let op = self.op();
        self.gone.sweep = Some((op, volume));
        out.push(DiskEffect::Fragments { op, request });
    }

    /// The fragment store's answer, if a sweep asked.
    pub(super) fn swept(
        &mut self,
        op: OpId,
        done: FragmentDone,
        out: &mut Vec<DiskEffect>,
    ) -> Option<FragmentDone> {
        let Some((_, volume)) = self.gone.sweep.filter(|(asked, _)| *asked == op) else {
            return Some(done);
        };
        self.gone.sweep = None;
        match done {
            FragmentDone::Keys(keys) if !keys.is_empty() => {
                let keys = keys.into_iter().map(|(key, _)| key).collect();
                self.start_sweep(volume, FragmentOp::Delete { keys }, out);
            }
            FragmentDone::Deleted => self.sweep(out),
            // Nothing is left.
            _ => {
                self.gone.to_sweep.remove(&volume);
                self.sweep(out);
            }
        }
        None
    }
}
