//! Whole fabrics of metadata machines on virtual time.

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use model::geometry::{Code, Pool};
use model::ids::{NodeId, SiteId, VolumeId};
use model::journal::Checkpoint;
use model::meta::{MetaReply, MetaRequest, Refusal};
use model::placement::{Presence, VolumeRecord};
use model::time::WallTime;
use raft_meta::GroupId;
use raft_meta::node::{AdminCommand, AdminRefusal, AdminReply};

use harness::{MS, World, volume};

/// Runs until every live node sees that none of these volumes belongs to one of the dead;
/// how long it took.
fn until_reassigned(w: &mut World, volumes: &[VolumeRecord], dead: &[NodeId]) -> Duration {
    w.run_until(6000 * MS, "new owners", |w| {
        w.live().iter().filter(|n| !dead.contains(n)).all(|by| {
            volumes.iter().all(|v| {
                let owner = w.seen(*by, v.id).and_then(|seen| seen.owner);
                owner.is_some_and(|o| !dead.contains(&o.node))
            })
        })
    })
}

fn check_sites_of_voters(w: &World) {
    let voters = w.voters(GroupId::Global);
    for site in (1..=3).map(SiteId) {
        let here = voters.iter().filter(|n| w.site_of(**n) == site).count();
        assert!(
            here * 2 <= voters.len(),
            "R21: {site} has a majority of {voters:?}"
        );
    }
}

#[test]
fn bootstrap_by_joins_then_a_volume() {
    let mut w = World::fabric(1, 3);
    // R21: one voter a site; every site's group has three.
    let sites: Vec<_> = w
        .voters(GroupId::Global)
        .iter()
        .map(|n| w.site_of(*n))
        .collect();
    assert_eq!(sites.len(), 3);
    for site in (1..=3).map(SiteId) {
        assert!(sites.contains(&site));
        assert_eq!(w.voters(GroupId::Site(site)).len(), 3);
    }
    let v = w.create_volume(NodeId(9), "vol", SiteId(2));
    assert!(v.clean && v.owner.is_none());
    let claimed = w.claim(NodeId(5), &v);
    assert_eq!(claimed.epoch, v.epoch.next());
    assert!(
        claimed.clean,
        "until the first publication says that the journal is founded"
    );
    let publish = |clean| MetaRequest::Publish {
        volume: v.id,
        epoch: claimed.epoch,
        checkpoint: Checkpoint::EMPTY,
        clean,
        at: WallTime(0),
    };
    assert_eq!(w.request(NodeId(5), publish(false)), MetaReply::Done);
    let claimed = w.read(NodeId(9), v.id);
    assert!(!claimed.clean);
    let owner = claimed.owner.expect("an owner");
    assert_eq!(
        (owner.node, owner.boot),
        (NodeId(5), Some(w.hosts[&NodeId(5)].identity.boot))
    );
    // Another node may not.
    let request = MetaRequest::Claim {
        volume: v.id,
        expected: claimed.epoch,
        node: NodeId(6),
        found_on: None,
    };
    let refused = w.request(NodeId(6), request);
    assert!(matches!(
        refused,
        MetaReply::Refused {
            reason: Refusal::NotYours,
            ..
        }
    ));
    // Every node sees the volume and the complete tables, one site at most m slots a row.
    w.run(1500 * MS);
    for host in w.hosts.values() {
        let view = host.view.as_ref().expect("a view");
        assert_eq!(view.volumes[&v.id], claimed);
        for code in [v.code, Code::INDEX] {
            let table = &view.pools[&Pool::of(code)];
            assert!(table.places.iter().all(|p| p.disk.is_some()));
            for row in table.places.chunks(usize::from(table.slots)) {
                for site in (1..=3).map(SiteId) {
                    let here = row
                        .iter()
                        .filter_map(|p| p.disk)
                        .filter(|at| view.site_of(at.disk) == Some(site));
                    let disks: Vec<_> = here.collect();
                    assert_eq!(disks.len(), 2);
                    assert_ne!(disks[0], disks[1], "distinct nodes where there are enough");
                }
            }
        }
    }
}

#[test]
fn a_dead_nodes_volumes_get_new_owners_within_three_seconds() {
    for seed in 10..16 {
        let mut w = World::fabric(seed, 3);
        let global = w.leader(GroupId::Global).expect("a leader");
        let site = w.leader(GroupId::Site(SiteId(2))).expect("a leader");
        let other = w
            .live()
            .into_iter()
            .find(|n| *n != global && *n != site)
            .expect("more");
        let victim = [global, site, other][usize::try_from(seed % 3).expect("small")];
        let volumes = w.owned_volumes(&[victim], 4);
        w.crash(victim);
        let took = until_reassigned(&mut w, &volumes, &[victim]);
        assert!(
            took < 3000 * MS,
            "seed {seed}: {victim} dead, new owners after {took:?}"
        );
        let mut owners = BTreeSet::new();
        for v in &volumes {
            let by = w.live()[0];
            let now = w.read(by, v.id);
            assert_eq!(now.epoch, v.epoch.next(), "exactly one reassignment");
            let owner = now.owner.expect("an owner");
            assert_eq!(owner.boot, None, "assigned, not claimed");
            assert_eq!(w.site_of(owner.node), w.site_of(victim), "in the home site");
            owners.insert(owner.node);
            // R1: the new owner claims by a new epoch.
            let claimed = w.claim(owner.node, &now);
            assert_eq!(claimed.epoch, now.epoch.next());
        }
        assert_eq!(owners.len(), 2, "spread over the home site's live nodes");
        // A dead voter is replaced within its site.
        w.run(4000 * MS);
        let voters = w.voters(GroupId::Global);
        assert!(
            voters.len() == 3 && !voters.contains(&victim),
            "{voters:?} without {victim}"
        );
        check_sites_of_voters(&w);
        // It comes back: Up again, and owns nothing.
        w.start(victim);
        w.run_until(5000 * MS, "return", |w| {
            w.live().iter().all(|by| {
                let view = w.hosts[by].view.as_ref();
                view.is_some_and(|v| {
                    v.nodes
                        .get(&victim)
                        .is_some_and(|n| n.presence == Presence::Up)
                })
            })
        });
    }
}

#[test]
fn a_dead_site_is_failed_within_three_seconds_and_returns() {
    for seed in 20..25 {
        let mut w = World::fabric(seed, 3);
        let leader = w.leader(GroupId::Global).expect("a leader");
        let site = w.site_of(leader);
        let victims = w.nodes_of(site);
        let volumes = w.owned_volumes(&victims, 2);
        w.run(1000 * MS);
        for node in &victims {
            w.crash(*node);
        }
        let took = until_reassigned(&mut w, &volumes, &victims);
        assert!(
            took < 3000 * MS,
            "seed {seed}: {site} dead, new owners after {took:?}"
        );
        let owners: BTreeSet<_> = volumes
            .iter()
            .map(|v| w.seen(w.live()[0], v.id).expect("seen").owner)
            .map(|o| o.expect("one").node)
            .collect();
        assert_eq!(owners.len(), 6, "spread over all that live");
        // R26: three live nodes in each of the two sites left, so rs 3+3, and it has a table.
        let code = Code::Rs { k: 3, m: 3 };
        w.run_until(3000 * MS, "the pool without the site", |w| {
            w.live().iter().all(|by| {
                let view = w.hosts[by].view.as_ref().expect("a view");
                view.away() == Some(site)
                    && view.pool_for(volumes[0].code)
                        == Some(Pool {
                            without: Some(site),
                            ..Pool::of(code)
                        })
            })
        });
        // R21: the away site keeps a voter, the others have two each.
        w.run_until(10_000 * MS, "five voters", |w| {
            w.voters(GroupId::Global).len() == 5
        });
        let voters = w.voters(GroupId::Global);
        let away = voters.iter().filter(|n| w.site_of(**n) == site).count();
        assert_eq!(away, 1);
        check_sites_of_voters(&w);
        // A second loss now: any node more.
        let second = w.leader(GroupId::Global).expect("a leader");
        let more = w.owned_volumes_in_away(second);
        w.crash(second);
        let took = until_reassigned(&mut w, &more, &[second]);
        assert!(
            took < 3000 * MS,
            "seed {seed}: {second} dead too, after {took:?}"
        );
        for node in victims.iter().chain([&second]) {
            w.start(*node);
        }
        w.run_until(15_000 * MS, "return and three voters", |w| {
            w.voters(GroupId::Global).len() == 3
                && w.live().iter().all(|by| {
                    let view = w.hosts[by].view.as_ref();
                    view.is_some_and(|v| {
                        v.away().is_none()
                            && v.nodes.len() == 9
                            && v.nodes.values().all(|n| n.presence == Presence::Up)
                            && v.pool_for(volumes[0].code)
                                .is_some_and(|p| p.without.is_none())
                    })
                })
        });
        check_sites_of_voters(&w);
    }
}

#[test]
fn a_site_that_is_cut_off_commits_nothing_and_heals() {
    let mut w = World::fabric(30, 3);
    let site = SiteId(3);
    let inside = w.nodes_of(site);
    let volumes = w.owned_volumes(&inside, 1);
    w.run(500 * MS);
    w.isolate(&inside);
    let v = &volumes[0];
    let owner = v.owner.expect("one").node;
    let took = until_reassigned_outside(&mut w, &volumes, &inside);
    assert!(took < 3000 * MS, "after {took:?}");
    // The old owner can neither claim nor read: it gets an honest answer, and only that.
    let claim = MetaRequest::Claim {
        volume: v.id,
        expected: v.epoch,
        node: owner,
        found_on: None,
    };
    let tokens = [
        w.ask(owner, claim),
        w.ask(owner, MetaRequest::ReadVolume { volume: v.id }),
    ];
    w.run(6000 * MS);
    for token in tokens {
        assert_eq!(w.replies[&token], MetaReply::Unavailable);
    }
    w.cut.clear();
    w.run_until(8000 * MS, "healing", |w| {
        w.live().iter().all(|by| {
            let view = w.hosts[by].view.as_ref().expect("a view");
            view.away().is_none() && view.volumes[&v.id].epoch == v.epoch.next()
        })
    });
    // What was given up must never have happened since.
    let now = w.read(owner, v.id);
    assert_eq!(now.epoch, v.epoch.next());
    let request = MetaRequest::Claim {
        volume: v.id,
        expected: v.epoch,
        node: owner,
        found_on: None,
    };
    let refused = w.request(owner, request);
    assert!(matches!(
        refused,
        MetaReply::Refused {
            reason: Refusal::StaleEpoch,
            ..
        }
    ));
}

fn until_reassigned_outside(w: &mut World, volumes: &[VolumeRecord], cut: &[NodeId]) -> Duration {
    w.run_until(6000 * MS, "new owners outside", |w| {
        w.live().iter().filter(|n| !cut.contains(n)).all(|by| {
            volumes.iter().all(|v| {
                let owner = w.seen(*by, v.id).and_then(|seen| seen.owner);
                owner.is_some_and(|o| !cut.contains(&o.node))
            })
        })
    })
}

#[test]
fn commands_apply_exactly_once_under_loss_and_changing_leaders() {
    for seed in 40..44 {
        let mut w = World::fabric(seed, 3);
        w.loss_permille = 100;
        w.config.request_timeout = 20_000 * MS;
        let mut names = 0;
        for round in 0..4 {
            let mut tokens = Vec::new();
            for node in w.live() {
                for _ in 0..5 {
                    names += 1;
                    let journal = (1..=3)
                        .map(|s| w.disk_of(w.nodes_of(SiteId(s))[0]))
                        .collect();
                    let request = MetaRequest::CreateVolume {
                        name: format!("v{names}"),
                        size_bytes: 4096,
                        code: Code::Rs { k: 4, m: 2 },
                        home: SiteId(1),
                        journal,
                    };
                    tokens.push((names, node, w.ask(node, request)));
                }
            }
            let leader = w.leader(GroupId::Global);
            let pause = u32::try_from(20 + w.draw(200)).expect("small");
            w.run(pause * MS);
            if let Some(leader) = leader.filter(|_| round % 2 == 0) {
                w.restart(leader);
                // Its own asks died with it; a new token is a new ask.
                tokens.retain(|(_, node, _)| *node != leader);
            }
            w.run_until(15_000 * MS, "replies", |w| {
                tokens.iter().all(|(_, _, t)| w.replies.contains_key(t))
            });
            for (name, _, token) in tokens {
                // Applied twice, the second would have found the name taken.
                match &w.replies[&token] {
                    MetaReply::Volume(Some(v)) => assert_eq!(v.name, format!("v{name}")),
                    MetaReply::Unavailable => {}
                    other => panic!("seed {seed}: v{name}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn reads_see_what_was_acknowledged_before() {
    for seed in 50..53 {
        let mut w = World::fabric(seed, 3);
        let mut v = w.create_volume(NodeId(2), "v", SiteId(1));
        w.loss_permille = 30;
        for round in 0..25u16 {
            if round % 8 == 5
                && let Some(leader) = w.leader(GroupId::Global)
            {
                w.restart(leader);
            }
            let live = w.live();
            let to = live[usize::try_from(w.draw(9)).expect("small") % live.len()];
            let request = MetaRequest::MoveVolume {
                volume: v.id,
                expected: v.epoch,
                to,
            };
            let by = live[usize::try_from(w.draw(9)).expect("small") % live.len()];
            match w.request(by, request) {
                MetaReply::Volume(Some(moved)) => v = moved,
                MetaReply::Unavailable => {
                    w.run(6000 * MS);
                    v = w.read(by, v.id);
                }
                // A restarted life's volume may have been moved by the groups themselves.
                MetaReply::Refused {
                    reason: Refusal::StaleEpoch,
                    record,
                } => {
                    v = record.expect("it exists");
                }
                other => panic!("seed {seed}: {other:?}"),
            }
            let reader = live[usize::try_from(w.draw(9)).expect("small") % live.len()];
            if let MetaReply::Volume(Some(read)) =
                w.request(reader, MetaRequest::ReadVolume { volume: v.id })
            {
                assert!(
                    read.epoch >= v.epoch,
                    "seed {seed}: read {} after {}",
                    read.epoch,
                    v.epoch
                );
            }
        }
    }
}

#[test]
fn power_loss_everywhere_loses_nothing() {
    let mut w = World::fabric(60, 3);
    let nodes = w.live();
    let volumes = w.owned_volumes(&nodes, 2);
    for node in &nodes {
        w.crash(*node);
    }
    w.run(1000 * MS);
    for node in &nodes {
        w.start(*node);
    }
    for v in &volumes {
        assert_eq!(
            w.read(NodeId(4), v.id),
            *v,
            "epoch, owner and all else are as acknowledged"
        );
    }
    w.run_until(6000 * MS, "complete views", |w| {
        w.hosts.values().all(|h| {
            let view = h.view.as_ref();
            view.is_some_and(|v| {
                v.volumes.len() == volumes.len()
                    && v.disks.len() == 9
                    && v.pools.len() == 2
                    && v.nodes.values().all(|n| n.presence == Presence::Up)
            })
        })
    });
    // Owners' lives ended: each claims its volumes anew, nobody else took them.
    let first = w.claim(nodes[0], &volumes[0]);
    assert_eq!(first.epoch, volumes[0].epoch.next());
}

#[test]
fn nodes_that_were_away_catch_up_by_snapshot() {
    let mut w = World::fabric(70, 3);
    let away = NodeId(9);
    w.crash(away);
    w.run(3000 * MS);
    for i in 0..60 {
        w.create_volume(NodeId(2), &format!("v{i}"), SiteId(1));
    }
    for node in w.live() {
        w.restart(node);
        w.run(1000 * MS);
    }
    for i in 60..140 {
        w.create_volume(NodeId(2), &format!("v{i}"), SiteId(1));
    }
    w.start(away);
    w.run_until(5000 * MS, "catching up", |w| {
        w.hosts[&away]
            .view
            .as_ref()
            .is_some_and(|v| v.volumes.len() == 140)
    });
    let whole = w.hosts[&NodeId(1)]
        .view
        .as_ref()
        .expect("a view")
        .volumes
        .clone();
    assert_eq!(w.hosts[&away].view.as_ref().expect("a view").volumes, whole);
    // And a node that never was there.
    let new = w.join(SiteId(2));
    w.run_until(5000 * MS, "catching up", |w| {
        let view = w.hosts[&new].view.as_ref();
        view.is_some_and(|v| v.volumes == whole && v.disks.len() == 9)
    });
}

#[test]
fn a_lost_metadata_directory_is_another_member() {
    let mut w = World::fabric(80, 3);
    let victim = w.leader(GroupId::Site(SiteId(2))).expect("a leader");
    w.create_volume(victim, "v", SiteId(2));
    w.crash(victim);
    let host = w.hosts.get_mut(&victim).expect("a host");
    host.log = raft_meta::MemoryLog::default();
    host.identity.directory = model::ids::Incarnation(77);
    w.start(victim);
    w.run_until(10_000 * MS, "its vote under its new name", |w| {
        let leader = w.leader(GroupId::Site(SiteId(2)));
        let machine = leader.and_then(|n| w.hosts[&n].machine.as_ref());
        machine.is_some_and(|m| {
            let members = m.members(GroupId::Site(SiteId(2))).expect("members");
            let new = raft_meta::message::MemberId::new(victim, model::ids::Incarnation(77));
            members.voters.len() == 3 && members.voters.contains(&new)
        })
    });
    w.run(2000 * MS);
    assert!(
        w.hosts[&victim]
            .view
            .as_ref()
            .is_some_and(|v| v.volumes.len() == 1)
    );
}

#[test]
fn tokens_work_once_and_nonsense_is_refused() {
    let mut w = World::fabric(90, 3);
    let hash = [7; 32];
    let refused = AdminReply::Refused(AdminRefusal::BadToken);
    assert_eq!(w.admin(NodeId(3), AdminCommand::UseToken { hash }), refused);
    assert_eq!(
        w.admin(NodeId(3), AdminCommand::AddToken { hash }),
        AdminReply::Done
    );
    assert_eq!(
        w.admin(NodeId(8), AdminCommand::UseToken { hash }),
        AdminReply::Done
    );
    assert_eq!(w.admin(NodeId(5), AdminCommand::UseToken { hash }), refused);
    let name = "site1".to_owned();
    let bad_name = AdminReply::Refused(AdminRefusal::BadName);
    assert_eq!(w.admin(NodeId(5), AdminCommand::AddSite { name }), bad_name);
    let bad = Code::Geo {
        k: 200,
        m: 200,
        sites: 3,
    };
    let bad_code = AdminReply::Refused(AdminRefusal::BadCode);
    assert_eq!(
        w.admin(NodeId(5), AdminCommand::CreatePool { code: bad }),
        bad_code
    );
    let gone = MetaRequest::ReadVolume {
        volume: VolumeId(99),
    };
    assert_eq!(w.request(NodeId(5), gone), MetaReply::Volume(None));
    // R6: two replicas in one site.
    let disk = |n: u16| w.disk_of(NodeId(n));
    let journal = vec![disk(1), disk(2), disk(4)];
    let create = MetaRequest::CreateVolume {
        name: "v".to_owned(),
        size_bytes: 4096,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(1),
        journal,
    };
    let reply = w.request(NodeId(5), create);
    assert!(matches!(
        reply,
        MetaReply::Refused {
            reason: Refusal::BadReplicas,
            ..
        }
    ));
}

#[test]
fn disks_leave_and_return() {
    let mut w = World::fabric(100, 3);
    let node = NodeId(5);
    let disks = std::mem::take(&mut w.hosts.get_mut(&node).expect("a host").disks);
    w.input(node, raft_meta::node::Input::LocalDisks(Vec::new()));
    let presence = |w: &World, p: Presence| {
        let at = disks[0].at.disk;
        w.live().iter().all(|by| {
            let view = w.hosts[by].view.as_ref();
            view.is_some_and(|v| {
                v.disks[&at].presence == p && v.nodes[&node].presence == Presence::Up
            })
        })
    };
    w.run_until(3000 * MS, "the disk Down", |w| presence(w, Presence::Down));
    w.input(node, raft_meta::node::Input::LocalDisks(disks.clone()));
    w.run_until(3000 * MS, "the disk Up", |w| presence(w, Presence::Up));
}

#[test]
fn the_same_seed_is_the_same_trace() {
    let run = |seed| {
        let mut w = World::fabric(seed, 3);
        w.loss_permille = 20;
        let v = w.create_volume(NodeId(2), "v", SiteId(1));
        let claimed = w.claim(NodeId(2), &v);
        let leader = w.leader(GroupId::Global).expect("a leader");
        w.restart(leader);
        w.run(3000 * MS);
        let request = MetaRequest::MoveVolume {
            volume: v.id,
            expected: claimed.epoch,
            to: NodeId(7),
        };
        let _ = volume(w.request(NodeId(3), request));
        (w.trace, w.delivered)
    };
    let first = run(5);
    assert_eq!(first, run(5));
    assert_ne!(first, run(6));
}
