//! The world: nodes, their messages, their disks, and time. A shell around the same machines
//! that the actix shells drive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actors::client::{self, Client, Tag};
use actors::disk::{DiskEffect, DiskInput};
use actors::host::Route;
use actors::messages::{Envelope, Message, VolumeReply};
use actors::segment;
use actors::volume;
use bytes::Bytes;
use model::block::{Reply, Request};
use model::ids::{Actor, ClientId, DiskId, Endpoint, NodeId, SiteId, VolumeId};
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::payload::Payload;
use model::placement::View;
use model::store::{DeviceError, FragmentDone, JournalDone, OpId};
use model::time::Time;
use raft_meta::log::RaftLog;
use raft_meta::message::{GroupId, MetaMessage};
use raft_meta::node as meta;

use crate::network::Network;
use crate::node::{MachineTerms, SimNode, open_disk};
use crate::queue::Queue;
use crate::rng::Rng;
use crate::trace::Trace;

/// A machine of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// The metadata machine.
    Meta,
    /// The table of Volume machines.
    Host,
    /// A volume's owner.
    Volume(VolumeId),
    /// The Segment machine beside it.
    Segment(VolumeId),
    /// A disk.
    Disk(DiskId),
    /// A client.
    Client(ClientId),
}

/// What travels between nodes.
#[derive(Clone, Debug)]
enum Packet {
    Actor(Box<Envelope>, Bytes),
    Meta(Box<MetaMessage>),
}

/// What is to happen.
#[derive(Debug)]
enum Event {
    Deliver { from: NodeId, to: NodeId, life: u64, packet: Packet },
    Timer { node: NodeId, life: u64, who: Who, at: Time },
    Journal { node: NodeId, life: u64, disk: DiskId, op: OpId, done: Result<JournalDone, DeviceError> },
    Fragments { node: NodeId, life: u64, disk: DiskId, op: OpId, done: Result<FragmentDone, DeviceError> },
    Persisted { node: NodeId, life: u64, group: GroupId, ticket: meta::Ticket },
    /// The run's own: a fault, a client's next operation.
    Run(u64),
}

impl Event {
    /// The node that it happens on.
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Deliver { to: node, .. }
            | Self::Timer { node, .. }
            | Self::Journal { node, .. }
            | Self::Fragments { node, .. }
            | Self::Persisted { node, .. } => Some(*node),
            Self::Run(_) => None,
        }
    }
}

/// What the run must look at.
#[derive(Debug)]
pub enum Happening {
    /// A planned event of the run.
    Run(u64),
    /// A client's operation ended.
    Complete { client: ClientId, node: NodeId, tag: Tag, reply: Reply },
    /// A client's session ended: what it asked and was not told is unknown.
    ClientEnded { client: ClientId, node: NodeId },
    /// An answer to the run's own question to the metadata.
    Meta { node: NodeId, token: MetaToken, reply: MetaReply },
    /// An answer to the run's own command.
    Admin { node: NodeId, token: meta::AdminToken, reply: meta::AdminReply },
}

/// The run's own questions have tokens from here on.
pub const RUN_TOKENS: u64 = 1 << 32;

/// All of it.
pub struct World {
    /// Nodes by id.
    pub nodes: BTreeMap<NodeId, SimNode>,
    /// The network.
    pub network: Network,
    /// Everything that happened.
    pub trace: Trace,
    /// Terms of the machines.
    pub terms: MachineTerms,
    queue: Queue<Event>,
    armed: BTreeMap<(NodeId, Who), Time>,
    paused: BTreeMap<NodeId, Time>,
    happenings: Vec<Happening>,
    rng: Rng,
}

impl World {
    /// A world without nodes.
    #[must_use]
    pub fn new(network: Network, terms: MachineTerms, rng: Rng, keep: usize) -> Self {
        Self {
            nodes: BTreeMap::new(),
            network,
            trace: Trace::new(keep),
            terms,
            queue: Queue::default(),
            armed: BTreeMap::new(),
            paused: BTreeMap::new(),
            happenings: Vec::new(),
            rng,
        }
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.queue.now()
    }

    /// Plans an event of the run.
    pub fn plan(&mut self, at: Time, number: u64) {
        self.queue.plan(at, Event::Run(number));
    }

    /// What the run must look at since it last did.
    pub fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happenings)
    }

    /// Carries out the next event; false if there is none.
    pub fn step(&mut self) -> bool {
        let Some(event) = self.queue.next() else { return false };
        let now = self.queue.now();
        if let Some(node) = event.node()
            && let Some(until) = self.paused.get(&node).copied()
        {
            if now < until {
                self.queue.plan(until, event);
                return true;
            }
            self.paused.remove(&node);
        }
        self.note(now, &event);
        match event {
            Event::Deliver { from, to, life, packet } => {
                if self.lives(to, life) {
                    self.deliver(from, to, packet);
                }
            }
            Event::Timer { node, life, who, at } => {
                if self.armed.get(&(node, who)) == Some(&at) {
                    self.armed.remove(&(node, who));
                }
                if self.lives(node, life) {
                    self.tick(node, who);
                }
            }
            Event::Journal { node, life, disk, op, done } => {
                if self.lives(node, life) {
                    self.drive_disk(node, disk, DiskInput::Journal { op, done });
                }
            }
            Event::Fragments { node, life, disk, op, done } => {
                if self.lives(node, life) {
                    self.drive_disk(node, disk, DiskInput::Fragments { op, done });
                }
            }
            Event::Persisted { node, life, group, ticket } => {
                if self.lives(node, life) {
                    self.drive_meta(node, meta::Input::Persisted { group, ticket });
                }
            }
            Event::Run(number) => self.happenings.push(Happening::Run(number)),
        }
        true
    }

    fn note(&mut self, now: Time, event: &Event) {
        let (kind, a, b) = match event {
            Event::Deliver { from, to, packet: Packet::Actor(e, p), .. } => {
                (1, u64::from(from.0) << 16 | u64::from(to.0), e.id.0 ^ p.len() as u64)
            }
            Event::Deliver { from, to, .. } => (2, u64::from(from.0) << 16 | u64::from(to.0), 0),
            Event::Timer { node, .. } => (3, u64::from(node.0), 0),
            Event::Journal { disk, op, .. } => (4, u64::from(disk.0), op.0),
            Event::Fragments { disk, op, .. } => (5, u64::from(disk.0), op.0),
            Event::Persisted { node, ticket, .. } => (6, u64::from(node.0), ticket.0),
            Event::Run(number) => (7, *number, 0),
        };
        self.trace.event(&[now.0, kind, a, b], || format!("{now} {event:?}").chars().take(400).collect());
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.life == life && n.process.is_some())
    }

    /// Starts a node's process around its metadata machine.
    pub fn boot(&mut self, node: NodeId, meta: meta::MetaNode) {
        let terms = self.terms.clone();
        let now = self.now();
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let clock = n.clock(now);
        for disk in n.disks.values_mut() {
            open_disk(disk, node, &terms, clock);
        }
        n.boot(meta);
        let disks: Vec<DiskId> = n.disks.keys().copied().collect();
        self.announce_disks(node);
        self.tick(node, Who::Meta);
        for disk in disks {
            self.tick(node, Who::Disk(disk));
        }
    }

    /// Opens a disk that a running node got.
    pub fn open_disk(&mut self, node: NodeId, disk: DiskId) {
        let terms = self.terms.clone();
        let now = self.now();
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let clock = n.clock(now);
        open_disk(n.disks.get_mut(&disk).expect("it got it"), node, &terms, clock);
        self.tick(node, Who::Disk(disk));
    }

    /// A node's process stands still until then.
    pub fn pause(&mut self, node: NodeId, until: Time) {
        self.paused.insert(node, until);
    }

    /// Tells the metadata machine which disks the node serves.
    pub fn announce_disks(&mut self, node: NodeId) {
        let capacity_bytes = self.terms.disk_bytes;
        let disks = self.nodes[&node]
            .disks
            .values()
            .map(|d| raft_meta::message::LocalDisk { at: d.at, capacity_bytes })
            .collect();
        self.drive_meta(node, meta::Input::LocalDisks(disks));
    }

    /// Kills a node's process.
    pub fn kill(&mut self, node: NodeId, power: bool) {
        let seed = self.rng.bits();
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let clients: Vec<ClientId> =
            n.process.iter().flat_map(|p| p.clients.keys().copied()).collect();
        n.kill(power.then_some(seed));
        self.armed.retain(|(of, _), _| *of != node);
        for client in clients {
            self.happenings.push(Happening::ClientEnded { client, node });
        }
    }

    /// Opens a client of a volume on a node that runs.
    pub fn open_client(&mut self, node: NodeId, volume: VolumeId, id: ClientId) -> bool {
        let config = self.terms.client;
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return false;
        };
        let view = Arc::clone(process.host.current_view());
        if !view.volumes.contains_key(&volume) {
            return false;
        }
        process.clients.insert(id, Client::new(volume, node, config, view));
        self.tick(node, Who::Client(id));
        true
    }

    /// A front end asks.
    pub fn submit(&mut self, node: NodeId, client: ClientId, tag: Tag, request: Request) {
        self.drive_client(node, client, client::Input::Submit { tag, request });
    }

    /// The run asks the metadata of a node that runs.
    pub fn ask_meta(&mut self, node: NodeId, token: MetaToken, request: MetaRequest) {
        self.drive_meta(node, meta::Input::Request { token, request });
    }

    /// The run commands the metadata of a node that runs.
    pub fn admin(&mut self, node: NodeId, token: meta::AdminToken, command: meta::AdminCommand) {
        self.drive_meta(node, meta::Input::Admin { token, command });
    }

    fn arm(&mut self, node: NodeId, who: Who, due: Option<Time>) {
        let Some(due) = due else { return };
        let n = &self.nodes[&node];
        // A passed deadline gets the shells' grain of a millisecond.
        let at = n.world_time(due).max(self.now() + Duration::from_millis(1));
        let life = n.life;
        match self.armed.get(&(node, who)) {
            Some(armed) if *armed <= at => {}
            _ => {
                self.armed.insert((node, who), at);
                self.queue.plan(at, Event::Timer { node, life, who, at });
            }
        }
    }

    fn tick(&mut self, node: NodeId, who: Who) {
        let clock = self.nodes[&node].clock(self.now());
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        match who {
            Who::Meta => {
                let mut out = Vec::new();
                process.meta.tick(clock, &mut out);
                self.after_meta(node, out);
            }
            Who::Host => {
                let mut start = Vec::new();
                process.host.due(clock, &mut start);
                self.start_volumes(node, start);
            }
            Who::Volume(id) => {
                let mut out = Vec::new();
                if let Some(volume) = process.volumes.get_mut(&id) {
                    volume.tick(clock, &mut out);
                }
                self.after_volume(node, id, out);
            }
            Who::Segment(id) => {
                let mut out = Vec::new();
                if let Some(segments) = process.segments.get_mut(&id) {
                    segments.tick(clock, &mut out);
                }
                self.after_segments(node, id, out);
            }
            Who::Client(id) => {
                let mut out = Vec::new();
                if let Some(client) = process.clients.get_mut(&id) {
                    client.tick(clock, &mut out);
                }
                self.after_client(node, id, out);
            }
            Who::Disk(id) => {
                let mut out = Vec::new();
                let disk = self.nodes.get_mut(&node).and_then(|n| n.disks.get_mut(&id));
                if let Some(open) = disk.and_then(|d| d.open.as_mut()) {
                    open.machine.tick(clock, &mut out);
                }
                self.after_disk(node, id, out);
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, class: u8, packet: Packet) {
        let now = self.now();
        let Some(target) = self.nodes.get(&to) else { return };
        let (to_site, life) = (target.site, target.life);
        let from_site = self.nodes[&from].site;
        for at in self.network.carry(now, (from, from_site), (to, to_site), class) {
            let packet = packet.clone();
            self.queue.plan(at, Event::Deliver { from, to, life, packet });
        }
    }

    fn post(&mut self, envelope: Envelope, payload: Payload) {
        let (from, to) = (envelope.from.node, envelope.to.node);
        let packet = Packet::Actor(Box::new(envelope), payload.into_bytes());
        if from == to {
            let life = self.nodes[&to].life;
            let at = self.now() + Duration::from_micros(1);
            self.queue.plan(at, Event::Deliver { from, to, life, packet });
        } else {
            self.send(from, to, 1, packet);
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        match packet {
            Packet::Meta(message) => {
                self.drive_meta(to, meta::Input::Message { from, message: *message });
            }
            Packet::Actor(envelope, payload) => self.deliver_actor(*envelope, payload),
        }
    }

    fn deliver_actor(&mut self, envelope: Envelope, payload: Bytes) {
        let Envelope { from, to, id, message } = envelope;
        let node = to.node;
        match (message, to.actor) {
            (Message::DiskRequest(request), Actor::Disk(disk)) => {
                self.drive_disk(node, disk, DiskInput::Request { from, id, request, payload });
            }
            (Message::DiskReply(reply), Actor::Volume(volume)) => {
                let Actor::Disk(disk) = from.actor else { return };
                self.drive_volume(node, volume, volume::Input::Disk { disk, id, reply, payload });
            }
            (Message::DiskReply(reply), Actor::Segment(volume)) => {
                let Actor::Disk(disk) = from.actor else { return };
                self.drive_segments(node, volume, segment::Input::Disk { disk, id, reply, payload });
            }
            (Message::VolumeReply(reply), Actor::Client(client)) => {
                self.drive_client(node, client, client::Input::Reply { id, reply, payload });
            }
            (Message::VolumeRequest(request), Actor::Volume(volume)) => {
                let clock = self.nodes[&node].clock(self.now());
                let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut())
                else {
                    return;
                };
                match process.host.request(clock, volume) {
                    Route::Running => {}
                    Route::Start => self.start_volumes(node, vec![volume]),
                    Route::Elsewhere(epoch) => {
                        let message = Message::VolumeReply(VolumeReply::NotOwner { epoch });
                        self.post(Envelope { from: to, to: from, id, message }, Payload::empty());
                        return;
                    }
                }
                self.drive_volume(node, volume, volume::Input::Request { from, id, request, payload });
            }
            (message, actor) => unreachable!("{message:?} for {actor:?}"),
        }
    }

    fn start_volumes(&mut self, node: NodeId, start: Vec<VolumeId>) {
        let terms = self.terms.clone();
        for id in start {
            let n = self.nodes.get_mut(&node).expect("the node exists");
            let boot = n.identity.boot;
            let Some(process) = n.process.as_mut() else { return };
            process.start_volume(node, boot, id, &terms);
            self.tick(node, Who::Volume(id));
        }
        let due = self.nodes[&node].process.as_ref().and_then(|p| p.host.next_deadline());
        self.arm(node, Who::Host, due);
    }

    fn drive_meta(&mut self, node: NodeId, input: meta::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) {
            process.meta.handle(clock, input, &mut out);
        }
        self.after_meta(node, out);
    }

    fn after_meta(&mut self, node: NodeId, out: Vec<meta::Effect>) {
        for effect in out {
            match effect {
                meta::Effect::Send { to, message } => {
                    self.send(node, to, 0, Packet::Meta(Box::new(message)));
                }
                meta::Effect::Persist { group, ticket, write } => {
                    // Durable at once, told a sync's time later: a crash between loses
                    // nothing that was told.
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    n.meta_log.write(&[(group, write)]).expect("memory does not fail");
                    let life = n.life;
                    let sync = self.rng.duration(Duration::from_micros(50), Duration::from_millis(2));
                    let at = self.now() + sync;
                    self.queue.plan(at, Event::Persisted { node, life, group, ticket });
                }
                meta::Effect::Reply { token, reply } => self.meta_reply(node, token, reply),
                meta::Effect::AdminReply { token, reply } => {
                    self.happenings.push(Happening::Admin { node, token, reply });
                }
                meta::Effect::View(view) => self.view(node, &view),
            }
        }
        let due = self.nodes[&node].process.as_ref().and_then(|p| p.meta.next_deadline());
        self.arm(node, Who::Meta, due);
    }

    fn meta_reply(&mut self, node: NodeId, token: MetaToken, reply: MetaReply) {
        if token.0 >= RUN_TOKENS {
            self.happenings.push(Happening::Meta { node, token, reply });
            return;
        }
        let process = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut());
        let Some((actor, token)) = process.and_then(|p| p.asked.remove(&token.0)) else { return };
        match actor {
            Actor::Volume(id) => self.drive_volume(node, id, volume::Input::Meta { token, reply }),
            Actor::Disk(id) => self.drive_disk(node, id, DiskInput::Volume { token, reply }),
            Actor::Segment(_) | Actor::Client(_) => {}
        }
    }

    fn ask(&mut self, node: NodeId, actor: Actor, token: MetaToken, request: MetaRequest) {
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        process.next_token += 1;
        let own = process.next_token;
        process.asked.insert(own, (actor, token));
        self.drive_meta(node, meta::Input::Request { token: MetaToken(own), request });
    }

    fn view(&mut self, node: NodeId, view: &Arc<View>) {
        let clock = self.nodes[&node].clock(self.now());
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        let mut start = Vec::new();
        process.host.view(clock, Arc::clone(view), &mut start);
        let volumes: Vec<VolumeId> = process.volumes.keys().copied().collect();
        let clients: Vec<ClientId> = process.clients.keys().copied().collect();
        for id in volumes {
            self.drive_volume(node, id, volume::Input::View(Arc::clone(view)));
            self.drive_segments(node, id, segment::Input::View(Arc::clone(view)));
        }
        for id in clients {
            self.drive_client(node, id, client::Input::View(Arc::clone(view)));
        }
        self.start_volumes(node, start);
    }

    fn drive_volume(&mut self, node: NodeId, id: VolumeId, input: volume::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut())
            && let Some(volume) = process.volumes.get_mut(&id)
        {
            volume.handle(clock, input, &mut out);
        }
        self.after_volume(node, id, out);
    }

    fn after_volume(&mut self, node: NodeId, id: VolumeId, out: Vec<volume::Effect>) {
        let from = Endpoint { node, actor: Actor::Volume(id) };
        for effect in out {
            match effect {
                volume::Effect::ToDisk { node, disk, id, request, payload } => {
                    let to = Endpoint { node, actor: Actor::Disk(disk) };
                    let message = Message::DiskRequest(request);
                    self.post(Envelope { from, to, id, message }, payload);
                }
                volume::Effect::ToClient { to, id, reply, payload } => {
                    let message = Message::VolumeReply(reply);
                    self.post(Envelope { from, to, id, message }, payload);
                }
                volume::Effect::ToSegment(request) => {
                    self.drive_segments(node, id, segment::Input::Request(request));
                }
                volume::Effect::Meta { token, request } => self.ask(node, from.actor, token, request),
                volume::Effect::Serving { epoch } => {
                    let now = self.now();
                    self.trace.event(&[8, u64::from(id.0), epoch.0], || {
                        format!("{now} {node} serves {id} in {epoch}")
                    });
                }
                volume::Effect::Stopped(reason) => {
                    let now = self.now();
                    self.trace.event(&[9, u64::from(id.0)], || format!("{now} {node} ends {id}: {reason:?}"));
                    let clock = self.nodes[&node].clock(now);
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    if let Some(process) = n.process.as_mut() {
                        process.volumes.remove(&id);
                        process.segments.remove(&id);
                        process.host.ended(clock, id);
                        let due = process.host.next_deadline();
                        self.arm(node, Who::Host, due);
                    }
                    return;
                }
            }
        }
        let process = self.nodes[&node].process.as_ref();
        let due = process.and_then(|p| p.volumes.get(&id)).and_then(Machine::next_deadline);
        self.arm(node, Who::Volume(id), due);
    }

    fn drive_segments(&mut self, node: NodeId, id: VolumeId, input: segment::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut())
            && let Some(segments) = process.segments.get_mut(&id)
        {
            segments.handle(clock, input, &mut out);
        }
        self.after_segments(node, id, out);
    }

    fn after_segments(&mut self, node: NodeId, volume: VolumeId, out: Vec<segment::Effect>) {
        let from = Endpoint { node, actor: Actor::Segment(volume) };
        for effect in out {
            match effect {
                segment::Effect::ToDisk { node, disk, id, request, payload } => {
                    let to = Endpoint { node, actor: Actor::Disk(disk) };
                    let message = Message::DiskRequest(request);
                    self.post(Envelope { from, to, id, message }, payload);
                }
                segment::Effect::Reply(reply) => {
                    self.drive_volume(node, volume, volume::Input::Segment(reply));
                }
            }
        }
        let process = self.nodes[&node].process.as_ref();
        let due = process.and_then(|p| p.segments.get(&volume)).and_then(Machine::next_deadline);
        self.arm(node, Who::Segment(volume), due);
    }

    fn drive_client(&mut self, node: NodeId, id: ClientId, input: client::Input) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        if let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut())
            && let Some(client) = process.clients.get_mut(&id)
        {
            client.handle(clock, input, &mut out);
        }
        self.after_client(node, id, out);
    }

    fn after_client(&mut self, node: NodeId, client: ClientId, out: Vec<client::Effect>) {
        let from = Endpoint { node, actor: Actor::Client(client) };
        for effect in out {
            match effect {
                client::Effect::ToVolume { node, id, request, payload } => {
                    let to = Endpoint { node, actor: Actor::Volume(request.volume()) };
                    let message = Message::VolumeRequest(request);
                    self.post(Envelope { from, to, id, message }, payload);
                }
                client::Effect::Complete { tag, reply } => {
                    self.happenings.push(Happening::Complete { client, node, tag, reply });
                }
                client::Effect::Opened { .. } => {}
                client::Effect::Ended => {
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    if let Some(process) = n.process.as_mut() {
                        process.clients.remove(&client);
                    }
                    self.happenings.push(Happening::ClientEnded { client, node });
                    return;
                }
            }
        }
        let process = self.nodes[&node].process.as_ref();
        let due = process.and_then(|p| p.clients.get(&client)).and_then(Machine::next_deadline);
        self.arm(node, Who::Client(client), due);
    }

    fn drive_disk(&mut self, node: NodeId, id: DiskId, input: DiskInput) {
        let clock = self.nodes[&node].clock(self.now());
        let mut out = Vec::new();
        let n = self.nodes.get_mut(&node).expect("the node exists");
        if n.process.is_none() {
            return;
        }
        if let Some(open) = n.disks.get_mut(&id).and_then(|d| d.open.as_mut()) {
            open.machine.handle(clock, input, &mut out);
        }
        self.after_disk(node, id, out);
    }

    fn after_disk(&mut self, node: NodeId, id: DiskId, out: Vec<DiskEffect>) {
        let from = Endpoint { node, actor: Actor::Disk(id) };
        for effect in out {
            match effect {
                DiskEffect::Reply { to, id, reply, payload } => {
                    let message = Message::DiskReply(reply);
                    self.post(Envelope { from, to, id, message }, payload);
                }
                DiskEffect::Journal { op, request } => {
                    let time = self.rng.duration(Duration::from_micros(30), Duration::from_millis(1));
                    let now = self.now();
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    let life = n.life;
                    let disk = n.disks.get_mut(&id).expect("the disk exists");
                    let open = disk.open.as_mut().expect("it runs");
                    let done = open.journal.execute(request);
                    let at = disk.journal_busy.max(now) + time;
                    disk.journal_busy = at;
                    self.queue.plan(at, Event::Journal { node, life, disk: id, op, done });
                }
                DiskEffect::Fragments { op, request } => {
                    let time = self.rng.duration(Duration::from_micros(50), Duration::from_millis(2));
                    let now = self.now();
                    let n = self.nodes.get_mut(&node).expect("the node exists");
                    let life = n.life;
                    let disk = n.disks.get_mut(&id).expect("the disk exists");
                    let open = disk.open.as_mut().expect("it runs");
                    let done = open.fragments.execute(request);
                    let at = disk.fragments_busy.max(now) + time;
                    disk.fragments_busy = at;
                    self.queue.plan(at, Event::Fragments { node, life, disk: id, op, done });
                }
                DiskEffect::ReadVolume { token, volume } => {
                    self.ask(node, from.actor, token, MetaRequest::ReadVolume { volume });
                }
                DiskEffect::Retire { .. } => {}
            }
        }
        let disk = self.nodes[&node].disks.get(&id).and_then(|d| d.open.as_ref());
        let due = disk.and_then(|o| o.machine.next_deadline());
        self.arm(node, Who::Disk(id), due);
    }

    /// Sites, each with its nodes, as the world knows them.
    #[must_use]
    pub fn sites(&self) -> BTreeMap<SiteId, Vec<NodeId>> {
        let mut sites: BTreeMap<SiteId, Vec<NodeId>> = BTreeMap::new();
        for node in self.nodes.values() {
            sites.entry(node.site).or_default().push(node.id);
        }
        sites
    }
}
