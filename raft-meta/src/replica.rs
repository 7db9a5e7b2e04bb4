//! The replicated state of a group, whoever holds it: a member behind Raft or a follower that
//! pulls. Proposals are applied exactly once: a proposer's session is the index of its
//! committed `Open`, and per session the state keeps the answers to unanswered numbers. It is the
//! session that makes a repeat one: what is numbered in a session that ended is not applied any
//! more, and whoever lives on opens another one.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bincode::{Decode, Encode};
use model::ids::{Boot, NodeId};
use model::wire::{self, WireError};

use crate::claims::Claims;
use crate::message::{
    EntryBody, LogEntry, LogIndex, Members, NUMBER_MAX, ProposerId, Snapshot, Term,
};

/// Bound of a session's unanswered numbers: `number < low + IN_FLIGHT_MAX`.
pub const IN_FLIGHT_MAX: u64 = 1024;

/// Bound of what the answers of all sessions take of a snapshot. Beyond it, another session ends than
/// the one that is answered, that which keeps most: mostly of a node which asked for much at once, and
/// nothing since.
pub const ANSWERS_CLAIM_MAX: usize = 1 << 20;

/// What a decoder claims for an answer beside its bytes, at most. Not asked of the compiler: it
/// decides what is done to the state, which must be the same everywhere.
const ANSWER_CLAIM: usize = 32;

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

/// What is read of a group, linearizably.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) enum Question<Q> {
    /// Its state machine's answer to a query.
    State(Q),
    /// How much of it a reader must have applied to know all of now. Answered by a [`Mark`].
    Mark,
}

/// Whoever applied so much of this founding's log knows whatever was decided before it was asked
/// for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub(crate) struct Mark {
    pub(crate) founding: Boot,
    pub(crate) applied: LogIndex,
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

impl Session {
    fn claim(&self) -> usize {
        claim(&self.answered)
    }
}

fn claim(answered: &BTreeMap<u64, Vec<u8>>) -> usize {
    answered.values().map(|reply| claim_of(reply)).sum()
}

fn claim_of(reply: &[u8]) -> usize {
    ANSWER_CLAIM + reply.len()
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
    /// What the sessions' answers claim.
    claims: Claims,
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
            claims: Claims::default(),
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
        let mut claims = Claims::default();
        for (id, session) in &sessions {
            claims.change(*id, |_| session.claim());
        }
        Ok(Self {
            founding,
            applied: snapshot.index,
            term: snapshot.term,
            members: snapshot.members.clone(),
            state,
            sessions,
            claims,
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
        if let Some(id) = self.session_of(node, boot) {
            return id;
        }
        // Nobody asks in an earlier life's name any more. Should this one be the earlier, by an entry
        // that was long under way, the other opens a session anew.
        for (id, _) in self.sessions.extract_if(.., |_, s| s.node == node) {
            self.claims.end(id);
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
            let unanswered = session.answered.split_off(&low);
            let answered = std::mem::replace(&mut session.answered, unanswered);
            let answered = claim(&answered);
            self.claims.change(proposer, |before| before - answered);
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
        self.claims
            .change(proposer, |before| before + claim_of(&reply));
        session.answered.insert(number, reply.clone());
        assert!(session.answered.len() as u64 <= IN_FLIGHT_MAX);
        self.end_sessions_but(proposer);
        Verdict::Applied(reply)
    }

    /// Ends sessions other than that one until the answers are within their bound.
    fn end_sessions_but(&mut self, kept: ProposerId) {
        while self.claims.sum() > ANSWERS_CLAIM_MAX
            && let Some(id) = self.claims.largest_but(kept)
        {
            self.sessions.remove(&id);
            self.claims.end(id);
        }
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
