//! A peer's bytes never panic a node: an authenticated node that says anything at all.

mod harness;

use std::sync::Arc;

use model::geometry::{Code, Pool};
use model::ids::{Boot, Incarnation, NodeId, Row, SiteId, Slot, Version};
use model::placement::DiskHealth;
use model::spread::SlotMove;
use model::wire;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, proptest};
use raft_meta::message::{
    Answer, Ask, Beat, EntryBody, Feed, GroupId, LocalDisk, LogEntry, LogIndex, MemberId,
    MemberStep, Members, MetaMessage, ProposerId, RaftKind, RaftMessage, Snapshot, Term,
};
use raft_meta::node::Input;
use raft_meta::replica::Proposal;

use harness::{MS, World};

/// Small numbers around what is real, and now and then a huge one.
fn number(w: &mut World, real: u64) -> u64 {
    match w.draw(12) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << 56,
        3..=6 => real,
        7..=9 => real.saturating_sub(w.draw(6)),
        _ => real.saturating_add(w.draw(6)),
    }
}

fn member(w: &mut World, node: NodeId) -> MemberId {
    let real = MemberId::new(node, Incarnation(1000 + u64::from(node.0)));
    match w.draw(12) {
        0 => MemberId(0),
        1 => MemberId::new(node, Incarnation(5)),
        2 => MemberId(u64::MAX),
        _ => real,
    }
}

fn kind(w: &mut World) -> RaftKind {
    [
        RaftKind::Append,
        RaftKind::AppendResponse,
        RaftKind::Vote,
        RaftKind::VoteResponse,
        RaftKind::PreVote,
        RaftKind::PreVoteResponse,
        RaftKind::Heartbeat,
        RaftKind::HeartbeatResponse,
        RaftKind::Snapshot,
        RaftKind::TimeoutNow,
    ][usize::try_from(w.draw(10)).expect("small")]
}

fn bytes(w: &mut World) -> Vec<u8> {
    (0..w.draw(20))
        .map(|_| u8::try_from(w.draw(256)).expect("a byte"))
        .collect()
}

fn body(w: &mut World) -> EntryBody {
    match w.draw(4) {
        0 => EntryBody::Empty,
        1 => {
            let node = NodeId(u16::try_from(w.draw(5)).expect("small"));
            let member = member(w, node);
            EntryBody::Members(match w.draw(4) {
                0 => MemberStep::Learn(member),
                1 => MemberStep::Forget(member),
                2 => MemberStep::Enter(members(w).voters),
                _ => MemberStep::Leave,
            })
        }
        2 => EntryBody::Proposal(bytes(w)),
        _ => EntryBody::Proposal(wire::encode(&Proposal::Decision { command: bytes(w) })),
    }
}

fn entries(w: &mut World, after: u64, term: u64) -> Vec<LogEntry> {
    let count = w.draw(4);
    let entry = |w: &mut World, i: u64| {
        let index = if w.draw(8) == 0 {
            number(w, after)
        } else {
            after.wrapping_add(i + 1)
        };
        let term = Term(if w.draw(8) == 0 {
            number(w, term)
        } else {
            term
        });
        LogEntry {
            index: LogIndex(index),
            term,
            body: body(w),
        }
    };
    (0..count).map(|i| entry(w, i)).collect()
}

fn members(w: &mut World) -> Members {
    let joint = w.draw(3) == 0;
    let mut list = |n: u64| {
        let mut out: Vec<_> = (0..w.draw(n))
            .map(|_| {
                let node = NodeId(u16::try_from(w.draw(4)).expect("small") + 1);
                member(w, node)
            })
            .collect();
        if w.draw(4) > 0 {
            out.sort_unstable();
            out.dedup();
        }
        out
    };
    let voters = list(4);
    Members {
        voters,
        learners: list(2),
        outgoing: if joint { list(4) } else { Vec::new() },
    }
}

/// A snapshot with a real state in it, or with rubbish.
fn snapshot(w: &mut World, index: u64, term: u64) -> Snapshot {
    let group = if w.draw(2) == 0 {
        GroupId::Global
    } else {
        GroupId::Site(SiteId(1))
    };
    let logs = raft_meta::RaftLog::load(&mut w.hosts.get_mut(&NodeId(1)).expect("a host").log);
    let real = logs.expect("memory").into_iter().find(|(g, _)| *g == group);
    let real = real.and_then(|(_, log)| log.snapshot).map(|s| s.state);
    let state = if w.draw(4) == 0 {
        bytes(w)
    } else {
        real.unwrap_or_default()
    };
    let (index, term) = (LogIndex(number(w, index)), Term(number(w, term)));
    Snapshot {
        index,
        term,
        members: members(w),
        state,
    }
}

fn raft(w: &mut World, from: NodeId, to: NodeId, index: u64) -> RaftMessage {
    let kind = kind(w);
    let term = number(w, 3).max(w.draw(4));
    let after = number(w, index);
    let log_term = number(w, 2);
    let with_entries = kind == RaftKind::Append || w.draw(20) == 0;
    let with_snapshot = kind == RaftKind::Snapshot || w.draw(20) == 0;
    let context = if w.draw(3) == 0 {
        b"CampaignTransfer".to_vec()
    } else {
        bytes(w)
    };
    RaftMessage {
        kind,
        from: member(w, from),
        to: member(w, to),
        term: Term(term),
        log_term: Term(log_term),
        index: LogIndex(after),
        commit: LogIndex(number(w, index)),
        commit_term: Term(number(w, 2)),
        reject: (w.draw(2) == 0).then(|| LogIndex(number(w, index))),
        context,
        entries: if with_entries {
            entries(w, after, log_term.max(1))
        } else {
            Vec::new()
        },
        snapshot: with_snapshot.then(|| snapshot(w, index + 3, log_term)),
    }
}

fn message(w: &mut World, from: NodeId, to: NodeId) -> MetaMessage {
    let groups = [
        GroupId::Global,
        GroupId::Site(SiteId(1)),
        GroupId::Site(SiteId(9)),
    ];
    let group = groups[usize::try_from(w.draw(3)).expect("small")];
    let machine = w.hosts[&to].machine.as_ref().expect("alive");
    let index = machine.applied(group).0;
    let proposer = ProposerId(LogIndex(number(w, index)));
    let founding = Boot(number(w, 1));
    match w.draw(14) {
        0..=7 => MetaMessage::Raft {
            group,
            message: raft(w, from, to, index),
        },
        8 => {
            let (applied, renew) = (LogIndex(number(w, index)), w.draw(2) == 0);
            let founding = (w.draw(2) == 0).then_some(founding);
            MetaMessage::Follow {
                group,
                founding,
                applied,
                renew,
            }
        }
        9 => {
            let feed = match w.draw(3) {
                0 => Feed::Elsewhere {
                    members: vec![from, to, NodeId(77)],
                },
                1 => {
                    let snapshot = snapshot(w, index, 2);
                    Feed::Snapshot {
                        founding,
                        snapshot,
                        leader: Some(from),
                    }
                }
                _ => Feed::Entries {
                    founding,
                    entries: entries(w, index, 2),
                    leader: Some(from),
                },
            };
            MetaMessage::Feed { group, feed }
        }
        10 => {
            let (number, low) = (number(w, 3), number(w, 2));
            let ask = match w.draw(3) {
                0 => Ask::Open { boot: founding },
                1 => Ask::Propose {
                    proposer,
                    number,
                    low,
                    command: bytes(w),
                },
                _ => Ask::Read {
                    number,
                    question: bytes(w),
                },
            };
            MetaMessage::Ask { group, ask }
        }
        11 => {
            let number = number(w, 3);
            let reply = bytes(w);
            let answer = match w.draw(6) {
                0 => Answer::Opened {
                    boot: founding,
                    proposer,
                },
                1 => Answer::Applied {
                    proposer,
                    number,
                    reply,
                },
                2 => Answer::NoSession { proposer },
                3 => Answer::Superseded { proposer, number },
                4 => Answer::Read { number, reply },
                _ => Answer::Redirect {
                    leader: Some(from),
                    members: vec![from],
                },
            };
            MetaMessage::Answer { group, answer }
        }
        _ => {
            let address = "10.9.9.9:1".parse().expect("an address");
            let at = w.disk_of(to);
            let disk = LocalDisk {
                at,
                capacity_bytes: number(w, 1 << 40),
                has_room: w.draw(2) == 0,
                health: DiskHealth::default(),
            };
            let healed = SlotMove {
                pool: Pool::of(Code::INDEX),
                row: Row(u16::try_from(w.draw(70)).expect("small")),
                slot: Slot(u8::try_from(w.draw(8)).expect("small")),
                version: Version(w.draw(2)),
                to: at,
            };
            MetaMessage::Beat(Arc::new(Beat {
                site: SiteId(u8::try_from(w.draw(4)).expect("small")),
                boot: founding,
                member: member(w, from),
                name: "x".repeat(usize::try_from(w.draw(300)).expect("small")),
                address,
                nbd: address,
                site_quorum: w.draw(2) == 0,
                global_quorum: w.draw(2) == 0,
                disks: vec![disk; usize::try_from(w.draw(300)).expect("small")],
                healed: vec![healed; usize::try_from(w.draw(100)).expect("small")],
            }))
        }
    }
}

#[test]
fn an_authenticated_node_that_says_anything() {
    for seed in 0..60 {
        let mut w = World::fabric(
            7000 + seed,
            1 + usize::try_from(seed % 2).expect("small") * 2,
        );
        let nodes = w.live();
        let liar = nodes[nodes.len() - 1];
        for _ in 0..150 {
            let to = nodes[usize::try_from(w.draw(nodes.len() as u64 - 1)).expect("small")];
            let message = message(&mut w, liar, to);
            w.input(
                to,
                Input::Message {
                    from: liar,
                    message,
                },
            );
            if w.draw(4) == 0 {
                let pause = u32::try_from(w.draw(60)).expect("small");
                w.run(pause * MS);
            }
        }
        w.run(1500 * MS);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = wire::decode::<MetaMessage>(&bytes) {
            prop_assert!(wire::decode::<MetaMessage>(&wire::encode(&message)) == Ok(message));
        }
    }
}
