//! The global placement group's state machine: sites, nodes' and disks' ids, pools' slots by
//! site, volumes, join tokens.

mod admin;
mod failover;
mod iscsi;
mod pools;
mod recover;
mod registry;
mod room;
mod volumes;
mod writable;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bincode::{Decode, Encode};
use model::geometry::Pool;
use model::ids::{Boot, DiskId, DiskRef, NodeId, Row, SiteId, Slot, Version, VolumeId};
use model::iscsi::Mappings;
use model::meta::{MetaReply, MetaRequest};
use model::placement::{Alone, DiskFault, Duty, Presence, SiteRole};
use model::planted::{Bug, planted};

use crate::node::{AdminCommand, AdminReply, TokenHash};
use crate::replica::StateMachine;

pub use admin::{NAME_BYTES_MAX, SITES_MAX, TOKENS_MAX};
pub use registry::Registry;
pub use room::VOLUMES_CLAIM_MAX;

/// A site.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SiteEntry {
    /// Its name.
    pub name: String,
    /// Whether it takes part.
    pub presence: Presence,
    /// Its first node, which founds its group.
    pub founder: Option<NodeId>,
    /// Which founding of its group counts (R11): a site all of whose nodes were removed is
    /// founded anew by the next one.
    pub founding: Option<Boot>,
    /// How often its group was founded anew.
    pub generation: u32,
    /// The voters of its group, by which others find it; empty until the group is founded.
    pub contacts: Vec<NodeId>,
    /// What it is for.
    pub role: SiteRole,
}

impl SiteEntry {
    /// Whether its group exists and it was not removed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.contacts.is_empty() && self.presence != Presence::Gone
    }
}

/// A node, as it was added.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NodeEntry {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: SiteId,
    /// Where its QUIC endpoint was to listen; its site's group knows better.
    pub address: SocketAddr,
    /// Where its NBD server was to listen; its site's group knows better.
    pub nbd: SocketAddr,
    /// Whether the operator removed it.
    pub gone: bool,
    /// What the operator wants of it, with all its disks.
    pub duty: Duty,
}

/// A disk, as it was added.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct DiskEntry {
    /// The disk in its life.
    pub at: DiskRef,
    /// Its node.
    pub node: NodeId,
    /// The operator's word about it.
    pub word: DiskWord,
}

impl DiskEntry {
    /// What was found of it, for which it is to be emptied.
    #[must_use]
    pub fn fault(&self) -> Option<DiskFault> {
        match self.word {
            DiskWord::Faulty(fault) => Some(fault),
            _ => None,
        }
    }
}

/// The operator's word about a disk, or what stands in its place. The disk's site group acts on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub enum DiskWord {
    /// It takes part.
    #[default]
    Serve,
    /// It is to be emptied.
    Drain,
    /// It is to go for good once it is empty: for ever, whatever still has to leave it.
    Remove,
    /// It is lost: it is gone for good now, and what it held is rebuilt from others.
    Lost,
    /// Nobody said anything, and it is to be emptied: this was found of it.
    Faulty(DiskFault),
    /// It takes part whatever is found of it.
    Trusted,
}

impl DiskWord {
    /// Whether the disk is gone for good, or is about to be.
    #[must_use]
    pub fn is_last(self) -> bool {
        matches!(self, Self::Remove | Self::Lost)
    }
}

/// Which site holds which slot of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PoolEntry {
    /// Rows; never changes (R23).
    pub rows: u16,
    /// Slots a row.
    pub slots: u8,
    /// Site of (row, slot) at `row * slots + slot`.
    pub sites: Vec<SiteId>,
}

impl PoolEntry {
    /// The site of a slot.
    #[must_use]
    pub fn site(&self, row: Row, slot: Slot) -> Option<SiteId> {
        let at = usize::from(row.0) * usize::from(self.slots) + usize::from(slot.0);
        self.sites.get(at).copied()
    }

    /// A site's slots, row by row.
    #[must_use]
    pub fn slots_of(&self, site: SiteId) -> Vec<Vec<Slot>> {
        let of_row = |row: u16| {
            (0..self.slots)
                .map(Slot)
                .filter(|slot| self.site(Row(row), *slot) == Some(site))
                .collect()
        };
        (0..self.rows).map(of_row).collect()
    }
}

/// The state.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct GlobalState {
    /// Sites.
    pub sites: BTreeMap<SiteId, SiteEntry>,
    /// Nodes; ids are never reused.
    pub nodes: BTreeMap<NodeId, NodeEntry>,
    /// Disks; ids are never reused.
    pub disks: BTreeMap<DiskId, DiskEntry>,
    /// Pools.
    pub pools: BTreeMap<Pool, PoolEntry>,
    /// The site that new segments do without, since its disks take nothing (R27). Only while no
    /// site is away, and never more than one.
    pub unwritable: Option<SiteId>,
    /// Volumes, deleted ones too (R16).
    pub volumes: Registry,
    /// Volumes that are served over iSCSI.
    pub iscsi: Arc<Mappings>,
    /// Join tokens; true once used.
    tokens: BTreeMap<TokenHash, bool>,
    /// Rows of new pools.
    pool_rows: u16,
    /// Bound of what volumes may take of a snapshot, deleted ones included.
    volumes_claim_max: u64,
    next_site: u8,
    next_node: u16,
    next_disk: u32,
    next_volume: u32,
    /// The last version of any mapping.
    mapped: Version,
}

/// What changes the state. Variants are only ever appended.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub enum GlobalCommand {
    /// A machine of a node asks for a mutation.
    Meta {
        /// The node.
        by: NodeId,
        /// Its life.
        boot: Boot,
        /// What it asks.
        request: MetaRequest,
    },
    /// The operator asks.
    Admin(AdminCommand),
    /// A site's first node is about to found the site's group: allowed while there is none.
    FoundSite {
        /// The site.
        site: SiteId,
        /// Its first node.
        node: NodeId,
        /// That node's life, by which the founding is known.
        founding: Boot,
    },
    /// The voters of a site's group are these now.
    SetSiteContacts {
        /// The site.
        site: SiteId,
        /// Their nodes.
        nodes: Vec<NodeId>,
    },
    /// A life of a node ended: its volumes get new owners.
    FailNode {
        /// The node.
        node: NodeId,
        /// The life that ended.
        boot: Boot,
        /// Nodes that live and have a reachable quorum (R11).
        candidates: Vec<NodeId>,
    },
    /// A whole site is silent: it is Down, its volumes get new owners, and there is a pool
    /// over the sites that are left (R26).
    FailSite {
        /// The site.
        site: SiteId,
        /// Nodes that live and have a reachable quorum (R11).
        candidates: Vec<NodeId>,
    },
    /// A site is back.
    ReturnSite {
        /// The site.
        site: SiteId,
    },
    /// One site is away, and there is no pool over those that are left (R26): nothing could
    /// make it when that site failed, because another one was away then.
    AddPoolWithout {
        /// The site that is away.
        site: SiteId,
        /// Nodes of the sites that are left, which live.
        live: Vec<NodeId>,
    },
    /// A node is drained: its volumes get other owners.
    Evacuate {
        /// The node.
        node: NodeId,
        /// Nodes that live, have a reachable quorum (R11) and are not drained themselves.
        candidates: Vec<NodeId>,
    },
    /// A site that takes part has disks that take nothing: new segments do without it (R27), as
    /// if it were away.
    LeaveUnwritable {
        /// The site.
        site: SiteId,
        /// Nodes of the sites that are left, which live.
        live: Vec<NodeId>,
    },
    /// Its disks take fragments again.
    TakeWritable {
        /// The site.
        site: SiteId,
    },
    /// A disk of which the operator said nothing is found to be bad: it is to be emptied.
    FlagDisk {
        /// The disk.
        at: DiskRef,
        /// What was found.
        fault: DiskFault,
    },
    /// Sites were added, and can take their share: codes that lie in fewer get pools over all of
    /// them, to which what is there is written anew.
    Respread,
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum GlobalQuery {
    /// A volume's record. Answered by `Meta`.
    Volume(VolumeId),
}

/// The answer to a command or a query.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for one call, then as bytes"
)]
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum GlobalReply {
    /// To `Meta` and to queries.
    Meta(MetaReply),
    /// To `Admin`.
    Admin(AdminReply),
    /// To the others: whether it was done.
    Done(bool),
}

impl GlobalState {
    /// A new fabric of one site, whose group that node founds in that life. Pools will have so
    /// many rows.
    #[must_use]
    pub fn new(
        pool_rows: u16,
        site_name: String,
        (node, founding): (NodeId, Boot),
        entry: NodeEntry,
    ) -> Self {
        let site = entry.site;
        let site_entry = SiteEntry {
            name: site_name,
            presence: Presence::Up,
            founder: Some(node),
            founding: Some(founding),
            generation: 0,
            contacts: vec![node],
            role: SiteRole::Data,
        };
        Self {
            sites: BTreeMap::from([(site, site_entry)]),
            next_site: site.0 + 1,
            next_node: node.0 + 1,
            nodes: BTreeMap::from([(node, entry)]),
            disks: BTreeMap::new(),
            pools: BTreeMap::new(),
            unwritable: None,
            volumes: Registry::default(),
            iscsi: Arc::default(),
            tokens: BTreeMap::new(),
            pool_rows: pool_rows.max(1),
            volumes_claim_max: room::VOLUMES_CLAIM_MAX,
            next_disk: 1,
            next_volume: 1,
            mapped: Version(0),
        }
    }

    /// Another bound of what volumes may take of a snapshot: it is the founder's word, as the
    /// rows of pools are.
    #[must_use]
    pub fn with_volumes_claim_max(mut self, bytes: u64) -> Self {
        self.volumes_claim_max = bytes;
        self
    }

    /// The site of a node that was not removed.
    #[must_use]
    pub fn site_of_node(&self, node: NodeId) -> Option<SiteId> {
        self.nodes.get(&node).filter(|n| !n.gone).map(|n| n.site)
    }

    /// The site of a disk in that life.
    #[must_use]
    pub fn site_of_disk(&self, at: DiskRef) -> Option<SiteId> {
        let disk = self.disks.get(&at.disk).filter(|d| d.at == at)?;
        self.site_of_node(disk.node)
            .filter(|_| !disk.word.is_last())
    }

    /// What the operator wants of a disk: his word about it, or about its node.
    #[must_use]
    pub fn duty_of_disk(&self, disk: &DiskEntry) -> Duty {
        let of_node = self.nodes.get(&disk.node).map_or(Duty::Serve, |n| n.duty);
        match disk.word {
            DiskWord::Serve | DiskWord::Trusted => of_node,
            DiskWord::Drain | DiskWord::Remove | DiskWord::Lost | DiskWord::Faulty(_) => {
                Duty::Drain
            }
        }
    }

    /// Those of them that hold data.
    #[must_use]
    pub fn data_sites(&self) -> Vec<SiteId> {
        let mut sites = self.settled_sites();
        sites.retain(|site| self.sites[site].role.holds_data());
        sites
    }

    /// R22: in so few sites new segments may lie: two, unless a witness says otherwise.
    pub(crate) fn fewest_sites(&self) -> usize {
        let may_be_one = SiteRole::Witness {
            alone: Alone::Write,
        };
        let mut there = self.sites.values().filter(|s| s.presence != Presence::Gone);
        match there.any(|s| s.role == may_be_one) || planted(Bug::TrimAlone) {
            true => 1,
            false => 2,
        }
    }

    /// Sites whose groups exist, that were not removed.
    #[must_use]
    pub fn settled_sites(&self) -> Vec<SiteId> {
        self.sites
            .iter()
            .filter(|(_, s)| s.is_settled())
            .map(|(id, _)| *id)
            .collect()
    }
}

impl StateMachine for GlobalState {
    type Command = GlobalCommand;
    type Query = GlobalQuery;
    type Reply = GlobalReply;

    fn apply(&mut self, command: GlobalCommand) -> GlobalReply {
        match command {
            GlobalCommand::Meta { by, boot, request } => {
                GlobalReply::Meta(self.apply_meta(by, boot, request))
            }
            GlobalCommand::Admin(command) => GlobalReply::Admin(self.apply_admin(command)),
            GlobalCommand::FoundSite {
                site,
                node,
                founding,
            } => GlobalReply::Done(self.found_site(site, node, founding)),
            GlobalCommand::SetSiteContacts { site, nodes } => {
                GlobalReply::Done(self.set_contacts(site, nodes))
            }
            GlobalCommand::FailNode {
                node,
                boot,
                candidates,
            } => GlobalReply::Done(self.fail_node(node, boot, &candidates)),
            GlobalCommand::FailSite { site, candidates } => {
                GlobalReply::Done(self.fail_site(site, &candidates))
            }
            GlobalCommand::ReturnSite { site } => GlobalReply::Done(self.return_site(site)),
            GlobalCommand::AddPoolWithout { site, live } => {
                let live = self.known(&live, |_, of| of != site);
                GlobalReply::Done(self.create_pool_without(site, &live))
            }
            GlobalCommand::Evacuate { node, candidates } => {
                GlobalReply::Done(self.evacuate(node, &candidates))
            }
            GlobalCommand::LeaveUnwritable { site, live } => {
                GlobalReply::Done(self.leave_unwritable(site, &live))
            }
            GlobalCommand::TakeWritable { site } => GlobalReply::Done(self.take_writable(site)),
            GlobalCommand::FlagDisk { at, fault } => GlobalReply::Done(self.flag_disk(at, fault)),
            GlobalCommand::Respread => GlobalReply::Done(self.respread()),
        }
    }

    fn may_ask(command: &GlobalCommand, asking: NodeId) -> bool {
        match command {
            GlobalCommand::Meta { by: node, .. } | GlobalCommand::FoundSite { node, .. } => {
                *node == asking
            }
            // The operator speaks through any node.
            GlobalCommand::Admin(_) => true,
            GlobalCommand::SetSiteContacts { .. }
            | GlobalCommand::FailNode { .. }
            | GlobalCommand::FailSite { .. }
            | GlobalCommand::ReturnSite { .. }
            | GlobalCommand::AddPoolWithout { .. }
            | GlobalCommand::Evacuate { .. }
            | GlobalCommand::LeaveUnwritable { .. }
            | GlobalCommand::TakeWritable { .. }
            | GlobalCommand::FlagDisk { .. }
            | GlobalCommand::Respread => false,
        }
    }

    fn query(&self, query: GlobalQuery) -> GlobalReply {
        match query {
            GlobalQuery::Volume(volume) => {
                GlobalReply::Meta(MetaReply::Volume(self.volumes.get(&volume).cloned()))
            }
        }
    }
}
