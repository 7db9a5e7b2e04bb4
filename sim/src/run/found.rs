//! The founding: sites, nodes, disks and the volume, by the commands that an operator gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use actors::client::ClientConfig;
use actors::disk::DiskConfig;
use actors::planted::Bug;
use actors::volume::VolumeConfig;
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::{Fault as SimFault, SimFiles};
use model::geometry::Code;
use model::ids::{Boot, DiskRef, Incarnation, NodeId, SiteId, VolumeId};
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::time::Time;
use raft_meta::log::{MemoryLog, RaftLog};
use raft_meta::node::{
    AdminCommand, AdminReply, AdminToken, Config as MetaConfig, Identity, MetaNode,
};

use super::{Failure, Own, Run, RunConfig};
use crate::allocation::AllocationModel;
use crate::faults::Atlas;
use crate::invariants::Guard;
use crate::network::{Network, NetworkTerms};
use crate::node::{Clock, MachineTerms, SimDisk, SimNode};
use crate::oracle::{Oracle, SECTOR};
use crate::rng::Rng;
use crate::workload::{Layout, Workload};
use crate::world::{Happening, RUN_TOKENS, World};

const SITES: u64 = 3;
const NODES: u64 = 3;
const DISKS: u64 = 2;

fn terms(rng: &mut Rng) -> MachineTerms {
    let small = rng.one_in(2);
    let volume = VolumeConfig {
        window_bytes: if small { 256 << 10 } else { 4 << 20 },
        drain_bytes: rng.within(16 << 10, 256 << 10),
        drain_idle: rng.duration(Duration::from_millis(50), Duration::from_secs(1)),
        drain_age: rng.duration(Duration::from_millis(200), Duration::from_secs(4)),
        drain_records: 256,
        cache_blocks: if small { 0 } else { 64 },
        // Replicas are replaced after seconds, so that most runs see it (R5).
        replace_after: rng.duration(Duration::from_millis(500), Duration::from_secs(5)),
        audit_every: rng.duration(Duration::from_millis(200), Duration::from_secs(2)),
        index_cache_bytes: if small { 64 << 10 } else { 1 << 20 },
        index_pending_bytes: if small { 1 << 10 } else { 1 << 20 },
        publish_every: *rng.pick(&[Duration::from_millis(20), Duration::from_secs(1)]),
        ..VolumeConfig::default()
    };
    MachineTerms {
        volume,
        client: ClientConfig::default(),
        disk: DiskConfig::default(),
        meta: MetaConfig {
            pool_rows: 8,
            ..MetaConfig::default()
        },
        journal_file_bytes: if small { 256 << 10 } else { 1 << 20 },
        disk_bytes: 64 << 20,
    }
}

fn network(rng: &mut Rng, seed: u64) -> Network {
    let terms = NetworkTerms {
        lan: Duration::from_micros(50),
        wan_min: Duration::from_micros(200),
        wan_max: rng.duration(Duration::from_millis(1), Duration::from_millis(40)),
        jitter: rng.duration(Duration::from_micros(1), Duration::from_millis(3)),
        loss_one_in: *rng.pick(&[0, 0, 50, 1000]),
        twice_one_in: *rng.pick(&[0, 0, 100]),
        reorder: rng.one_in(3),
    };
    Network::new(terms, Rng::new(seed, 3))
}

impl Run {
    pub(super) fn new(config: RunConfig) -> Self {
        let seed = config.seed;
        let mut rng = Rng::new(seed, 1);
        let terms = terms(&mut rng);
        let network = network(&mut rng, seed);
        let layout = match rng.below(8) {
            0..=3 => Layout::small(rng.within(1, 4)),
            4..=5 => Layout::small(rng.within(4, 64)),
            _ => Layout::wide(),
        };
        let sectors = layout.sectors();
        let think_max = rng.duration(Duration::from_millis(20), Duration::from_millis(300));
        Self {
            world: World::new(network, terms, Rng::new(seed, 2), config.keep),
            workload: Workload::new(Rng::new(seed, 4), layout),
            rng,
            oracle: Oracle::default(),
            allocation: AllocationModel::default(),
            guard: Guard::default(),
            volume: VolumeId(0),
            sectors,
            slots: Vec::new(),
            pending: BTreeMap::new(),
            next_client: 0,
            next_tag: 0,
            closing: false,
            leaving: false,
            left: BTreeSet::new(),
            think_max,
            flurries: Vec::new(),
            answered: 0,
            plans: Vec::new(),
            struck: Vec::new(),
            outage: config.outage,
            outage_since: None,
            resumed: BTreeMap::new(),
            waited: Duration::ZERO,
            pins: Vec::new(),
            atlas: Atlas::default(),
            adding: BTreeMap::new(),
            stale_until: Time::ZERO,
            dead: BTreeSet::new(),
            lost: BTreeSet::new(),
            deaf: config.bug == Some(Bug::LostFsync),
        }
    }

    fn command(&mut self, command: &AdminCommand) -> Result<AdminReply, Failure> {
        let first = NodeId(1);
        for attempt in 0..50 {
            self.next_tag += 1;
            let token = AdminToken(self.next_tag);
            self.world.admin(first, token, command.clone());
            let mut answer = None;
            let end = self.world.now() + Duration::from_secs(10);
            while answer.is_none() && self.world.now() < end && self.world.step() {
                for happening in self.world.take_happenings() {
                    if let Happening::Admin {
                        token: t, reply, ..
                    } = happening
                        && t == token
                    {
                        answer = Some(reply);
                    }
                }
            }
            match answer {
                Some(AdminReply::Unavailable | AdminReply::Refused(_)) | None if attempt < 49 => {
                    let later = self.world.now() + Duration::from_millis(200);
                    self.world.plan(later, Own::Tick.number());
                    while self.world.now() < later && self.world.step() {}
                    self.world.take_happenings();
                }
                Some(reply) => return Ok(reply),
                None => break,
            }
        }
        Err(Failure::Stuck(format!("{command:?} at the founding")))
    }

    fn add_node(&mut self, id: NodeId, site: SiteId, name: &str) {
        let port = 1000 + id.0;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let identity = Identity {
            node: id,
            boot: Boot(u64::from(id.0) << 8),
            directory: Incarnation(self.rng.bits()),
            name: name.to_owned(),
            site,
            address,
            nbd: address,
        };
        let node = SimNode {
            id,
            site,
            life: 0,
            clock: Clock::ahead(self.rng.below(1_000_000_000_000)),
            disks: BTreeMap::new(),
            meta_log: MemoryLog::default(),
            meta_writes: VecDeque::new(),
            meta_busy: Time::ZERO,
            leads: BTreeMap::new(),
            process: None,
            identity,
            armed: BTreeMap::new(),
        };
        self.world.nodes.insert(id, node);
    }

    pub(super) fn start_node(&mut self, id: NodeId) {
        let now = self.world.now();
        let config = self.world.terms.meta.clone();
        let seed = self.rng.bits();
        let node = self.world.nodes.get_mut(&id).expect("the node exists");
        let clock = node.clock(now);
        let logs = node.meta_log.load().expect("memory does not fail");
        let identity = node.identity.clone();
        let meta = MetaNode::start(identity, config, vec![NodeId(1)], logs, seed, clock)
            .expect("a log that the machine wrote is sound");
        self.world.boot(id, meta);
    }

    pub(super) fn found(&mut self) -> Result<(), Failure> {
        let site_names = ["a", "b", "c"];
        self.add_node(NodeId(1), SiteId(1), "a1");
        let config = self.world.terms.meta.clone();
        let node = self.world.nodes.get_mut(&NodeId(1)).expect("just added");
        let writes = MetaNode::found(&node.identity, "a", &config);
        node.meta_log.write(&writes).expect("memory does not fail");
        self.start_node(NodeId(1));
        let mut sites = vec![SiteId(1)];
        for name in &site_names[1..SITES as usize] {
            let command = AdminCommand::AddSite {
                name: (*name).to_owned(),
            };
            let AdminReply::Site(site) = self.command(&command)? else {
                return Err(Failure::Stuck("no site".to_owned()));
            };
            sites.push(site);
        }
        for (i, site) in sites.iter().enumerate() {
            for n in 1..=NODES {
                let name = format!("{}{n}", site_names[i]);
                if name != "a1" {
                    let address = SocketAddr::from(([127, 0, 0, 1], 1));
                    let command = AdminCommand::AddNode {
                        site: *site,
                        name: name.clone(),
                        address,
                        nbd: address,
                    };
                    let AdminReply::Node(id) = self.command(&command)? else {
                        return Err(Failure::Stuck("no node".to_owned()));
                    };
                    self.add_node(id, *site, &name);
                    self.start_node(id);
                }
            }
        }
        let nodes: Vec<NodeId> = self.world.nodes.keys().copied().collect();
        for node in nodes {
            for _ in 0..DISKS {
                let incarnation = Incarnation(self.rng.bits());
                let AdminReply::Disk(at) =
                    self.command(&AdminCommand::AddDisk { node, incarnation })?
                else {
                    return Err(Failure::Stuck("no disk".to_owned()));
                };
                self.add_disk(node, at);
            }
            self.world.announce_disks(node);
        }
        Ok(())
    }

    pub(super) fn add_disk(&mut self, node: NodeId, at: DiskRef) {
        let files = SimFiles::default();
        if self.deaf {
            files.inject(SimFault::LoseSyncs("journal/".to_owned()));
        }
        let disk = SimDisk {
            at,
            files,
            catalog: MemCatalog::default(),
            open: None,
            formatted: false,
            slowed: 0,
            pulled: false,
        };
        let n = self.world.nodes.get_mut(&node).expect("the node exists");
        n.disks.insert(at.disk, disk);
        if n.process.is_some() {
            self.world.open_disk(node, at.disk);
        }
    }

    pub(super) fn create_volume(&mut self) -> Result<(), Failure> {
        // One disk in each site, once every disk is known to the first node.
        self.until("disks in every site", Duration::from_secs(60), |run| {
            let process = run.world.nodes[&NodeId(1)].process.as_ref();
            process
                .is_some_and(|p| p.host.current_view().disks.len() as u64 == SITES * NODES * DISKS)
        })?;
        let sites = self.world.sites();
        let homes: Vec<SiteId> = sites.keys().copied().collect();
        let home = *self.rng.pick(&homes);
        let mut journal = Vec::new();
        for nodes in sites.values() {
            let node = *self.rng.pick(nodes);
            let disks: Vec<DiskRef> = self.world.nodes[&node]
                .disks
                .values()
                .map(|d| d.at)
                .collect();
            journal.push(*self.rng.pick(&disks));
        }
        // Home's comes first.
        let at = homes.iter().position(|s| *s == home).expect("just picked");
        journal.swap(0, at);
        let request = MetaRequest::CreateVolume {
            name: "vol".to_owned(),
            size_bytes: self.sectors * SECTOR as u64,
            code: Code::Rs { k: 4, m: 2 },
            home,
            journal,
        };
        let token = MetaToken(RUN_TOKENS);
        self.world.ask_meta(NodeId(1), token, request);
        let mut made = None;
        let end = self.world.now() + Duration::from_secs(30);
        while made.is_none() && self.world.now() < end && self.world.step() {
            for happening in self.world.take_happenings() {
                if let Happening::Meta { reply, .. } = happening {
                    made = Some(*reply);
                }
            }
        }
        match made {
            Some(MetaReply::Volume(Some(record))) => {
                self.volume = record.id;
                Ok(())
            }
            other => Err(Failure::Stuck(format!(
                "the volume was not made: {other:?}"
            ))),
        }
    }
}
