//! What metadata says on the wire and in its logs: structs of ours in bincode. raft-rs's
//! protobuf never parses a byte from the network.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bincode::{Decode, Encode};
use model::ids::{Boot, DiskRef, Incarnation, NodeId, SiteId};
use model::placement::DiskHealth;
use model::spread::SlotMove;

/// Bound of the entries in one message: as many as a leader ever sends in one
/// ([`MESSAGE_BYTES`]), however small they are. Of a message with one more, nothing would be taken,
/// nor of its repetitions.
pub const ENTRIES_PER_MESSAGE_MAX: usize = MESSAGE_BYTES as usize / ENTRY_BYTES_MIN;

/// A message carries about so many bytes of entries.
pub const MESSAGE_BYTES: u64 = 1 << 20;

/// No entry counts for less: it has a term and an index.
const ENTRY_BYTES_MIN: usize = 4;

/// No term or index is higher: room for arithmetic on what a peer claims.
pub const NUMBER_MAX: u64 = 1 << 56;

/// Bound of a command's bytes.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

/// Names a metadata group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub enum GroupId {
    /// The global placement group.
    Global,
    /// The group of one site.
    Site(SiteId),
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Site(site) => write!(f, "group of {site}"),
        }
    }
}

/// Place of an entry in a group's log, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct LogIndex(pub u64);

/// A Raft term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Encode, Decode)]
pub struct Term(pub u64);

/// A member of a group: a node with one life of its metadata directory. A node that lost its
/// logs gets another member id, so that it never counts for what it forgot (R2, R8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct MemberId(pub u64);

const DIRECTORY_BITS: u32 = 48;

impl MemberId {
    /// The member id of a node whose logs live in that directory. Never zero.
    #[must_use]
    pub fn new(node: NodeId, directory: Incarnation) -> Self {
        let low = directory.0 & ((1 << DIRECTORY_BITS) - 1);
        Self(u64::from(node.0) << DIRECTORY_BITS | low.max(1))
    }

    /// The node.
    #[must_use]
    pub fn node(self) -> NodeId {
        let high = self.0 >> DIRECTORY_BITS;
        NodeId(u16::try_from(high).expect("16 bits remain"))
    }
}

/// Bound of a voter set.
pub const VOTERS_MAX: usize = 64;

/// Who votes in a group and who only learns. All lists are sorted; no learner votes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Members {
    /// They vote.
    pub voters: Vec<MemberId>,
    /// They receive the log, to vote later.
    pub learners: Vec<MemberId>,
    /// While the voters are being changed: those that are left behind. Until then everything
    /// needs a majority of both sets, so that no set in between has to obey R21.
    pub outgoing: Vec<MemberId>,
}

impl Members {
    /// A group with these voters, sorted, and nobody else.
    #[must_use]
    pub fn of_voters(voters: Vec<MemberId>) -> Self {
        Self {
            voters,
            ..Self::default()
        }
    }

    /// Whether the voters are being changed: majorities of both sets are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether it votes, in either set.
    #[must_use]
    pub fn votes(&self, member: MemberId) -> bool {
        self.voters.contains(&member) || self.outgoing.contains(&member)
    }

    /// Whether it votes or learns.
    #[must_use]
    pub fn contains(&self, member: MemberId) -> bool {
        self.votes(member) || self.learners.contains(&member)
    }

    /// The nodes of the voters of both sets, each once.
    #[must_use]
    pub fn voter_nodes(&self) -> Vec<NodeId> {
        let mut all: Vec<&MemberId> = self.voters.iter().chain(&self.outgoing).collect();
        all.sort_unstable();
        let mut nodes: Vec<_> = all.into_iter().map(|m| m.node()).collect();
        nodes.dedup();
        nodes
    }

    /// The nodes of all members, each once.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut out = self.voter_nodes();
        for learner in &self.learners {
            if !out.contains(&learner.node()) {
                out.push(learner.node());
            }
        }
        out
    }

    /// Whether the lists are sorted and bounded, some voter is there, no learner votes, and no
    /// member is zero.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let lists = [&self.voters, &self.learners, &self.outgoing];
        is_voter_set(&self.voters)
            && lists.iter().all(|list| is_ascending(list))
            && self.outgoing.len() <= VOTERS_MAX
            && self.learners.iter().all(|l| !self.votes(*l))
    }

    /// What a committed step makes of it, as raft-rs does. `None`: the step is impossible and
    /// changes nothing.
    #[must_use]
    pub fn after(&self, step: &MemberStep) -> Option<Self> {
        let mut next = self.clone();
        match step {
            MemberStep::Learn(member) => {
                if self.is_joint() || self.contains(*member) || member.0 == 0 {
                    return None;
                }
                next.learners.push(*member);
                next.learners.sort_unstable();
            }
            MemberStep::Forget(member) => {
                if self.is_joint() || !self.learners.contains(member) {
                    return None;
                }
                next.learners.retain(|m| m != member);
            }
            MemberStep::Enter(voters) => {
                let learned = voters.iter().all(|v| self.contains(*v));
                if self.is_joint() || !is_voter_set(voters) || !learned || *voters == self.voters {
                    return None;
                }
                next.outgoing = std::mem::replace(&mut next.voters, voters.clone());
                next.learners.retain(|m| !voters.contains(m));
            }
            MemberStep::Leave => {
                if !self.is_joint() {
                    return None;
                }
                next.outgoing.clear();
            }
        }
        assert!(
            next.is_sound() || !self.is_sound(),
            "a step keeps members sound"
        );
        Some(next)
    }
}

fn is_ascending(list: &[MemberId]) -> bool {
    list.windows(2).all(|w| w[0] < w[1]) && list.first().is_none_or(|m| m.0 != 0)
}

fn is_voter_set(list: &[MemberId]) -> bool {
    (1..=VOTERS_MAX).contains(&list.len()) && is_ascending(list)
}

/// One change of a group's membership; there is never more than one under way. The set of
/// voters changes as a whole, by joint consensus: entered by one entry, left by another, which
/// any leader proposes.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum MemberStep {
    /// Let it learn.
    Learn(MemberId),
    /// A learner goes.
    Forget(MemberId),
    /// From here on majorities of the present voters and of these, sorted, are needed. All of
    /// them vote or learn already.
    Enter(Vec<MemberId>),
    /// From here on the new voters alone count; who is no longer among them is no member.
    Leave,
}

/// What an entry says.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum EntryBody {
    /// A new leader's first entry.
    Empty,
    /// A [`crate::replica::Proposal`], encoded.
    Proposal(Vec<u8>),
    /// A membership step.
    Members(MemberStep),
}

/// An entry of a group's log.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct LogEntry {
    /// Its place.
    pub index: LogIndex,
    /// The term of the leader that made it.
    pub term: Term,
    /// What it says.
    pub body: EntryBody,
}

/// A group's whole state at an index.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Snapshot {
    /// All entries up to here are in it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The members then.
    pub members: Members,
    /// [`crate::replica::Replica`], encoded.
    pub state: Vec<u8>,
}

/// The kinds of Raft message that cross the wire. Proposals and reads are forwarded by
/// [`Ask`], never by raft-rs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum RaftKind {
    /// By a leader: append after `index`.
    Append,
    /// By a follower, to `Append` and `Snapshot`.
    AppendResponse,
    /// By a candidate.
    Vote,
    /// To `Vote`.
    VoteResponse,
    /// By a node that would become a candidate if it could win.
    PreVote,
    /// To `PreVote`.
    PreVoteResponse,
    /// By a leader, periodically and to confirm its leadership for reads.
    Heartbeat,
    /// To `Heartbeat`.
    HeartbeatResponse,
    /// By a leader, to one that lacks what was compacted.
    Snapshot,
    /// By a leader that hands over: start an election at once.
    TimeoutNow,
}

/// A Raft message.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RaftMessage {
    /// What it is.
    pub kind: RaftKind,
    /// The sender; its node must be the one that the transport authenticated.
    pub from: MemberId,
    /// The receiver.
    pub to: MemberId,
    /// The sender's term.
    pub term: Term,
    /// Term of the entry at `index`.
    pub log_term: Term,
    /// The entry before the first one, or what the response is about.
    pub index: LogIndex,
    /// The sender's commit index.
    pub commit: LogIndex,
    /// The term of the entry at `commit`.
    pub commit_term: Term,
    /// In a refusal: where the log may match.
    pub reject: Option<LogIndex>,
    /// Opaque to the receiver, at most [`CONTEXT_BYTES_MAX`].
    pub context: Vec<u8>,
    /// Entries.
    pub entries: Vec<LogEntry>,
    /// The snapshot.
    pub snapshot: Option<Snapshot>,
}

/// Bound of a Raft message's context.
pub const CONTEXT_BYTES_MAX: usize = 64;

/// A proposer's session: the index of its committed `Open`. Commands carry it, so that they
/// are applied exactly once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct ProposerId(pub LogIndex);

/// Asked of a group's leader by any node; a member that does not lead answers
/// [`Answer::Redirect`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Ask {
    /// Begin a proposer's session. Answered by `Opened`.
    Open {
        /// The life of the asking node.
        boot: Boot,
    },
    /// Commit a command. Answered by `Applied`, `NoSession` or `Superseded`.
    Propose {
        /// The session.
        proposer: ProposerId,
        /// The command's number in the session.
        number: u64,
        /// The lowest number that the proposer has no answer to.
        low: u64,
        /// The command, encoded.
        command: Vec<u8>,
    },
    /// A linearizable read. Answered by `Read`.
    Read {
        /// Correlates the answer.
        number: u64,
        /// The question, encoded.
        question: Vec<u8>,
    },
}

/// To an [`Ask`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Answer {
    /// The session is committed.
    Opened {
        /// The life that it is for.
        boot: Boot,
        /// The session.
        proposer: ProposerId,
    },
    /// The command was applied, now or before.
    Applied {
        /// The session.
        proposer: ProposerId,
        /// Which command.
        number: u64,
        /// The state machine's reply, encoded.
        reply: Vec<u8>,
    },
    /// The session is not known: whether the command was applied is unknown.
    NoSession {
        /// The session.
        proposer: ProposerId,
    },
    /// The number is below the session's low mark, or beyond its window.
    Superseded {
        /// The session.
        proposer: ProposerId,
        /// Which command.
        number: u64,
    },
    /// A read's answer.
    Read {
        /// Which read.
        number: u64,
        /// The state machine's reply, or the mark, encoded.
        reply: Vec<u8>,
    },
    /// Not the leader; who is, if known.
    Redirect {
        /// The leader's node.
        leader: Option<NodeId>,
        /// The members' nodes, as the answering node knows them.
        members: Vec<NodeId>,
    },
}

/// To a [`MetaMessage::Follow`], and pushed while the subscription's lease runs.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Feed {
    /// Committed entries that follow what the follower has; with none, only a sign of life.
    Entries {
        /// Which founding of the group this is (R11).
        founding: Boot,
        /// The entries.
        entries: Vec<LogEntry>,
        /// The leader's node, if one is known.
        leader: Option<NodeId>,
    },
    /// What the follower lacks was compacted, or it follows another founding.
    Snapshot {
        /// Which founding of the group this is (R11).
        founding: Boot,
        /// The state.
        snapshot: Snapshot,
        /// The leader's node, if one is known.
        leader: Option<NodeId>,
    },
    /// The asked node is no member; these are.
    Elsewhere {
        /// The members' nodes, as far as known.
        members: Vec<NodeId>,
    },
}

/// A node's sign of life, with what its site's leader must know to register it. Sent to the
/// members of its site's group and of the global group.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Beat {
    /// Its site.
    pub site: SiteId,
    /// Its life.
    pub boot: Boot,
    /// As a member of groups.
    pub member: MemberId,
    /// Its name.
    pub name: String,
    /// Where its QUIC endpoint listens.
    pub address: SocketAddr,
    /// Where its NBD server listens.
    pub nbd: SocketAddr,
    /// Whether its site's group has a leader that it hears (R11).
    pub site_quorum: bool,
    /// Whether the global group has a leader that it hears, itself or through members that do.
    /// A site that others hear but that hears nobody can't commit anything (R11).
    pub global_quorum: bool,
    /// Its disks, at most [`DISKS_PER_NODE_MAX`].
    pub disks: Vec<LocalDisk>,
    /// Moves to its disks that are done but for the entry that ends them (R20), at most
    /// [`HEALED_MAX`].
    pub healed: Vec<SlotMove>,
}

/// Bound of the moves that one beat reports; more follow once those are ended.
pub const HEALED_MAX: usize = 64;

/// Bound of a node's disks.
pub const DISKS_PER_NODE_MAX: usize = 256;

/// A disk that a node has mounted and serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct LocalDisk {
    /// The disk, in its present life.
    pub at: DiskRef,
    /// Its capacity in bytes.
    pub capacity_bytes: u64,
    /// Whether it has room for fragments.
    pub has_room: bool,
    /// What else it says of itself.
    pub health: DiskHealth,
}

/// Any message between two nodes' metadata machines.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum MetaMessage {
    /// Between members of a group.
    Raft {
        /// The group.
        group: GroupId,
        /// The message.
        message: RaftMessage,
    },
    /// By a node that is no member of the group: send what comes after `applied`, now and for
    /// the next two seconds. Answered by `Feed`.
    Follow {
        /// The group.
        group: GroupId,
        /// Which founding of the group `applied` is about, if the follower has any state.
        founding: Option<Boot>,
        /// The last entry that the follower applied.
        applied: LogIndex,
        /// Whether an answer is wanted even if there is nothing new.
        renew: bool,
    },
    /// By a member to a follower.
    Feed {
        /// The group.
        group: GroupId,
        /// What it says.
        feed: Feed,
    },
    /// By any node to a member. Answered by `Answer`.
    Ask {
        /// The group.
        group: GroupId,
        /// What is asked.
        ask: Ask,
    },
    /// By a member to the asking node.
    Answer {
        /// The group.
        group: GroupId,
        /// The answer.
        answer: Answer,
    },
    /// A sign of life; not answered.
    Beat(Arc<Beat>),
}
