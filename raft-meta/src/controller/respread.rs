//! Sites that were added after the first volume: once they can take their share, what lies in
//! others alone is spread over them, too.

use std::collections::BTreeSet;

use model::ids::SiteId;
use model::placement::{Duty, Presence};
use model::planted::{Bug, planted};

use super::global::Facts;
use crate::global::GlobalCommand;
use crate::site::{SiteDisk, SiteNode};

/// A site takes part in new layouts once it has one in so many of the bytes of the smallest site
/// that does already: all sites are to hold equally much.
const CAPACITY_SHARE: u64 = 2;

/// What a site has to put fragments on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Strength {
    nodes: usize,
    capacity_bytes: u64,
}

impl Facts<'_> {
    /// That what is there is to be spread over the sites that were added.
    pub(super) fn respread(&self) -> Option<GlobalCommand> {
        let state = self.state;
        if planted(Bug::StaysPut) || !state.are_all_there() {
            return None;
        }
        let outgrown = state.outgrown();
        let fit = outgrown.iter().all(|code| {
            let mut pools = state.whole_pools();
            let entry = pools.find(|(pool, _)| pool.code == *code);
            entry.is_some_and(|(_, entry)| {
                let held = entry.sites.iter().copied().collect();
                let sites = state.data_sites();
                let apart = usize::from(code.slots()).div_ceil(sites.len().max(1));
                self.can_take_share(&held, &sites, apart)
            })
        });
        (!outgrown.is_empty() && fit).then_some(GlobalCommand::Respread)
    }

    /// Whether each of the sites that hold nothing yet has enough for its share: of nodes, so that
    /// fragments of one segment are apart, and of room.
    fn can_take_share(&self, held: &BTreeSet<SiteId>, sites: &[SiteId], apart: usize) -> bool {
        let strength = |site: &SiteId| self.strength(*site);
        let (old, new): (Vec<&SiteId>, Vec<&SiteId>) =
            sites.iter().partition(|site| held.contains(site));
        let old: Vec<Strength> = old.into_iter().filter_map(strength).collect();
        let nodes = old.iter().map(|s| s.nodes).min().unwrap_or(0).min(apart);
        let capacity = old.iter().map(|s| s.capacity_bytes).min().unwrap_or(0);
        new.into_iter().all(|site| {
            strength(site).is_some_and(|new| {
                new.nodes >= nodes.max(1) && new.capacity_bytes >= capacity / CAPACITY_SHARE
            })
        })
    }

    fn strength(&self, site: SiteId) -> Option<Strength> {
        let state = self.sites.get(&site)?.state;
        let serves = |disk: &&SiteDisk| {
            let is_up = |node: &SiteNode| node.presence == Presence::Up;
            disk.presence == Presence::Up
                && disk.duty == Duty::Serve
                && state.nodes.get(&disk.node).is_some_and(is_up)
        };
        let disks: Vec<&SiteDisk> = state.disks.values().filter(serves).collect();
        let nodes: BTreeSet<_> = disks.iter().map(|disk| disk.node).collect();
        Some(Strength {
            nodes: nodes.len(),
            capacity_bytes: disks.iter().map(|disk| disk.capacity_bytes).sum(),
        })
    }
}
