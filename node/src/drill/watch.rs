//! What the fabric says of itself while a drill goes on: asked again and again by a thread of
//! its own, since a node that is dead takes its time to answer nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::field::Field;
use crate::admin::protocol::{Nodes, Repair, RepairKind, Status};
use crate::check::History;

const PAUSE: Duration = Duration::from_millis(300);

/// What was said at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// When it was asked.
    pub(super) asked: Duration,
    /// When it was known.
    pub(super) at: Duration,
    pub(super) status: Status,
    /// Replicas of the volume's journal.
    pub(super) replicas: Option<usize>,
}

impl Look {
    /// Whether nothing is being repaired, or less safe than it should be. What is only spread
    /// better is as safe as it will be.
    pub(super) fn is_rebuilt(&self) -> bool {
        let mut repairs = self.status.repairs.iter();
        let is_rebalanced = |r: &Repair| r.kind == RepairKind::Rebalance;
        self.status.at_risk_bytes == Some(0) && repairs.all(is_rebalanced)
    }

    /// Whether nothing is wrong at all, and the volume has so many journal replicas.
    pub(super) fn is_whole(&self, replicas: usize) -> bool {
        // That one of them is behind for a moment is usual under load; `status` tells of those
        // that are out of step.
        let all = self.replicas.is_some_and(|of| of >= replicas);
        self.status.healthy && self.is_rebuilt() && all
    }

    /// Seconds until all repairs are done, as far as that is known.
    pub(super) fn eta_s(&self) -> Option<u64> {
        let repairs = self.status.repairs.iter();
        repairs.map(|r| r.eta_s).max().flatten()
    }
}

/// Counters of nodes, each of which begins anew with its process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    last: BTreeMap<String, u64>,
    total: u64,
    known: bool,
}

impl Traffic {
    /// What all nodes said, if all that are up did.
    pub(super) fn see(&mut self, nodes: &Nodes) {
        let is_first = !self.known;
        for node in &nodes.nodes {
            let Some(bytes) = node.repair_wan_bytes else {
                continue;
            };
            self.known = true;
            match self.last.insert(node.name.clone(), bytes) {
                // What was before the drill is not the drill's.
                None if is_first => {}
                None => self.total += bytes,
                Some(before) => self.total += bytes.checked_sub(before).unwrap_or(bytes),
            }
        }
    }

    /// These nodes' processes are new ones.
    pub(super) fn restarted(&mut self, nodes: &[String]) {
        for node in nodes {
            if let Some(last) = self.last.get_mut(node) {
                *last = 0;
            }
        }
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.known.then_some(self.total)
    }
}

#[derive(Debug, Default)]
struct Seen {
    looks: Vec<Look>,
    traffic: Traffic,
}

/// The thread, and what it saw.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins to watch the fabric and a volume.
    pub(super) fn start(field: Field, volume: String, history: Arc<History>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (told, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                look(&field, &volume, &history, &told);
                thread::sleep(PAUSE);
            }
        });
        Self {
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// What was said last.
    pub(super) fn latest(&self) -> Option<Look> {
        lock(&self.seen).looks.last().cloned()
    }

    /// Whether the last two answers that were asked for since then are so: one alone may be of a
    /// node that has not heard of it yet.
    pub(super) fn is_so(&self, since: Duration, is: impl Fn(&Look) -> bool) -> bool {
        let seen = lock(&self.seen);
        let fresh: Vec<&Look> = seen
            .looks
            .iter()
            .rev()
            .take(2)
            .filter(|l| l.asked >= since)
            .collect();
        fresh.len() == 2 && fresh.into_iter().all(is)
    }

    pub(super) fn restarted(&self, nodes: &[String]) {
        lock(&self.seen).traffic.restarted(nodes);
    }

    /// Ends; all that was said, and bytes of repair between sites.
    pub(super) fn end(mut self) -> (Vec<Look>, Option<u64>) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // What it saw before a panic stands.
            let _ = thread.join();
        }
        let seen = std::mem::take(&mut *lock(&self.seen));
        (seen.looks, seen.traffic.bytes())
    }
}

fn look(field: &Field, volume: &str, history: &History, seen: &Mutex<Seen>) {
    let asked = history.now();
    // Nobody may be there to answer.
    let Ok(status) = field.status() else { return };
    let shown = field.volume(volume).ok();
    let nodes = field.nodes().ok();
    let look = Look {
        asked,
        at: history.now(),
        status,
        replicas: shown.map(|v| v.journal.len()),
    };
    let mut seen = lock(seen);
    seen.looks.push(look);
    if let Some(nodes) = nodes {
        seen.traffic.see(&nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Look, Nodes, Status, Traffic};
    use crate::admin::protocol::{Condition, Node, UpOf};

    fn told(bytes: &[(&str, Option<u64>)]) -> Nodes {
        let node = |(name, bytes): &(&str, Option<u64>)| Node {
            name: (*name).to_owned(),
            site: "a".to_owned(),
            condition: Condition::Up,
            draining: false,
            maintenance_s: None,
            quic: String::new(),
            nbd: String::new(),
            volumes_owned: 0,
            capacity_bytes: 0,
            used_bytes: None,
            cache_bytes: None,
            repair_wan_bytes: *bytes,
        };
        Nodes {
            nodes: bytes.iter().map(node).collect(),
            unreachable: Vec::new(),
        }
    }

    #[test]
    fn full_protection_takes_all_of_it() {
        let all = UpOf { up: 9, of: 9 };
        let whole = Look {
            asked: Duration::ZERO,
            at: Duration::ZERO,
            status: Status {
                healthy: true,
                degraded: Vec::new(),
                at_risk_bytes: Some(0),
                repairs: Vec::new(),
                notes: Vec::new(),
                seen_by: "a1".to_owned(),
                sites: all,
                nodes: all,
                disks: all,
                volumes: all,
            },
            replicas: Some(3),
        };
        assert!(whole.is_whole(3) && whole.is_rebuilt());
        let with = |change: fn(&mut Look)| {
            let mut look = whole.clone();
            change(&mut look);
            look
        };
        assert!(
            !with(|l| l.replicas = Some(2)).is_whole(3),
            "a replica is missing"
        );
        assert!(!with(|l| l.replicas = None).is_whole(3), "nobody knows");
        assert!(!with(|l| l.status.healthy = false).is_whole(3));
        let at_risk = with(|l| l.status.at_risk_bytes = Some(1));
        assert!(!at_risk.is_whole(3) && !at_risk.is_rebuilt());
        let uncounted = with(|l| l.status.at_risk_bytes = None);
        assert!(
            !uncounted.is_rebuilt(),
            "what nobody counted may be at risk"
        );
    }

    #[test]
    fn counters_begin_where_the_drill_does_and_survive_restarts() {
        let mut traffic = Traffic::default();
        traffic.see(&told(&[("a1", None)]));
        assert_eq!(traffic.bytes(), None, "nobody counts");
        traffic.see(&told(&[("a1", Some(100)), ("b1", Some(7))]));
        assert_eq!(traffic.bytes(), Some(0));
        traffic.see(&told(&[("a1", Some(150)), ("b1", None)]));
        traffic.see(&told(&[("a1", Some(20)), ("b1", Some(7))]));
        assert_eq!(traffic.bytes(), Some(70), "a1 began anew");
        traffic.restarted(&["b1".to_owned()]);
        traffic.see(&told(&[("b1", Some(9)), ("c1", Some(5))]));
        assert_eq!(traffic.bytes(), Some(84), "b1 began anew, c1 is new");
    }
}
