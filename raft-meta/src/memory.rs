//! What messages take in memory while they wait, for whoever bounds it.

use crate::message::{
    Answer, Ask, Beat, EntryBody, Feed, LogEntry, MemberStep, Members, MetaMessage, Snapshot,
};

impl MetaMessage {
    /// Bytes of memory that it takes: many times those on the wire, if it has many small elements.
    #[must_use]
    pub fn memory(&self) -> usize {
        let beside = match self {
            Self::Raft { message, .. } => {
                let snapshot = message.snapshot.as_ref().map_or(0, Snapshot::beside);
                message.context.len() + all_beside(&message.entries) + snapshot
            }
            Self::Feed { feed, .. } => match feed {
                Feed::Entries { entries, .. } => all_beside(entries),
                Feed::Snapshot { snapshot, .. } => snapshot.beside(),
                Feed::Elsewhere { members } => size_of_val(&members[..]),
            },
            Self::Ask { ask, .. } => match ask {
                Ask::Propose { command: bytes, .. }
                | Ask::Read {
                    question: bytes, ..
                } => bytes.len(),
                Ask::Open { .. } => 0,
            },
            Self::Answer { answer, .. } => match answer {
                Answer::Applied { reply, .. } | Answer::Read { reply, .. } => reply.len(),
                Answer::Redirect { members, .. } => size_of_val(&members[..]),
                Answer::Opened { .. } | Answer::NoSession { .. } | Answer::Superseded { .. } => 0,
            },
            Self::Beat(beat) => {
                let lists = size_of_val(&beat.disks[..]) + size_of_val(&beat.healed[..]);
                size_of::<Beat>() + beat.name.len() + lists
            }
            Self::Follow { .. } => 0,
        };
        size_of::<Self>() + beside
    }
}

/// Bytes of memory of entries, each with what lies beside it.
fn all_beside(entries: &[LogEntry]) -> usize {
    let beside = |entry: &LogEntry| match &entry.body {
        EntryBody::Empty => 0,
        EntryBody::Proposal(bytes) => bytes.len(),
        EntryBody::Members(MemberStep::Enter(voters)) => size_of_val(&voters[..]),
        EntryBody::Members(_) => 0,
    };
    size_of_val(entries) + entries.iter().map(beside).sum::<usize>()
}

impl Snapshot {
    /// Bytes of memory beside its own.
    fn beside(&self) -> usize {
        let Members {
            voters,
            learners,
            outgoing,
        } = &self.members;
        let members = [voters, learners, outgoing].map(|list| size_of_val(&list[..]));
        self.state.len() + members.iter().sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use model::ids::Boot;
    use model::wire;

    use crate::message::{EntryBody, Feed, GroupId, LogEntry, LogIndex, MetaMessage, Term};

    #[test]
    fn small_elements_count_as_what_they_take() {
        let entry = LogEntry {
            index: LogIndex(1),
            term: Term(1),
            body: EntryBody::Empty,
        };
        let message = |body: EntryBody, count: usize| MetaMessage::Feed {
            group: GroupId::Global,
            feed: Feed::Entries {
                founding: Boot(1),
                entries: vec![
                    LogEntry {
                        body,
                        ..entry.clone()
                    };
                    count
                ],
                leader: None,
            },
        };
        let small = message(EntryBody::Empty, 1000);
        assert!(wire::encode(&small).len() < 4000);
        assert!(small.memory() >= 1000 * size_of::<LogEntry>());
        let large = message(EntryBody::Proposal(vec![7; 500]), 1000);
        assert_eq!(large.memory(), small.memory() + 500_000);
    }
}
