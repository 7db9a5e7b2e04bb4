//! The simulated network: delay, loss, duplication, reordering, and links that are cut, in
//! both directions or in one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::ids::{NodeId, SiteId};
use model::time::Time;

use crate::rng::Rng;

/// How the network behaves in a run.
#[derive(Clone, Copy, Debug)]
pub struct NetworkTerms {
    /// One way within a site.
    pub lan: Duration,
    /// One way between sites.
    pub wan: Duration,
    /// Up to so much more, at random.
    pub jitter: Duration,
    /// One message in so many is lost; 0 for none.
    pub loss_one_in: u64,
    /// One message in so many comes twice; 0 for never.
    pub twice_one_in: u64,
    /// Whether messages of one class may overtake each other.
    pub reorder: bool,
}

/// The network's state.
#[derive(Debug)]
pub struct Network {
    terms: NetworkTerms,
    rng: Rng,
    cut_sites: BTreeSet<(SiteId, SiteId)>,
    cut_nodes: BTreeSet<(NodeId, NodeId)>,
    last: BTreeMap<(NodeId, NodeId, u8), Time>,
    faulty: bool,
}

impl Network {
    /// A whole network.
    #[must_use]
    pub fn new(terms: NetworkTerms, rng: Rng) -> Self {
        Self {
            terms,
            rng,
            cut_sites: BTreeSet::new(),
            cut_nodes: BTreeSet::new(),
            last: BTreeMap::new(),
            faulty: true,
        }
    }

    /// Cuts one direction between two sites.
    pub fn cut_sites(&mut self, from: SiteId, to: SiteId) {
        self.cut_sites.insert((from, to));
    }

    /// Cuts one direction between two nodes.
    pub fn cut_nodes(&mut self, from: NodeId, to: NodeId) {
        self.cut_nodes.insert((from, to));
    }

    /// Mends every link.
    pub fn heal(&mut self) {
        self.cut_sites.clear();
        self.cut_nodes.clear();
    }

    /// No loss and no duplication from now on.
    pub fn calm(&mut self) {
        self.heal();
        self.faulty = false;
    }

    /// When a message arrives: never, once or twice.
    pub fn carry(
        &mut self,
        now: Time,
        (from, from_site): (NodeId, SiteId),
        (to, to_site): (NodeId, SiteId),
        class: u8,
    ) -> Vec<Time> {
        let cut = self.cut_sites.contains(&(from_site, to_site))
            || self.cut_nodes.contains(&(from, to));
        let lossy = self.faulty && self.terms.loss_one_in > 0;
        if cut || (lossy && self.rng.one_in(self.terms.loss_one_in)) {
            return Vec::new();
        }
        let base = if from_site == to_site { self.terms.lan } else { self.terms.wan };
        let mut at = now + base + self.rng.duration(Duration::ZERO, self.terms.jitter);
        let last = self.last.entry((from, to, class)).or_default();
        if !(self.terms.reorder && self.faulty) {
            at = at.max(*last + Duration::from_nanos(1));
        }
        *last = (*last).max(at);
        let twice = self.faulty && self.terms.twice_one_in > 0 && self.rng.one_in(self.terms.twice_one_in);
        if twice {
            vec![at, at + self.rng.duration(Duration::ZERO, Duration::from_millis(50))]
        } else {
            vec![at]
        }
    }
}
