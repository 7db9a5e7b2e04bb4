//! One group as one node sees it, member or not: the member behind Raft if it is one, the
//! follower if not, and both sides of asking.

use std::time::Duration;

use model::ids::{Boot, NodeId};
use model::time::Time;
use model::wire::{self, WireError};

use crate::courier::{Courier, Origin, Settled};
use crate::desk::Desk;
use crate::follower::{Feeder, Follower};
use crate::group::{GroupEffect, MetaGroup, Tuning};
use crate::guard::Refused;
use crate::log::{LoadedLog, LogWrite};
use crate::message::{
    Answer, Ask, Feed, GroupId, LogIndex, MemberId, MemberStep, Members, MetaMessage, RaftMessage,
    Term,
};
use crate::node::{Effect, Ticket};
use crate::replica::{Mark, Proposal, Question, Replica, StateMachine};

/// A member that heard no leader for so long, or none since it was started, also follows: it may
/// have been removed while it was away, and nobody tells it.
const ORPHANED_AFTER: Duration = Duration::from_secs(3);

/// What all seats of a node share.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) node: NodeId,
    pub(crate) boot: Boot,
    pub(crate) member: MemberId,
    pub(crate) snapshot_every: u64,
    pub(crate) request_timeout: Duration,
    /// Nodes to ask while no group's members are known.
    pub(crate) contacts: Vec<NodeId>,
}

/// What a seat's step brings about.
#[derive(Debug, Default)]
pub(crate) struct SeatOut {
    /// For the shell, or for this node itself.
    pub(crate) effects: Vec<Effect>,
    /// Asks of this node that are settled.
    pub(crate) settled: Vec<(Origin, Settled)>,
    /// Whether the state changed.
    pub(crate) changed: bool,
}

impl SeatOut {
    pub(crate) fn send(&mut self, to: NodeId, message: MetaMessage) {
        self.effects.push(Effect::Send { to, message });
    }
}

pub(crate) struct Seat<S: StateMachine> {
    id: GroupId,
    post: Post,
    seed: u64,
    group: Option<MetaGroup<S>>,
    follower: Follower<S>,
    feeder: Feeder,
    desk: Desk,
    courier: Courier,
    /// The term that this member leads, as the desk knows it.
    leading: Option<Term>,
    /// When it last had a leader as a member.
    led_at: Option<Time>,
    /// Where the last snapshot reaches that was told of as unreadable.
    unreadable: Option<LogIndex>,
    scratch: Vec<GroupEffect>,
}

impl<S: StateMachine> Seat<S> {
    pub(crate) fn new(id: GroupId, post: &Post, seed: u64, group: Option<MetaGroup<S>>) -> Self {
        Self {
            id,
            post: post.clone(),
            seed,
            group,
            follower: Follower::new(),
            feeder: Feeder::default(),
            desk: Desk::default(),
            courier: Courier::new(post.boot),
            leading: None,
            led_at: None,
            unreadable: None,
            scratch: Vec::new(),
        }
    }

    fn member_replica(&self) -> Option<&Replica<S>> {
        self.group.as_ref()?.replica()
    }

    /// The newest state that this node has of the group.
    pub(crate) fn replica(&self) -> Option<&Replica<S>> {
        match (self.member_replica(), self.follower.replica()) {
            (Some(m), Some(f)) if f.applied > m.applied => Some(f),
            (Some(m), _) => Some(m),
            (None, f) => f,
        }
    }

    pub(crate) fn state(&self) -> Option<&S> {
        self.replica().map(Replica::state)
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.replica().map_or(LogIndex(0), |r| r.applied)
    }

    pub(crate) fn members(&self) -> Option<&Members> {
        self.replica().map(|r| &r.members)
    }

    /// Whether this node is a member by the newest that it knows.
    pub(crate) fn is_member(&self) -> bool {
        let known = self.members().is_some_and(|m| m.contains(self.post.member));
        known && self.member_replica().is_some()
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.group.as_ref().is_some_and(MetaGroup::is_leader)
    }

    pub(crate) fn term(&self) -> Option<Term> {
        self.group.as_ref().map(MetaGroup::term)
    }

    /// Whether a group instance exists here, be it empty.
    pub(crate) fn has_group(&self) -> bool {
        self.group.is_some()
    }

    /// The leader's node, as far as known.
    pub(crate) fn leader(&self, now: Time) -> Option<NodeId> {
        let group = self.group.as_ref().filter(|_| self.is_member());
        let of_member = group.and_then(MetaGroup::leader).map(MemberId::node);
        of_member.or_else(|| self.follower.leader(now))
    }

    /// Drops what was followed of another founding; true if there was something.
    pub(crate) fn forget_others(&mut self, founding: Option<Boot>) -> bool {
        let followed = self.follower.replica().map(|r| r.founding);
        let is_over = followed.is_some() && followed != founding;
        if is_over {
            self.follower.drop_replica();
        }
        is_over
    }

    pub(crate) fn caught_up(&self, member: MemberId) -> bool {
        self.group.as_ref().is_some_and(|g| g.caught_up(member))
    }

    /// Whom to ask, the likeliest first. `hints` are what other groups know of this one.
    fn sources(&self, now: Time, hints: &[NodeId]) -> Vec<NodeId> {
        let mut out: Vec<NodeId> = self.leader(now).into_iter().collect();
        let known = self.members().map(Members::voter_nodes).unwrap_or_default();
        let more = known.iter().chain(hints).chain(self.follower.hints());
        let unknown = known.is_empty() && (hints.is_empty() || self.id == GroupId::Global);
        let last_resort = if unknown { &*self.post.contacts } else { &[] };
        for node in more.chain(last_resort) {
            if !out.contains(node) {
                out.push(*node);
            }
        }
        out
    }

    /// Takes on a command of this node; exactly once, within the request's time.
    pub(crate) fn command(
        &mut self,
        now: Time,
        origin: Origin,
        command: &S::Command,
        out: &mut SeatOut,
    ) {
        let within = self.post.request_timeout;
        if !self
            .courier
            .command(now, within, origin, wire::encode(command))
        {
            out.settled.push((origin, Settled::Unknown));
        }
    }

    /// Takes on a linearizable read of this node.
    pub(crate) fn read(&mut self, now: Time, origin: Origin, query: &S::Query, out: &mut SeatOut) {
        let within = self.post.request_timeout;
        let question = wire::encode(&Question::State(query));
        if !self.courier.read(now, within, origin, question) {
            out.settled.push((origin, Settled::Unknown));
        }
    }

    /// Asks how far the group is now; false if it can't be asked.
    pub(crate) fn mark(&mut self, now: Time, within: Duration, origin: Origin) -> bool {
        let question = wire::encode(&Question::<S::Query>::Mark);
        self.courier.read(now, within, origin, question)
    }

    /// Whether this node knows all that was decided when a mark was given. One of another founding
    /// says nothing of what it has.
    pub(crate) fn has_reached(&self, mark: Mark) -> bool {
        self.replica()
            .is_some_and(|r| r.founding == mark.founding && r.applied >= mark.applied)
    }

    /// Sends out what is due of this node's asks.
    pub(crate) fn poll(&mut self, now: Time, hints: &[NodeId], out: &mut SeatOut) {
        if self.courier.is_idle() {
            return;
        }
        let sources = self.sources(now, hints);
        let mut asks = Vec::new();
        self.courier.poll(now, &sources, &mut asks);
        let group = self.id;
        for (to, ask) in asks {
            out.send(to, MetaMessage::Ask { group, ask });
        }
    }

    /// On a leader: proposes a decision of its own.
    pub(crate) fn decide(&mut self, command: &S::Command) -> bool {
        let proposal = Proposal::Decision {
            command: wire::encode(command),
        };
        self.group
            .as_mut()
            .is_some_and(|g| g.propose(&proposal).is_ok())
    }

    /// On a leader: proposes a membership step.
    pub(crate) fn step_members(&mut self, step: &MemberStep) -> bool {
        self.group
            .as_mut()
            .is_some_and(|g| g.propose_step(step).is_ok())
    }

    /// On a leader: hands over to another voter.
    pub(crate) fn hand_over(&mut self, to: MemberId) {
        if let Some(group) = &mut self.group {
            group.hand_over(to);
        }
    }

    /// Whether a tick may look for somebody to ask: only then do hints matter to it. Most
    /// ticks are idle, and there is one seat a site.
    pub(crate) fn seeks(&self, now: Time) -> bool {
        let follows = self.follower.is_due(now) && self.follower.lacks_source(now);
        follows || !self.courier.is_idle()
    }

    pub(crate) fn tick(&mut self, now: Time, hints: &[NodeId], out: &mut SeatOut) {
        self.courier.expire(now, &mut out.settled);
        let takes_part = self.members().is_none_or(|m| m.contains(self.post.member));
        if let Some(group) = &mut self.group {
            // A removed member that was not told must not stand for election.
            if takes_part {
                group.tick();
            }
            if group.leader().is_some() {
                self.led_at = Some(now);
            }
        }
        self.pump(now, out);
        self.follow(now, hints, out);
        self.poll(now, hints, out);
    }

    fn follow(&mut self, now: Time, hints: &[NodeId], out: &mut SeatOut) {
        let is_led = self.led_at.is_some_and(|at| now.since(at) < ORPHANED_AFTER);
        if self.is_member() && is_led {
            let held = self.member_replica().map(|r| r.applied);
            if self
                .follower
                .replica()
                .is_some_and(|f| Some(f.applied) <= held)
            {
                self.follower.drop_replica();
            }
            return;
        }
        if self.follower.replica().is_none()
            && let Some(replica) = self.member_replica().cloned()
        {
            self.follower.adopt(replica);
        }
        if !self.follower.is_due(now) {
            return;
        }
        let sources = match self.follower.lacks_source(now) {
            true => self.sources_to_follow(now, hints),
            false => Vec::new(),
        };
        let mut sends = Vec::new();
        self.follower.poll(now, self.id, &sources, &mut sends);
        for (to, message) in sends {
            out.send(to, message);
        }
    }

    fn sources_to_follow(&self, now: Time, hints: &[NodeId]) -> Vec<NodeId> {
        let mut sources = self.sources(now, hints);
        sources.retain(|n| *n != self.post.node);
        if sources.is_empty() {
            sources = self.post.contacts.clone();
            sources.retain(|n| *n != self.post.node);
        }
        sources
    }

    /// A Raft message. A member that is to be starts from nothing, by the leader's snapshot.
    pub(crate) fn raft(
        &mut self,
        now: Time,
        from: NodeId,
        message: RaftMessage,
        out: &mut SeatOut,
    ) {
        if self.group.is_none() && message.to == self.post.member && message.from.node() == from {
            let tuning = Tuning {
                seed: self.seed,
                snapshot_every: self.post.snapshot_every,
            };
            let fresh = MetaGroup::load(self.post.member, &LoadedLog::default(), tuning);
            self.group = fresh.ok();
        }
        if let Some(group) = &mut self.group {
            let snapshot = message.snapshot.as_ref().map(|s| (s.index, s.state.len()));
            // A refused message is dropped: its sender is at fault, or late.
            let received = group.receive(from, message);
            if let (Err(Refused::Malformed), Some((index, bytes))) = (received, snapshot) {
                self.note_unreadable(from, index, bytes, out);
            }
        }
        self.pump(now, out);
    }

    /// It comes again, many times a second.
    fn note_unreadable(&mut self, from: NodeId, index: LogIndex, bytes: usize, out: &mut SeatOut) {
        if self.unreadable.replace(index) != Some(index) {
            out.effects.push(Effect::Unreadable {
                group: self.id,
                from,
                index,
                bytes,
            });
        }
    }

    pub(crate) fn ask(&mut self, now: Time, from: NodeId, ask: Ask, out: &mut SeatOut) {
        self.note_leadership();
        let answer = match &mut self.group {
            Some(group) => self.desk.ask(group, from, ask),
            None => Some(self.redirect(now)),
        };
        let group = self.id;
        if let Some(answer) = answer {
            let answer = match answer {
                Answer::Redirect { leader: None, .. } => self.redirect(now),
                known => known,
            };
            out.send(from, MetaMessage::Answer { group, answer });
        }
        self.pump(now, out);
    }

    fn redirect(&self, now: Time) -> Answer {
        let leader = self.leader(now).filter(|n| *n != self.post.node);
        Answer::Redirect {
            leader,
            members: self.sources(now, &[]),
        }
    }

    pub(crate) fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        answer: Answer,
        hints: &[NodeId],
        out: &mut SeatOut,
    ) {
        self.courier.answered(now, from, answer, &mut out.settled);
        self.poll(now, hints, out);
    }

    pub(crate) fn followed(
        &mut self,
        now: Time,
        from: NodeId,
        (founding, applied, renew): (Option<Boot>, LogIndex, bool),
        hints: &[NodeId],
        out: &mut SeatOut,
    ) {
        let feed = match &self.group {
            Some(group) if self.is_member() => self
                .feeder
                .follow(now, group, from, founding, applied, renew),
            _ => {
                let mut members = self.sources(now, hints);
                members.retain(|n| *n != from && *n != self.post.node);
                self.relay(from, founding, applied, out);
                Some(Feed::Elsewhere { members })
            }
        };
        let group = self.id;
        if let Some(feed) = feed {
            out.send(from, MetaMessage::Feed { group, feed });
        }
    }

    /// Tells what this node knows though it is no member: all members may be away.
    fn relay(&self, to: NodeId, founding: Option<Boot>, applied: LogIndex, out: &mut SeatOut) {
        let Some(replica) = self.replica() else {
            return;
        };
        let lacks = founding.is_none() || applied < replica.applied;
        if lacks {
            let founding = replica.founding;
            let feed = Feed::Snapshot {
                founding,
                snapshot: replica.snapshot(),
                leader: None,
            };
            out.send(
                to,
                MetaMessage::Feed {
                    group: self.id,
                    feed,
                },
            );
        }
    }

    pub(crate) fn fed(&mut self, now: Time, from: NodeId, feed: Feed, out: &mut SeatOut) {
        let mut sends = Vec::new();
        let before = self.applied();
        let snapshot = match &feed {
            Feed::Snapshot { snapshot, .. } => Some((snapshot.index, snapshot.state.len())),
            Feed::Elsewhere { .. } | Feed::Entries { .. } => None,
        };
        let fed = self.follower.feed(now, self.id, from, feed, &mut sends);
        if let (Err(WireError::Malformed), Some((index, bytes))) = (fed, snapshot) {
            self.note_unreadable(from, index, bytes, out);
        }
        out.changed |= self.applied() != before;
        for (to, message) in sends {
            out.send(to, message);
        }
    }

    pub(crate) fn persisted(&mut self, now: Time, ticket: Ticket, out: &mut SeatOut) {
        if let Some(group) = &mut self.group {
            let mut effects = std::mem::take(&mut self.scratch);
            group.persisted(ticket, &mut effects);
            self.carry_out(&mut effects, out);
            self.scratch = effects;
        }
        self.pump(now, out);
    }

    /// The group was founded by this node, durably: it takes its seat.
    pub(crate) fn take_seat(&mut self, now: Time, write: &LogWrite, out: &mut SeatOut) {
        assert!(self.group.is_none(), "founded once");
        let mut loaded = LoadedLog::default();
        loaded.apply(write);
        let tuning = Tuning {
            seed: self.seed,
            snapshot_every: self.post.snapshot_every,
        };
        let group = MetaGroup::load(self.post.member, &loaded, tuning);
        self.group = Some(group.expect("a founding write is sound"));
        out.changed = true;
        self.pump(now, out);
    }

    /// Sends what was proposed by `decide` and `step_members`.
    pub(crate) fn flush(&mut self, now: Time, out: &mut SeatOut) {
        self.pump(now, out);
    }

    fn note_leadership(&mut self) {
        let leading = self
            .group
            .as_ref()
            .filter(|g| g.is_leader())
            .map(MetaGroup::term);
        if leading != self.leading {
            self.leading = leading;
            self.desk.clear();
        }
    }

    fn pump(&mut self, now: Time, out: &mut SeatOut) {
        self.note_leadership();
        let Some(group) = &mut self.group else { return };
        let before = group.replica().map(|r| r.applied);
        let mut effects = std::mem::take(&mut self.scratch);
        group.pump(&mut effects);
        self.note_leadership();
        while !effects.is_empty() {
            self.carry_out(&mut effects, out);
            // Answering reads may ask for the next batch.
            if let Some(group) = &mut self.group {
                group.pump(&mut effects);
            }
        }
        self.scratch = effects;
        let Some(group) = &self.group else { return };
        if group.replica().map(|r| r.applied) != before {
            let mut feeds = Vec::new();
            self.feeder.push(now, group, &mut feeds);
            for (to, feed) in feeds {
                out.send(
                    to,
                    MetaMessage::Feed {
                        group: self.id,
                        feed,
                    },
                );
            }
        }
    }

    fn carry_out(&mut self, effects: &mut Vec<GroupEffect>, out: &mut SeatOut) {
        let id = self.id;
        for effect in effects.drain(..) {
            match effect {
                GroupEffect::Send(message) => {
                    out.send(message.to.node(), MetaMessage::Raft { group: id, message });
                }
                GroupEffect::Persist(ticket, write) => {
                    out.effects.push(Effect::Persist {
                        group: id,
                        ticket,
                        write,
                    });
                }
                GroupEffect::Restored => out.changed = true,
                GroupEffect::Applied(outcome) => {
                    out.changed = true;
                    if let Some((to, answer)) = self.desk.applied(outcome) {
                        out.send(to, MetaMessage::Answer { group: id, answer });
                    }
                }
                GroupEffect::ReadReady(read) => {
                    let mut answers = Vec::new();
                    if let Some(group) = &mut self.group {
                        self.desk.read_ready(group, read, &mut answers);
                    }
                    for (to, answer) in answers {
                        out.send(to, MetaMessage::Answer { group: id, answer });
                    }
                }
            }
        }
    }
}
