//! What a node does by the clock: Raft's ticks, signs of life, and a leader's duties.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::ids::{NodeId, SiteId};
use model::placement::Presence;
use model::time::Time;

use super::{Founding, MetaNode};
use crate::controller::global::{Facts, SiteKnown};
use crate::controller::voters::{self, Eligible, Next};
use crate::controller::{self};
use crate::courier::Origin;
use crate::detector::Liveness;
use crate::global::{GlobalCommand, GlobalState, SiteEntry};
use crate::message::{Beat, MemberId, Members, MetaMessage};
use crate::replica::StateMachine;
use crate::seat::{Seat, SeatOut};
use crate::site::SiteState;

/// Duties are done every so many ticks.
const DUTIES_EVERY: u64 = 2;

/// Moves of slots are looked after every so many ticks.
const MOVES_EVERY: u64 = 4;

/// A pause of this process of so many ticks is no silence of the others.
const PAUSE_TICKS: u32 = 8;

impl MetaNode {
    pub(super) fn run_tick(&mut self, now: Time, out: &mut SeatOut) {
        let pause = now.since(self.last_tick);
        if self.ticks > 0 && pause > self.config.tick * PAUSE_TICKS {
            self.detector.forgive(now, pause);
        }
        self.last_tick = now;
        self.next_tick = now + self.config.tick;
        self.ticks += 1;

        let hints = self.global_hints();
        self.global.tick(now, &hints, out);
        self.seat_sites();
        let seeking = self.sites.iter().filter(|(_, seat)| seat.seeks(now));
        let hints: BTreeMap<SiteId, Vec<NodeId>> = seeking
            .map(|(site, _)| (*site, self.hints(*site)))
            .collect();
        for (site, seat) in &mut self.sites {
            let hints = hints.get(site).map_or(&[][..], Vec::as_slice);
            seat.tick(now, hints, out);
        }
        let beat_ticks = self.config.beat_every.as_nanos() / self.config.tick.as_nanos().max(1);
        if u128::from(self.ticks) % beat_ticks.max(1) == 0 {
            self.give_beat(now, out);
        }
        if self.ticks.is_multiple_of(DUTIES_EVERY) {
            self.listen(now);
            self.found_site(now, out);
            self.site_duties(now);
            self.global_duties(now);
            // What was proposed leaves at once.
            self.global.flush(now, out);
            if let Some(own) = self.sites.get_mut(&self.identity.site) {
                own.flush(now, out);
            }
        }
    }

    fn own(&self) -> Option<&Seat<SiteState>> {
        self.sites.get(&self.identity.site)
    }

    /// A sign of life to the members of both groups that decide about this node.
    pub(super) fn give_beat(&mut self, now: Time, out: &mut SeatOut) {
        let beat = Arc::new(Beat {
            site: self.identity.site,
            boot: self.identity.boot,
            member: self.post.member,
            name: self.identity.name.clone(),
            address: self.identity.address,
            nbd: self.identity.nbd,
            site_quorum: self.own().is_some_and(|s| s.leader(now).is_some()),
            global_quorum: self.global.leader(now).is_some(),
            disks: self.disks.clone(),
            healed: self.healed.clone(),
        });
        let of_site = self.own().and_then(Seat::members).map(Members::nodes);
        let of_site = of_site.unwrap_or_else(|| self.hints(self.identity.site));
        let of_fabric = self
            .global
            .members()
            .map(Members::nodes)
            .unwrap_or_default();
        let to: BTreeSet<NodeId> = of_site.into_iter().chain(of_fabric).collect();
        for node in to.into_iter().filter(|n| *n != self.identity.node) {
            out.send(node, MetaMessage::Beat(Arc::clone(&beat)));
        }
        self.detector.heard(now, self.identity.node, beat);
    }

    /// Every member listens for all that its group decides about (R11), by the committed state:
    /// who was never heard since this process began is silent since then.
    fn listen(&mut self, now: Time) {
        let mut nodes = Vec::new();
        let voters = self
            .global
            .members()
            .map(Members::nodes)
            .unwrap_or_default();
        if self.global.is_member() {
            let known = self.global.state().map(|g| g.nodes.iter());
            let taking_part = known.into_iter().flatten().filter(|(_, e)| !e.gone);
            nodes.extend(taking_part.map(|(node, _)| node));
            nodes.extend(&voters);
        } else if let Some(own) = self.own().filter(|s| s.is_member()).and_then(Seat::state) {
            nodes.extend(own.nodes.keys());
        }
        for node in nodes.into_iter().copied().collect::<Vec<_>>() {
            self.detector.expect(now, node);
        }
    }

    /// The first node of a new site founds the site's group, once the global placement group
    /// says that there is none.
    fn found_site(&mut self, now: Time, out: &mut SeatOut) {
        let (site, node) = (self.identity.site, self.identity.node);
        let vacant = self.own().is_some_and(|s| !s.has_group());
        if !vacant || !matches!(self.founding, Founding::Idle) {
            return;
        }
        let entry = self.global.state().and_then(|g| g.sites.get(&site));
        if entry.is_some_and(|e| e.founder == Some(node) && e.contacts.is_empty()) {
            self.founding = Founding::Asked;
            let founding = self.identity.boot;
            let command = GlobalCommand::FoundSite {
                site,
                node,
                founding,
            };
            self.global.command(now, Origin::Founding, &command, out);
            let hints = self.global_hints();
            self.global.poll(now, &hints, out);
        }
    }

    fn site_duties(&mut self, now: Time) {
        let (Some(own), Some(global)) =
            (self.sites.get_mut(&self.identity.site), self.global.state())
        else {
            return;
        };
        if !own.is_leader() {
            return;
        }
        let Some(state) = own.state() else { return };
        let mut commands = controller::site::decide(now, state, global, &self.detector);
        if self.ticks.is_multiple_of(MOVES_EVERY) {
            let after = self.config.heal_after;
            let is_away = |s: &SiteEntry| s.presence == Presence::Down;
            let all_sites = !global.sites.values().any(is_away);
            let moves = controller::moves::decide(now, state, &self.detector, after, all_sites);
            commands.extend(moves);
        }
        for command in commands {
            if self.lately.admit(now, &command) {
                own.decide(&command);
            }
        }
        let Some((state, members)) = own.state().zip(own.members()) else {
            return;
        };
        let not_gone = state
            .nodes
            .iter()
            .filter(|(_, n)| n.presence != Presence::Gone);
        let eligible: Vec<_> = not_gone
            .map(|(node, n)| {
                let alive = self.detector.liveness(now, *node);
                let stays = !leaves(global, *node);
                eligible(n.member, self.identity.site, alive, n.presence, stays)
            })
            .collect();
        let wanted = voters::of_site(&eligible, &members.voters, self.post.member);
        step_towards(own, &wanted, self.post.member);
    }

    fn global_duties(&mut self, now: Time) {
        if !self.global.is_leader() {
            return;
        }
        let Some(state) = self.global.state() else {
            return;
        };
        let known = |s: &'_ Seat<SiteState>| s.state().zip(s.members()).is_some();
        let sites: BTreeMap<SiteId, SiteKnown<'_>> = self
            .sites
            .iter()
            .filter(|(_, s)| known(s))
            .filter_map(|(id, s)| {
                Some((
                    *id,
                    SiteKnown {
                        state: s.state()?,
                        members: s.members()?,
                    },
                ))
            })
            .collect();
        let me = self.identity.site;
        let facts = Facts {
            now,
            me,
            state,
            sites,
            detector: &self.detector,
            slow_from: self.config.slow_from,
        };
        let commands = controller::global::decide(&facts);
        let present: BTreeMap<SiteId, bool> = state
            .settled_sites()
            .into_iter()
            .map(|s| (s, state.sites[&s].presence == Presence::Up))
            .collect();
        let mut nodes = Vec::new();
        for (site, known) in &facts.sites {
            let removed = |n: &NodeId| state.nodes.get(n).is_none_or(|e| e.gone);
            for (node, n) in known.state.nodes.iter().filter(|(n, _)| !removed(n)) {
                let heard = self.detector.liveness(now, *node);
                let stays = !leaves(state, *node);
                nodes.push(eligible(n.member, *site, heard, n.presence, stays));
            }
        }
        let Some(members) = self.global.members() else {
            return;
        };
        // A voter whose site's state is not known here (yet) is not to be dropped for that.
        for member in members.voters.iter().chain(&members.outgoing) {
            let node = member.node();
            let Some(site) = state.site_of_node(node) else {
                continue;
            };
            let known = facts.sites.get(&site);
            if known.is_none_or(|k| !k.state.nodes.contains_key(&node)) {
                let heard = self.detector.liveness(now, node);
                let stays = !leaves(state, node);
                nodes.push(eligible(*member, site, heard, Presence::Down, stays));
            }
        }
        let wanted = voters::of_fabric(&present, &nodes, &members.voters, self.post.member);
        for command in commands {
            if self.lately.admit(now, &command) {
                self.global.decide(&command);
            }
        }
        step_towards(&mut self.global, &wanted, self.post.member);
    }
}

/// Whether the operator has a node emptied, or will stop it.
fn leaves(global: &GlobalState, node: NodeId) -> bool {
    let entry = global.nodes.get(&node);
    entry.is_some_and(|n| n.duty.is_to_rest())
}

/// One that is to be emptied is replaced as a dead one is: it votes on where nobody else can.
fn eligible(
    member: MemberId,
    site: SiteId,
    heard: Liveness,
    presence: Presence,
    stays: bool,
) -> Eligible {
    let alive = heard == Liveness::Alive && presence == Presence::Up;
    Eligible {
        member,
        site,
        alive: alive && stays,
        dead: heard == Liveness::Dead || !stays,
    }
}

fn step_towards<S: StateMachine>(seat: &mut Seat<S>, wanted: &[MemberId], me: MemberId) {
    let Some(members) = seat.members() else {
        return;
    };
    match voters::next(members, wanted, me, |m| seat.caught_up(m)) {
        Some(Next::Step(step)) => {
            seat.step_members(&step);
        }
        Some(Next::HandOver(to)) => seat.hand_over(to),
        None => {}
    }
}
