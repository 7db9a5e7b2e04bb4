//! R27: a site whose disks take nothing is away for new segments, and for nothing else.

mod harness;

use model::ids::{NodeId, SiteId};
use model::placement::{Presence, View};
use raft_meta::node::Input;

use harness::{MS, World};

const SITES: [SiteId; 3] = [SiteId(1), SiteId(2), SiteId(3)];

/// All disks of some nodes have room from now on, or have none.
fn room(w: &mut World, nodes: &[NodeId], has_room: bool) {
    for node in nodes {
        let host = w.hosts.get_mut(node).expect("a host");
        host.disks.iter_mut().for_each(|d| d.has_room = has_room);
        let disks = host.disks.clone();
        if host.machine.is_some() {
            w.input(*node, Input::LocalDisks(disks));
        }
    }
}

fn until_seen(w: &mut World, what: &str, holds: impl Fn(&View) -> bool) {
    w.run_until(20_000 * MS, what, |w| {
        let views = w.live();
        views
            .iter()
            .all(|n| w.hosts[n].view.as_ref().is_some_and(|v| holds(v)))
    });
}

/// Three sites of three nodes, with a volume and the tables of its pools.
fn fabric(seed: u64) -> World {
    let mut w = World::fabric(seed, 3);
    let owner = w.nodes_of(SITES[0])[0];
    w.owned_volumes(&[owner], 1);
    until_seen(&mut w, "tables", |v| v.pools.len() >= 2);
    w
}

/// New segments do without this site, and there is a table for them; nobody is away.
fn is_left(view: &View, site: SiteId) -> bool {
    let table = view.pools.keys().any(|p| p.without == Some(site));
    view.away().is_none() && view.without() == Some(site) && table
}

#[test]
fn a_full_site_is_left_and_taken_again() {
    for (seed, site) in (20..).zip(SITES) {
        let mut w = fabric(seed);
        let nodes = w.nodes_of(site);
        // With one node's disks there is still a row that can be written to.
        room(&mut w, &nodes[..1], false);
        w.run(6000 * MS);
        until_seen(&mut w, "no site left", |v| v.without().is_none());
        room(&mut w, &nodes, false);
        w.run(2500 * MS);
        until_seen(&mut w, "not at once", |v| v.without().is_none());
        until_seen(&mut w, "it is left", |v| is_left(v, site));
        let up = |v: &View| v.nodes.values().all(|n| n.presence == Presence::Up);
        until_seen(&mut w, "it takes part", up);
        room(&mut w, &nodes, true);
        w.run(4000 * MS);
        until_seen(&mut w, "still left", |v| is_left(v, site));
        until_seen(&mut w, "taken again", |v| v.without().is_none());
    }
}

/// Never two at once. Of two full ones none is left: without one the other is as full, and there is
/// less room still. When a third one is lost, that is the one to do without, until it is back.
#[test]
fn no_two_sites_are_left() {
    let mut w = fabric(30);
    let (first, second, third) = (SITES[0], SITES[1], SITES[2]);
    let (of_first, of_second) = (w.nodes_of(first), w.nodes_of(second));
    room(&mut w, &of_first, false);
    until_seen(&mut w, "it is left", |v| is_left(v, first));
    room(&mut w, &of_second, false);
    until_seen(&mut w, "none is left", |v| v.without().is_none());
    w.run(6000 * MS);
    until_seen(&mut w, "none is left still", |v| v.without().is_none());
    let lost = w.nodes_of(third);
    lost.iter().for_each(|n| w.crash(*n));
    until_seen(&mut w, "the lost one", |v| {
        v.without() == Some(third) && v.sites.values().all(|s| s.takes_segments)
    });
    lost.iter().for_each(|n| w.start(*n));
    until_seen(&mut w, "none is left again", |v| v.without().is_none());
    room(&mut w, &of_second, true);
    until_seen(&mut w, "one is left again", |v| is_left(v, first));
}

/// A site whose nodes serve no disk any more is no better than one whose disks are full.
#[test]
fn a_site_without_disks_is_left() {
    let mut w = fabric(31);
    let nodes = w.nodes_of(SITES[1]);
    let disks: Vec<_> = nodes.iter().map(|n| w.hosts[n].disks.clone()).collect();
    for node in &nodes {
        w.input(*node, Input::LocalDisks(Vec::new()));
    }
    until_seen(&mut w, "it is left", |v| is_left(v, SITES[1]));
    for (node, disks) in nodes.iter().zip(disks) {
        w.input(*node, Input::LocalDisks(disks));
    }
    until_seen(&mut w, "taken again", |v| v.without().is_none());
}
