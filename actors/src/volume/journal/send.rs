//! What is sent to replicas, and when: what they lack, as far as their ways take it.

use model::ids::Seq;
use model::journal::Record;
use model::payload::Payload;
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::replica::{Flight, FlightKind, Mode};
use super::{Journal, RequestIds, ToDisk};
use crate::disk::{APPEND_BYTES_MAX, RECORDS_MAX};
use crate::messages::DiskRequest;

/// A request and what it is remembered by.
struct Outgoing {
    kind: FlightKind,
    request: DiskRequest,
    payload: Payload,
}

impl Journal {
    /// Sends what may be sent now.
    pub fn pump(&mut self, now: Time, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        for i in 0..self.replicas.len() {
            self.pump_replica(i, now, ids, out);
        }
        self.renew = false;
        if self.tell_due.is_some_and(|due| due <= now) {
            self.tell_due = None;
        }
    }

    fn pump_replica(&mut self, i: usize, now: Time, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        let asks = self.replicas[i].take_ask(now, &self.terms);
        if self.replicas[i]
            .quiet_until
            .is_some_and(|until| until > now)
        {
            return;
        }
        self.replicas[i].quiet_until = None;
        let mut must_renew = self.renew || asks;
        while let Some(outgoing) = self.next_request(i, now, must_renew) {
            must_renew = false;
            let id = ids.take();
            let told = (self.committed, self.log.base());
            let replica = &mut self.replicas[i];
            if let FlightKind::Append { last, .. } = outgoing.kind {
                replica.next = last.seq.next();
                replica.told = told;
            }
            replica.flights.push_back(Flight {
                id,
                sent: now,
                kind: outgoing.kind,
                bytes: outgoing.payload.len(),
            });
            out.push(ToDisk {
                at: replica.at,
                id,
                request: outgoing.request,
                payload: outgoing.payload,
            });
        }
    }

    /// What a replica is to be sent now, if anything is and there is room.
    fn next_request(&mut self, i: usize, now: Time, must_renew: bool) -> Option<Outgoing> {
        let replica = &self.replicas[i];
        let depth = match replica.mode {
            Mode::Stream => self.terms.depth,
            Mode::Join | Mode::Reset | Mode::Probe => 1,
        };
        if replica.flights.len() >= depth {
            return None;
        }
        match replica.mode {
            Mode::Join => return Some(self.join(i)),
            Mode::Reset => return Some(self.reset(i)),
            Mode::Probe => {}
            Mode::Stream => {
                let behind = self.log.last().seq >= replica.next
                    && (!replica.is_short() || self.batch(i, now, replica.next) > 0);
                let due = self.tell_due.is_some_and(|due| due <= now);
                let tell = due && replica.told < (self.committed, self.log.base());
                if !(behind || must_renew || tell) {
                    return None;
                }
            }
        }
        if let Some(append) = self.next_append(i, now) {
            return Some(append);
        }
        // What it lacks was trimmed (R9).
        self.replicas[i].begin(Mode::Reset);
        Some(self.reset(i))
    }

    fn join(&self, i: usize) -> Outgoing {
        let request = DiskRequest::Join {
            incarnation: self.replicas[i].at.incarnation,
            volume: self.volume,
            epoch: self.epoch,
            version: self.version,
        };
        Outgoing {
            kind: FlightKind::Join,
            request,
            payload: Payload::empty(),
        }
    }

    fn reset(&self, i: usize) -> Outgoing {
        reached(Sometimes::ReplicaReset);
        let request = DiskRequest::Reset {
            incarnation: self.replicas[i].at.incarnation,
            volume: self.volume,
            epoch: self.epoch,
            base: self.log.base(),
            at: self.checkpoint.at,
            checkpoint: self.checkpoint.checkpoint,
            founded: self.founded,
        };
        Outgoing {
            kind: FlightKind::Reset,
            request,
            payload: Payload::from(self.checkpoint.sessions.clone()),
        }
    }

    /// The next append for a replica; `None` if what it lacks was trimmed (R9).
    fn next_append(&self, i: usize, now: Time) -> Option<Outgoing> {
        let replica = &self.replicas[i];
        let prev = self.log.position(Seq(replica.next.0.checked_sub(1)?))?;
        let mut records = Vec::new();
        let mut payload = Payload::empty();
        let mut last = prev;
        for record in self
            .log
            .from(replica.next)
            .take(self.batch(i, now, replica.next))
        {
            payload.append(&record.payload);
            last = record.head.position;
            records.push(record.head.clone());
        }
        let request = DiskRequest::Append {
            incarnation: replica.at.incarnation,
            volume: self.volume,
            epoch: self.epoch,
            prev,
            records,
            committed: self.committed,
            trim: self.log.base(),
            lease: true,
        };
        Some(Outgoing {
            kind: FlightKind::Append { prev, last },
            request,
            payload,
        })
    }

    /// How many of the records from `first` on go with the next append. A probe has none that is
    /// larger than what may be lost on a guess, and none at all while answers are late: what is
    /// on its way need not go there twice.
    fn batch(&self, i: usize, now: Time, first: Seq) -> usize {
        let replica = &self.replicas[i];
        let (at_least, bytes) = match replica.mode {
            Mode::Probe if replica.is_late() => return 0,
            _ if replica.is_short() => return self.short_batch(first, replica.may_lead(now)),
            Mode::Probe => (0, self.terms.batch_bytes_min),
            Mode::Stream | Mode::Join | Mode::Reset => (1, replica.batch_bytes),
        };
        let mut weight = 0;
        let fits = |record: &&Record| {
            weight += record.head.weight();
            weight <= bytes
        };
        let fit = self.log.from(first).take(self.terms.batch_records);
        fit.take_while(fits).count().max(at_least)
    }

    /// As much for a disk that is short of space: what brings no bytes, and if `leads`, what frees
    /// files, with all that stands before it in the log, in one append (R18).
    fn short_batch(&self, first: Seq, leads: bool) -> usize {
        let (mut bytes, mut takes, mut brings) = (0, 0, false);
        for (i, record) in self.log.from(first).take(RECORDS_MAX).enumerate() {
            bytes += record.payload.len();
            if bytes > APPEND_BYTES_MAX {
                break;
            }
            let body = &record.head.body;
            brings |= body.brings_bytes();
            brings &= !(leads && body.frees_files());
            if !brings {
                takes = i + 1;
            }
        }
        takes
    }
}
