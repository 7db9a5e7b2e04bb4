//! A member that lacks more entries than it was once told at a time: they are small, and fit one
//! message.

use model::ids::{Boot, Incarnation, NodeId, SiteId};
use model::wire;
use raft_meta::group::{GroupEffect, MetaGroup, Tuning};
use raft_meta::log::{HardState, LoadedLog};
use raft_meta::message::{LogIndex, MemberId, Members, RaftMessage, Term};
use raft_meta::replica::{Proposal, Replica};
use raft_meta::site::{SiteCommand, SiteState};

struct Member {
    group: MetaGroup<SiteState>,
    inbox: Vec<RaftMessage>,
}

impl Member {
    fn applied(&self) -> LogIndex {
        self.group.replica().expect("it began with one").applied
    }
}

fn id(node: u16) -> MemberId {
    MemberId::new(NodeId(node), Incarnation(1))
}

/// Three members of a group that has just begun.
fn members() -> Vec<Member> {
    let voters = Members::of_voters(vec![id(1), id(2), id(3)]);
    let replica = Replica::founded(Boot(1), voters, SiteState::new(SiteId(1), 0));
    let loaded = LoadedLog {
        snapshot: Some(replica.snapshot()),
        entries: Vec::new(),
        hard: HardState {
            term: Term(1),
            vote: None,
            commit: replica.applied,
        },
    };
    let member = |node: u16| {
        let tuning = Tuning {
            seed: u64::from(node),
            // Nobody is helped by a snapshot.
            snapshot_every: u64::MAX,
        };
        let group = MetaGroup::load(id(node), &loaded, tuning);
        Member {
            group: group.expect("a sound log"),
            inbox: Vec::new(),
        }
    };
    (1..=3).map(member).collect()
}

/// All that members say is heard at once, but by those that are away.
fn talk(members: &mut [Member], away: Option<MemberId>) {
    loop {
        let mut sent = Vec::new();
        for member in members.iter_mut() {
            for message in std::mem::take(&mut member.inbox) {
                let from = message.from.node();
                member.group.receive(from, message).expect("it is sound");
            }
            let mut effects = Vec::new();
            member.group.pump(&mut effects);
            while let Some(effect) = effects.pop() {
                match effect {
                    GroupEffect::Send(message) => sent.push(message),
                    GroupEffect::Persist(ticket, _) => {
                        member.group.persisted(ticket, &mut effects);
                        member.group.pump(&mut effects);
                    }
                    GroupEffect::Applied(_) | GroupEffect::Restored | GroupEffect::ReadReady(_) => {
                    }
                }
            }
        }
        sent.retain(|message| Some(message.to) != away && Some(message.from) != away);
        if sent.is_empty() {
            return;
        }
        for message in sent {
            let to = usize::from(message.to.node().0) - 1;
            members[to].inbox.push(message);
        }
    }
}

#[test]
fn a_member_that_lacks_very_many_small_entries_gets_them() {
    let mut members = members();
    let away = Some(id(3));
    while !members.iter().any(|m| m.group.is_leader()) {
        for member in &mut members[..2] {
            member.group.tick();
        }
        talk(&mut members, away);
    }
    let command = wire::encode(&SiteCommand::BeginMoves(Vec::new()));
    for n in 0..20_000 {
        let leads = |m: &&mut Member| m.group.is_leader();
        let leader = members.iter_mut().find(leads).expect("it goes on leading");
        let command = command.clone();
        let proposed = leader.group.propose(&Proposal::Decision { command });
        proposed.expect("there is room");
        if n % 1000 == 0 {
            talk(&mut members, away);
        }
    }
    talk(&mut members, away);
    assert!(members[0].applied() > LogIndex(20_000));
    assert!(members[2].applied() < LogIndex(10), "it heard nothing");
    for _ in 0..20 {
        for member in &mut members {
            member.group.tick();
        }
        talk(&mut members, None);
    }
    assert_eq!(members[2].applied(), members[0].applied());
    assert_eq!(members[1].applied(), members[0].applied());
}
