//! Who should vote (R21), and the next step towards it: one change at a time, a new voter
//! learns first, an old one goes last.

use std::collections::BTreeMap;

use model::ids::{NodeId, SiteId};

use crate::message::{MemberId, MemberStep, Members, StepKind};

/// Voters of a site's group at most.
const SITE_VOTERS_MAX: usize = 5;

/// A node that might vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Eligible {
    pub(crate) member: MemberId,
    pub(crate) site: SiteId,
    /// Whether it is alive for sure: only such become voters.
    pub(crate) alive: bool,
    /// Whether it is dead for sure: such are replaced.
    pub(crate) dead: bool,
}

impl Eligible {
    fn node(&self) -> NodeId {
        self.member.node()
    }
}

/// What the leader should do next about its group's members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Propose this.
    Step(MemberStep),
    /// Hand over to that voter: this leader is to go.
    HandOver(MemberId),
}

/// Of some nodes, the best `count` voters: present ones first (the leader foremost), then the
/// lowest ids; dead present ones only as a filler.
fn pick(
    nodes: &[Eligible],
    voters: &[MemberId],
    leader: MemberId,
    count: usize,
) -> Vec<MemberId> {
    let votes = |e: &&Eligible| voters.contains(&e.member);
    let rank = |e: &Eligible| match (votes(&e), e.dead, e.alive) {
        (true, false, _) if e.member == leader => Some(0),
        (true, false, _) => Some(1),
        (false, _, true) => Some(2),
        (true, true, _) => Some(3),
        (false, ..) => None,
    };
    let mut ranked: Vec<_> =
        nodes.iter().filter_map(|e| Some((rank(e)?, e.node(), e.member))).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(count).map(|(_, _, member)| member).collect()
}

/// The voters of a site's group: up to five nodes, an odd number, of those registered.
pub(crate) fn of_site(nodes: &[Eligible], voters: &[MemberId], leader: MemberId) -> Vec<MemberId> {
    let count = match nodes.len() {
        0..=2 => 1,
        3..=4 => 3,
        _ => SITE_VOTERS_MAX,
    };
    pick(nodes, voters, leader, count)
}

/// The voters of the global placement group (R21): one a site over three (or five) sites; two
/// in each site that is left while one is away, which keeps one. A fabric of one site has up
/// to three; one of two sites has as many in both, so that none has a majority.
pub(crate) fn of_fabric(
    sites: &BTreeMap<SiteId, bool>,
    nodes: &[Eligible],
    voters: &[MemberId],
    leader: MemberId,
) -> Vec<MemberId> {
    let of = |site: SiteId| -> Vec<Eligible> {
        nodes.iter().filter(|e| e.site == site).copied().collect()
    };
    let usable = |site: SiteId| {
        of(site).iter().filter(|e| e.alive || (!e.dead && voters.contains(&e.member))).count()
    };
    let has_voter = |site: SiteId| of(site).iter().any(|e| voters.contains(&e.member));
    let mut chosen: Vec<SiteId> = sites.keys().copied().collect();
    // Sites with a voter keep it; new ones must be Up.
    chosen.retain(|s| sites[s] || has_voter(*s));
    chosen.sort_by_key(|s| (!has_voter(*s), *s));
    let up: Vec<SiteId> = chosen.iter().copied().filter(|s| sites[s]).collect();
    let everywhere_two = up.iter().all(|s| usable(*s) >= 2);
    let (keep, quota) = match chosen.len() {
        0 => return Vec::new(),
        1 => (1, if usable(chosen[0]) >= 3 || voters.len() >= 3 { 3 } else { 1 }),
        2 => (2, if everywhere_two && up.len() == 2 { 2 } else { 1 }),
        n => {
            let keep = if n >= 5 { 5 } else { 3 };
            let away = chosen[..keep].iter().any(|s| !sites[s]);
            (keep, if away && everywhere_two { 2 } else { 1 })
        }
    };
    let quota_of = |site: SiteId| if sites[&site] { quota } else { 1 };
    let kept = chosen.into_iter().take(keep);
    kept.flat_map(|s| pick(&of(s), voters, leader, quota_of(s))).collect()
}

/// The next step from the present members to the wanted voters.
pub(crate) fn next(
    members: &Members,
    wanted: &[MemberId],
    me: MemberId,
    caught_up: impl Fn(MemberId) -> bool,
) -> Option<Next> {
    if wanted.is_empty() {
        return None;
    }
    let step = |kind, member| Some(Next::Step(MemberStep { kind, member }));
    let missing = wanted.iter().find(|w| !members.voters.contains(w));
    if let Some(missing) = missing {
        if !members.learners.contains(missing) {
            return step(StepKind::Learner, *missing);
        }
        if caught_up(*missing) {
            return step(StepKind::Voter, *missing);
        }
        // A learner that does not catch up is no longer wanted once it is found dead.
        return None;
    }
    if let Some(stale) = members.learners.iter().find(|l| !wanted.contains(l)) {
        return step(StepKind::Remove, *stale);
    }
    let surplus: Vec<_> = members.voters.iter().filter(|v| !wanted.contains(v)).collect();
    if let Some(other) = surplus.iter().find(|v| ***v != me) {
        return step(StepKind::Remove, **other);
    }
    if surplus.is_empty() { None } else { Some(Next::HandOver(wanted[0])) }
}
