//! What is known of the ways to one peer, and which of them is taken.

use std::ops::Range;
use std::time::Duration;

use model::ids::NodeId;
use model::time::Time;

use super::line::Line;

/// Third nodes that are tried at a time.
const TRIED_AT_ONCE: usize = 2;

/// The direct way must have worked for so long before it is taken again: doubled, up to the
/// second bound, whenever it broke within [`CALM`] of that.
const HEAL_MIN: Duration = Duration::from_secs(2);
const HEAL_MAX: Duration = Duration::from_secs(64);
const CALM: Duration = Duration::from_secs(60);

/// A way through a third node.
#[derive(Clone, Copy, Debug)]
struct Relay {
    node: NodeId,
    line: Line,
}

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// When something was last sent to it.
    pub(super) used: Time,
    /// When it is sounded next.
    pub(super) due: Time,
    direct: Line,
    /// The way that is taken, or that would be if the direct one broke.
    relay: Option<Relay>,
    relayed: bool,
    /// Third nodes tried so far.
    tried: usize,
    heal_after: Duration,
    healed: Option<Time>,
    told: Option<NodeId>,
}

impl Peer {
    /// One that nothing is known of: its direct way is taken for good.
    pub(super) fn new(now: Time) -> Self {
        Self {
            used: now,
            due: now,
            direct: Line::new(now),
            relay: None,
            relayed: false,
            tried: 0,
            heal_after: HEAL_MIN,
            healed: None,
            told: None,
        }
    }

    /// Through whom it is reached now, if not directly.
    pub(super) fn relay_in_use(&self) -> Option<NodeId> {
        self.relay.filter(|_| self.relayed).map(|r| r.node)
    }

    /// The relay whose way is known, and to be sounded.
    pub(super) fn relay_to_sound(&self) -> Option<NodeId> {
        self.relay.map(|r| r.node)
    }

    /// Which third nodes are to be tried now: none while some way seems to work.
    pub(super) fn seek(&mut self, now: Time) -> Range<usize> {
        let works = |r: &Relay| !r.line.is_doubtful(now);
        if !self.direct.is_doubtful(now) || self.relay.as_ref().is_some_and(works) {
            return 0..0;
        }
        let first = self.tried;
        // Far from overflow: it counts a few a second.
        self.tried += TRIED_AT_ONCE;
        first..self.tried
    }

    /// A sounding over a way was answered.
    pub(super) fn answered(&mut self, now: Time, relay: Option<NodeId>, sent: Time) {
        let Some(node) = relay else {
            self.direct.answered(now, sent);
            return;
        };
        match &mut self.relay {
            Some(relay) if relay.node == node => {
                relay.line.answered(now, sent);
            }
            Some(relay) if !relay.line.is_doubtful(now) => {}
            _ if self.direct.is_doubtful(now) || self.relayed => {
                let mut line = Line::new(now);
                if line.answered(now, sent) {
                    self.relay = Some(Relay { node, line });
                }
            }
            _ => {}
        }
    }

    /// It sent something through that node: unless the direct way is known to work, the answer
    /// goes the same way.
    pub(super) fn follow(&mut self, now: Time, node: NodeId) {
        if self.relayed || self.direct.is_proven(now) {
            return;
        }
        let known = |r: Relay| r.node == node && r.line.is_proven(now);
        if !self.relay.is_some_and(known) {
            let line = Line::new(now);
            self.relay = Some(Relay { node, line });
        }
        self.turn_away(now);
    }

    fn turn_away(&mut self, now: Time) {
        self.relayed = true;
        let flaps = self.healed.is_some_and(|at| now.since(at) < CALM);
        self.heal_after = if flaps {
            (self.heal_after * 2).min(HEAL_MAX)
        } else {
            HEAL_MIN
        };
    }

    /// Takes the way that is best now; through whom, if that is news.
    pub(super) fn judge(&mut self, now: Time) -> Option<Option<NodeId>> {
        if self.relayed {
            // A relay that fell silent is no worse than a direct way that is silent too; meanwhile
            // others are sought.
            let works = self.relay.is_some_and(|r| !r.line.is_broken(now));
            let better = !works && self.direct.is_proven(now);
            if better || self.direct.is_steady(now, self.heal_after) {
                (self.relayed, self.relay) = (false, None);
                self.healed = Some(now);
            }
        } else if self.direct.is_broken(now) {
            if self.relay.is_some_and(|r| r.line.is_proven(now)) {
                self.turn_away(now);
            }
        } else if !self.direct.is_doubtful(now) {
            self.relay = None;
        }
        let relay = self.relay_in_use();
        (std::mem::replace(&mut self.told, relay) != relay).then_some(relay)
    }

    /// When it is to be looked at again.
    pub(super) fn next(&self, now: Time) -> Time {
        let line = match &self.relay {
            Some(relay) if self.relayed => &relay.line,
            _ => &self.direct,
        };
        let breaks = line.breaks_at(now);
        if breaks > now {
            self.due.min(breaks)
        } else {
            self.due
        }
    }

    /// This process stood still for so long.
    pub(super) fn forgive(&mut self, now: Time, pause: Duration) {
        self.direct.forgive(now, pause);
        if let Some(relay) = &mut self.relay {
            relay.line.forgive(now, pause);
        }
    }
}
