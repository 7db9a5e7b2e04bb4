//! No site holds a majority of the global group's voters (R21), once three sites vote.

use std::collections::BTreeMap;

use model::ids::{NodeId, SiteId};
use raft_meta::message::{GroupId, LogIndex, MemberId};

use super::{Broken, broken};
use crate::world::World;

/// Sites over which a majority can be spread.
const SITES_MIN: usize = 3;

/// Since when all sites vote.
#[derive(Debug, Default)]
pub(super) struct Voters {
    /// How much of the log told of that first.
    spread: Option<LogIndex>,
}

impl Voters {
    pub(super) fn check(&mut self, world: &World, node: NodeId) -> Result<(), Broken> {
        let process = world.nodes[&node].process.as_ref();
        let Some(members) = process.and_then(|p| p.meta.members(GroupId::Global)) else {
            return Ok(());
        };
        // A node that was away knows an older log: the founding's voters were all of one site
        // (seed 2070).
        let applied = process.map_or(LogIndex(0), |p| p.meta.applied(GroupId::Global));
        for set in [&members.voters, &members.outgoing] {
            let mut held: BTreeMap<SiteId, usize> = BTreeMap::new();
            for member in set {
                let of = world.nodes.get(&MemberId::node(*member)).map(|n| n.site);
                *held.entry(of.unwrap_or(SiteId(0))).or_default() += 1;
            }
            // What is left behind by that very change was all of one site, and no loss yet.
            if held.len() >= SITES_MIN && members.outgoing.is_empty() {
                let first = self.spread.unwrap_or(applied);
                self.spread = Some(first.min(applied));
            }
            let most = held.values().max().copied().unwrap_or(0);
            let counts = self.spread.is_some_and(|since| applied >= since);
            if counts && set.len() >= SITES_MIN && most * 2 > set.len() {
                return Err(broken("R21", format_args!("a site has {most} of {set:?}")));
            }
        }
        Ok(())
    }
}
