//! An owner's start: seal a majority, adopt the most up-to-date log.
//!
//! **Invariant (R4):** of the log that is adopted, another replica has what its own log has up to
//! where that ends, if both end in one epoch: an owner appends only behind what is its own. What a
//! replica in the owner's site has of it does not cross a way between sites.

use std::time::Duration;

use bytes::Bytes;
use model::ids::{DiskRef, Epoch, Position, RequestId, Seq, VolumeId};
use model::journal::{Record, RecordBody, RecordHead, SealReport};
use model::payload::Payload;
use model::placement::{JournalConfig, VolumeRecord};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::replica::Mode;
use super::{CommittedCheckpoint, Fenced, Log, RequestIds, ToDisk};
use crate::messages::{DiskReply, DiskRequest};
use crate::planted::{Bug, planted};

/// Payload asked for with one fetch.
const FETCH_BYTES: u32 = 1 << 20;

/// How often that is halved at most, while answers are late.
const FETCH_HALVINGS_MAX: u32 = 4;

/// A replica that does not answer a fetch is asked again so often, after twice the time each.
const FETCH_REPEATS_MAX: usize = 3;

/// What a replica answered to the seal.
#[derive(Clone, Debug)]
enum Answer {
    None,
    Sealed(Box<SealReport>),
    Unknown,
    Damaged,
}

/// A log that was adopted, and what is known of the replicas.
#[derive(Debug)]
pub struct Adopted {
    /// The log.
    pub log: Log,
    /// The latest checkpoint known to be committed.
    pub checkpoint: CommittedCheckpoint,
    answers: Vec<(DiskRef, Answer)>,
    /// The epoch that founded the journal; nothing if that is the new owner's own.
    founded: Option<Epoch>,
    /// The one replica that is recovered from: it has the log, the others start anew.
    salvaged: Option<DiskRef>,
}

impl Adopted {
    /// A clean volume's: the checkpoint is all there is, and every replica starts anew (R3).
    #[must_use]
    pub fn founding(checkpoint: CommittedCheckpoint) -> Self {
        let log = Log::new(checkpoint.checkpoint.covers);
        Self {
            log,
            checkpoint,
            answers: Vec::new(),
            founded: None,
            salvaged: None,
        }
    }

    /// Whether it is what a recovery with loss left of a log.
    pub(super) fn is_recovered(&self) -> bool {
        self.salvaged.is_some()
    }

    /// The epoch that founded the journal of an owner at `epoch`.
    pub(super) fn founded(&self, epoch: Epoch) -> Epoch {
        self.founded.unwrap_or(epoch)
    }

    pub(super) fn mode_of(&self, at: DiskRef) -> (Mode, Seq) {
        let end = self.log.last().seq.next();
        // What is recovered from is the only copy: it is never reset, until others have it too.
        if self.salvaged == Some(at) {
            return (Mode::Probe, end);
        }
        let Some(founded) = self.founded else {
            return (Mode::Join, end);
        };
        let answer = self.answers.iter().find(|(a, _)| *a == at).map(|(_, a)| a);
        match answer {
            Some(Answer::Sealed(report)) if report.last.epoch < founded => (Mode::Reset, end),
            Some(Answer::Sealed(report)) => (Mode::Probe, report.last.seq.next().min(end)),
            Some(Answer::Unknown) => (Mode::Join, end),
            Some(Answer::Damaged) => (Mode::Reset, end),
            Some(Answer::None) | None => (Mode::Probe, end),
        }
    }
}

/// What a recovery came to.
#[derive(Debug)]
pub enum RecoveryStep {
    /// It goes on.
    Waiting,
    /// The log is here.
    Adopted(Box<Adopted>),
}

/// The seal and the fetch of one owner's start.
#[derive(Debug)]
pub struct Recovery {
    volume: VolumeId,
    epoch: Epoch,
    answers: Vec<(DiskRef, Answer)>,
    backstop: CommittedCheckpoint,
    founded: Epoch,
    /// By the operator's word: this replica alone is sealed, and its log counts if it reaches so
    /// far.
    salvage: Option<(DiskRef, Position)>,
    /// Replicas in the new owner's site.
    near: Vec<DiskRef>,
    fetch: Option<Fetch>,
    /// How often what is asked for at once is halved: what a slow way can't carry in time it must
    /// not be asked for over and over.
    halvings: u32,
    sent: Option<Time>,
    retry: Duration,
    in_flight: Vec<(RequestId, DiskRef)>,
}

#[derive(Debug)]
struct Fetch {
    /// Who has all of it.
    from: DiskRef,
    upto: Position,
    /// Who is nearer, and has it up to there.
    near: Option<(DiskRef, Position)>,
    checkpoint: CommittedCheckpoint,
    log: Log,
    /// All that ask for what follows the log: a late answer is as good.
    requests: Vec<RequestId>,
    sent: Time,
}

impl Fetch {
    /// Who is asked for what comes next.
    fn source(&self) -> DiskRef {
        let near = self.near.filter(|(_, upto)| self.log.last() < *upto);
        near.map_or(self.from, |(at, _)| at)
    }

    /// When it is asked again, or given up.
    fn due(&self, retry: Duration) -> Time {
        self.sent + retry * (1 << self.requests.len().min(8)) / 2
    }
}

impl Recovery {
    /// A recovery by `record`, whose epoch was committed for this owner's start (R1). Replicas
    /// that are `near` are read from as far as they go.
    #[must_use]
    pub fn new(record: &VolumeRecord, near: Vec<DiskRef>, retry: Duration) -> Self {
        let (volume, epoch, founded) = (record.id, record.epoch, record.founded);
        let backstop = CommittedCheckpoint::backstop(record.checkpoint);
        let salvage = record.to_salvage();
        let all = record.journal.replicas.iter();
        let sealed = all.filter(|at| salvage.is_none_or(|(only, _)| only == **at));
        let answers = sealed.map(|at| (*at, Answer::None)).collect();
        Self {
            volume,
            epoch,
            answers,
            backstop,
            founded,
            salvage,
            near,
            fetch: None,
            halvings: 0,
            sent: None,
            retry,
            in_flight: Vec::new(),
        }
    }

    /// Sends what is due.
    pub fn pump(&mut self, now: Time, ids: &mut RequestIds, out: &mut Vec<ToDisk>) {
        if let Some(fetch) = &mut self.fetch {
            if now < fetch.due(self.retry) {
                return;
            }
            if fetch.source() != fetch.from {
                // Who is near is late already: it is not waited for.
                (fetch.near, fetch.requests) = (None, Vec::new());
            } else {
                self.halvings = (self.halvings + 1).min(FETCH_HALVINGS_MAX);
            }
            if fetch.requests.len() <= FETCH_REPEATS_MAX {
                let request = ids.take();
                fetch.sent = now;
                fetch.requests.push(request);
                return self.ask(out, request);
            }
            // The replica fell silent: seal again, which finds another one or waits.
            for (_, answer) in &mut self.answers {
                *answer = Answer::None;
            }
            self.fetch = None;
            self.sent = None;
        }
        if self.sent.is_some_and(|sent| now.since(sent) < self.retry) {
            return;
        }
        self.sent = Some(now);
        // Those that sealed too: who was to be fetched from may have failed and stay away, and each
        // answer is a chance to adopt what the others have.
        for (at, _) in &self.answers {
            let request = DiskRequest::Seal {
                incarnation: at.incarnation,
                volume: self.volume,
                epoch: self.epoch,
            };
            let id = ids.take();
            self.in_flight.push((id, *at));
            out.push(ToDisk {
                at: *at,
                id,
                request,
                payload: Payload::empty(),
            });
        }
        // A late answer to an old request is as good; only the list must not grow.
        let keep = self.in_flight.len().saturating_sub(64);
        self.in_flight.drain(..keep);
    }

    /// When [`Recovery::pump`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        match &self.fetch {
            Some(fetch) => Some(fetch.due(self.retry)),
            None => Some(self.sent? + self.retry),
        }
    }

    /// Takes a disk's answer.
    ///
    /// # Errors
    /// [`Fenced`] if a higher epoch was promised.
    pub fn reply(
        &mut self,
        now: Time,
        (from, id): (DiskRef, RequestId),
        reply: DiskReply,
        payload: Bytes,
        ids: &mut RequestIds,
        out: &mut Vec<ToDisk>,
    ) -> Result<RecoveryStep, Fenced> {
        if self
            .fetch
            .as_ref()
            .is_some_and(|f| f.requests.contains(&id) && f.source() == from)
        {
            return self.fetched(now, reply, payload, ids, out);
        }
        let Some(i) = self.in_flight.iter().position(|f| *f == (id, from)) else {
            return Ok(RecoveryStep::Waiting);
        };
        self.in_flight.swap_remove(i);
        let answer = match reply {
            DiskReply::Fenced { promised } if promised > self.epoch => {
                return Err(Fenced { promised });
            }
            DiskReply::Sealed(report) if report.epoch == self.epoch => {
                match is_below(&report, self.epoch) {
                    true => Answer::Sealed(Box::new(report)),
                    false => Answer::Damaged,
                }
            }
            DiskReply::Unknown => Answer::Unknown,
            DiskReply::Damaged => Answer::Damaged,
            _ => return Ok(RecoveryStep::Waiting),
        };
        if let Some((_, slot)) = self.answers.iter_mut().find(|(at, _)| *at == from) {
            *slot = answer;
        }
        if self.fetch.is_some() {
            return Ok(RecoveryStep::Waiting);
        }
        Ok(self.try_adopt(now, ids, out))
    }

    /// How many replicas there are, how many of them sealed and count, and how many answered
    /// that they lost what they had (R2, R8).
    #[must_use]
    pub fn heard(&self) -> (usize, usize, usize) {
        let lost =
            |(_, answer): &&(DiskRef, Answer)| matches!(answer, Answer::Unknown | Answer::Damaged);
        let lost = self.answers.iter().filter(lost).count();
        (self.answers.len(), self.sealed().count(), lost)
    }

    fn sealed(&self) -> impl Iterator<Item = (DiskRef, &SealReport)> {
        self.answers.iter().filter_map(|(at, answer)| match answer {
            Answer::Sealed(report) => Some((*at, report.as_ref())),
            _ => None,
        })
    }

    /// Those that sealed and hold a log of this founding.
    fn current(&self) -> impl Iterator<Item = (DiskRef, &SealReport)> {
        self.sealed().filter(|(_, r)| r.last.epoch >= self.founded)
    }

    fn try_adopt(
        &mut self,
        now: Time,
        ids: &mut RequestIds,
        out: &mut Vec<ToDisk>,
    ) -> RecoveryStep {
        let need = if planted(Bug::SkipSeal) {
            1
        } else {
            JournalConfig::seal_quorum(self.answers.len())
        };
        let unknown = |a: &&(DiskRef, Answer)| matches!(a.1, Answer::Unknown | Answer::Damaged);
        let counted = if planted(Bug::UnknownCounts) {
            self.answers.iter().filter(unknown).count()
        } else {
            0
        };
        if self.sealed().count() + counted < need {
            return RecoveryStep::Waiting;
        }
        // R3: what is left from before the founding promised, and holds nothing.
        let best = if planted(Bug::AdoptShortest) {
            self.current().min_by_key(|(_, r)| r.last)
        } else if planted(Bug::AdoptLongest) {
            self.current().max_by_key(|(_, r)| r.last.seq)
        } else {
            self.current().max_by_key(|(_, r)| r.last)
        };
        let Some((from, best)) = best else {
            return RecoveryStep::Waiting;
        };
        let (base, upto) = (best.base, best.last);
        let checkpoint = self.latest_checkpoint();
        let covers = checkpoint.checkpoint.covers;
        // The operator was told what is covered: with less the volume waits for another word.
        let is_short = self.salvage.is_some_and(|(_, covered)| upto < covered);
        if covers < base || upto < covers || is_short {
            // Trimmed beyond every checkpoint that this quorum knows, or a log that ends
            // before what was committed: never serve over a gap (R3). Another replica may
            // know more; keep asking.
            return RecoveryStep::Waiting;
        }
        if self.current().any(|(_, r)| r.last != upto) {
            reached(Sometimes::RecoveryDiffers);
        }
        let log = Log::new(covers);
        if upto == covers {
            return self.adopt(log, checkpoint);
        }
        let near = self.near_source((from, upto), covers);
        let request = ids.take();
        self.fetch = Some(Fetch {
            from,
            upto,
            near,
            checkpoint,
            log,
            requests: vec![request],
            sent: now,
        });
        self.ask(out, request);
        RecoveryStep::Waiting
    }

    /// A replica that is near and has the log that is adopted, as far as its own one goes.
    fn near_source(
        &self,
        (from, upto): (DiskRef, Position),
        covers: Position,
    ) -> Option<(DiskRef, Position)> {
        if self.near.contains(&from) {
            return None;
        }
        let near = self.current().filter(|(at, _)| self.near.contains(at));
        let is_same = |last: Position| last.epoch == upto.epoch || planted(Bug::ForeignPrefix);
        let has = |r: &SealReport| is_same(r.last) && r.base <= covers && covers < r.last;
        let near = near.filter(|(_, r)| has(r));
        let near = near.map(|(at, r)| (at, r.last.min(upto)));
        let source = near.max_by_key(|(_, last)| *last)?;
        reached(Sometimes::RecoveryNear);
        Some(source)
    }

    fn latest_checkpoint(&self) -> CommittedCheckpoint {
        let reported = self.current().filter_map(|(_, r)| r.checkpoint.as_ref());
        let latest = reported.max_by_key(|(at, _, _)| *at);
        // One replica alone may lack the record of the checkpoint that was published, and what its
        // own one reaches may be deleted by then (R15). No session goes on from it anyway.
        let published = self.backstop.checkpoint.covers;
        let counts = |covers: Position| self.salvage.is_none() || covers >= published;
        match latest.filter(|(_, checkpoint, _)| counts(checkpoint.covers)) {
            // The backstop may be newer: a replica may hold a checkpoint's record and not know
            // yet that it is committed. The log from the older one on has that record, with
            // the sessions that the backstop lacks, and it counts as soon as all is committed.
            Some((at, checkpoint, sessions)) => CommittedCheckpoint {
                at: *at,
                checkpoint: *checkpoint,
                sessions: Bytes::copy_from_slice(sessions),
            },
            // It never wrote a checkpoint in this journal: it was founded from the backstop.
            None => self.backstop.clone(),
        }
    }

    fn ask(&self, out: &mut Vec<ToDisk>, id: RequestId) {
        let fetch = self.fetch.as_ref().expect("a fetch is under way");
        let request = DiskRequest::Fetch {
            incarnation: fetch.source().incarnation,
            volume: self.volume,
            epoch: self.epoch,
            from: fetch.log.last().seq.next(),
            bytes_max: FETCH_BYTES >> self.halvings,
        };
        out.push(ToDisk {
            at: fetch.source(),
            id,
            request,
            payload: Payload::empty(),
        });
    }

    fn fetched(
        &mut self,
        now: Time,
        reply: DiskReply,
        payload: Bytes,
        ids: &mut RequestIds,
        out: &mut Vec<ToDisk>,
    ) -> Result<RecoveryStep, Fenced> {
        let fetch = self.fetch.as_mut().expect("a fetch is under way");
        let good = match reply {
            DiskReply::Fenced { promised } if promised > self.epoch => {
                return Err(Fenced { promised });
            }
            DiskReply::Fetched { records } => {
                let of = (self.volume, self.epoch);
                let takes = !records.is_empty() && extend(&mut fetch.log, of, records, &payload);
                takes.then_some(()).ok_or(Answer::Damaged)
            }
            DiskReply::Damaged => Err(Answer::Damaged),
            DiskReply::Unknown => Err(Answer::Unknown),
            // It has much to do, or just failed: that says nothing of what it holds.
            _ => Err(Answer::None),
        };
        if let Err(answer) = good {
            self.source_failed(now, answer, ids, out);
            return Ok(RecoveryStep::Waiting);
        }
        if fetch.log.last() >= fetch.upto {
            let fetch = self.fetch.take().expect("just used");
            return Ok(self.adopt(fetch.log, fetch.checkpoint));
        }
        if fetch.requests.len() == 1 {
            self.halvings = self.halvings.saturating_sub(1);
        }
        let id = ids.take();
        (fetch.requests, fetch.sent) = (vec![id], now);
        self.ask(out, id);
        Ok(RecoveryStep::Waiting)
    }

    /// Who was asked has it no longer, or does not say: what it said at the seal does not count.
    /// One that is near and says nothing is done without, and what came from it stays.
    fn source_failed(
        &mut self,
        now: Time,
        answer: Answer,
        ids: &mut RequestIds,
        out: &mut Vec<ToDisk>,
    ) {
        let fetch = self.fetch.as_mut().expect("a fetch is under way");
        let source = fetch.source();
        let is_lost = matches!(answer, Answer::Unknown | Answer::Damaged);
        if source != fetch.from && !is_lost {
            let id = ids.take();
            (fetch.near, fetch.requests, fetch.sent) = (None, vec![id], now);
            self.ask(out, id);
            return;
        }
        self.fetch = None;
        // Who has much to do is not asked again at once.
        self.sent = (!is_lost).then_some(now);
        let mut answers = self.answers.iter_mut();
        if let Some((_, known)) = answers.find(|(at, _)| *at == source) {
            *known = answer;
        }
    }

    fn adopt(&mut self, log: Log, checkpoint: CommittedCheckpoint) -> RecoveryStep {
        // R1: what is adopted was made under lower epochs.
        assert!(log.last().epoch < self.epoch);
        let answers = std::mem::take(&mut self.answers);
        RecoveryStep::Adopted(Box::new(Adopted {
            log,
            checkpoint,
            answers,
            founded: Some(self.founded).filter(|_| self.salvage.is_none()),
            salvaged: self.salvage.map(|(at, _)| at),
        }))
    }
}

/// R1: whether all that a replica says that it holds is of lower epochs.
fn is_below(report: &SealReport, epoch: Epoch) -> bool {
    let checkpoint = report.checkpoint.as_ref();
    let checkpoint = checkpoint.map(|(at, checkpoint, _)| at.epoch.max(checkpoint.covers.epoch));
    let held = [report.base.epoch, report.last.epoch];
    held.into_iter().chain(checkpoint).all(|at| at < epoch)
}

/// Appends fetched records; false if they are not what a log can hold that was written under
/// epochs below `epoch` (a peer's bytes are never asserted on).
fn extend(
    log: &mut Log,
    (volume, epoch): (VolumeId, Epoch),
    heads: Vec<RecordHead>,
    payload: &Bytes,
) -> bool {
    let mut at = 0_usize;
    for head in heads {
        let end = at + head.payload_len as usize;
        let (last, next) = (log.last(), head.position);
        let dense = last.seq.0.checked_add(1) == Some(next.seq.0);
        let follows = dense && (last.epoch..epoch).contains(&next.epoch);
        if end > payload.len() || !follows || !head.is_sound(volume) || !fits(log, &head) {
            return false;
        }
        log.push(Record {
            head,
            payload: Payload::from(payload.slice(at..end)),
        });
        at = end;
    }
    at == payload.len()
}

/// Whether what a checkpoint's record says is covered is a place of the log, or lies before it.
fn fits(log: &Log, head: &RecordHead) -> bool {
    let RecordBody::Checkpoint(checkpoint) = &head.body else {
        return true;
    };
    let (base, covers) = (log.base(), checkpoint.covers);
    match covers.seq < base.seq {
        true => covers.epoch <= base.epoch,
        false => log.position(covers.seq) == Some(covers),
    }
}

#[cfg(test)]
#[path = "../tests/adopt.rs"]
mod tests;
