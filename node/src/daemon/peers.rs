//! What one daemon asks another beside the machines' messages: figures that only the node
//! itself knows. Asked of all at once, with a short deadline: who is silent then is named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use actix::Addr;
use actors::disk::ScrubStats;
use actors::heal::SlotKey;
use actors::runtime::{
    DiskFigures, Dropped, GetHealing, GetReplicas, GetStats, Healing, ReplicaSeen, StartScrub,
    Switchboard,
};
use actors::volume::{Cause, Rewriting, VolumeStats};
use bincode::{Decode, Encode};
use model::BLOCK_BYTES;
use model::ids::{DiskId, Incarnation, NodeId, Position, Version, VolumeId};
use model::payload::Payload;
use model::store::ScrubMark;
use model::wire;
use raft_meta::message::MetaMessage;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use transport::class::Class;
use transport::fence::{DrillId, Order, Refusal, Standing};
use transport::net::endpoint::Transport;

use super::meta::MetaHandle;
use super::repair_traffic::RepairTraffic;

mod fence;

/// A node that has not answered by then is named as silent. Far above a round trip around the
/// world, and no long wait for a person.
pub const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Volumes in one answer; a node that owns more leaves out the rest. It keeps an answer under
/// 1 MiB, since it shares its stream with heartbeats.
pub const VOLUMES_MAX: usize = 8192;

/// Counted slots in one answer, for the same reason.
const COUNTS_MAX: usize = 1 << 14;

/// Questions of other nodes that are being answered at once; more are dropped.
const ANSWERING_MAX: usize = 64;

/// A message of class `Meta` between nodes.
#[derive(Debug, Encode, Decode)]
pub enum NodeMessage {
    /// From a metadata machine to another; answered as that says.
    Meta(MetaMessage),
    /// From a node that is asked by its admin socket; answered with [`NodeMessage::Figures`].
    Ask {
        /// Names the answer.
        id: u64,
        /// What.
        question: Question,
    },
    /// Answers [`NodeMessage::Ask`].
    Figures {
        /// Of the question.
        id: u64,
        /// The answer.
        figures: Figures,
    },
}

/// What a node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Question {
    /// What it holds.
    All,
    /// As [`Question::All`], but of its volumes only this.
    Volume(VolumeId),
    /// Empty the caches, and tell what they held.
    DropCaches,
    /// Begin a pass of the scrub on this disk, or on all; and tell of the disks.
    StartScrub(Option<DiskId>),
    /// As [`Question::Volume`], and of the replicas of its journal.
    Replicas(VolumeId),
    /// Where it serves iSCSI, and to whom; and which version of this volume's mapping it knows.
    Iscsi(Option<VolumeId>),
    /// Fence a site for a drill, or keep it fenced; nothing else is told.
    Fence(Order),
    /// A drill is over, and so is its fence; nothing else is told.
    Lift(DrillId),
}

/// What only a node itself knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Figures {
    /// Volumes that run here.
    pub volumes: BTreeMap<VolumeId, VolumeFigures>,
    /// Its disks.
    pub disks: BTreeMap<DiskId, DiskUse>,
    /// Bytes that its caches hold; to [`Question::DropCaches`], that they held and hold no more.
    pub cache_bytes: u64,
    /// Of rows of which a slot is weak, or is moved here: fragments and their bytes.
    pub counts: BTreeMap<SlotKey, (u64, u64)>,
    /// Bytes a second that its Healer brought lately.
    pub heal_bytes_per_s: u64,
    /// Bytes of repair that came here from other sites, since the node's start.
    pub repair_wan_bytes: u64,
    /// Of the volume that [`Question::Replicas`] asked for: each disk that serves.
    pub replicas: BTreeMap<DiskId, ReplicaFigures>,
    /// To [`Question::Iscsi`].
    pub iscsi: Option<IscsiFigures>,
    /// The drill's fence that it keeps.
    pub fence: Option<Standing>,
    /// Why it did not take [`Question::Fence`].
    pub refused: Option<Refusal>,
}

/// A node's word on iSCSI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct IscsiFigures {
    /// Where it serves.
    pub address: Option<SocketAddr>,
    /// The version of the mapping that was asked for, as it knows it; an older one, if that let
    /// commands begin which are still under way.
    pub version: Option<Version>,
    /// Its sessions: [`SESSIONS_MAX`] at most.
    pub sessions: Vec<IscsiSession>,
}

/// Sessions in one answer.
const SESSIONS_MAX: usize = 1024;

/// A session of iSCSI at its node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct IscsiSession {
    /// The target's name.
    pub target: String,
    /// The initiator port's name.
    pub initiator: String,
    /// The initiator's address.
    pub client: Option<SocketAddr>,
}

/// A disk's word on a volume's replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReplicaFigures {
    /// The disk's life.
    pub incarnation: Incarnation,
    /// The replica, if there is one.
    pub found: Option<ReplicaFound>,
}

/// A volume's replica at its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReplicaFound {
    /// Whether its log counts in a seal (R8).
    pub whole: bool,
    /// Where its log ends.
    pub last: Position,
    /// Milliseconds since it was appended to; nothing since the disk was opened.
    pub idle_ms: Option<u64>,
}

impl From<ReplicaSeen> for ReplicaFigures {
    fn from(seen: ReplicaSeen) -> Self {
        let idle_ms = seen
            .idle
            .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        Self {
            incarnation: seen.at.incarnation,
            found: seen.found.map(|replica| ReplicaFound {
                whole: replica.whole,
                last: replica.last,
                idle_ms,
            }),
        }
    }
}

/// A volume at the node that runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct VolumeFigures {
    /// Whether it serves by now.
    pub serving: bool,
    /// Bytes that hold data.
    pub logical_bytes: u64,
    /// Bytes of all live fragments.
    pub stored_bytes: u64,
    /// Journaled bytes that the published checkpoint does not cover.
    pub untrimmed_bytes: u64,
    /// Open client sessions.
    pub sessions: u64,
    /// Journal replicas.
    pub replicas: u64,
    /// Journal replicas that hold all that is committed; before it serves, those that sealed.
    pub replicas_current: u64,
    /// Journal replicas that take what is appended, if they hold not all of it yet.
    pub replicas_in_step: u64,
    /// Before it serves: journal replicas that lost what they had.
    pub replicas_lost: u64,
    /// Bytes that the loss of a site left with nothing to spare.
    pub at_risk_bytes: u64,
    /// What is being written anew.
    pub rewriting: Option<RewritingFigures>,
    /// Whether its owner has all that it acknowledged in memory, and replaces lost replicas.
    pub leads: bool,
}

/// Segments of a volume that are being written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RewritingFigures {
    /// Why.
    pub why: Why,
    /// Bytes that are copied.
    pub done_bytes: u64,
    /// Bytes that are not.
    pub left_bytes: u64,
    /// Lately.
    pub bytes_per_s: u64,
}

/// Why segments are written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Why {
    /// A site is away, and what is left is just enough to read them.
    AtRisk,
    /// They were written while a site was away that is back.
    Misplaced,
    /// To free space.
    Sparse,
}

impl From<Rewriting> for RewritingFigures {
    fn from(rewriting: Rewriting) -> Self {
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        Self {
            why: match rewriting.cause {
                Cause::AtRisk => Why::AtRisk,
                Cause::Misplaced => Why::Misplaced,
                Cause::Sparse => Why::Sparse,
            },
            done_bytes: bytes(rewriting.blocks_done),
            left_bytes: bytes(rewriting.blocks_left),
            bytes_per_s: rewriting.bytes_per_s,
        }
    }
}

/// A disk at its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct DiskUse {
    /// Its name in the node's configuration.
    pub name: String,
    /// Its directory.
    pub path: String,
    /// Bytes allocated by fragments.
    pub used_bytes: u64,
    /// Its scrub.
    pub scrub: ScrubFigures,
}

/// The scrub of a disk at its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ScrubFigures {
    /// What it did, over the disk's whole life.
    pub mark: ScrubMark,
    /// Whether a pass is under way.
    pub running: bool,
    /// In how many seconds the next one begins, if none is.
    pub next_in_s: Option<u64>,
    /// The pace of a pass.
    pub bytes_per_s: u64,
    /// Fragments that are rotten and not repaired yet.
    pub rotten: u64,
    /// Whether so many rotted that the disk is not to be trusted.
    pub flagged: bool,
}

impl From<ScrubStats> for ScrubFigures {
    fn from(stats: ScrubStats) -> Self {
        Self {
            mark: stats.mark,
            running: stats.running,
            next_in_s: stats.next_in.map(|next| next.as_secs()),
            bytes_per_s: stats.bytes_per_s,
            rotten: stats.rotten,
            flagged: stats.flagged,
        }
    }
}

impl From<&VolumeStats> for VolumeFigures {
    fn from(stats: &VolumeStats) -> Self {
        Self {
            serving: stats.serving,
            logical_bytes: stats.logical_bytes,
            stored_bytes: stats.stored_bytes,
            untrimmed_bytes: stats.untrimmed_bytes,
            sessions: stats.sessions as u64,
            replicas: stats.replicas as u64,
            replicas_current: stats.replicas_current as u64,
            replicas_in_step: stats.replicas_in_step as u64,
            replicas_lost: stats.replicas_lost as u64,
            at_risk_bytes: stats.at_risk_bytes,
            rewriting: stats.rewriting.map(RewritingFigures::from),
            leads: stats.committed.is_some(),
        }
    }
}

/// Names and paths of a node's disks.
pub type DiskNames = BTreeMap<DiskId, (String, String)>;

/// What the actors of a node tell of themselves.
pub type Stats = (
    BTreeMap<VolumeId, VolumeStats>,
    BTreeMap<DiskId, DiskFigures>,
);

/// This node's own answers, once it serves.
#[derive(Clone)]
struct Local {
    switchboard: Addr<Switchboard>,
    disks: Arc<Mutex<DiskNames>>,
    repair: RepairTraffic,
    iscsi: IscsiLocal,
}

/// What this node knows of iSCSI.
#[derive(Clone)]
pub struct IscsiLocal {
    /// Where it serves.
    pub address: Option<SocketAddr>,
    /// The metadata.
    pub meta: MetaHandle,
    /// Asks the front end.
    pub front_end: mpsc::Sender<IscsiQuestion>,
}

/// What the front end is asked.
#[derive(Debug)]
pub enum IscsiQuestion {
    /// For its sessions.
    Sessions(oneshot::Sender<Vec<IscsiSession>>),
    /// For the oldest version of that volume's mapping that let a command begin which is still
    /// under way.
    Oldest(VolumeId, oneshot::Sender<Option<Version>>),
}

impl IscsiLocal {
    async fn answer(&self, of: Option<VolumeId>) -> IscsiFigures {
        // First: what begins after this is let by this version, or by a later one.
        let view = self.meta.view();
        let version = of.and_then(|of| view.iscsi.get(&of)).map(|m| m.version);
        let mut figures = IscsiFigures {
            address: self.address,
            version,
            sessions: Vec::new(),
        };
        match of {
            Some(of) => {
                let oldest = self.ask(|tell| IscsiQuestion::Oldest(of, tell)).await;
                figures.version = version.map(|version| oldest.map_or(version, |o| o.min(version)));
            }
            None => {
                figures.sessions = self.ask(IscsiQuestion::Sessions).await;
                figures.sessions.truncate(SESSIONS_MAX);
            }
        }
        figures
    }

    /// Nothing is under way in a front end that does not answer: it has ended.
    async fn ask<T: Default>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> IscsiQuestion) -> T {
        let (tell, told) = oneshot::channel();
        match self.front_end.send(ask(tell)).await {
            Ok(()) => told.await.unwrap_or_default(),
            Err(_) => T::default(),
        }
    }
}

impl Local {
    async fn stats(&self) -> Option<Stats> {
        self.switchboard.send(GetStats).await.ok()
    }

    async fn answer(&self, question: Question) -> Option<Figures> {
        if let Question::Iscsi(of) = question {
            return Some(Figures {
                iscsi: Some(self.iscsi.answer(of).await),
                ..Figures::default()
            });
        }
        let (volumes, mut disks) = self.stats().await?;
        let cached = |volumes: &BTreeMap<VolumeId, VolumeStats>| -> u64 {
            volumes.values().map(|v| v.cache_bytes).sum()
        };
        let mut cache_bytes = cached(&volumes);
        if question == Question::DropCaches {
            self.switchboard.send(Dropped).await.ok()?;
            let left = cached(&self.stats().await?.0);
            cache_bytes = cache_bytes.saturating_sub(left);
        }
        if let Question::StartScrub(of) = question {
            self.switchboard.send(StartScrub(of)).await.ok()?;
            disks = self.stats().await?.1;
        }
        let is_asked = |id: &VolumeId| match question {
            Question::All => true,
            Question::Volume(only) | Question::Replicas(only) => only == *id,
            Question::DropCaches
            | Question::StartScrub(_)
            | Question::Iscsi(_)
            | Question::Fence(_)
            | Question::Lift(_) => false,
        };
        let asked = volumes.iter().filter(|(id, _)| is_asked(id));
        let volumes = asked
            .take(VOLUMES_MAX)
            .map(|(id, stats)| (*id, stats.into()))
            .collect();
        let healing = match question {
            Question::All => self.switchboard.send(GetHealing).await.ok()?,
            _ => Healing::default(),
        };
        let seen = match question {
            Question::Replicas(of) => self.switchboard.send(GetReplicas(of)).await.ok()?,
            _ => Vec::new(),
        };
        let names = lock(&self.disks);
        let disks = disks
            .iter()
            .map(|(id, figures)| {
                let (name, path) = names.get(id).cloned().unwrap_or_default();
                let used_bytes = figures.fragment_bytes;
                let of_disk = DiskUse {
                    name,
                    path,
                    used_bytes,
                    scrub: figures.scrub.into(),
                };
                (*id, of_disk)
            })
            .collect();
        let counts = healing.counts.into_iter().take(COUNTS_MAX);
        Some(Figures {
            volumes,
            disks,
            cache_bytes,
            counts: counts
                .map(|(key, c)| (key, (c.fragments, c.bytes)))
                .collect(),
            heal_bytes_per_s: healing.bytes_per_s,
            repair_wan_bytes: self.repair.bytes(),
            replicas: seen.into_iter().map(|s| (s.at.disk, s.into())).collect(),
            iscsi: None,
            fence: None,
            refused: None,
        })
    }
}

type Waiting = BTreeMap<u64, SyncSender<(NodeId, Figures)>>;

struct Shared {
    node: NodeId,
    transport: Transport,
    runtime: Handle,
    local: OnceLock<Local>,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    answering: AtomicU64,
}

/// The way to the other daemons, from any thread.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// For this node; to be called on the runtime that its actors live on.
    #[must_use]
    pub fn new(node: NodeId, transport: Transport) -> Self {
        Self(Arc::new(Shared {
            node,
            transport,
            runtime: Handle::current(),
            local: OnceLock::new(),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            answering: AtomicU64::new(0),
        }))
    }

    /// From now on this node has answers of its own.
    pub fn serve(
        &self,
        switchboard: Addr<Switchboard>,
        disks: Arc<Mutex<DiskNames>>,
        repair: RepairTraffic,
        iscsi: IscsiLocal,
    ) {
        let _ = self.0.local.set(Local {
            switchboard,
            disks,
            repair,
            iscsi,
        });
    }

    /// Whether this node has answers of its own.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.0.local.get().is_some()
    }

    /// Everything that this node's actors tell; `None` until it serves. Waits.
    #[must_use]
    pub fn own_stats(&self) -> Option<Stats> {
        futures::executor::block_on(self.0.local.get()?.stats())
    }

    /// Asks these nodes at once; who is missing from the answers was silent for
    /// [`ANSWER_MAX`]. Waits; not to be called on the runtime's thread.
    #[must_use]
    pub fn ask(&self, nodes: &BTreeSet<NodeId>, question: Question) -> BTreeMap<NodeId, Figures> {
        let deadline = Instant::now() + ANSWER_MAX;
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (told, answers) = sync_channel(nodes.len().max(1));
        lock(&self.0.waiting).insert(id, told);
        let header = wire::encode(&NodeMessage::Ask { id, question });
        for node in nodes {
            if *node == self.0.node {
                self.answer_self(id, question);
            } else {
                // A full queue is as good as silence.
                let _ = self
                    .0
                    .transport
                    .send(*node, Class::Meta, header.clone(), Payload::empty());
            }
        }
        let mut heard = BTreeMap::new();
        while heard.len() < nodes.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            match answers.recv_timeout(left) {
                Ok((node, figures)) if nodes.contains(&node) => {
                    heard.entry(node).or_insert(figures);
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        lock(&self.0.waiting).remove(&id);
        heard
    }

    fn answer_self(&self, id: u64, question: Question) {
        if let Some(figures) = self.fenced(question) {
            self.answered(self.0.node, id, figures);
            return;
        }
        let (this, Some(local)) = (self.clone(), self.0.local.get().cloned()) else {
            return;
        };
        self.0.runtime.spawn(async move {
            if let Some(mut figures) = local.answer(question).await {
                figures.fence = this.0.transport.fenced();
                this.answered(this.0.node, id, figures);
            }
        });
    }

    /// An answer came; one that nobody waits for any more is dropped.
    pub fn answered(&self, from: NodeId, id: u64, figures: Figures) {
        if let Some(told) = lock(&self.0.waiting).get(&id) {
            let _ = told.try_send((from, figures));
        }
    }

    /// Another node asks.
    pub fn asked(&self, from: NodeId, id: u64, question: Question) {
        if let Some(figures) = self.fenced(question) {
            self.tell(from, id, figures);
            return;
        }
        let (this, Some(local)) = (self.clone(), self.0.local.get().cloned()) else {
            return;
        };
        if self.0.answering.fetch_add(1, Ordering::Relaxed) >= ANSWERING_MAX as u64 {
            self.0.answering.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.0.runtime.spawn(async move {
            // After the deadline nobody waits; a disk that hangs holds up nothing for longer.
            let answer = tokio::time::timeout(ANSWER_MAX, local.answer(question)).await;
            if let Ok(Some(mut figures)) = answer {
                figures.fence = this.0.transport.fenced();
                this.tell(from, id, figures);
            }
            this.0.answering.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Answers another node; lost where the queue is full, and asked again.
    fn tell(&self, to: NodeId, id: u64, figures: Figures) {
        let header = wire::encode(&NodeMessage::Figures { id, figures });
        let transport = &self.0.transport;
        let _ = transport.send(to, Class::Meta, header, Payload::empty());
    }
}
