//! What the owner knows of one replica.

use std::collections::VecDeque;

use model::ids::{DiskRef, Position, RequestId, Seq};
use model::time::Time;

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
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) at: DiskRef,
    pub(super) mode: Mode,
    /// All up to here is durable there, by its own word in this epoch.
    pub(super) matched: Position,
    pub(super) next: Seq,
    pub(super) flights: VecDeque<Flight>,
    pub(super) leased_until: Time,
    pub(super) quiet_until: Option<Time>,
    /// The committed position and the base that it was last told.
    pub(super) told: (Position, Position),
}

impl Replica {
    pub(super) fn new(at: DiskRef, (mode, next): (Mode, Seq)) -> Self {
        Self {
            at,
            mode,
            matched: Position::ZERO,
            next,
            flights: VecDeque::new(),
            leased_until: Time::ZERO,
            quiet_until: None,
            told: (Position::ZERO, Position::ZERO),
        }
    }

    /// Removes the flight that `id` answers.
    pub(super) fn land(&mut self, id: RequestId) -> Option<Flight> {
        let i = self.flights.iter().position(|f| f.id == id)?;
        self.flights.remove(i)
    }

    /// Answers are missing: start again from what is known to be there.
    pub(super) fn rewind(&mut self) {
        self.flights.clear();
        if matches!(self.mode, Mode::Stream | Mode::Probe) {
            self.mode = Mode::Probe;
            if self.matched > Position::ZERO {
                self.next = self.matched.seq.next();
            }
        }
    }

    /// It lost what it had: it counts for nothing until it was refilled.
    pub(super) fn lost(&mut self, mode: Mode) {
        self.flights.clear();
        self.matched = Position::ZERO;
        self.leased_until = Time::ZERO;
        self.mode = mode;
    }
}
