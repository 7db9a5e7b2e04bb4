//! The simulated network: distances, jitter, loss, duplication, reordering, and links that are
//! slow or cut, in both directions or in one.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::{NodeId, SiteId};
use model::time::Time;
use serde::{Deserialize, Serialize};

use crate::pairs::Pairs;
use crate::plan::text::{as_duration, as_size};
use crate::rng::Rng;

/// How the network behaves in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkTerms {
    /// One way within a site.
    #[serde(with = "as_duration")]
    pub lan: Duration,
    /// One way between two sites, at least: each pair has a distance of its own, so that one
    /// replica lags behind the other.
    #[serde(with = "as_duration")]
    pub wan_min: Duration,
    /// One way between two sites, at most.
    #[serde(with = "as_duration")]
    pub wan_max: Duration,
    /// So many bytes a second of one class cross from a site to another, one message after the
    /// other; 0 if there is no bound.
    #[serde(with = "as_size")]
    pub wan_bytes_per_s: u64,
    /// Up to so much more, at random.
    #[serde(with = "as_duration")]
    pub jitter: Duration,
    /// One message in so many is lost; 0 for none.
    pub loss_one_in: u64,
    /// One message in so many comes twice; 0 for never.
    pub twice_one_in: u64,
    /// Whether messages of one class may overtake each other.
    pub reorder: bool,
}

/// When a message arrives: never, once or twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrivals {
    /// The message.
    pub first: Option<Time>,
    /// Its double.
    pub second: Option<Time>,
}

/// One direction of a link.
#[derive(Clone, Copy, Default, Debug)]
struct Link {
    /// So many faults cut it now.
    cuts: u32,
    /// So many faults slow it now.
    slowed: u32,
    /// What it carries waits until then.
    clogged: Time,
    /// When it has carried all that was sent, of each class.
    free: [Time; CLASSES],
}

/// Classes of messages: those of one do not overtake each other.
const CLASSES: usize = 4;

/// So much longer a message takes on a slow link, at most.
const SLOW_MAX: Duration = Duration::from_millis(600);

/// The network's state.
#[derive(Debug)]
pub struct Network {
    terms: NetworkTerms,
    rng: Rng,
    distances: Pairs<Option<Duration>>,
    links: Pairs<Link>,
    /// Nodes that are cut from all others, each by so many faults.
    lonely: BTreeMap<NodeId, u32>,
    /// When the last message between two nodes arrives, of each class.
    last: Pairs<[Time; CLASSES]>,
    faulty: bool,
}

impl Network {
    /// A whole network.
    #[must_use]
    pub fn new(terms: NetworkTerms, rng: Rng) -> Self {
        Self {
            terms,
            rng,
            distances: Pairs::default(),
            links: Pairs::default(),
            lonely: BTreeMap::new(),
            last: Pairs::default(),
            faulty: true,
        }
    }

    fn link(&mut self, from: SiteId, to: SiteId) -> &mut Link {
        self.links.at(usize::from(from.0), usize::from(to.0))
    }

    fn known(&self, from: SiteId, to: SiteId) -> Option<&Link> {
        self.links.get(usize::from(from.0), usize::from(to.0))
    }

    /// Cuts one direction between two sites; mended by [`Network::mend_sites`].
    pub fn cut_sites(&mut self, from: SiteId, to: SiteId) {
        self.link(from, to).cuts += 1;
    }

    /// Ends one cut.
    pub fn mend_sites(&mut self, from: SiteId, to: SiteId) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    /// Makes one direction between two sites slow; ended by [`Network::hasten`].
    pub fn slow(&mut self, from: SiteId, to: SiteId) {
        self.link(from, to).slowed += 1;
    }

    /// Ends one slowness.
    pub fn hasten(&mut self, from: SiteId, to: SiteId) {
        let link = self.link(from, to);
        link.slowed = link.slowed.saturating_sub(1);
    }

    /// What passes one direction between two sites waits until then, and comes all at once.
    pub fn clog(&mut self, from: SiteId, to: SiteId, until: Time) {
        let link = self.link(from, to);
        link.clogged = link.clogged.max(until);
    }

    /// Cuts a node from all others; mended by [`Network::mend_node`].
    pub fn cut_node(&mut self, node: NodeId) {
        *self.lonely.entry(node).or_default() += 1;
    }

    /// Ends one cut of a node.
    pub fn mend_node(&mut self, node: NodeId) {
        if let Some(cuts) = self.lonely.get_mut(&node) {
            *cuts -= 1;
            if *cuts == 0 {
                self.lonely.remove(&node);
            }
        }
    }

    /// Everything is mended, no loss and no duplication from now on.
    pub fn calm(&mut self) {
        for link in self.links.values_mut() {
            let free = link.free;
            *link = Link {
                free,
                ..Link::default()
            };
        }
        self.lonely.clear();
        self.faulty = false;
    }

    /// Whether nothing passes from one node to another now. Asked when a message leaves, and
    /// again when it would arrive: a cut swallows what is under way.
    #[must_use]
    pub fn is_cut(&self, from: (NodeId, SiteId), to: (NodeId, SiteId)) -> bool {
        let lonely = !self.lonely.is_empty()
            && (self.lonely.contains_key(&from.0) || self.lonely.contains_key(&to.0));
        lonely || (from.1 != to.1 && self.known(from.1, to.1).is_some_and(|l| l.cuts > 0))
    }

    /// Whether what one node asks gets to another, and the answer back.
    #[must_use]
    pub fn answers(&self, asks: (NodeId, SiteId), answers: (NodeId, SiteId)) -> bool {
        !self.is_cut(asks, answers) && !self.is_cut(answers, asks)
    }

    /// Whether it matters how long messages are between these two.
    #[must_use]
    pub fn is_narrow(&self, from: SiteId, to: SiteId) -> bool {
        from != to && self.terms.wan_bytes_per_s > 0
    }

    /// How long a message of so many bytes waits until it has left its site.
    fn queue(
        &mut self,
        now: Time,
        (from, to): (SiteId, SiteId),
        class: u8,
        bytes: u64,
    ) -> Duration {
        if !self.is_narrow(from, to) {
            return Duration::ZERO;
        }
        let takes = bytes.saturating_mul(1_000_000_000) / self.terms.wan_bytes_per_s;
        let free = &mut self.link(from, to).free[usize::from(class)];
        *free = (*free).max(now) + Duration::from_nanos(takes);
        free.since(now)
    }

    /// When a message of so many bytes arrives.
    pub fn carry(
        &mut self,
        now: Time,
        from: (NodeId, SiteId),
        to: (NodeId, SiteId),
        (class, bytes): (u8, u64),
    ) -> Arrivals {
        let never = Arrivals {
            first: None,
            second: None,
        };
        if self.is_cut(from, to) {
            return never;
        }
        if self.faulty && self.terms.loss_one_in > 0 && self.rng.one_in(self.terms.loss_one_in) {
            return never;
        }
        let base = self.distance(from.1, to.1) + self.queue(now, (from.1, to.1), class, bytes);
        let jitter = self.rng.duration(Duration::ZERO, self.terms.jitter);
        let mut at = now + base + jitter;
        if let Some(link) = self.known(from.1, to.1).copied() {
            if link.slowed > 0 {
                at += self.rng.duration(SLOW_MAX / 8, SLOW_MAX);
            }
            at = at.max(link.clogged);
        }
        let last = self.last.at(usize::from(from.0.0), usize::from(to.0.0));
        let last = &mut last[usize::from(class)];
        if !(self.terms.reorder && self.faulty) {
            at = at.max(*last + Duration::from_nanos(1));
        }
        *last = (*last).max(at);
        let doubles = self.faulty && self.terms.twice_one_in > 0;
        let second = (doubles && self.rng.one_in(self.terms.twice_one_in))
            .then(|| at + self.rng.duration(Duration::ZERO, Duration::from_millis(50)));
        Arrivals {
            first: Some(at),
            second,
        }
    }

    fn distance(&mut self, from: SiteId, to: SiteId) -> Duration {
        if from == to {
            return self.terms.lan;
        }
        let pair = (from.min(to), from.max(to));
        let (terms, rng) = (&self.terms, &mut self.rng);
        let known = self
            .distances
            .at(usize::from(pair.0.0), usize::from(pair.1.0));
        *known.get_or_insert_with(|| rng.duration(terms.wan_min, terms.wan_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (NodeId, SiteId) = (NodeId(1), SiteId(1));
    const B: (NodeId, SiteId) = (NodeId(2), SiteId(2));

    fn network() -> Network {
        let terms = NetworkTerms {
            lan: Duration::from_micros(50),
            wan_min: Duration::from_millis(1),
            wan_max: Duration::from_millis(9),
            wan_bytes_per_s: 0,
            jitter: Duration::from_millis(3),
            loss_one_in: 0,
            twice_one_in: 0,
            reorder: false,
        };
        Network::new(terms, Rng::new(1, 1))
    }

    #[test]
    fn a_link_is_whole_once_every_cut_of_it_is_mended() {
        let mut network = network();
        network.cut_sites(A.1, B.1);
        network.cut_sites(A.1, B.1);
        assert!(network.is_cut(A, B) && !network.is_cut(B, A));
        assert_eq!(network.carry(Time::ZERO, A, B, (0, 1)).first, None);
        network.mend_sites(A.1, B.1);
        assert!(network.is_cut(A, B));
        network.mend_sites(A.1, B.1);
        assert!(!network.is_cut(A, B));
        network.cut_node(B.0);
        assert!(network.is_cut(A, B) && network.is_cut(B, A));
        network.mend_node(B.0);
        assert!(!network.is_cut(A, B));
    }

    #[test]
    fn who_is_cut_off_in_one_direction_answers_nobody() {
        let mut network = network();
        assert!(network.answers(A, B) && network.answers(B, A));
        network.cut_sites(A.1, B.1);
        assert!(!network.answers(A, B) && !network.answers(B, A));
        network.mend_sites(A.1, B.1);
        network.cut_node(B.0);
        assert!(!network.answers(A, B) && !network.answers(B, A));
    }

    #[test]
    fn one_class_arrives_in_order() {
        let mut network = network();
        let mut last = Time::ZERO;
        for i in 0..1000 {
            let at = network
                .carry(Time(i), A, B, (0, 1))
                .first
                .expect("nothing is lost");
            assert!(at > last);
            last = at;
        }
    }

    #[test]
    fn a_narrow_link_carries_one_message_after_the_other() {
        let mut network = network();
        network.terms.wan_bytes_per_s = 1_000_000;
        let mut arrives = |from, to, class| {
            let arrivals = network.carry(Time::ZERO, from, to, (class, 100_000));
            arrivals.first.expect("nothing is lost").since(Time::ZERO)
        };
        let hundreds = |n: u64| Duration::from_millis(100 * n)..Duration::from_millis(100 * n + 12);
        for n in 1..=10 {
            assert!(hundreds(n).contains(&arrives(A, B, 1)));
        }
        assert!(hundreds(1).contains(&arrives(B, A, 1)));
        assert!(hundreds(1).contains(&arrives(A, B, 0)));
        assert!(hundreds(0).contains(&arrives(A, (NodeId(3), A.1), 1)));
    }
}
