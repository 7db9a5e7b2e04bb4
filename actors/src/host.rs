//! Which volumes a node serves: the machine that starts Volume machines and drops them.
//!
//! **Invariant:** at most one Volume machine of a volume lives on a node; each life claims an
//! epoch of its own (R1), so that a wrong start costs an epoch, never a byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::ids::{Epoch, NodeId, VolumeId};
use model::placement::{View, VolumeRecord};
use model::time::Time;

/// Pause before a volume whose machine ended is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What is to be done with a client's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Its machine runs here: deliver.
    Running,
    /// Start its machine here, then deliver.
    Start,
    /// Another node's, or nobody's: answer `NotOwner` with this epoch.
    Elsewhere(Epoch),
}

/// A node's table of Volume machines.
#[derive(Debug)]
pub struct Host {
    node: NodeId,
    view: Arc<View>,
    running: BTreeSet<VolumeId>,
    paused: BTreeMap<VolumeId, Time>,
    stopping: bool,
}

impl Host {
    /// A host that serves nothing yet.
    #[must_use]
    pub fn new(node: NodeId, view: Arc<View>) -> Self {
        Self {
            node,
            view,
            running: BTreeSet::new(),
            paused: BTreeMap::new(),
            stopping: false,
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

    /// The placement changed; appends the volumes to be started.
    pub fn view(&mut self, now: Time, view: Arc<View>, start: &mut Vec<VolumeId>) {
        if view.version >= self.view.version {
            self.view = view;
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
        for (id, record) in &view.volumes {
            let idle = !self.running.contains(id) && !self.paused.contains_key(id);
            if idle && self.must_run(record) {
                self.running.insert(*id);
                start.push(*id);
            }
        }
    }

    /// When [`Host::due`] must be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.paused.values().min().copied()
    }

    /// A client's request for a volume arrived.
    pub fn request(&mut self, now: Time, volume: VolumeId) -> Route {
        if self.running.contains(&volume) {
            return Route::Running;
        }
        let Some(record) = self.view.volumes.get(&volume) else {
            return Route::Elsewhere(Epoch(0));
        };
        let mine = record.owner.is_none_or(|owner| owner.node == self.node);
        let paused = self.paused.get(&volume).is_some_and(|until| *until > now);
        if !mine || paused || self.stopping || record.deleted {
            return Route::Elsewhere(record.epoch);
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
