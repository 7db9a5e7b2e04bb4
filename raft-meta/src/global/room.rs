//! How large the state may become: whoever restarts without it, or fell behind, gets it as one
//! snapshot, and must be able to read it. Beside it, the snapshot has the answers of sessions, which
//! have a bound of their own ([`crate::replica::ANSWERS_CLAIM_MAX`]).

use model::wire::HEADER_BYTES_MAX;

use super::GlobalState;

/// Bound of nodes, removed ones included.
pub(super) const NODES_MAX: usize = 4096;

/// Bound of disks, removed ones included.
pub(super) const DISKS_MAX: usize = 1 << 14;

/// Bound of what volumes may take of a snapshot, deleted ones included (R16): three quarters of
/// what may be claimed on behalf of a peer's bytes. The rest is for all else.
pub const VOLUMES_CLAIM_MAX: u64 = (HEADER_BYTES_MAX / 4 * 3) as u64;

/// Memory that a decoder claims for a volume, beside the bytes of its name, at most. Not asked
/// of the compiler: it decides what is done to the state, which must be the same everywhere.
const VOLUME_CLAIM: usize = 512;

pub(super) fn claim(name: &str) -> usize {
    // A name is in the record, and in the index of names.
    VOLUME_CLAIM + 2 * name.len()
}

impl GlobalState {
    /// Whether there is room for one more volume.
    pub(super) fn has_room_for(&self, name: &str) -> bool {
        let taken = self.volumes.claim() + claim(name);
        u64::try_from(taken).is_ok_and(|taken| taken <= self.volumes_claim_max)
    }
}

#[cfg(test)]
mod tests {
    use model::cut::Cut;
    use model::geometry::Code;
    use model::ids::{
        Boot, DiskId, DiskRef, Epoch, Incarnation, NodeId, SiteId, Version, VolumeId,
    };
    use model::journal::Checkpoint;
    use model::meta::{MetaReply, MetaRequest, Refusal};
    use model::placement::{Duty, JournalConfig, Owner, VolumeRecord};
    use model::time::WallTime;
    use model::wire;

    use super::{DISKS_MAX, GlobalState, NODES_MAX, VOLUME_CLAIM};
    use crate::global::{DiskEntry, DiskWord, GlobalCommand, GlobalReply, NodeEntry};
    use crate::message::{
        EntryBody, Feed, GroupId, LogEntry, LogIndex, MemberId, Members, MetaMessage, ProposerId,
        Term,
    };
    use crate::replica::{ANSWERS_CLAIM_MAX, Outcome, Proposal, Replica, StateMachine, Verdict};

    fn at(n: usize) -> DiskRef {
        DiskRef {
            disk: DiskId(u32::try_from(n).expect("few")),
            incarnation: Incarnation(u64::MAX),
        }
    }

    fn node(name: String) -> NodeEntry {
        let address = "[2001:db8::1]:65535".parse().expect("an address");
        NodeEntry {
            name,
            site: SiteId(1),
            address,
            nbd: address,
            gone: false,
            duty: Duty::Serve,
        }
    }

    /// As much as a record ever holds.
    fn volume(id: VolumeId, name: String, deleted: bool) -> VolumeRecord {
        let replicas = vec![at(1), at(2), at(3)];
        VolumeRecord {
            id,
            name,
            size_bytes: u64::MAX,
            resized: Version(u64::MAX),
            cut: Some(Cut {
                from: u64::MAX - 1,
                to: u64::MAX,
            }),
            code: Code::Geo {
                k: 200,
                m: 20,
                sites: 30,
            },
            home: SiteId(1),
            epoch: Epoch(u64::MAX),
            owner: Some(Owner {
                node: NodeId(u16::MAX),
                boot: Some(Boot(u64::MAX)),
            }),
            journal: JournalConfig {
                version: Version(u64::MAX),
                replicas: replicas.clone(),
                next: Some(replicas),
            },
            checkpoint: Checkpoint::EMPTY,
            clean: true,
            founded: Epoch(u64::MAX),
            published: Some(WallTime(u64::MAX)),
            recovered: None,
            deleted,
        }
    }

    /// As much of everything as there may be, volumes of names so long up to the refusal.
    fn filled(name_bytes: usize, deleted: bool) -> GlobalState {
        let founder = (NodeId(1), Boot(u64::MAX));
        let mut state = GlobalState::new(64, "a".into(), founder, node("a1".into()));
        for n in 1..=NODES_MAX {
            let id = NodeId(u16::try_from(n).expect("few"));
            state.nodes.insert(id, node(format!("{n:0>255}")));
        }
        for n in 1..=DISKS_MAX {
            let entry = DiskEntry {
                at: at(n),
                node: NodeId(1),
                word: DiskWord::Serve,
            };
            state.disks.insert(entry.at.disk, entry);
        }
        loop {
            let name = format!("last{:0>w$}", state.volumes.len(), w = name_bytes - 4);
            let request = MetaRequest::CreateVolume {
                name: name.clone(),
                size_bytes: 4096,
                code: Code::Rs { k: 4, m: 2 },
                home: SiteId(1),
                journal: Vec::new(),
            };
            let (by, boot) = (NodeId(1), Boot(1));
            let GlobalReply::Meta(MetaReply::Refused { reason, .. }) =
                state.apply(GlobalCommand::Meta { by, boot, request })
            else {
                panic!("a refusal: it names no replicas");
            };
            if reason == Refusal::Full {
                return state;
            }
            put(&mut state, name, deleted);
        }
    }

    fn put(state: &mut GlobalState, name: String, deleted: bool) {
        let id = VolumeId(u32::try_from(state.volumes.len()).expect("few") + 1);
        let record = volume(id, name, deleted);
        assert!(state.volumes.add(record), "it is new");
    }

    /// Each node asks for something of a volume, in three lives, most in the last one, and gets its
    /// record each time.
    /// Returns the bytes of all answers.
    fn fill_sessions(replica: &mut Replica<GlobalState>) -> usize {
        let mut apply = |proposal: &Proposal| {
            let body = EntryBody::Proposal(wire::encode(proposal));
            let index = LogIndex(replica.applied.0 + 1);
            replica.apply(&LogEntry {
                index,
                term: Term(1),
                body,
            })
        };
        let mut answers = 0;
        for n in 1..=NODES_MAX * 3 {
            let node = NodeId(u16::try_from(n.div_ceil(3)).expect("few"));
            let boot = Boot(u64::MAX - n as u64);
            let Outcome::Opened { proposer, .. } = apply(&Proposal::Open { node, boot }) else {
                panic!("it is opened");
            };
            let asks = if n % 3 == 0 { 10 } else { 1 };
            for number in 1..=asks {
                answers += answer(&mut apply, proposer, number, node);
            }
        }
        answers
    }

    fn answer(
        apply: &mut impl FnMut(&Proposal) -> Outcome,
        proposer: ProposerId,
        number: u64,
        by: NodeId,
    ) -> usize {
        let request = MetaRequest::MoveVolume {
            volume: VolumeId(1),
            expected: Epoch(0),
            to: by,
        };
        let boot = Boot(1);
        let command = wire::encode(&GlobalCommand::Meta { by, boot, request });
        let outcome = apply(&Proposal::Numbered {
            proposer,
            number,
            low: 0,
            command,
        });
        let Outcome::Numbered {
            verdict: Verdict::Applied(reply),
            ..
        } = outcome
        else {
            panic!("its session has just begun, or was answered last");
        };
        reply.len()
    }

    #[test]
    fn what_is_created_up_to_the_bound_is_read_by_those_who_get_it() {
        assert!(
            size_of::<(VolumeId, VolumeRecord)>() + size_of::<(String, VolumeId)>() <= VOLUME_CLAIM
        );
        let members = Members {
            voters: vec![MemberId::new(NodeId(1), Incarnation(1))],
            learners: Vec::new(),
            outgoing: Vec::new(),
        };
        for (name_bytes, deleted) in [(10, false), (10, true), (255, false)] {
            let state = filled(name_bytes, deleted);
            let volumes = state.volumes.len();
            assert!(volumes > 12_000, "{volumes}");
            let mut replica = Replica::founded(Boot(1), members.clone(), state);
            let answers = fill_sessions(&mut replica);
            assert!(answers > ANSWERS_CLAIM_MAX, "{answers} bytes");
            let snapshot = replica.snapshot();
            println!("{volumes} volumes, {} bytes", snapshot.state.len());
            let feed = Feed::Snapshot {
                founding: Boot(1),
                snapshot,
                leader: None,
            };
            let message = MetaMessage::Feed {
                group: GroupId::Global,
                feed,
            };
            let bytes = wire::encode(&message);
            assert!(bytes.len() < wire::HEADER_BYTES_MAX);
            let Ok(MetaMessage::Feed {
                feed: Feed::Snapshot { snapshot, .. },
                ..
            }) = wire::decode(&bytes)
            else {
                panic!("it travels");
            };
            let restored: Replica<GlobalState> = Replica::restore(&snapshot).expect("it is read");
            assert_eq!(restored.snapshot(), replica.snapshot());
        }
    }
}
