//! R11: a site all of whose nodes were removed is founded anew by the next node that joins it.

mod harness;

use model::ids::{DiskRef, NodeId, SiteId};
use model::placement::{Presence, View};
use raft_meta::GroupId;
use raft_meta::node::{AdminCommand, AdminReply};

use harness::{MS, World};

const LOST: SiteId = SiteId(2);

fn until_seen(w: &mut World, by: &[NodeId], what: &str, holds: impl Fn(&View) -> bool) {
    w.run_until(20_000 * MS, what, |w| {
        by.iter()
            .all(|n| w.hosts[n].view.as_ref().is_some_and(|v| holds(v)))
    });
}

/// Every slot has a disk that serves, of a node that was not removed.
fn is_whole(view: &View) -> bool {
    let serves = |at: Option<DiskRef>| {
        at.and_then(|at| view.disks.get(&at.disk))
            .is_some_and(|d| d.presence == Presence::Up)
    };
    let whole = view.pools.iter().filter(|(p, _)| p.without.is_none());
    view.away().is_none()
        && !view.pools.is_empty()
        && whole.clone().count() > 0
        && whole
            .flat_map(|(_, t)| &t.places)
            .all(|p| serves(p.to.or(p.disk)))
}

#[test]
fn a_lost_site_is_founded_anew() {
    for seed in 200..206 {
        let mut w = World::fabric(seed, 3);
        let old = w.nodes_of(LOST);
        let left: Vec<NodeId> = w.live().into_iter().filter(|n| !old.contains(n)).collect();
        let volumes = w.owned_volumes(&left, 1);
        until_seen(&mut w, &left, "whole tables", is_whole);
        old.iter().for_each(|n| w.crash(*n));
        until_seen(&mut w, &left, "the loss", |v| v.away() == Some(LOST));
        for node in &old {
            let command = AdminCommand::RemoveNode { node: *node };
            assert_eq!(w.admin(NodeId(1), command), AdminReply::Done);
        }
        let new: Vec<NodeId> = (0..3).map(|_| w.join(LOST)).collect();
        // A site without disks holds nothing, so it is not back yet.
        w.run(3000 * MS);
        let here: Vec<NodeId> = left.iter().chain(&new).copied().collect();
        until_seen(&mut w, &left, "still away", |v| v.away() == Some(LOST));
        for node in &new {
            w.add_disk(*node);
        }
        until_seen(&mut w, &here, "the return", is_whole);
        // What the new disks lack is to be rebuilt, by moves that no disk knows of yet (R20).
        until_seen(&mut w, &here, "moves", |v| {
            let of_lost = v
                .pools
                .values()
                .flat_map(|t| &t.places)
                .filter(|p| p.to.is_some_and(|to| v.site_of(to.disk) == Some(LOST)));
            let mut versions = of_lost.map(|p| (p.disk, p.version));
            versions.clone().count() > 0
                && versions.all(|(from, v)| from == Some(DiskRef::NONE) && v.0 >= 1 << 32)
        });
        let volume = volumes[0].id;
        assert!(w.seen(new[0], volume).is_some(), "it knows the volumes");

        // The lost nodes come back with all that they had. Their group is over.
        old.iter().for_each(|n| w.start(*n));
        w.run(6000 * MS);
        until_seen(&mut w, &here, "no change", |v| {
            is_whole(v) && old.iter().all(|n| v.nodes[n].presence == Presence::Gone)
        });
        let own = w.hosts[&new[0]].machine.as_ref().expect("it lives");
        let members = own.members(GroupId::Site(LOST)).expect("a group");
        assert!(members.voter_nodes().iter().all(|n| new.contains(n)));
    }
}
