//! What is asked of a node by its admin socket, and what it answers. Names are what people
//! type; sizes are bytes.

mod debug;
mod fence;
mod lifecycle;
mod member;
mod status;
mod volume;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::debug::{CacheDropped, DiskSyncs, Journal, JournalFile, NodeCache, Syncs};
pub use self::fence::{Drill, Fenced, Lifted, SiteSafety};
pub use self::lifecycle::{
    DiskRemoved, Emptying, Left, Maintenance, NbdCertificate, Removed, Safety, Token,
};
pub use self::member::{Condition, Disk, Disks, Fault, Node, Nodes, OneLeft, Site, Sites};
pub use self::status::{Degraded, Repair, RepairKind, Status, UpOf};
pub use self::volume::{Deleted, Volume, VolumeState, VolumeStats, Volumes};
use super::iscsi::{Chap, IscsiSessions, IscsiTarget, IscsiTargets, IscsiUnmapped};
use super::ping::Pong;
use super::recovery::Recovery;
use super::scrub::Scrubs;

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
    /// Have a site be a witness, or hold data. Answered with [`Reply::Sites`].
    SiteWitness {
        /// Which.
        name: String,
        /// What becomes of writes with one data site left; absent if the site is to hold data.
        one_left: Option<OneLeft>,
    },
    /// Whether a site may be fenced for a drill now. Answered with [`Reply::SiteSafety`].
    SiteSafeToFence {
        /// Which.
        name: String,
    },
    /// Fence a site for a drill, if it may be. Answered with [`Reply::Fenced`], once every node
    /// of every other site keeps the fence.
    SiteFence {
        /// Which.
        name: String,
        /// For which.
        drill: Drill,
        /// For how long at most.
        left_ms: u64,
    },
    /// Keep it fenced: without such a word the fence is over in 3 s. Answered with
    /// [`Reply::Fenced`].
    SiteFenceRenew {
        /// Which.
        name: String,
        /// For which.
        drill: Drill,
        /// Counts these, from 1.
        number: u64,
        /// For how much longer at most.
        left_ms: u64,
    },
    /// Lift a drill's fence, or all that there are. Answered with [`Reply::Lifted`].
    SiteFenceLift {
        /// Whose.
        drill: Option<Drill>,
    },
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
    /// Prepare a node for a stop from which it comes back: volumes, journals and votes go to
    /// others, and what it holds is waited for; or end that. Answered with
    /// [`Reply::Maintenance`].
    NodeMaintenance {
        /// Which.
        name: String,
        /// For how much longer than usual it is waited for, in seconds; none ends it.
        wait_s: Option<u32>,
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
    /// Serve a volume over iSCSI, or on other terms. Answered with [`Reply::IscsiTarget`].
    IscsiMap {
        /// The volume.
        volume: String,
        /// Who may log in; anybody if empty.
        initiators: Vec<String>,
        /// How an initiator proves who it is.
        chap: Option<Chap>,
        /// How the target does.
        mutual_chap: Option<Chap>,
    },
    /// Serve it no longer. Answered with [`Reply::IscsiUnmapped`].
    IscsiUnmap {
        /// The volume.
        volume: String,
    },
    /// Every target. Answered with [`Reply::IscsiTargets`].
    IscsiList,
    /// Every session. Answered with [`Reply::IscsiSessions`].
    IscsiSessions,
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
                | Self::SiteFence { .. }
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
    /// To [`Request::NodeMaintenance`].
    Maintenance(Maintenance),
    /// To [`Request::NodeSafeToStop`].
    Safety(Safety),
    /// To [`Request::SiteList`].
    Sites(Sites),
    /// To [`Request::SiteSafeToFence`].
    SiteSafety(SiteSafety),
    /// To [`Request::SiteFence`] and [`Request::SiteFenceRenew`].
    Fenced(Fenced),
    /// To [`Request::SiteFenceLift`].
    Lifted(Lifted),
    /// To [`Request::NodeList`].
    Nodes(Nodes),
    /// To [`Request::DiskList`].
    Disks(Disks),
    /// To [`Request::ScrubStart`] and [`Request::ScrubStatus`].
    Scrubs(Scrubs),
    /// To [`Request::IscsiMap`].
    IscsiTarget(IscsiTarget),
    /// To [`Request::IscsiUnmap`].
    IscsiUnmapped(IscsiUnmapped),
    /// To [`Request::IscsiList`].
    IscsiTargets(IscsiTargets),
    /// To [`Request::IscsiSessions`].
    IscsiSessions(IscsiSessions),
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
