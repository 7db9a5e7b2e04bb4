//! Volumes: the machines' mutations, each guarded by the epoch that its sender knows.

use std::collections::BTreeSet;

use model::BLOCK_BYTES;
use model::cut::Cut;
use model::geometry::Code;
use model::ids::{Boot, DiskRef, Epoch, NodeId, SiteId, Version, VolumeId};
use model::journal::Checkpoint;
use model::meta::{MetaReply, MetaRequest, Refusal};
use model::placement::{JournalConfig, Owner, Presence, VolumeRecord};
use model::planted::{Bug, planted};
use model::sometimes::{Sometimes, reached};
use model::time::WallTime;

use super::GlobalState;
use super::registry::RecordMut;

/// Bound of a volume's name in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Bound of a volume's size: clients count its bytes with a sign, and the last whole block ends here.
const SIZE_BYTES_MAX: u64 = (1 << 63) - BLOCK_BYTES as u64;

/// A volume's journal replicas (R6).
const REPLICAS_MAX: usize = 3;

impl GlobalState {
    pub(super) fn apply_meta(&mut self, by: NodeId, boot: Boot, request: MetaRequest) -> MetaReply {
        let concerned = concerned(&request);
        let done = match request {
            MetaRequest::ReadVolume { volume } => Ok(volume),
            MetaRequest::Claim {
                volume,
                expected,
                node,
                found_on,
            } => self.claim(volume, expected, (node, found_on), by, boot),
            MetaRequest::Publish {
                volume,
                epoch,
                checkpoint,
                clean,
                at,
            } => match self.publish(volume, epoch, (checkpoint, at), clean, by) {
                Ok(()) => return MetaReply::Done,
                Err(reason) => Err(reason),
            },
            MetaRequest::BeginJournalChange {
                volume,
                epoch,
                version,
                replicas,
            } => self.begin_change(volume, epoch, version, replicas, by),
            MetaRequest::EndJournalChange {
                volume,
                epoch,
                version,
                adopt,
            } => self.end_change(volume, epoch, version, adopt, by),
            MetaRequest::CreateVolume {
                name,
                size_bytes,
                code,
                home,
                journal,
            } => self.create_volume(name, size_bytes, code, home, journal),
            MetaRequest::ResizeVolume {
                volume,
                expected,
                size_bytes,
            } => self.resize_volume(volume, expected, size_bytes),
            MetaRequest::EndCut {
                volume,
                epoch,
                resized,
            } => self.end_cut(volume, epoch, resized, by),
            MetaRequest::RecoverVolume {
                volume,
                expected,
                version,
                from,
                covered,
                replicas,
                to,
                at,
            } => {
                let current = (expected, version);
                self.recover_volume(volume, current, (from, covered, at), replicas, to)
            }
            MetaRequest::DeleteVolume { volume } => self.delete_volume(volume),
            MetaRequest::MoveVolume {
                volume,
                expected,
                to,
            } => self.move_volume(volume, expected, to),
        };
        match done {
            Ok(volume) => MetaReply::Volume(self.volumes.get(&volume).cloned()),
            Err(reason) => {
                let record = concerned.and_then(|v| self.volumes.get(&v).cloned());
                MetaReply::Refused { reason, record }
            }
        }
    }

    pub(super) fn live(&mut self, volume: VolumeId) -> Result<RecordMut<'_>, Refusal> {
        self.volumes
            .edit(volume)
            .filter(|v| !v.deleted)
            .ok_or(Refusal::NoVolume)
    }

    /// R1: every start of a Volume machine raises the epoch. Only the node that the record
    /// names may, or any node if it names none.
    fn claim(
        &mut self,
        volume: VolumeId,
        expected: Epoch,
        (node, found_on): (NodeId, Option<Vec<DiskRef>>),
        by: NodeId,
        boot: Boot,
    ) -> Result<VolumeId, Refusal> {
        if node != by || self.site_of_node(by).is_none() {
            return Err(Refusal::NotYours);
        }
        // A disk that was removed meanwhile is no reason not to serve.
        let found_on = found_on.filter(|set| self.replica_sites(set).is_ok());
        let mut record = self.live(volume)?;
        if record.epoch != expected {
            return Err(Refusal::StaleEpoch);
        }
        if record.owner.is_some_and(|owner| owner.node != by) {
            return Err(Refusal::NotYours);
        }
        record.epoch = record.epoch.next();
        // R5: a change that the last owner left pending can't be settled any more, since that
        // is its epoch's; it never counted in a seal, and now it counts for nothing.
        if record.journal.next.take().is_some() {
            record.journal.version = record.journal.version.next();
        }
        // R3: all is covered, so that a quorum of the old set has nothing that the new one needs.
        if let Some(set) = found_on.filter(|_| record.clean && record.to_salvage().is_none()) {
            record.journal.replicas = set;
            record.journal.version = record.journal.version.next();
        }
        // A clean volume stays clean until its new owner says that the journal is founded
        // (`Publish`): until then nothing was acknowledged, and a successor may found anew (R3).
        record.owner = Some(Owner {
            node: by,
            boot: Some(boot),
        });
        Ok(volume)
    }

    /// The record, if that node owns it in that epoch.
    fn owned(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        by: NodeId,
    ) -> Result<RecordMut<'_>, Refusal> {
        let record = self.live(volume)?;
        if record.epoch != epoch {
            return Err(Refusal::StaleEpoch);
        }
        let claimed = |o: Owner| o.node == by && o.boot.is_some();
        if !record.owner.is_some_and(claimed) {
            return Err(Refusal::NotYours);
        }
        Ok(record)
    }

    /// R3: a backstop; after a clean one nobody owns the volume.
    fn publish(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        (checkpoint, at): (Checkpoint, WallTime),
        clean: bool,
        by: NodeId,
    ) -> Result<(), Refusal> {
        let mut record = self.owned(volume, epoch, by)?;
        if checkpoint.covers >= record.checkpoint.covers {
            record.checkpoint = checkpoint;
            record.published = Some(at);
        } else if clean {
            // All is covered, by something older than what was published: not its last word.
            return Err(Refusal::StaleEpoch);
        }
        if record.is_to_found() && !clean {
            assert!(
                record.founded < epoch,
                "a journal is founded by a new epoch"
            );
            record.founded = epoch;
        }
        if let Some(recovered) = &mut record.recovered {
            recovered.pending &= planted(Bug::RecoverForever);
        }
        record.clean = clean;
        if clean {
            record.owner = None;
        }
        Ok(())
    }

    /// R5: from now on acknowledgements need both sets.
    fn begin_change(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        version: Version,
        replicas: Vec<DiskRef>,
        by: NodeId,
    ) -> Result<VolumeId, Refusal> {
        let sites = self.replica_sites(&replicas);
        let mut record = self.owned(volume, epoch, by)?;
        if record.journal.version != version {
            return Err(Refusal::StaleVersion);
        }
        if record.to_salvage().is_some() {
            // R11: it names the only copy, which must not be left before others have it.
            return Err(Refusal::BadReplicas);
        }
        match &record.journal.next {
            None => {
                let sites = sites?;
                assert!(sites.len() == replicas.len() || planted(Bug::TwoInOneSite));
                record.journal.next = Some(replicas);
            }
            // The same again: the first answer was lost. A disk may have been removed since.
            Some(next) if *next == replicas => {}
            Some(_) => return Err(Refusal::StaleVersion),
        }
        Ok(volume)
    }

    /// R5: a committed entry settles it; adopting and cancelling both raise the version.
    fn end_change(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        version: Version,
        adopt: bool,
        by: NodeId,
    ) -> Result<VolumeId, Refusal> {
        let mut record = self.owned(volume, epoch, by)?;
        if record.journal.version != version {
            return Err(Refusal::StaleVersion);
        }
        let next = record.journal.next.take().ok_or(Refusal::StaleVersion)?;
        if adopt {
            record.journal.replicas = next;
        }
        record.journal.version = record.journal.version.next();
        Ok(volume)
    }

    /// R6: at most one replica a site, on disks that are known in that life.
    pub(super) fn replica_sites(&self, replicas: &[DiskRef]) -> Result<BTreeSet<SiteId>, Refusal> {
        let known = replicas.iter().map(|at| self.site_of_disk(*at));
        let sites: Option<BTreeSet<SiteId>> = known.collect();
        let sites = sites.ok_or(Refusal::BadReplicas)?;
        let apart = sites.len() == replicas.len() || planted(Bug::TwoInOneSite);
        let sound = (1..=REPLICAS_MAX).contains(&replicas.len()) && apart;
        if sound {
            Ok(sites)
        } else {
            Err(Refusal::BadReplicas)
        }
    }

    fn create_volume(
        &mut self,
        name: String,
        size_bytes: u64,
        code: Code,
        home: SiteId,
        journal: Vec<DiskRef>,
    ) -> Result<VolumeId, Refusal> {
        if !(1..=NAME_BYTES_MAX).contains(&name.len())
            || name.contains(['@', '/'])
            || name.chars().any(char::is_control)
            || self.volumes.named(&name).is_some()
        {
            return Err(Refusal::BadName);
        }
        check_size(size_bytes)?;
        if !self.has_room_for(&name) {
            return Err(Refusal::Full);
        }
        let sites = self.replica_sites(&journal)?;
        let up = |s: &SiteId| {
            self.sites
                .get(s)
                .is_some_and(|e| e.presence == Presence::Up)
        };
        let settled_up = self.settled_sites().iter().filter(|s| up(s)).count();
        let first = self.site_of_disk(journal[0]);
        // One in each of the sites, up to three; home's first, unless home is away.
        if sites.len() != settled_up.min(REPLICAS_MAX) || (up(&home) && first != Some(home)) {
            return Err(Refusal::BadReplicas);
        }
        if !self
            .sites
            .get(&home)
            .is_some_and(|s| s.presence != Presence::Gone && s.role.holds_data())
        {
            return Err(Refusal::BadReplicas);
        }
        self.create_pools_for(code).map_err(|_| Refusal::BadCode)?;
        let id = VolumeId(self.next_volume);
        self.next_volume = self.next_volume.checked_add(1).ok_or(Refusal::BadName)?;
        let journal = JournalConfig {
            version: Version(1),
            replicas: journal,
            next: None,
        };
        let record = VolumeRecord {
            id,
            name,
            size_bytes,
            resized: Version(1),
            cut: None,
            code,
            home,
            epoch: Epoch(0),
            owner: None,
            journal,
            checkpoint: Checkpoint::EMPTY,
            clean: true,
            founded: Epoch(0),
            published: None,
            recovered: None,
            deleted: false,
        };
        assert!(self.volumes.add(record), "its id and its name are new");
        Ok(id)
    }

    /// What a smaller volume loses is lost for good, although it is still in the journal and
    /// in the index: the owner makes a hole of it, and says so ([`Self::end_cut`]). Until then
    /// an owned volume can't grow: its owner may still know the old size, and serve what was
    /// cut off as if it had never been, or acknowledge what it then cuts off. Where there is no
    /// owner, the next one begins by reading this record.
    fn resize_volume(
        &mut self,
        volume: VolumeId,
        expected: Version,
        size_bytes: u64,
    ) -> Result<VolumeId, Refusal> {
        check_size(size_bytes)?;
        let mut record = self.live(volume)?;
        if record.resized != expected {
            return Err(Refusal::StaleVersion);
        }
        let old = record.size_bytes;
        if size_bytes == old {
            return Ok(volume);
        }
        if size_bytes < old {
            let cut = Cut {
                from: size_bytes,
                to: old,
            };
            record.cut = Some(record.cut.map_or(cut, |earlier| earlier.join(cut)));
        } else if record.cut.is_some() {
            if record.owner.is_some() {
                return Err(Refusal::CutPending);
            }
            reached(Sometimes::GrownUnserved);
        }
        record.size_bytes = size_bytes;
        record.resized = record.resized.next();
        Ok(volume)
    }

    /// The owner has journaled what was cut off by then: nothing of it will be seen again.
    fn end_cut(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        resized: Version,
        by: NodeId,
    ) -> Result<VolumeId, Refusal> {
        let mut record = self.owned(volume, epoch, by)?;
        if record.resized != resized || record.cut.is_none() {
            return Err(Refusal::StaleVersion);
        }
        record.cut = None;
        record.resized = record.resized.next();
        Ok(volume)
    }

    /// R16: the tombstone stays for good, the name is free.
    fn delete_volume(&mut self, volume: VolumeId) -> Result<VolumeId, Refusal> {
        let mut record = self.live(volume)?;
        record.deleted = true;
        drop(record);
        self.unmap_deleted(volume);
        Ok(volume)
    }

    fn move_volume(
        &mut self,
        volume: VolumeId,
        expected: Epoch,
        to: NodeId,
    ) -> Result<VolumeId, Refusal> {
        if self.site_of_node(to).is_none() {
            return Err(Refusal::NotYours);
        }
        let mut record = self.live(volume)?;
        if record.epoch != expected {
            return Err(Refusal::StaleEpoch);
        }
        record.epoch = record.epoch.next();
        record.owner = Some(Owner {
            node: to,
            boot: None,
        });
        Ok(volume)
    }
}

fn check_size(size_bytes: u64) -> Result<(), Refusal> {
    let fits = (1..=SIZE_BYTES_MAX).contains(&size_bytes);
    let sound = fits && size_bytes.is_multiple_of(BLOCK_BYTES as u64);
    if sound { Ok(()) } else { Err(Refusal::BadSize) }
}

fn concerned(request: &MetaRequest) -> Option<VolumeId> {
    match request {
        MetaRequest::CreateVolume { .. } => None,
        MetaRequest::Claim { volume, .. }
        | MetaRequest::ReadVolume { volume }
        | MetaRequest::Publish { volume, .. }
        | MetaRequest::BeginJournalChange { volume, .. }
        | MetaRequest::EndJournalChange { volume, .. }
        | MetaRequest::ResizeVolume { volume, .. }
        | MetaRequest::EndCut { volume, .. }
        | MetaRequest::RecoverVolume { volume, .. }
        | MetaRequest::DeleteVolume { volume }
        | MetaRequest::MoveVolume { volume, .. } => Some(*volume),
    }
}
