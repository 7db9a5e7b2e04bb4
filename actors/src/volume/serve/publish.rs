//! What the global placement group is told: checkpoints (R3), and the end of an ownership.

use std::time::Duration;

use model::ids::Position;
use model::journal::{Checkpoint, RecordBody};
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::time::Time;

use super::{Serving, Stage};
use crate::volume::StopReason;
use crate::volume::drain::Drain;

/// A checkpoint that is no backstop is put off so long. Then it is told all the same: a base that
/// nobody can read again would have every later one put off, so that nothing that is dropped was
/// ever deleted (R15), and whoever has to go on without a journal would lose all since instead of
/// the pieces that wait for that base (R28).
const PUT_OFF_MAX: Duration = Duration::from_secs(60);

impl Serving {
    /// Has the global group told of a checkpoint; `clean` ends this ownership.
    pub(super) fn ask_to_publish(
        &mut self,
        now: Time,
        checkpoint: Checkpoint,
        clean: bool,
    ) -> MetaToken {
        let token = self.token();
        let request = MetaRequest::Publish {
            volume: self.id,
            epoch: self.epoch,
            checkpoint,
            clean,
            at: self.config.wall_at_zero.at(now),
        };
        self.meta.push((token, request));
        token
    }

    pub(super) fn publish(&mut self, now: Time) {
        if let Some((_, _, _, at)) = self.publishing {
            if now.since(at) < self.config.meta_retry * 10 {
                return;
            }
            self.publishing = None;
        }
        let current = self.journal.checkpoint();
        let (at, checkpoint) = (current.at, current.checkpoint);
        let news = checkpoint.covers > self.published.covers;
        if !news || now.since(self.published_at) < self.config.publish_every || self.stopping {
            return;
        }
        if self.is_partial(checkpoint.covers, at) && !self.fullness.is_certain(now) {
            let since = *self.put_off_since.get_or_insert(now);
            if now.since(since) < PUT_OFF_MAX {
                self.published_at = now;
                return;
            }
        }
        let token = self.ask_to_publish(now, checkpoint, false);
        self.publishing = Some((token, at, checkpoint, now));
    }

    /// The latest checkpoint that somebody without a journal could go on from.
    pub(super) fn backstop(&self) -> Checkpoint {
        let current = self.journal.checkpoint();
        match self.is_partial(current.checkpoint.covers, current.at) {
            true => self.published,
            false => current.checkpoint,
        }
    }

    /// Whether some of what a checkpoint covers is not in it, but journaled again behind the cut
    /// (R28): whoever has to go on from it without a journal (R11) would not have all of it, so
    /// that it is no backstop until a later drain has brought that. In a full fabric it is told
    /// all the same, since a trim would free nothing otherwise (R18), and so it is after
    /// [`PUT_OFF_MAX`].
    fn is_partial(&self, covers: Position, at: Position) -> bool {
        let behind = self.journal.log().from(covers.seq.next());
        let mut drained_with = behind.take_while(|record| record.head.position < at);
        drained_with.any(|record| matches!(record.head.body, RecordBody::Kept { .. }))
    }

    pub(in crate::volume) fn meta_reply(&mut self, now: Time, token: MetaToken, reply: &MetaReply) {
        let done = matches!(reply, MetaReply::Done | MetaReply::Volume(_));
        let refused = matches!(reply, MetaReply::Refused { .. });
        if let Stage::Founding {
            asked: Some((t, _)),
        } = self.stage
            && t == token
        {
            self.stage = Stage::Founding { asked: None };
            if done {
                self.founds = false;
            }
        } else if let Some((t, at, checkpoint, _)) = self.publishing
            && t == token
        {
            self.publishing = None;
            if done {
                self.published = checkpoint;
                self.published_at = now;
                self.put_off_since = None;
                self.dropped.published(at);
                if self.stopping && self.release_done(checkpoint) {
                    self.fail(StopReason::Clean);
                }
            }
        } else {
            if !self.bounds_reply(token, reply) {
                self.change_reply(token, reply);
            }
            return;
        }
        if refused {
            self.fail(StopReason::Fenced);
        }
    }

    pub(super) fn release_done(&self, checkpoint: Checkpoint) -> bool {
        self.covered() && checkpoint == self.journal.checkpoint().checkpoint
    }

    /// Whether the committed checkpoint covers every write.
    pub(super) fn covered(&self) -> bool {
        self.layers.active.is_empty()
            && self.layers.frozen.is_none()
            && self.journal.committed() == self.journal.log().last()
            && self.acks.is_empty()
            && self.bypass.is_empty()
    }

    /// A passivating owner: all is covered and committed; it gives up its lease, then commits
    /// the clean end (R3), and never acknowledges in this epoch again.
    pub(super) fn finish_stop(&mut self, now: Time) {
        if self.stopping
            && matches!(self.drain, Drain::Idle)
            && self.only_kept()
            && self.acks.is_empty()
            && self.bypass.is_empty()
        {
            // What can't be merged now stays in the journal, for the next owner (R28).
            self.release = true;
            self.fail(StopReason::Released);
            return;
        }
        if !self.stopping || self.publishing.is_some() || !self.covered() {
            return;
        }
        if !matches!(self.drain, Drain::Idle) || !self.rewriter.is_quiet() {
            return;
        }
        let current = self.journal.checkpoint();
        let (at, checkpoint) = (current.at, current.checkpoint);
        self.release = true;
        self.parked.clear();
        self.refusals.clear();
        if !self.sessions.is_empty() {
            // Sessions live in the journal (R10): the next owner seals it and goes on.
            self.fail(StopReason::Released);
            return;
        }
        let token = self.ask_to_publish(now, checkpoint, true);
        self.publishing = Some((token, at, checkpoint, now));
    }
}

#[cfg(test)]
#[path = "../tests/published.rs"]
mod tests;
