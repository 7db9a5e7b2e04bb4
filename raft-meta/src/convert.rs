//! Between our structs and raft-rs's, by hand: its protobuf neither parses nor writes
//! anything that travels. A membership entry carries our bincode in its `context`; raft-rs
//! reads its protobuf `data` only on the leader that makes it.

#![allow(
    clippy::field_reassign_with_default,
    reason = "protobuf's structs have private fields"
)]

use bytes::Bytes;
use model::wire;
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Message, MessageType,
    Snapshot,
};

use crate::log;
use crate::message::{
    self, EntryBody, LogEntry, LogIndex, MemberId, MemberStep, Members, RaftKind, RaftMessage,
    StepKind, Term,
};

pub(crate) fn members_to_raft(members: &Members) -> ConfState {
    let raw = |list: &[MemberId]| list.iter().map(|m| m.0).collect::<Vec<_>>();
    let mut state = ConfState::default();
    state.set_voters(raw(&members.voters));
    state.set_learners(raw(&members.learners));
    state
}

pub(crate) fn members_from_raft(state: &ConfState) -> Members {
    let sorted = |list: &[u64]| {
        let mut out: Vec<_> = list.iter().map(|m| MemberId(*m)).collect();
        out.sort_unstable();
        out
    };
    Members {
        voters: sorted(state.get_voters()),
        learners: sorted(state.get_learners()),
    }
}

pub(crate) fn step_to_raft(step: MemberStep) -> ConfChange {
    let mut change = ConfChange::default();
    change.set_change_type(match step.kind {
        StepKind::Voter => ConfChangeType::AddNode,
        StepKind::Learner => ConfChangeType::AddLearnerNode,
        StepKind::Remove => ConfChangeType::RemoveNode,
    });
    change.node_id = step.member.0;
    change
}

pub(crate) fn entry_to_raft(entry: &LogEntry) -> Entry {
    let mut out = Entry::default();
    out.index = entry.index.0;
    out.term = entry.term.0;
    match &entry.body {
        EntryBody::Empty => {}
        EntryBody::Proposal(bytes) => out.data = Bytes::copy_from_slice(bytes),
        EntryBody::Members(step) => {
            out.set_entry_type(EntryType::EntryConfChange);
            out.context = wire::encode(step).into();
        }
    }
    out
}

pub(crate) fn entry_from_raft(entry: &Entry) -> LogEntry {
    let body = if entry.get_entry_type() == EntryType::EntryConfChange {
        // Made by `entry_to_raft` or by `MetaGroup::propose_step`.
        wire::decode(&entry.context).map_or(EntryBody::Empty, EntryBody::Members)
    } else if entry.data.is_empty() {
        EntryBody::Empty
    } else {
        EntryBody::Proposal(entry.data.to_vec())
    };
    LogEntry {
        index: LogIndex(entry.index),
        term: Term(entry.term),
        body,
    }
}

pub(crate) fn snapshot_to_raft(snapshot: &message::Snapshot) -> Snapshot {
    let mut out = Snapshot::default();
    out.data = Bytes::copy_from_slice(&snapshot.state);
    let meta = out.mut_metadata();
    meta.index = snapshot.index.0;
    meta.term = snapshot.term.0;
    meta.set_conf_state(members_to_raft(&snapshot.members));
    out
}

pub(crate) fn snapshot_from_raft(snapshot: &Snapshot) -> message::Snapshot {
    let meta = snapshot.get_metadata();
    message::Snapshot {
        index: LogIndex(meta.index),
        term: Term(meta.term),
        members: members_from_raft(meta.get_conf_state()),
        state: snapshot.data.to_vec(),
    }
}

pub(crate) fn hard_from_raft(hard: &HardState) -> log::HardState {
    log::HardState {
        term: Term(hard.term),
        vote: (hard.vote != 0).then_some(MemberId(hard.vote)),
        commit: LogIndex(hard.commit),
    }
}

fn kind_to_raft(kind: RaftKind) -> MessageType {
    match kind {
        RaftKind::Append => MessageType::MsgAppend,
        RaftKind::AppendResponse => MessageType::MsgAppendResponse,
        RaftKind::Vote => MessageType::MsgRequestVote,
        RaftKind::VoteResponse => MessageType::MsgRequestVoteResponse,
        RaftKind::PreVote => MessageType::MsgRequestPreVote,
        RaftKind::PreVoteResponse => MessageType::MsgRequestPreVoteResponse,
        RaftKind::Heartbeat => MessageType::MsgHeartbeat,
        RaftKind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        RaftKind::Snapshot => MessageType::MsgSnapshot,
        RaftKind::TimeoutNow => MessageType::MsgTimeoutNow,
    }
}

/// `None` for kinds that stay within a node.
fn kind_from_raft(kind: MessageType) -> Option<RaftKind> {
    Some(match kind {
        MessageType::MsgAppend => RaftKind::Append,
        MessageType::MsgAppendResponse => RaftKind::AppendResponse,
        MessageType::MsgRequestVote => RaftKind::Vote,
        MessageType::MsgRequestVoteResponse => RaftKind::VoteResponse,
        MessageType::MsgRequestPreVote => RaftKind::PreVote,
        MessageType::MsgRequestPreVoteResponse => RaftKind::PreVoteResponse,
        MessageType::MsgHeartbeat => RaftKind::Heartbeat,
        MessageType::MsgHeartbeatResponse => RaftKind::HeartbeatResponse,
        MessageType::MsgSnapshot => RaftKind::Snapshot,
        MessageType::MsgTimeoutNow => RaftKind::TimeoutNow,
        _ => return None,
    })
}

pub(crate) fn message_to_raft(message: RaftMessage) -> Message {
    let mut out = Message::default();
    out.set_msg_type(kind_to_raft(message.kind));
    out.from = message.from.0;
    out.to = message.to.0;
    out.term = message.term.0;
    out.log_term = message.log_term.0;
    out.index = message.index.0;
    out.commit = message.commit.0;
    out.commit_term = message.commit_term.0;
    if let Some(hint) = message.reject {
        out.reject = true;
        out.reject_hint = hint.0;
    }
    out.context = message.context.into();
    let entries: Vec<Entry> = message.entries.iter().map(entry_to_raft).collect();
    out.set_entries(entries.into());
    if let Some(snapshot) = &message.snapshot {
        out.set_snapshot(snapshot_to_raft(snapshot));
    }
    out
}

pub(crate) fn message_from_raft(message: &Message) -> Option<RaftMessage> {
    let kind = kind_from_raft(message.get_msg_type())?;
    let snapshot = (kind == RaftKind::Snapshot).then(|| snapshot_from_raft(message.get_snapshot()));
    Some(RaftMessage {
        kind,
        from: MemberId(message.from),
        to: MemberId(message.to),
        term: Term(message.term),
        log_term: Term(message.log_term),
        index: LogIndex(message.index),
        commit: LogIndex(message.commit),
        commit_term: Term(message.commit_term),
        reject: message.reject.then_some(LogIndex(message.reject_hint)),
        context: message.context.to_vec(),
        entries: message.get_entries().iter().map(entry_from_raft).collect(),
        snapshot,
    })
}
