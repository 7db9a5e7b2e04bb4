//! A fabric of metadata machines on virtual time: seeded delays, loss, crashes, partitions.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of it"
)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use model::ids::{Boot, DiskRef, Incarnation, NodeId, SiteId, VolumeId};
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::placement::{DiskHealth, Presence, View, VolumeRecord};
use model::time::Time;
use model::wire;
use raft_meta::log::{MemoryLog, RaftLog};
use raft_meta::message::{GroupId, LocalDisk, LogIndex, MetaMessage};
use raft_meta::node::{
    AdminCommand, AdminReply, AdminToken, CatchUpToken, Config, Effect, Identity, Input, MetaNode,
    Scope, Ticket,
};

pub const MS: Duration = Duration::from_millis(1);

enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        bytes: Vec<u8>,
    },
    Written {
        node: NodeId,
        boot: Boot,
        group: GroupId,
        ticket: Ticket,
    },
    Tick {
        node: NodeId,
        boot: Boot,
    },
}

pub struct Host {
    pub identity: Identity,
    pub machine: Option<MetaNode>,
    pub log: MemoryLog,
    pub disks: Vec<LocalDisk>,
    pub view: Option<Arc<View>>,
    contacts: Vec<NodeId>,
    writes: BTreeMap<(GroupId, u64), raft_meta::LogWrite>,
    disk_free: Time,
    armed: Option<Time>,
}

pub struct World {
    pub now: Time,
    pub hosts: BTreeMap<NodeId, Host>,
    pub config: Config,
    pub replies: BTreeMap<MetaToken, MetaReply>,
    pub admin_replies: BTreeMap<AdminToken, AdminReply>,
    /// Who catches up, with how much of every group was applied by somebody before.
    catching_up: BTreeMap<CatchUpToken, (NodeId, BTreeMap<GroupId, LogIndex>)>,
    /// What those that are over missed.
    pub caught_up: BTreeMap<CatchUpToken, BTreeSet<GroupId>>,
    /// Pairs of nodes that do not hear each other, in this direction.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Messages lost, in per mille.
    pub loss_permille: u64,
    /// Snapshots that a node could not read.
    pub unreadable: Vec<(NodeId, GroupId, LogIndex)>,
    pub trace: u64,
    pub delivered: u64,
    seed: u64,
    rng: u64,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    next_token: u64,
    next_boot: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Time(1_000_000_000),
            hosts: BTreeMap::new(),
            config: Config {
                snapshot_every: 64,
                ..Config::default()
            },
            replies: BTreeMap::new(),
            admin_replies: BTreeMap::new(),
            catching_up: BTreeMap::new(),
            caught_up: BTreeMap::new(),
            cut: BTreeSet::new(),
            loss_permille: 0,
            unreadable: Vec::new(),
            trace: seed,
            delivered: 0,
            seed,
            rng: seed,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            next_token: 1,
            next_boot: 1,
        }
    }

    pub fn draw(&mut self, below: u64) -> u64 {
        self.rng = self
            .rng
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.rng >> 33) % below
    }

    fn note(&mut self, word: u64) {
        self.trace = (self.trace ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(17);
    }

    fn schedule(&mut self, at: Time, event: Event) {
        let id = self.next_event;
        self.next_event += 1;
        self.events.insert(id, event);
        self.queue.push(Reverse((at, id)));
    }

    fn identity(&mut self, node: NodeId, site: SiteId, name: &str) -> Identity {
        self.next_boot += 1;
        let address = format!("10.0.{}.{}:7400", site.0, node.0)
            .parse()
            .expect("an address");
        Identity {
            node,
            boot: Boot(self.seed << 20 | self.next_boot),
            directory: Incarnation(1000 + u64::from(node.0)),
            name: name.to_owned(),
            site,
            address,
            nbd: address,
        }
    }

    /// The fabric's first node.
    pub fn found(&mut self) -> NodeId {
        let node = NodeId(1);
        let identity = self.identity(node, SiteId(1), "n1");
        let mut log = MemoryLog::default();
        log.write(&MetaNode::found(&identity, "site1", &self.config))
            .expect("memory");
        self.add_host(identity, log, Vec::new());
        self.start(node);
        node
    }

    fn add_host(&mut self, identity: Identity, log: MemoryLog, contacts: Vec<NodeId>) {
        let host = Host {
            machine: None,
            log,
            disks: Vec::new(),
            view: None,
            contacts,
            writes: BTreeMap::new(),
            disk_free: Time::ZERO,
            armed: None,
            identity,
        };
        self.hosts.insert(host.identity.node, host);
    }

    pub fn start(&mut self, node: NodeId) {
        self.next_boot += 1;
        let boot = Boot(self.seed << 20 | self.next_boot);
        let seed = self.seed ^ self.next_boot;
        let (now, config) = (self.now, self.config.clone());
        let host = self.hosts.get_mut(&node).expect("a host");
        host.identity.boot = boot;
        let logs = host.log.load().expect("memory");
        let identity = host.identity.clone();
        let machine = MetaNode::start(identity, config, host.contacts.clone(), logs, seed, now);
        host.machine = Some(machine.expect("sound logs"));
        host.armed = None;
        host.writes.clear();
        let disks = host.disks.clone();
        self.input(node, Input::LocalDisks(disks));
    }

    pub fn crash(&mut self, node: NodeId) {
        let host = self.hosts.get_mut(&node).expect("a host");
        host.machine = None;
        host.view = None;
        host.writes.clear();
        host.disk_free = Time::ZERO;
    }

    pub fn input(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        let mut out = Vec::new();
        if let Some(machine) = self.hosts.get_mut(&node).and_then(|h| h.machine.as_mut()) {
            machine.handle(now, input, &mut out);
        }
        self.carry_out(node, out);
    }

    fn carry_out(&mut self, node: NodeId, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Send { to, message } => self.send(node, to, &message),
                Effect::Persist {
                    group,
                    ticket,
                    write,
                } => {
                    let cost = Duration::from_micros(300 + self.draw(1500));
                    let now = self.now;
                    let host = self.hosts.get_mut(&node).expect("a host");
                    host.disk_free = host.disk_free.max(now) + cost;
                    host.writes.insert((group, ticket.0), write);
                    let (at, boot) = (host.disk_free, host.identity.boot);
                    self.schedule(
                        at,
                        Event::Written {
                            node,
                            boot,
                            group,
                            ticket,
                        },
                    );
                }
                Effect::Reply { token, reply } => {
                    assert!(self.replies.insert(token, reply).is_none(), "answered once");
                }
                Effect::AdminReply { token, reply } => {
                    assert!(
                        self.admin_replies.insert(token, reply).is_none(),
                        "answered once"
                    );
                }
                Effect::CaughtUp { token, missed } => {
                    self.check_caught_up(token, &missed);
                    self.caught_up.insert(token, missed);
                }
                Effect::View(view) => {
                    let host = self.hosts.get_mut(&node).expect("a host");
                    let older = host.view.as_ref().map(|v| v.version);
                    assert!(older.is_none_or(|v| v < view.version), "versions grow");
                    host.view = Some(view);
                }
                Effect::Unreadable { group, index, .. } => {
                    self.unreadable.push((node, group, index));
                }
            }
        }
        let host = self.hosts.get_mut(&node).expect("a host");
        let Some(machine) = &host.machine else { return };
        let deadline = machine.next_deadline().expect("it always ticks");
        if host
            .armed
            .is_none_or(|armed| armed > deadline || armed <= self.now)
        {
            host.armed = Some(deadline);
            let boot = host.identity.boot;
            self.schedule(deadline.max(self.now), Event::Tick { node, boot });
        }
    }

    pub fn catch_up(&mut self, node: NodeId, scope: Scope, within: Duration) -> CatchUpToken {
        let token = CatchUpToken(self.next_token);
        self.next_token += 1;
        let global = self.hosts[&node].machine.as_ref().and_then(|m| m.global());
        let sites = global.into_iter().flat_map(|g| g.sites.keys());
        let sites = sites.filter(|_| scope == Scope::All);
        let groups: Vec<GroupId> = std::iter::once(GroupId::Global)
            .chain(sites.map(|s| GroupId::Site(*s)))
            .collect();
        let applied = |group: &GroupId| {
            let machines = self.hosts.values().filter_map(|h| h.machine.as_ref());
            machines
                .map(|m| m.applied(*group))
                .max()
                .unwrap_or_default()
        };
        let floor = groups.iter().map(|g| (*g, applied(g))).collect();
        self.catching_up.insert(token, (node, floor));
        let input = Input::CatchUp {
            token,
            scope,
            within,
        };
        self.input(node, input);
        token
    }

    /// What anybody knew before is known, and in the view that was given out.
    fn check_caught_up(&mut self, token: CatchUpToken, missed: &BTreeSet<GroupId>) {
        let (node, floor) = self.catching_up.remove(&token).expect("answered once");
        if missed.contains(&GroupId::Global) {
            return;
        }
        let host = &self.hosts[&node];
        let (machine, view) = (host.machine.as_ref().expect("it lives"), &host.view);
        let (view, global) = (view.as_ref().expect("a view"), machine.global());
        let global = global.expect("it caught up");
        assert_eq!(
            &view.volumes,
            global.volumes.records(),
            "the view is of what it knows"
        );
        for (group, floor) in floor {
            let is_away = match group {
                GroupId::Global => false,
                GroupId::Site(site) => global.sites[&site].presence != Presence::Up,
            };
            let applied = machine.applied(group);
            assert!(
                applied >= floor || is_away || missed.contains(&group),
                "seed {}: {node} told of {group} at {applied:?}, {floor:?} was known before",
                self.seed
            );
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &MetaMessage) {
        if self.draw(1000) < self.loss_permille || !self.hosts.contains_key(&to) {
            return;
        }
        let near = self.hosts[&from].identity.site == self.hosts[&to].identity.site;
        let micros = if near {
            100 + self.draw(400)
        } else {
            8_000 + self.draw(8_000)
        };
        let at = self.now + Duration::from_micros(micros);
        self.schedule(
            at,
            Event::Deliver {
                from,
                to,
                bytes: wire::encode(message),
            },
        );
    }

    fn step(&mut self) {
        let Some(Reverse((at, id))) = self.queue.pop() else {
            return;
        };
        self.now = at.max(self.now);
        let event = self.events.remove(&id).expect("queued");
        match event {
            Event::Deliver { from, to, bytes } => {
                if self.cut.contains(&(from, to)) || self.hosts[&from].machine.is_none() {
                    return;
                }
                self.delivered += 1;
                let sum = model::crc32c(&bytes);
                self.note(self.now.0 ^ u64::from(sum) << 16 ^ u64::from(to.0));
                let message = wire::decode(&bytes).expect("a machine's own message");
                self.input(to, Input::Message { from, message });
            }
            Event::Written {
                node,
                boot,
                group,
                ticket,
            } => {
                let host = self.hosts.get_mut(&node).expect("a host");
                if host.machine.is_none() || host.identity.boot != boot {
                    return;
                }
                let write = host.writes.remove(&(group, ticket.0)).expect("scheduled");
                host.log.write(&[(group, write)]).expect("memory");
                self.input(node, Input::Persisted { group, ticket });
            }
            Event::Tick { node, boot } => {
                let now = self.now;
                let host = self.hosts.get_mut(&node).expect("a host");
                let Some(machine) = host.machine.as_mut().filter(|_| host.identity.boot == boot)
                else {
                    return;
                };
                host.armed = None;
                let mut out = Vec::new();
                machine.tick(now, &mut out);
                self.carry_out(node, out);
            }
        }
    }

    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self
            .queue
            .peek()
            .is_some_and(|Reverse((at, _))| *at <= until)
        {
            self.step();
        }
        self.now = until;
    }

    /// Runs until the condition holds; how long it took.
    pub fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Duration {
        let start = self.now;
        while !holds(self) {
            if self.now.since(start) >= limit {
                panic!(
                    "seed {}: no {what} in {limit:?}\n{}",
                    self.seed,
                    self.dump()
                );
            }
            self.run(5 * MS);
        }
        self.now.since(start)
    }

    /// Who leads, who votes, who sees what.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        let groups = (1..=3).map(|s| GroupId::Site(SiteId(s)));
        for group in std::iter::once(GroupId::Global).chain(groups) {
            let (leader, voters) = (self.leader(group), self.voters(group));
            out += &format!("{group}: leader {leader:?}, voters {voters:?}\n");
            for (node, host) in &self.hosts {
                let Some(m) = &host.machine else { continue };
                let (applied, leader) = (m.applied(group), m.leader(group, self.now));
                let members = m
                    .members(group)
                    .map(|m| (m.voter_nodes(), m.learners.len()));
                out += &format!("  {node}: {applied:?}, hears {leader:?}, {members:?}\n");
            }
        }
        for (node, host) in &self.hosts {
            let Some(view) = &host.view else { continue };
            let up = |p: Presence| p == Presence::Up;
            let nodes = view
                .nodes
                .iter()
                .filter(|(_, n)| up(n.presence))
                .map(|(n, _)| n.0);
            let nodes: Vec<_> = nodes.collect();
            out += &format!("{node} sees nodes {nodes:?}, {} disks\n", view.disks.len());
        }
        out
    }

    pub fn ask(&mut self, node: NodeId, request: MetaRequest) -> MetaToken {
        let token = MetaToken(self.next_token);
        self.next_token += 1;
        self.input(node, Input::Request { token, request });
        token
    }

    pub fn request(&mut self, node: NodeId, request: MetaRequest) -> MetaReply {
        let token = self.ask(node, request);
        self.run_until(8000 * MS, "reply", |w| w.replies.contains_key(&token));
        self.replies[&token].clone()
    }

    pub fn admin(&mut self, node: NodeId, command: AdminCommand) -> AdminReply {
        let token = AdminToken(self.next_token);
        self.next_token += 1;
        self.input(node, Input::Admin { token, command });
        self.run_until(8000 * MS, "reply", |w| w.admin_replies.contains_key(&token));
        self.admin_replies[&token].clone()
    }

    /// Adds and starts a node; waits for its site's group, if it is the first.
    pub fn join(&mut self, site: SiteId) -> NodeId {
        let name = format!("node-{}", self.hosts.len() + 1);
        let guess = NodeId(u16::try_from(self.hosts.len()).expect("few") + 1);
        let identity = self.identity(guess, site, &name);
        let (address, nbd) = (identity.address, identity.nbd);
        let add = AdminCommand::AddNode {
            site,
            name,
            address,
            nbd,
        };
        let start = self.now;
        loop {
            match self.admin(NodeId(1), add.clone()) {
                AdminReply::Node(node) => {
                    assert_eq!(node, guess);
                    break;
                }
                _ => assert!(
                    self.now.since(start) < 10_000 * MS,
                    "a site is founded in time"
                ),
            }
            self.run(100 * MS);
        }
        self.add_host(identity, MemoryLog::default(), vec![NodeId(1)]);
        self.start(guess);
        guess
    }

    pub fn add_disk(&mut self, node: NodeId) -> DiskRef {
        let incarnation = Incarnation(self.draw(1 << 30));
        let reply = self.admin(node, AdminCommand::AddDisk { node, incarnation });
        let AdminReply::Disk(at) = reply else {
            panic!("a disk, not {reply:?}")
        };
        let host = self.hosts.get_mut(&node).expect("a host");
        host.disks.push(LocalDisk {
            at,
            capacity_bytes: 1 << 40,
            has_room: true,
            health: DiskHealth::default(),
        });
        let disks = host.disks.clone();
        self.input(node, Input::LocalDisks(disks));
        at
    }

    /// Three sites of so many nodes, a disk each; everyone's view is complete.
    pub fn fabric(seed: u64, nodes_per_site: usize) -> Self {
        let mut world = Self::new(seed);
        world.found();
        world.build(3, nodes_per_site);
        world
    }

    fn build(&mut self, sites: u8, nodes_per_site: usize) {
        for site in 1..=sites {
            if site > 1 {
                let name = format!("site{site}");
                let reply = self.admin(NodeId(1), AdminCommand::AddSite { name });
                assert_eq!(reply, AdminReply::Site(SiteId(site)));
            }
            let have = usize::from(site == 1);
            for _ in have..nodes_per_site {
                self.join(SiteId(site));
            }
        }
        let nodes: Vec<_> = self.hosts.keys().copied().collect();
        for node in &nodes {
            self.add_disk(*node);
        }
        let count = nodes.len();
        self.run_until(30_000 * MS, "complete views and settled voters", |w| {
            let complete = |h: &Host| {
                let up = |v: &Arc<View>| {
                    v.nodes.len() == count
                        && v.disks.len() == count
                        && v.nodes
                            .values()
                            .all(|n| n.presence == model::placement::Presence::Up)
                };
                h.machine.is_none() || h.view.as_ref().is_some_and(up)
            };
            w.hosts.values().all(complete) && w.voters(GroupId::Global).len() == usize::from(sites)
        });
        self.run(3000 * MS);
    }

    pub fn voters(&self, group: GroupId) -> Vec<NodeId> {
        let leader = self.leader(group);
        let machine = leader.and_then(|n| self.hosts[&n].machine.as_ref());
        machine
            .and_then(|m| m.members(group))
            .map(|m| m.voter_nodes())
            .unwrap_or_default()
    }

    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads = |h: &Host| h.machine.as_ref().is_some_and(|m| m.is_leader(group));
        self.hosts.iter().find(|(_, h)| leads(h)).map(|(n, _)| *n)
    }

    pub fn nodes_of(&self, site: SiteId) -> Vec<NodeId> {
        let of = self.hosts.iter().filter(|(_, h)| h.identity.site == site);
        of.map(|(n, _)| *n).collect()
    }

    pub fn site_of(&self, node: NodeId) -> SiteId {
        self.hosts[&node].identity.site
    }

    /// Isolates nodes from all others, both ways.
    pub fn isolate(&mut self, nodes: &[NodeId]) {
        let all: Vec<_> = self.hosts.keys().copied().collect();
        for a in nodes {
            for b in all.iter().filter(|b| !nodes.contains(b)) {
                self.cut.insert((*a, *b));
                self.cut.insert((*b, *a));
            }
        }
    }

    pub fn disk_of(&self, node: NodeId) -> DiskRef {
        self.hosts[&node].disks[0].at
    }

    /// Creates a volume with a replica on the first node of every site, home's first.
    pub fn create_volume(&mut self, by: NodeId, name: &str, home: SiteId) -> VolumeRecord {
        let sites: BTreeSet<SiteId> = self.hosts.values().map(|h| h.identity.site).collect();
        let mut order: Vec<SiteId> = sites.into_iter().collect();
        order.sort_by_key(|s| *s != home);
        let journal = order
            .iter()
            .map(|s| self.disk_of(self.nodes_of(*s)[0]))
            .collect();
        let request = MetaRequest::CreateVolume {
            name: name.to_owned(),
            size_bytes: 1 << 30,
            code: "rs:4+2".parse().expect("a code"),
            home,
            journal,
        };
        volume(self.request(by, request))
    }

    pub fn claim(&mut self, node: NodeId, of: &VolumeRecord) -> VolumeRecord {
        let request = MetaRequest::Claim {
            volume: of.id,
            expected: of.epoch,
            node,
            found_on: None,
        };
        volume(self.request(node, request))
    }

    pub fn read(&mut self, node: NodeId, id: VolumeId) -> VolumeRecord {
        volume(self.request(node, MetaRequest::ReadVolume { volume: id }))
    }
}

pub fn volume(reply: MetaReply) -> VolumeRecord {
    match reply {
        MetaReply::Volume(Some(record)) => record,
        other => panic!("a volume, not {other:?}"),
    }
}

impl World {
    /// Claims a new volume on each of the nodes; its home is the node's site.
    pub fn owned_volumes(&mut self, nodes: &[NodeId], each: usize) -> Vec<VolumeRecord> {
        let mut out = Vec::new();
        for node in nodes {
            for i in 0..each {
                let name = format!("{node}-{i}");
                let made = self.create_volume(*node, &name, self.site_of(*node));
                out.push(self.claim(*node, &made));
            }
        }
        out
    }

    /// A live node's latest view of a volume.
    pub fn seen(&self, by: NodeId, id: VolumeId) -> Option<&VolumeRecord> {
        self.hosts[&by].view.as_ref()?.volumes.get(&id)
    }

    pub fn live(&self) -> Vec<NodeId> {
        let live = self.hosts.iter().filter(|(_, h)| h.machine.is_some());
        live.map(|(n, _)| *n).collect()
    }

    pub fn restart(&mut self, node: NodeId) {
        self.crash(node);
        self.start(node);
    }
}

impl World {
    /// Volumes of one node while a site is away: replicas in the sites that are left.
    pub fn owned_volumes_in_away(&mut self, node: NodeId) -> Vec<VolumeRecord> {
        let live: BTreeSet<SiteId> = self.live().iter().map(|n| self.site_of(*n)).collect();
        let home = self.site_of(node);
        let mut order: Vec<SiteId> = live.into_iter().collect();
        order.sort_by_key(|s| *s != home);
        let journal = order
            .iter()
            .map(|s| self.disk_of(self.nodes_of(*s)[0]))
            .collect();
        let request = MetaRequest::CreateVolume {
            name: format!("away-{node}"),
            size_bytes: 1 << 30,
            code: "rs:4+2".parse().expect("a code"),
            home,
            journal,
        };
        let made = volume(self.request(node, request));
        vec![self.claim(node, &made)]
    }
}
