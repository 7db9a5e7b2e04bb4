//! What is asked of a node by its admin socket, and what it answers. Names are what people
//! type; sizes are bytes.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ping::Pong;
use super::recovery::{Recovered, Recovery};
use super::scrub::{Scrub, Scrubs};

/// Sent by the client; each is answered by one [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Is somebody there, and does it serve? Answered with [`Reply::Pong`] at once.
    Ping,
    /// A one-time token with which the named node may join. Answered with [`Reply::Token`].
    Token {
        /// The new node's name.
        node: String,
        /// Its site; made if it is new.
        site: String,
    },
    /// Make a volume. Answered with [`Reply::Volume`].
    VolumeCreate {
        /// Its name, which is its export's name.
        name: String,
        /// Its size.
        size_bytes: u64,
        /// Its home site; chosen when absent.
        home: Option<String>,
        /// Its code, such as `rs:4+2`.
        code: String,
    },
    /// Every volume. Answered with [`Reply::Volumes`].
    VolumeList,
    /// One volume. Answered with [`Reply::Volume`].
    VolumeShow {
        /// Which.
        name: String,
    },
    /// Change a volume's size. Answered with [`Reply::Volume`].
    VolumeResize {
        /// Which.
        name: String,
        /// The new size.
        size_bytes: u64,
    },
    /// Delete a volume and its data. Answered with [`Reply::Deleted`].
    VolumeDelete {
        /// Which.
        name: String,
    },
    /// Move a volume's ownership to a node. Answered with [`Reply::Volume`], once it serves.
    VolumeMove {
        /// Which.
        name: String,
        /// The new owner.
        to: String,
    },
    /// What is left of a volume whose journal lost its quorum; and, if the operator accepts just
    /// that, its recovery from it. Answered with [`Reply::Recovery`].
    VolumeRecover {
        /// Which.
        name: String,
        /// What is covered, as the last answer said: what followed is given up.
        accept_loss: Option<String>,
    },
    /// Every site. Answered with [`Reply::Sites`].
    SiteList,
    /// Every node. Answered with [`Reply::Nodes`].
    NodeList,
    /// The operator's word that a node is gone for good. Answered with [`Reply::Removed`].
    NodeRemove {
        /// Which.
        name: String,
    },
    /// Have a node emptied (its disks, its volumes, its votes), or serve again. Answered with
    /// [`Reply::Emptying`].
    NodeDrain {
        /// Which.
        name: String,
        /// Whether it serves again.
        undo: bool,
    },
    /// Whether a node may stop now. Answered with [`Reply::Safety`].
    NodeSafeToStop {
        /// Which.
        name: String,
    },
    /// Every disk. Answered with [`Reply::Disks`].
    DiskList,
    /// Begin a pass of the scrub. Answered with [`Reply::Scrubs`].
    ScrubStart {
        /// On this disk alone: `node/disk` by number or by name, or its directory.
        disk: Option<String>,
        /// On this node's disks alone.
        node: Option<String>,
    },
    /// How the disks' scrubs are. Answered with [`Reply::Scrubs`].
    ScrubStatus,
    /// Have a disk emptied, or serve again. Answered with [`Reply::Emptying`].
    DiskDrain {
        /// Which.
        name: String,
        /// Whether it serves again.
        undo: bool,
    },
    /// A disk that is empty goes for good, or one that is lost. Answered with
    /// [`Reply::DiskRemoved`].
    DiskRemove {
        /// Which.
        name: String,
        /// It is lost: what it held is rebuilt from others.
        lost: bool,
    },
    /// What is degraded, why, and what is being done. Answered with [`Reply::Status`].
    Status,
    /// Empty every node's caches. Answered with [`Reply::CacheDropped`].
    CacheDrop,
    /// Sign a certificate for NBD, by the node that holds the fabric's authority. Answered
    /// with [`Reply::NbdCertificate`].
    NbdCertificate {
        /// For whom.
        subject: NbdSubject,
        /// A certificate signing request (PEM): the key stays with whoever asks.
        signing_request: String,
    },
    /// Durable syncs of this node's journal files. Answered with [`Reply::Syncs`].
    DebugSyncs,
    /// This node's journal files. Answered with [`Reply::Journal`].
    DebugJournal,
}

/// For whom a certificate for NBD is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NbdSubject {
    /// A client of that name.
    Client(String),
    /// A server that is reached by these names and addresses.
    Server(Vec<String>),
}

/// Of whom a request is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Any node knows.
    AnyNode,
    /// Each node answers for itself, the client merges.
    EveryNode,
}

impl Request {
    /// Of whom it is asked.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::DebugSyncs | Self::DebugJournal => Scope::EveryNode,
            _ => Scope::AnyNode,
        }
    }

    /// Whether asking another node after an unknown outcome does no harm.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        !matches!(
            self,
            Self::VolumeCreate { .. }
                | Self::VolumeResize { .. }
                | Self::VolumeDelete { .. }
                | Self::VolumeMove { .. }
                | Self::VolumeRecover {
                    accept_loss: Some(_),
                    ..
                }
                | Self::NodeRemove { .. }
        )
    }
}

/// Answered by the node: a reply, or why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Ok(Reply),
    /// It was not.
    Error(Failure),
}

/// Why a node did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// What happened and what to do next, for people.
    pub message: String,
}

/// Kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// There is no such volume, site, node or disk.
    NotFound,
    /// The request makes no sense, or clashes with what is there; nothing was changed.
    Refused,
    /// This node can't now; nothing was changed: another one may.
    NotNow,
    /// No quorum answered in time: unknown whether it was done.
    Unknown,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "body", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Ping`].
    Pong(Pong),
    /// To [`Request::Token`].
    Token(Token),
    /// To requests on one volume.
    Volume(Volume),
    /// To [`Request::VolumeList`].
    Volumes(Volumes),
    /// To [`Request::VolumeRecover`].
    Recovery(Box<Recovery>),
    /// To [`Request::VolumeDelete`].
    Deleted(Deleted),
    /// To [`Request::NodeRemove`].
    Removed(Removed),
    /// To [`Request::DiskRemove`].
    DiskRemoved(DiskRemoved),
    /// To [`Request::DiskDrain`] and [`Request::NodeDrain`].
    Emptying(Emptying),
    /// To [`Request::NodeSafeToStop`].
    Safety(Safety),
    /// To [`Request::SiteList`].
    Sites(Sites),
    /// To [`Request::NodeList`].
    Nodes(Nodes),
    /// To [`Request::DiskList`].
    Disks(Disks),
    /// To [`Request::ScrubStart`] and [`Request::ScrubStatus`].
    Scrubs(Scrubs),
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::CacheDrop`].
    CacheDropped(CacheDropped),
    /// To [`Request::NbdCertificate`].
    NbdCertificate(NbdCertificate),
    /// To [`Request::DebugSyncs`].
    Syncs(Syncs),
    /// To [`Request::DebugJournal`].
    Journal(Journal),
}

/// A one-time join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// To be given to `atoll join --token`; says where to join.
    pub token: String,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its size as clients see it.
    pub size_bytes: u64,
    /// Its home site.
    pub home: String,
    /// Its code, such as `rs:4+2`.
    pub code: String,
    /// Whether it is served.
    pub state: VolumeState,
    /// The node that serves it now; absent while there is none.
    pub owner: Option<String>,
    /// The owner's epoch: its high 16 bits are the generation.
    pub epoch: u64,
    /// What its owner tells of it, or its last checkpoint while nobody needs to serve it.
    pub stats: Option<VolumeStats>,
    /// Why there are no stats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats_missing: Option<String>,
    /// Its journal's replicas, as `node/disk`.
    pub journal: Vec<String>,
    /// Its last recovery with loss, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Box<Recovered>>,
}

/// Whether a volume is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Nobody serves it and nobody needs to: its checkpoint is all there is.
    Idle,
    /// Its owner serves it.
    Serving,
    /// An owner is being made, or recovers it.
    Starting,
    /// Its owner does not answer.
    Unknown,
}

/// A volume's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStats {
    /// Bytes of its blocks that are mapped.
    pub logical_bytes: u64,
    /// Bytes that its segments take on disks, coding included.
    pub stored_bytes: u64,
    /// Journaled bytes that the published checkpoint does not cover.
    pub untrimmed_bytes: u64,
    /// Open client sessions.
    pub sessions: u64,
    /// Journal replicas that hold all that is committed; absent while nobody serves it.
    pub replicas_current: Option<u64>,
}

/// Volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volumes {
    /// By name.
    pub volumes: Vec<Volume>,
    /// Nodes that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}

/// A volume is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Its name was this.
    pub deleted: String,
}

/// A node is gone for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name was this.
    pub removed: String,
}

/// A disk is gone for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRemoved {
    /// Its name was this.
    pub removed_disk: String,
}

/// A disk or node is being emptied, or serves again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emptying {
    /// Such as `disk a1/2`.
    pub what: String,
    /// Whether it is being emptied.
    pub draining: bool,
    /// What is left on it.
    pub left: Left,
}

/// What is left on something that is to be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Slots of spreads that lie on it or are moved to it.
    pub slots: u64,
    /// Volumes with a replica of their journal on it.
    pub journals: Vec<String>,
    /// Volumes that it owns.
    pub volumes_owned: Vec<String>,
    /// Bytes of fragments on it; absent if its node does not answer.
    pub fragment_bytes: Option<u64>,
}

/// Whether a node may stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Safety {
    /// The node.
    pub node: String,
    /// Whether it may.
    pub safe: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

/// A site, node or disk's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It serves.
    Up,
    /// It does not answer, and nothing was decided yet.
    Suspect,
    /// Decided by a committed entry: its work was given to others.
    Away,
    /// Lost for good.
    Lost,
}

/// A site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// How it is.
    pub condition: Condition,
    /// Its nodes.
    pub nodes: Vec<String>,
    /// How many volumes its nodes own.
    pub volumes_owned: u32,
    /// How much its disks may hold.
    pub capacity_bytes: u64,
    /// How much the disks of those nodes hold that answered; absent if none did.
    pub used_bytes: Option<u64>,
}

/// Sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    /// By name.
    pub sites: Vec<Site>,
    /// Nodes that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// How it is.
    pub condition: Condition,
    /// Whether the operator has it emptied.
    pub draining: bool,
    /// Where other nodes reach it (UDP).
    pub quic: String,
    /// Where clients reach it.
    pub nbd: String,
    /// How many volumes it owns.
    pub volumes_owned: u32,
    /// How much its disks may hold.
    pub capacity_bytes: u64,
    /// How much they hold; absent if it does not answer.
    pub used_bytes: Option<u64>,
    /// What its caches hold; absent if it does not answer.
    pub cache_bytes: Option<u64>,
    /// Bytes of repair that came to it from other sites, since its start; absent likewise.
    #[serde(default)]
    pub repair_wan_bytes: Option<u64>,
}

/// Nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// By name.
    pub nodes: Vec<Node>,
    /// Those that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `node/disk`.
    pub name: String,
    /// Its site.
    pub site: String,
    /// How it is.
    pub condition: Condition,
    /// Whether the operator has it emptied.
    pub draining: bool,
    /// Its name in its node's configuration; absent if its node does not serve it now.
    pub label: Option<String>,
    /// Its directory on its node; absent likewise.
    pub path: Option<String>,
    /// How much it may hold.
    pub capacity_bytes: u64,
    /// How much it holds; absent likewise.
    pub used_bytes: Option<u64>,
    /// Its scrub; absent likewise.
    #[serde(default)]
    pub scrub: Option<Scrub>,
}

impl Disk {
    /// Whether people may mean it by that: `node/disk` by number or by name, or its directory.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let by_label = || {
            let (node, _) = self.name.split_once('/')?;
            Some(format!("{node}/{}", self.label.as_ref()?))
        };
        self.name == name
            || self.path.as_deref() == Some(name)
            || by_label().as_deref() == Some(name)
    }
}

/// Disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// By name.
    pub disks: Vec<Disk>,
    /// Nodes that did not answer: what only they know is missing.
    pub unreachable: Vec<String>,
}

/// How the fabric is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether nothing is degraded.
    pub healthy: bool,
    /// What is.
    pub degraded: Vec<Degraded>,
    /// Bytes of segments that would not survive what a fabric promises to (the loss of any one
    /// site; while one is away, of any one node), since disks that held some of their fragments
    /// do not serve and they are not elsewhere yet. Not counted are replicas of journals, and what
    /// rotted and nobody read. Absent while nothing is counted;
    /// what silent nodes know is missing.
    pub at_risk_bytes: Option<u64>,
    /// What is being moved or rebuilt.
    pub repairs: Vec<Repair>,
    /// What is worth knowing though nothing is degraded by it: volumes that were recovered with
    /// loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The node that answered; what it says is its view.
    pub seen_by: String,
    /// Sites that are up, and all.
    pub sites: UpOf,
    /// Nodes that are up, and all.
    pub nodes: UpOf,
    /// Disks that are up, and all.
    pub disks: UpOf,
    /// Volumes that have a serving owner, and all.
    pub volumes: UpOf,
}

/// How many of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpOf {
    /// That are well.
    pub up: u32,
    /// That there are.
    pub of: u32,
}

/// Why something is moved or written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairKind {
    /// The disk that held it does not serve.
    Rebuild,
    /// The operator has its disk emptied.
    Drain,
    /// It shares a node with something that it should be apart from.
    Spread,
    /// Its disk is fuller than others are, for its size: nothing is less safe for that.
    Rebalance,
    /// Segments are written anew, since a site is away or back.
    Rewrite,
}

/// Slots that leave a disk, or segments that are written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Why.
    pub kind: RepairKind,
    /// Such as `draining disk a1/2`.
    pub what: String,
    /// The disk that they leave, or what the segments have in common.
    pub from: String,
    /// Their new disks; of segments, `new segments`.
    pub to: Vec<String>,
    /// How many slots of spreads; 0 of segments.
    pub slots: u64,
    /// Fragments that are at their new disks.
    pub done_fragments: u64,
    /// Fragments that there are to be; absent until they are counted.
    pub total_fragments: Option<u64>,
    /// Bytes likewise.
    pub done_bytes: u64,
    /// Bytes likewise.
    pub total_bytes: Option<u64>,
    /// What the nodes of the new disks brought a second, lately, for all that they bring.
    pub bytes_per_s: u64,
    /// Seconds until it is done, at that pace; absent until it is known.
    pub eta_s: Option<u64>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// What, such as `site c`.
    pub what: String,
    /// Why, such as `none of its nodes has answered for 12 s`.
    pub why: String,
    /// What is being done about it, or what the operator should do.
    pub doing: String,
}

/// Caches are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheDropped {
    /// How much they held together.
    pub dropped_bytes: u64,
    /// By node.
    pub nodes: Vec<NodeCache>,
    /// Nodes that did not answer: their caches may be as they were.
    pub unreachable: Vec<String>,
}

/// A node's caches are empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCache {
    /// The node.
    pub node: String,
    /// How much they held.
    pub dropped_bytes: u64,
}

/// A certificate for NBD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NbdCertificate {
    /// The certificate (PEM).
    pub certificate: String,
    /// The authority's (PEM), with which clients verify servers.
    pub authority: String,
}

/// Durable syncs of journal files since the nodes' start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syncs {
    /// By disk.
    pub disks: Vec<DiskSyncs>,
}

/// A disk's syncs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSyncs {
    /// `node/disk`.
    pub disk: String,
    /// Its node.
    pub node: String,
    /// Its site.
    pub site: String,
    /// How often a journal file was made durable.
    pub journal_syncs: u64,
}

/// Journal files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// By disk and name.
    pub files: Vec<JournalFile>,
}

/// A journal file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalFile {
    /// `node/disk`.
    pub disk: String,
    /// Its node.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Where it lies.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Whether nothing in it is needed any more.
    pub trimmed: bool,
}
