//! Appends and resets: what an owner's log becomes here.

use bytes::Bytes;
use model::ids::{Epoch, Position, VolumeId};
use model::journal::{Checkpoint, RECORD_BYTES, RecordBody, RecordHead};
use model::time::Time;

use super::admission::{Asker, Refuse};
use super::config::{APPEND_BYTES_MAX, RECORDS_MAX, TABLE_BYTES_MAX};
use super::entry::Health;
use super::log::Refused;
use super::{Disk, DiskEffect};
use crate::messages::{DiskReply, DiskRequest};
use crate::planted::{Bug, planted};

/// The fields of [`DiskRequest::Append`].
struct Append {
    volume: VolumeId,
    epoch: Epoch,
    prev: Position,
    records: Vec<RecordHead>,
    committed: Position,
    trim: Position,
    lease: bool,
}

/// The fields of [`DiskRequest::Reset`].
#[derive(Debug)]
pub(super) struct Reset {
    pub(super) volume: VolumeId,
    pub(super) epoch: Epoch,
    base: Position,
    at: Position,
    checkpoint: Checkpoint,
    founded: Epoch,
}

impl Disk {
    pub(super) fn append_or_reset(
        &mut self,
        now: Time,
        asker: Asker,
        request: DiskRequest,
        payload: Bytes,
        out: &mut Vec<DiskEffect>,
    ) {
        match request {
            DiskRequest::Append {
                incarnation: _,
                volume,
                epoch,
                prev,
                records,
                committed,
                trim,
                lease,
            } => {
                let append = Append {
                    volume,
                    epoch,
                    prev,
                    records,
                    committed,
                    trim,
                    lease,
                };
                self.append(now, asker, append, &payload, out);
            }
            DiskRequest::Reset {
                incarnation: _,
                volume,
                epoch,
                base,
                at,
                checkpoint,
                founded,
            } => {
                let reset = Reset {
                    volume,
                    epoch,
                    base,
                    at,
                    checkpoint,
                    founded,
                };
                self.reset(now, asker, reset, payload, false, out);
            }
            _ => unreachable!("classified before"),
        }
    }

    fn append(
        &mut self,
        now: Time,
        asker: Asker,
        mut append: Append,
        payload: &Bytes,
        out: &mut Vec<DiskEffect>,
    ) {
        if !is_well_formed(&append, payload) {
            return self.answer(asker, DiskReply::Busy, out);
        }
        let volume = append.volume;
        if let Err(refuse) = self.enter(now, volume, append.epoch, out) {
            return self.answer(asker, refuse.into(), out);
        }
        let replica = self.replicas.get_mut(&volume).expect("entered");
        if replica.health() == Health::Damaged {
            return self.answer_damaged(asker, volume, append.epoch, out);
        }
        let skip = match replica.log().plan(append.prev, &append.records) {
            Ok(skip) => skip,
            // No correct owner contradicts what was committed, unless the journal was founded
            // anew since (R3), and that one resets. Nothing is done, and nothing lost.
            Err(Refused::Mismatch | Refused::Committed) => {
                let reply = DiskReply::Mismatch {
                    base: replica.log().base(),
                    last: replica.log().last(),
                };
                let ticket = replica.ticket();
                return self.answer_after(ticket, asker, reply, out);
            }
        };
        // What it holds already, the lease and the news need no room.
        let takes = skip + self.room_for(volume, &append.records[skip..]);
        append.records.truncate(takes);
        // Not the log's end: what lies behind may be an older owner's.
        let last = append.records.last().map_or(append.prev, |r| r.position);
        let replica = self.replicas.get_mut(&volume).expect("entered");
        if takes > skip {
            replica.append_at(now);
        }
        replica.queue_records(append.records, skip, payload, &mut self.batcher);
        let asked = (append.epoch, asker.id);
        replica.learn(asked, last, append.committed, append.trim);
        let until = now + self.config.lease_term + self.config.lease_margin;
        let leased = append.lease && replica.grant(now, until);
        let ticket = replica.ticket();
        self.note_wish(volume);
        let reply = DiskReply::Appended {
            last,
            leased,
            short: self.shortage.is_short(),
        };
        self.answer_after(ticket, asker, reply, out);
    }

    /// An owner at `epoch` acts on this replica: lower epochs are fenced, a higher one is
    /// promised (it missed the seal), and then waits like a seal for lower epochs' leases.
    fn enter(
        &mut self,
        now: Time,
        volume: VolumeId,
        epoch: Epoch,
        out: &mut Vec<DiskEffect>,
    ) -> Result<(), Refuse> {
        self.raise(now, volume, epoch, out)?;
        let replica = self.replicas.get(&volume).ok_or(Refuse::Unknown)?;
        if now < replica.append_after(epoch) && !planted(Bug::HastySeal) {
            return Err(Refuse::Busy);
        }
        assert!(
            replica.promised() == epoch || planted(Bug::IgnoredEpoch),
            "appends come only from the promised epoch"
        );
        Ok(())
    }

    /// Fences lower epochs, promises a higher one at once (R7).
    pub(super) fn raise(
        &mut self,
        now: Time,
        volume: VolumeId,
        epoch: Epoch,
        out: &mut Vec<DiskEffect>,
    ) -> Result<(), Refuse> {
        let replica = self.replicas.get_mut(&volume).ok_or(Refuse::Unknown)?;
        let promised = replica.promised();
        if epoch < promised && !planted(Bug::IgnoredEpoch) {
            return Err(Refuse::Fenced(promised));
        }
        if epoch > promised {
            replica.queue_promise(epoch, &mut self.batcher);
            // Lower epochs' seals that wait for a lease are fenced now.
            self.wake_reports(now, volume, out);
        }
        Ok(())
    }

    /// R8: it promised, but its log counts for nothing until it is refilled.
    pub(super) fn answer_damaged(
        &mut self,
        asker: Asker,
        volume: VolumeId,
        epoch: Epoch,
        out: &mut Vec<DiskEffect>,
    ) {
        let replica = self.replicas.get_mut(&volume).expect("looked up before");
        replica.tell((epoch, asker.id));
        let ticket = replica.ticket();
        self.answer_after(ticket, asker, DiskReply::Damaged, out);
    }

    /// For how many of these records, the next ones of a volume's log, there is room. A log is taken
    /// in its order: so what frees files takes along what stands before it (R18).
    fn room_for(&self, volume: VolumeId, records: &[RecordHead]) -> usize {
        let queued = self.batcher.bytes();
        let log = self.replicas[&volume].log();
        let untrimmed = log.bytes() + log.len() as u64 * RECORD_BYTES;
        let is_over = untrimmed > self.config.volume_bytes_max;
        let is_short = self.shortage.is_short();
        let (mut bytes, mut takes, mut refuses) = (0, 0, false);
        for (i, record) in records.iter().enumerate() {
            bytes += record.payload_len as usize;
            if bytes > 0 && queued > 0 && queued + bytes > self.config.queue_bytes_max {
                break;
            }
            refuses |= (is_short && record.body.brings_bytes()) || (is_over && changes(record));
            let is_led = record.body.frees_files() && self.shortage.takes_along(queued, bytes);
            refuses &= !is_led;
            if !refuses {
                takes = i + 1;
            }
        }
        takes
    }

    /// Starts a replica's log over (R9). `current` says that the sender's epoch was read to be
    /// the volume's current one, which a damaged replica asks for.
    pub(super) fn reset(
        &mut self,
        now: Time,
        asker: Asker,
        reset: Reset,
        table: Bytes,
        current: bool,
        out: &mut Vec<DiskEffect>,
    ) {
        let queued = self.batcher.bytes();
        let fits = queued == 0 || queued + table.len() <= self.config.queue_bytes_max;
        if !reset.is_well_formed(&table) || !fits {
            return self.answer(asker, DiskReply::Busy, out);
        }
        if let Err(refuse) = self.enter(now, reset.volume, reset.epoch, out) {
            return self.answer(asker, refuse.into(), out);
        }
        let replica = self.replicas.get_mut(&reset.volume).expect("entered");
        let (base, at, checkpoint) = (reset.base, reset.at, reset.checkpoint);
        let asked = (reset.epoch, asker.id);
        if replica.health() == Health::Damaged {
            if !replica.has_told(asked) {
                return self.answer_damaged(asker, reset.volume, reset.epoch, out);
            }
            if !current {
                return self.await_reset(now, asker, reset, table, out);
            }
        } else if reset.founded <= replica.log().last().epoch {
            let log = replica.log();
            // What was trimmed was committed, and so is the base: it is the same log.
            let held = base.seq < log.base().seq || log.position_at(base.seq) == Some(base);
            let is_newer = replica.known().is_none_or(|k| k.position.seq < at.seq);
            if held && !(log.last() == base && is_newer) {
                // A late duplicate: what was appended since must not go.
                let ticket = replica.ticket();
                return self.answer_after(ticket, asker, self.started_at(base), out);
            }
            if !held && base.seq <= log.committed().seq {
                // No correct owner contradicts what was committed.
                return self.answer(asker, DiskReply::Busy, out);
            }
        }
        let table = table.into();
        replica.queue_reset(base, at, checkpoint, table, asked, &mut self.batcher);
        let ticket = replica.ticket();
        self.restate.remove(&reset.volume);
        self.answer_after(ticket, asker, self.started_at(base), out);
    }

    /// The answer to a reset.
    fn started_at(&self, base: Position) -> DiskReply {
        DiskReply::Appended {
            last: base,
            leased: false,
            short: self.shortage.is_short(),
        }
    }
}

/// Whether a client asked for it.
fn changes(record: &RecordHead) -> bool {
    use RecordBody::{Stored, Write, Zero};
    matches!(record.body, Write { .. } | Stored(_) | Zero { .. })
}

impl Reset {
    fn is_well_formed(&self, table: &Bytes) -> bool {
        let covers = self.checkpoint.covers;
        // A base beyond what the checkpoint covers would be a gap (R3).
        let in_order = follows(self.base, covers) && follows(covers, self.at);
        let is_own = self.at.epoch <= self.epoch && self.founded <= self.epoch;
        in_order && is_own && table.len() <= TABLE_BYTES_MAX
    }
}

/// Whether two positions of one log may come in this order.
fn follows(a: Position, b: Position) -> bool {
    a.seq <= b.seq && a.epoch <= b.epoch
}

fn is_well_formed(append: &Append, payload: &Bytes) -> bool {
    if append.records.len() > RECORDS_MAX || payload.len() > APPEND_BYTES_MAX {
        return false;
    }
    let (mut last, mut bytes) = (append.prev, 0_usize);
    for record in &append.records {
        let next = record.position;
        let dense = last.seq.0.checked_add(1) == Some(next.seq.0) && last.epoch <= next.epoch;
        let len = record.payload_len as usize;
        if !dense || len > TABLE_BYTES_MAX || !record.is_sound(append.volume) {
            return false;
        }
        bytes += len;
        last = next;
    }
    last.epoch <= append.epoch && bytes == payload.len()
}
