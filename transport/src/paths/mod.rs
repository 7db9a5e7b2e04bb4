//! Ways to peers: direct, or through one node of a third site while two sites can't talk (R27).
//!
//! A way works if soundings over it are answered over it: a reply that is lost is as bad as a
//! request that is. Peers in other sites that something is sent to are sounded all the time.
//! While direct soundings are not answered, ways through third sites are sounded too, and the
//! first that is answered carries everything for that peer, until another one is found in its
//! place, or until direct soundings were answered for long enough. With no way proven, messages
//! go as they went.
//!
//! **Invariant:** a message takes one way, once; what was passed on is never passed on again.
//! **Invariant:** what a relay says of an origin is believed of nodes in other sites than its own
//! and ours only.

mod line;
mod mark;
mod peer;

use std::collections::BTreeMap;
use std::time::Duration;

use bincode::{Decode, Encode};
use model::ids::{NodeId, SiteId};
use model::machine::Machine;
use model::time::Time;
use thiserror::Error;

pub use mark::{Leg, Mark, MarkError};
use peer::Peer;

/// Between two soundings of a peer.
const SOUND_EVERY: Duration = Duration::from_millis(200);

/// Peers that are due so soon after one that is are sounded with it: after a while all of them are
/// at once, and this process wakes up for all of them once.
const TOGETHER: Duration = Duration::from_millis(100);

/// A peer that nothing is sent to for so long is sounded no more, and forgotten.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// A tick that comes so late says that this process stood still.
const LATE: Duration = Duration::from_millis(100);

/// Asks whether a way works. The ways' own messages, of class `Meta`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Sounding {
    /// By whom the way begins with. Answered by `Answer`, over the same way.
    Ask {
        /// The asking node's clock, in nanoseconds; opaque to others.
        sent: u64,
    },
    /// By whom the way leads to.
    Answer {
        /// As asked.
        sent: u64,
    },
}

/// The next node on a frame's way, and what the frame's mark says to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// To whom it is sent.
    pub to: NodeId,
    /// Which leg of its way that is.
    pub leg: Leg,
}

/// What becomes of a frame that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It is for this node, from that one.
    Here {
        /// Who sent it first.
        origin: NodeId,
    },
    /// It is to be passed on.
    PassOn(Hop),
}

/// Why a frame is not taken.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// To be passed on to the relay itself.
    #[error("asked to pass on to itself")]
    ToRelay,
    /// To be passed on to where it came from.
    #[error("asked to pass on to its sender")]
    ToSender,
    /// Passed on by a node in its own name.
    #[error("passed on by its own origin")]
    ByOrigin,
    /// Passed on to its origin.
    #[error("came back to its origin")]
    ToOrigin,
    /// Origin, relay and target are not known to be in three sites.
    #[error("not between two sites through a third")]
    NotThird,
}

impl Refusal {
    /// Whether no sound peer sends such a frame, whatever it knows of the placement.
    #[must_use]
    pub fn is_breach(self) -> bool {
        self != Self::NotThird
    }
}

/// What may happen to the machine, beside messages that leave ([`Paths::leave`]) and arrive
/// ([`Paths::arrive`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Which nodes are in which sites.
    Sites(BTreeMap<NodeId, SiteId>),
    /// A sounding that is for this node.
    Sounding {
        /// Who handed it over.
        from: NodeId,
        /// The leg that it came on; never [`Leg::For`].
        leg: Leg,
        /// What it says.
        sounding: Sounding,
    },
}

/// What the machine asks its shell to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send a sounding, of class `Meta`.
    Sound {
        /// Its next hop.
        hop: Hop,
        /// What it says.
        sounding: Sounding,
    },
    /// From now on (or already) a peer is reached another way: for operators.
    Turned {
        /// The peer.
        peer: NodeId,
        /// Through whom; `None` for directly.
        relay: Option<NodeId>,
    },
}

/// The ways from one node to its peers.
#[derive(Debug)]
pub struct Paths {
    me: NodeId,
    sites: BTreeMap<NodeId, SiteId>,
    /// This node's site, once there are third sites at all.
    site: Option<SiteId>,
    peers: BTreeMap<NodeId, Peer>,
    due: Option<Time>,
}

impl Paths {
    /// Of a node that knows of no sites yet: everything goes directly.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            sites: BTreeMap::new(),
            site: None,
            peers: BTreeMap::new(),
            due: None,
        }
    }

    /// The first hop of a message to `to`.
    pub fn leave(&mut self, now: Time, to: NodeId) -> Hop {
        let direct = Hop {
            to,
            leg: Leg::Direct,
        };
        if self.other_site(to).is_none() {
            return direct;
        }
        match self.use_peer(now, to).relay_in_use() {
            Some(relay) => Hop {
                to: relay,
                leg: Leg::For(to),
            },
            None => direct,
        }
    }

    /// Judges a frame that `from` handed over, by its certificate.
    ///
    /// # Errors
    /// [`Refusal`]: it is dropped.
    pub fn arrive(&mut self, now: Time, from: NodeId, mark: Mark) -> Result<Arrival, Refusal> {
        match mark.leg {
            Leg::Direct => Ok(Arrival::Here { origin: from }),
            Leg::For(to) if to == self.me => Err(Refusal::ToRelay),
            Leg::For(to) if to == from => Err(Refusal::ToSender),
            Leg::For(to) => {
                if !self.is_third(from, self.me, to) {
                    return Err(Refusal::NotThird);
                }
                let leg = Leg::Of(from);
                Ok(Arrival::PassOn(Hop { to, leg }))
            }
            Leg::Of(origin) if origin == self.me => Err(Refusal::ToOrigin),
            Leg::Of(origin) if origin == from => Err(Refusal::ByOrigin),
            Leg::Of(origin) => {
                if !self.is_third(origin, from, self.me) {
                    return Err(Refusal::NotThird);
                }
                if !mark.sounding {
                    // It found this way, there and back, before it took it.
                    self.use_peer(now, origin).follow(now, from);
                }
                Ok(Arrival::Here { origin })
            }
        }
    }

    /// Peers that are not reached directly now, and through whom.
    pub fn relayed(&self) -> impl Iterator<Item = (NodeId, NodeId)> {
        let peers = self.peers.iter();
        peers.filter_map(|(id, peer)| Some((*id, peer.relay_in_use()?)))
    }

    /// The node's site, if it is another than ours and there is a third one.
    fn other_site(&self, node: NodeId) -> Option<SiteId> {
        let site = *self.sites.get(&node)?;
        (site != self.site?).then_some(site)
    }

    /// Whether three nodes are known to be in three sites.
    fn is_third(&self, a: NodeId, relay: NodeId, b: NodeId) -> bool {
        let site = |node| self.sites.get(&node);
        let (Some(a), Some(relay), Some(b)) = (site(a), site(relay), site(b)) else {
            return false;
        };
        a != relay && relay != b && a != b
    }

    fn use_peer(&mut self, now: Time, id: NodeId) -> &mut Peer {
        let due = &mut self.due;
        let peer = self.peers.entry(id).or_insert_with(|| {
            *due = Some(due.map_or(now, |due| due.min(now)));
            Peer::new(now)
        });
        peer.used = now;
        peer
    }

    fn know(&mut self, sites: BTreeMap<NodeId, SiteId>) {
        if sites == self.sites {
            return;
        }
        let mine = sites.get(&self.me).copied();
        let mut others: Vec<SiteId> = sites.values().copied().collect();
        others.sort_unstable();
        others.dedup();
        self.site = mine.filter(|_| others.len() >= 3);
        self.sites = sites;
        let known: Vec<NodeId> = self.peers.keys().copied().collect();
        for id in known {
            if self.other_site(id).is_none() {
                self.peers.remove(&id);
            }
        }
    }

    fn sounded(
        &mut self,
        now: Time,
        (from, leg): (NodeId, Leg),
        sounding: Sounding,
        out: &mut Vec<Effect>,
    ) {
        let (origin, relay, back) = match leg {
            Leg::Direct => (from, None, Leg::Direct),
            Leg::Of(origin) => (origin, Some(from), Leg::For(origin)),
            // A relay's business: never for this node.
            Leg::For(_) => return,
        };
        match sounding {
            Sounding::Ask { sent } => {
                let hop = Hop {
                    to: from,
                    leg: back,
                };
                let sounding = Sounding::Answer { sent };
                out.push(Effect::Sound { hop, sounding });
            }
            Sounding::Answer { sent } => {
                self.forgive(now);
                if let Some(peer) = self.peers.get_mut(&origin) {
                    peer.answered(now, relay, Time(sent));
                    if let Some(relay) = peer.judge(now) {
                        let peer = origin;
                        out.push(Effect::Turned { peer, relay });
                    }
                }
            }
        }
    }

    /// If this process stood still, silence meanwhile says nothing about the ways.
    fn forgive(&mut self, now: Time) {
        let late = self.due.map_or(Duration::ZERO, |due| now.since(due));
        if late >= LATE {
            // What was sounded last may be answered, and the answer not be read yet.
            let pause = late + SOUND_EVERY;
            for peer in self.peers.values_mut() {
                peer.forgive(now, pause);
            }
            self.due = Some(now);
        }
    }

    /// Nodes of third sites between this one and a peer, in an order that both ends share.
    fn candidate(&self, peer: NodeId, number: usize) -> Option<NodeId> {
        let thirds = || {
            let nodes = self.sites.keys().copied();
            nodes.filter(|node| self.is_third(self.me, *node, peer))
        };
        let count = thirds().count();
        let pair = usize::from(self.me.0) + usize::from(peer.0);
        thirds().nth((pair + number).checked_rem(count)?)
    }

    /// Soundings that are due to a peer now.
    fn sound(&mut self, now: Time, id: NodeId, out: &mut Vec<Effect>) {
        let sounding = Sounding::Ask { sent: now.0 };
        let mut ask = |to, leg| {
            let hop = Hop { to, leg };
            out.push(Effect::Sound { hop, sounding });
        };
        ask(id, Leg::Direct);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.due = now + SOUND_EVERY;
        let known = peer.relay_to_sound();
        let sought = peer.seek(now);
        if let Some(relay) = known {
            ask(relay, Leg::For(id));
        }
        for number in sought {
            if let Some(relay) = self.candidate(id, number).filter(|r| Some(*r) != known) {
                ask(relay, Leg::For(id));
            }
        }
    }

    /// Decides what is due, and when the next thing is.
    fn decide(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.peers
            .retain(|_, peer| now.since(peer.used) < IDLE_AFTER);
        let until = match self.peers.values().any(|peer| peer.due <= now) {
            true => now + TOGETHER,
            false => now,
        };
        let peers = self.peers.iter();
        let due = peers.filter(|(_, peer)| peer.due <= until);
        let due: Vec<NodeId> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.sound(now, id, out);
        }
        let mut soonest = None;
        for (id, peer) in &mut self.peers {
            if let Some(relay) = peer.judge(now) {
                out.push(Effect::Turned { peer: *id, relay });
            }
            let next = peer.next(now);
            soonest = Some(soonest.map_or(next, |s: Time| s.min(next)));
        }
        self.due = soonest;
    }
}

impl Machine for Paths {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Sites(sites) => self.know(sites),
            Input::Sounding {
                from,
                leg,
                sounding,
            } => self.sounded(now, (from, leg), sounding, out),
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.due
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.forgive(now);
        self.decide(now, out);
    }
}
