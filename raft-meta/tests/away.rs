//! Sites that go and return in any order, around restarts of everything.

mod harness;

use model::ids::{NodeId, SiteId};
use model::placement::{Presence, View};
use raft_meta::GroupId;

use harness::{MS, World};

const SITES: [SiteId; 3] = [SiteId(1), SiteId(2), SiteId(3)];

fn crash_site(w: &mut World, site: SiteId) {
    for node in w.nodes_of(site) {
        w.crash(node);
    }
}

fn start_site(w: &mut World, site: SiteId) {
    for node in w.nodes_of(site) {
        w.start(node);
    }
}

/// Runs until all that live see this.
fn until_seen(w: &mut World, what: &str, holds: impl Fn(&View) -> bool) {
    w.run_until(15_000 * MS, what, |w| {
        w.live().iter().all(|n| {
            let view = w.hosts[n].view.as_ref();
            view.is_some_and(|v| holds(v))
        })
    });
}

/// Whether new segments can be written: there is a table for them whose disks are all there.
fn is_writable(view: &View, away: SiteId) -> bool {
    let table = view.pools.iter().find(|(p, _)| p.without == Some(away));
    view.away() == Some(away)
        && table.is_some_and(|(_, t)| t.places.iter().all(|p| p.disk.is_some()))
}

/// Nobody who lives ever heard the site: it is silent since they started.
#[test]
fn a_site_that_died_before_a_restart_of_everything_is_failed() {
    for (seed, lost) in (40..).zip(SITES) {
        let mut w = World::fabric(seed, 3);
        let volumes = w.owned_volumes(&w.nodes_of(lost), 2);
        SITES.into_iter().for_each(|s| crash_site(&mut w, s));
        let left = SITES.into_iter().filter(|s| *s != lost);
        left.for_each(|s| start_site(&mut w, s));
        until_seen(&mut w, "the loss noticed", |v| is_writable(v, lost));
        until_seen(&mut w, "new owners", |v| {
            volumes.iter().all(|volume| {
                let owner = v.volumes[&volume.id].owner.expect("an owner");
                v.nodes[&owner.node].presence == Presence::Up
            })
        });
        // The lost site's disks are known for what they are, though nobody is left who knows
        // their state.
        until_seen(&mut w, "all disks", |v| {
            let of_lost = v.disks.keys().filter(|d| v.site_of(**d) == Some(lost));
            let mut presences = of_lost.map(|d| v.disks[d].presence);
            v.disks.len() == 9 && presences.all(|p| p == Presence::Down)
        });
        start_site(&mut w, lost);
        until_seen(&mut w, "the return", |v| {
            v.away().is_none() && v.disks.values().all(|d| d.presence == Presence::Up)
        });
    }
}

/// The second site is found dead while the first is still away: there was no pool to make
/// then, and there is when the first is back.
#[test]
fn a_site_that_fails_while_another_is_away_gets_its_pool() {
    for (seed, (first, second)) in (50..).zip([(1, 2), (2, 3), (3, 1)]) {
        let (first, second) = (SiteId(first), SiteId(second));
        let mut w = World::fabric(seed, 3);
        crash_site(&mut w, first);
        until_seen(&mut w, "the first loss", |v| is_writable(v, first));
        crash_site(&mut w, second);
        w.run(2000 * MS);
        start_site(&mut w, first);
        until_seen(&mut w, "the second loss", |v| is_writable(v, second));
    }
}

/// R21 in transition: whenever a site goes while the voters change because of another's
/// coming or going, the two that are left go on.
#[test]
fn a_site_may_go_while_the_voters_change() {
    for seed in 60..90 {
        let mut w = World::fabric(seed, 3);
        let draw = usize::try_from(w.draw(3)).expect("small");
        let (first, second) = (SITES[draw], SITES[(draw + 1) % 3]);
        crash_site(&mut w, first);
        until_seen(&mut w, "the first loss", |v| v.away() == Some(first));
        w.run(1500 * MS);
        start_site(&mut w, first);
        // Somewhere on the way from five voters to three.
        until_seen(&mut w, "the return", |v| v.away().is_none());
        let pause = u32::try_from(w.draw(800)).expect("small");
        w.run(pause * MS);
        crash_site(&mut w, second);
        until_seen(&mut w, "the second loss", |v| v.away() == Some(second));
        w.run_until(15_000 * MS, "five voters", |w| {
            w.voters(GroupId::Global).len() == 5
        });
    }
}

/// The node that all others know as their contact is lost, and then its site restarts: nobody
/// in it was a member of the global group, and nobody knows one. Others know the site.
#[test]
fn a_site_returns_without_the_node_that_all_joined_by() {
    for seed in 90..94 {
        let mut w = World::fabric(seed, 3);
        let home = SITES[0];
        // Its group has three voters by then, and they know it.
        w.run(2000 * MS);
        crash_site(&mut w, home);
        until_seen(&mut w, "the loss", |v| v.away() == Some(home));
        for node in w.nodes_of(home).into_iter().filter(|n| *n != NodeId(1)) {
            w.start(node);
        }
        until_seen(&mut w, "the return", |v| v.away().is_none());
    }
}

/// A voter that was replaced while it was away is told of it soon after each of its later starts,
/// too: it does not wait for a leader that will never send it anything.
#[test]
fn a_voter_that_was_replaced_hears_the_leader_soon_after_a_start() {
    for seed in 200..208 {
        let mut w = World::fabric(seed, 3);
        // The group has a voter of each site by then.
        w.run(2000 * MS);
        let leader = w.leader(GroupId::Global).expect("there is one");
        let voters = w.voters(GroupId::Global);
        let replaced = voters.into_iter().find(|n| *n != leader);
        let replaced = replaced.expect("three vote");
        w.crash(replaced);
        w.run_until(15_000 * MS, "another voter", |w| {
            let voters = w.voters(GroupId::Global);
            voters.len() == 3 && !voters.contains(&replaced)
        });
        w.start(replaced);
        until_seen(&mut w, "the return", |v| {
            v.nodes[&replaced].presence == Presence::Up
        });
        for _ in 0..2 {
            w.restart(replaced);
            w.run_until(1000 * MS, "a leader that is known", |w| {
                let machine = w.hosts[&replaced].machine.as_ref();
                machine.is_some_and(|m| m.leader(GroupId::Global, w.now).is_some())
            });
        }
    }
}
