//! Where things are: volumes' records, nodes, disks and spread tables, as every node sees
//! them. Built by raft-meta from the groups' committed states; read by everyone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};

use crate::cut::Cut;
use crate::geometry::{Code, Pool};
use crate::ids::{Boot, DiskId, DiskRef, Epoch, NodeId, Position, SiteId, Version, VolumeId};
use crate::iscsi::Mappings;
use crate::journal::Checkpoint;
use crate::planted::{Bug, planted};
use crate::time::WallTime;
use crate::volumes::VolumeMap;

pub use crate::spread::{RowStamp, SlotMove, SlotPlace, SpreadTable};

/// Which disks hold a volume's journal: one in each of 3 sites (R6).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct JournalConfig {
    /// Raised by every committed change and cancel.
    pub version: Version,
    /// The replicas.
    pub replicas: Vec<DiskRef>,
    /// A replica set that is being changed to; acknowledgements and leases need both (R5).
    pub next: Option<Vec<DiskRef>>,
}

impl JournalConfig {
    /// How many of `replicas` an acknowledgement needs (R5): 2 of 3, 2 of 2, 1 of 1.
    #[must_use]
    pub fn ack_quorum(replicas: usize) -> usize {
        match replicas {
            0 | 1 => replicas,
            n => n / 2 + 1,
        }
    }

    /// How many of `replicas` a seal needs (R5): so that any seal set meets any
    /// acknowledgement set: 2 of 3, 1 of 2, 1 of 1.
    #[must_use]
    pub fn seal_quorum(replicas: usize) -> usize {
        replicas + 1 - Self::ack_quorum(replicas)
    }
}

/// Who serves a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// The node's life that claimed it; `None` while it was only assigned.
    pub boot: Option<Boot>,
}

/// What a volume went on from after it was recovered with loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum RecoveredFrom {
    /// The log of this replica alone, a minority.
    Replica(DiskRef),
    /// The published checkpoint: no journal was left.
    Checkpoint,
}

/// That a volume was recovered by the operator's word, without a quorum of its journal (R11):
/// what was acknowledged behind `covered` may be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Recovered {
    /// The first epoch of the new generation: of lower ones, no owner, no session and no
    /// replica's log counts any more.
    pub epoch: Epoch,
    /// What it went on from.
    pub from: RecoveredFrom,
    /// All up to here is there.
    pub covered: Position,
    /// When, by the clock of the node that was asked.
    pub at: WallTime,
    /// Whether no owner founded a journal over it yet: each one until then starts from it.
    pub pending: bool,
}

/// A volume as the global placement group knows it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct VolumeRecord {
    /// Its id.
    pub id: VolumeId,
    /// Its name: the export's name.
    pub name: String,
    /// Logical size in bytes, a multiple of the block size.
    pub size_bytes: u64,
    /// Raised by every change of its size, and by every end of a cut.
    pub resized: Version,
    /// What was cut off it and may still be found in its journal or index: its owner journals
    /// a hole there, and serves nothing from there on before it has ended the cut.
    pub cut: Option<Cut>,
    /// The code of its data segments.
    pub code: Code,
    /// Its home site.
    pub home: SiteId,
    /// The current epoch.
    pub epoch: Epoch,
    /// Who serves it; `None` if nobody does and nobody need to (clean).
    pub owner: Option<Owner>,
    /// Its journal.
    pub journal: JournalConfig,
    /// The last published checkpoint: a backstop (R3).
    pub checkpoint: Checkpoint,
    /// Whether the checkpoint is all there is: the owner ended cleanly in this epoch (R3).
    pub clean: bool,
    /// The epoch that founded the journal: what replicas hold of lower ones is obsolete (R3).
    pub founded: Epoch,
    /// When the checkpoint was published, by its owner's clock.
    pub published: Option<WallTime>,
    /// Its last recovery with loss, if there was one.
    pub recovered: Option<Recovered>,
    /// Whether it was deleted: a tombstone (R16).
    pub deleted: bool,
}

impl VolumeRecord {
    /// The recovery that its next owner carries out: it founds a journal over what is left.
    #[must_use]
    pub fn to_recover(&self) -> Option<&Recovered> {
        self.recovered.as_ref().filter(|r| r.pending)
    }

    /// The one replica that its next owner starts from by the operator's word, and how far its
    /// log must reach. Until a journal is founded from it, it is the only copy.
    #[must_use]
    pub fn to_salvage(&self) -> Option<(DiskRef, Position)> {
        let recovered = self.to_recover()?;
        match recovered.from {
            RecoveredFrom::Replica(at) => Some((at, recovered.covered)),
            RecoveredFrom::Checkpoint => None,
        }
    }

    /// Whether its next owner founds its journal anew: what replicas hold of lower epochs is
    /// obsolete then (R3).
    #[must_use]
    pub fn is_to_found(&self) -> bool {
        self.clean || self.to_recover().is_some()
    }

    /// The bytes that may be served: nothing of what was cut off, though the volume may have
    /// grown again since.
    #[must_use]
    pub fn served_bytes(&self) -> u64 {
        self.cut
            .map_or(self.size_bytes, |cut| self.size_bytes.min(cut.from))
    }
}

/// Whether a site, node or disk takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Presence {
    /// It serves.
    Up,
    /// Found dead by detection; a committed decision.
    Down,
    /// Removed for good.
    Gone,
}

/// What the operator wants of a disk, or of a node with all its disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub enum Duty {
    /// It takes what the placement gives it.
    #[default]
    Serve,
    /// It is being emptied: it serves what it has, is given nothing new where there is another
    /// one, and what it has moves away.
    Drain,
    /// A node that may stop and come back, with its disks: its volumes, journals and votes go to
    /// others, the fragments stay, and if it stops they are waited for longer than usual.
    Maintenance {
        /// By so many seconds.
        wait_s: u32,
    },
}

impl Duty {
    /// Whether something is to leave for good what it is about.
    #[must_use]
    pub fn is_drain(self) -> bool {
        self == Self::Drain
    }

    /// Whether volumes, journals and votes are to be elsewhere, where there is an elsewhere.
    #[must_use]
    pub fn is_to_rest(self) -> bool {
        self != Self::Serve
    }

    /// For how much longer than usual it is waited for.
    #[must_use]
    pub fn patience(self) -> Duration {
        match self {
            Self::Serve | Self::Drain => Duration::ZERO,
            Self::Maintenance { wait_s } => Duration::from_secs(wait_s.into()),
        }
    }
}

/// What a site is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub enum SiteRole {
    /// Data, journals, votes.
    #[default]
    Data,
    /// Journals and votes alone (R22).
    Witness {
        /// What becomes of writes with one data site left.
        alone: Alone,
    },
}

/// What becomes of writes while there is one data site left, and a witness (R22).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub enum Alone {
    /// What is written stays in the journals, two sites have all of it; once they are full, it is waited.
    #[default]
    Stall,
    /// It is drained into segments of the one site, and lost with that.
    Write,
}

impl SiteRole {
    /// Whether segments lie there.
    #[must_use]
    pub fn holds_data(self) -> bool {
        self == Self::Data
    }
}

/// A site.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Whether it takes part.
    pub presence: Presence,
    /// Whether new segments go to it too (R27): by a committed decision, a site whose disks take
    /// nothing is left alone, and takes part otherwise.
    pub takes_segments: bool,
    /// What it is for.
    pub role: SiteRole,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: SiteId,
    /// Where its QUIC endpoint listens.
    pub address: SocketAddr,
    /// Where its NBD server listens.
    pub nbd: SocketAddr,
    /// Whether it takes part.
    pub presence: Presence,
    /// What the operator wants of it.
    pub duty: Duty,
}

/// How long a device takes to answer: at least 2 to this power microseconds, less than twice that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct Latency(pub u8);

impl Latency {
    /// The class of a duration.
    #[must_use]
    pub fn of(took: Duration) -> Self {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Self(u8::try_from(us.max(1).ilog2()).expect("at most 63"))
    }

    /// The shortest that it stands for.
    #[must_use]
    pub fn at_least(self) -> Duration {
        Duration::from_micros(1_u64.checked_shl(self.0.into()).unwrap_or(u64::MAX))
    }
}

/// What a disk says of itself beside that it serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct DiskHealth {
    /// So much of it rotted that what it holds is better elsewhere.
    pub rots: bool,
    /// How long its device takes at its best; nothing if too little was asked of it to know.
    pub latency: Option<Latency>,
}

/// Why a disk is emptied though no operator said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum DiskFault {
    /// It corrupts data again and again.
    Rots,
    /// It is slow beside the others of its site.
    Slow,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Disk {
    /// Its current life.
    pub at: DiskRef,
    /// Its node.
    pub node: NodeId,
    /// Its capacity in bytes.
    pub capacity_bytes: u64,
    /// Whether it takes part.
    pub presence: Presence,
    /// What the operator wants of it, or of its node.
    pub duty: Duty,
    /// What was found of it, for which it is being emptied.
    pub fault: Option<DiskFault>,
}

/// The whole placement, as a node knows it now. Versions only grow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// The global group's applied index, then the sum of the site groups': orders views.
    pub version: Version,
    /// Sites.
    pub sites: BTreeMap<SiteId, Site>,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Disks.
    pub disks: BTreeMap<DiskId, Disk>,
    /// Spread tables, complete ones only.
    pub pools: BTreeMap<Pool, SpreadTable>,
    /// Volumes.
    pub volumes: VolumeMap,
    /// Those that are served over iSCSI.
    pub iscsi: Arc<Mappings>,
}

impl View {
    /// The node that has this disk in this life.
    #[must_use]
    pub fn node_of(&self, at: DiskRef) -> Option<NodeId> {
        let disk = self.disks.get(&at.disk)?;
        (disk.at == at).then_some(disk.node)
    }

    /// The site of a disk.
    #[must_use]
    pub fn site_of(&self, disk: DiskId) -> Option<SiteId> {
        let node = self.disks.get(&disk)?.node;
        Some(self.nodes.get(&node)?.site)
    }

    /// Whether a node takes part and is to: one that is drained gets no volume.
    #[must_use]
    pub fn takes_volumes(&self, node: NodeId) -> bool {
        let known = self.nodes.get(&node);
        known.is_some_and(|n| n.presence == Presence::Up && n.duty == Duty::Serve)
    }

    /// The site that is away by a committed decision, if exactly one is of those that hold data.
    #[must_use]
    pub fn away(&self) -> Option<SiteId> {
        let mut down = self
            .sites
            .iter()
            .filter(|(_, s)| s.presence == Presence::Down && s.role.holds_data());
        match (down.next(), down.next()) {
            (Some((id, _)), None) => Some(*id),
            _ => None,
        }
    }

    /// Whether a slot that a table has there lies in the site that is away. A table is in the view
    /// only once every slot has a disk, but for those of that site: nobody may be left who knows
    /// them.
    #[must_use]
    pub fn is_slot_away(&self, place: SlotPlace) -> bool {
        let away = self.away();
        match place.disk {
            Some(at) => away.is_some() && self.site_of(at.disk) == away,
            None => away.is_some(),
        }
    }

    /// The site that new segments do without: the one that is away, else one whose disks take
    /// nothing (R27). A witness never is: they go nowhere there.
    #[must_use]
    pub fn without(&self) -> Option<SiteId> {
        let is_away = |s: &Site| s.presence == Presence::Down && s.role.holds_data();
        match self.sites.values().any(is_away) {
            true => self.away(),
            false => {
                let unwritable = self.sites.iter().find(|(_, s)| !s.takes_segments);
                unwritable.map(|(id, _)| *id)
            }
        }
    }

    /// The pool that new segments of a code go to: with a site away, the pool made of those
    /// that are left (R26), once it has a table.
    #[must_use]
    pub fn pool_for(&self, code: Code) -> Option<Pool> {
        if let Some(away) = self.without().filter(|_| !planted(Bug::NoPoolOfLeft)) {
            let of_left = self.pools.keys().filter(|p| p.without == Some(away));
            let found = of_left.max_by_key(|pool| pool.layout);
            if let Some(pool) = found.filter(|pool| !self.is_forbidden(**pool)) {
                return Some(*pool);
            }
        }
        self.newest(Pool::of(code))
    }

    /// Of the pools that differ from this one by their layout alone, the one over the sites that
    /// there are now.
    #[must_use]
    pub fn newest(&self, pool: Pool) -> Option<Pool> {
        let mut layouts = self.pools.range(pool.layouts());
        layouts.next_back().map(|(pool, _)| *pool)
    }

    /// Whether what lies in a pool is to be spread over more sites than it was made for. Not
    /// while new segments do without a site: they would be written anew once more.
    #[must_use]
    pub fn is_outgrown(&self, pool: Pool) -> bool {
        let newest = || self.newest(pool);
        // `without` names one alone: with two away there is none.
        let down = |s: &Site| s.presence == Presence::Down && s.role.holds_data();
        let all_there = self.without().is_none() && !self.sites.values().any(down);
        let outgrown = pool.without.is_none() && all_there;
        outgrown
            && newest().is_some_and(|newest| newest.layout > pool.layout)
            && !planted(Bug::StaysPut)
    }

    /// Whether all of a pool for the sites that are left is one site's (R22).
    #[must_use]
    pub fn is_of_one_site(&self, pool: Pool) -> bool {
        let Some(table) = self.pools.get(&pool).filter(|_| pool.without.is_some()) else {
            return false;
        };
        let disks = table.places.iter().filter_map(|place| place.disk);
        let sites: BTreeSet<_> = disks.filter_map(|at| self.site_of(at.disk)).collect();
        sites.len() == 1
    }

    /// R22: whether nothing new may go to a pool, since it lies in one site and no witness has
    /// writes go on there. Without a witness no such pool was ever made.
    #[must_use]
    pub fn is_forbidden(&self, pool: Pool) -> bool {
        let there = self.sites.values().filter(|s| s.presence != Presence::Gone);
        let mut witnesses = there.filter(|s| !s.role.holds_data()).peekable();
        let write = SiteRole::Witness {
            alone: Alone::Write,
        };
        witnesses.peek().is_some()
            && !witnesses.any(|s| s.role == write)
            && !planted(Bug::TrimAlone)
            && self.is_of_one_site(pool)
    }

    /// The sites of all nodes that were not removed, whether or not they take part now.
    #[must_use]
    pub fn sites_of_nodes(&self) -> BTreeMap<NodeId, SiteId> {
        let nodes = self.nodes.iter();
        let members = nodes.filter(|(_, n)| n.presence != Presence::Gone);
        members.map(|(id, n)| (*id, n.site)).collect()
    }

    /// A volume by its name.
    #[must_use]
    pub fn volume_named(&self, name: &str) -> Option<&VolumeRecord> {
        self.volumes.values().find(|v| v.name == name && !v.deleted)
    }
}
