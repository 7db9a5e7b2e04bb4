//! Who should vote (R21), and the next step towards it: new voters learn first, then the whole
//! set changes at once, by joint consensus. Single steps would pass through sets of which one
//! site holds half.

use std::collections::BTreeMap;

use model::ids::{NodeId, SiteId};
use model::planted::{Bug, planted};

use crate::message::{MemberId, MemberStep, Members};

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
#[derive(Clone, PartialEq, Eq, Debug)]
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
    let mut picked = pick(nodes, voters, leader, count);
    // Of two, both are needed: one more, and nothing is gained by it.
    if picked.len().is_multiple_of(2) {
        picked.pop();
    }
    picked
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
            let away = chosen[..keep].iter().filter(|s| !sites[s]).count();
            // With two sites of three away, two in the last one would be half of all.
            let survives = 2 * (keep - away) + away > 4;
            let two = away > 0 && everywhere_two && survives;
            (keep, if two { 2 } else { 1 })
        }
    };
    let crowded = chosen
        .first()
        .copied()
        .filter(|_| planted(Bug::CrowdedVoters));
    let quota_of = |site: SiteId| match sites[&site] {
        true if crowded == Some(site) => 3,
        true => quota,
        false => 1,
    };
    let kept = chosen.into_iter().take(keep);
    let mut picked: Vec<MemberId> = kept
        .flat_map(|s| pick(&of(s), voters, leader, quota_of(s)))
        .collect();
    // While a fabric forms, or if it stays so small: of two voters both are needed, so that one
    // alone is better. The other one follows, and has all that it has.
    if picked.len() == 2 {
        picked.sort_by_key(|v| (*v != leader, !voters.contains(v)));
        picked.truncate(1);
    }
    assert!(
        picked.len() != 2,
        "of two, the loss of either stops the group"
    );
    picked
}

/// The next step from the present members to the wanted voters. A leader that is not wanted
/// hands over first, so that it never has to be left out of a set that it leads. New voters
/// learn; once they and a majority of the wanted ones hold what is committed (the new set must
/// be able to commit the entry that leaves the old one), the sets change.
pub(crate) fn next(
    members: &Members,
    wanted: &[MemberId],
    me: MemberId,
    caught_up: impl Fn(MemberId) -> bool,
) -> Option<Next> {
    if members.is_joint() {
        return Some(Next::Step(MemberStep::Leave));
    }
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return None;
    }
    if !wanted.contains(&me) {
        let mut heirs = wanted.iter().filter(|w| members.voters.contains(w));
        if let Some(heir) = heirs.find(|w| caught_up(**w)) {
            return Some(Next::HandOver(*heir));
        }
        // Nobody of theirs votes yet: it leads them in, and hands over then.
        wanted.push(me);
        wanted.sort_unstable();
    }
    let missing = |w: &&MemberId| !members.voters.contains(w);
    if let Some(new) = wanted
        .iter()
        .filter(missing)
        .find(|w| !members.learners.contains(w))
    {
        return Some(Next::Step(MemberStep::Learn(*new)));
    }
    if wanted != members.voters {
        // One that does not catch up is no longer wanted once it is found dead.
        let holds = |w: &MemberId| *w == me || caught_up(*w);
        let learned = wanted.iter().filter(missing).all(holds);
        let held = wanted.iter().filter(|w| holds(w)).count();
        let ready = learned && held * 2 > wanted.len();
        return ready.then_some(Next::Step(MemberStep::Enter(wanted)));
    }
    let stale = members.learners.first()?;
    Some(Next::Step(MemberStep::Forget(*stale)))
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

    fn here(set: &[MemberId], site: u16) -> usize {
        set.iter().filter(|v| v.node().0 / 10 == site).count()
    }

    /// R21 in every set on the way: what is left without any one site is a majority, if it was
    /// at the beginning.
    fn check_sets(now: &Members, dead: impl Fn(MemberId) -> bool) {
        for set in [&now.voters, &now.outgoing] {
            let live = set.iter().filter(|v| !dead(**v)).count();
            assert!(
                live * 2 > set.len() || set.is_empty(),
                "{set:?} can't commit"
            );
            for site in 1..=3 {
                assert!(set.len() < 3 || here(set, site) * 2 <= set.len(), "R21");
                let sites = (1..=3).filter(|s| here(set, *s) > 0).count();
                let left = set.len() - here(set, site);
                assert!(
                    sites < 3 || left * 2 > set.len(),
                    "{set:?} does not survive site {site}"
                );
            }
        }
    }

    fn run(nodes: &[Eligible], up: [bool; 3], from: &[u16], leader: u16) -> Vec<MemberId> {
        let sites: BTreeMap<_, _> = (1..=3).map(SiteId).zip(up).collect();
        let mut now = Members::of_voters(members(from));
        let dead = |m: MemberId| nodes.iter().any(|e| e.member == m && e.dead);
        let me = member(leader);
        for _ in 0..20 {
            let wanted = of_fabric(&sites, nodes, &now.voters, me);
            match next(&now, &wanted, me, |m| !dead(m)) {
                Some(Next::Step(step)) => now = now.after(&step).expect("a possible step"),
                Some(Next::HandOver(_)) => panic!("no leader has to go here"),
                None => return now.voters,
            }
            check_sets(&now, dead);
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
        // Two sites away, found one after the other by a leader of the last: still one each.
        let back = members(&[11, 21, 31]);
        assert_eq!(
            run(
                &fabric(3, &[]),
                [true, false, false],
                &[11, 12, 21, 22, 31],
                11
            ),
            back
        );
        assert_eq!(
            run(&fabric(3, &[]), [true, false, false], &[11, 21, 31], 11),
            back
        );
        // A site that was not there yet.
        assert_eq!(
            run(&fabric(2, &[]), all, &[11, 12, 21, 22], 11),
            members(&[11, 21, 31])
        );
    }

    /// A fabric that forms, node by node and site by site, or that stays small.
    #[test]
    fn two_never_vote_alone() {
        let up = |sites: &[u16]| -> [bool; 3] { [1, 2, 3].map(|s| sites.contains(&s)) };
        let of = |nodes: &[u16]| -> Vec<Eligible> {
            let all = fabric(3, &[]).into_iter();
            all.filter(|e| nodes.contains(&e.member.node().0)).collect()
        };
        assert_eq!(run(&of(&[11, 21]), up(&[1, 2]), &[11], 11), members(&[11]));
        let four = [11, 12, 21, 22];
        assert_eq!(
            run(&of(&[11, 12, 21]), up(&[1, 2]), &[11], 11),
            members(&[11])
        );
        assert_eq!(run(&of(&four), up(&[1, 2]), &[11], 11), members(&four));
        let spread = members(&[11, 21, 31]);
        assert_eq!(run(&of(&[11, 21, 31]), up(&[1, 2, 3]), &[11], 11), spread);
        // Nobody of the third site is alive yet.
        assert_eq!(
            run(&of(&[11, 21]), up(&[1, 2, 3]), &[11], 11),
            members(&[11])
        );
        // Of three, one is removed.
        assert_eq!(
            run(&of(&[11, 31]), up(&[1, 3]), &[11, 21, 31], 31),
            members(&[31])
        );
    }

    #[test]
    fn a_leader_that_is_not_wanted_hands_over_first() {
        let now = Members::of_voters(members(&[11, 21, 31]));
        let wanted = members(&[12, 21, 31]);
        let step = |now: &Members, dead: u16| next(now, &wanted, member(11), |m| m != member(dead));
        assert_eq!(step(&now, 0), Some(Next::HandOver(member(21))));
        assert_eq!(step(&now, 21), Some(Next::HandOver(member(31))));
        // With nobody to hand over to, it leads the new ones in.
        let alone = Members::of_voters(members(&[11]));
        let learn = |m| Some(Next::Step(MemberStep::Learn(member(m))));
        assert_eq!(step(&alone, 0), learn(12));
        let mut ready = alone.clone();
        ready.learners = wanted.clone();
        let all = members(&[11, 12, 21, 31]);
        assert_eq!(step(&ready, 0), Some(Next::Step(MemberStep::Enter(all))));
        // One that does not hold the log yet keeps the others waiting.
        assert_eq!(step(&ready, 31), None);
    }

    #[test]
    fn a_set_that_could_not_commit_is_not_entered() {
        let now = Members::of_voters(members(&[11, 21, 22, 31, 32]));
        let wanted = members(&[11, 21, 31]);
        let enter = Some(Next::Step(MemberStep::Enter(wanted.clone())));
        let step = |away: &[u16]| {
            let away = members(away);
            next(&now, &wanted, member(21), |m| !away.contains(&m))
        };
        assert_eq!(step(&[11]), enter);
        assert_eq!(step(&[11, 31]), None);
    }

    #[test]
    fn a_joint_state_is_left_by_any_leader() {
        let mut now = Members::of_voters(members(&[11, 21, 31]));
        now.outgoing = members(&[11, 21, 22, 31, 32]);
        let wanted = members(&[12, 21, 31]);
        let leave = Some(Next::Step(MemberStep::Leave));
        assert_eq!(next(&now, &wanted, member(22), |_| false), leave);
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
        // A third one that is not there yet is waited for.
        assert_eq!(of(&site(3, &[12]), &[11]), members(&[11]));
        assert_eq!(of(&site(9, &[]), &[11, 12, 13]).len(), 5);
    }
}
