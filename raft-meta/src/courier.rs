//! The asking side of a group: commands that are applied exactly once and linearizable reads,
//! carried to whoever leads, asked again until answered or out of time.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::{Boot, NodeId};
use model::meta::MetaToken;
use model::time::Time;

use crate::message::{Answer, Ask, ProposerId};
use crate::node::AdminToken;
use crate::replica::IN_FLIGHT_MAX;

/// An ask without an answer goes out again after this long.
const RETRY: Duration = Duration::from_millis(250);

/// Bound of asks that wait for an answer, of each kind.
const PENDING_MAX: usize = IN_FLIGHT_MAX as usize;

/// Who gets an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// A machine of this node.
    Request(MetaToken),
    /// The operator.
    Admin(AdminToken),
    /// This node's own founding of its site's group.
    Founding,
}

/// What came of an ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// The state machine's reply, encoded.
    Reply(Vec<u8>),
    /// Unknown whether it happened.
    Unknown,
}

#[derive(Clone, Debug)]
struct Outgoing {
    origin: Origin,
    bytes: Vec<u8>,
    deadline: Time,
    next_try: Time,
    sent: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Courier {
    boot: Boot,
    proposer: Option<ProposerId>,
    next_number: u64,
    next_open: Time,
    commands: BTreeMap<u64, Outgoing>,
    reads: BTreeMap<u64, Outgoing>,
    target: Option<NodeId>,
    heard: Time,
    turn: usize,
}

impl Courier {
    pub(crate) fn new(boot: Boot) -> Self {
        Self {
            boot,
            proposer: None,
            next_number: 1,
            next_open: Time::ZERO,
            commands: BTreeMap::new(),
            reads: BTreeMap::new(),
            target: None,
            heard: Time::ZERO,
            turn: 0,
        }
    }

    /// Takes on a command; false if there are too many.
    pub(crate) fn command(
        &mut self,
        now: Time,
        within: Duration,
        origin: Origin,
        bytes: Vec<u8>,
    ) -> bool {
        if self.commands.len() >= PENDING_MAX {
            return false;
        }
        let number = self.number();
        self.commands
            .insert(number, Outgoing::new(now, within, origin, bytes));
        true
    }

    /// Takes on a read; false if there are too many.
    pub(crate) fn read(
        &mut self,
        now: Time,
        within: Duration,
        origin: Origin,
        bytes: Vec<u8>,
    ) -> bool {
        if self.reads.len() >= PENDING_MAX {
            return false;
        }
        let number = self.number();
        self.reads
            .insert(number, Outgoing::new(now, within, origin, bytes));
        true
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    fn low(&self) -> u64 {
        self.commands
            .keys()
            .next()
            .copied()
            .unwrap_or(self.next_number)
    }

    /// Sends what is due to the leader, as far as known. `sources` are the nodes to try, the
    /// likeliest first.
    pub(crate) fn poll(&mut self, now: Time, sources: &[NodeId], out: &mut Vec<(NodeId, Ask)>) {
        if self.commands.is_empty() && self.reads.is_empty() {
            return;
        }
        let overdue = |o: &Outgoing| o.sent && o.next_try <= now;
        let silent = self
            .commands
            .values()
            .chain(self.reads.values())
            .any(overdue)
            || (!self.commands.is_empty()
                && self.proposer.is_none()
                && self.next_open > Time::ZERO
                && self.next_open <= now);
        if silent && now.since(self.heard) >= RETRY {
            self.target = None;
            self.turn = self.turn.wrapping_add(1);
            self.heard = now;
        }
        let in_turn = || sources.get(self.turn % sources.len().max(1)).copied();
        let Some(target) = self.target.or_else(in_turn) else {
            return;
        };
        self.send_commands(now, target, out);
        for (number, read) in &mut self.reads {
            if read.next_try <= now {
                read.sent(now);
                out.push((
                    target,
                    Ask::Read {
                        number: *number,
                        query: read.bytes.clone(),
                    },
                ));
            }
        }
    }

    fn send_commands(&mut self, now: Time, target: NodeId, out: &mut Vec<(NodeId, Ask)>) {
        let low = self.low();
        let Some(proposer) = self.proposer else {
            if !self.commands.is_empty() && self.next_open <= now {
                self.next_open = now + RETRY;
                out.push((target, Ask::Open { boot: self.boot }));
            }
            return;
        };
        for (number, command) in self.commands.range_mut(low..low + IN_FLIGHT_MAX) {
            if command.next_try <= now {
                command.sent(now);
                let command = command.bytes.clone();
                out.push((
                    target,
                    Ask::Propose {
                        proposer,
                        number: *number,
                        low,
                        command,
                    },
                ));
            }
        }
    }

    /// Takes an answer; the settled asks go to `out`.
    pub(crate) fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        answer: Answer,
        out: &mut Vec<(Origin, Settled)>,
    ) {
        match answer {
            Answer::Opened { boot, proposer } if boot == self.boot => {
                self.lead_found(now, from);
                self.proposer = Some(proposer);
            }
            Answer::Applied {
                proposer,
                number,
                reply,
            } if self.proposer == Some(proposer) => {
                self.lead_found(now, from);
                if let Some(done) = self.commands.remove(&number) {
                    out.push((done.origin, Settled::Reply(reply)));
                }
            }
            Answer::Superseded { proposer, number } if self.proposer == Some(proposer) => {
                if let Some(lost) = self.commands.remove(&number) {
                    out.push((lost.origin, Settled::Unknown));
                }
            }
            Answer::NoSession { proposer } if self.proposer == Some(proposer) => {
                self.session_lost(now, out);
            }
            Answer::Read { number, reply } => {
                self.lead_found(now, from);
                if let Some(done) = self.reads.remove(&number) {
                    out.push((done.origin, Settled::Reply(reply)));
                }
            }
            Answer::Redirect { leader, .. } => self.redirected(now, from, leader),
            _ => {}
        }
    }

    /// What was sent in the lost session may have been applied; the rest goes into a new one.
    fn session_lost(&mut self, now: Time, out: &mut Vec<(Origin, Settled)>) {
        self.proposer = None;
        self.next_open = now;
        self.commands.retain(|_, command| {
            if command.sent {
                out.push((command.origin, Settled::Unknown));
            }
            !command.sent
        });
    }

    fn lead_found(&mut self, now: Time, from: NodeId) {
        self.heard = now;
        self.target = Some(from);
    }

    fn redirected(&mut self, now: Time, from: NodeId, leader: Option<NodeId>) {
        self.heard = now;
        match leader {
            Some(leader) if leader != from && self.target != Some(leader) => {
                self.target = Some(leader);
                self.next_open = now;
                for out in self.commands.values_mut().chain(self.reads.values_mut()) {
                    out.next_try = now;
                }
            }
            Some(_) => {}
            None => {
                self.target = None;
                self.turn = self.turn.wrapping_add(1);
            }
        }
    }

    /// Gives up what is out of time.
    pub(crate) fn expire(&mut self, now: Time, out: &mut Vec<(Origin, Settled)>) {
        for pending in [&mut self.commands, &mut self.reads] {
            pending.retain(|_, o| {
                if o.deadline <= now {
                    out.push((o.origin, Settled::Unknown));
                }
                o.deadline > now
            });
        }
    }
}

impl Outgoing {
    fn new(now: Time, within: Duration, origin: Origin, bytes: Vec<u8>) -> Self {
        Self {
            origin,
            bytes,
            deadline: now + within,
            next_try: now,
            sent: false,
        }
    }

    fn sent(&mut self, now: Time) {
        self.sent = true;
        self.next_try = now + RETRY;
    }
}
