//! Which volumes a node serves: the machine that starts Volume machines and drops them.
//!
//! **Invariant:** at most one Volume machine of a volume lives on a node; each life claims an
//! epoch of its own (R1), so that a wrong start costs an epoch, never a byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::ids::{Epoch, NodeId, VolumeId};
use model::placement::{Presence, View, VolumeRecord};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use crate::delivery::Asked;
use crate::messages::{Envelope, Message, VolumeReply, VolumeRequest};

/// Pause before a volume whose machine ended is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Pause between volumes that are woken though nobody asks for them.
const WAKE_PAUSE: Duration = Duration::from_millis(50);

/// What is to be done with a client's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// Its volume's machine runs here: deliver.
    Running,
    /// Start that machine here, then deliver.
    Start,
    /// The volume is another node's, or nobody's: send this answer, `NotOwner`.
    Elsewhere(Box<Envelope>),
}

/// A node's table of Volume machines.
#[derive(Debug)]
pub struct Host {
    node: NodeId,
    view: Arc<View>,
    running: BTreeSet<VolumeId>,
    paused: BTreeMap<VolumeId, Time>,
    /// The volumes that must run here by the view, and that have to be looked after wherever.
    wanted: BTreeSet<VolumeId>,
    /// No volume is woken before this.
    wake_at: Time,
    /// Some wait for that.
    sleepers: bool,
    stopping: bool,
}

impl Host {
    /// A host that serves nothing yet.
    #[must_use]
    pub fn new(node: NodeId, view: Arc<View>) -> Self {
        let mut host = Self {
            node,
            view: Arc::clone(&view),
            running: BTreeSet::new(),
            paused: BTreeMap::new(),
            wanted: BTreeSet::new(),
            wake_at: Time::ZERO,
            sleepers: false,
            stopping: false,
        };
        host.want(view.volumes.values());
        host
    }

    /// These records are new, or may be wanted for another reason than before.
    fn want<'a>(&mut self, records: impl Iterator<Item = &'a VolumeRecord>) {
        for record in records {
            if self.must_run(record) || self.is_to_wake(record) {
                self.wanted.insert(record.id);
            } else {
                self.wanted.remove(&record.id);
            }
        }
    }

    /// The volumes that run here.
    pub fn running(&self) -> impl Iterator<Item = VolumeId> {
        self.running.iter().copied()
    }

    /// The placement as it was last told.
    #[must_use]
    pub fn current_view(&self) -> &Arc<View> {
        &self.view
    }

    /// Whether a volume with this record must run here without being asked: it is assigned
    /// to this node, and something may have been acknowledged that no checkpoint covers.
    fn must_run(&self, record: &VolumeRecord) -> bool {
        let mine = record.owner.is_some_and(|owner| owner.node == self.node);
        mine && !record.clean && !record.deleted
    }

    /// Whether a volume that ended cleanly, and of which nothing was acknowledged since, has to be
    /// looked after, though nobody asks for it (it may have been given to a node meanwhile): a
    /// site is away, and what it has may be at risk (R26); its journal's
    /// place is on a disk that is to be emptied; what was cut off is to be freed; or a recovery
    /// founded none yet, and nobody knows whether its new place takes one.
    fn is_to_wake(&self, record: &VolumeRecord) -> bool {
        let view = &self.view;
        if !record.clean || record.deleted {
            return false;
        }
        let mut replicas = record.journal.replicas.iter();
        let drained = replicas.any(|at| {
            let disk = view.disks.get(&at.disk);
            disk.is_some_and(|d| d.duty.is_to_rest() && d.presence == Presence::Up)
        });
        let exposed = view.away().is_some() && record.checkpoint.root.is_some();
        let cut = record.cut.is_some() && record.checkpoint.root.is_some();
        drained || exposed || cut || record.to_recover().is_some()
    }

    /// Who wakes a volume: whoever it was given to, else a node of its home site, if any is there. Views may differ, and then
    /// two do: one claim makes the epoch, and the other one is refused (R1).
    fn waker(&self, record: &VolumeRecord) -> Option<NodeId> {
        if let Some(owner) = record.owner {
            return Some(owner.node);
        }
        let view = &self.view;
        let takes = |node: &NodeId| view.takes_volumes(*node);
        let all: Vec<NodeId> = view.nodes.keys().copied().filter(takes).collect();
        let is_home = |node: &&NodeId| view.nodes[*node].site == record.home;
        let home: Vec<NodeId> = all.iter().filter(is_home).copied().collect();
        let candidates = if home.is_empty() { all } else { home };
        let nth = u64::from(record.id.0) % candidates.len().max(1) as u64;
        candidates.get(usize::try_from(nth).ok()?).copied()
    }

    /// The placement changed; appends the volumes to be started.
    pub fn view(&mut self, now: Time, view: Arc<View>, start: &mut Vec<VolumeId>) {
        if view.version >= self.view.version {
            let before = std::mem::replace(&mut self.view, Arc::clone(&view));
            // What else makes a volume wanted is where its journal lies, and who is away.
            let same = before.disks == view.disks && before.sites == view.sites;
            match same {
                true => self.want(view.volumes.unlike(&before.volumes)),
                false => self.want(view.volumes.values()),
            }
        }
        self.due(now, start);
    }

    /// Appends the volumes that are to be started now.
    pub fn due(&mut self, now: Time, start: &mut Vec<VolumeId>) {
        if self.stopping {
            return;
        }
        self.paused.retain(|_, until| *until > now);
        let view = Arc::clone(&self.view);
        let may_wake = now >= self.wake_at;
        let (mut woken, mut asleep) = (None, false);
        let wanted = self.wanted.iter();
        for (id, record) in wanted.filter_map(|id| Some((id, view.volumes.get(id)?))) {
            if self.running.contains(id) || self.paused.contains_key(id) {
                continue;
            }
            // One at a time: who wakes which of the others is asked when it is their turn.
            if self.is_to_wake(record) {
                asleep = true;
                if may_wake && woken.is_none() && self.waker(record) == Some(self.node) {
                    woken = Some(*id);
                }
            }
            if self.must_run(record) {
                self.running.insert(*id);
                start.push(*id);
            }
        }
        if let Some(id) = woken {
            reached(Sometimes::VolumeWoken);
            self.wake_at = now + WAKE_PAUSE;
            self.running.insert(id);
            start.push(id);
        }
        self.sleepers = woken.is_some() || (asleep && !may_wake);
    }

    /// When [`Host::due`] must be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let wakes = self.sleepers.then_some(self.wake_at);
        self.paused.values().copied().chain(wakes).min()
    }

    /// A client's request for a volume arrived.
    pub fn route(&mut self, now: Time, volume: VolumeId, asked: &Asked<VolumeRequest>) -> Route {
        if self.running.contains(&volume) {
            return Route::Running;
        }
        let elsewhere = |epoch| {
            let answer = VolumeReply::NotOwner { epoch };
            Route::Elsewhere(Box::new(asked.back(Message::VolumeReply(answer))))
        };
        let Some(record) = self.view.volumes.get(&volume) else {
            return elsewhere(Epoch(0));
        };
        let mine = record.owner.is_none_or(|owner| owner.node == self.node);
        let paused = self.paused.get(&volume).is_some_and(|until| *until > now);
        if !mine || paused || self.stopping || record.deleted {
            return elsewhere(record.epoch);
        }
        self.running.insert(volume);
        Route::Start
    }

    /// A volume's machine ended.
    pub fn ended(&mut self, now: Time, volume: VolumeId) {
        if self.running.remove(&volume) {
            self.paused.insert(volume, now + RESTART_PAUSE);
        }
    }

    /// The node stops: nothing is started any more.
    pub fn stop(&mut self) {
        self.stopping = true;
    }
}

#[cfg(test)]
mod tests;
