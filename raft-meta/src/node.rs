//! [`MetaNode`]: everything of metadata for one node.

mod api;
mod catch_up;
mod duties;
mod known;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use model::ids::{NodeId, SiteId, Version};
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::placement::{Duty, Presence, View};
use model::spread::SlotMove;
use model::time::Time;
use model::wire;

use crate::controller::Lately;
use crate::courier::{Origin, Settled};
use crate::detector::Detector;
use crate::global::{GlobalCommand, GlobalQuery, GlobalReply, GlobalState, NodeEntry};
use crate::group::{MetaGroup, Tuning};
use crate::jitter::{Jitter, mix};
use crate::log::{LoadedLog, LogWrite};
use crate::message::{
    DISKS_PER_NODE_MAX, Feed, GroupId, HEALED_MAX, LocalDisk, MemberId, MetaMessage,
};
use crate::replica::StateMachine;
use crate::seat::{Post, Seat, SeatOut};
use crate::site::SiteState;
use crate::view;

pub use crate::message::{Beat, LocalDisk as Disk};
pub use api::{
    AdminCommand, AdminRefusal, AdminReply, AdminToken, CatchUpToken, Config, Effect, Identity,
    Input, Scope, StartError, Ticket, TokenHash,
};
use catch_up::CatchUp;

/// The ticket of the write that founds a site's group; Raft's own start at 1.
const FOUNDING_TICKET: Ticket = Ticket(0);

/// Bound of the nodes that are remembered because they called.
const CALLERS_MAX: usize = 16;

/// How far the founding of this node's site's group is.
#[derive(Clone, Debug)]
enum Founding {
    Idle,
    /// The global placement group was asked whether it may be.
    Asked,
    /// The founding write is under way.
    Writing(Box<LogWrite>),
}

/// All of one node's metadata: its member or follower of every group, who lives, and what to
/// do about it while it leads. Every node has every group's state, eventually, as
/// [`Effect::View`].
pub struct MetaNode {
    identity: Identity,
    config: Config,
    post: Post,
    global: Seat<GlobalState>,
    sites: BTreeMap<SiteId, Seat<SiteState>>,
    detector: Detector,
    lately: Lately,
    disks: Vec<LocalDisk>,
    healed: Vec<SlotMove>,
    founding: Founding,
    seed: u64,
    ticks: u64,
    last_tick: Time,
    next_tick: Time,
    view: Option<Arc<View>>,
    view_dirty: bool,
    view_due: Time,
    /// Nodes that were heard from before the global placement group was found: they know it.
    callers: BTreeSet<NodeId>,
    catching_up: BTreeMap<CatchUpToken, CatchUp>,
    /// Messages of this node to itself.
    loopback: VecDeque<MetaMessage>,
}

impl MetaNode {
    /// Founds a fabric of one node in one site: what its [`crate::RaftLog`] must write, in one
    /// batch, before [`MetaNode::start`] gets it back as the loaded logs. `pool_rows` are the
    /// rows of all pools that will ever be made.
    #[must_use]
    pub fn found(
        identity: &Identity,
        site_name: &str,
        config: &Config,
    ) -> Vec<(GroupId, LogWrite)> {
        let member = MemberId::new(identity.node, identity.directory);
        let entry = NodeEntry {
            name: identity.name.clone(),
            site: identity.site,
            address: identity.address,
            nbd: identity.nbd,
            gone: false,
            duty: Duty::Serve,
        };
        let founder = (identity.node, identity.boot);
        let global = GlobalState::new(config.pool_rows, site_name.to_owned(), founder, entry);
        let site = SiteState::new(identity.site, 0);
        vec![
            (
                GroupId::Global,
                MetaGroup::founding(member, identity.boot, global),
            ),
            (
                GroupId::Site(identity.site),
                MetaGroup::founding(member, identity.boot, site),
            ),
        ]
    }

    /// A node from its logs, as [`crate::RaftLog::load`] gave them; with none it is new, and
    /// joins through its contacts: nodes that the shell can reach. The first node of a new
    /// site then founds the site's group.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        identity: Identity,
        config: Config,
        contacts: Vec<NodeId>,
        logs: Vec<(GroupId, LoadedLog)>,
        seed: u64,
        now: Time,
    ) -> Result<Self, StartError> {
        // Shells may well give all nodes one seed: two that draw alike split every vote.
        let own = mix(u64::from(identity.node.0)) ^ mix(!identity.boot.0);
        let mut jitter = Jitter::new(mix(mix(seed) ^ own));
        let post = Post {
            node: identity.node,
            boot: identity.boot,
            member: MemberId::new(identity.node, identity.directory),
            snapshot_every: config.snapshot_every,
            request_timeout: config.request_timeout,
            contacts,
        };
        let seed = jitter.draw();
        let (mut global, mut own) = (None, None);
        for (id, log) in logs {
            if id == GroupId::Global {
                global = load(id, &post, &log, seed)?;
            } else if id == GroupId::Site(identity.site) {
                own = load(id, &post, &log, mix(seed))?;
            } else {
                return Err(StartError::Foreign(id));
            }
        }
        let own_id = GroupId::Site(identity.site);
        let own = Seat::new(own_id, &post, mix(seed), own);
        let tick = u64::try_from(config.tick.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let phase = std::time::Duration::from_nanos(jitter.below(tick));
        Ok(Self {
            global: Seat::new(GroupId::Global, &post, seed, global),
            sites: BTreeMap::from([(identity.site, own)]),
            detector: Detector::new(config.dead_after, config.up_after),
            lately: Lately::default(),
            disks: Vec::new(),
            healed: Vec::new(),
            founding: Founding::Idle,
            seed,
            ticks: 0,
            last_tick: now,
            next_tick: now + phase,
            view: None,
            view_dirty: true,
            view_due: now,
            callers: BTreeSet::new(),
            catching_up: BTreeMap::new(),
            loopback: VecDeque::new(),
            identity,
            config,
            post,
        })
    }

    /// There is a seat for every site that the global placement group knows, and no state of a
    /// founding that is over.
    fn seat_sites(&mut self) {
        let Some(global) = self.global.state() else {
            return;
        };
        for (site, seat) in &mut self.sites {
            let entry = global.sites.get(site);
            self.view_dirty |= entry.is_some_and(|e| seat.forget_others(e.founding));
        }
        let known = global
            .sites
            .iter()
            .filter(|(_, s)| s.presence != Presence::Gone);
        let unseated = known.filter(|(id, _)| !self.sites.contains_key(id));
        for site in unseated.map(|(id, _)| *id).collect::<Vec<_>>() {
            let seed = mix(self.seed ^ u64::from(site.0));
            let id = GroupId::Site(site);
            let post = &self.post;
            self.sites
                .entry(site)
                .or_insert_with(|| Seat::new(id, post, seed, None));
        }
    }

    fn message(&mut self, now: Time, from: NodeId, message: MetaMessage, out: &mut SeatOut) {
        if self.global.members().is_some() {
            self.callers.clear();
        } else if self.callers.len() < CALLERS_MAX {
            self.callers.insert(from);
        }
        let group = match &message {
            MetaMessage::Beat(_) => {
                if let MetaMessage::Beat(beat) = message {
                    self.beat(now, from, beat);
                }
                return;
            }
            MetaMessage::Raft { group, .. }
            | MetaMessage::Follow { group, .. }
            | MetaMessage::Feed { group, .. }
            | MetaMessage::Ask { group, .. }
            | MetaMessage::Answer { group, .. } => *group,
        };
        // Raft's own messages and feeds, most of all, look for nobody, and members feed.
        let seeks = match message {
            MetaMessage::Answer { .. } => true,
            MetaMessage::Follow { .. } => !self.is_member(group),
            _ => false,
        };
        if !self.is_of_founding(group, &message) {
            return;
        }
        match group {
            GroupId::Global => {
                let hints = if seeks {
                    self.global_hints()
                } else {
                    Vec::new()
                };
                deliver(&mut self.global, now, from, message, &hints, true, out);
            }
            GroupId::Site(site) => {
                let hints = if seeks { self.hints(site) } else { Vec::new() };
                // Only the groups of its own site and of the fabric may seat it.
                let may_join = site == self.identity.site;
                if let Some(seat) = self.sites.get_mut(&site) {
                    deliver(seat, now, from, message, &hints, may_join, out);
                }
            }
        }
    }

    /// A fabric is founded once: who tells of another global placement group tells of another
    /// fabric. And what is told of a site's group counts only if it is of the founding that is
    /// committed (R11): whoever knows another one knows a group that is gone.
    fn is_of_founding(&self, group: GroupId, message: &MetaMessage) -> bool {
        let MetaMessage::Feed { feed, .. } = message else {
            return true;
        };
        let founding = match feed {
            Feed::Elsewhere { .. } => return true,
            Feed::Entries { founding, .. } | Feed::Snapshot { founding, .. } => *founding,
        };
        match group {
            GroupId::Global => {
                let known = self.global.replica();
                known.is_none_or(|r| r.founding == founding)
            }
            GroupId::Site(site) => {
                let entry = self.global.state().and_then(|g| g.sites.get(&site));
                entry.is_none_or(|e| e.founding == Some(founding))
            }
        }
    }

    fn beat(&mut self, now: Time, from: NodeId, beat: Arc<Beat>) {
        let sound = beat.member.node() == from
            && beat.disks.len() <= DISKS_PER_NODE_MAX
            && beat.healed.len() <= HEALED_MAX;
        if sound && beat.name.len() <= crate::global::NAME_BYTES_MAX {
            self.detector.heard(now, from, beat);
        }
    }

    fn request(&mut self, now: Time, token: MetaToken, request: MetaRequest, out: &mut SeatOut) {
        let origin = Origin::Request(token);
        if let MetaRequest::ReadVolume { volume } = request {
            self.global
                .read(now, origin, &GlobalQuery::Volume(volume), out);
        } else {
            let (by, boot) = (self.identity.node, self.identity.boot);
            let command = GlobalCommand::Meta { by, boot, request };
            self.global.command(now, origin, &command, out);
        }
        let hints = self.global_hints();
        self.global.poll(now, &hints, out);
    }

    fn persisted(&mut self, now: Time, group: GroupId, ticket: Ticket, out: &mut SeatOut) {
        match group {
            GroupId::Global => self.global.persisted(now, ticket, out),
            GroupId::Site(site) => {
                let Some(seat) = self.sites.get_mut(&site) else {
                    return;
                };
                match std::mem::replace(&mut self.founding, Founding::Idle) {
                    Founding::Writing(write) if ticket == FOUNDING_TICKET => {
                        seat.take_seat(now, &write, out);
                    }
                    other => {
                        self.founding = other;
                        seat.persisted(now, ticket, out);
                    }
                }
            }
        }
    }

    /// Hands on what a step brought about, until this node has nothing more to tell itself.
    fn settle(&mut self, now: Time, mut step: SeatOut, out: &mut Vec<Effect>) {
        let me = self.identity.node;
        loop {
            if step.changed {
                self.view_dirty = true;
                self.seat_sites();
            }
            for (origin, settled) in step.settled.drain(..) {
                self.settled(origin, settled, out);
            }
            self.advance(now, &mut step);
            let to_itself = |e: &Effect| matches!(e, Effect::Send { to, .. } if *to == me);
            if step.effects.iter().any(to_itself) {
                for effect in step.effects.drain(..) {
                    match effect {
                        Effect::Send { to, message } if to == me => {
                            self.loopback.push_back(message);
                        }
                        other => out.push(other),
                    }
                }
            } else {
                out.append(&mut step.effects);
            }
            let Some(message) = self.loopback.pop_front() else {
                break;
            };
            step = SeatOut::default();
            self.message(now, me, message, &mut step);
        }
        self.show_view(now, out);
        self.tell_caught_up(out);
    }

    fn settled(&mut self, origin: Origin, settled: Settled, out: &mut Vec<Effect>) {
        match origin {
            Origin::CatchUp(token, group) => self.marked(token, group, settled),
            Origin::Request(token) => {
                let reply = match reply_in(settled) {
                    Some(GlobalReply::Meta(reply)) => reply,
                    _ => MetaReply::Unavailable,
                };
                out.push(Effect::Reply { token, reply });
            }
            Origin::Admin(token) => {
                let reply = match reply_in(settled) {
                    Some(GlobalReply::Admin(reply)) => reply,
                    _ => AdminReply::Unavailable,
                };
                out.push(Effect::AdminReply { token, reply });
            }
            Origin::Founding => {
                self.founding = Founding::Idle;
                let own = self.identity.site;
                let vacant = self.sites.get(&own).is_some_and(|s| !s.has_group());
                if reply_in(settled) == Some(GlobalReply::Done(true)) && vacant {
                    let entry = self.global.state().and_then(|g| g.sites.get(&own));
                    let generation = entry.map_or(0, |e| e.generation);
                    let state = SiteState::new(own, generation);
                    let write = MetaGroup::founding(self.post.member, self.identity.boot, state);
                    let group = GroupId::Site(own);
                    self.founding = Founding::Writing(Box::new(write.clone()));
                    out.push(Effect::Persist {
                        group,
                        ticket: FOUNDING_TICKET,
                        write,
                    });
                }
            }
        }
    }

    fn show_view(&mut self, now: Time, out: &mut Vec<Effect>) {
        if !self.view_dirty || now < self.view_due {
            return;
        }
        let Some(global) = self.global.state() else {
            return;
        };
        self.view_dirty = false;
        self.view_due = now + self.config.view_every;
        let sum: u64 = self.sites.values().map(|s| s.applied().0).sum();
        let computed = self.global.applied().0 << 32 | sum.min(u64::from(u32::MAX));
        // A group that was founded anew starts over; versions do not.
        let least = self.view.as_ref().map_or(0, |v| v.version.0 + 1);
        let sites = self
            .sites
            .iter()
            .filter_map(|(id, s)| Some((*id, s.state()?)))
            .collect();
        let view = Arc::new(view::build(Version(computed.max(least)), global, &sites));
        self.view = Some(Arc::clone(&view));
        out.push(Effect::View(view));
    }
}

/// The state machine's reply, if it is known.
fn reply_in(settled: Settled) -> Option<GlobalReply> {
    match settled {
        Settled::Reply(bytes) => wire::decode(&bytes).ok(),
        Settled::Unknown => None,
    }
}

fn load<S: StateMachine>(
    group: GroupId,
    post: &Post,
    log: &LoadedLog,
    seed: u64,
) -> Result<Option<MetaGroup<S>>, StartError> {
    let tuning = Tuning {
        seed,
        snapshot_every: post.snapshot_every,
    };
    match MetaGroup::load(post.member, log, tuning) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(damage) => Err(StartError::Damaged { group, damage }),
    }
}

fn deliver<S: StateMachine>(
    seat: &mut Seat<S>,
    now: Time,
    from: NodeId,
    message: MetaMessage,
    hints: &[NodeId],
    may_join: bool,
    out: &mut SeatOut,
) {
    match message {
        MetaMessage::Raft { message, .. } if may_join => seat.raft(now, from, message, out),
        MetaMessage::Follow {
            founding,
            applied,
            renew,
            ..
        } => {
            seat.followed(now, from, (founding, applied, renew), hints, out);
        }
        MetaMessage::Feed { feed, .. } => seat.fed(now, from, feed, out),
        MetaMessage::Ask { ask, .. } => seat.ask(now, from, ask, out),
        MetaMessage::Answer { answer, .. } => seat.answered(now, from, answer, hints, out),
        MetaMessage::Raft { .. } | MetaMessage::Beat(_) => {}
    }
}

impl Machine for MetaNode {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        let mut step = SeatOut::default();
        match input {
            // Nobody else speaks in this node's name.
            Input::Message { from, .. } if from == self.identity.node => return,
            Input::Message { from, message } => self.message(now, from, message, &mut step),
            Input::Persisted { group, ticket } => {
                self.persisted(now, group, ticket, &mut step);
            }
            Input::Request { token, request } => self.request(now, token, request, &mut step),
            Input::Admin { token, command } => {
                let command = GlobalCommand::Admin(command);
                self.global
                    .command(now, Origin::Admin(token), &command, &mut step);
                let hints = self.global_hints();
                self.global.poll(now, &hints, &mut step);
            }
            Input::CatchUp {
                token,
                scope,
                within,
            } => self.catch_up(now, token, (scope, within), &mut step),
            Input::LocalDisks(disks) => {
                self.disks = disks;
                self.disks.truncate(DISKS_PER_NODE_MAX);
                self.give_beat(now, &mut step);
            }
            Input::Healed(moves) => {
                self.healed = moves;
                self.healed.truncate(HEALED_MAX);
                self.give_beat(now, &mut step);
            }
        }
        self.settle(now, step, out);
    }

    fn next_deadline(&self) -> Option<Time> {
        let ready = self.view_dirty && self.global.state().is_some();
        Some(if ready {
            self.view_due.min(self.next_tick)
        } else {
            self.next_tick
        })
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        let mut step = SeatOut::default();
        if now >= self.next_tick {
            self.run_tick(now, &mut step);
        }
        self.settle(now, step, out);
    }
}
