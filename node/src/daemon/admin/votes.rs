//! Where decisions hang on one site or one node, though others are there to vote (R21): until the
//! votes are spread, its loss stops them.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{NodeId, SiteId};
use model::placement::{Duty, Presence, View};
use raft_meta::GroupId;
use raft_meta::message::{MemberId, Members};

use super::show::{node_name, site_name};
use super::status::add;
use crate::admin::protocol::Degraded;

/// From so many on, one may be lost and the others are still a majority.
const SPREAD_MIN: usize = 3;

/// Those groups whose majority is gone with one site, or in a site's own group with one node.
pub(super) fn degraded(
    view: &View,
    groups: &BTreeMap<GroupId, Members>,
    degraded: &mut Vec<Degraded>,
) {
    let up = || {
        let nodes = view.nodes.iter();
        // One that is to be emptied is given no vote.
        nodes.filter(|(_, node)| node.presence == Presence::Up && node.duty == Duty::Serve)
    };
    for (group, members) in groups {
        let hangs_on = match group {
            GroupId::Global => {
                let site_up =
                    |id: &SiteId| view.sites.get(id).map(|s| s.presence) == Some(Presence::Up);
                let of_up = up().map(|(_, node)| node.site).filter(|site| site_up(site));
                let site_of = |node: NodeId| view.nodes.get(&node).map(|n| n.site);
                only_one(members, of_up, site_of).map(|site| {
                    let site = site_name(view, Some(site));
                    ("global placement group".to_owned(), format!("site {site}"))
                })
            }
            GroupId::Site(site) => {
                let of_up = up()
                    .filter(|(_, node)| node.site == *site)
                    .map(|(id, _)| *id);
                only_one(members, of_up, Some).map(|node| {
                    let group = format!("group of site {}", site_name(view, Some(*site)));
                    (group, format!("node {}", node_name(view, node)))
                })
            }
        };
        if let Some((group, one)) = hangs_on {
            add(
                degraded,
                group,
                format!("without {one} it would have no majority, and decide nothing"),
                "votes are being given to others, so that any one may go",
            );
        }
    }
}

/// Who has half of a set's votes, where enough are up for nobody to have them.
fn only_one<T: Ord + Copy>(
    members: &Members,
    up: impl Iterator<Item = T>,
    of: impl Fn(NodeId) -> Option<T>,
) -> Option<T> {
    let up: BTreeSet<T> = up.collect();
    if up.len() < SPREAD_MIN {
        return None;
    }
    let holder = |set: &[MemberId]| {
        let mut votes: BTreeMap<T, usize> = BTreeMap::new();
        for one in set.iter().filter_map(|member| of(member.node())) {
            *votes.entry(one).or_default() += 1;
        }
        votes
            .into_iter()
            .find(|(_, count)| count * 2 >= set.len())
            .map(|(one, _)| one)
    };
    holder(&members.voters).or_else(|| holder(&members.outgoing))
}

#[cfg(test)]
mod tests {
    use model::ids::Incarnation;

    use super::{MemberId, Members, NodeId, only_one};

    /// Nodes 10 and 11 are of site 1, and so on.
    fn hangs_on(up: &[u16], voters: &[u16], outgoing: &[u16]) -> Option<u16> {
        let set = |nodes: &[u16]| -> Vec<MemberId> {
            let member = |node: &u16| MemberId::new(NodeId(*node), Incarnation(1));
            nodes.iter().map(member).collect()
        };
        let mut members = Members::of_voters(set(voters));
        members.outgoing = set(outgoing);
        only_one(&members, up.iter().copied(), |node| Some(node.0 / 10))
    }

    #[test]
    fn a_majority_hangs_on_who_has_half_of_it() {
        let up = [1, 2, 3];
        assert_eq!(hangs_on(&up, &[10], &[]), Some(1));
        assert_eq!(hangs_on(&up, &[10, 20, 21], &[]), Some(2));
        assert_eq!(hangs_on(&up, &[10, 20, 30], &[]), None);
        assert_eq!(hangs_on(&up, &[10, 20, 21, 30, 31], &[]), None);
        assert_eq!(hangs_on(&up, &[10, 20, 30], &[10]), Some(1), "not left yet");
        assert_eq!(hangs_on(&up[1..], &[20], &[]), None, "nobody else is there");
    }
}
