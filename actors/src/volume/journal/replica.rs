//! What the owner knows of one replica.

use std::collections::VecDeque;
use std::time::Duration;

use model::ids::{DiskRef, Position, RequestId, Seq};
use model::time::Time;

use super::JournalTerms;

/// How a replica is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// It has no state: it must join first (R2).
    Join,
    /// Its log is damaged (R8), behind the trim (R9), or to be founded: it starts anew.
    Reset,
    /// Where its log meets ours is not known: one append at a time.
    Probe,
    /// It matches: appends overlap.
    Stream,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum FlightKind {
    Join,
    Reset,
    Append {
        /// The record before the first one sent.
        prev: Position,
        /// The last record sent, or `prev` if none was.
        last: Position,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) id: RequestId,
    /// Taken before the request left: what a lease is counted from (R7).
    pub(super) sent: Time,
    pub(super) kind: FlightKind,
    /// Its payload.
    pub(super) bytes: usize,
}

/// How an answer finds its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Landing {
    InTime,
    /// It was taken for lost.
    Late,
}

/// A disk that is short of space takes clients' bytes only along with what frees files.
#[derive(Clone, Copy, Debug)]
struct Short {
    /// When it is asked whether it still is.
    ask_at: Time,
    /// It had no room even for what frees files, with what stands before that: that is not sent
    /// again before.
    spared_until: Time,
}

/// Requests that were taken for lost and may be answered yet, at most.
const LATE_MAX: usize = 32;

/// **Invariant:** what is late was sent since the replica was last told to join or to start
/// anew. So no answer tells of records that were dropped there since.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) at: DiskRef,
    pub(super) mode: Mode,
    /// All up to here is durable there, by its own word in this epoch.
    pub(super) matched: Position,
    pub(super) next: Seq,
    pub(super) flights: VecDeque<Flight>,
    late: VecDeque<Flight>,
    /// How long an answer may take before its request is taken for lost: twice as long as the
    /// last one took, and twice as long again each time that none comes.
    patience: Duration,
    /// The shortest time that an answer took lately: the distance, and what the disk takes.
    shortest: Duration,
    /// The last full batch that took too long: its bytes, and how long.
    too_long: Option<(usize, Duration)>,
    /// Payload of one append at most: what waits on the way for half a lease leaves too little of
    /// it for reads (R7).
    pub(super) batch_bytes: usize,
    pub(super) leased_until: Time,
    pub(super) quiet_until: Option<Time>,
    short: Option<Short>,
    /// The committed position and the base that it was last told.
    pub(super) told: (Position, Position),
}

impl Replica {
    pub(super) fn new(at: DiskRef, (mode, next): (Mode, Seq), terms: &JournalTerms) -> Self {
        Self {
            at,
            mode,
            matched: Position::ZERO,
            next,
            flights: VecDeque::new(),
            late: VecDeque::new(),
            patience: terms.retry,
            shortest: Duration::MAX,
            too_long: None,
            batch_bytes: terms.batch_bytes,
            leased_until: Time::ZERO,
            quiet_until: None,
            short: None,
            told: (Position::ZERO, Position::ZERO),
        }
    }

    /// Whether answers to what was sent before may be under way.
    pub(super) fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Removes the flight that `id` answers.
    pub(super) fn land(&mut self, id: RequestId) -> Option<(Flight, Landing)> {
        let ways = [
            (&mut self.flights, Landing::InTime),
            (&mut self.late, Landing::Late),
        ];
        ways.into_iter().find_map(|(flights, landing)| {
            let i = flights.iter().position(|f| f.id == id)?;
            Some((flights.remove(i)?, landing))
        })
    }

    /// Whether its disk is short of space.
    pub(super) fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// When a disk that is short of space is asked whether it still is.
    pub(super) fn asked_at(&self) -> Option<Time> {
        self.short.map(|short| short.ask_at)
    }

    /// Whether it is to be asked now whether it is still short; then not for a while.
    pub(super) fn take_ask(&mut self, now: Time, terms: &JournalTerms) -> bool {
        let due = self.short.as_mut().filter(|short| short.ask_at <= now);
        due.map(|short| short.ask_at = now + terms.ask_short)
            .is_some()
    }

    /// Whether clients' bytes may be sent to a disk that is short, before what frees files.
    pub(super) fn may_lead(&self, now: Time) -> bool {
        self.short.is_none_or(|short| short.spared_until <= now)
    }

    /// Its disk told whether it is short of space.
    pub(super) fn told_short(&mut self, now: Time, is_short: bool, terms: &JournalTerms) {
        let spared_until = self.short.map_or(now, |short| short.spared_until);
        self.short = is_short.then_some(Short {
            ask_at: now + terms.ask_short,
            spared_until,
        });
    }

    /// There was no room for all that an append brought.
    pub(super) fn refused(&mut self, now: Time, terms: &JournalTerms) {
        self.rewind();
        match &mut self.short {
            Some(short) => short.spared_until = now + terms.ask_short,
            None => self.quiet_until = Some(now + terms.pause),
        }
    }

    /// An answer took so long: the next ones are waited for, and the next batches cut, by that.
    /// What was sent earlier and was not answered is lost.
    pub(super) fn heard(&mut self, flight: &Flight, took: Duration, terms: &JournalTerms) {
        self.late.retain(|late| late.sent >= flight.sent);
        self.patience = (took * 2).clamp(terms.retry, terms.retry_max);
        self.shortest = self.shortest.min(took);
        if flight.bytes >= self.batch_bytes / 2 {
            self.batch_bytes = self.fit_batch(flight.bytes, took, terms);
        }
    }

    /// How large the next batches are, after a full one that took so long. What waits is taken for
    /// the bytes' on a narrow way, and batches are halved. If less takes as long, it is not the
    /// bytes': a disk is slow, or its way is longer now, and that is taken for the distance.
    fn fit_batch(&mut self, bytes: usize, took: Duration, terms: &JournalTerms) -> usize {
        let (least, now) = (terms.batch_bytes_min, self.batch_bytes);
        let waited = took - self.shortest;
        let next = if waited <= terms.lease / 8 {
            now * 2
        } else if waited <= terms.lease / 2 {
            now + least / 4
        } else {
            let before = self.too_long.replace((bytes, took));
            let as_long =
                |(more, then): (usize, Duration)| more >= 2 * bytes && took >= then * 7 / 8;
            if before.is_some_and(as_long) {
                self.shortest = took;
                now
            } else {
                if bytes <= least {
                    // No less can be tried.
                    self.shortest += waited / 8;
                }
                now / 2
            }
        };
        next.clamp(least, terms.batch_bytes)
    }

    /// When the oldest request is taken for lost. What carries nothing is soon sent again.
    pub(super) fn due(&self, terms: &JournalTerms) -> Option<Time> {
        let oldest = self.flights.front()?;
        let patience = match self.mode {
            Mode::Join => terms.retry,
            Mode::Probe if self.is_late() => terms.retry,
            Mode::Reset | Mode::Probe | Mode::Stream => self.patience,
        };
        Some(oldest.sent + patience)
    }

    /// Answers are missing: start again from what is known to be there. They may still come;
    /// to what carries nothing, none needs to.
    pub(super) fn overdue(&mut self, terms: &JournalTerms) {
        self.late.extend(self.flights.drain(..));
        while self.late.len() > LATE_MAX {
            let empty = self.late.iter().position(|flight| flight.bytes == 0);
            self.late.remove(empty.unwrap_or(0));
        }
        self.patience = (self.patience * 2).min(terms.retry_max);
        self.rewind();
    }

    /// Start again from what is known to be there.
    pub(super) fn rewind(&mut self) {
        self.flights.clear();
        if matches!(self.mode, Mode::Stream | Mode::Probe) {
            self.mode = Mode::Probe;
            if self.matched > Position::ZERO {
                self.next = self.matched.seq.next();
            }
        }
    }

    /// It is spoken to in another way from here on: answers to what was sent before tell nothing.
    pub(super) fn begin(&mut self, mode: Mode) {
        self.flights.clear();
        self.late.clear();
        self.mode = mode;
    }

    /// It lost what it had: it counts for nothing until it was refilled.
    pub(super) fn lost(&mut self, mode: Mode) {
        self.begin(mode);
        self.matched = Position::ZERO;
        self.leased_until = Time::ZERO;
    }
}
