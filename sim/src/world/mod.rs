//! The world: nodes, their messages, their disks, and time. A shell around the same machines
//! that the actix shells drive.

mod disk;
mod heal;
mod look;
mod machines;
mod meta;
mod paths;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actors::client::Tag;
use actors::disk::DiskEffect;
use actors::messages::{SegmentReply, SegmentRequest};
use model::block::Reply;
use model::ids::{ClientId, DiskId, Epoch, NodeId, VolumeId};
use model::machine::Machine;
use model::meta::{MetaReply, MetaToken};
use model::store::OpId;
use model::time::Time;
use raft_meta::message::{GroupId, Term};
use raft_meta::node as raft;
use transport::paths::Leg;

use crate::network::Network;
use crate::node::{MachineTerms, open_disk};
use crate::nodes::Nodes;
use crate::queue::Queue;
use crate::rng::Rng;
use crate::trace::Trace;

pub use disk::Store;
pub use wire::Moment;
use wire::{Packet, Watch};

/// A machine of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// The metadata machine.
    Meta,
    /// The ways to other nodes.
    Paths,
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
    /// The Healer.
    Healer,
}

/// What is to happen.
#[derive(Debug)]
enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        life: u64,
        leg: Leg,
        packet: Packet,
    },
    Timer {
        node: NodeId,
        life: u64,
        who: Who,
        at: Time,
    },
    /// A store ends its oldest operation.
    Stored {
        node: NodeId,
        life: u64,
        disk: DiskId,
        store: Store,
        op: OpId,
    },
    Settle {
        node: NodeId,
        life: u64,
        disk: DiskId,
        store: Store,
    },
    Persisted {
        node: NodeId,
        life: u64,
        group: GroupId,
        ticket: raft::Ticket,
    },
    /// A volume's Volume and Segment machines speak: by their shells' mailboxes, not at once.
    Between {
        node: NodeId,
        life: u64,
        volume: VolumeId,
        /// The machines' own life: what one said, its successor does not hear.
        of: u64,
        /// Boxed: the queue moves events about, and most are small.
        word: Box<Word>,
    },
    /// The run's own: a fault, a client's next operation.
    Run(u64),
}

/// What a volume's machines say to each other.
#[derive(Debug)]
enum Word {
    ToSegment(SegmentRequest),
    ToVolume(SegmentReply),
}

impl Event {
    /// The node that it happens on, and the life of it that it is meant for.
    fn node(&self) -> Option<(NodeId, u64)> {
        match self {
            Self::Deliver { to: node, life, .. }
            | Self::Timer { node, life, .. }
            | Self::Stored { node, life, .. }
            | Self::Settle { node, life, .. }
            | Self::Between { node, life, .. }
            | Self::Persisted { node, life, .. } => Some((*node, *life)),
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
    Complete {
        /// The client.
        client: ClientId,
        /// Its node.
        node: NodeId,
        /// The operation.
        tag: Tag,
        /// The answer.
        reply: Reply,
    },
    /// A client's session ended: what it asked and was not told is unknown.
    ClientEnded {
        /// The client.
        client: ClientId,
        /// Its node.
        node: NodeId,
        /// Whether its process was killed.
        killed: bool,
    },
    /// An owner begins to serve the volume.
    Serving {
        /// Its node.
        node: NodeId,
        /// In which epoch.
        epoch: Epoch,
    },
    /// An answer to the run's own question to the metadata.
    Meta {
        /// The node that was asked.
        node: NodeId,
        /// The question.
        token: MetaToken,
        /// The answer.
        reply: Box<MetaReply>,
    },
    /// An answer to the run's own command.
    Admin {
        /// The node that was asked.
        node: NodeId,
        /// The command.
        token: raft::AdminToken,
        /// The answer.
        reply: raft::AdminReply,
    },
}

/// Something that an invariant looks at when it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// A node's machine of a volume began to serve.
    Serving(NodeId, VolumeId, Epoch),
    /// It acknowledged a write.
    Acked(NodeId, VolumeId),
    /// It sent a checkpoint's record to a replica.
    Checkpoint(NodeId, VolumeId),
    /// A node's process began, and opened its disks.
    Booted(NodeId),
    /// A node's placement changed.
    View(NodeId),
    /// A disk answered a volume's seal for an epoch.
    Sealed(DiskId, VolumeId, Epoch),
    /// A node leads a metadata group in a term.
    Leads(NodeId, GroupId, Term),
}

/// The run's own questions have tokens from here on.
pub const RUN_TOKENS: u64 = 1 << 32;

/// The shells' timers are not finer than this.
const TIMER_GRAIN: Duration = Duration::from_millis(1);

/// All of it.
pub struct World {
    /// Nodes by id.
    pub nodes: Nodes,
    /// The network.
    pub network: Network,
    /// Everything that happened.
    pub trace: Trace,
    /// Terms of the machines.
    pub terms: MachineTerms,
    /// Bytes sent between sites, if they are counted.
    pub wan_bytes: Option<u64>,
    queue: Queue<Event>,
    paused: BTreeMap<NodeId, Time>,
    happenings: Vec<Happening>,
    notes: Vec<Note>,
    /// Whether something is lost or damaged for good.
    pub damaged: bool,
    /// Disks that lost their journal once: they may not know what they acknowledged.
    pub bereft: BTreeSet<DiskId>,
    /// Disks that the operator has removed once they are empty.
    pub removing: BTreeSet<DiskId>,
    watches: Vec<Watch>,
    rng: Rng,
    /// Reused: an outbox is emptied before the next machine writes to it.
    disk_out: Vec<DiskEffect>,
    meta_out: Vec<raft::Effect>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

impl World {
    /// A world without nodes, whose trace keeps its last `keep` lines.
    #[must_use]
    pub fn new(network: Network, terms: MachineTerms, rng: Rng, keep: usize) -> Self {
        Self {
            nodes: Nodes::default(),
            network,
            trace: Trace::new(keep),
            terms,
            wan_bytes: None,
            queue: Queue::default(),
            paused: BTreeMap::new(),
            happenings: Vec::new(),
            notes: Vec::new(),
            damaged: false,
            bereft: BTreeSet::new(),
            removing: BTreeSet::new(),
            watches: Vec::new(),
            rng,
            disk_out: Vec::new(),
            meta_out: Vec::new(),
        }
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.queue.now()
    }

    /// An event of the run is to happen then.
    pub fn schedule(&mut self, at: Time, number: u64) {
        self.queue.plan(at, Event::Run(number));
    }

    /// Whether the run must look at something.
    #[must_use]
    pub fn has_happenings(&self) -> bool {
        !self.happenings.is_empty()
    }

    /// What the run must look at since it last did.
    pub fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happenings)
    }

    /// What invariants must look at since they last did.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Whether an invariant must look at something.
    #[must_use]
    pub fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Carries out the next event; false if there is none.
    pub fn step(&mut self) -> bool {
        let Some(event) = self.queue.pop() else {
            return false;
        };
        let now = self.queue.now();
        if let Some((node, life)) = event.node() {
            if let Some(until) = self.paused.get(&node).copied() {
                if now < until {
                    self.queue.plan(until, event);
                    return true;
                }
                self.paused.remove(&node);
            }
            if !self.lives(node, life) || self.is_of_lost_disk(&event) {
                return true;
            }
            if let Event::Timer { node, who, at, .. } = &event {
                let armed = &mut self.nodes.get_mut(node).expect("it lives").armed;
                if !armed.go_off(*who, *at) {
                    // An earlier one took its place.
                    return true;
                }
            }
        }
        self.note(now, &event);
        match event {
            Event::Deliver {
                from,
                to,
                leg,
                packet,
                ..
            } => self.deliver(from, to, leg, packet),
            Event::Timer { node, who, .. } => self.tick(node, who),
            Event::Stored {
                node, disk, store, ..
            } => self.stored(node, disk, store),
            Event::Settle {
                node, disk, store, ..
            } => self.settle(node, disk, store),
            Event::Persisted {
                node,
                group,
                ticket,
                ..
            } => {
                let n = self.nodes.get_mut(&node).expect("it lives");
                n.persist_next();
                self.drive_meta(node, raft::Input::Persisted { group, ticket });
            }
            Event::Between {
                node,
                volume,
                of,
                word,
                ..
            } => self.heard(node, volume, of, *word),
            Event::Run(number) => self.happenings.push(Happening::Run(number)),
        }
        true
    }

    fn note(&mut self, now: Time, event: &Event) {
        let (kind, a, b) = match event {
            Event::Deliver {
                from,
                to,
                packet: Packet::Actor(e, p),
                ..
            } => (
                1,
                u64::from(from.0) << 16 | u64::from(to.0),
                e.id.0 ^ p.len() as u64,
            ),
            Event::Deliver { from, to, .. } => (2, u64::from(from.0) << 16 | u64::from(to.0), 0),
            Event::Timer { node, .. } => (3, u64::from(node.0), 0),
            Event::Stored {
                disk, store, op, ..
            } => (4 + *store as u64, u64::from(disk.0), op.0),
            Event::Persisted { node, ticket, .. } => (6, u64::from(node.0), ticket.0),
            Event::Run(number) => (7, *number, 0),
            Event::Between { node, of, .. } => (8, u64::from(node.0), *of),
            Event::Settle { disk, store, .. } => (10 + *store as u64, u64::from(disk.0), 0),
        };
        self.trace.event(&[now.0, kind, a, b], || {
            format!("{now} {event:?}").chars().take(4000).collect()
        });
    }

    /// Whether a store of a disk that was lost meanwhile would be at work.
    fn is_of_lost_disk(&self, event: &Event) -> bool {
        match event {
            Event::Stored { node, disk, .. } | Event::Settle { node, disk, .. } => {
                !self.nodes[node].disks.contains_key(disk)
            }
            _ => false,
        }
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|n| n.life == life && n.process.is_some())
    }

    /// Starts a node's process around its metadata machine.
    pub fn boot(&mut self, node: NodeId, meta: raft::MetaNode) {
        let now = self.now();
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let clock = n.clock(now);
        for disk in n.disks.values_mut() {
            open_disk(disk, node, &self.terms, clock);
        }
        let config = self.terms.heal;
        n.boot(meta, config);
        self.notes.push(Note::Booted(node));
        let disks: Vec<DiskId> = n.disks.keys().copied().collect();
        self.announce_disks(node);
        self.tick(node, Who::Meta);
        for disk in disks {
            self.tick(node, Who::Disk(disk));
        }
    }

    /// A node's process stands still until then.
    pub fn pause(&mut self, node: NodeId, until: Time) {
        let of = self.paused.entry(node).or_default();
        *of = (*of).max(until);
    }

    /// Until when a node stands still, if it does.
    #[must_use]
    pub fn paused_until(&self, node: NodeId) -> Option<Time> {
        self.paused
            .get(&node)
            .copied()
            .filter(|until| *until > self.now())
    }

    /// Kills a node's process; with its power, what its disks did not sync is lost too.
    pub fn kill(&mut self, node: NodeId, power: bool) {
        self.interrupt(node);
        let seed = self.rng.bits();
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let clients: Vec<ClientId> = n
            .process
            .iter()
            .flat_map(|p| p.clients.keys().copied())
            .collect();
        n.kill(seed, power);
        self.paused.remove(&node);
        for client in clients {
            self.happenings.push(Happening::ClientEnded {
                client,
                node,
                killed: true,
            });
        }
    }

    fn arm(&mut self, node: NodeId, who: Who, due: Option<Time>) {
        let Some(due) = due else { return };
        let soonest = self.now() + TIMER_GRAIN;
        let n = self.nodes.get_mut(&node).expect("the node exists");
        // A passed deadline gets the shells' grain.
        let at = n.world_time(due).max(soonest);
        let life = n.life;
        if n.armed.hasten(who, at) {
            let timer = Event::Timer {
                node,
                life,
                who,
                at,
            };
            self.queue.plan(at, timer);
        }
    }

    fn tick(&mut self, node: NodeId, who: Who) {
        let clock = self.nodes[&node].clock(self.now());
        let Some(process) = self.nodes.get_mut(&node).and_then(|n| n.process.as_mut()) else {
            return;
        };
        match who {
            Who::Meta => {
                let mut out = std::mem::take(&mut self.meta_out);
                process.meta.tick(clock, &mut out);
                self.after_meta(node, out);
            }
            Who::Paths => {
                let mut out = Vec::new();
                process.paths.tick(clock, &mut out);
                self.after_paths(node, out);
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
            Who::Healer => {
                let mut out = Vec::new();
                process.healer.tick(clock, &mut out);
                self.after_healer(node, out);
            }
            Who::Client(id) => {
                let mut out = Vec::new();
                if let Some(client) = process.clients.get_mut(&id) {
                    client.tick(clock, &mut out);
                }
                self.after_client(node, id, out);
            }
            Who::Disk(id) => {
                let mut out = std::mem::take(&mut self.disk_out);
                let disk = self.nodes.get_mut(&node).and_then(|n| n.disks.get_mut(&id));
                let reopens = disk.as_ref().and_then(|d| d.reopen_at);
                if reopens.is_some_and(|at| at <= clock) {
                    self.disk_out = out;
                    return self.reopen_disk(node, id);
                }
                if let Some(open) = disk.and_then(|d| d.open.as_mut()) {
                    open.machine.tick(clock, &mut out);
                }
                self.after_disk(node, id, out);
            }
        }
    }
}
