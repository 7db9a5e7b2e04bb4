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
fn pick(nodes: &[Eligible], voters: &[MemberId], leader: MemberId, count: usize) -> Vec<MemberId> {
    let votes = |e: &&Eligible| voters.contains(&e.member);
    let rank = |e: &Eligible| match (votes(&e), e.dead, e.alive) {
        (true, false, _) if e.member == leader => Some(0),
        (true, false, _) => Some(1),
        (false, _, true) => Some(2),
        (true, true, _) => Some(3),
        (false, ..) => None,
    };
    let mut ranked: Vec<_> = nodes
        .iter()
        .filter_map(|e| Some((rank(e)?, e.node(), e.member)))
        .collect();
    ranked.sort_unstable();
    ranked
        .into_iter()
        .take(count)
        .map(|(_, _, member)| member)
        .collect()
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
        of(site)
            .iter()
            .filter(|e| e.alive || (!e.dead && voters.contains(&e.member)))
            .count()
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
        1 => (
            1,
            if usable(chosen[0]) >= 3 || voters.len() >= 3 {
                3
            } else {
                1
            },
        ),
        2 => (
            2,
            if everywhere_two && up.len() == 2 {
                2
            } else {
                1
            },
        ),
        n => {
            let keep = if n >= 5 { 5 } else { 3 };
            let away = chosen[..keep].iter().any(|s| !sites[s]);
            (keep, if away && everywhere_two { 2 } else { 1 })
        }
    };
    let quota_of = |site: SiteId| if sites[&site] { quota } else { 1 };
    let kept = chosen.into_iter().take(keep);
    kept.flat_map(|s| pick(&of(s), voters, leader, quota_of(s)))
        .collect()
}

/// The next step from the present members to the wanted voters. New voters learn first, all of
/// them; a dead voter goes before they vote (its going never makes a majority harder to reach,
/// their coming might), a live one after.
pub(crate) fn next(
    members: &Members,
    wanted: &[MemberId],
    me: MemberId,
    is_dead: impl Fn(MemberId) -> bool,
    caught_up: impl Fn(MemberId) -> bool,
) -> Option<Next> {
    if wanted.is_empty() {
        return None;
    }
    let step = |kind, member: &MemberId| {
        Some(Next::Step(MemberStep {
            kind,
            member: *member,
        }))
    };
    let missing: Vec<_> = wanted
        .iter()
        .filter(|w| !members.voters.contains(w))
        .collect();
    let surplus: Vec<_> = members
        .voters
        .iter()
        .filter(|v| !wanted.contains(v) && **v != me)
        .collect();
    if let Some(new) = missing.iter().find(|m| !members.learners.contains(m)) {
        return step(StepKind::Learner, new);
    }
    if let Some(learned) = missing.first() {
        if !missing.iter().all(|m| caught_up(**m)) {
            // One that does not catch up is no longer wanted once it is found dead.
            return None;
        }
        return match surplus.iter().find(|v| is_dead(***v)) {
            Some(dead) => step(StepKind::Remove, dead),
            None => step(StepKind::Voter, learned),
        };
    }
    if let Some(stale) = members.learners.iter().find(|l| !wanted.contains(l)) {
        return step(StepKind::Remove, stale);
    }
    if let Some(other) = surplus.iter().find(|v| is_dead(***v)).or(surplus.first()) {
        return step(StepKind::Remove, other);
    }
    (!wanted.contains(&me)).then(|| Next::HandOver(wanted[0]))
}

#[cfg(test)]
mod tests {
    use model::ids::Incarnation;

    use super::*;

    fn member(node: u16) -> MemberId {
        MemberId::new(NodeId(node), Incarnation(1))
    }

    fn members(nodes: &[u16]) -> Vec<MemberId> {
        nodes.iter().map(|n| member(*n)).collect()
    }

    /// Node 11 is the first of site 1, and so on.
    fn fabric(per_site: u16, dead: &[u16]) -> Vec<Eligible> {
        let of = |site: u16| (1..=per_site).map(move |i| (site, site * 10 + i));
        (1..=3u16)
            .flat_map(of)
            .map(|(site, node)| {
                let dead = dead.contains(&node);
                let site = SiteId(u8::try_from(site).expect("small"));
                Eligible {
                    member: member(node),
                    site,
                    alive: !dead,
                    dead,
                }
            })
            .collect()
    }

    fn run(nodes: &[Eligible], up: [bool; 3], from: &[u16], leader: u16) -> Vec<MemberId> {
        let sites: BTreeMap<_, _> = (1..=3).map(SiteId).zip(up).collect();
        let mut now = Members {
            voters: members(from),
            learners: Vec::new(),
        };
        let dead = |m: MemberId| nodes.iter().any(|e| e.member == m && e.dead);
        let me = member(leader);
        for _ in 0..20 {
            let wanted = of_fabric(&sites, nodes, &now.voters, me);
            match next(&now, &wanted, me, dead, |_| true) {
                Some(Next::Step(step)) => now.apply(step),
                Some(Next::HandOver(_)) => panic!("no leader has to go here"),
                None => return now.voters,
            }
            let live = now.voters.iter().filter(|v| !dead(**v)).count();
            assert!(live * 2 > now.voters.len(), "{:?} can't commit", now.voters);
            for site in sites.keys() {
                let here = |v: &&MemberId| v.node().0 / 10 == u16::from(site.0);
                let held = now.voters.iter().filter(here).count();
                assert!(now.voters.len() < 3 || held * 2 <= now.voters.len(), "R21");
            }
        }
        panic!("it never settles");
    }

    #[test]
    fn r21() {
        let all = [true; 3];
        assert_eq!(
            run(&fabric(3, &[]), all, &[11, 21, 31], 21),
            members(&[11, 21, 31])
        );
        // A dead node's voter is replaced within its site.
        assert_eq!(
            run(&fabric(3, &[11]), all, &[11, 21, 31], 21),
            members(&[12, 21, 31])
        );
        // An away site keeps one voter, the others have two.
        let away = [false, true, true];
        let dead = [11, 12, 13];
        let five = members(&[11, 21, 22, 31, 32]);
        assert_eq!(run(&fabric(3, &dead), away, &[11, 21, 31], 21), five);
        assert_eq!(
            run(&fabric(3, &[]), all, &[11, 21, 22, 31, 32], 22),
            members(&[11, 22, 31])
        );
        // One node a site: nothing to add.
        assert_eq!(
            run(&fabric(1, &[11]), away, &[11, 21, 31], 21),
            members(&[11, 21, 31])
        );
        // A site that was not there yet.
        assert_eq!(
            run(&fabric(2, &[]), all, &[11, 12, 21, 22], 11),
            members(&[11, 21, 31])
        );
    }

    #[test]
    fn a_sites_voters_are_odd() {
        let site = |n, dead: &[u16]| -> Vec<Eligible> {
            fabric(n, dead)
                .into_iter()
                .filter(|e| e.site == SiteId(1))
                .collect()
        };
        let of = |nodes: &[Eligible], voters: &[u16]| {
            let mut out = of_site(nodes, &members(voters), member(voters[0]));
            out.sort_unstable();
            out
        };
        assert_eq!(of(&site(2, &[]), &[11]), members(&[11]));
        assert_eq!(of(&site(3, &[]), &[12]), members(&[11, 12, 13]));
        assert_eq!(of(&site(4, &[12]), &[11, 12, 13]), members(&[11, 13, 14]));
        assert_eq!(of(&site(3, &[12]), &[11, 12, 13]), members(&[11, 12, 13]));
        assert_eq!(of(&site(9, &[]), &[11, 12, 13]).len(), 5);
    }
}
