//! One site's group under its own leader: disks and nodes are lost and added, its controller moves
//! slots, and what has come is reported. Fragments are elided: a move takes as long as its slot's
//! bytes do at the pace of its node's repair, one after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::geometry::Pool;
use model::ids::{DiskRef, Incarnation, NodeId, Row, SiteId, Slot};
use model::machine::Machine;
use model::placement::DiskHealth;
use model::spread::SlotMove;
use model::time::Time;
use raft_meta::MetaNode;
use raft_meta::message::{Beat, GroupId, HEALED_MAX, LocalDisk, Members, MetaMessage};
use raft_meta::node::{AdminCommand, AdminReply, AdminToken, Config, Effect, Identity, Input};
use raft_meta::site::SiteState;

use super::Size;
use super::fabric::{Fabric, POOL, address, beat, boot, member};
use super::gauge::timed;
use super::placement::{crowded_rows, held};
use super::report::{Report, Section, Value};
use super::voters::loaded;

/// Ticks in which all that can be begun is.
const ROUND_TICKS: u32 = 12;

/// Ticks between signs of life.
const BEAT_TICKS: u32 = 4;

/// After so many rounds in which nothing is under way, it is over.
const QUIET_ROUNDS: u32 = 3;

const SITE: SiteId = SiteId(1);

/// What happens to a site of its own.
enum Change {
    LoseDisk,
    LoseNode,
    AddDisk,
    AddNode,
}

pub(super) fn measure(fabric: &Fabric, report: &mut Report, tell: &mut dyn FnMut(&str)) {
    let per_node = fabric.size.disks_per_node();
    let changes = [
        ("lose-disk", "A disk is lost".to_owned(), Change::LoseDisk),
        (
            "lose-node",
            format!("A node with {per_node} disks is lost"),
            Change::LoseNode,
        ),
        ("add-disk", "A disk is added".to_owned(), Change::AddDisk),
        (
            "add-node",
            format!("A node with {per_node} disks is added"),
            Change::AddNode,
        ),
    ];
    for (key, title, change) in changes {
        tell(&title);
        report.add(Site::start(fabric).undergo(key, &title, &change));
    }
}

type Place = (Pool, Row, Slot);

struct Job {
    over: Time,
    done: SlotMove,
    node: NodeId,
}

struct Site {
    size: Size,
    slot_bytes: u64,
    meta: MetaNode,
    now: Time,
    beats: BTreeMap<NodeId, Beat>,
    /// Moves under way.
    jobs: BTreeMap<Place, Job>,
    /// When each node's repair is through with what it has.
    free: BTreeMap<NodeId, Time>,
    replies: BTreeMap<AdminToken, AdminReply>,
    asked: u64,
    moved: usize,
    moved_bytes: u64,
    longest_tick: Duration,
    last_over: Time,
    receivers: BTreeSet<NodeId>,
}

impl Site {
    /// The site's founder is the only voter of both groups.
    fn start(fabric: &Fabric) -> Self {
        let node = NodeId(1);
        let mut global = fabric.global.replica.clone();
        global.members = Members::of_voters(vec![member(node)]);
        let logs = vec![
            (GroupId::Global, loaded(&global)),
            (GroupId::Site(SITE), loaded(&fabric.sites[&SITE].replica)),
        ];
        let now = Time(1_000_000_000);
        let (identity, config) = (fabric.identity(node), Config::default());
        let seed = fabric.size.seed;
        let meta = MetaNode::start(identity, config, Vec::new(), logs, seed, now);
        let nodes = global.state().nodes.keys();
        let mut site = Self {
            size: fabric.size.clone(),
            slot_bytes: fabric.slot_bytes(),
            meta: meta.expect("its own logs"),
            now,
            beats: nodes.map(|n| (*n, fabric.beat(*n))).collect(),
            jobs: BTreeMap::new(),
            free: BTreeMap::new(),
            replies: BTreeMap::new(),
            asked: 0,
            moved: 0,
            moved_bytes: 0,
            longest_tick: Duration::ZERO,
            last_over: now,
            receivers: BTreeSet::new(),
        };
        for _ in 0..QUIET_ROUNDS {
            site.round();
        }
        assert!(site.meta.is_leader(GroupId::Site(SITE)), "it is alone");
        assert!(
            site.jobs.is_empty(),
            "slots are given out so that no move pays"
        );
        site
    }

    fn state(&self) -> &SiteState {
        self.meta.site(SITE).expect("it is a member")
    }

    fn undergo(mut self, key: &'static str, title: &str, change: &Change) -> Section {
        let mut section = Section::new(
            key,
            format!("{title}, of {} in its site", self.state().disks.len()),
        );
        let before = held(self.state());
        let begun = self.now;
        self.longest_tick = Duration::ZERO;
        let least = match change {
            Change::LoseDisk => {
                let at = self.victim();
                self.lose_disk(at);
                before[&at]
            }
            Change::LoseNode => self.lose_node(),
            Change::AddDisk => {
                self.add_disk(NodeId(2));
                self.share(&before, 1)
            }
            Change::AddNode => {
                self.add_node();
                self.share(&before, u64::from(self.size.disks_per_node()))
            }
        };
        self.settle();
        section.put(
            "least",
            "slots that must move, or would make it even",
            Value::Count(least),
        );
        section.count("moved", "slots that move", self.moved);
        section.put("bytes", "bytes that move", Value::Bytes(self.moved_bytes));
        section.count("receivers", "nodes that they go to", self.receivers.len());
        let took = self.last_over.since(begun);
        section.put("time", "till all is where it belongs", Value::Virtual(took));
        let crowded = crowded_rows(self.state(), POOL);
        section.count(
            "crowded",
            "rows that are not on nodes of their own then",
            crowded,
        );
        let after = held(self.state());
        let serves = |at: &DiskRef| {
            self.beats
                .values()
                .any(|b| b.disks.iter().any(|d| d.at == *at))
        };
        let most = after
            .iter()
            .filter(|(at, _)| serves(at))
            .map(|(_, n)| *n)
            .max();
        section.put(
            "most",
            "slots of the fullest disk then",
            Value::Count(most.unwrap_or(0)),
        );
        section.put(
            "tick-longest",
            "longest tick of the leader",
            Value::Wall(self.longest_tick),
        );
        section
    }

    /// What disks that are added get, if all hold the same.
    fn share(&self, before: &BTreeMap<DiskRef, u64>, added: u64) -> u64 {
        let slots: u64 = before.values().sum();
        slots * added / (before.len() as u64 + added)
    }

    /// A disk that holds as much as any, and is not the leader's.
    fn victim(&self) -> DiskRef {
        let held = held(self.state());
        let others = held
            .iter()
            .filter(|(at, _)| self.state().disks[&at.disk].node != NodeId(1));
        let fullest = others.max_by_key(|(at, slots)| (**slots, **at));
        *fullest.expect("there are other disks").0
    }

    fn lose_disk(&mut self, at: DiskRef) {
        for beat in self.beats.values_mut() {
            beat.disks.retain(|disk| disk.at != at);
        }
        let (disk, lost) = (at.disk, true);
        let reply = self.admin(AdminCommand::RemoveDisk { disk, lost });
        assert_eq!(reply, AdminReply::Done);
    }

    fn lose_node(&mut self) -> u64 {
        let at = self.victim();
        let node = self.state().disks[&at.disk].node;
        let before = held(self.state());
        let of_node = |at: &DiskRef| self.state().disks[&at.disk].node == node;
        let slots = before
            .iter()
            .filter(|(at, _)| of_node(at))
            .map(|(_, n)| n)
            .sum();
        self.beats.remove(&node);
        let reply = self.admin(AdminCommand::RemoveNode { node });
        assert_eq!(reply, AdminReply::Done);
        slots
    }

    fn add_disk(&mut self, node: NodeId) {
        let incarnation = Incarnation(model::mix(self.size.seed ^ self.asked));
        let reply = self.admin(AdminCommand::AddDisk { node, incarnation });
        let AdminReply::Disk(at) = reply else {
            panic!("there is room for a disk: {reply:?}");
        };
        let disk = LocalDisk {
            at,
            capacity_bytes: self.size.disk_bytes,
            has_room: true,
            health: DiskHealth::default(),
        };
        let beat = self.beats.get_mut(&node).expect("it gives signs of life");
        beat.disks.push(disk);
    }

    fn add_node(&mut self) {
        let node = NodeId(self.size.nodes + 1);
        let identity = Identity {
            node,
            boot: boot(node),
            directory: Incarnation(1),
            name: "added".to_owned(),
            site: SITE,
            address: address(node),
            nbd: address(node),
        };
        let command = AdminCommand::AddNode {
            site: SITE,
            name: identity.name.clone(),
            address: identity.address,
            nbd: identity.nbd,
        };
        assert_eq!(self.admin(command), AdminReply::Node(node));
        self.beats.insert(node, beat(identity, Vec::new()));
        for _ in 0..self.size.disks_per_node() {
            self.add_disk(node);
        }
    }

    fn admin(&mut self, command: AdminCommand) -> AdminReply {
        self.asked += 1;
        let token = AdminToken(self.asked);
        self.handle(Input::Admin { token, command });
        for _ in 0..QUIET_ROUNDS {
            if let Some(reply) = self.replies.remove(&token) {
                return reply;
            }
            self.round();
        }
        panic!("a leader that is alone answers at once");
    }

    fn handle(&mut self, input: Input) {
        let mut out = Vec::new();
        self.meta.handle(self.now, input, &mut out);
        self.carry_out(out);
    }

    /// Writes are durable at once; nobody else is there to hear anything.
    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Persist { group, ticket, .. } => {
                    let mut out = Vec::new();
                    let written = Input::Persisted { group, ticket };
                    self.meta.handle(self.now, written, &mut out);
                    effects.extend(out);
                }
                Effect::AdminReply { token, reply } => {
                    self.replies.insert(token, reply);
                }
                Effect::Send { .. }
                | Effect::Reply { .. }
                | Effect::View(_)
                | Effect::CaughtUp { .. }
                | Effect::Unreadable { .. } => {}
            }
        }
    }

    fn round(&mut self) {
        for tick in 0..ROUND_TICKS {
            if tick.is_multiple_of(BEAT_TICKS) {
                self.give_beats();
            }
            let due = self.meta.next_deadline().expect("it always ticks");
            self.now = self.now.max(due);
            let mut out = Vec::new();
            let ((), took) = timed(|| self.meta.tick(self.now, &mut out));
            self.longest_tick = self.longest_tick.max(took);
            self.carry_out(out);
        }
        self.note_moves();
    }

    fn give_beats(&mut self) {
        let beats: Vec<(NodeId, Beat)> = self.beats.iter().map(|(n, b)| (*n, b.clone())).collect();
        for (from, beat) in beats {
            if from == NodeId(1) {
                self.handle(Input::LocalDisks(beat.disks));
                self.handle(Input::Healed(beat.healed));
            } else {
                let message = MetaMessage::Beat(Arc::new(beat));
                self.handle(Input::Message { from, message });
            }
        }
    }

    /// Moves that were begun take their time.
    fn note_moves(&mut self) {
        let mut begun = Vec::new();
        for (pool, table) in &self.state().slots {
            for (row, slots) in (0..).map(Row).zip(table) {
                for (slot, at) in slots {
                    let place = (*pool, row, *slot);
                    if let Some(to) = at.to.filter(|_| !self.jobs.contains_key(&place)) {
                        begun.push((place, to, at.version));
                    }
                }
            }
        }
        for ((pool, row, slot), to, version) in begun {
            let node = self.state().disks[&to.disk].node;
            // The index's pool is small: a page of 4 KiB a MiB.
            let bytes = if pool == POOL { self.slot_bytes } else { 0 };
            let pace = self.size.repair_bytes_per_s as f64;
            let free = self.free.entry(node).or_insert(self.now);
            *free = (*free).max(self.now) + Duration::from_secs_f64(bytes as f64 / pace);
            let done = SlotMove {
                pool,
                row,
                slot,
                version,
                to,
            };
            let over = *free;
            self.jobs
                .insert((pool, row, slot), Job { over, done, node });
            self.moved += usize::from(pool == POOL);
            self.moved_bytes += bytes;
            if pool == POOL {
                self.receivers.insert(node);
                self.last_over = self.last_over.max(over);
            }
        }
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < QUIET_ROUNDS {
            self.round();
            quiet = if self.jobs.is_empty() { quiet + 1 } else { 0 };
            let Some(next) = self.jobs.values().map(|job| job.over).min() else {
                continue;
            };
            self.now = self.now.max(next);
            self.report_done();
        }
    }

    /// What is over is told until its entry is there.
    fn report_done(&mut self) {
        let over = self.jobs.values().filter(|job| job.over <= self.now);
        let mut told: BTreeMap<NodeId, Vec<SlotMove>> = BTreeMap::new();
        for job in over {
            let of_node = told.entry(job.node).or_default();
            if of_node.len() < HEALED_MAX {
                of_node.push(job.done);
            }
        }
        for (node, healed) in told {
            self.beats.get_mut(&node).expect("it serves").healed = healed;
        }
        self.round();
        for beat in self.beats.values_mut() {
            beat.healed.clear();
        }
        let meta = &self.meta;
        let state = meta.site(SITE).expect("it is a member");
        self.jobs.retain(|(pool, row, slot), job| {
            let at = state.slot(*pool, *row, *slot);
            at.is_some_and(|at| at.to == Some(job.done.to) && at.version == job.done.version)
        });
    }
}
