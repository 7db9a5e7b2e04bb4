//! Seals, joins and releases: who may lead, and from when on.

use bytes::Bytes;
use model::ids::{DiskRef, Epoch, VolumeId};
use model::meta::{MetaReply, MetaToken};
use model::placement::VolumeRecord;
use model::time::Time;

use super::admission::Asker;
use super::after::{After, Report, Timer};
use super::entry::{DISK_MARK, Health};
use super::journal::Reset;
use super::replica::Replica;
use super::{Disk, DiskEffect};
use crate::messages::{DiskReply, DiskRequest};
use crate::planted::{Bug, planted};

/// A request that waits for the volume's record.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) asker: Asker,
    volume: VolumeId,
    epoch: Epoch,
    timer: (Time, u64),
    /// A Reset of a damaged replica, with its table; else it is a Join.
    reset: Option<(Reset, Bytes)>,
}

/// Resets that wait for a record: each holds a table.
const RESETS_WAITING_MAX: usize = 16;

/// What the record says about an owner's epoch and this replica (R2).
enum Verdict {
    Go { founding: bool },
    Fenced(Epoch),
    No,
}

impl Disk {
    pub(super) fn control(
        &mut self,
        now: Time,
        asker: Asker,
        request: DiskRequest,
        out: &mut Vec<DiskEffect>,
    ) {
        match request {
            DiskRequest::Seal { volume, epoch, .. } => {
                self.seal(now, asker, volume, epoch, false, out);
            }
            // The record is what counts (R2); it names this disk or it does not, whatever
            // version the owner means.
            DiskRequest::Join { volume, epoch, .. } => {
                self.gone.joined(volume);
                if self.replicas.contains_key(&volume) {
                    self.seal(now, asker, volume, epoch, true, out);
                } else {
                    self.join(now, asker, volume, epoch, out);
                }
            }
            DiskRequest::Fetch {
                volume,
                epoch,
                from,
                bytes_max,
                ..
            } => self.fetch(asker, volume, epoch, from, bytes_max, out),
            DiskRequest::Release { volume, epoch, .. } => {
                let reply = match self.replicas.get_mut(&volume) {
                    Some(replica) => {
                        replica.release(epoch);
                        DiskReply::Released
                    }
                    None => DiskReply::Unknown,
                };
                self.answer(asker, reply, out);
                self.wake_reports(now, volume, out);
            }
            _ => unreachable!("classified before"),
        }
    }

    /// R7: the promise counts at once, and is durable before the answer; the answer waits for
    /// lower epochs' leases besides. The same epoch's second seal finds it promised already.
    fn seal(
        &mut self,
        now: Time,
        asker: Asker,
        volume: VolumeId,
        epoch: Epoch,
        join: bool,
        out: &mut Vec<DiskEffect>,
    ) {
        match self.raise(now, volume, epoch, out) {
            Ok(()) => {
                let report = Report {
                    asker,
                    volume,
                    epoch,
                    join,
                };
                self.report(now, report, out);
            }
            Err(refuse) => self.answer(asker, refuse.into(), out),
        }
    }

    /// Answers a seal or a join as soon as it may be: promised durably, all that is reported
    /// durable, no lower lease, the checkpoint's table read.
    pub(super) fn report(&mut self, now: Time, report: Report, out: &mut Vec<DiskEffect>) {
        let Report {
            asker,
            volume,
            epoch,
            ..
        } = report;
        let Some(replica) = self.replicas.get(&volume) else {
            return self.answer(asker, DiskReply::Unknown, out);
        };
        let promised = replica.promised();
        if promised > epoch {
            return self.answer(asker, DiskReply::Fenced { promised }, out);
        }
        if promised < epoch {
            // The replica that promised was deleted; this one is another.
            return self.answer(asker, DiskReply::Unknown, out);
        }
        let after = After::Report(report);
        if self.batcher.after(replica.ticket(), after).is_none() {
            return;
        }
        if replica.health() != Health::Whole {
            return self.answer_damaged(asker, volume, epoch, out);
        }
        let may = replica.seal_after(epoch);
        if now < may && !planted(Bug::HastySeal) {
            self.timer(may, Timer::Lease(report));
            return;
        }
        self.read_report(report, out);
    }

    pub(super) fn timer(&mut self, at: Time, timer: Timer) -> (Time, u64) {
        self.last_timer += 1;
        let key = (at, self.last_timer);
        self.timers.insert(key, timer);
        key
    }

    /// Looks again at the seals of a volume that wait for a lease.
    pub(super) fn wake_reports(&mut self, now: Time, volume: VolumeId, out: &mut Vec<DiskEffect>) {
        let of_volume = |timer: &Timer| matches!(timer, Timer::Lease(r) if r.volume == volume);
        let waiting = self.timers.iter().filter(|(_, t)| of_volume(t));
        let keys: Vec<(Time, u64)> = waiting.map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(Timer::Lease(report)) = self.timers.remove(&key) {
                self.report(now, report, out);
            }
        }
    }

    // Join (R2).

    fn join(
        &mut self,
        now: Time,
        asker: Asker,
        volume: VolumeId,
        epoch: Epoch,
        out: &mut Vec<DiskEffect>,
    ) {
        if volume == DISK_MARK {
            return self.answer(asker, DiskReply::Busy, out);
        }
        self.await_record(now, asker, volume, epoch, None, out);
    }

    /// R8: a damaged replica may have lost its promise too. Only the current owner refills it:
    /// an older one's log may lack what was acknowledged here.
    pub(super) fn await_reset(
        &mut self,
        now: Time,
        asker: Asker,
        reset: Reset,
        table: Bytes,
        out: &mut Vec<DiskEffect>,
    ) {
        let waiting = self.joins.values().filter(|j| j.reset.is_some()).count();
        if waiting >= RESETS_WAITING_MAX {
            return self.answer(asker, DiskReply::Busy, out);
        }
        let (volume, epoch) = (reset.volume, reset.epoch);
        self.await_record(now, asker, volume, epoch, Some((reset, table)), out);
    }

    fn await_record(
        &mut self,
        now: Time,
        asker: Asker,
        volume: VolumeId,
        epoch: Epoch,
        reset: Option<(Reset, Bytes)>,
        out: &mut Vec<DiskEffect>,
    ) {
        self.last_token += 1;
        let token = MetaToken(self.last_token);
        let timer = self.timer(now + self.config.join_wait_max, Timer::Join(token));
        let joining = Joining {
            asker,
            volume,
            epoch,
            timer,
            reset,
        };
        self.joins.insert(token, joining);
        out.push(DiskEffect::ReadVolume { token, volume });
    }

    pub(super) fn join_expired(&mut self, token: MetaToken, out: &mut Vec<DiskEffect>) {
        if let Some(joining) = self.joins.remove(&token) {
            self.answer(joining.asker, DiskReply::Busy, out);
        }
    }

    pub(super) fn cancel_joins(&mut self, volume: VolumeId, out: &mut Vec<DiskEffect>) {
        let of_volume = self.joins.iter().filter(|(_, j)| j.volume == volume);
        let tokens: Vec<MetaToken> = of_volume.map(|(token, _)| *token).collect();
        for token in tokens {
            let joining = self.joins.remove(&token).expect("just listed");
            self.timers.remove(&joining.timer);
            self.answer(joining.asker, DiskReply::Busy, out);
        }
    }

    /// The record that a request waits for. A Join counts only if this replica's own linearizable
    /// read shows the epoch current and a configuration that names this life of this disk.
    pub(super) fn volume_read(
        &mut self,
        now: Time,
        token: MetaToken,
        reply: MetaReply,
        out: &mut Vec<DiskEffect>,
    ) {
        // An answer to a Join that has waited too long says nothing any more.
        let Some(joining) = self.joins.remove(&token) else {
            return;
        };
        self.timers.remove(&joining.timer);
        let (asker, volume, epoch) = (joining.asker, joining.volume, joining.epoch);
        let verdict = verdict(&reply, volume, epoch, self.at);
        if let Some((reset, table)) = joining.reset {
            return match verdict {
                Verdict::Go { .. } => self.reset(now, asker, reset, table, true, out),
                Verdict::Fenced(_) | Verdict::No => self.answer(asker, DiskReply::Busy, out),
            };
        }
        if self.replicas.contains_key(&volume) {
            // Another Join was faster.
            return self.seal(now, asker, volume, epoch, true, out);
        }
        match verdict {
            Verdict::Go { founding } => {
                // R8: on a disk that lost synced bytes, a replica that the configuration
                // already counts on may be one that was lost. It counts once refilled.
                let health = if founding && self.damaged {
                    Health::Damaged
                } else {
                    Health::Whole
                };
                let replica = Replica::join(volume, epoch, health, &mut self.batcher);
                self.replicas.insert(volume, replica);
                let join = true;
                let report = Report {
                    asker,
                    volume,
                    epoch,
                    join,
                };
                self.report(now, report, out);
            }
            Verdict::Fenced(promised) => self.answer(asker, DiskReply::Fenced { promised }, out),
            Verdict::No => self.answer(asker, DiskReply::Busy, out),
        }
    }
}

fn verdict(reply: &MetaReply, volume: VolumeId, epoch: Epoch, at: DiskRef) -> Verdict {
    let MetaReply::Volume(Some(VolumeRecord {
        id,
        epoch: current,
        journal,
        deleted: false,
        ..
    })) = reply
    else {
        return Verdict::No;
    };
    if *id != volume {
        return Verdict::No;
    }
    if *current > epoch {
        return Verdict::Fenced(*current);
    }
    let founding = journal.replicas.contains(&at);
    let named = founding || journal.next.as_ref().is_some_and(|n| n.contains(&at));
    if *current == epoch && named {
        Verdict::Go { founding }
    } else {
        Verdict::No
    }
}
