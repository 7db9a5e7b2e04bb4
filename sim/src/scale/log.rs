//! A group's state behind its log's bytes: every command is encoded, decoded and applied as any
//! replica does it.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::{Boot, NodeId};
use model::wire;
use raft_meta::message::{EntryBody, LogEntry, LogIndex, Members, ProposerId, Term};
use raft_meta::replica::{Outcome, Proposal, Replica, StateMachine, Verdict};

use super::gauge::timed;

/// What commands of one kind took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pub(super) count: u64,
    /// Of the entries, as they are in the log and go to every node.
    pub(super) bytes: u64,
    /// For decoding and applying them, on one replica.
    pub(super) wall: Duration,
}

impl Pace {
    pub(super) fn per_s(self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    pub(super) fn bytes_each(self) -> u64 {
        self.bytes / self.count.max(1)
    }
}

#[derive(Clone)]
struct Session {
    proposer: ProposerId,
    number: u64,
}

#[derive(Clone)]
pub(super) struct Log<S: StateMachine> {
    pub(super) replica: Replica<S>,
    sessions: BTreeMap<NodeId, Session>,
}

impl<S: StateMachine> Log<S> {
    pub(super) fn new(founding: Boot, members: Members, state: S) -> Self {
        Self {
            replica: Replica::founded(founding, members, state),
            sessions: BTreeMap::new(),
        }
    }

    pub(super) fn state(&self) -> &S {
        self.replica.state()
    }

    fn apply(&mut self, proposal: &Proposal, pace: &mut Pace) -> Outcome {
        let bytes = wire::encode(proposal);
        pace.count += 1;
        pace.bytes += bytes.len() as u64;
        let entry = LogEntry {
            index: LogIndex(self.replica.applied.0 + 1),
            term: Term(1),
            body: EntryBody::Proposal(bytes),
        };
        let (outcome, took) = timed(|| self.replica.apply(&entry));
        pace.wall += took;
        outcome
    }

    /// A leader's decision.
    pub(super) fn decide(&mut self, command: &S::Command) -> Pace {
        let mut pace = Pace::default();
        let command = wire::encode(command);
        self.apply(&Proposal::Decision { command }, &mut pace);
        pace
    }

    fn session(&mut self, node: NodeId, boot: Boot) -> (ProposerId, u64) {
        if !self.sessions.contains_key(&node) {
            // Not that of the node's machine: it counts its own commands.
            let boot = Boot(!boot.0);
            let open = Proposal::Open { node, boot };
            let Outcome::Opened { proposer, .. } = self.apply(&open, &mut Pace::default()) else {
                panic!("a session is opened to whoever asks");
            };
            let number = 0;
            self.sessions.insert(node, Session { proposer, number });
        }
        let session = self.sessions.get_mut(&node).expect("it was opened");
        session.number += 1;
        (session.proposer, session.number)
    }

    /// What a node asks for, in its session; it has all earlier answers.
    pub(super) fn ask(
        &mut self,
        (node, boot): (NodeId, Boot),
        command: &S::Command,
        pace: &mut Pace,
    ) -> S::Reply {
        let (proposer, number) = self.session(node, boot);
        let proposal = Proposal::Numbered {
            proposer,
            number,
            low: number,
            command: wire::encode(command),
        };
        match self.apply(&proposal, pace) {
            Outcome::Numbered {
                verdict: Verdict::Applied(reply),
                ..
            } => wire::decode(&reply).expect("its own reply"),
            other => panic!("a session that has every answer gets one: {other:?}"),
        }
    }
}
