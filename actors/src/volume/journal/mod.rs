//! The owner's end of the replicated journal: Raft's log replication with the election taken
//! out (who may lead is decided by metadata). Appends, commits, leases, trims; a replica that
//! is behind, without state or damaged is brought up to date by the same messages.

mod change;
mod log;
mod recovery;
mod replica;
mod send;

use std::time::Duration;

use bytes::Bytes;
use model::ids::{DiskId, DiskRef, Epoch, Position, RequestId, Seq, Version, VolumeId};
use model::journal::{Checkpoint, Record, RecordBody, RecordHead};
use model::payload::Payload;
use model::placement::JournalConfig;
use model::time::Time;

use crate::messages::{DiskReply, DiskRequest};
use crate::planted::{Bug, planted};

pub use change::Foreign;
use change::Joint;
pub use log::Log;
pub use recovery::{Adopted, Recovery, RecoveryStep};
use replica::{Flight, FlightKind, Landing, Mode, Replica};

/// A request for a disk, to be addressed by the Volume machine.
#[derive(Debug)]
pub struct ToDisk {
    /// The disk, in the life that is meant.
    pub at: DiskRef,
    /// The request's id.
    pub id: RequestId,
    /// The request.
    pub request: DiskRequest,
    /// Its payload.
    pub payload: Payload,
}

/// Hands out request ids, unique within the Volume machine's life.
#[derive(Debug, Default)]
pub struct RequestIds(u64);

impl RequestIds {
    /// Starts after `last`: a new machine of the same node must not repeat its predecessor's.
    #[must_use]
    pub fn after(last: RequestId) -> Self {
        Self(last.0)
    }

    /// A new id.
    pub fn take(&mut self) -> RequestId {
        self.0 += 1;
        RequestId(self.0)
    }
}

/// Bounds and terms of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalTerms {
    /// How long a replica's grant lasts, by the owner's count (already less the drift margin).
    pub lease: Duration,
    /// After this time without an answer a request is taken for lost, or for late: longer where
    /// answers take longer.
    pub retry: Duration,
    /// That time at most.
    pub retry_max: Duration,
    /// Pause after `Busy`, and after an append that had no room for all.
    pub pause: Duration,
    /// A replica whose disk is short of space is asked again after this time.
    pub ask_short: Duration,
    /// Payload of one append at most (one record may exceed it).
    pub batch_bytes: usize,
    /// The least that this is lowered to where answers take long, and what is risked at most on a
    /// replica of which it is not known where its log meets ours.
    pub batch_bytes_min: usize,
    /// Records of one append at most.
    pub batch_records: usize,
    /// Appends in flight to one replica.
    pub depth: usize,
    /// How long news of commits and trims wait for an append to travel with.
    pub tell: Duration,
}

impl Default for JournalTerms {
    fn default() -> Self {
        Self {
            lease: Duration::from_millis(950),
            retry: Duration::from_millis(400),
            retry_max: Duration::from_millis(6400),
            pause: Duration::from_millis(20),
            ask_short: Duration::from_secs(1),
            batch_bytes: 1 << 20,
            batch_bytes_min: 64 << 10,
            batch_records: 512,
            depth: 2,
            tell: Duration::from_millis(25),
        }
    }
}

/// The latest committed checkpoint with its record's place and payload (R3).
#[derive(Clone, Debug)]
pub struct CommittedCheckpoint {
    /// Position of its record.
    pub at: Position,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The session table beside it.
    pub sessions: Bytes,
}

impl CommittedCheckpoint {
    /// What the global record knows: a backstop, without the sessions that were open then
    /// (R3). Its record's place is not known: it stands where what it covers ends, which lies
    /// below the true place, so that the record itself supersedes it.
    #[must_use]
    pub fn backstop(checkpoint: Checkpoint) -> Self {
        Self {
            at: checkpoint.covers,
            checkpoint,
            sessions: Bytes::new(),
        }
    }
}

/// A higher epoch was promised by a replica: this owner's time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fenced {
    /// The promise.
    pub promised: Epoch,
}

/// The replicated journal as its owner sees it.
#[derive(Debug)]
pub struct Journal {
    volume: VolumeId,
    epoch: Epoch,
    version: Version,
    terms: JournalTerms,
    /// What replicas hold of lower epochs is from before the volume was clean (R3).
    founded: Epoch,
    log: Log,
    committed: Position,
    checkpoint: CommittedCheckpoint,
    /// The committed set, in its order.
    members: Vec<DiskRef>,
    /// The set that is being changed to (R5).
    joint: Option<Joint>,
    /// What is known of each replica of both sets.
    replicas: Vec<Replica>,
    renew: bool,
    /// When a quiet journal tells its replicas what was committed and trimmed.
    tell_due: Option<Time>,
    /// No grant counts any more, also none that is on its way (R7).
    released: bool,
}

impl Journal {
    /// Takes over an adopted log and appends `EpochStart`, or what stands for it after a recovery
    /// with loss.
    #[must_use]
    pub fn start(
        volume: VolumeId,
        epoch: Epoch,
        config: &JournalConfig,
        terms: JournalTerms,
        adopted: Adopted,
    ) -> Self {
        let replicas = config
            .replicas
            .iter()
            .map(|at| Replica::new(*at, adopted.mode_of(*at), &terms))
            .collect();
        let first = match adopted.is_recovered() && !planted(Bug::RecoverKeepsSessions) {
            true => RecordBody::Recovered,
            false => RecordBody::EpochStart,
        };
        let mut journal = Self {
            volume,
            epoch,
            version: config.version,
            terms,
            founded: adopted.founded(epoch),
            committed: adopted.log.base(),
            log: adopted.log,
            checkpoint: adopted.checkpoint,
            members: config.replicas.clone(),
            joint: None,
            replicas,
            renew: false,
            tell_due: None,
            released: false,
        };
        journal.append(first, Payload::empty());
        journal
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// All up to here is committed.
    #[must_use]
    pub fn committed(&self) -> Position {
        self.committed
    }

    /// The latest committed checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &CommittedCheckpoint {
        &self.checkpoint
    }

    /// Appends a record; it is sent by the next [`Journal::pump`].
    pub fn append(&mut self, body: RecordBody, payload: Payload) -> Position {
        let position = Position {
            epoch: self.epoch,
            seq: self.log.last().seq.next(),
        };
        let payload_len = u32::try_from(payload.len()).expect("a record's payload is bounded");
        self.log.push(Record {
            head: RecordHead {
                position,
                body,
                payload_len,
            },
            payload,
        });
        position
    }

    /// A committed checkpoint replaces the older one; what it covers leaves the log.
    pub fn checkpoint_committed(&mut self, checkpoint: CommittedCheckpoint) {
        // R3: a checkpoint counts once its record is on a majority.
        assert!(checkpoint.at <= self.committed);
        assert!(checkpoint.checkpoint.covers >= self.log.base());
        // R4: what is covered was committed.
        assert!(checkpoint.checkpoint.covers <= self.committed);
        self.log.trim(checkpoint.checkpoint.covers);
        self.checkpoint = checkpoint;
    }

    /// Asks for a fresh lease with the next pump, even if there is nothing to append.
    pub fn renew(&mut self) {
        self.renew = true;
    }

    /// Until when reads may be served: a majority's grants run at least so long (R7).
    #[must_use]
    pub fn leased_until(&self) -> Time {
        if planted(Bug::LeaseByOne) {
            let granted = self.replicas.iter().map(|r| r.leased_until).max();
            return granted.unwrap_or(Time::ZERO);
        }
        self.quorum_value(|r| r.leased_until)
    }

    /// Until when the lease that a disk granted is counted.
    #[must_use]
    pub fn grant_of(&self, disk: DiskId) -> Option<Time> {
        let replica = self.replicas.iter().find(|r| r.at.disk == disk);
        replica.map(|r| r.leased_until)
    }

    /// Whether disks are so short of space that no quorum takes clients' bytes: more of them would
    /// stand before the checkpoint that frees some (R18).
    #[must_use]
    pub fn is_short(&self) -> bool {
        let takes = |r: &Replica| r.mode == Mode::Stream && !r.is_short();
        self.replicas.iter().any(Replica::is_short) && !self.quorum_value(takes)
    }

    /// Raises `committed` to what a quorum holds; whether it rose. Only a record of this
    /// epoch is counted, as in Raft: it commits all before it.
    pub fn advance(&mut self, now: Time) -> bool {
        let held = if planted(Bug::AckByOne) {
            self.replicas
                .iter()
                .map(|r| r.matched.seq)
                .max()
                .unwrap_or_default()
        } else {
            self.quorum_value(|r| r.matched.seq)
        };
        let Some(position) = self.log.position(held) else {
            return false;
        };
        let is_own = position.epoch == self.epoch || planted(Bug::NoEpochStart);
        if !is_own || position <= self.committed {
            return false;
        }
        assert!(position <= self.log.last());
        self.committed = position;
        self.tell_due.get_or_insert(now + self.terms.tell);
        true
    }

    /// Takes a disk's answer, however late: what it says was so after the request was sent, and
    /// nothing that undoes it was sent since (see [`Replica`]). A request's id tells which life
    /// of the disk was asked.
    ///
    /// # Errors
    /// [`Fenced`] if a higher epoch was promised.
    pub fn reply(
        &mut self,
        now: Time,
        from: DiskId,
        id: RequestId,
        reply: &DiskReply,
    ) -> Result<(), Fenced> {
        let lives = self.replicas.iter_mut().enumerate();
        let landed = lives
            .filter(|(_, r)| r.at.disk == from)
            .find_map(|(i, r)| Some((i, r.land(id)?)));
        let Some((i, (flight, landing))) = landed else {
            return Ok(());
        };
        self.replicas[i].heard(&flight, now.since(flight.sent), &self.terms);
        let is_late = landing == Landing::Late;
        match reply {
            DiskReply::Fenced { promised } if *promised > self.epoch => {
                return Err(Fenced {
                    promised: *promised,
                });
            }
            DiskReply::Appended {
                last,
                leased,
                short,
            } => {
                let flight = if planted(Bug::LateLease) {
                    Flight {
                        sent: now,
                        ..flight
                    }
                } else {
                    flight
                };
                self.replicas[i].told_short(now, *short, &self.terms);
                self.appended(now, i, (&flight, landing), *last, *leased);
            }
            DiskReply::Joined { report } => {
                let replica = &mut self.replicas[i];
                replica.next = Seq(report.last.seq.0.min(self.log.last().seq.0) + 1);
                let behind = replica.next.0 <= self.log.base().seq.0;
                // R3: what it holds is from before the founding, and goes whatever it is.
                let obsolete = report.last.epoch < self.founded;
                let anew = obsolete || behind || report.base > self.log.base();
                replica.begin(if anew { Mode::Reset } else { Mode::Probe });
            }
            // A later append met its log since, or was not tried.
            DiskReply::Mismatch { .. } if is_late && self.replicas[i].mode == Mode::Stream => {}
            DiskReply::Mismatch { base, last } => self.mismatch(i, &flight, *base, *last),
            DiskReply::Unknown => self.replicas[i].lost(Mode::Join),
            DiskReply::Damaged => self.replicas[i].lost(Mode::Reset),
            _ if is_late => {}
            _ => {
                let pause = self.terms.pause;
                let replica = &mut self.replicas[i];
                replica.rewind();
                replica.quiet_until = Some(now + pause);
            }
        }
        Ok(())
    }

    fn appended(
        &mut self,
        now: Time,
        i: usize,
        (flight, landing): (&Flight, Landing),
        last: Position,
        leased: bool,
    ) {
        let known = self.log.position(last.seq) == Some(last);
        let leased = leased && !self.released;
        let replica = &mut self.replicas[i];
        match flight.kind {
            // What was sent was ours, even if it was trimmed meanwhile.
            FlightKind::Append { last: sent, .. } if last == sent || (known && last < sent) => {
                replica.matched = replica.matched.max(last);
                if leased {
                    replica.leased_until = replica.leased_until.max(flight.sent + self.terms.lease);
                }
                if replica.mode == Mode::Probe {
                    replica.mode = Mode::Stream;
                    replica.next = last.seq.next().max(replica.next);
                }
                if last < sent && landing == Landing::InTime {
                    replica.refused(now, &self.terms);
                }
            }
            FlightKind::Reset if last == self.log.base() => {
                replica.matched = last;
                replica.next = last.seq.next();
                replica.begin(Mode::Probe);
            }
            // What was sent since has answers of its own.
            _ if landing == Landing::Late => {}
            // The base moved on while the reset travelled, or the answer makes no sense.
            _ => replica.rewind(),
        }
    }

    /// The replica has no record where an append was to meet its log: step back, each time
    /// below the place that did not match. (What is to be sent next is beyond that append.)
    fn mismatch(&mut self, i: usize, flight: &Flight, base: Position, last: Position) {
        let FlightKind::Append { prev, .. } = flight.kind else {
            // Neither a join nor a reset can be answered so.
            self.replicas[i].rewind();
            return;
        };
        let log_base = self.log.base().seq;
        let agrees = self.log.position(last.seq) == Some(last);
        let replica = &mut self.replicas[i];
        replica.matched = Position::ZERO;
        replica.next = if agrees {
            last.seq.next()
        } else {
            last.seq.min(prev.seq)
        };
        let below = replica.next.0 <= log_base.0 || replica.next.0 <= base.seq.0;
        replica.begin(if below { Mode::Reset } else { Mode::Probe });
    }

    /// Takes silent requests for lost, until they are answered all the same.
    pub fn expire(&mut self, now: Time) {
        for replica in &mut self.replicas {
            if replica.due(&self.terms).is_some_and(|due| due <= now) {
                replica.overdue(&self.terms);
            }
        }
    }

    /// When [`Journal::expire`] or a pause's end is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let flights = self.replicas.iter().filter_map(|r| r.due(&self.terms));
        let pauses = self.replicas.iter().filter_map(|r| r.quiet_until);
        let shortages = self.replicas.iter().filter_map(Replica::asked_at);
        flights
            .chain(pauses)
            .chain(shortages)
            .chain(self.tell_due)
            .min()
    }

    /// Ends the lease at all replicas; final for this epoch (R7).
    pub fn release(&mut self, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        self.released = true;
        for replica in &mut self.replicas {
            replica.leased_until = Time::ZERO;
            let request = DiskRequest::Release {
                incarnation: replica.at.incarnation,
                volume: self.volume,
                epoch: self.epoch,
            };
            out.push(ToDisk {
                at: replica.at,
                id: ids.take(),
                request,
                payload: Payload::empty(),
            });
        }
    }

    /// How many replicas of the committed set take what is appended, or hold all that is
    /// committed: one that is refilled, or away, does neither. For `status`.
    #[must_use]
    pub fn replicas_in_step(&self) -> usize {
        let in_step = |r: &&Replica| {
            self.members.contains(&r.at) && (r.mode == Mode::Stream || r.matched >= self.committed)
        };
        self.replicas.iter().filter(in_step).count()
    }

    /// How many replicas of the committed set hold all that is committed.
    #[must_use]
    pub fn replicas_current(&self) -> usize {
        let members = self
            .replicas
            .iter()
            .filter(|r| self.members.contains(&r.at));
        members.filter(|r| r.matched >= self.committed).count()
    }
}

#[cfg(test)]
#[path = "../tests/journal.rs"]
mod tests;

#[cfg(test)]
#[path = "../tests/change.rs"]
mod change_tests;
