//! Deaths: new owners for the volumes of a node's ended life, and of a silent site's nodes.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::{Code, Pool};
use model::ids::{Boot, NodeId, SiteId, VolumeId};
use model::placement::{Owner, Presence};
use model::sometimes::{Sometimes, reached};

use super::{GlobalState, SiteEntry};

/// R26: so many fragments in each of the sites that are left, at least and at most.
const AWAY_WIDTH: std::ops::RangeInclusive<u8> = 2..=4;

/// Candidates by how much they own, those of each site, and all of them.
struct Ranking {
    sites: BTreeMap<NodeId, SiteId>,
    all: BTreeSet<(usize, NodeId)>,
    of_site: BTreeMap<SiteId, BTreeSet<(usize, NodeId)>>,
}

impl Ranking {
    fn new(candidates: impl Iterator<Item = (NodeId, SiteId, usize)>) -> Self {
        let mut ranking = Self {
            sites: BTreeMap::new(),
            all: BTreeSet::new(),
            of_site: BTreeMap::new(),
        };
        for (node, site, owned) in candidates {
            ranking.sites.insert(node, site);
            ranking.rank(node, site, owned);
        }
        ranking
    }

    fn rank(&mut self, node: NodeId, site: SiteId, owned: usize) {
        self.all.insert((owned, node));
        self.of_site.entry(site).or_default().insert((owned, node));
    }

    /// The one that owns least, of that site if it has any; it owns one more now.
    fn take(&mut self, home: SiteId) -> NodeId {
        let at_home = self.of_site.get(&home).and_then(BTreeSet::first);
        let least = at_home.or_else(|| self.all.first());
        let (owned, node) = *least.expect("there is a candidate");
        let site = self.sites[&node];
        self.all.remove(&(owned, node));
        self.of_site.entry(site).or_default().remove(&(owned, node));
        self.rank(node, site, owned + 1);
        node
    }
}

impl GlobalState {
    pub(super) fn fail_node(&mut self, node: NodeId, boot: Boot, candidates: &[NodeId]) -> bool {
        let candidates = self.known(candidates, |n, _| n != node);
        let ended = |owner: &Owner| owner.boot.is_none_or(|claimed| claimed == boot);
        self.reassign(&candidates, &BTreeSet::from([node]), ended)
    }

    /// The volumes of a node that is drained, or will stop, go to others.
    pub(super) fn evacuate(&mut self, node: NodeId, candidates: &[NodeId]) -> bool {
        let leaves = self
            .nodes
            .get(&node)
            .is_some_and(|n| n.duty.is_to_rest() && !n.gone);
        let candidates = self.known(candidates, |n, _| n != node);
        leaves && self.reassign(&candidates, &BTreeSet::from([node]), |_| true)
    }

    pub(super) fn fail_site(&mut self, site: SiteId, candidates: &[NodeId]) -> bool {
        match self.sites.get_mut(&site) {
            Some(entry) if entry.presence != Presence::Gone => {
                reached(Sometimes::SiteDown);
                entry.presence = Presence::Down;
            }
            _ => return false,
        }
        // Never without two sites at once: new segments need those that are left.
        self.unwritable = None;
        let candidates = self.known(candidates, |_, of| of != site);
        let lost: BTreeSet<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.site == site)
            .map(|(id, _)| *id)
            .collect();
        self.reassign(&candidates, &lost, |_| true);
        self.create_pool_without(site, &candidates);
        true
    }

    pub(super) fn return_site(&mut self, site: SiteId) -> bool {
        match self.sites.get_mut(&site) {
            Some(entry) if entry.presence == Presence::Down => {
                reached(Sometimes::SiteUp);
                entry.presence = Presence::Up;
                true
            }
            _ => false,
        }
    }

    /// Candidates with their sites, each once, that the filter admits.
    pub(super) fn known(
        &self,
        candidates: &[NodeId],
        admit: impl Fn(NodeId, SiteId) -> bool,
    ) -> BTreeMap<NodeId, SiteId> {
        let with_site = candidates
            .iter()
            .filter_map(|n| Some((*n, self.site_of_node(*n)?)));
        with_site.filter(|(n, s)| admit(*n, *s)).collect()
    }

    /// Gives every volume whose owner is one of `lost`, and ended, to a candidate: in the home
    /// site if there is one, and always to the one that owns least. `clean` stays: nobody wrote in
    /// the new epoch.
    fn reassign(
        &mut self,
        candidates: &BTreeMap<NodeId, SiteId>,
        lost: &BTreeSet<NodeId>,
        ended: impl Fn(&Owner) -> bool,
    ) -> bool {
        if candidates.is_empty() {
            return false;
        }
        let concerned = |id: &VolumeId| self.volumes[id].owner.as_ref().is_some_and(&ended);
        let of_lost = lost.iter().flat_map(|node| self.volumes.owned_by(*node));
        let mut concerned: Vec<VolumeId> = of_lost.filter(concerned).collect();
        concerned.sort_unstable();
        let owned = |node: NodeId| self.volumes.owned_by(node).len();
        let mut ranking = Ranking::new(candidates.iter().map(|(n, s)| (*n, *s, owned(*n))));
        for id in concerned {
            let mut volume = self.volumes.edit(id).expect("its owner was just read");
            let to = ranking.take(volume.home);
            volume.epoch = volume.epoch.next();
            volume.owner = Some(Owner {
                node: to,
                boot: None,
            });
        }
        true
    }

    /// R26: the site that new segments do without, if they have no pool over those that are left.
    /// With one data site left there is none to make, unless a policy allows it: the journal stalls
    /// (R22).
    #[must_use]
    pub fn lacks_pool_without(&self) -> Option<SiteId> {
        // One whose nodes were all removed is away, too.
        let was_founded = |s: &SiteEntry| s.is_settled() || s.generation > 0;
        let of_data = self
            .sites
            .iter()
            .filter(|(_, s)| s.presence != Presence::Gone && s.role.holds_data() && was_founded(s));
        let settled: Vec<SiteId> = of_data.map(|(site, _)| *site).collect();
        let is_up = |s: &SiteId| self.sites[s].presence == Presence::Up;
        let mut away = settled.iter().copied().filter(|s| !is_up(s));
        let site = match (away.next(), away.next()) {
            (Some(site), None) => site,
            (None, None) => self.unwritable?,
            _ => return None,
        };
        let of_left = self.pools.iter().filter(|(p, _)| p.without == Some(site));
        // One that was made before a site was added does without that, too.
        let exists = of_left
            .into_iter()
            .any(|(p, entry)| !self.is_outgrown(*p, entry));
        (settled.len() > self.fewest_sites() && !exists).then_some(site)
    }

    /// R26: new segments go to `rs n+n` over the sites that are left, by how many nodes live
    /// there. With none known in one of them, it is too early to tell.
    pub(super) fn create_pool_without(
        &mut self,
        away: SiteId,
        live: &BTreeMap<NodeId, SiteId>,
    ) -> bool {
        if self.lacks_pool_without() != Some(away) {
            return false;
        }
        let of = |site: &SiteId| live.values().filter(|s| *s == site).count();
        let settled = self.data_sites();
        let left = settled.iter().filter(|s| **s != away);
        let smallest = left.map(of).min().unwrap_or(0);
        if smallest == 0 {
            return false;
        }
        let n = u8::try_from(smallest).unwrap_or(u8::MAX);
        let n = n.clamp(*AWAY_WIDTH.start(), *AWAY_WIDTH.end());
        // The last of them by layout is taken, whatever its code.
        let of_left = self.pools.keys().filter(|p| p.without == Some(away));
        let last = of_left.map(|pool| pool.layout).max();
        let pool = Pool {
            without: Some(away),
            ..Pool::of(Code::Rs { k: n, m: n })
        };
        // It fits by construction, unless the fabric's bound of pools is reached: then
        // segments keep going to the pools there are.
        self.create_layout(pool, last).is_ok()
    }
}
