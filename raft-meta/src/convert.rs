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
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, HardState, Message, MessageType, Snapshot,
};

use crate::log;
use crate::message::{
    self, EntryBody, LogEntry, LogIndex, MemberId, MemberStep, Members, RaftKind, RaftMessage, Term,
};

pub(crate) fn members_to_raft(members: &Members) -> ConfState {
    let raw = |list: &[MemberId]| list.iter().map(|m| m.0).collect::<Vec<_>>();
    let mut state = ConfState::default();
    state.set_voters(raw(&members.voters));
    state.set_learners(raw(&members.learners));
    state.set_voters_outgoing(raw(&members.outgoing));
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
        outgoing: sorted(state.get_voters_outgoing()),
    }
}

/// A step that is possible for these members. The joint state is left by an entry of ours,
/// never by raft-rs itself: it forgets to, if its leader changes at the wrong moment.
pub(crate) fn step_to_raft(step: &MemberStep, members: &Members) -> ConfChangeV2 {
    let single = |kind: ConfChangeType, member: &MemberId| {
        let mut change = ConfChangeSingle::default();
        change.set_change_type(kind);
        change.node_id = member.0;
        change
    };
    let mut change = ConfChangeV2::default();
    let changes = match step {
        MemberStep::Learn(member) => vec![single(ConfChangeType::AddLearnerNode, member)],
        MemberStep::Forget(member) => vec![single(ConfChangeType::RemoveNode, member)],
        MemberStep::Enter(voters) => {
            change.set_transition(ConfChangeTransition::Explicit);
            let new = voters.iter().filter(|v| !members.voters.contains(v));
            let new = new.map(|v| single(ConfChangeType::AddNode, v));
            let old = members.voters.iter().filter(|v| !voters.contains(v));
            let old = old.map(|v| single(ConfChangeType::RemoveNode, v));
            new.chain(old).collect()
        }
        MemberStep::Leave => Vec::new(),
    };
    change.set_changes(changes.into());
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
            out.set_entry_type(EntryType::EntryConfChangeV2);
            out.context = wire::encode(step).into();
        }
    }
    out
}

pub(crate) fn entry_from_raft(entry: &Entry) -> LogEntry {
    let body = if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{
        BoxedStrategy, ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest,
    };
    use raft::RawNode;

    use super::*;
    use crate::log::LoadedLog;
    use crate::storage::MemoryStorage;

    fn step() -> BoxedStrategy<MemberStep> {
        let member = || (0u64..7).prop_map(MemberId);
        let set = vec(member(), 0..5).prop_map(|mut set| {
            if set.len() % 4 != 3 {
                set.sort_unstable();
                set.dedup();
            }
            set
        });
        prop_oneof![
            3 => member().prop_map(MemberStep::Learn),
            1 => member().prop_map(MemberStep::Forget),
            3 => set.prop_map(MemberStep::Enter),
            2 => vec(0u8..1, 0..1).prop_map(|_| MemberStep::Leave),
        ]
        .boxed()
    }

    /// raft-rs from a snapshot with these members.
    fn raw(members: &Members) -> RawNode<MemoryStorage> {
        let snapshot = message::Snapshot {
            index: LogIndex(5),
            term: Term(1),
            members: members.clone(),
            state: Vec::new(),
        };
        let loaded = LoadedLog {
            snapshot: Some(snapshot),
            ..LoadedLog::default()
        };
        let config = raft::Config {
            id: 1,
            applied: 5,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        RawNode::new(&config, MemoryStorage::load(&loaded), &logger).expect("sound")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// What `Members::after` allows, raft-rs carries out to the same result; and a
        /// snapshot's members bring it to the same state, a joint one too.
        #[test]
        fn steps_are_raft_rss(steps in vec(step(), 0..40)) {
            let mut members = Members::of_voters(vec![MemberId(1)]);
            let mut raft = raw(&members);
            for step in steps {
                let Some(next) = members.after(&step) else { continue };
                prop_assert!(next.is_sound());
                let state = raft.apply_conf_change(&step_to_raft(&step, &members));
                let state = state.expect("possible");
                prop_assert_eq!(&members_from_raft(&state), &next);
                members = next;
                let restored = raw(&members);
                let restored = restored.raft.prs().conf().to_conf_state();
                prop_assert_eq!(&members_from_raft(&restored), &members);
            }
        }
    }
}
