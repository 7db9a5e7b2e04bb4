//! No site holds a majority of the global group's voters (R21), once three sites vote.

use std::collections::BTreeMap;

use model::ids::{NodeId, SiteId};
use raft_meta::message::{GroupId, MemberId};

use super::{Broken, broken};
use crate::world::World;

/// Sites over which a majority can be spread.
const SITES_MIN: usize = 3;

/// Whether all sites vote by now.
#[derive(Debug, Default)]
pub(super) struct Voters {
    spread: bool,
}

impl Voters {
    pub(super) fn check(&mut self, world: &World, node: NodeId) -> Result<(), Broken> {
        let process = world.nodes[&node].process.as_ref();
        let Some(members) = process.and_then(|p| p.meta.members(GroupId::Global)) else {
            return Ok(());
        };
        for set in [&members.voters, &members.outgoing] {
            let mut held: BTreeMap<SiteId, usize> = BTreeMap::new();
            for member in set {
                let of = world.nodes.get(&MemberId::node(*member)).map(|n| n.site);
                *held.entry(of.unwrap_or(SiteId(0))).or_default() += 1;
            }
            self.spread |= held.len() >= SITES_MIN;
            let most = held.values().max().copied().unwrap_or(0);
            // A node that was away may know the founding's voters alone.
            if self.spread && set.len() >= SITES_MIN && most * 2 > set.len() {
                return Err(broken("R21", format_args!("a site has {most} of {set:?}")));
            }
        }
        Ok(())
    }
}
