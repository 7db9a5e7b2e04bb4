//! What goes into a [`super::MetaNode`] and what comes out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::geometry::Code;
use model::ids::{Boot, DiskId, DiskRef, Incarnation, NodeId, SiteId, Version, VolumeId};
use model::iscsi::{Secret, UnitState};
use model::meta::{MetaReply, MetaRequest, MetaToken};
use model::placement::{Duty, Latency, SiteRole, View};
use model::spread::SlotMove;
use thiserror::Error;

use crate::log::{LogDamage, LogWrite};
use crate::message::{GroupId, LocalDisk, LogIndex, MetaMessage};

/// Who this node is. All but `boot` is durable in the node's metadata directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its id, from [`AdminReply::Node`]; the fabric's first node is `NodeId(1)`.
    pub node: NodeId,
    /// This life, drawn at start.
    pub boot: Boot,
    /// The life of the metadata directory: drawn when the directory is made, and anew when
    /// its logs were lost or recovered to less than was synced (R2, R8).
    pub directory: Incarnation,
    /// Its name, unique in the fabric.
    pub name: String,
    /// Its site, from [`AdminReply::Site`]; the fabric's first site is `SiteId(1)`.
    pub site: SiteId,
    /// Where its QUIC endpoint listens.
    pub address: SocketAddr,
    /// Where its NBD server listens.
    pub nbd: SocketAddr,
}

/// Times and bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Raft's tick, and the grain of all timers here. Heartbeats of a leader go out every
    /// tick, an election starts after 5 to 9 ticks without one.
    pub tick: Duration,
    /// How often a node gives a sign of life.
    pub beat_every: Duration,
    /// After how long without one a node is dead.
    pub dead_after: Duration,
    /// How long signs of life must have come without a gap before a node is up again.
    pub up_after: Duration,
    /// A request that no leader answered for so long is `Unavailable`.
    pub request_timeout: Duration,
    /// Entries between two snapshots of a group.
    pub snapshot_every: u64,
    /// Rows of a new pool's table (R23).
    pub pool_rows: u16,
    /// At least this long between two [`Effect::View`].
    pub view_every: Duration,
    /// A disk that nobody served for so long is not waited for any more: its slots are moved
    /// (R20).
    pub heal_after: Duration,
    /// A device that answers sooner than this is not slow, whatever others do.
    pub slow_from: Latency,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            beat_every: Duration::from_millis(200),
            dead_after: Duration::from_millis(1200),
            up_after: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            snapshot_every: 4096,
            pool_rows: 64,
            view_every: Duration::from_millis(10),
            heal_after: Duration::from_secs(600),
            // 66 ms.
            slow_from: Latency(16),
        }
    }
}

/// Correlates an [`AdminReply`] with its [`AdminCommand`] within one node's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AdminToken(pub u64);

/// Correlates [`Effect::CaughtUp`] with [`Input::CatchUp`] within one node's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CatchUpToken(pub u64);

/// Correlates [`Input::Persisted`] with [`Effect::Persist`]; ascending within a group and a
/// node's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// SHA-256 of a join token; the token itself is never stored.
pub type TokenHash = [u8; 32];

/// What may happen to the machine.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A message came from a node that the transport authenticated.
    Message {
        /// The node, by its certificate.
        from: NodeId,
        /// What it said.
        message: MetaMessage,
    },
    /// A write and all earlier ones of that group are durable.
    Persisted {
        /// The group.
        group: GroupId,
        /// The write's ticket.
        ticket: Ticket,
    },
    /// A machine of this node asks. Answered by [`Effect::Reply`], always.
    Request {
        /// Correlates the answer.
        token: MetaToken,
        /// What it asks.
        request: MetaRequest,
    },
    /// The operator, or a joining node through this one, asks. Answered by
    /// [`Effect::AdminReply`], always.
    Admin {
        /// Correlates the answer.
        token: AdminToken,
        /// What is asked.
        command: AdminCommand,
    },
    /// The view is to tell of everything that was decided before this. Answered by
    /// [`Effect::CaughtUp`], always.
    CatchUp {
        /// Correlates the answer.
        token: CatchUpToken,
        /// Decided by whom.
        scope: Scope,
        /// How long at most, about.
        within: Duration,
    },
    /// The disks that this node serves now; replaces what it said before.
    LocalDisks(Vec<LocalDisk>),
    /// The moves to this node's disks that are done but for the entry that ends them (R20);
    /// replaces what it said before.
    Healed(Vec<SlotMove>),
}

/// Whose decisions a view is to tell of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The global placement group's: of volumes and sites.
    Global,
    /// Those of all sites that are up, too: of their nodes and disks.
    All,
}

/// What the machine asks its shell to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Send a message; it may be lost, late or doubled. A node that no view names yet is
    /// reached on the connection that it opened, or at its address as a contact.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: MetaMessage,
    },
    /// Make a write durable, then report [`Input::Persisted`]. Writes of a group are carried
    /// out in order; several may share a batch and a sync.
    Persist {
        /// The group.
        group: GroupId,
        /// Its ticket.
        ticket: Ticket,
        /// What to write.
        write: LogWrite,
    },
    /// Answers [`Input::Request`].
    Reply {
        /// Whose.
        token: MetaToken,
        /// The answer.
        reply: MetaReply,
    },
    /// Answers [`Input::Admin`].
    AdminReply {
        /// Whose.
        token: AdminToken,
        /// The answer.
        reply: AdminReply,
    },
    /// The placement changed; versions only grow.
    View(Arc<View>),
    /// Answers [`Input::CatchUp`]: the view that was given out last tells of everything that was
    /// decided before it, but perhaps of what is in `missed`.
    CaughtUp {
        /// Whose.
        token: CatchUpToken,
        /// The groups whose quorum did not answer in time, and what they decide may be old; where
        /// the global one is among them, so may what any group decides.
        missed: BTreeSet<GroupId>,
    },
    /// A peer's snapshot does not decode, so that this node stays behind: for the operator.
    /// Told once for each place in the log.
    Unreadable {
        /// Of which group.
        group: GroupId,
        /// Whose.
        from: NodeId,
        /// Up to where it reaches.
        index: LogIndex,
        /// How large the state in it is.
        bytes: usize,
    },
}

/// What an operator, or a joining node, may ask of the groups.
#[derive(Clone, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub enum AdminCommand {
    /// A new site; without nodes it holds nothing. Answered by `Site`.
    AddSite {
        /// Its name.
        name: String,
    },
    /// A new node, to be started with the id that the answer names. The first node of a site
    /// founds the site's group when it starts; the second is refused until then. Answered by
    /// `Node`.
    AddNode {
        /// Its site.
        site: SiteId,
        /// Its name.
        name: String,
        /// Where its QUIC endpoint will listen.
        address: SocketAddr,
        /// Where its NBD server will listen.
        nbd: SocketAddr,
    },
    /// A disk was formatted on a node; it takes part once its node serves it
    /// ([`Input::LocalDisks`]). Answered by `Disk`.
    AddDisk {
        /// The node.
        node: NodeId,
        /// The disk's life, as formatted.
        incarnation: Incarnation,
    },
    /// A one-time token by which a node may join. Answered by `Done`.
    AddToken {
        /// Its hash.
        hash: TokenHash,
    },
    /// Use up a token: `Done` exactly once, else `Refused`.
    UseToken {
        /// Its hash.
        hash: TokenHash,
    },
    /// Make a code's pool, if there is none. Volumes do so by themselves. Answered by `Done`.
    CreatePool {
        /// The code.
        code: Code,
    },
    /// The operator's word that a node is gone for good. Answered by `Done`.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// The operator's word that a site is gone for good (R21). Answered by `Done`.
    RemoveSite {
        /// The site.
        site: SiteId,
    },
    /// A disk is to be emptied, or to serve again. Answered by `Done`.
    SetDiskDuty {
        /// The disk.
        disk: DiskId,
        /// What is wanted of it.
        duty: Duty,
    },
    /// A node is to be emptied: its disks, its volumes, its votes; or to serve again. Answered
    /// by `Done`.
    SetNodeDuty {
        /// The node.
        node: NodeId,
        /// What is wanted of it.
        duty: Duty,
    },
    /// The operator's word that a disk is to go for good: a drained one once it is empty, a
    /// lost one at once. Answered by `Done`.
    RemoveDisk {
        /// The disk.
        disk: DiskId,
        /// Whether it is lost: what it held is rebuilt from others.
        lost: bool,
    },
    /// What a site is for. Answered by `Done`.
    SetSiteRole {
        /// The site.
        site: SiteId,
        /// What.
        role: SiteRole,
    },
    /// A volume is served over iSCSI, on these terms; what initiators set of it stays as it is.
    /// Answered by `Done`.
    MapIscsi {
        /// The volume.
        volume: VolumeId,
        /// Who may log in; anybody if empty.
        initiators: Vec<String>,
        /// How an initiator proves who it is.
        chap: Option<Secret>,
        /// How the target does.
        mutual: Option<Secret>,
    },
    /// It is no longer served so. Answered by `Done`.
    UnmapIscsi {
        /// The volume.
        volume: VolumeId,
    },
    /// What initiators set of a unit is this, if its mapping still has that version. A front end
    /// asks it. Answered by `Done`, or refused with [`AdminRefusal::Stale`].
    SetUnitState {
        /// The volume.
        volume: VolumeId,
        /// The version.
        expected: Version,
        /// What.
        state: Box<UnitState>,
    },
}

/// To an [`AdminCommand`].
#[derive(Clone, PartialEq, Eq, Debug, bincode::Encode, bincode::Decode)]
pub enum AdminReply {
    /// Done.
    Done,
    /// The new site's id.
    Site(SiteId),
    /// The new node's id.
    Node(NodeId),
    /// The new disk.
    Disk(DiskRef),
    /// It makes no sense; nothing was changed.
    Refused(AdminRefusal),
    /// No quorum answered in time: unknown whether it happened.
    Unavailable,
}

/// Why an [`AdminCommand`] was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, bincode::Encode, bincode::Decode)]
pub enum AdminRefusal {
    /// The name is taken, empty or too long.
    #[error("the name is taken or not allowed")]
    BadName,
    /// No such site, or it is gone.
    #[error("no such site")]
    NoSite,
    /// No such node, or it is gone.
    #[error("no such node")]
    NoNode,
    /// The site's first node has not started yet.
    #[error("the site's first node has not started yet")]
    NotFounded,
    /// The token is unknown or was used.
    #[error("the join token is unknown or was used")]
    BadToken,
    /// The code does not fit the fabric's sites.
    #[error("the code does not fit the fabric's sites")]
    BadCode,
    /// A bound is reached.
    #[error("a limit of the fabric is reached")]
    Full,
    /// No such disk, or it was removed.
    #[error("no such disk")]
    NoDisk,
    /// The disk was not drained.
    #[error("the disk was not drained")]
    NotDrained,
    /// Maintenance is of nodes.
    #[error("a disk alone has no maintenance: its node has")]
    BadDuty,
    /// A volume's journal has a replica on the disk.
    #[error("a volume's journal has a replica on the disk")]
    HoldsJournals,
    /// Where data lies is decided with the first volume.
    #[error(
        "what a site is for is decided before the first volume is made, be it deleted since, and once the \
         site's first node has started"
    )]
    HoldsSegments,
    /// A witness is one beside two sites.
    #[error("beside a witness there must be two sites with data")]
    TooFewSites,
    /// There is one.
    #[error("another site is the witness already")]
    AnotherWitness,
    /// No such volume.
    #[error("no such volume")]
    NoVolume,
    /// The volume is not served over iSCSI.
    #[error("the volume is not mapped")]
    NotMapped,
    /// The volume's name can't be a part of a target's, or an initiator's or a CHAP name is none.
    #[error(
        "a name can't stand in iSCSI: a volume's is of letters, digits, '.', '-', '_' and ':'; a CHAP \
         secret has 12 to 128 bytes"
    )]
    BadIscsiName,
    /// What was changed has another version by now.
    #[error("somebody else changed it meanwhile")]
    Stale,
}

/// A node can't start from what was found.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StartError {
    /// A group's log is damaged: start with a new directory incarnation and no logs (R8).
    #[error("{group}: {damage}")]
    Damaged {
        /// The group.
        group: GroupId,
        /// How.
        damage: LogDamage,
    },
    /// A log is of a group that this node can't be in.
    #[error("{0} is not this node's")]
    Foreign(GroupId),
}
