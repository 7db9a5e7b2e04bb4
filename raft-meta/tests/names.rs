//! A node asks the groups in its own name, and decides nothing for their leaders.

mod harness;

use model::ids::{Boot, NodeId, SiteId};
use model::meta::MetaRequest;
use model::placement::Presence;
use model::wire;
use raft_meta::GroupId;
use raft_meta::global::GlobalCommand;
use raft_meta::message::{Ask, EntryBody, MetaMessage, ProposerId};
use raft_meta::node::Input;
use raft_meta::replica::Proposal;

use harness::{MS, World};

const BAD: NodeId = NodeId(6);
const OTHER: NodeId = NodeId(4);
const BOOT: Boot = Boot(4711);

/// As if BAD ran another program.
fn ask(w: &mut World, ask: Ask) {
    let leader = w.leader(GroupId::Global).expect("a leader");
    let message = MetaMessage::Ask {
        group: GroupId::Global,
        ask,
    };
    w.input(leader, Input::Message { from: BAD, message });
    w.run(500 * MS);
}

/// The session that BAD opened: the index of its entry.
fn session(w: &World) -> ProposerId {
    let leader = w.leader(GroupId::Global).expect("a leader");
    let log = w.hosts[&leader].log.group(GroupId::Global);
    let opens = |body: &EntryBody| {
        let EntryBody::Proposal(bytes) = body else {
            return false;
        };
        let open = Proposal::Open {
            node: BAD,
            boot: BOOT,
        };
        wire::decode(bytes) == Ok(open)
    };
    let mut entries = log.expect("a member").entries.iter();
    let entry = entries.find(|e| opens(&e.body)).expect("it was opened");
    ProposerId(entry.index)
}

#[test]
fn nobody_speaks_in_anothers_name_or_for_the_leader() {
    let mut w = World::fabric(600, 2);
    let volume = w.create_volume(NodeId(1), "v", SiteId(1));
    ask(&mut w, Ask::Open { boot: BOOT });
    let proposer = session(&w);
    let claim = |by: NodeId| GlobalCommand::Meta {
        by,
        boot: BOOT,
        request: MetaRequest::Claim {
            volume: volume.id,
            expected: volume.epoch,
            node: by,
            found_on: None,
        },
    };
    let fail = GlobalCommand::FailSite {
        site: SiteId(2),
        candidates: vec![BAD],
    };
    let propose = |number: u64, command: &GlobalCommand| Ask::Propose {
        proposer,
        number,
        low: 0,
        command: wire::encode(command),
    };
    ask(&mut w, propose(0, &fail));
    ask(&mut w, propose(1, &claim(OTHER)));
    let view = w.hosts[&OTHER].view.as_ref().expect("a view");
    assert_eq!(view.sites[&SiteId(2)].presence, Presence::Up);
    assert_eq!(w.read(OTHER, volume.id).owner, None);
    // In its own it may.
    ask(&mut w, propose(2, &claim(BAD)));
    let owner = w.read(OTHER, volume.id).owner.expect("an owner");
    assert_eq!((owner.node, owner.boot), (BAD, Some(BOOT)));
}
