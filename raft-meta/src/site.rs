//! The site group's state machine: the site's nodes and disks, and which disk holds which slot.

mod assign;
mod moves;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bincode::{Decode, Encode};
use model::geometry::Pool;
use model::ids::{Boot, DiskId, DiskRef, NodeId, SiteId, Slot, Version};
use model::placement::{Duty, Presence};
use model::planted::{Bug, planted};
use model::sometimes::{Sometimes, reached};
use model::spread::SlotMove;

use crate::message::MemberId;
use crate::rendezvous::Candidate;
use crate::replica::StateMachine;

pub use moves::{MOVES_PER_COMMAND_MAX, MoveBegin, SlotAt};

/// Bound of a pool's rows.
pub const ROWS_MAX: usize = 4096;

/// Bound of a site's nodes.
pub const NODES_MAX: usize = 4096;

/// Bound of a site's disks.
pub const DISKS_MAX: usize = 1 << 16;

/// Bound of pools.
pub const POOLS_MAX: usize = 1024;

/// A node of the site.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SiteNode {
    /// Its name.
    pub name: String,
    /// Where its QUIC endpoint listens.
    pub address: SocketAddr,
    /// Where its NBD server listens.
    pub nbd: SocketAddr,
    /// Whether it takes part.
    pub presence: Presence,
    /// Its latest registered life.
    pub boot: Boot,
    /// As a member of groups.
    pub member: MemberId,
}

/// A disk of the site.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SiteDisk {
    /// The disk, in its registered life.
    pub at: DiskRef,
    /// Its node.
    pub node: NodeId,
    /// Its capacity in bytes.
    pub capacity_bytes: u64,
    /// Whether it takes part.
    pub presence: Presence,
    /// What the operator wants of it.
    pub duty: Duty,
}

/// A pool's slots in this site, row by row.
pub type PoolSlots = Vec<BTreeMap<Slot, SlotAt>>;

/// The state.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SiteState {
    /// Which site this is.
    pub site: SiteId,
    /// Its nodes.
    pub nodes: BTreeMap<NodeId, SiteNode>,
    /// Its disks.
    pub disks: BTreeMap<DiskId, SiteDisk>,
    /// The version of slots that get their first disk: beyond all that an earlier founding of
    /// the group may have given out (R11, R20). Zero in the first one.
    pub first_version: Version,
    /// Which disk holds which slot; changed by moves only.
    pub slots: BTreeMap<Pool, PoolSlots>,
}

/// What changes the state. Variants are only ever appended.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum SiteCommand {
    /// A node gave a sign of life: it is new, or has a new life or address. A new life does
    /// not make it Up; a new node is.
    RegisterNode {
        /// The node.
        node: NodeId,
        /// Its life.
        boot: Boot,
        /// As a member of groups.
        member: MemberId,
        /// Its name.
        name: String,
        /// Where its QUIC endpoint listens.
        address: SocketAddr,
        /// Where its NBD server listens.
        nbd: SocketAddr,
    },
    /// A node was found dead, or is back, or is gone for good.
    SetNodePresence {
        /// The node.
        node: NodeId,
        /// Compare: its presence.
        expected: Presence,
        /// Compare: its registered life.
        boot: Boot,
        /// What it is to be.
        to: Presence,
    },
    /// A node serves a disk; the disk is new, or has a new life, capacity or node.
    RegisterDisk {
        /// The disk.
        at: DiskRef,
        /// Its node.
        node: NodeId,
        /// Its capacity in bytes.
        capacity_bytes: u64,
    },
    /// A disk was found dead, or is back, or is gone for good.
    SetDiskPresence {
        /// The disk.
        at: DiskRef,
        /// Compare: its presence.
        expected: Presence,
        /// What it is to be.
        to: Presence,
    },
    /// Give every slot that this site holds of a pool a disk; slots that have one keep it.
    AssignPool {
        /// The pool.
        pool: Pool,
        /// Row by row: this site's slots, by the global placement group's table.
        rows: Vec<Vec<Slot>>,
    },
    /// Slots are to be moved (R20).
    BeginMoves(Vec<MoveBegin>),
    /// The new disks hold everything: the moves are over (R20).
    EndMoves(Vec<SlotMove>),
    /// The operator wants something else of a disk.
    SetDiskDuty {
        /// The disk.
        at: DiskRef,
        /// What.
        duty: Duty,
    },
    /// The operator has a disk removed: it is gone for good, if no slot is on it, or if it is
    /// lost.
    RemoveDisk {
        /// The disk.
        at: DiskRef,
        /// Whether it is lost: slots on it are moved without it.
        lost: bool,
    },
    /// Slots are to be moved so that they are spread by weight; each such move must pay by the
    /// state that it is applied to.
    Rebalance(Vec<MoveBegin>),
}

/// The answer to a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum SiteReply {
    /// Done.
    Done,
    /// A comparison failed, a bound is reached, or there is no disk; nothing was changed.
    Refused,
}

impl SiteState {
    /// A new site, or one that was founded anew so many times, without nodes: its founder registers itself like every other node.
    #[must_use]
    pub fn new(site: SiteId, generation: u32) -> Self {
        Self {
            site,
            first_version: Version(u64::from(generation) << 32),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            slots: BTreeMap::new(),
        }
    }

    /// Whether every slot of these rows has a disk.
    #[must_use]
    pub fn has_assigned(&self, pool: Pool, rows: &[Vec<Slot>]) -> bool {
        self.slots.get(&pool).is_some_and(|have| {
            have.len() == rows.len()
                && have
                    .iter()
                    .zip(rows)
                    .all(|(h, want)| want.iter().all(|s| h.contains_key(s)))
        })
    }

    /// Whether there is a disk to assign.
    #[must_use]
    pub fn has_candidates(&self) -> bool {
        self.disks.values().any(|d| self.serves(d))
    }

    fn serves(&self, disk: &SiteDisk) -> bool {
        let node_up = self
            .nodes
            .get(&disk.node)
            .is_some_and(|n| n.presence == Presence::Up);
        disk.presence == Presence::Up && node_up
    }

    /// Whether a disk, in that life, serves.
    pub(crate) fn has(&self, at: DiskRef) -> bool {
        let known = self.disks.get(&at.disk).filter(|d| d.at == at);
        known.is_some_and(|d| self.serves(d))
    }

    /// Whether a disk, in that life, is to be emptied and there is another one to empty it to.
    pub(crate) fn drains(&self, at: DiskRef) -> bool {
        let known = self.disks.get(&at.disk).filter(|d| d.at == at);
        known.is_some_and(|d| d.duty == Duty::Drain) && self.has_takers()
    }

    /// Whether a disk, in that life, is to be given nothing, as its node is in maintenance and there
    /// is another one.
    pub(crate) fn rests(&self, at: DiskRef) -> bool {
        let known = self.disks.get(&at.disk).filter(|d| d.at == at);
        known.is_some_and(|d| d.duty.is_to_rest() && !d.duty.is_drain()) && self.has_takers()
    }

    /// Whether there is a disk that serves and is to.
    pub(crate) fn has_takers(&self) -> bool {
        let mut all = self.disks.values();
        all.any(|d| self.serves(d) && d.duty == Duty::Serve)
    }

    /// Whether a slot, where it lies or is moved to, is on that disk.
    pub(crate) fn holds_slots(&self, at: DiskRef) -> bool {
        let mut slots = self.slots.values().flatten().flat_map(BTreeMap::values);
        slots.any(|slot| slot.disk == at || slot.to == Some(at))
    }

    /// The disks that may be given slots. If all are to be emptied, any is better than none.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let takes = |d: &&SiteDisk| {
            let leaves = self.drains(d.at) && !planted(Bug::DrainedTakes);
            self.serves(d) && !leaves && !self.rests(d.at)
        };
        let up = self.disks.values().filter(takes);
        up.map(|d| Candidate {
            at: d.at,
            node: d.node,
            weight: (d.capacity_bytes >> 20).max(1),
        })
        .collect()
    }

    fn set_duty(&mut self, at: DiskRef, duty: Duty) -> bool {
        match self.disks.get_mut(&at.disk).filter(|d| d.at == at) {
            Some(disk) if disk.presence != Presence::Gone && disk.duty != duty => {
                disk.duty = duty;
                true
            }
            _ => false,
        }
    }

    /// Nothing is on it that is not elsewhere, unless it is lost.
    fn remove_disk(&mut self, at: DiskRef, lost: bool) -> bool {
        let empty = !self.holds_slots(at) || planted(Bug::RemoveFull);
        match self.disks.get_mut(&at.disk).filter(|d| d.at == at) {
            Some(disk) if disk.presence != Presence::Gone && (lost || empty) => {
                if !lost {
                    reached(Sometimes::DiskRemoved);
                }
                disk.presence = Presence::Gone;
                true
            }
            _ => false,
        }
    }

    fn register_disk(&mut self, at: DiskRef, node: NodeId, capacity_bytes: u64) -> bool {
        let Some(known) = self.disks.get_mut(&at.disk) else {
            if self.disks.len() >= DISKS_MAX || !self.nodes.contains_key(&node) {
                return false;
            }
            let disk = SiteDisk {
                at,
                node,
                capacity_bytes,
                presence: Presence::Up,
                duty: Duty::Serve,
            };
            self.disks.insert(at.disk, disk);
            return true;
        };
        if known.presence == Presence::Gone && known.at == at {
            return false;
        }
        if known.at != at {
            known.presence = Presence::Up;
        }
        (known.at, known.node, known.capacity_bytes) = (at, node, capacity_bytes);
        true
    }
}

impl SiteState {
    /// A node that is known keeps its presence, and one that is gone stays so.
    fn register_node(&mut self, node: NodeId, mut new: SiteNode) -> bool {
        match self.nodes.get(&node) {
            Some(known) if known.presence == Presence::Gone => return false,
            Some(known) => new.presence = known.presence,
            None if self.nodes.len() >= NODES_MAX => return false,
            None => {}
        }
        self.nodes.insert(node, new);
        true
    }
}

impl StateMachine for SiteState {
    type Command = SiteCommand;
    type Query = ();
    type Reply = SiteReply;

    fn apply(&mut self, command: SiteCommand) -> SiteReply {
        let done = match command {
            SiteCommand::RegisterNode {
                node,
                boot,
                member,
                name,
                address,
                nbd,
            } => {
                let new = SiteNode {
                    name,
                    address,
                    nbd,
                    presence: Presence::Up,
                    boot,
                    member,
                };
                self.register_node(node, new)
            }
            SiteCommand::SetNodePresence {
                node,
                expected,
                boot,
                to,
            } => match self.nodes.get_mut(&node) {
                Some(n) if n.presence == expected && n.boot == boot => {
                    n.presence = to;
                    true
                }
                _ => false,
            },
            SiteCommand::RegisterDisk {
                at,
                node,
                capacity_bytes,
            } => self.register_disk(at, node, capacity_bytes),
            SiteCommand::SetDiskPresence { at, expected, to } => {
                match self.disks.get_mut(&at.disk) {
                    Some(d) if d.at == at && d.presence == expected => {
                        d.presence = to;
                        true
                    }
                    _ => false,
                }
            }
            SiteCommand::AssignPool { pool, rows } => self.assign(pool, &rows),
            SiteCommand::BeginMoves(moves) => self.begin_moves(&moves),
            SiteCommand::EndMoves(moves) => self.end_moves(&moves),
            SiteCommand::SetDiskDuty { at, duty } => self.set_duty(at, duty),
            SiteCommand::RemoveDisk { at, lost } => self.remove_disk(at, lost),
            SiteCommand::Rebalance(moves) => self.rebalance(&moves),
        };
        if done {
            SiteReply::Done
        } else {
            SiteReply::Refused
        }
    }

    /// All of them are the leader's decisions.
    fn may_ask(_: &SiteCommand, _: NodeId) -> bool {
        false
    }

    fn query(&self, (): ()) -> SiteReply {
        SiteReply::Done
    }
}
