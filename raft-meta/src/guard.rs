//! What a peer's Raft message must be before raft-rs sees it: raft-rs panics on nonsense, and
//! a peer's bytes must never panic us.

use model::ids::{Boot, NodeId};
use raft::{RawNode, StateRole};
use thiserror::Error;

use crate::message::{
    CONTEXT_BYTES_MAX, ENTRIES_PER_MESSAGE_MAX, MemberId, NUMBER_MAX, RaftKind, RaftMessage, Term,
};
use crate::replica::{Replica, StateMachine};
use crate::storage::MemoryStorage;

/// Why a peer's Raft message was dropped.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// Its sender is not the node that the transport authenticated.
    #[error("sent in another node's name")]
    Forged,
    /// It is for another member, such as an earlier life of this directory.
    #[error("meant for another member")]
    Misaddressed,
    /// It is not a message that raft-rs could have made.
    #[error("malformed")]
    Malformed,
    /// It says what can't be said to this member in its present state.
    #[error("out of place")]
    OutOfPlace,
}

/// Checks all that raft-rs would panic on, and that a snapshot is of the group's own founding,
/// if this member knows it.
pub(crate) fn check<S: StateMachine>(
    raw: &RawNode<MemoryStorage>,
    (me, founding): (MemberId, Option<Boot>),
    sender: NodeId,
    m: &RaftMessage,
) -> Result<(), Refused> {
    if m.from.node() != sender || m.from == me {
        return Err(Refused::Forged);
    }
    if m.to != me {
        return Err(Refused::Misaddressed);
    }
    check_form(m)?;
    check_place(raw, m)?;
    let Some(snapshot) = &m.snapshot else {
        return Ok(());
    };
    let restored = Replica::<S>::restore(snapshot).map_err(|_| Refused::Malformed)?;
    if founding.is_none_or(|known| known == restored.founding) {
        Ok(())
    } else {
        Err(Refused::OutOfPlace)
    }
}

fn check_form(m: &RaftMessage) -> Result<(), Refused> {
    let hint = m.reject.map_or(0, |h| h.0);
    let numbers = [
        m.term.0,
        m.log_term.0,
        m.index.0,
        m.commit.0,
        m.commit_term.0,
        hint,
    ];
    let well_formed = m.term.0 > 0
        && numbers.iter().all(|n| *n <= NUMBER_MAX)
        && m.context.len() <= CONTEXT_BYTES_MAX
        && m.entries.len() <= ENTRIES_PER_MESSAGE_MAX
        && (m.entries.is_empty() || m.kind == RaftKind::Append)
        && m.snapshot.is_some() == (m.kind == RaftKind::Snapshot);
    if !well_formed {
        return Err(Refused::Malformed);
    }
    let (mut index, mut term) = (m.index.0, m.log_term);
    for entry in &m.entries {
        let follows = entry.index.0 == index + 1
            && entry.term >= term
            && entry.term <= m.term
            && entry.term > Term(0);
        if !follows {
            return Err(Refused::Malformed);
        }
        (index, term) = (entry.index.0, entry.term);
    }
    if let Some(s) = &m.snapshot {
        let sound = s.members.is_sound()
            && (1..=NUMBER_MAX).contains(&s.index.0)
            && s.term > Term(0)
            && s.term <= m.term;
        if !sound {
            return Err(Refused::Malformed);
        }
    }
    Ok(())
}

fn check_place(raw: &RawNode<MemoryStorage>, m: &RaftMessage) -> Result<(), Refused> {
    let raft = &raw.raft;
    let (last, committed) = (raft.raft_log.last_index(), raft.raft_log.committed);
    let all_durable = raft.raft_log.persisted == last;
    let placed = match m.kind {
        // A group's log starts with a snapshot: nothing is appended before it.
        RaftKind::Append => m.index.0 > 0 && m.log_term.0 > 0,
        RaftKind::Heartbeat => m.term.0 < raft.term || m.commit.0 <= last,
        RaftKind::Snapshot => {
            let s = m.snapshot.as_ref().ok_or(Refused::Malformed)?;
            s.index.0 != committed || raft.raft_log.match_term(s.index.0, s.term.0)
        }
        RaftKind::AppendResponse => {
            let hint = m.reject.map_or(0, |h| h.0);
            m.term.0 != raft.term || [m.index.0, m.commit.0, hint].iter().all(|i| *i <= last)
        }
        RaftKind::HeartbeatResponse => m.term.0 != raft.term || m.commit.0 <= last,
        // A candidate asks only once its log is durable; raft-rs asserts it at the answer.
        RaftKind::VoteResponse | RaftKind::PreVoteResponse => {
            all_durable || raft.state == StateRole::Follower
        }
        RaftKind::TimeoutNow => all_durable && raft.prs().get(m.from.0).is_some(),
        RaftKind::Vote | RaftKind::PreVote => true,
    };
    if placed {
        Ok(())
    } else {
        Err(Refused::OutOfPlace)
    }
}
