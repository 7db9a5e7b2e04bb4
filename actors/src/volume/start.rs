//! An owner's start: claim an epoch (R1), seal and adopt, or found a clean volume's journal.

use bytes::Bytes;
use model::ids::{DiskId, DiskRef, RequestId};
use model::meta::{MetaReply, MetaRequest, MetaToken, Refusal};
use model::placement::VolumeRecord;
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::journal::{Adopted, CommittedCheckpoint, Fenced, Journal, Recovery, RecoveryStep};
use super::serve::Serving;
use super::{Effect, Phase, StopReason, Volume, wanted};
use crate::messages::DiskReply;
use crate::planted::{Bug, planted};

impl Volume {
    /// Asks for what the start needs next.
    pub(super) fn pump_start(&mut self, now: Time, out: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Claiming { asked } => {
                // The group answers or says `Unavailable`; silence means that the request was
                // lost on this node, which a restart of its metadata thread can do.
                if asked.is_some_and(|(_, at)| now.since(at) < self.config.meta_retry * 10) {
                    return;
                }
                let token = self.token();
                self.phase = Phase::Claiming {
                    asked: Some((token, now)),
                };
                // The group's own word on the epoch is what counts: the view may be old.
                let request = MetaRequest::ReadVolume { volume: self.id };
                out.push(Effect::Meta { token, request });
            }
            Phase::Recovering { recovery, .. } => {
                recovery.pump(now, &mut self.ids, &mut self.to_disk);
                self.send_to_disks(out);
            }
            Phase::Leading(_) | Phase::Stopped => {}
        }
    }

    pub(super) fn on_meta(
        &mut self,
        now: Time,
        token: MetaToken,
        reply: MetaReply,
        out: &mut Vec<Effect>,
    ) {
        match &mut self.phase {
            Phase::Claiming { asked } if asked.is_some_and(|(t, _)| t == token) => {
                self.claim_reply(now, reply, out);
            }
            Phase::Leading(serving) => serving.meta_reply(now, token, &reply),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => {}
        }
    }

    fn claim_reply(&mut self, now: Time, reply: MetaReply, out: &mut Vec<Effect>) {
        match reply {
            MetaReply::Volume(Some(record)) if record.deleted => {
                self.stop(StopReason::Deleted, out);
            }
            MetaReply::Volume(None) => self.stop(StopReason::Deleted, out),
            MetaReply::Volume(Some(record)) => {
                let claimed = record
                    .owner
                    .is_some_and(|o| o.node == self.node && o.boot.is_some());
                let is_own = self.claimed_epoch == Some(record.epoch) || planted(Bug::RepeatEpoch);
                if claimed && is_own {
                    self.lead(now, record, out);
                } else {
                    self.claim(now, &record, out);
                }
            }
            MetaReply::Refused {
                reason: Refusal::StaleEpoch,
                record: Some(record),
            } => {
                // A claim of this life whose answer was lost may have raised it: claim anew.
                self.claim(now, &record, out);
            }
            MetaReply::Refused { .. } => self.stop(StopReason::Fenced, out),
            MetaReply::Done | MetaReply::Unavailable => {
                self.phase = Phase::Claiming { asked: None };
            }
        }
    }

    fn claim(&mut self, now: Time, record: &VolumeRecord, out: &mut Vec<Effect>) {
        if record.owner.is_some_and(|o| o.node != self.node) {
            self.stop(StopReason::Fenced, out);
            return;
        }
        let token = self.token();
        self.phase = Phase::Claiming {
            asked: Some((token, now)),
        };
        self.claimed_epoch = Some(record.epoch.next());
        let request = MetaRequest::Claim {
            volume: self.id,
            expected: record.epoch,
            node: self.node,
            found_on: self.found_on(record),
        };
        out.push(Effect::Meta { token, request });
    }

    /// Where a clean volume's journal is founded, if not on the disks that its record names: they
    /// may have been lost since, and a change of them needs a quorum of them (R5).
    fn found_on(&self, record: &VolumeRecord) -> Option<Vec<DiskRef>> {
        let is_free = record.clean && record.to_salvage().is_none();
        let wanted = || wanted::wanted(&self.view, self.id, &record.journal.replicas);
        is_free.then(wanted).flatten()
    }

    fn lead(&mut self, now: Time, record: VolumeRecord, out: &mut Vec<Effect>) {
        if record.clean {
            reached(Sometimes::CleanFounded);
            let backstop = CommittedCheckpoint::backstop(record.checkpoint);
            let adopted = Adopted::founding(backstop);
            self.adopt(now, &record, adopted);
            return;
        }
        let retry = self.config.journal.retry / 2;
        let replicas = record.journal.replicas.iter().copied();
        let site = self.view.nodes.get(&self.node).map(|node| node.site);
        let is_near = |at: &DiskRef| site.is_some() && self.view.site_of(at.disk) == site;
        let near = replicas.filter(is_near).collect();
        let recovery = Recovery::new(&record, near, retry);
        self.phase = Phase::Recovering {
            record: Box::new(record),
            recovery: Box::new(recovery),
        };
        self.pump_start(now, out);
    }

    fn adopt(&mut self, now: Time, record: &VolumeRecord, adopted: Adopted) {
        let journal = Journal::start(
            self.id,
            record.epoch,
            &record.journal,
            self.config.journal,
            adopted,
        );
        let mut serving = Serving::new(now, self.config, record, journal, self.tokens);
        // While it recovered, the volume may have got another size.
        if let Some(known) = self.record() {
            serving.learn(known);
        }
        serving.fullness.without(self.view.without());
        self.phase = Phase::Leading(Box::new(serving));
    }

    pub(super) fn recovery_reply(
        &mut self,
        now: Time,
        disk: DiskId,
        id: RequestId,
        reply: DiskReply,
        payload: Bytes,
        out: &mut Vec<Effect>,
    ) -> Result<(), Fenced> {
        let Phase::Recovering { record, recovery } = &mut self.phase else {
            return Ok(());
        };
        let Some(from) = at_of(record, disk) else {
            return Ok(());
        };
        let (ids, to_disk) = (&mut self.ids, &mut self.to_disk);
        match recovery.reply(now, (from, id), reply, payload, ids, to_disk)? {
            RecoveryStep::Waiting => self.send_to_disks(out),
            RecoveryStep::Adopted(adopted) => {
                let record = record.as_ref().clone();
                self.adopt(now, &record, *adopted);
            }
        }
        Ok(())
    }
}

/// The life of a disk that a record's journal configuration names.
fn at_of(record: &VolumeRecord, disk: DiskId) -> Option<DiskRef> {
    let mut replicas = record.journal.replicas.iter();
    replicas.find(|at| at.disk == disk).copied()
}
