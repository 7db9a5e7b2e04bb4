//! What waits until something is durable, or a lease ran out, and its end if the device fails.

use model::ids::{Epoch, Seq, VolumeId};
use model::meta::MetaToken;
use model::store::DeviceError;
use model::time::Time;

use super::admission::Asker;
use super::batch::BatchNo;
use super::{Disk, DiskEffect};
use crate::messages::DiskReply;
use crate::planted::{Bug, planted};

/// The answer to a Seal or a Join that is to be given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) asker: Asker,
    pub(super) volume: VolumeId,
    pub(super) epoch: Epoch,
    pub(super) join: bool,
}

/// What happens once something is durable, or a lease ran out.
#[derive(Debug)]
pub(super) enum After {
    /// A reply that rests on it.
    Reply { asker: Asker, reply: DiskReply },
    /// Say what the log holds.
    Report(Report),
    /// Read records.
    Fetch {
        asker: Asker,
        volume: VolumeId,
        epoch: Epoch,
        from: Seq,
        bytes_max: u32,
    },
}

impl After {
    fn asker(&self) -> Asker {
        match self {
            Self::Reply { asker, .. } | Self::Fetch { asker, .. } => *asker,
            Self::Report(report) => report.asker,
        }
    }
}

/// What a timer is for.
#[derive(Debug)]
pub(super) enum Timer {
    /// A lease ran out.
    Lease(Report),
    /// A Join has waited long enough.
    Join(MetaToken),
}

impl Disk {
    /// Runs what waited for durability or for a lease.
    pub(super) fn run(&mut self, now: Time, after: After, out: &mut Vec<DiskEffect>) {
        match after {
            After::Reply { asker, reply } => self.answer(asker, reply, out),
            After::Report(report) => self.report(now, report, out),
            After::Fetch {
                asker,
                volume,
                epoch,
                from,
                bytes_max,
            } => self.fetch(asker, volume, epoch, from, bytes_max, out),
        }
    }

    /// Replies once the batch `ticket` is durable.
    pub(super) fn answer_after(
        &mut self,
        ticket: BatchNo,
        asker: Asker,
        reply: DiskReply,
        out: &mut Vec<DiskEffect>,
    ) {
        if planted(Bug::AckBeforeSync) {
            return self.answer(asker, reply, out);
        }
        let after = After::Reply { asker, reply };
        if let Some(After::Reply { asker, reply }) = self.batcher.after(ticket, after) {
            self.answer(asker, reply, out);
        }
    }

    /// R8: after a device error nothing is certain any more. All that waits is answered
    /// `Busy`, all that comes is, and nothing is ever acknowledged again.
    pub(super) fn retire(&mut self, error: DeviceError, out: &mut Vec<DiskEffect>) {
        self.give_up(error, false, out);
    }

    /// The same; `hangs` if nothing failed, as far as is known.
    pub(super) fn give_up(&mut self, error: DeviceError, hangs: bool, out: &mut Vec<DiskEffect>) {
        assert!(!self.retired, "retired once");
        self.retired = true;
        let mut askers: Vec<Asker> = Vec::new();
        askers.extend(self.batcher.abandon().iter().map(After::asker));
        for timer in std::mem::take(&mut self.timers).into_values() {
            if let Timer::Lease(report) = timer {
                askers.push(report.asker);
            }
        }
        let joins = std::mem::take(&mut self.joins);
        askers.extend(joins.into_values().map(|j| j.asker));
        let reads = std::mem::take(&mut self.reads);
        askers.extend(reads.into_values().filter_map(|r| r.asker()));
        askers.extend(self.fragments.abandon());
        for asker in askers {
            self.answer(asker, DiskReply::Busy, out);
        }
        assert!(self.appends == 0 && self.controls == 0, "all are answered");
        out.push(DiskEffect::Retire { error, hangs });
    }
}
