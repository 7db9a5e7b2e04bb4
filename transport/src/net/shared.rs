//! What all tasks of a transport share: its peers, their queues and connections.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use model::ids::NodeId;
use model::payload::Payload;
use quinn::VarInt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use super::accept::Inbound;
use super::config::Config;
use super::dial;
use super::endpoint::SendError;
use super::fence::Fencing;
use super::gate::Gate;
use super::join::JoinGuard;
use super::queue::Queue;
use super::stats::WireCounters;
use super::ways::Ways;
use crate::class::{Class, Lane};
use crate::frame::{self, Limits};
use crate::name::FabricId;
use crate::paths::Mark;

/// One of the connections between this node and a peer.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub(crate) connection: Option<quinn::Connection>,
    task: Option<AbortHandle>,
    pub(crate) connects: u64,
}

/// A peer: queues, and the connections that drain them.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) queues: [Queue; 4],
    /// Wakes a lane's task when it waits for work.
    pub(crate) work: [Notify; 2],
    pub(crate) wire: WireCounters,
    pub(crate) outbound: Mutex<[Outbound; 2]>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No holder leaves the data half changed: a poisoned lock is as good as another.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    fn new(id: NodeId, config: &Config) -> Self {
        Self {
            id,
            queues: config.classes.map(Queue::new),
            work: [Notify::new(), Notify::new()],
            wire: WireCounters::default(),
            outbound: Mutex::default(),
        }
    }

    pub(crate) fn queue(&self, class: Class) -> &Queue {
        &self.queues[class.index()]
    }

    /// Drops what expired on a lane; whether anything is left to send.
    pub(crate) fn has_work(&self, lane: Lane, now: Instant) -> bool {
        let mut any = false;
        for class in lane.classes() {
            any |= self.queue(*class).purge(now);
        }
        any
    }

    pub(crate) fn connected(&self, lane: Lane, connection: quinn::Connection) {
        let mut outbound = lock(&self.outbound);
        let slot = &mut outbound[lane.index()];
        // Stopped meanwhile: the task is about to be dropped, and the connection with it.
        if slot.task.is_none() {
            return;
        }
        slot.connection = Some(connection);
        slot.connects += 1;
    }

    pub(crate) fn disconnected(&self, lane: Lane) {
        let gone = lock(&self.outbound)[lane.index()].connection.take();
        if let Some(connection) = gone {
            self.wire.add(&connection.stats());
        }
    }

    pub(crate) fn stop(&self, code: VarInt) {
        let slots = std::mem::take(&mut *lock(&self.outbound));
        for slot in slots {
            if let Some(task) = slot.task {
                task.abort();
            }
            if let Some(connection) = slot.connection {
                self.wire.add(&connection.stats());
                connection.close(code, b"");
            }
        }
        self.drop_queued();
    }

    pub(crate) fn drop_queued(&self) {
        for queue in &self.queues {
            queue.clear();
        }
    }
}

/// What all tasks of a transport share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) fabric: FabricId,
    pub(crate) config: Config,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) client: quinn::ClientConfig,
    pub(crate) gates: [Gate; 4],
    pub(crate) inbound: Inbound,
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) join_guard: JoinGuard,
    pub(crate) ways: Ways,
    pub(crate) fence: Fencing,
    pub(crate) runtime: Handle,
    pub(crate) peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    pub(crate) accepting: Mutex<Accepting>,
}

/// Whether the accept loop runs.
pub(crate) enum Accepting {
    NotYet,
    Running(AbortHandle),
    Stopped,
}

impl Shared {
    /// The peer's entry, made on first use. Bounded: ids are 16 bits and come from
    /// certificates or from this node's own metadata.
    pub(crate) fn peer(&self, id: NodeId) -> Arc<Peer> {
        let read = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = read.get(&id) {
            return Arc::clone(peer);
        }
        drop(read);
        let mut write = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            write
                .entry(id)
                .or_insert_with(|| Arc::new(Peer::new(id, &self.config))),
        )
    }

    /// Queues a message for a node; whether it is for that node, its mark says.
    pub(crate) fn push(
        self: &Arc<Self>,
        to: NodeId,
        class: Class,
        mark: Mark,
        header: Vec<u8>,
        payload: Payload,
    ) -> Result<(), SendError> {
        let whole = mark.len() + header.len();
        frame::prefix(mark.bits(), whole, payload.len(), Limits::FABRIC)?;
        let peer = self.peer(to);
        if self.fence.bars_leg(to, mark.leg) {
            // As lost as with the site.
            peer.queue(class).counters.add_refused();
            return Ok(());
        }
        peer.queue(class)
            .push(mark, header, payload, Instant::now())
            .map_err(|_| SendError::Busy)?;
        let lane = class.lane();
        peer.work[lane.index()].notify_one();
        self.start_lane(&peer, lane)
    }

    /// The first message on a lane starts its task.
    fn start_lane(self: &Arc<Self>, peer: &Arc<Peer>, lane: Lane) -> Result<(), SendError> {
        let mut outbound = lock(&peer.outbound);
        let slot = &mut outbound[lane.index()];
        if slot.task.is_none() {
            if self.is_stopped() {
                return Err(SendError::Closed);
            }
            let task = dial::run(Arc::clone(self), Arc::clone(peer), lane);
            slot.task = Some(self.spawn(task));
        }
        Ok(())
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(*lock(&self.accepting), Accepting::Stopped)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.runtime.spawn(task).abort_handle()
    }

    pub(crate) fn known(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }
}
