//! Random faults on whole fabrics: nothing acknowledged is undone, no epoch is given twice,
//! who caught up tells of nothing older than others told before, and once the faults stop,
//! everything heals.

mod harness;

use std::collections::BTreeMap;

use model::ids::{Epoch, NodeId, SiteId, VolumeId};
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::placement::{Owner, Presence, VolumeRecord};
use raft_meta::GroupId;
use raft_meta::node::Scope;

use harness::{MS, World};

/// What clients were promised.
#[derive(Default)]
struct Oracle {
    claims: BTreeMap<(VolumeId, Epoch), Owner>,
    highest: BTreeMap<VolumeId, Epoch>,
    asked: Vec<(MetaToken, NodeId, VolumeId, Epoch)>,
}

impl Oracle {
    fn ask(&mut self, w: &mut World, node: NodeId, request: MetaRequest, volume: VolumeId) {
        let floor = self.highest.get(&volume).copied().unwrap_or_default();
        let token = w.ask(node, request);
        self.asked.push((token, node, volume, floor));
    }

    /// Checks what was answered since.
    fn check(&mut self, w: &World, seed: u64) {
        self.asked.retain(|(token, node, volume, floor)| {
            let Some(reply) = w.replies.get(token) else {
                return true;
            };
            let record = match reply {
                MetaReply::Volume(record) => record.as_ref(),
                // What a refusal shows may be newer than what was known, never older.
                MetaReply::Refused { record, .. } => record.as_ref(),
                MetaReply::Done | MetaReply::Unavailable => return false,
            };
            let record = record.expect("volumes are never forgotten");
            assert!(
                record.epoch >= *floor,
                "seed {seed}: {node} was shown {} of {volume} after {floor} was acknowledged",
                record.epoch
            );
            let highest = self.highest.entry(*volume).or_default();
            *highest = (*highest).max(record.epoch);
            if let (MetaReply::Volume(_), Some(owner)) = (reply, record.owner)
                && owner.boot.is_some()
            {
                let first = self.claims.insert((*volume, record.epoch), owner);
                let same = first.is_none_or(|f| f == owner);
                assert!(
                    same,
                    "seed {seed}: {volume} {} has two owners",
                    record.epoch
                );
            }
            false
        });
    }
}

fn random_fault(w: &mut World) {
    let nodes: Vec<_> = w.hosts.keys().copied().collect();
    let node = nodes[usize::try_from(w.draw(9)).expect("small")];
    match w.draw(12) {
        0..=3 => {
            if w.hosts[&node].machine.is_some() {
                w.crash(node);
            }
        }
        4..=7 => {
            if w.hosts[&node].machine.is_none() {
                w.start(node);
            }
        }
        8 => {
            let other = nodes[usize::try_from(w.draw(9)).expect("small")];
            w.cut.insert((node, other));
        }
        9 => {
            let site = w.site_of(node);
            let members = w.nodes_of(site);
            w.isolate(&members);
        }
        10 => w.cut.clear(),
        _ => w.loss_permille = [0, 20, 100][usize::try_from(w.draw(3)).expect("small")],
    }
}

fn random_ask(w: &mut World, oracle: &mut Oracle, volumes: &[VolumeRecord]) {
    let live = w.live();
    if live.is_empty() {
        return;
    }
    let pick = w.draw(live.len() as u64);
    let node = live[usize::try_from(pick).expect("small")];
    let pick = w.draw(volumes.len() as u64);
    let id = volumes[usize::try_from(pick).expect("small")].id;
    let Some(seen) = w.seen(node, id).cloned() else {
        return;
    };
    let request = match w.draw(3) {
        0 => MetaRequest::ReadVolume { volume: id },
        1 => MetaRequest::MoveVolume {
            volume: id,
            expected: seen.epoch,
            to: node,
        },
        _ => MetaRequest::Claim {
            volume: id,
            expected: seen.epoch,
            node,
            found_on: None,
        },
    };
    oracle.ask(w, node, request, id);
}

/// Whether it then knows enough is checked when it says so.
fn random_catch_up(w: &mut World) {
    let live = w.live();
    if !live.is_empty() {
        let pick = w.draw(live.len() as u64);
        let node = live[usize::try_from(pick).expect("small")];
        let scope = [Scope::Global, Scope::All][usize::from(w.draw(3) > 0)];
        w.catch_up(node, scope, 1000 * MS);
    }
}

fn heal(w: &mut World, volumes: &[VolumeRecord]) {
    w.cut.clear();
    w.loss_permille = 0;
    for node in w.hosts.keys().copied().collect::<Vec<_>>() {
        if w.hosts[&node].machine.is_none() {
            w.start(node);
        }
    }
    w.run_until(20_000 * MS, "healing", |w| {
        let first = w.hosts[&NodeId(1)].view.clone();
        let sites = (1..=3).map(|s| GroupId::Site(SiteId(s)));
        std::iter::once(GroupId::Global)
            .chain(sites)
            .all(|g| w.voters(g).len() == 3)
            && w.hosts.values().all(|h| {
                let Some((v, f)) = h.view.as_ref().zip(first.as_ref()) else {
                    return false;
                };
                v.nodes.values().all(|n| n.presence == Presence::Up)
                    && v.away().is_none()
                    && v.volumes == f.volumes
                    && v.pools == f.pools
                    && v.volumes.len() == volumes.len()
            })
    });
}

fn run(seed: u64) {
    let mut w = World::fabric(seed, 3);
    let nodes = w.live();
    let volumes = w.owned_volumes(&nodes, 1);
    let mut oracle = Oracle::default();
    for _ in 0..60 {
        random_fault(&mut w);
        for _ in 0..4 {
            random_ask(&mut w, &mut oracle, &volumes);
            random_catch_up(&mut w);
            let pause = u32::try_from(w.draw(120)).expect("small");
            w.run(pause * MS);
            oracle.check(&w, seed);
        }
    }
    heal(&mut w, &volumes);
    w.run(6000 * MS);
    oracle.check(&w, seed);
    for v in &volumes {
        let now = w.read(NodeId(5), v.id);
        assert!(now.epoch >= oracle.highest.get(&v.id).copied().unwrap_or_default());
        // Its owner, or anyone if there is none, may claim it.
        let owner = now.owner.map_or(NodeId(5), |o| o.node);
        let claimed = w.claim(owner, &now);
        assert_eq!(claimed.epoch, now.epoch.next());
    }
}

/// `ATOLL_SEEDS=from..to` runs more.
#[test]
fn nothing_acknowledged_is_undone_and_all_heals() {
    let range = std::env::var("ATOLL_SEEDS").unwrap_or_else(|_| "1000..1006".to_owned());
    let (from, to) = range.split_once("..").expect("from..to");
    let (from, to): (u64, u64) = (from.parse().expect("a seed"), to.parse().expect("a seed"));
    for seed in from..to {
        run(seed);
    }
}
