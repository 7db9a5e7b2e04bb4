//! Where slots lie: by the tables of the groups' own states, made by the commands that make any.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use coding::Codec;
use model::geometry::{Code, Pool};
use model::ids::{Boot, DiskRef, Incarnation, NodeId, SiteId};
use model::meta::{MetaReply, MetaRequest};
use model::placement::Duty;
use raft_meta::global::{GlobalCommand, GlobalReply, GlobalState, NodeEntry};
use raft_meta::message::MemberId;
use raft_meta::node::{AdminCommand, AdminReply};
use raft_meta::replica::StateMachine;
use raft_meta::site::{SiteCommand, SiteState};

use super::DurabilityError;
use super::terms::Shape;

/// Disks by number, in the order of sites and nodes; so are nodes and sites.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) codec: Codec,
    pub(super) sites: usize,
    pub(super) nodes: usize,
    pub(super) disks: usize,
    nodes_per_site: usize,
    disks_per_node: usize,
    /// Row by row: the disk of each slot.
    pub(super) rows: Vec<Vec<usize>>,
    /// Bytes in each slot of a row.
    pub(super) slot_bytes: f64,
}

impl Layout {
    pub(super) fn node_of(&self, disk: usize) -> usize {
        disk / self.disks_per_node
    }

    pub(super) fn site_of(&self, disk: usize) -> usize {
        self.site_of_node(self.node_of(disk))
    }

    pub(super) fn site_of_node(&self, node: usize) -> usize {
        node / self.nodes_per_site
    }

    pub(super) fn disks_of_node(&self, node: usize) -> std::ops::Range<usize> {
        node * self.disks_per_node..(node + 1) * self.disks_per_node
    }

    pub(super) fn disks_of_site(&self, site: usize) -> std::ops::Range<usize> {
        let per_site = self.nodes_per_site * self.disks_per_node;
        site * per_site..(site + 1) * per_site
    }

    /// Slots of all rows.
    pub(super) fn slots(&self) -> usize {
        self.rows.len() * self.rows[0].len()
    }

    /// How many slots of a row a site holds.
    pub(super) fn held(&self, row: usize, site: usize) -> usize {
        let of_site = |disk: &&usize| self.site_of(**disk) == site;
        self.rows[row].iter().filter(of_site).count()
    }

    /// # Errors
    /// [`DurabilityError::Code`] if the fabric takes no volume of that code.
    pub(super) fn of(shape: &Shape, code: Code, seed: u64) -> Result<Self, DurabilityError> {
        let refused = DurabilityError::Code {
            code,
            sites: shape.sites,
        };
        let codec = Codec::new(code).map_err(|_| refused)?;
        let founding = Founding::of(shape, seed);
        let disks = founding.disks.len();
        let rows = founding.place(code).ok_or(refused)?;
        let slots = rows.iter().map(Vec::len).sum::<usize>();
        Ok(Self {
            codec,
            sites: usize::from(shape.sites),
            nodes: usize::from(shape.sites) * usize::from(shape.nodes),
            disks,
            nodes_per_site: usize::from(shape.nodes),
            disks_per_node: usize::from(shape.disks),
            rows,
            slot_bytes: shape.disk_bytes as f64 * disks as f64 / slots as f64,
        })
    }
}

const FIRST: NodeId = NodeId(1);

fn boot(node: NodeId) -> Boot {
    Boot(u64::from(node.0) << 8 | 1)
}

fn address(node: NodeId) -> SocketAddr {
    let [high, low] = node.0.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, 0, high, low), 7400))
}

/// The states of a new fabric's groups.
struct Founding {
    global: GlobalState,
    sites: BTreeMap<SiteId, SiteState>,
    /// In order.
    disks: Vec<DiskRef>,
}

impl Founding {
    fn of(shape: &Shape, seed: u64) -> Self {
        let entry = NodeEntry {
            name: "node-1".to_owned(),
            site: SiteId(1),
            address: address(FIRST),
            nbd: address(FIRST),
            gone: false,
            duty: Duty::Serve,
        };
        let founder = (FIRST, boot(FIRST));
        let global = GlobalState::new(shape.rows, "site-1".to_owned(), founder, entry);
        let mut founding = Self {
            global,
            sites: BTreeMap::new(),
            disks: Vec::new(),
        };
        for nth in 0..shape.sites {
            founding.add_site(shape, nth, seed);
        }
        founding
    }

    fn admin(&mut self, command: AdminCommand) -> AdminReply {
        match self.global.apply(GlobalCommand::Admin(command)) {
            GlobalReply::Admin(reply) => reply,
            other => panic!("an operator's answer: {other:?}"),
        }
    }

    fn add_site(&mut self, shape: &Shape, nth: u8, seed: u64) {
        let site = SiteId(nth + 1);
        if nth > 0 {
            let name = format!("site-{}", site.0);
            let added = self.admin(AdminCommand::AddSite { name });
            assert_eq!(added, AdminReply::Site(site), "sites are within bounds");
        }
        self.sites.insert(site, SiteState::new(site, 0));
        let first = u16::from(nth) * shape.nodes + 1;
        for node in (first..first + shape.nodes).map(NodeId) {
            self.add_node(site, node);
            if node.0 == first {
                self.found_group(site, node);
            }
            for _ in 0..shape.disks {
                self.add_disk(shape, site, node, seed);
            }
        }
    }

    fn add_node(&mut self, site: SiteId, node: NodeId) {
        let (name, address) = (format!("node-{}", node.0), address(node));
        if node != FIRST {
            let added = self.admin(AdminCommand::AddNode {
                site,
                name: name.clone(),
                address,
                nbd: address,
            });
            assert_eq!(added, AdminReply::Node(node), "nodes are within bounds");
        }
        let group = self.sites.get_mut(&site).expect("it was just made");
        group.apply(SiteCommand::RegisterNode {
            node,
            boot: boot(node),
            member: MemberId::new(node, Incarnation(1)),
            name,
            address,
            nbd: address,
        });
    }

    fn found_group(&mut self, site: SiteId, node: NodeId) {
        if node != FIRST {
            let founding = boot(node);
            self.global.apply(GlobalCommand::FoundSite {
                site,
                node,
                founding,
            });
        }
        let nodes = vec![node];
        self.global
            .apply(GlobalCommand::SetSiteContacts { site, nodes });
    }

    fn add_disk(&mut self, shape: &Shape, site: SiteId, node: NodeId, seed: u64) {
        let nth = self.disks.len() as u64;
        let incarnation = Incarnation(model::mix(seed) ^ model::mix(nth + 1));
        let AdminReply::Disk(at) = self.admin(AdminCommand::AddDisk { node, incarnation }) else {
            panic!("disks are within bounds");
        };
        self.disks.push(at);
        let group = self.sites.get_mut(&site).expect("it was just made");
        let capacity_bytes = shape.disk_bytes;
        group.apply(SiteCommand::RegisterDisk {
            at,
            node,
            capacity_bytes,
        });
    }

    /// The first disk of each site, up to three.
    fn journal(&self) -> Vec<DiskRef> {
        let per_site = self.disks.len() / self.sites.len();
        let firsts = self.disks.iter().step_by(per_site);
        firsts.take(3).copied().collect()
    }

    /// A volume's pool: row by row the disk of each slot. `None` if that code does not fit.
    fn place(mut self, code: Code) -> Option<Vec<Vec<usize>>> {
        let request = MetaRequest::CreateVolume {
            name: "volume".to_owned(),
            size_bytes: 1 << 30,
            code,
            home: SiteId(1),
            journal: self.journal(),
        };
        let by = FIRST;
        let boot = boot(by);
        let reply = self.global.apply(GlobalCommand::Meta { by, boot, request });
        if !matches!(reply, GlobalReply::Meta(MetaReply::Volume(Some(_)))) {
            return None;
        }
        let pool = Pool::of(code);
        let entry = &self.global.pools[&pool];
        let number: BTreeMap<DiskRef, usize> = self.disks.iter().copied().zip(0..).collect();
        let mut table = vec![vec![usize::MAX; usize::from(entry.slots)]; usize::from(entry.rows)];
        for (site, group) in &mut self.sites {
            let rows = entry.slots_of(*site);
            group.apply(SiteCommand::AssignPool { pool, rows });
            for (row, slots) in table.iter_mut().zip(&group.slots[&pool]) {
                for (slot, at) in slots {
                    row[usize::from(slot.0)] = number[&at.disk];
                }
            }
        }
        let placed = table.iter().flatten().all(|disk| *disk < number.len());
        assert!(placed, "every slot has a disk");
        Some(table)
    }
}
