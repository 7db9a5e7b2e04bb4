//! Errors that a client takes for final: a session that is not known, a request beyond the
//! volume's end, a fabric without space.
//!
//! **Invariant:** such an error is sent only by who is still the owner. An owner that was cut
//! off knows neither the sessions that were opened since, nor the volume's new size, nor that
//! there is space again; a client that believed it would give up a session that is open (R10).
//! So an error waits until a quorum of replicas answered an append that was sent after the
//! request came. That needs no clock but this owner's own, and only for the order of the two.
//!
//! **Invariant (R10):** a mutating part that was refused is never applied by this owner, whichever
//! copy of it comes later: its client may have gone on, and written the same place anew.

use std::collections::{BTreeMap, VecDeque};

use model::block::BlockError;
use model::ids::{Endpoint, RequestId, SessionId};
use model::journal::Part;
use model::time::Time;

use super::admit::changes;
use super::{Serving, answer};
use crate::messages::VolumeReply;
use crate::volume::sessions::{Admission, Sessions};
use crate::volume::{Effect, Waiting};

/// So many errors wait at most; who asks for more is told to come again.
const WAITING_MAX: usize = 256;

/// An error that waits.
#[derive(Debug)]
struct Refused {
    to: Endpoint,
    id: RequestId,
    error: BlockError,
    since: Time,
}

/// What was refused of a session's parts. Nothing of it is in the journal.
#[derive(Debug, Default)]
struct OfSession {
    /// The lowest part without an answer, as the client said it last.
    low: u64,
    parts: BTreeMap<u64, BlockError>,
}

/// The errors that wait, the oldest first, and what was refused before.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    waiting: VecDeque<Refused>,
    parts: BTreeMap<SessionId, OfSession>,
}

impl Refusals {
    /// Whether an error waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// None of those that wait is this owner's to send.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// What is to be done with a part that the journal does not have.
    pub(super) fn admit(&mut self, part: Part) -> Admission {
        let Some(of) = self.parts.get_mut(&part.session) else {
            return Admission::New;
        };
        if part.low > of.low {
            of.low = part.low;
            of.parts = of.parts.split_off(&part.low);
        }
        match of.parts.get(&part.n) {
            _ if part.n < of.low => Admission::Answered,
            Some(error) => Admission::Refused(*error),
            None => Admission::New,
        }
    }

    /// A part is refused for good.
    fn remember(&mut self, part: Part, error: BlockError, sessions: &Sessions) {
        if !self.parts.contains_key(&part.session) {
            self.parts.retain(|session, _| sessions.is_open(*session));
        }
        let of = self.parts.entry(part.session).or_default();
        of.low = of.low.max(part.low);
        of.parts.insert(part.n, error);
        of.parts = of.parts.split_off(&of.low);
    }
}

impl Serving {
    /// The request can't be carried out; its client is told once that is certain.
    pub(super) fn refuse(
        &mut self,
        now: Time,
        (to, id): (Endpoint, RequestId),
        error: BlockError,
        out: &mut Vec<Effect>,
    ) {
        let mut waiting = self.refusals.waiting.iter();
        if waiting.any(|refused| (refused.to, refused.id) == (to, id)) {
            return;
        }
        if self.refusals.waiting.len() >= WAITING_MAX {
            return answer(out, to, id, VolumeReply::Busy);
        }
        let refused = Refused {
            to,
            id,
            error,
            since: now,
        };
        let last = self.refusals.waiting.back().map(|last| last.since);
        assert!(
            last <= Some(now),
            "they are proven in the order that they came in"
        );
        self.refusals.waiting.push_back(refused);
        assert!(self.refusals.waiting.len() <= WAITING_MAX);
    }

    /// Refuses a request, and all copies of it if it is a mutating part.
    pub(super) fn refuse_for_good(
        &mut self,
        now: Time,
        request: &Waiting,
        error: BlockError,
        out: &mut Vec<Effect>,
    ) {
        if let Some((part, _, _)) = changes(request)
            && self.refusals.waiting.len() < WAITING_MAX
        {
            self.refusals.remember(part, error, &self.sessions);
        }
        self.refuse(now, (request.from, request.id), error, out);
    }

    /// Sends the errors that a quorum's answers since then prove to be this owner's to send.
    pub(super) fn answer_refused(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.stopping || self.refusals.is_empty() {
            return;
        }
        // A lease runs from when it was asked for, so that its end tells that (R7).
        let proven = self.journal.leased_until();
        let term = self.config.journal.lease;
        while let Some(first) = self.refusals.waiting.front() {
            if first.since + term > proven {
                break;
            }
            assert!(first.since <= now, "what was proven came before");
            answer(out, first.to, first.id, VolumeReply::Error(first.error));
            self.refusals.waiting.pop_front();
        }
        if !self.refusals.is_empty() {
            self.renew_lease(now);
        }
    }
}
