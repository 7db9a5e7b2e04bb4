//! Metadata: messages between nodes, commands of the groups, snapshots, and the log on a disk.

use std::net::SocketAddr;

use model::geometry::Code;
use model::ids::{Boot, DiskId, DiskRef, Incarnation, NodeId, SiteId, VolumeId};
use model::meta::MetaRequest;
use model::placement::DiskHealth;
use model::wire;
use raft_meta::global::{GlobalCommand, GlobalState, NodeEntry};
use raft_meta::log::{HardState, LoadedLog};
use raft_meta::message::{
    Answer, Ask, Beat, EntryBody, Feed, GroupId, LocalDisk, LogEntry, LogIndex, MemberId,
    MemberStep, Members, MetaMessage, ProposerId, RaftKind, RaftMessage, Snapshot, Term,
};
use raft_meta::node::AdminCommand;
use raft_meta::replica::{Proposal, Replica, StateMachine};
use raft_meta::site::{SiteCommand, SiteState};

use crate::Verdict;
use crate::input::{Input, chunk};

pub(super) fn message(data: &[u8]) -> Verdict {
    let Ok(message) = wire::decode::<MetaMessage>(data) else {
        return Verdict::Refused;
    };
    let bytes = wire::encode(&message);
    assert_eq!(wire::decode(&bytes), Ok(message));
    Verdict::Taken
}

const SITE: SiteId = SiteId(1);
const NODE: NodeId = NodeId(1);
const BOOT: Boot = Boot(1);

fn address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7400))
}

fn members() -> Members {
    Members {
        voters: vec![MemberId::new(NODE, Incarnation(1))],
        learners: Vec::new(),
        outgoing: Vec::new(),
    }
}

fn global() -> Replica<GlobalState> {
    let entry = NodeEntry {
        name: "a1".to_owned(),
        site: SITE,
        address: address(),
        nbd: address(),
        gone: false,
        duty: Default::default(),
    };
    let state = GlobalState::new(4, "a".to_owned(), (NODE, BOOT), entry);
    Replica::founded(BOOT, members(), state)
}

fn site() -> Replica<SiteState> {
    Replica::founded(BOOT, members(), SiteState::new(SITE, 0))
}

/// Applies entries, each a command or a whole proposal, and answers queries; whether all of them
/// were some.
fn apply<S: StateMachine>(replica: &mut Replica<S>, input: &mut Input<'_>) -> bool {
    let mut all = true;
    while !input.is_empty() {
        let kind = input.u8() % 3;
        let bytes = input.chunk().to_vec();
        if kind == 2 {
            let query = wire::decode::<S::Query>(&bytes);
            all &= query.is_ok();
            drop(query.map(|query| replica.state().query(query)));
            continue;
        }
        let body = if kind == 0 {
            all &= wire::decode::<S::Command>(&bytes).is_ok();
            EntryBody::Proposal(wire::encode(&Proposal::Decision { command: bytes }))
        } else {
            all &= wire::decode::<Proposal>(&bytes).is_ok();
            EntryBody::Proposal(bytes)
        };
        let Some(index) = replica.applied.0.checked_add(1) else {
            return false;
        };
        replica.apply(&LogEntry {
            index: LogIndex(index),
            term: replica.term,
            body,
        });
    }
    all
}

pub(super) fn commands(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    if input.u8() & 1 == 0 {
        let mut replica = global();
        prepare(&mut replica);
        let all = apply(&mut replica, &mut input);
        let again = Replica::<GlobalState>::restore_own(&replica.snapshot());
        assert_eq!(again.map(|r| r.snapshot()), Ok(replica.snapshot()));
        Verdict::of(all)
    } else {
        let mut replica = site();
        let all = apply(&mut replica, &mut input);
        let again = Replica::<SiteState>::restore_own(&replica.snapshot());
        assert_eq!(again.map(|r| r.snapshot()), Ok(replica.snapshot()));
        Verdict::of(all)
    }
}

/// Three sites with a disk each, so that commands find something.
fn prepare(replica: &mut Replica<GlobalState>) {
    let mut bytes = Vec::new();
    for command in fabric() {
        bytes.push(0);
        bytes.extend(chunk(&wire::encode(&command)));
    }
    assert!(apply(replica, &mut Input::new(&bytes)));
}

fn fabric() -> Vec<GlobalCommand> {
    let mut commands = Vec::new();
    for n in 1..=3_u8 {
        let (site, node) = (SiteId(n), NodeId(n.into()));
        if n > 1 {
            let name = format!("site-{n}");
            commands.push(GlobalCommand::Admin(AdminCommand::AddSite { name }));
            commands.push(GlobalCommand::Admin(AdminCommand::AddNode {
                site,
                name: format!("node-{n}"),
                address: address(),
                nbd: address(),
            }));
            commands.push(GlobalCommand::FoundSite {
                site,
                node,
                founding: BOOT,
            });
            commands.push(GlobalCommand::SetSiteContacts {
                site,
                nodes: vec![node],
            });
        }
        commands.push(GlobalCommand::Admin(AdminCommand::AddDisk {
            node,
            incarnation: Incarnation(n.into()),
        }));
    }
    commands.push(create());
    commands
}

fn create() -> GlobalCommand {
    let disk = |n: u8| DiskRef {
        disk: DiskId(n.into()),
        incarnation: Incarnation(n.into()),
    };
    GlobalCommand::Meta {
        by: NODE,
        boot: BOOT,
        request: MetaRequest::CreateVolume {
            name: "v".to_owned(),
            size_bytes: 1 << 30,
            code: Code::Rs { k: 4, m: 2 },
            home: SITE,
            journal: [1, 2, 3].map(disk).into(),
        },
    }
}

pub(super) fn command_seeds() -> Vec<Vec<u8>> {
    let command = |bytes: Vec<u8>| [vec![0], chunk(&bytes)].concat();
    let proposal = |p: &Proposal| [vec![1], chunk(&wire::encode(p))].concat();
    let meta = |request| GlobalCommand::Meta {
        by: NODE,
        boot: BOOT,
        request,
    };
    let node = NodeId(2);
    let mut all = fabric();
    all.extend([
        meta(MetaRequest::Claim {
            volume: VolumeId(1),
            expected: model::ids::Epoch(1),
            node,
            found_on: None,
        }),
        meta(MetaRequest::DeleteVolume {
            volume: VolumeId(1),
        }),
        GlobalCommand::FailNode {
            node: NODE,
            boot: BOOT,
            candidates: vec![node, NodeId(3)],
        },
        GlobalCommand::FailSite {
            site: SITE,
            candidates: vec![node, NodeId(3)],
        },
        GlobalCommand::ReturnSite { site: SITE },
        GlobalCommand::Evacuate {
            node,
            candidates: vec![NODE],
        },
        GlobalCommand::Admin(AdminCommand::RemoveNode { node }),
    ]);
    let all: Vec<_> = all.iter().map(|c| command(wire::encode(c))).collect();
    let numbered = Proposal::Numbered {
        proposer: ProposerId(LogIndex(17)),
        number: 3,
        low: 1,
        command: wire::encode(&create()),
    };
    let open = Proposal::Open {
        node: NODE,
        boot: BOOT,
    };
    let mut seeds: Vec<_> = all
        .iter()
        .map(|one| [vec![0], one.clone()].concat())
        .collect();
    seeds.push([vec![0], all.concat()].concat());
    seeds.push([vec![0], proposal(&open), proposal(&numbered)].concat());
    let at = DiskRef {
        disk: DiskId(1),
        incarnation: Incarnation(1),
    };
    let of_site = [
        SiteCommand::RegisterNode {
            node: NODE,
            boot: BOOT,
            member: MemberId::new(NODE, Incarnation(1)),
            name: "a1".to_owned(),
            address: address(),
            nbd: address(),
        },
        SiteCommand::RegisterDisk {
            at,
            node: NODE,
            capacity_bytes: 1 << 40,
        },
        SiteCommand::AssignPool {
            pool: super::envelope::POOL,
            rows: vec![vec![model::ids::Slot(0), model::ids::Slot(1)]; 4],
        },
        SiteCommand::RemoveDisk { at, lost: true },
    ];
    let of_site = of_site.map(|c| command(wire::encode(&c))).concat();
    seeds.push([vec![1], of_site].concat());
    seeds
}

/// A peer's snapshot, and entries after it.
pub(super) fn snapshot(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let is_global = input.u8() & 1 == 0;
    let Ok(snapshot) = wire::decode::<Snapshot>(input.chunk()) else {
        return Verdict::Refused;
    };
    if is_global {
        let Ok(mut replica) = Replica::<GlobalState>::restore(&snapshot) else {
            return Verdict::Refused;
        };
        prepare_any(&mut replica);
        Verdict::of(apply(&mut replica, &mut input))
    } else {
        let Ok(mut replica) = Replica::<SiteState>::restore(&snapshot) else {
            return Verdict::Refused;
        };
        Verdict::of(apply(&mut replica, &mut input))
    }
}

/// What a fabric does anyhow, on a state that an enemy made.
fn prepare_any(replica: &mut Replica<GlobalState>) {
    let mut bytes = Vec::new();
    for command in fabric() {
        bytes.push(0);
        bytes.extend(chunk(&wire::encode(&command)));
    }
    apply(replica, &mut Input::new(&bytes));
}

pub(super) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut full = global();
    prepare(&mut full);
    let global = [global(), full].map(|r| chunk(&wire::encode(&r.snapshot())));
    let site = chunk(&wire::encode(&site().snapshot()));
    let mut seeds: Vec<_> = global.map(|bytes| [vec![0], bytes].concat()).into();
    seeds.push([vec![1], site].concat());
    seeds
}

/// A group's log as a disk holds it.
pub(super) fn log(data: &[u8]) -> Verdict {
    let Ok(log) = wire::decode::<LoadedLog>(data) else {
        return Verdict::Refused;
    };
    if log.check().is_err() {
        return Verdict::Refused;
    }
    let Some(snapshot) = &log.snapshot else {
        return Verdict::Taken;
    };
    let Ok(mut replica) = Replica::<GlobalState>::restore_own(snapshot) else {
        return Verdict::Refused;
    };
    for entry in &log.entries {
        replica.apply(entry);
    }
    Verdict::Taken
}

fn entries(after: u64) -> Vec<LogEntry> {
    let command = Proposal::Decision {
        command: wire::encode(&create()),
    };
    let learn = MemberStep::Learn(MemberId::new(NodeId(2), Incarnation(2)));
    let bodies = [
        EntryBody::Empty,
        EntryBody::Proposal(wire::encode(&command)),
        EntryBody::Members(learn),
    ];
    let entry = |(index, body)| LogEntry {
        index: LogIndex(index),
        term: Term(2),
        body,
    };
    (after + 1..).zip(bodies).map(entry).collect()
}

pub(super) fn log_seeds() -> Vec<Vec<u8>> {
    let snapshot = global().snapshot();
    let log = LoadedLog {
        entries: entries(snapshot.index.0),
        snapshot: Some(snapshot),
        hard: HardState {
            term: Term(2),
            vote: None,
            commit: LogIndex(2),
        },
    };
    vec![wire::encode(&LoadedLog::default()), wire::encode(&log)]
}

pub(super) fn message_seeds() -> Vec<Vec<u8>> {
    let member = |n| MemberId::new(NodeId(n), Incarnation(n.into()));
    let group = GroupId::Site(SITE);
    let raft = |kind, entries, snapshot| MetaMessage::Raft {
        group: GroupId::Global,
        message: RaftMessage {
            kind,
            from: member(1),
            to: member(2),
            term: Term(2),
            log_term: Term(1),
            index: LogIndex(9),
            commit: LogIndex(8),
            commit_term: Term(1),
            reject: Some(LogIndex(4)),
            context: vec![1, 2],
            entries,
            snapshot,
        },
    };
    let ask = Ask::Propose {
        proposer: ProposerId(LogIndex(5)),
        number: 300,
        low: 2,
        command: wire::encode(&create()),
    };
    let feed = Feed::Entries {
        founding: BOOT,
        entries: entries(9),
        leader: Some(NODE),
    };
    let answer = Answer::Redirect {
        leader: None,
        members: vec![NODE, NodeId(500)],
    };
    let disk = LocalDisk {
        at: DiskRef {
            disk: DiskId(1),
            incarnation: Incarnation(1),
        },
        capacity_bytes: 1 << 40,
        has_room: true,
        health: DiskHealth::default(),
    };
    let beat = Beat {
        site: SITE,
        boot: BOOT,
        member: member(1),
        name: "a1".to_owned(),
        address: address(),
        nbd: SocketAddr::from(([0; 16], 10809)),
        site_quorum: true,
        global_quorum: false,
        disks: vec![disk; 2],
        healed: Vec::new(),
    };
    let messages = [
        raft(RaftKind::Append, entries(9), None),
        raft(RaftKind::Snapshot, Vec::new(), Some(global().snapshot())),
        MetaMessage::Ask { group, ask },
        MetaMessage::Feed { group, feed },
        MetaMessage::Answer { group, answer },
        MetaMessage::Beat(beat.into()),
    ];
    messages.iter().map(wire::encode).collect()
}
