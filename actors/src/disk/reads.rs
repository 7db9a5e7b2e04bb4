//! What needs the journal read: seal reports (the checkpoint's table), fetches, and copying
//! forward. A file is not released while a read of it runs.

use bytes::Bytes;
use model::ids::{Epoch, Seq, VolumeId};
use model::journal::{RecordHead, SealReport};
use model::payload::Payload;
use model::store::{EntryAt, FileNo, JournalOp};
use model::time::Time;

use super::admission::Asker;
use super::after::{After, Report};
use super::batch::Serial;
use super::config::{FETCH_BYTES_MAX, RECORDS_MAX};
use super::entry::Health;
use super::journal_scrub::Page;
use super::mover::Move;
use super::{Disk, DiskEffect};
use crate::messages::DiskReply;

/// A running read.
#[derive(Debug)]
pub(super) struct Reading {
    places: Vec<EntryAt>,
    job: Job,
}

#[derive(Debug)]
enum Job {
    Report {
        report: Report,
        lineage: Serial,
        found: Box<SealReport>,
    },
    Fetch {
        asker: Asker,
        volume: VolumeId,
        epoch: Epoch,
        lineage: Serial,
        records: Vec<RecordHead>,
    },
    Move(Vec<Move>),
    Scrub(Page),
}

impl Reading {
    /// The oldest file that it reads.
    pub(super) fn oldest_file(&self) -> Option<FileNo> {
        self.places.iter().map(|at| at.file).min()
    }

    /// Who waits for it, if not the disk itself.
    pub(super) fn asker(&self) -> Option<Asker> {
        match &self.job {
            Job::Report { report, .. } => Some(report.asker),
            Job::Fetch { asker, .. } => Some(*asker),
            Job::Move(_) | Job::Scrub(_) => None,
        }
    }

    /// Whether it is one of the scrub.
    pub(super) fn is_scrub(&self) -> bool {
        matches!(self.job, Job::Scrub(_))
    }

    /// Whether it is one of copying forward.
    pub(super) fn is_move(&self) -> bool {
        matches!(self.job, Job::Move(_))
    }
}

impl Disk {
    fn read(&mut self, places: Vec<EntryAt>, job: Job, out: &mut Vec<DiskEffect>) {
        assert!(!places.is_empty(), "reads read something");
        let op = self.op();
        let request = JournalOp::Read(places.clone());
        self.reads.insert(op, Reading { places, job });
        out.push(DiskEffect::Journal { op, request });
    }

    /// Reads what moves; see `mover.rs`.
    pub(super) fn read_moves(
        &mut self,
        places: Vec<EntryAt>,
        moves: Vec<Move>,
        out: &mut Vec<DiskEffect>,
    ) {
        self.read(places, Job::Move(moves), out);
    }

    /// Reads a page of a journal at rest; see `journal_scrub.rs`.
    pub(super) fn read_page(
        &mut self,
        places: Vec<EntryAt>,
        page: Page,
        out: &mut Vec<DiskEffect>,
    ) {
        self.read(places, Job::Scrub(page), out);
    }

    /// The last step of a seal or a join: everything is durable and no lower lease runs.
    pub(super) fn read_report(&mut self, report: Report, out: &mut Vec<DiskEffect>) {
        let replica = self.replicas.get(&report.volume).expect("looked up before");
        assert!(
            self.batcher.is_durable(replica.ticket()),
            "only durable things are reported"
        );
        let found = replica.report(report.epoch);
        let table = replica.known().map(|k| k.table.expect("durable"));
        match table.filter(|at| at.payload_len > 0) {
            None => self.answer(report.asker, report_reply(found, report.join), out),
            Some(at) => {
                let job = Job::Report {
                    report,
                    lineage: replica.lineage(),
                    found: Box::new(found),
                };
                self.read(vec![at], job, out);
            }
        }
    }

    /// Reads records for an owner that sealed this replica. Records that are not durable yet
    /// are waited for.
    pub(super) fn fetch(
        &mut self,
        asker: Asker,
        volume: VolumeId,
        epoch: Epoch,
        from: Seq,
        bytes_max: u32,
        out: &mut Vec<DiskEffect>,
    ) {
        let Some(replica) = self.replicas.get(&volume) else {
            return self.answer(asker, DiskReply::Unknown, out);
        };
        let promised = replica.promised();
        let refusal = match promised.cmp(&epoch) {
            std::cmp::Ordering::Greater => Some(DiskReply::Fenced { promised }),
            // It was not sealed at that epoch: its log may still change.
            std::cmp::Ordering::Less => Some(DiskReply::Busy),
            std::cmp::Ordering::Equal => None,
        };
        if let Some(reply) = refusal {
            return self.answer(asker, reply, out);
        }
        if replica.health() != Health::Whole {
            return self.answer_damaged(asker, volume, epoch, out);
        }
        let (mut records, mut places, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
        let bound = u64::from(bytes_max.min(FETCH_BYTES_MAX));
        for held in replica.log().from(from).take(RECORDS_MAX) {
            bytes += held.head.weight() as u64;
            if bytes > bound && !records.is_empty() {
                break;
            }
            let Some(at) = held.slot.at else {
                if !records.is_empty() {
                    break;
                }
                let after = After::Fetch {
                    asker,
                    volume,
                    epoch,
                    from,
                    bytes_max,
                };
                let waits = self.batcher.after(replica.ticket(), after);
                assert!(waits.is_none(), "a record without a place is not durable");
                return;
            };
            if at.payload_len > 0 {
                places.push(at);
            }
            records.push(held.head.clone());
        }
        if places.is_empty() {
            return self.answer(asker, DiskReply::Fetched { records }, out);
        }
        let lineage = replica.lineage();
        let job = Job::Fetch {
            asker,
            volume,
            epoch,
            lineage,
            records,
        };
        self.read(places, job, out);
    }

    pub(super) fn read_done(
        &mut self,
        now: Time,
        reading: Reading,
        payloads: Vec<Option<Bytes>>,
        out: &mut Vec<DiskEffect>,
    ) {
        assert_eq!(payloads.len(), reading.places.len(), "all were read");
        // A buffer of another length than the entry's is as good as none.
        let read = payloads.into_iter().zip(&reading.places);
        let good = read.map(|(b, at)| b.filter(|b| b.len() == at.payload_len as usize));
        let good: Vec<Option<Bytes>> = good.collect();
        match reading.job {
            Job::Report {
                report,
                lineage,
                found,
            } => {
                let table = good.into_iter().next().flatten();
                self.report_read(now, report, lineage, *found, table, out);
            }
            Job::Fetch {
                asker,
                volume,
                epoch,
                lineage,
                records,
            } => {
                let Some(replica) = self.replicas.get_mut(&volume) else {
                    return self.answer(asker, DiskReply::Unknown, out);
                };
                let promised = replica.promised();
                if promised > epoch {
                    return self.answer(asker, DiskReply::Fenced { promised }, out);
                }
                if replica.lineage() != lineage {
                    return self.answer(asker, DiskReply::Busy, out);
                }
                match gather(good) {
                    Some(payload) => {
                        self.answer_with(asker, DiskReply::Fetched { records }, payload, out);
                    }
                    None => {
                        self.damage(volume);
                        self.answer_damaged(asker, volume, epoch, out);
                    }
                }
            }
            Job::Move(moves) => self.moves_read(moves, good),
            Job::Scrub(page) => self.page_read(now, page, &good),
        }
    }

    fn report_read(
        &mut self,
        now: Time,
        report: Report,
        lineage: Serial,
        mut found: SealReport,
        table: Option<Bytes>,
        out: &mut Vec<DiskEffect>,
    ) {
        let same = self
            .replicas
            .get(&report.volume)
            .is_some_and(|r| r.promised() == report.epoch && r.lineage() == lineage);
        if !same {
            // Fenced, dropped, reset or damaged meanwhile: look again.
            return self.report(now, report, out);
        }
        let Some(table) = table else {
            self.damage(report.volume);
            return self.answer_damaged(report.asker, report.volume, report.epoch, out);
        };
        if let Some((_, _, bytes)) = &mut found.checkpoint {
            *bytes = table.to_vec();
        }
        self.answer(report.asker, report_reply(found, report.join), out);
    }

    /// R8: synced bytes are gone. The replica counts for nothing until it is refilled, and
    /// says so once that is durable.
    pub(super) fn damage(&mut self, volume: VolumeId) {
        let replica = self.replicas.get_mut(&volume).expect("looked up before");
        if replica.health() != Health::Damaged {
            replica.queue_damage(&mut self.batcher);
        }
        self.restate.remove(&volume);
    }
}

fn report_reply(report: SealReport, join: bool) -> DiskReply {
    if join {
        DiskReply::Joined { report }
    } else {
        DiskReply::Sealed(report)
    }
}

fn gather(buffers: Vec<Option<Bytes>>) -> Option<Payload> {
    let mut payload = Payload::empty();
    for buffer in buffers {
        payload.push(buffer?);
    }
    Some(payload)
}
