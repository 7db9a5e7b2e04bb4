//! Who lives, as one node hears it. Every voter keeps its own view, so that a new leader acts
//! at once (R11). Detection is hysteresis over beats; a decision is always an entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::ids::{DiskRef, NodeId};
use model::time::Time;

use crate::message::{Beat, DISKS_PER_NODE_MAX};

/// Bound of nodes that are listened to.
const NODES_MAX: usize = 1 << 16;

/// Bound of the disks that a node ever served and that are remembered.
const DISKS_REMEMBERED_MAX: usize = 2 * DISKS_PER_NODE_MAX;

/// What is heard of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Beats came without a gap for long enough.
    Alive,
    /// Something between: it was heard lately, but not for long enough.
    Unsure,
    /// No beat for too long.
    Dead,
}

#[derive(Clone, Debug)]
struct Heard {
    last: Time,
    since: Time,
    /// Since when all its beats say that it hears no leader of the global group.
    cut_since: Option<Time>,
    beat: Option<Arc<Beat>>,
    /// When each disk that the node ever served was last served.
    disks: BTreeMap<DiskRef, Time>,
    /// Of each disk that it serves now: whether it has room, and since when.
    room: BTreeMap<DiskRef, (bool, Time)>,
}

/// A node's view of the others.
#[derive(Clone, Debug)]
pub struct Detector {
    dead_after: Duration,
    up_after: Duration,
    nodes: BTreeMap<NodeId, Heard>,
}

impl Detector {
    /// A detector that has heard nobody yet.
    #[must_use]
    pub fn new(dead_after: Duration, up_after: Duration) -> Self {
        Self {
            dead_after,
            up_after,
            nodes: BTreeMap::new(),
        }
    }

    /// From now on this node is listened for: silence counts from now, if it was not already.
    pub fn expect(&mut self, now: Time, node: NodeId) {
        if self.nodes.len() < NODES_MAX {
            self.nodes.entry(node).or_insert_with(|| Heard::new(now));
        }
    }

    /// A beat came.
    pub fn heard(&mut self, now: Time, node: NodeId, beat: impl Into<Arc<Beat>>) {
        let beat = beat.into();
        let dead_after = self.dead_after;
        self.expect(now, node);
        let Some(heard) = self.nodes.get_mut(&node) else {
            return;
        };
        let new_life = heard.beat.as_ref().is_none_or(|old| old.boot != beat.boot);
        if new_life || now.since(heard.last) >= dead_after {
            heard.since = now;
        }
        heard.last = now;
        heard.cut_since = match heard.cut_since {
            _ if beat.global_quorum => None,
            since => since.or(Some(now)),
        };
        for disk in &beat.disks {
            heard.disks.insert(disk.at, now);
        }
        while heard.disks.len() > DISKS_REMEMBERED_MAX {
            let oldest = heard.disks.iter().min_by_key(|(_, seen)| **seen);
            let oldest = oldest.map(|(at, _)| *at).expect("there are some");
            heard.disks.remove(&oldest);
        }
        if heard
            .beat
            .as_ref()
            .is_none_or(|old| old.disks != beat.disks)
        {
            let before = std::mem::take(&mut heard.room);
            for disk in &beat.disks {
                let known = before.get(&disk.at).copied();
                let same = known.filter(|(had, _)| *had == disk.has_room);
                let room = same.unwrap_or((disk.has_room, now));
                heard.room.insert(disk.at, room);
            }
        }
        heard.beat = Some(beat);
    }

    /// This process itself stood still: silence meanwhile says nothing about the others.
    pub fn forgive(&mut self, now: Time, pause: Duration) {
        for heard in self.nodes.values_mut() {
            heard.last = (heard.last + pause).min(now);
            for seen in heard.disks.values_mut() {
                *seen = (*seen + pause).min(now);
            }
        }
    }

    /// What is heard of a node; one that nobody listens for is `Unsure`.
    #[must_use]
    pub fn liveness(&self, now: Time, node: NodeId) -> Liveness {
        let Some(heard) = self.nodes.get(&node) else {
            return Liveness::Unsure;
        };
        if now.since(heard.last) >= self.dead_after {
            Liveness::Dead
        } else if heard.beat.is_some() && now.since(heard.since) >= self.up_after {
            Liveness::Alive
        } else {
            Liveness::Unsure
        }
    }

    /// Whether a node that is listened for was silent for half as long again as makes it dead.
    #[must_use]
    pub fn is_long_dead(&self, now: Time, node: NodeId) -> bool {
        let long = self.dead_after + self.dead_after / 2;
        self.nodes
            .get(&node)
            .is_some_and(|h| now.since(h.last) >= long)
    }

    /// Whether a node that is heard has long said that it hears no leader of the global group:
    /// longer than an election takes. It can't do anything for its volumes (R11).
    #[must_use]
    pub fn is_cut(&self, now: Time, node: NodeId) -> bool {
        let long = self.dead_after + self.dead_after / 2;
        let heard = self.nodes.get(&node);
        let since = heard.and_then(|h| h.cut_since);
        since.is_some_and(|since| now.since(since) >= long)
    }

    /// The last beat of a node that is not dead.
    #[must_use]
    pub fn beat(&self, now: Time, node: NodeId) -> Option<&Beat> {
        let heard = self.nodes.get(&node)?;
        let is_fresh = now.since(heard.last) < self.dead_after;
        heard.beat.as_deref().filter(|_| is_fresh)
    }

    /// The last beat ever heard of a node.
    #[must_use]
    pub fn last_beat(&self, node: NodeId) -> Option<&Beat> {
        self.nodes.get(&node)?.beat.as_deref()
    }

    /// For how long nobody has served that disk, as far as was listened: since its node was
    /// last heard to, or since the node's present life began without it.
    #[must_use]
    pub fn disk_silence(&self, now: Time, node: NodeId, at: DiskRef) -> Option<Duration> {
        let heard = self.nodes.get(&node)?;
        if now.since(heard.last) >= self.dead_after {
            return Some(now.since(heard.last));
        }
        let since = heard.disks.get(&at).copied().unwrap_or(heard.since);
        Some(now.since(since))
    }

    /// Whether a disk has taken fragments, or has taken none, for how long: one that nobody serves
    /// takes none.
    #[must_use]
    pub fn room(&self, now: Time, node: NodeId, at: DiskRef) -> Option<(bool, Duration)> {
        let heard = self.nodes.get(&node)?;
        let silence = now.since(heard.last);
        match heard.room.get(&at) {
            Some((has_room, since)) if silence < self.dead_after => {
                Some((*has_room, now.since(*since)))
            }
            _ => Some((false, self.disk_silence(now, node, at)?)),
        }
    }

    /// Whether a live node has not served that disk for too long.
    #[must_use]
    pub fn disk_is_dead(&self, now: Time, node: NodeId, at: DiskRef) -> bool {
        let Some(heard) = self.nodes.get(&node) else {
            return false;
        };
        let listened = heard.beat.is_some() && now.since(heard.since) >= self.dead_after;
        let seen = heard.disks.get(&at);
        listened && seen.is_none_or(|seen| now.since(*seen) >= self.dead_after)
    }
}

impl Heard {
    fn new(now: Time) -> Self {
        Self {
            last: now,
            since: now,
            cut_since: None,
            beat: None,
            disks: BTreeMap::new(),
            room: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::ids::{Boot, Incarnation, SiteId};

    use super::*;
    use crate::message::MemberId;

    const MS: Duration = Duration::from_millis(1);
    const NODE: NodeId = NodeId(7);

    fn beat(boot: u64) -> Beat {
        let address = "127.0.0.1:1".parse().expect("an address");
        Beat {
            site: SiteId(1),
            boot: Boot(boot),
            member: MemberId::new(NODE, Incarnation(3)),
            name: "n".to_owned(),
            address,
            nbd: address,
            site_quorum: true,
            global_quorum: true,
            disks: Vec::new(),
            healed: Vec::new(),
        }
    }

    /// R11: a node that others hear, but that hears nobody, is as good as dead; an election's
    /// time is not enough to say so.
    #[test]
    fn a_node_that_hears_no_leader_for_long_is_cut() {
        let mut d = Detector::new(1200 * MS, 1000 * MS);
        let at = |ms: u32| Time::ZERO + ms * MS;
        let cut = Beat {
            global_quorum: false,
            ..beat(1)
        };
        for ms in (0..1800).step_by(100) {
            assert!(!d.is_cut(at(ms), NODE));
            d.heard(at(ms), NODE, cut.clone());
        }
        assert!(d.is_cut(at(1800), NODE));
        d.heard(at(1900), NODE, beat(1));
        assert!(!d.is_cut(at(1900), NODE));
        d.heard(at(2000), NODE, cut);
        assert!(!d.is_cut(at(3000), NODE));
    }

    #[test]
    fn hysteresis() {
        let mut d = Detector::new(1200 * MS, 1000 * MS);
        let at = |ms: u32| Time::ZERO + ms * MS;
        assert_eq!(d.liveness(at(0), NODE), Liveness::Unsure);
        d.expect(at(0), NODE);
        assert_eq!(d.liveness(at(1199), NODE), Liveness::Unsure);
        assert_eq!(d.liveness(at(1200), NODE), Liveness::Dead);
        for ms in (2000..=3000).step_by(200) {
            assert_ne!(d.liveness(at(ms - 1), NODE), Liveness::Alive);
            d.heard(at(ms), NODE, beat(1));
        }
        assert_eq!(d.liveness(at(3000), NODE), Liveness::Alive);
        // A new life starts over; a gap does too.
        d.heard(at(3200), NODE, beat(2));
        assert_eq!(d.liveness(at(3200), NODE), Liveness::Unsure);
        assert_eq!(d.liveness(at(4400), NODE), Liveness::Dead);
        assert!(d.beat(at(4400), NODE).is_none() && d.last_beat(NODE).is_some());
        d.forgive(at(4400), 1000 * MS);
        assert_eq!(d.liveness(at(4400), NODE), Liveness::Alive);
    }
}
