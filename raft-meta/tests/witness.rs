//! Two sites with data and a witness (R22).

mod harness;

use model::geometry::{Code, Pool};
use model::ids::{NodeId, SiteId};
use model::placement::{Alone, Presence, SiteRole, View};
use raft_meta::node::{AdminCommand, AdminRefusal, AdminReply};

use harness::{MS, World};

const WITNESS: SiteId = SiteId(3);
const CODE: Code = Code::Rs { k: 2, m: 2 };

fn role(w: &mut World, site: SiteId, role: SiteRole) -> AdminReply {
    w.admin(NodeId(1), AdminCommand::SetSiteRole { site, role })
}

fn witness(alone: Alone) -> SiteRole {
    SiteRole::Witness { alone }
}

fn until_seen(w: &mut World, what: &str, holds: impl Fn(&View) -> bool) {
    w.run_until(15_000 * MS, what, |w| {
        w.live()
            .iter()
            .all(|n| w.hosts[n].view.as_ref().is_some_and(|v| holds(v)))
    });
}

/// The pool that new segments go to with a data site away, if there is one.
fn of_left(view: &View, away: SiteId) -> Option<Pool> {
    let target = view.pool_for(CODE);
    target.filter(|pool| pool.without == Some(away))
}

#[test]
fn a_witness_votes_and_holds_nothing() {
    let mut w = World::fabric(7, 3);
    assert_eq!(
        role(&mut w, WITNESS, witness(Alone::Stall)),
        AdminReply::Done
    );
    // Two sites with data are the least.
    let refused = AdminReply::Refused(AdminRefusal::TooFewSites);
    assert_eq!(role(&mut w, SiteId(2), witness(Alone::Stall)), refused);
    let too_wide = w.admin(
        NodeId(1),
        AdminCommand::CreatePool {
            code: Code::Rs { k: 4, m: 2 },
        },
    );
    assert_eq!(
        too_wide,
        AdminReply::Refused(AdminRefusal::BadCode),
        "three a site"
    );
    let made = w.admin(NodeId(1), AdminCommand::CreatePool { code: CODE });
    assert_eq!(made, AdminReply::Done);
    until_seen(&mut w, "the table", |v| {
        let table = v.pools.values().next();
        table.is_some_and(|t| {
            let mut disks = t.places.iter().filter_map(|p| p.disk);
            disks.all(|at| v.site_of(at.disk) != Some(WITNESS))
        })
    });
    // It is one of three that decide: either data site may go.
    let voters = w.voters(raft_meta::GroupId::Global);
    assert!(
        voters.iter().any(|n| w.site_of(*n) == WITNESS),
        "{voters:?}"
    );
}

/// With one data site left nothing is drained there alone, until the operator has it so.
#[test]
fn one_data_site_is_written_to_by_a_policy_alone() {
    for (seed, lost) in [(8, SiteId(1)), (9, SiteId(2))] {
        let mut w = World::fabric(seed, 3);
        assert_eq!(
            role(&mut w, WITNESS, witness(Alone::Stall)),
            AdminReply::Done
        );
        let speaker = w.nodes_of(WITNESS)[0];
        w.admin(NodeId(1), AdminCommand::CreatePool { code: CODE });
        w.run(2000 * MS);
        for node in w.nodes_of(lost) {
            w.crash(node);
        }
        until_seen(&mut w, "the loss", |v| v.away() == Some(lost));
        w.run(3000 * MS);
        let view = w.hosts[&speaker].view.clone().expect("a view");
        assert_eq!(of_left(&view, lost), None, "it stalls");
        let command = AdminCommand::SetSiteRole {
            site: WITNESS,
            role: witness(Alone::Write),
        };
        assert_eq!(w.admin(speaker, command), AdminReply::Done);
        until_seen(&mut w, "a pool of one site", |v| of_left(v, lost).is_some());
        // Nothing more goes there once the operator takes it back, though the pool is there.
        let command = AdminCommand::SetSiteRole {
            site: WITNESS,
            role: witness(Alone::Stall),
        };
        assert_eq!(w.admin(speaker, command), AdminReply::Done);
        until_seen(&mut w, "the stall", |v| of_left(v, lost).is_none());
        for node in w.nodes_of(lost) {
            w.start(node);
        }
        until_seen(&mut w, "the return", |v| {
            v.away().is_none() && v.pool_for(CODE).is_some_and(|p| p.without.is_none())
        });
        let presences = |v: &View| v.sites.values().all(|s| s.presence == Presence::Up);
        until_seen(&mut w, "all sites", presences);
    }
}

/// What is left of a lost data site's nodes is removed for good: the operator has writes go on all the
/// same.
#[test]
fn a_data_site_that_is_removed_node_by_node_is_away() {
    let mut w = World::fabric(10, 2);
    assert_eq!(
        role(&mut w, WITNESS, witness(Alone::Stall)),
        AdminReply::Done
    );
    let speaker = w.nodes_of(WITNESS)[0];
    w.admin(NodeId(1), AdminCommand::CreatePool { code: CODE });
    w.run(2000 * MS);
    let lost = SiteId(2);
    let nodes = w.nodes_of(lost);
    nodes.iter().for_each(|node| w.crash(*node));
    until_seen(&mut w, "the loss", |v| v.away() == Some(lost));
    for node in nodes {
        assert_eq!(
            w.admin(speaker, AdminCommand::RemoveNode { node }),
            AdminReply::Done
        );
    }
    let command = AdminCommand::SetSiteRole {
        site: WITNESS,
        role: witness(Alone::Write),
    };
    assert_eq!(w.admin(speaker, command), AdminReply::Done);
    until_seen(&mut w, "a pool of one site", |v| of_left(v, lost).is_some());
}
