//! Which clients still live: sessions that nobody has any more are closed
//! ([decision 14](../../../../docs/decisions/0014-clients-are-asked-for.md)).
//!
//! **Invariant:** a session is closed only on its client's word, on that of the client's node,
//! which knows that it ended, or once the placement says that the node is gone for good (R10).
//! Silence is never taken for an end: who is cut off may come back, and ask again.

use model::ids::{ClientRef, NodeId, RequestId};
use model::journal::RecordBody;
use model::payload::Payload;
use model::placement::{Presence, View};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::{Serving, Stage};
use crate::messages::{CLIENTS_MAX, ClientsReply, ClientsRequest};
use crate::planted::{Bug, planted};
use crate::volume::Effect;

/// Nodes are asked no more often than this part of the usual time, whatever happens.
const HASTE: u32 = 10;

/// When clients were asked for, and are next.
#[derive(Debug, Default)]
pub(super) struct Roll {
    asked: Time,
    due: Time,
    questions: u64,
}

impl Serving {
    /// Asks the clients' nodes, if that is due.
    pub(super) fn step_roll(&mut self, now: Time, view: &View, out: &mut Vec<Effect>) {
        if self.roll_deadline().is_none_or(|due| now < due) {
            return;
        }
        (self.roll.asked, self.roll.due) = (now, now + self.config.roll_every);
        for node in self.sessions.nodes().collect::<Vec<_>>() {
            let clients: Vec<ClientRef> = self.sessions.clients_of(node).collect();
            if has_ended(view, node) {
                self.close_ended(now, &clients);
                continue;
            }
            for some in clients.chunks(CLIENTS_MAX) {
                self.roll.questions += 1;
                let id = RequestId(self.roll.questions);
                let request = ClientsRequest::WhoEnded(some.to_vec());
                out.push(Effect::ToClients { node, id, request });
            }
        }
    }

    /// A node's word on its clients. It speaks for no other's.
    pub(in crate::volume) fn clients_reply(
        &mut self,
        now: Time,
        node: NodeId,
        reply: &ClientsReply,
    ) {
        if self.stage != Stage::Serving || self.stopping {
            return;
        }
        let ClientsReply::Ended(ended) = reply;
        let own = ended.iter().copied().filter(|of| of.node == node);
        self.close_ended(now, &own.collect::<Vec<_>>());
    }

    fn close_ended(&mut self, now: Time, ended: &[ClientRef]) {
        for client in ended {
            if let Some(session) = self.sessions.of(*client) {
                reached(Sometimes::DeadSessionClosed);
                self.append(now, RecordBody::Close(session), Payload::empty());
                assert!(!self.sessions.is_open(session));
            }
        }
    }

    /// The placement changed. A node that is up again is asked soon: its old life's sessions are
    /// over.
    pub(in crate::volume) fn nodes_changed(&mut self, before: &View, view: &View) {
        let presence = |view: &View, node| view.nodes.get(&node).map(|n| n.presence);
        let told = |node: NodeId| {
            let now = presence(view, node);
            now != presence(before, node) && matches!(now, Some(Presence::Up | Presence::Gone))
        };
        if self.sessions.nodes().any(told) {
            self.hasten_roll();
        }
    }

    /// Before the first session is opened: it is not asked for at once.
    pub(super) fn begin_roll(&mut self, now: Time) {
        if self.sessions.is_empty() {
            self.roll.due = now + self.config.roll_every;
        }
    }

    pub(super) fn hasten_roll(&mut self) {
        let soon = self.roll.asked + self.config.roll_every / HASTE;
        self.roll.due = self.roll.due.min(soon);
    }

    pub(super) fn roll_deadline(&self) -> Option<Time> {
        let asks = self.stage == Stage::Serving && !self.stopping && !self.sessions.is_empty();
        (asks && !planted(Bug::UnaskedClients)).then_some(self.roll.due)
    }
}

/// Whether all lives of a node are over: it was removed for good. Of one that is not in the
/// placement nothing is known: the view may be old, and the node new.
fn has_ended(view: &View, node: NodeId) -> bool {
    let presence = view.nodes.get(&node).map(|n| n.presence);
    let silent = presence == Some(Presence::Down) && planted(Bug::SilentEnded);
    presence == Some(Presence::Gone) || silent
}
