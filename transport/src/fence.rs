//! The fence around a site that is lost for a drill: a node that keeps it neither sends to that
//! site's nodes nor hears them, itself or through others, as if the site were not there.
//!
//! It is an order with a dead man's switch. Who drills renews it again and again; what is not
//! renewed in time is over, by each node's own clock, whatever died: the drill, the node that it
//! asks, or the network between them. Nothing of it outlives the process.
//!
//! **Invariant:** what is over stays over. A late order of a drill that ended, or that this
//! process never heard begin, raises nothing.
//! **Invariant:** no node fences its own site, so a site is lost to the others and never to itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bincode::{Decode, Encode};
use model::ids::{NodeId, SiteId};
use model::machine::Machine;
use model::time::Time;
use thiserror::Error;

/// A fence that is not renewed for so long is over.
pub const UNRENEWED_MAX: Duration = Duration::from_secs(3);

/// No fence lasts longer, however often it is renewed.
pub const LASTS_MAX: Duration = Duration::from_secs(600);

/// Drills that are remembered as over; what was sent for an older one is long lost.
const OVER_MAX: usize = 16;

/// A drill, by a number that it drew for itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct DrillId(pub u64);

/// From who drills to each node outside the site. Answered with [`Standing`] or [`Refusal`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Order {
    /// Whose it is.
    pub drill: DrillId,
    /// The site that is fenced.
    pub site: SiteId,
    /// 0 raises the fence; each renewal has a higher one than those before.
    pub number: u64,
    /// For how much longer the drill wants it at most, in milliseconds: a span, since no two
    /// nodes' clocks are compared.
    pub left_ms: u64,
}

/// A fence that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Standing {
    /// Whose it is.
    pub drill: DrillId,
    /// The site that is fenced.
    pub site: SiteId,
    /// It is over in so long unless it is renewed.
    pub ends_in_ms: u64,
    /// And in so long whether it is renewed or not.
    pub left_ms: u64,
}

/// Why an order changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Error)]
pub enum Refusal {
    /// The node is in the site itself.
    #[error("it is in that site itself")]
    OwnSite,
    /// The node knows of no node in that site, or not in which one it is itself.
    #[error("it does not know that site")]
    NoSite,
    /// Another drill's fence stands, or this one's around another site.
    #[error("it keeps another fence")]
    Busy,
    /// That drill's fence ended here.
    #[error("its fence is over")]
    Over,
    /// A renewal of what never began here: the process is a new one.
    #[error("it was started after the fence was raised")]
    Unknown,
    /// Not newer than what came before.
    #[error("the order is older than the last one")]
    Stale,
}

/// What may happen to the machine, beside orders ([`Fence::order`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Which nodes are in which sites.
    Sites(BTreeMap<NodeId, SiteId>),
    /// A drill is over: its fence ends at once.
    Lift(DrillId),
}

/// What the machine tells its shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// From now on the site is fenced: what waits for its nodes is lost.
    Raised {
        /// Which.
        site: SiteId,
    },
    /// The site is not fenced any more.
    Ended {
        /// Which.
        site: SiteId,
        /// Whether it was told so, and did not run out.
        lifted: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Stands {
    drill: DrillId,
    site: SiteId,
    number: u64,
    /// When it is over unless it is renewed.
    until: Time,
    /// When it is over whatever comes.
    last: Time,
}

/// The fence at one node.
#[derive(Debug)]
pub struct Fence {
    me: NodeId,
    sites: BTreeMap<NodeId, SiteId>,
    stands: Option<Stands>,
    over: VecDeque<DrillId>,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Stands {
    fn standing(&self, now: Time) -> Standing {
        Standing {
            drill: self.drill,
            site: self.site,
            ends_in_ms: millis(self.until.since(now)),
            left_ms: millis(self.last.since(now)),
        }
    }

    /// Takes an order's word for how long.
    fn renew(&mut self, now: Time, order: Order) {
        self.number = order.number;
        // An order may shorten what is left, and never lengthens it.
        self.last = self.last.min(now + Duration::from_millis(order.left_ms));
        self.until = self.last.min(now + UNRENEWED_MAX);
    }
}

impl Fence {
    /// None, at a node that knows of no sites yet.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            sites: BTreeMap::new(),
            stands: None,
            over: VecDeque::new(),
        }
    }

    /// Whether nothing passes between this node and that one now. Asks the clock and not the
    /// timer: a fence ends in time though nobody ticks.
    #[must_use]
    pub fn bars(&self, now: Time, node: NodeId) -> bool {
        let stands = self.stands.filter(|s| now < s.until);
        stands.is_some_and(|s| self.sites.get(&node) == Some(&s.site))
    }

    /// The nodes that are fenced now.
    pub fn barred(&self, now: Time) -> impl Iterator<Item = NodeId> {
        let all = self.sites.keys().copied();
        all.filter(move |node| self.bars(now, *node))
    }

    /// The fence that is kept now.
    #[must_use]
    pub fn standing(&self, now: Time) -> Option<Standing> {
        let stands = self.stands.filter(|s| now < s.until);
        stands.map(|s| s.standing(now))
    }

    /// Takes an order.
    ///
    /// # Errors
    /// [`Refusal`]: it changes nothing.
    pub fn order(
        &mut self,
        now: Time,
        order: Order,
        out: &mut Vec<Effect>,
    ) -> Result<Standing, Refusal> {
        self.tick(now, out);
        let mine = self.sites.get(&self.me).ok_or(Refusal::NoSite)?;
        if *mine == order.site {
            return Err(Refusal::OwnSite);
        }
        if !self.sites.values().any(|site| *site == order.site) {
            return Err(Refusal::NoSite);
        }
        if self.over.contains(&order.drill) || order.left_ms == 0 {
            return Err(Refusal::Over);
        }
        match &mut self.stands {
            Some(s) if s.drill != order.drill || s.site != order.site => Err(Refusal::Busy),
            Some(s) if order.number <= s.number => Err(Refusal::Stale),
            Some(s) => {
                s.renew(now, order);
                Ok(s.standing(now))
            }
            None if order.number != 0 => Err(Refusal::Unknown),
            None => Ok(self.raise(now, order, out)),
        }
    }

    fn raise(&mut self, now: Time, order: Order, out: &mut Vec<Effect>) -> Standing {
        let mut stands = Stands {
            drill: order.drill,
            site: order.site,
            number: order.number,
            until: now,
            last: now + LASTS_MAX,
        };
        stands.renew(now, order);
        self.stands = Some(stands);
        out.push(Effect::Raised { site: order.site });
        assert!(
            self.sites.get(&self.me) != Some(&order.site),
            "no node fences its own site"
        );
        stands.standing(now)
    }

    fn end(&mut self, lifted: bool, out: &mut Vec<Effect>) {
        if let Some(stands) = self.stands.take() {
            let site = stands.site;
            self.remember(stands.drill);
            out.push(Effect::Ended { site, lifted });
        }
    }

    fn remember(&mut self, drill: DrillId) {
        if self.over.contains(&drill) {
            return;
        }
        if self.over.len() == OVER_MAX {
            self.over.pop_front();
        }
        self.over.push_back(drill);
    }
}

impl Machine for Fence {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        self.tick(now, out);
        match input {
            Input::Sites(sites) => {
                self.sites = sites;
                let mine = self.sites.get(&self.me).copied();
                if self.stands.is_some_and(|s| Some(s.site) == mine) {
                    self.end(false, out);
                }
            }
            Input::Lift(drill) => {
                if self.stands.is_some_and(|s| s.drill == drill) {
                    self.end(true, out);
                }
                // Its first order may be late, and must not raise it then.
                self.remember(drill);
            }
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.stands.map(|s| s.until)
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.stands.is_some_and(|s| s.until <= now) {
            self.end(false, out);
        }
    }
}
