//! A node that can't read what it is fed stays behind: it says so.

mod harness;

use model::ids::{Boot, Incarnation, NodeId};
use raft_meta::message::{
    Feed, GroupId, LogIndex, MemberId, Members, MetaMessage, RaftKind, RaftMessage, Snapshot, Term,
};
use raft_meta::node::Input;

use harness::World;

fn snapshot(index: u64) -> Snapshot {
    Snapshot {
        index: LogIndex(index),
        term: Term(9),
        members: Members {
            voters: vec![MemberId::new(NodeId(1), Incarnation(1))],
            learners: Vec::new(),
            outgoing: Vec::new(),
        },
        state: vec![0xff; 100],
    }
}

fn founding(w: &mut World) -> Boot {
    let host = w.hosts.get_mut(&NodeId(1)).expect("a host");
    let global = host.log.group(GroupId::Global).expect("a member");
    let snapshot = global.snapshot.clone().expect("it was written");
    let replica: raft_meta::replica::Replica<raft_meta::global::GlobalState> =
        raft_meta::replica::Replica::restore(&snapshot).expect("its own");
    replica.founding
}

#[test]
fn a_snapshot_that_does_not_decode_is_told_once() {
    let mut w = World::fabric(500, 2);
    let founding = founding(&mut w);
    let follower = NodeId(6);
    let from = NodeId(1);
    let group = GroupId::Global;
    for index in [1 << 20, 1 << 20, 1 << 21, 1 << 21] {
        let feed = Feed::Snapshot {
            founding,
            snapshot: snapshot(index),
            leader: Some(from),
        };
        let message = MetaMessage::Feed { group, feed };
        w.input(follower, Input::Message { from, message });
    }
    let told = [1 << 20, 1 << 21].map(|i| (follower, group, LogIndex(i)));
    assert_eq!(w.unreadable, told);

    // And one for a member, or one that is to be.
    let member = |w: &World, node: NodeId| {
        let identity = &w.hosts[&node].identity;
        MemberId::new(node, identity.directory)
    };
    let message = RaftMessage {
        kind: RaftKind::Snapshot,
        to: member(&w, follower),
        from: member(&w, from),
        term: Term(9),
        log_term: Term(0),
        index: LogIndex(0),
        entries: Vec::new(),
        commit: LogIndex(0),
        commit_term: Term(0),
        snapshot: Some(snapshot(1 << 22)),
        reject: None,
        context: Vec::new(),
    };
    let message = MetaMessage::Raft { group, message };
    w.input(follower, Input::Message { from, message });
    assert_eq!(
        w.unreadable.last(),
        Some(&(follower, group, LogIndex(1 << 22)))
    );
}
