//! Bringing a node's view up to now: whoever was answered by another node a moment ago must not be
//! told of something older here, and a node that was just started knows only what was before.
//!
//! The global placement group is asked first how far it is (a linearizable read); once this node
//! has that, the groups of the sites that are up by it, and once it has those and gave out the view
//! of them, it is caught up. A site that is away has no say in who is up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::ids::SiteId;
use model::placement::Presence;
use model::time::Time;
use model::wire;

use super::MetaNode;
use super::api::{CatchUpToken, Effect, Scope};
use crate::courier::{Origin, Settled};
use crate::message::GroupId;
use crate::replica::Mark;
use crate::seat::SeatOut;

/// So many are under way at most: their questions leave room to those of volumes and disks.
const CATCH_UPS_MAX: usize = 256;

/// One that is under way.
#[derive(Debug)]
pub(super) struct CatchUp {
    deadline: Time,
    /// Whether the sites' groups were asked, or are not to be.
    sites_asked: bool,
    /// The groups that it waits for, with how far they are once they said so.
    waits: BTreeMap<GroupId, Option<Mark>>,
    missed: BTreeSet<GroupId>,
}

impl MetaNode {
    pub(super) fn catch_up(
        &mut self,
        now: Time,
        token: CatchUpToken,
        (scope, within): (Scope, Duration),
        out: &mut SeatOut,
    ) {
        let mut begun = CatchUp {
            deadline: now + within,
            sites_asked: scope == Scope::Global,
            waits: BTreeMap::new(),
            missed: BTreeSet::new(),
        };
        let origin = Origin::CatchUp(token, GroupId::Global);
        let has_room = self.catching_up.len() < CATCH_UPS_MAX;
        if has_room && self.global.mark(now, within, origin) {
            begun.waits.insert(GroupId::Global, None);
            let hints = self.global_hints();
            self.global.poll(now, &hints, out);
        } else {
            begun.missed.insert(GroupId::Global);
        }
        self.catching_up.insert(token, begun);
    }

    /// A group said how far it is, or did not.
    pub(super) fn marked(&mut self, token: CatchUpToken, group: GroupId, settled: Settled) {
        let mark = match settled {
            Settled::Reply(bytes) => wire::decode::<Mark>(&bytes).ok(),
            Settled::Unknown => None,
        };
        let Some(of) = self.catching_up.get_mut(&token) else {
            return;
        };
        match mark {
            Some(mark) => {
                of.waits
                    .entry(group)
                    .and_modify(|known| *known = Some(mark));
            }
            None => {
                of.waits.remove(&group);
                of.missed.insert(group);
            }
        }
    }

    /// What has reached its mark is waited for no longer; once the global placement group has, the
    /// sites' are asked.
    pub(super) fn advance(&mut self, now: Time, out: &mut SeatOut) {
        if self.catching_up.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.catching_up);
        for (token, one) in &mut all {
            one.waits
                .retain(|group, mark| !self.has_reached(*group, *mark));
            let knows = !one.waits.contains_key(&GroupId::Global);
            if knows && !one.sites_asked && one.missed.is_empty() {
                one.sites_asked = true;
                self.ask_sites(now, *token, one, out);
            }
            if one.deadline <= now {
                one.missed
                    .extend(std::mem::take(&mut one.waits).into_keys());
            }
        }
        self.catching_up = all;
    }

    fn ask_sites(&mut self, now: Time, token: CatchUpToken, one: &mut CatchUp, out: &mut SeatOut) {
        let within = one.deadline.since(now);
        for site in self.sites_up() {
            let group = GroupId::Site(site);
            let hints = self.hints(site);
            let origin = Origin::CatchUp(token, group);
            if let Some(seat) = self.sites.get_mut(&site)
                && seat.mark(now, within, origin)
            {
                one.waits.insert(group, None);
                seat.poll(now, &hints, out);
            } else {
                one.missed.insert(group);
            }
        }
    }

    /// The sites that are up and have a group, as far as this node knows.
    fn sites_up(&self) -> Vec<SiteId> {
        let known = self.global.state().into_iter().flat_map(|g| &g.sites);
        let up = known.filter(|(_, s)| s.presence == Presence::Up && s.founding.is_some());
        up.map(|(id, _)| *id).collect()
    }

    fn has_reached(&self, group: GroupId, mark: Option<Mark>) -> bool {
        match group {
            GroupId::Global => mark.is_some_and(|m| self.global.has_reached(m)),
            GroupId::Site(site) => {
                let entry = self.global.state().and_then(|g| g.sites.get(&site));
                let is_away = entry.is_none_or(|e| e.presence != Presence::Up);
                let seat = self.sites.get(&site);
                is_away || mark.is_some_and(|m| seat.is_some_and(|s| s.has_reached(m)))
            }
        }
    }

    /// Tells of those that are over, once the view of what they waited for was given out.
    pub(super) fn tell_caught_up(&mut self, out: &mut Vec<Effect>) {
        if self.view_dirty && self.global.state().is_some() {
            return;
        }
        self.catching_up.retain(|token, one| {
            let is_over = one.waits.is_empty();
            if is_over {
                let missed = std::mem::take(&mut one.missed);
                out.push(Effect::CaughtUp {
                    token: *token,
                    missed,
                });
            }
            !is_over
        });
    }
}
