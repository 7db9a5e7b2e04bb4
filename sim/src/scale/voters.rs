//! Nodes that run a [`MetaNode`] each, on virtual time: the voters of the global placement group,
//! and the founders of sites' groups. What they say to others goes to the [`Crowd`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use model::ids::{Epoch, NodeId, SiteId, VolumeId};
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::time::Time;
use model::wire;
use raft_meta::MetaNode;
use raft_meta::log::{HardState, LoadedLog};
use raft_meta::message::{GroupId, MetaMessage, Term};
use raft_meta::node::{Config, Effect, Input, Ticket};
use raft_meta::replica::{Replica, StateMachine};

use super::crowd::Crowd;
use super::fabric::{Fabric, first_node};
use super::gauge::timed;

/// How long a message takes within a site.
const LAN: Duration = Duration::from_micros(200);

/// How long a write of a log takes.
pub(super) const SYNC: Duration = Duration::from_millis(1);

/// A volume whose machine ended is started again after so long.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What a node's machine took of this computer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busy {
    pub(super) wall: Duration,
    /// The longest that it heard nothing.
    pub(super) longest: Duration,
    pub(super) steps: u64,
}

impl Busy {
    fn note(&mut self, took: Duration) {
        self.wall += took;
        self.longest = self.longest.max(took);
        self.steps += 1;
    }

    pub(super) fn mean(self) -> Duration {
        self.wall.div_f64(self.steps.max(1) as f64)
    }
}

struct Host {
    meta: MetaNode,
    armed: Time,
    site: SiteId,
    /// Whether it knows the global placement group; who does not only serves its site's.
    votes: bool,
    ticks: Busy,
    inputs: Busy,
}

enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        message: Box<MetaMessage>,
    },
    Persisted {
        node: NodeId,
        group: GroupId,
        ticket: Ticket,
    },
    Tick(NodeId),
    /// A claim is made once more.
    Again(NodeId, MetaToken),
    /// A node of the crowd does what it does by the clock.
    Turn(NodeId),
}

struct Due {
    at: (Time, u64),
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

pub(super) struct Voters {
    pub(super) now: Time,
    hosts: BTreeMap<NodeId, Host>,
    pub(super) crowd: Crowd,
    wan: Duration,
    queue: BinaryHeap<Reverse<Due>>,
    events: u64,
    /// Bytes of what voters sent to each other.
    pub(super) raft_bytes: u64,
    /// What voters are to claim.
    given: BTreeMap<MetaToken, (VolumeId, Epoch)>,
    /// Volumes that voters claimed.
    claimed: u64,
    /// Claims of voters that were answered with nothing.
    pub(super) unavailable: u64,
}

/// What a node finds of a group when it starts.
pub(super) fn loaded<S: StateMachine>(replica: &Replica<S>) -> LoadedLog {
    LoadedLog {
        snapshot: Some(replica.snapshot()),
        entries: Vec::new(),
        hard: HardState {
            term: Term(1),
            vote: None,
            commit: replica.applied,
        },
    }
}

/// Whose business it is; signs of life are most of all the global placement group's.
fn group(message: &MetaMessage) -> GroupId {
    match message {
        MetaMessage::Beat(_) => GroupId::Global,
        MetaMessage::Raft { group, .. }
        | MetaMessage::Follow { group, .. }
        | MetaMessage::Feed { group, .. }
        | MetaMessage::Ask { group, .. }
        | MetaMessage::Answer { group, .. } => *group,
    }
}

impl Voters {
    /// Every voter, and every site's founder, starts from its logs.
    pub(super) fn start(fabric: &Fabric, now: Time) -> Self {
        let global = loaded(&fabric.global.replica);
        let mut voters = Self {
            now,
            hosts: BTreeMap::new(),
            crowd: Crowd::new(fabric),
            wan: fabric.size.wan_one_way,
            queue: BinaryHeap::new(),
            events: 0,
            raft_bytes: 0,
            given: BTreeMap::new(),
            claimed: 0,
            unavailable: 0,
        };
        for (site, group) in &fabric.sites {
            let node = first_node(&fabric.size, site.0 - 1);
            let votes = fabric.global.replica.members.voter_nodes().contains(&node);
            let mut logs = vec![(GroupId::Site(*site), loaded(&group.replica))];
            logs.extend(votes.then(|| (GroupId::Global, global.clone())));
            let (identity, config) = (fabric.identity(node), Config::default());
            let seed = fabric.size.seed;
            let meta = MetaNode::start(identity, config, Vec::new(), logs, seed, now);
            let host = Host {
                meta: meta.expect("its own logs"),
                armed: now,
                site: *site,
                votes,
                ticks: Busy::default(),
                inputs: Busy::default(),
            };
            voters.hosts.insert(node, host);
            voters.input(node, Input::LocalDisks(fabric.disks_of(node)));
        }
        for (nth, node) in (0..).zip(voters.crowd.nodes()) {
            // Not all in one moment.
            let at = now + Duration::from_micros(199 * (nth % 1000));
            voters.push(at, Event::Turn(node));
        }
        voters
    }

    /// The leader of the global placement group.
    pub(super) fn leader(&self) -> Option<NodeId> {
        let leads = |(_, host): &(&NodeId, &Host)| host.meta.is_leader(GroupId::Global);
        self.hosts.iter().find(leads).map(|(node, _)| *node)
    }

    pub(super) fn meta(&self, node: NodeId) -> &MetaNode {
        &self.hosts[&node].meta
    }

    /// What a node's ticks, and all else, took since this was asked last.
    pub(super) fn take_busy(&mut self, node: NodeId) -> (Busy, Busy) {
        let host = self.hosts.get_mut(&node).expect("it runs");
        (
            std::mem::take(&mut host.ticks),
            std::mem::take(&mut host.inputs),
        )
    }

    /// A whole site loses power.
    pub(super) fn kill(&mut self, site: SiteId) {
        self.hosts.retain(|_, host| host.site != site);
        self.crowd.kill(site);
    }

    /// A node was given these: it claims them.
    pub(super) fn give(&mut self, node: NodeId, volumes: Vec<(VolumeId, Epoch)>) {
        if !self.hosts.get(&node).is_some_and(|host| host.votes) {
            self.crowd.give(node, volumes);
            return;
        }
        for (volume, expected) in volumes {
            let token = MetaToken(u64::from(volume.0));
            self.given.insert(token, (volume, expected));
            self.claim(node, token);
        }
    }

    fn claim(&mut self, node: NodeId, token: MetaToken) {
        let (volume, expected) = self.given[&token];
        let request = MetaRequest::Claim {
            volume,
            expected,
            node,
            found_on: None,
        };
        self.input(node, Input::Request { token, request });
    }

    /// Nobody knows whether it was carried out: its volume's machine ends, and is started again.
    fn replied(&mut self, node: NodeId, token: MetaToken, reply: &MetaReply) {
        if *reply == MetaReply::Unavailable {
            self.unavailable += 1;
            self.push(self.now + RESTART_PAUSE, Event::Again(node, token));
        } else if self.given.remove(&token).is_some() {
            // A refusal says that an earlier one was carried out.
            self.claimed += 1;
        }
    }

    /// Volumes that were claimed.
    pub(super) fn claimed(&self) -> u64 {
        self.claimed + self.crowd.claimed
    }

    fn push(&mut self, at: Time, event: Event) {
        self.events += 1;
        let at = (at, self.events);
        self.queue.push(Reverse(Due { at, event }));
    }

    fn input(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        let mut out = Vec::new();
        let ((), took) = timed(|| host.meta.handle(now, input, &mut out));
        host.inputs.note(took);
        self.carry_out(node, out);
    }

    fn tick(&mut self, node: NodeId) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node).filter(|h| h.armed == now) else {
            return;
        };
        let mut out = Vec::new();
        let ((), took) = timed(|| host.meta.tick(now, &mut out));
        host.ticks.note(took);
        self.carry_out(node, out);
    }

    fn carry_out(&mut self, node: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send(node, to, message),
                Effect::Persist { group, ticket, .. } => {
                    let at = self.now + SYNC;
                    let event = Event::Persisted {
                        node,
                        group,
                        ticket,
                    };
                    self.push(at, event);
                }
                Effect::Reply { token, reply } => self.replied(node, token, &reply),
                // Nobody reads these here.
                Effect::AdminReply { .. }
                | Effect::View(_)
                | Effect::CaughtUp { .. }
                | Effect::Unreadable { .. } => {}
            }
        }
        let host = self.hosts.get_mut(&node).expect("it did this");
        let due = host.meta.next_deadline().expect("it always ticks");
        let due = due.max(self.now + Duration::from_nanos(1));
        if due != host.armed {
            host.armed = due;
            self.push(due, Event::Tick(node));
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: MetaMessage) {
        let votes = self.hosts.get(&from).is_some_and(|host| host.votes);
        if !votes && group(&message) == GroupId::Global {
            // The crowd speaks for it.
            return;
        }
        if let MetaMessage::Raft { group, message } = &message
            && *group == GroupId::Global
        {
            self.raft_bytes += wire::encoded_len(message) as u64;
        }
        self.post(from, to, message);
    }

    /// Goes on for so long.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self
            .queue
            .peek()
            .is_some_and(|Reverse(due)| due.at.0 <= end)
        {
            self.step();
        }
        self.now = end;
    }

    /// Goes on until it is so, at most for so long; how long that took.
    pub(super) fn until(
        &mut self,
        most: Duration,
        is_so: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let begun = self.now;
        while !is_so(self) {
            if self.now.since(begun) > most {
                return None;
            }
            self.step();
        }
        Some(self.now.since(begun))
    }

    fn step(&mut self) {
        let Reverse(Due { at, event }) = self.queue.pop().expect("somebody always ticks");
        self.now = at.0;
        match event {
            Event::Tick(node) => self.tick(node),
            Event::Again(node, token) => self.claim(node, token),
            Event::Persisted {
                node,
                group,
                ticket,
            } => self.input(node, Input::Persisted { group, ticket }),
            Event::Deliver { from, to, message } => {
                let group = group(&message);
                let host = self.hosts.get(&to);
                if host.is_some_and(|host| host.votes || group != GroupId::Global) {
                    let message = *message;
                    self.input(to, Input::Message { from, message });
                } else {
                    let sends = self.crowd.hear(self.now, to, from, *message);
                    self.send_all(to, sends);
                }
            }
            Event::Turn(node) => {
                let voters: Vec<NodeId> = self
                    .hosts
                    .iter()
                    .filter(|(_, h)| h.votes)
                    .map(|(n, _)| *n)
                    .collect();
                let leader = self.leader();
                let (sends, next) = self.crowd.turn(self.now, node, &voters, leader);
                self.send_all(node, sends);
                if let Some(next) = next {
                    self.push(next, Event::Turn(node));
                }
            }
        }
    }

    /// What the crowd says, also for founders that know no leader.
    fn send_all(&mut self, from: NodeId, sends: Vec<(NodeId, MetaMessage)>) {
        for (to, message) in sends {
            self.post(from, to, message);
        }
    }

    fn post(&mut self, from: NodeId, to: NodeId, message: MetaMessage) {
        let takes = match self.crowd.site(from) == self.crowd.site(to) {
            true => LAN,
            false => self.wan,
        };
        let event = Event::Deliver {
            from,
            to,
            message: Box::new(message),
        };
        self.push(self.now + takes, event);
    }
}
