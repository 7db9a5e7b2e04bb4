//! What the global placement group's leader proposes: deaths and returns of sites, new owners
//! for what dead nodes owned, and where sites' groups are found.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{Boot, NodeId, SiteId};
use model::placement::{Latency, Presence};
use model::time::Time;

use crate::detector::{Detector, Liveness};
use crate::global::{GlobalCommand, GlobalState, NodeEntry};
use crate::message::{Beat, Members};
use crate::site::SiteState;

/// What the leader knows of a site's group, as a follower or member of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SiteKnown<'a> {
    pub(crate) state: &'a SiteState,
    pub(crate) members: &'a Members,
}

/// What decisions rest on.
pub(crate) struct Facts<'a> {
    pub(crate) now: Time,
    pub(crate) me: SiteId,
    pub(crate) state: &'a GlobalState,
    pub(crate) sites: BTreeMap<SiteId, SiteKnown<'a>>,
    pub(crate) detector: &'a Detector,
    /// A device that answers sooner is not slow.
    pub(crate) slow_from: Latency,
}

/// All that should be proposed now.
pub(crate) fn decide(facts: &Facts<'_>) -> Vec<GlobalCommand> {
    let mut out = Vec::new();
    let candidates = facts.candidates();
    for site in facts.state.settled_sites() {
        out.extend(facts.site_presence(site, &candidates));
    }
    out.extend(facts.writability());
    out.extend(facts.missing_pool());
    out.extend(facts.faulty_disk());
    out.extend(facts.respread());
    facts.dead_owners(&candidates, &mut out);
    facts.drained_owners(&candidates, &mut out);
    facts.contacts(&mut out);
    out
}

impl Facts<'_> {
    pub(super) fn presence_of(&self, site: SiteId) -> Presence {
        self.state
            .sites
            .get(&site)
            .map_or(Presence::Gone, |s| s.presence)
    }

    /// The nodes of a site that were not removed, by the committed state: what their own group
    /// says of them may be known to nobody who lives.
    fn nodes_of(&self, site: SiteId) -> impl Iterator<Item = NodeId> {
        let of_site = self.state.nodes.iter();
        let of_site = of_site.filter(move |(_, e)| e.site == site && !e.gone);
        of_site.map(|(n, _)| *n)
    }

    /// The live beats of a site's nodes, registered or not.
    fn beats(&self, site: SiteId) -> impl Iterator<Item = (NodeId, &Beat)> {
        let of_site = self.nodes_of(site);
        of_site.filter_map(|n| Some((n, self.detector.beat(self.now, n)?)))
    }

    /// Whether some live node of the site hears a leader of the site's group.
    fn has_quorum(&self, site: SiteId) -> bool {
        self.beats(site).any(|(_, beat)| beat.site_quorum)
    }

    /// Nodes that may be given volumes (R11).
    fn candidates(&self) -> Vec<NodeId> {
        let fit = |node: &NodeId, site: SiteId| {
            let up = |k: &SiteKnown<'_>| {
                k.state
                    .nodes
                    .get(node)
                    .is_some_and(|n| n.presence == Presence::Up)
            };
            self.presence_of(site) == Presence::Up
                && self.sites.get(&site).is_some_and(up)
                && self.detector.liveness(self.now, *node) == Liveness::Alive
                && self
                    .detector
                    .beat(self.now, *node)
                    .is_some_and(|b| b.site_quorum && b.global_quorum)
        };
        let nodes = self.state.nodes.iter().filter(|(_, e)| !e.gone);
        let fit: Vec<_> = nodes.filter(|(n, e)| fit(n, e.site)).collect();
        // If all are to be emptied, or are of a witness, any is better than none.
        let is_good = |e: &NodeEntry| {
            let of_site = self.state.sites.get(&e.site);
            !e.duty.is_to_rest() && of_site.is_some_and(|s| s.role.holds_data())
        };
        let any = fit.iter().any(|(_, e)| is_good(e));
        let chosen = fit.iter().filter(|(_, e)| is_good(e) || !any);
        chosen.map(|(n, _)| **n).collect()
    }

    /// The volumes of nodes that are to be emptied, or will stop, and that serve, go to others.
    fn drained_owners(&self, candidates: &[NodeId], out: &mut Vec<GlobalCommand>) {
        let drained = |n: &NodeId| {
            let entry = self.state.nodes.get(n);
            entry.is_some_and(|e| e.duty.is_to_rest() && !e.gone)
        };
        let owns = |n: &NodeId| self.state.volumes.owned_by(*n).len() > 0;
        let nodes = self.state.nodes.keys().copied();
        let owners: Vec<NodeId> = nodes.filter(|n| drained(n) && owns(n)).collect();
        for node in owners {
            // Of such as are to be emptied too, none is better than another.
            let mut candidates = candidates.to_vec();
            candidates.retain(|n| *n != node && !drained(n));
            if !candidates.is_empty() {
                out.push(GlobalCommand::Evacuate { node, candidates });
            }
        }
    }

    fn site_presence(&self, site: SiteId, candidates: &[NodeId]) -> Option<GlobalCommand> {
        match self.presence_of(site) {
            Presence::Up => {
                let lost = |n| {
                    self.detector.liveness(self.now, n) == Liveness::Dead
                        || self.detector.is_cut(self.now, n)
                };
                let silent = site != self.me
                    && self.nodes_of(site).next().is_some()
                    && self.nodes_of(site).all(lost);
                silent.then(|| GlobalCommand::FailSite {
                    site,
                    candidates: candidates.to_vec(),
                })
            }
            Presence::Down => {
                let alive = |n| self.detector.liveness(self.now, n) == Liveness::Alive;
                let back = self
                    .beats(site)
                    .any(|(n, beat)| beat.site_quorum && beat.global_quorum && alive(n));
                (back && self.has_slots(site)).then_some(GlobalCommand::ReturnSite { site })
            }
            Presence::Gone => None,
        }
    }

    /// Whether the site knows a disk for all that it holds of pools: one that was founded anew
    /// first assigns them. Until then readers do without it.
    fn has_slots(&self, site: SiteId) -> bool {
        let Some(known) = self.sites.get(&site) else {
            return false;
        };
        let mut held = self.state.pools.iter();
        held.all(|(pool, entry)| {
            let rows = entry.slots_of(site);
            rows.iter().all(Vec::is_empty) || known.state.has_assigned(*pool, &rows)
        })
    }

    fn missing_pool(&self) -> Option<GlobalCommand> {
        let site = self.state.lacks_pool_without()?;
        let live = self.live_outside(site);
        Some(GlobalCommand::AddPoolWithout { site, live })
    }

    /// Whether that node's volumes need new owners: its site's group says so, or it is silent
    /// and its site's group can't say anything or does not see it (a node that only its own
    /// site hears can't reach a majority of its journals either), or it was removed.
    fn is_unfit(&self, node: NodeId, site: SiteId, gone: bool) -> bool {
        if gone || self.presence_of(site) != Presence::Up {
            return true;
        }
        let registered = self.sites.get(&site).and_then(|k| k.state.nodes.get(&node));
        match registered.map(|n| n.presence) {
            Some(Presence::Up) => {
                let dead = self.detector.liveness(self.now, node) == Liveness::Dead;
                dead && (!self.has_quorum(site) || self.detector.is_long_dead(self.now, node))
            }
            Some(Presence::Down | Presence::Gone) => true,
            None => false,
        }
    }

    fn dead_owners(&self, candidates: &[NodeId], out: &mut Vec<GlobalCommand>) {
        let nodes = self.state.nodes.iter();
        let unfit: BTreeSet<NodeId> = nodes
            .filter(|(n, e)| self.is_unfit(**n, e.site, e.gone))
            .map(|(n, _)| *n)
            .collect();
        if unfit.is_empty() || candidates.is_empty() {
            return;
        }
        let mut ended: BTreeSet<(NodeId, Boot)> = BTreeSet::new();
        let volumes = &self.state.volumes;
        let of_unfit = unfit.iter().flat_map(|node| volumes.owned_by(*node));
        for owner in of_unfit.filter_map(|id| volumes[&id].owner) {
            let gone = self.state.nodes.get(&owner.node).is_none_or(|e| e.gone);
            let live = self.detector.beat(self.now, owner.node).map(|b| b.boot);
            let last = self.detector.last_beat(owner.node).map(|b| b.boot);
            let boot = owner.boot.or(live).or(last).unwrap_or_default();
            // A life that is heard is not over, whatever was committed before it was.
            if gone || live != Some(boot) {
                ended.insert((owner.node, boot));
            }
        }
        for (node, boot) in ended {
            let mut candidates = candidates.to_vec();
            candidates.retain(|n| *n != node);
            if !candidates.is_empty() {
                out.push(GlobalCommand::FailNode {
                    node,
                    boot,
                    candidates,
                });
            }
        }
    }

    fn contacts(&self, out: &mut Vec<GlobalCommand>) {
        for (site, known) in &self.sites {
            let nodes = known.members.voter_nodes();
            let entry = self.state.sites.get(site);
            if entry.is_some_and(|e| e.presence != Presence::Gone && e.contacts != nodes) {
                out.push(GlobalCommand::SetSiteContacts { site: *site, nodes });
            }
        }
    }
}
