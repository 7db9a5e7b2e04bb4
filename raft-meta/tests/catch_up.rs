//! A node that is asked tells of what others answered before: it catches up first.

mod harness;

use std::collections::BTreeSet;

use model::ids::{NodeId, SiteId};
use model::placement::Presence;
use raft_meta::GroupId;
use raft_meta::node::Scope;

use harness::{MS, World};

const WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

/// What the node missed, and how long it took.
fn caught_up(w: &mut World, node: NodeId) -> (BTreeSet<GroupId>, std::time::Duration) {
    let token = w.catch_up(node, Scope::All, WITHIN);
    let is_over = |w: &mut World| w.caught_up.contains_key(&token);
    let took = w.run_until(WITHIN * 2, "end of it", is_over);
    (w.caught_up[&token].clone(), took)
}

fn presence(w: &World, by: NodeId, of: NodeId) -> Presence {
    let view = w.hosts[&by].view.as_ref().expect("a view");
    view.nodes[&of].presence
}

#[test]
fn what_one_node_answered_another_tells_next() {
    let mut w = World::fabric(31, 3);
    let nodes = w.live();
    for (n, node) in nodes.iter().enumerate() {
        let made = w.create_volume(*node, &format!("v{n}"), SiteId(1));
        for other in &nodes {
            let (missed, took) = caught_up(&mut w, *other);
            assert!(missed.is_empty(), "{missed:?}");
            assert!(
                took < 150 * MS,
                "three times to another site and back: {took:?}"
            );
            assert_eq!(w.seen(*other, made.id).map(|v| v.epoch), Some(made.epoch));
        }
    }
}

/// Also of what a site's group decided, which only its site's nodes are members of.
#[test]
fn who_is_down_is_known_once_it_is_decided() {
    for seed in 40..50 {
        let mut w = World::fabric(seed, 3);
        let (dead, of_site) = (NodeId(5), w.nodes_of(w.site_of(NodeId(5))));
        w.crash(dead);
        let witness = of_site
            .into_iter()
            .find(|n| *n != dead)
            .expect("a neighbour");
        w.run_until(5000 * MS, "decision", |w| {
            presence(w, witness, dead) == Presence::Down
        });
        for asked in w.live() {
            let (missed, _) = caught_up(&mut w, asked);
            assert!(missed.is_empty(), "{missed:?}");
            assert_eq!(presence(&w, asked, dead), Presence::Down, "by {asked}");
        }
    }
}

#[test]
fn a_site_that_is_away_is_not_waited_for_once_that_is_decided() {
    let mut w = World::fabric(32, 3);
    let away = w.nodes_of(SiteId(2));
    let asked = w.nodes_of(SiteId(3))[0];
    away.iter().for_each(|n| w.crash(*n));
    let (missed, _) = caught_up(&mut w, asked);
    assert_eq!(missed, BTreeSet::from([GroupId::Site(SiteId(2))]));
    w.run_until(8000 * MS, "decision", |w| {
        presence(w, asked, away[0]) == Presence::Down
    });
    w.run(2000 * MS);
    let (missed, took) = caught_up(&mut w, asked);
    assert!(missed.is_empty(), "{missed:?}");
    assert!(took < 150 * MS, "{took:?}");
}

#[test]
fn without_a_quorum_it_ends_in_time_and_says_so() {
    let mut w = World::fabric(33, 3);
    let asked = w.nodes_of(SiteId(3))[0];
    for site in [SiteId(1), SiteId(2)] {
        w.nodes_of(site).iter().for_each(|n| w.crash(*n));
    }
    let (missed, took) = caught_up(&mut w, asked);
    assert_eq!(missed, BTreeSet::from([GroupId::Global]));
    assert!(took < WITHIN + 100 * MS, "{took:?}");
}

/// What it remembers says nothing of now: it was away.
#[test]
fn who_was_just_started_knows_once_it_caught_up() {
    let mut w = World::fabric(34, 3);
    let (asked, other) = (NodeId(4), NodeId(8));
    w.crash(asked);
    w.run(5000 * MS);
    let made = w.create_volume(other, "meanwhile", SiteId(1));
    w.start(asked);
    assert!(w.seen(asked, made.id).is_none());
    loop {
        let (missed, _) = caught_up(&mut w, asked);
        if missed.is_empty() {
            break;
        }
    }
    assert_eq!(w.seen(asked, made.id).map(|v| v.epoch), Some(made.epoch));
    assert_eq!(presence(&w, asked, other), Presence::Up);
}
