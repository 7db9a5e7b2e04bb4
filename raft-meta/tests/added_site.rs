//! A site that is added after the first volume: once it can take its share, what is there is spread
//! over it, too, by another layout of each code (decision 22).

mod harness;

use std::collections::BTreeSet;

use model::geometry::{Code, Pool};
use model::ids::{Layout, SiteId};
use model::placement::View;
use raft_meta::node::{AdminCommand, AdminReply};

use harness::{MS, World};

const ADDED: SiteId = SiteId(4);

fn until_seen(w: &mut World, what: &str, holds: impl Fn(&View) -> bool) {
    w.run_until(20_000 * MS, what, |w| {
        let views = w.live();
        views
            .iter()
            .all(|n| w.hosts[n].view.as_ref().is_some_and(|v| holds(v)))
    });
}

/// The sites that new segments of a code go to.
fn sites_of(view: &View, code: Code) -> BTreeSet<SiteId> {
    let pool = view.pool_for(code).expect("there is one");
    let places = view.pools[&pool].places.iter();
    places
        .filter_map(|place| view.site_of(place.disk?.disk))
        .collect()
}

/// Three sites of two nodes with a volume, and a fourth one without a node.
fn fabric(seed: u64) -> (World, Code) {
    let mut w = World::fabric(seed, 2);
    let owner = w.nodes_of(SiteId(1))[0];
    let code = w.owned_volumes(&[owner], 1)[0].code;
    until_seen(&mut w, "tables", |v| v.pools.len() >= 2);
    let name = "site4".to_owned();
    let added = w.admin(owner, AdminCommand::AddSite { name });
    assert_eq!(added, AdminReply::Site(ADDED));
    (w, code)
}

#[test]
fn a_site_takes_its_share_once_it_can() {
    let (mut w, code) = fabric(50);
    let first = w.join(ADDED);
    w.add_disk(first);
    until_seen(&mut w, "its first disk", |v| v.disks.len() == 7);
    w.run(5000 * MS);
    // Two fragments of a segment would be on its one node, where the others have two.
    until_seen(&mut w, "not yet", |v| sites_of(v, code).len() == 3);
    let second = w.join(ADDED);
    w.add_disk(second);
    for code in [code, code.index()] {
        until_seen(&mut w, "its share", |v| sites_of(v, code).len() == 4);
    }
    w.run(3000 * MS);
    let view = w.hosts[&first].view.clone().expect("a view");
    let old = Pool::of(code);
    let new = Pool {
        layout: Layout(1),
        ..old
    };
    assert_eq!(
        view.newest(old),
        Some(new),
        "one layout, not one after the other"
    );
    assert!(view.is_outgrown(old) && !view.is_outgrown(new));

    // With it away, new segments go to a pool of the three that were there before; with one of
    // those away, to one that it is in.
    for (lost, left) in [(ADDED, [1, 2, 3]), (SiteId(1), [2, 3, 4])] {
        let nodes = w.nodes_of(lost);
        nodes.iter().for_each(|node| w.crash(*node));
        let left: BTreeSet<SiteId> = left.into_iter().map(SiteId).collect();
        until_seen(&mut w, "a pool of those that are left", |v| {
            v.away() == Some(lost) && sites_of(v, code) == left
        });
        let view = w.hosts[&w.nodes_of(SiteId(2))[0]].view.clone();
        let is_outgrown = view.expect("a view").is_outgrown(old);
        assert!(!is_outgrown, "what is at risk goes first");
        nodes.iter().for_each(|node| w.start(*node));
        until_seen(&mut w, "the return", |v| {
            v.without().is_none() && v.pool_for(code) == Some(new)
        });
    }
}

/// Pools of those that are left may be older than the site, too.
#[test]
fn a_pool_of_those_that_were_left_is_outgrown_as_well() {
    let (mut w, code) = fabric(51);
    let lost = SiteId(2);
    let nodes = w.nodes_of(lost);
    nodes.iter().for_each(|node| w.crash(*node));
    let two = BTreeSet::from([SiteId(1), SiteId(3)]);
    until_seen(&mut w, "a pool of two", |v| sites_of(v, code) == two);
    for _ in 0..2 {
        let node = w.join(ADDED);
        w.add_disk(node);
    }
    let three = BTreeSet::from([SiteId(1), SiteId(3), ADDED]);
    until_seen(&mut w, "a pool of three", |v| sites_of(v, code) == three);
    nodes.iter().for_each(|node| w.start(*node));
    until_seen(&mut w, "all four", |v| sites_of(v, code).len() == 4);
}

/// A `geo` code has a column for each of its sites: it stays, and so does its index.
#[test]
fn a_code_with_columns_stays_in_its_sites() {
    let (mut w, flat) = fabric(52);
    let code = Code::Geo {
        k: 2,
        m: 1,
        sites: 3,
    };
    let owner = w.nodes_of(SiteId(1))[0];
    for code in [code, code.index()] {
        let made = w.admin(owner, AdminCommand::CreatePool { code });
        assert_eq!(made, AdminReply::Done);
    }
    for _ in 0..2 {
        let node = w.join(ADDED);
        w.add_disk(node);
    }
    until_seen(&mut w, "its share", |v| sites_of(v, flat).len() == 4);
    w.run(3000 * MS);
    for code in [code, code.index()] {
        until_seen(&mut w, "three columns", |v| sites_of(v, code).len() == 3);
    }
}
