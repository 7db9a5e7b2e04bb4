//! The replicated state of a group, whoever holds it: a member behind Raft or a follower that
//! pulls. Proposals are applied exactly once: a proposer's session is the index of its
//! committed `Open`, and per session the state keeps the answers to unanswered numbers.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bincode::{Decode, Encode};
use model::ids::{Boot, NodeId};
use model::wire::{self, WireError};

use crate::message::{
    EntryBody, LogEntry, LogIndex, Members, NUMBER_MAX, ProposerId, Snapshot, Term,
};

/// Bound of a session's unanswered numbers: `number < low + IN_FLIGHT_MAX`.
pub const IN_FLIGHT_MAX: u64 = 1024;

/// Sessions kept a node; the oldest goes first. A node has one a life.
pub const SESSIONS_PER_NODE_MAX: usize = 4;

/// A deterministic state machine: the same commands in the same order give the same state and
/// the same replies. No command may panic it.
pub trait StateMachine: Clone + Debug + Encode + Decode<()> {
    /// What changes it. Variants are only ever appended (the log is durable).
    type Command: Clone + Debug + Encode + Decode<()>;
    /// What is asked of it.
    type Query: Clone + Debug + Encode + Decode<()>;
    /// What it answers to both.
    type Reply: Clone + Debug + Encode + Decode<()>;

    /// Applies a committed command.
    fn apply(&mut self, command: Self::Command) -> Self::Reply;

    /// Whether that node may ask for it: in its own name, and no decision of the leader's.
    fn may_ask(command: &Self::Command, node: NodeId) -> bool;

    /// Answers a query.
    fn query(&self, query: Self::Query) -> Self::Reply;
}

/// What an entry proposes. Encoded in [`EntryBody::Proposal`]; variants are only appended.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Proposal {
    /// Begin a session for a node's life; a second one for the same life is the same session.
    Open {
        /// The node.
        node: NodeId,
        /// Its life.
        boot: Boot,
    },
    /// A command of a session, applied exactly once.
    Numbered {
        /// The session.
        proposer: ProposerId,
        /// Its number.
        number: u64,
        /// The lowest number that the proposer has no answer to.
        low: u64,
        /// The state machine's command, encoded.
        command: Vec<u8>,
    },
    /// A leader's own decision: idempotent or guarded by a compare, so it has no number.
    Decision {
        /// The state machine's command, encoded.
        command: Vec<u8>,
    },
}

/// What became of a committed proposal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Not a proposal, or a leader's decision.
    Quiet,
    /// A session began.
    Opened {
        /// For whom.
        node: NodeId,
        /// Its life.
        boot: Boot,
        /// The session.
        proposer: ProposerId,
    },
    /// A numbered command has an answer.
    Numbered {
        /// The session.
        proposer: ProposerId,
        /// The number.
        number: u64,
        /// What it is.
        verdict: Verdict,
    },
}

/// What is known of a numbered command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Applied, now or before: the encoded reply.
    Applied(Vec<u8>),
    /// No such session.
    NoSession,
    /// Below the low mark, beyond the window, or not decodable: not applied by this entry.
    Superseded,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct Session {
    node: NodeId,
    boot: Boot,
    low: u64,
    answered: BTreeMap<u64, Vec<u8>>,
}

/// A state machine with its sessions, its members and its place in the log.
#[derive(Clone, Debug)]
pub struct Replica<S> {
    /// Which founding of the group this is (R11).
    pub founding: Boot,
    /// All up to here is applied.
    pub applied: LogIndex,
    /// The term of the entry at `applied`.
    pub term: Term,
    /// The members.
    pub members: Members,
    state: S,
    sessions: BTreeMap<ProposerId, Session>,
}

impl<S: StateMachine> Replica<S> {
    /// A new group's state at index 1.
    #[must_use]
    pub fn founded(founding: Boot, members: Members, state: S) -> Self {
        Self {
            founding,
            applied: LogIndex(1),
            term: Term(1),
            members,
            state,
            sessions: BTreeMap::new(),
        }
    }

    /// The state machine.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The whole state as a snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            index: self.applied,
            term: self.term,
            members: self.members.clone(),
            state: wire::encode(&(&self.founding, &self.state, &self.sessions)),
        }
    }

    /// The state that a peer's snapshot holds.
    ///
    /// # Errors
    /// [`WireError`] on bytes that [`Replica::snapshot`] did not make, or too many of them.
    pub fn restore(snapshot: &Snapshot) -> Result<Self, WireError> {
        Self::placed(snapshot, wire::decode(&snapshot.state)?)
    }

    /// The state that this node's own snapshot holds, which may be larger than what travels.
    ///
    /// # Errors
    /// [`WireError`] on bytes that [`Replica::snapshot`] did not make.
    pub fn restore_own(snapshot: &Snapshot) -> Result<Self, WireError> {
        Self::placed(snapshot, wire::decode_own(&snapshot.state)?)
    }

    fn placed(
        snapshot: &Snapshot,
        (founding, state, sessions): (Boot, S, BTreeMap<ProposerId, Session>),
    ) -> Result<Self, WireError> {
        let placed = (1..=NUMBER_MAX).contains(&snapshot.index.0);
        if !snapshot.members.is_sound() || !placed {
            return Err(WireError::Malformed);
        }
        Ok(Self {
            founding,
            applied: snapshot.index,
            term: snapshot.term,
            members: snapshot.members.clone(),
            state,
            sessions,
        })
    }

    /// Applies the next committed entry.
    ///
    /// # Panics
    /// If it is not the next one: the caller checks.
    pub fn apply(&mut self, entry: &LogEntry) -> Outcome {
        assert_eq!(
            entry.index.0,
            self.applied.0 + 1,
            "entries are applied in order"
        );
        self.applied = entry.index;
        self.term = entry.term;
        match &entry.body {
            EntryBody::Empty => Outcome::Quiet,
            EntryBody::Members(step) => {
                if let Some(next) = self.members.after(step) {
                    self.members = next;
                }
                Outcome::Quiet
            }
            EntryBody::Proposal(bytes) => match wire::decode(bytes) {
                Ok(proposal) => self.apply_proposal(entry.index, proposal),
                // Every replica sees the same bytes, so every replica skips them.
                Err(WireError::Malformed) => Outcome::Quiet,
            },
        }
    }

    fn apply_proposal(&mut self, at: LogIndex, proposal: Proposal) -> Outcome {
        match proposal {
            Proposal::Open { node, boot } => Outcome::Opened {
                node,
                boot,
                proposer: self.open(at, node, boot),
            },
            Proposal::Decision { command } => {
                if let Ok(command) = wire::decode(&command) {
                    self.state.apply(command);
                }
                Outcome::Quiet
            }
            Proposal::Numbered {
                proposer,
                number,
                low,
                command,
            } => {
                let verdict = self.apply_numbered(proposer, number, low, &command);
                Outcome::Numbered {
                    proposer,
                    number,
                    verdict,
                }
            }
        }
    }

    fn open(&mut self, at: LogIndex, node: NodeId, boot: Boot) -> ProposerId {
        let of_node = |s: &Session| s.node == node;
        let same = self
            .sessions
            .iter()
            .find(|(_, s)| of_node(s) && s.boot == boot);
        if let Some((id, _)) = same {
            return *id;
        }
        let held: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, s)| of_node(s))
            .map(|(id, _)| *id)
            .collect();
        if held.len() >= SESSIONS_PER_NODE_MAX {
            self.sessions.remove(&held[0]);
        }
        let id = ProposerId(at);
        self.sessions.insert(
            id,
            Session {
                node,
                boot,
                low: 0,
                answered: BTreeMap::new(),
            },
        );
        id
    }

    fn apply_numbered(
        &mut self,
        proposer: ProposerId,
        number: u64,
        low: u64,
        command: &[u8],
    ) -> Verdict {
        let Some(session) = self.sessions.get_mut(&proposer) else {
            return Verdict::NoSession;
        };
        if low > number {
            return Verdict::Superseded;
        }
        if low > session.low {
            session.low = low;
            session.answered = session.answered.split_off(&low);
        }
        if number < session.low || number - session.low >= IN_FLIGHT_MAX {
            return Verdict::Superseded;
        }
        if let Some(reply) = session.answered.get(&number) {
            return Verdict::Applied(reply.clone());
        }
        let Ok(command) = wire::decode(command) else {
            return Verdict::Superseded;
        };
        let reply = wire::encode(&self.state.apply(command));
        session.answered.insert(number, reply.clone());
        assert!(session.answered.len() as u64 <= IN_FLIGHT_MAX);
        Verdict::Applied(reply)
    }

    /// What is known of a numbered command without applying anything: its answer, or that it
    /// can have none. `None`: it may be proposed.
    #[must_use]
    pub fn verdict(&self, proposer: ProposerId, number: u64) -> Option<Verdict> {
        let Some(session) = self.sessions.get(&proposer) else {
            return Some(Verdict::NoSession);
        };
        if number < session.low {
            return Some(Verdict::Superseded);
        }
        session.answered.get(&number).cloned().map(Verdict::Applied)
    }

    /// Whose session it is.
    #[must_use]
    pub fn proposer_node(&self, proposer: ProposerId) -> Option<NodeId> {
        self.sessions.get(&proposer).map(|s| s.node)
    }

    /// The session of a node's life, if it is open.
    #[must_use]
    pub fn session_of(&self, node: NodeId, boot: Boot) -> Option<ProposerId> {
        let mut all = self.sessions.iter();
        all.find(|(_, s)| s.node == node && s.boot == boot)
            .map(|(id, _)| *id)
    }
}
