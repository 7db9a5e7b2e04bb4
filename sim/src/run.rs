//! One run: a fabric is founded, a volume made, clients work while things go wrong, all is
//! mended, and everything must be served and right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use actors::client::{ClientConfig, Tag};
use actors::disk::DiskConfig;
use actors::planted::{self, Bug};
use actors::volume::VolumeConfig;
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::{Fault as SimFault, SimFiles};
use model::block::Reply;
use model::geometry::Code;
use model::ids::{Boot, ClientId, DiskRef, Incarnation, NodeId, SiteId, VolumeId};
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::time::Time;
use raft_meta::log::{MemoryLog, RaftLog};
use raft_meta::node::{AdminCommand, AdminReply, AdminToken, Config as MetaConfig, Identity, MetaNode};

use crate::faults::{self, Fault, PlannedFault};
use crate::network::{Network, NetworkTerms};
use crate::node::{MachineTerms, SimDisk, SimNode};
use crate::oracle::{Oracle, SECTOR, Violation, WriteId};
use crate::rng::Rng;
use crate::workload::{Op, Workload, values};
use crate::world::{Happening, RUN_TOKENS, World};

/// What a run is given.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig {
    /// Decides everything.
    pub seed: u64,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Trace lines to keep for a report.
    pub keep: usize,
}

/// How a run failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// A promise was broken.
    #[error("{0}")]
    Wrong(#[from] Violation),
    /// A sector came back torn.
    #[error("sector {0} came back torn")]
    Torn(u64),
    /// A request failed though nothing that the fabric promises to survive was exceeded.
    #[error("{0:?} was answered with an error")]
    Refused(Op),
    /// Something did not happen in time after all was mended.
    #[error("{0}")]
    Stuck(String),
    /// A machine's assertion failed.
    #[error("a machine panicked: {0}")]
    Panicked(String),
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its failure, if it failed.
    pub failure: Option<Failure>,
    /// Hash of all that happened.
    pub trace_hash: u64,
    /// Events carried out.
    pub events: u64,
    /// Virtual time that passed.
    pub simulated: Duration,
    /// Operations answered.
    pub operations: u64,
    /// Sector reads checked.
    pub checked: u64,
    /// The last lines of the trace.
    pub tail: Vec<String>,
    /// What went wrong by plan.
    pub faults: Vec<PlannedFault>,
}

const SITES: u64 = 3;
const NODES: u64 = 3;
const DISKS: u64 = 2;
const TICK: u64 = 0;
const FAULT: u64 = 1 << 20;
const MEND: u64 = 1 << 21;
const OPEN: u64 = 1 << 22;

struct Slot {
    client: Option<ClientId>,
    node: NodeId,
}

struct Pending {
    op: Op,
    called: Time,
    write: Option<WriteId>,
    slot: usize,
}

struct Run {
    world: World,
    rng: Rng,
    oracle: Oracle,
    workload: Workload,
    volume: VolumeId,
    sectors: u64,
    slots: Vec<Slot>,
    pending: BTreeMap<(ClientId, Tag), Pending>,
    next_client: u64,
    next_tag: u64,
    left: u64,
    answered: u64,
    faults: Vec<PlannedFault>,
    dead: BTreeSet<NodeId>,
    final_reads: u64,
    deaf: bool,
}

/// Runs a seed.
#[must_use]
pub fn run(config: RunConfig) -> Outcome {
    planted::plant(config.bug);
    let mut run = Run::new(config);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.go()));
    planted::plant(None);
    let failure = match caught {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(Failure::Panicked(text.unwrap_or_else(|| "without a word".to_owned())))
        }
    };
    let mut tail: Vec<String> = run.world.trace.lines().map(str::to_owned).collect();
    if let Some(Failure::Wrong(violation)) = &failure {
        tail.extend(run.oracle.history(violation.sector()));
    }
    Outcome {
        failure,
        trace_hash: run.world.trace.hash(),
        events: run.world.trace.events(),
        simulated: run.world.now().since(Time(1_000_000_000)),
        operations: run.answered,
        checked: run.oracle.checked(),
        tail,
        faults: run.faults.clone(),
    }
}

fn terms(rng: &mut Rng) -> MachineTerms {
    let small = rng.one_in(2);
    let volume = VolumeConfig {
        window_bytes: if small { 256 << 10 } else { 4 << 20 },
        drain_bytes: rng.within(16 << 10, 256 << 10),
        drain_idle: rng.duration(Duration::from_millis(50), Duration::from_secs(1)),
        drain_age: rng.duration(Duration::from_millis(200), Duration::from_secs(4)),
        drain_records: 256,
        cache_blocks: if small { 0 } else { 64 },
        index_cache_bytes: if small { 64 << 10 } else { 1 << 20 },
        ..VolumeConfig::default()
    };
    MachineTerms {
        volume,
        client: ClientConfig::default(),
        disk: DiskConfig::default(),
        meta: MetaConfig { pool_rows: 8, ..MetaConfig::default() },
        journal_file_bytes: if small { 256 << 10 } else { 1 << 20 },
        disk_bytes: 64 << 20,
    }
}

fn network(rng: &mut Rng, seed: u64) -> Network {
    let terms = NetworkTerms {
        lan: Duration::from_micros(50),
        wan: rng.duration(Duration::from_micros(200), Duration::from_millis(20)),
        jitter: rng.duration(Duration::from_micros(1), Duration::from_millis(3)),
        loss_one_in: *rng.pick(&[0, 0, 50, 1000]),
        twice_one_in: *rng.pick(&[0, 0, 100]),
        reorder: rng.one_in(3),
    };
    Network::new(terms, Rng::new(seed, 3))
}

impl Run {
    fn new(config: RunConfig) -> Self {
        let seed = config.seed;
        let mut rng = Rng::new(seed, 1);
        let terms = terms(&mut rng);
        let network = network(&mut rng, seed);
        let blocks = rng.within(4, 64);
        let sectors = blocks * 8;
        let left = rng.within(200, 600);
        Self {
            world: World::new(network, terms, Rng::new(seed, 2), config.keep),
            workload: Workload::new(Rng::new(seed, 4), sectors),
            rng,
            oracle: Oracle::default(),
            volume: VolumeId(0),
            sectors,
            slots: Vec::new(),
            pending: BTreeMap::new(),
            next_client: 0,
            next_tag: 0,
            left,
            answered: 0,
            faults: Vec::new(),
            dead: BTreeSet::new(),
            final_reads: 0,
            deaf: config.bug == Some(Bug::LostFsync),
        }
    }

    fn go(&mut self) -> Result<(), Failure> {
        self.found()?;
        self.create_volume()?;
        self.work()?;
        self.mend_all()?;
        self.finish()
    }

    /// Steps until `done`, at most `span` of virtual time.
    fn until(
        &mut self,
        what: &str,
        span: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Failure> {
        let end = self.world.now() + span;
        while !done(self) {
            if self.world.now() > end || !self.world.step() {
                return Err(Failure::Stuck(format!("{what}: not within {span:?}")));
            }
            for happening in self.world.take_happenings() {
                self.look(happening)?;
            }
        }
        Ok(())
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
                    if let Happening::Admin { token: t, reply, .. } = happening
                        && t == token
                    {
                        answer = Some(reply);
                    }
                }
            }
            match answer {
                Some(AdminReply::Unavailable | AdminReply::Refused(_)) | None if attempt < 49 => {
                    let later = self.world.now() + Duration::from_millis(200);
                    self.world.plan(later, TICK);
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
            clock_ahead: self.rng.below(1_000_000_000_000),
            disks: BTreeMap::new(),
            meta_log: MemoryLog::default(),
            process: None,
            identity,
        };
        self.world.nodes.insert(id, node);
    }

    fn start_node(&mut self, id: NodeId) {
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

    fn found(&mut self) -> Result<(), Failure> {
        let site_names = ["a", "b", "c"];
        self.add_node(NodeId(1), SiteId(1), "a1");
        let config = self.world.terms.meta.clone();
        let node = self.world.nodes.get_mut(&NodeId(1)).expect("just added");
        let writes = MetaNode::found(&node.identity, "a", &config);
        node.meta_log.write(&writes).expect("memory does not fail");
        self.start_node(NodeId(1));
        let mut sites = vec![SiteId(1)];
        for name in &site_names[1..SITES as usize] {
            let command = AdminCommand::AddSite { name: (*name).to_owned() };
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
                    let command =
                        AdminCommand::AddNode { site: *site, name: name.clone(), address, nbd: address };
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
                let AdminReply::Disk(at) = self.command(&AdminCommand::AddDisk { node, incarnation })?
                else {
                    return Err(Failure::Stuck("no disk".to_owned()));
                };
                self.add_disk(node, at);
            }
            self.world.announce_disks(node);
        }
        Ok(())
    }

    fn add_disk(&mut self, node: NodeId, at: DiskRef) {
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
            journal_busy: Time::ZERO,
            fragments_busy: Time::ZERO,
        };
        let n = self.world.nodes.get_mut(&node).expect("the node exists");
        n.disks.insert(at.disk, disk);
        self.world.open_disk(node, at.disk);
    }

    fn create_volume(&mut self) -> Result<(), Failure> {
        // One disk in each site, and every disk known to the first node.
        let mut journal: Option<Vec<DiskRef>> = None;
        self.until("disks in every site", Duration::from_secs(60), |run| {
            let node = &run.world.nodes[&NodeId(1)];
            let Some(process) = &node.process else { return false };
            let view = process.host.current_view();
            let known = view.disks.len() as u64 == SITES * NODES * DISKS;
            if known {
                journal = view
                    .sites
                    .keys()
                    .map(|s| view.disks.values().find(|d| view.site_of(d.at.disk) == Some(*s)).map(|d| d.at))
                    .collect();
            }
            known
        })?;
        let request = MetaRequest::CreateVolume {
            name: "vol".to_owned(),
            size_bytes: self.sectors * SECTOR as u64,
            code: Code::Rs { k: 4, m: 2 },
            home: SiteId(1),
            journal: journal.unwrap_or_default(),
        };
        let token = MetaToken(RUN_TOKENS);
        self.world.ask_meta(NodeId(1), token, request);
        let mut made = None;
        let end = self.world.now() + Duration::from_secs(30);
        while made.is_none() && self.world.now() < end && self.world.step() {
            for happening in self.world.take_happenings() {
                if let Happening::Meta { reply, .. } = happening {
                    made = Some(reply);
                }
            }
        }
        match made {
            Some(MetaReply::Volume(Some(record))) => {
                self.volume = record.id;
                Ok(())
            }
            other => Err(Failure::Stuck(format!("the volume was not made: {other:?}"))),
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        let now = self.world.now();
        let sites: Vec<_> = self.world.sites().into_iter().collect();
        let span = Duration::from_secs(20);
        self.faults = faults::plan(&mut self.rng, now + Duration::from_secs(1), span, &sites);
        for (i, fault) in self.faults.clone().iter().enumerate() {
            self.world.plan(fault.at, FAULT + i as u64);
            self.world.plan(fault.until, MEND + i as u64);
        }
        for slot in 0..self.rng.within(1, 4) {
            let node = *self.rng.pick(&self.world.nodes.keys().copied().collect::<Vec<_>>());
            self.slots.push(Slot { client: None, node });
            self.world.plan(now, OPEN + slot);
        }
        let last = self.faults.iter().map(|f| f.until).max().unwrap_or(now);
        self.until("the faults' end", Duration::from_secs(120), |run| run.world.now() > last + Duration::from_millis(1))
    }

    /// Liveness: with everything mended, every request is answered.
    fn mend_all(&mut self) -> Result<(), Failure> {
        self.world.network.calm();
        for node in std::mem::take(&mut self.dead) {
            self.start_node(node);
        }
        self.until("all requests answered", Duration::from_secs(120), |run| {
            run.left == 0 && run.pending.is_empty()
        })
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let whole = Op::Read { first: 0, count: self.sectors };
        self.final_reads = 1;
        for slot in 0..self.slots.len() {
            if self.slots[slot].client.is_some() {
                self.issue(slot, whole);
                self.until("the last read", Duration::from_secs(60), |run| run.pending.is_empty())?;
            }
        }
        self.oracle.finish()?;
        Ok(())
    }

    fn issue(&mut self, slot: usize, op: Op) {
        let Some(client) = self.slots[slot].client else { return };
        let node = self.slots[slot].node;
        self.next_tag += 1;
        let tag = Tag(self.next_tag);
        let called = self.world.now();
        let mutates = !matches!(op, Op::Read { .. });
        let write = mutates.then(|| self.oracle.write_called(called, op.changes()));
        self.pending.insert((client, tag), Pending { op, called, write, slot });
        self.world.submit(node, client, tag, op.request());
    }

    fn look(&mut self, happening: Happening) -> Result<(), Failure> {
        match happening {
            Happening::Run(number) if number >= OPEN => self.open(usize::try_from(number - OPEN).expect("small")),
            Happening::Run(number) if number >= MEND => self.mend((number - MEND) as usize),
            Happening::Run(number) if number >= FAULT => self.strike((number - FAULT) as usize),
            Happening::Run(_) | Happening::Meta { .. } | Happening::Admin { .. } => {}
            Happening::Complete { client, tag, reply, .. } => self.complete(client, tag, reply)?,
            Happening::ClientEnded { client, .. } => self.client_ended(client),
        }
        Ok(())
    }

    fn open(&mut self, slot: usize) {
        let live: Vec<NodeId> =
            self.world.nodes.values().filter(|n| n.process.is_some()).map(|n| n.id).collect();
        let again = self.world.now() + Duration::from_millis(200);
        if live.is_empty() {
            self.world.plan(again, OPEN + slot as u64);
            return;
        }
        let node = *self.rng.pick(&live);
        self.next_client += 1;
        let client = ClientId(self.next_client);
        if !self.world.open_client(node, self.volume, client) {
            self.world.plan(again, OPEN + slot as u64);
            return;
        }
        self.slots[slot] = Slot { client: Some(client), node };
        for _ in 0..self.rng.within(1, 4) {
            self.next_op(slot);
        }
    }

    fn next_op(&mut self, slot: usize) {
        if self.left > 0 {
            self.left -= 1;
            let op = self.workload.next();
            self.issue(slot, op);
        }
    }

    fn complete(&mut self, client: ClientId, tag: Tag, reply: Reply) -> Result<(), Failure> {
        let Some(pending) = self.pending.remove(&(client, tag)) else { return Ok(()) };
        let now = self.world.now();
        match reply {
            Reply::Done => {
                self.answered += 1;
                if let Some(write) = pending.write {
                    self.oracle.write_answered(now, write);
                }
            }
            Reply::Data(chunks) => {
                self.answered += 1;
                let Op::Read { first, .. } = pending.op else {
                    return Err(Failure::Refused(pending.op));
                };
                for (i, value) in values(&chunks).into_iter().enumerate() {
                    let sector = first + i as u64;
                    let value = value.ok_or(Failure::Torn(sector))?;
                    self.oracle.read(pending.called, now, sector, value)?;
                }
            }
            // The session is gone with its owner's memory of it: unknown.
            Reply::Error(model::block::BlockError::NoSession) => {}
            Reply::Error(_) | Reply::Status(_) => return Err(Failure::Refused(pending.op)),
        }
        if self.final_reads == 0 {
            self.next_op(pending.slot);
        }
        Ok(())
    }

    fn client_ended(&mut self, client: ClientId) {
        self.pending.retain(|(c, _), _| *c != client);
        let now = self.world.now();
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if slot.client == Some(client) {
                slot.client = None;
                self.world.plan(now + Duration::from_millis(100), OPEN + i as u64);
            }
        }
    }

    fn kill(&mut self, node: NodeId, power: bool) {
        if self.dead.insert(node) {
            self.world.kill(node, power);
        }
    }

    fn strike(&mut self, i: usize) {
        let sites = self.world.sites();
        match self.faults[i].fault.clone() {
            Fault::Kill { node, power } => self.kill(node, power),
            Fault::KillSite { site, power } => {
                for node in &sites[&site] {
                    self.kill(*node, power);
                }
            }
            Fault::PowerLoss => {
                for node in sites.values().flatten() {
                    self.kill(*node, true);
                }
            }
            Fault::Cut { from, to, both } => {
                self.world.network.cut_sites(from, to);
                if both {
                    self.world.network.cut_sites(to, from);
                }
            }
            Fault::Isolate { site } => {
                for other in sites.keys().filter(|s| **s != site) {
                    self.world.network.cut_sites(site, *other);
                    self.world.network.cut_sites(*other, site);
                }
            }
            Fault::Pause { node } => {
                let until = self.faults[i].until;
                self.world.pause(node, until);
            }
        }
    }

    fn mend(&mut self, i: usize) {
        let sites = self.world.sites();
        let revive: Vec<NodeId> = match self.faults[i].fault.clone() {
            Fault::Kill { node, .. } => vec![node],
            Fault::KillSite { site, .. } => sites[&site].clone(),
            Fault::PowerLoss => sites.values().flatten().copied().collect(),
            Fault::Cut { .. } | Fault::Isolate { .. } => {
                self.world.network.heal();
                Vec::new()
            }
            Fault::Pause { .. } => Vec::new(),
        };
        for node in revive {
            if self.dead.remove(&node) {
                self.start_node(node);
            }
        }
    }
}
