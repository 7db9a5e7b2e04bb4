//! Errors that a client takes for final: a session that is not known, a request beyond the
//! volume's end, a fabric without space.
//!
//! **Invariant:** such an error is sent only by who is still the owner. An owner that was cut
//! off knows neither the sessions that were opened since, nor the volume's new size, nor that
//! there is space again; a client that believed it would give up a session that is open (R10).
//! So an error waits until a quorum of replicas answered an append that was sent after the
//! request came. That needs no clock but this owner's own, and only for the order of the two.

use std::collections::VecDeque;

use model::block::BlockError;
use model::ids::{Endpoint, RequestId};
use model::time::Time;

use super::{Serving, answer};
use crate::messages::VolumeReply;
use crate::volume::Effect;

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

/// The errors that wait, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Refusals(VecDeque<Refused>);

impl Refusals {
    /// Whether one waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// None of them is this owner's to send.
    pub(super) fn clear(&mut self) {
        self.0.clear();
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
        if self.refusals.0.len() >= WAITING_MAX {
            return answer(out, to, id, VolumeReply::Busy);
        }
        let refused = Refused {
            to,
            id,
            error,
            since: now,
        };
        let last = self.refusals.0.back().map(|last| last.since);
        assert!(
            last <= Some(now),
            "they are proven in the order that they came in"
        );
        self.refusals.0.push_back(refused);
        assert!(self.refusals.0.len() <= WAITING_MAX);
    }

    /// Sends the errors that a quorum's answers since then prove to be this owner's to send.
    pub(super) fn answer_refused(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.stopping || self.refusals.is_empty() {
            return;
        }
        // A lease runs from when it was asked for, so that its end tells that (R7).
        let proven = self.journal.leased_until();
        let term = self.config.journal.lease;
        while let Some(first) = self.refusals.0.front() {
            if first.since + term > proven {
                break;
            }
            assert!(first.since <= now, "what was proven came before");
            answer(out, first.to, first.id, VolumeReply::Error(first.error));
            self.refusals.0.pop_front();
        }
        if !self.refusals.is_empty() {
            self.renew_lease(now);
        }
    }
}
