//! The founding: sites, nodes, disks and the volume, by the commands that an operator gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use actors::disk::Reopening;
use actors::planted::Bug;
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::{Fault as SimFault, SimFiles};
use model::ids::{Boot, DiskRef, Incarnation, NodeId, SiteId, VolumeId};
use model::meta::{MetaReply, MetaRequest, MetaToken, Refusal};
use model::time::Time;
use raft_meta::log::{MemoryLog, RaftLog};
use raft_meta::node::{AdminCommand, AdminReply, AdminToken, Identity, MetaNode};

use super::sizes::Sizes;
use super::{Failure, Options, Own, Run};
use crate::allocation::AllocationModel;
use crate::faults::Atlas;
use crate::invariants::Guard;
use crate::network::Network;
use crate::node::{Clock, SimDisk, SimNode};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::plan::topology::{NodeName, site_name};
use crate::rng::Rng;
use crate::timers::Timers;
use crate::workload::Workload;
use crate::world::{Happening, RUN_TOKENS, World};

/// Sites that have a replica of a journal.
const REPLICAS: usize = 3;

impl Run {
    pub(super) fn new(plan: Plan, options: Options) -> Self {
        let seed = plan.seed;
        let network = Network::new(plan.network, Rng::new(seed, 3));
        let terms = plan.machines.terms();
        let mut world = World::new(network, terms, Rng::new(seed, 2), options.keep);
        world.wan_bytes = options.count_wan.then_some(0);
        Self {
            world,
            workload: Workload::new(Rng::new(seed, 4), plan.workload.layout()),
            rng: Rng::new(seed, 5),
            placing: Rng::new(seed, 6),
            thinking: Rng::new(seed, 7),
            rng_of_sizes: Rng::new(seed, 13),
            oracle: Oracle::default(),
            allocation: AllocationModel::default(),
            guard: Guard::default(),
            volume: VolumeId(0),
            by_name: BTreeMap::new(),
            slots: Vec::new(),
            pending: BTreeMap::new(),
            next_client: 0,
            next_tag: 0,
            begun: Time(0),
            closing: false,
            leaving: false,
            left: BTreeSet::new(),
            flurries: Vec::new(),
            asked: Vec::new(),
            answered: 0,
            faults: Vec::new(),
            struck: Vec::new(),
            resumed: BTreeMap::new(),
            timeline: Vec::new(),
            bytes_lost: 0,
            healed_after: None,
            atlas: Atlas::default(),
            adding: BTreeMap::new(),
            given: Vec::new(),
            joining: Vec::new(),
            building: Vec::new(),
            built: BTreeMap::new(),
            wishes: BTreeMap::new(),
            sizes: Sizes::default(),
            recovery: super::recover::Recovery::default(),
            refused: None,
            taken: None,
            stale_until: Time::ZERO,
            dead: BTreeSet::new(),
            ending: BTreeMap::new(),
            resting: BTreeMap::new(),
            lost: BTreeSet::new(),
            deaf: options.bug == Some(Bug::LostFsync),
            plan,
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
                    self.world.schedule(later, Own::Tick.number());
                    while self.world.now() < later && self.world.step() {}
                    self.world.take_happenings();
                }
                Some(reply) => return Ok(reply),
                None => break,
            }
        }
        Err(Failure::Stuck(format!("{command:?} at the founding")))
    }

    pub(super) fn add_node(&mut self, id: NodeId, site: SiteId, place: NodeName) {
        self.by_name.insert(place, id);
        let port = 1000 + id.0;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let identity = Identity {
            node: id,
            boot: Boot(u64::from(id.0) << 8),
            directory: Incarnation(self.rng.bits()),
            name: place.to_string(),
            site,
            address,
            nbd: address,
        };
        // Whoever admits a node tells it of all that are known then, once.
        let mut contacts: Vec<NodeId> = self.world.nodes.keys().copied().collect();
        if contacts.is_empty() {
            contacts.push(id);
        }
        let node = SimNode {
            id,
            site,
            contacts,
            life: 0,
            clock: Clock::ahead(self.rng.below(1_000_000_000_000)),
            disks: BTreeMap::new(),
            meta_log: MemoryLog::default(),
            meta_writes: VecDeque::new(),
            meta_busy: Time::ZERO,
            leads: BTreeMap::new(),
            process: None,
            identity,
            armed: Timers::default(),
        };
        self.world.nodes.insert(node);
    }

    pub(super) fn start_node(&mut self, id: NodeId) {
        let now = self.world.now();
        let config = self.world.terms.meta.clone();
        let seed = self.rng.bits();
        let node = self.world.nodes.get_mut(&id).expect("the node exists");
        let clock = node.clock(now);
        let logs = node.meta_log.load().expect("memory does not fail");
        let identity = node.identity.clone();
        let contacts = node.contacts.clone();
        let meta = MetaNode::start(identity, config, contacts, logs, seed, clock)
            .expect("a log that the machine wrote is sound");
        self.world.boot(id, meta);
    }

    pub(super) fn found(&mut self) -> Result<(), Failure> {
        let places = self.plan.topology.names();
        self.add_node(NodeId(1), SiteId(1), places[0]);
        let config = self.world.terms.meta.clone();
        let node = self.world.nodes.get_mut(&NodeId(1)).expect("just added");
        let writes = MetaNode::found(&node.identity, "a", &config);
        node.meta_log.write(&writes).expect("memory does not fail");
        self.start_node(NodeId(1));
        let mut sites = vec![SiteId(1)];
        for site in 1..self.plan.topology.sites {
            let name = site_name(site);
            let AdminReply::Site(site) = self.command(&AdminCommand::AddSite { name })? else {
                return Err(Failure::Stuck("no site".to_owned()));
            };
            sites.push(site);
        }
        for place in &places[1..] {
            let address = SocketAddr::from(([127, 0, 0, 1], 1));
            let site = sites[place.site as usize];
            let command = AdminCommand::AddNode {
                site,
                name: place.to_string(),
                address,
                nbd: address,
            };
            let AdminReply::Node(id) = self.command(&command)? else {
                return Err(Failure::Stuck("no node".to_owned()));
            };
            self.add_node(id, site, *place);
            self.start_node(id);
        }
        if let Some(witness) = self.plan.topology.witness {
            let site = *sites.last().expect("three or more");
            let role = witness.role();
            self.command(&AdminCommand::SetSiteRole { site, role })?;
        }
        let nodes: Vec<NodeId> = self.world.nodes.keys().copied().collect();
        for node in nodes {
            for _ in 0..self.plan.topology.disks {
                let incarnation = Incarnation(self.rng.bits());
                let AdminReply::Disk(at) =
                    self.command(&AdminCommand::AddDisk { node, incarnation })?
                else {
                    return Err(Failure::Stuck("no disk".to_owned()));
                };
                self.add_disk(node, at, self.plan.topology.disk);
            }
            self.world.announce_disks(node);
        }
        Ok(())
    }

    pub(super) fn add_disk(&mut self, node: NodeId, at: DiskRef, bytes: u64) {
        let files = SimFiles::default();
        if self.deaf {
            files.inject(SimFault::LoseSyncs("journal/".to_owned()));
        }
        let disk = SimDisk {
            at,
            bytes,
            files,
            catalog: MemCatalog::default(),
            open: None,
            formatted: false,
            slowed: 0,
            pulled: false,
            hung: false,
            held: Vec::new(),
            is_let_go: false,
            reopening: Reopening::default(),
            reopen_at: None,
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
            let topology = &run.plan.topology;
            let disks = topology.sites * topology.nodes * topology.disks;
            let process = run.world.nodes[&NodeId(1)].process.as_ref();
            process.is_some_and(|p| p.host.current_view().disks.len() as u64 == disks)
        })?;
        let sites = self.world.sites();
        let homes: Vec<SiteId> = sites.keys().copied().collect();
        // A witness is the last one.
        let with_data = homes.len() - usize::from(self.plan.topology.witness.is_some());
        let home = *self.rng.pick(&homes[..with_data]);
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
        journal.rotate_left(at);
        journal.truncate(REPLICAS);
        let request = MetaRequest::CreateVolume {
            name: "vol".to_owned(),
            size_bytes: self.plan.workload.volume,
            code: self.plan.topology.volume_code(),
            home,
            journal,
        };
        self.create(&request)
    }

    /// Has the volume made; asks again as long as a site's group is still on its way into the
    /// global one, as an operator does.
    fn create(&mut self, request: &MetaRequest) -> Result<(), Failure> {
        let end = self.world.now() + Duration::from_secs(30);
        loop {
            let token = MetaToken(RUN_TOKENS);
            self.world.ask_meta(NodeId(1), token, request.clone());
            let mut made = None;
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
                    return Ok(());
                }
                Some(MetaReply::Refused {
                    reason: Refusal::BadCode | Refusal::BadReplicas,
                    ..
                }) if self.world.now() < end => {
                    let later = self.world.now() + Duration::from_millis(200);
                    self.world.schedule(later, Own::Tick.number());
                    while self.world.now() < later && self.world.step() {}
                }
                other => {
                    return Err(Failure::Stuck(format!(
                        "the volume was not made: {other:?}"
                    )));
                }
            }
        }
    }
}
