//! A fabric's states, made by the commands that make any: sites, nodes and disks by the operator's,
//! registrations and slots by the site groups' leaders'.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use model::geometry::{Code, Pool};
use model::ids::{Boot, DiskId, DiskRef, Incarnation, NodeId, SiteId};
use model::placement::{DiskHealth, Duty};
use raft_meta::global::{GlobalCommand, GlobalReply, GlobalState, NodeEntry};
use raft_meta::message::{Beat, LocalDisk, MemberId, Members};
use raft_meta::node::{AdminCommand, AdminReply, Identity};
use raft_meta::site::{SiteCommand, SiteState};

use super::log::{Log, Pace};
use super::report::{Report, Section, Value};
use super::{Size, requests};

/// The code of all volumes.
pub(super) const CODE: Code = Code::Rs { k: 4, m: 2 };

/// The pool of their data.
pub(super) const POOL: Pool = Pool::of(CODE);

/// Sites that have a voter of the global placement group (R21).
const VOTING_SITES_MAX: u8 = 5;

/// Nobody is refused for want of room: how large the state becomes is what is measured.
const NO_BOUND: u64 = u64::MAX;

#[derive(Clone)]
pub(super) struct Fabric {
    pub(super) size: Size,
    pub(super) global: Log<GlobalState>,
    pub(super) sites: BTreeMap<SiteId, Log<SiteState>>,
}

/// The first founding of everything, in the life of the first node.
pub(super) fn boot(node: NodeId) -> Boot {
    Boot(u64::from(node.0) << 8 | 1)
}

pub(super) fn member(node: NodeId) -> MemberId {
    MemberId::new(node, Incarnation(1))
}

pub(super) fn address(node: NodeId) -> SocketAddr {
    let [high, low] = node.0.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, 0, high, low), 7400))
}

fn name(node: NodeId) -> String {
    format!("node-{}", node.0)
}

/// An operator's command, by the first node.
pub(super) fn admin(log: &mut Log<GlobalState>, command: AdminCommand) -> AdminReply {
    let operator = (NodeId(1), boot(NodeId(1)));
    let command = GlobalCommand::Admin(command);
    match log.ask(operator, &command, &mut Pace::default()) {
        GlobalReply::Admin(reply) => reply,
        other => panic!("an operator's answer: {other:?}"),
    }
}

impl Fabric {
    /// Sites, nodes, disks, and one volume, so that there are pools and their slots have disks.
    pub(super) fn found(size: &Size, report: &mut Report) -> Self {
        let mut fabric = Self::of(size, |state| state.with_volumes_claim_max(NO_BOUND));
        let by = (NodeId(1), boot(NodeId(1)));
        let create = requests::create(0, size, fabric.journal(0));
        let create = requests::meta(by, create);
        let reply = fabric.global.ask(by, &create, &mut Pace::default());
        requests::expect_record(reply);
        let assigned = fabric.assign();
        let mut section = Section::new("founding", "Founding");
        let disks = size.disks / u32::from(size.sites);
        let what = format!("a site's group gives a pool's slots to its {disks} disks");
        section.put("assign", what, Value::Wall(assigned));
        let bound = requests::until_full(size);
        let what = "volumes at which the bound of today refuses";
        section.put("bound", what, Value::Count(bound));
        report.add(section);
        fabric
    }

    /// Sites, nodes and disks.
    pub(super) fn of(size: &Size, tuned: impl FnOnce(GlobalState) -> GlobalState) -> Self {
        let first = NodeId(1);
        let voting = size.sites.min(VOTING_SITES_MAX);
        // Of four, one is no voter: the number is odd.
        let voting = voting - u8::from(voting.is_multiple_of(2));
        let voters = (0..voting).map(|nth| member(first_node(size, nth)));
        let members = Members::of_voters(voters.collect());
        let entry = NodeEntry {
            name: name(first),
            site: SiteId(1),
            address: address(first),
            nbd: address(first),
            gone: false,
            duty: Duty::Serve,
        };
        let founder = (first, boot(first));
        let state = GlobalState::new(size.rows, "site-1".into(), founder, entry);
        let mut fabric = Self {
            size: size.clone(),
            global: Log::new(boot(first), members, tuned(state)),
            sites: BTreeMap::new(),
        };
        for nth in 0..size.sites {
            fabric.add_site(nth);
        }
        fabric
    }

    /// A site, founded by its first node, with all its nodes and disks.
    pub(super) fn add_site(&mut self, nth: u8) {
        let site = SiteId(nth + 1);
        if nth > 0 {
            let name = format!("site-{}", site.0);
            let added = admin(&mut self.global, AdminCommand::AddSite { name });
            assert_eq!(added, AdminReply::Site(site));
        }
        let founder = first_node(&self.size, nth);
        let members = Members::of_voters(vec![member(founder)]);
        let group = Log::new(boot(founder), members, SiteState::new(site, 0));
        self.sites.insert(site, group);
        for of_site in 0..self.size.nodes_per_site() {
            let node = NodeId(founder.0 + of_site);
            if node != NodeId(1) {
                self.add_node(site, node);
            }
            if node == founder {
                self.found_group(site, founder);
            }
            for _ in 0..self.size.disks_per_node() {
                self.add_disk(node);
            }
            self.register(site, node);
        }
    }

    fn add_node(&mut self, site: SiteId, node: NodeId) {
        let command = AdminCommand::AddNode {
            site,
            name: name(node),
            address: address(node),
            nbd: address(node),
        };
        let added = admin(&mut self.global, command);
        assert_eq!(added, AdminReply::Node(node));
    }

    fn found_group(&mut self, site: SiteId, founder: NodeId) {
        let founding = boot(founder);
        if founder != NodeId(1) {
            self.global.decide(&GlobalCommand::FoundSite {
                site,
                node: founder,
                founding,
            });
        }
        let nodes = vec![founder];
        self.global
            .decide(&GlobalCommand::SetSiteContacts { site, nodes });
        assert!(self.global.state().sites[&site].is_settled());
    }

    fn add_disk(&mut self, node: NodeId) {
        let nth = self.global.state().disks.len() as u64;
        let incarnation = Incarnation(model::mix(self.size.seed) ^ model::mix(nth + 1));
        let command = AdminCommand::AddDisk { node, incarnation };
        let added = admin(&mut self.global, command);
        assert!(matches!(added, AdminReply::Disk(_)), "{added:?}");
    }

    /// As a site group's leader does with what it hears.
    fn register(&mut self, site: SiteId, node: NodeId) {
        let beat = self.beat(node);
        let group = self.sites.get_mut(&site).expect("it was founded");
        group.decide(&SiteCommand::RegisterNode {
            node,
            boot: beat.boot,
            member: beat.member,
            name: beat.name,
            address: beat.address,
            nbd: beat.nbd,
        });
        for disk in beat.disks {
            group.decide(&SiteCommand::RegisterDisk {
                at: disk.at,
                node,
                capacity_bytes: disk.capacity_bytes,
            });
        }
    }

    /// Every site's slots of every pool; what the slowest took.
    pub(super) fn assign(&mut self) -> Duration {
        let mut slowest = Duration::ZERO;
        for (pool, entry) in &self.global.state().pools {
            for (site, group) in &mut self.sites {
                let rows = entry.slots_of(*site);
                let pool = *pool;
                let took = group.decide(&SiteCommand::AssignPool { pool, rows }).wall;
                slowest = slowest.max(took);
            }
        }
        slowest
    }

    /// The disks of a volume's journal: volumes go round their home's disks, and those of the next
    /// two sites.
    pub(super) fn journal(&self, nth: u32) -> Vec<DiskRef> {
        let sites = u32::from(self.size.sites);
        let per_site = self.size.disks / sites;
        let at = |further: u32| {
            let site = (nth + further) % sites;
            let disk = site * per_site + nth / sites % per_site;
            let disks = &self.global.state().disks;
            disks[&DiskId(disk + 1)].at
        };
        (0..3).map(at).collect()
    }

    pub(super) fn identity(&self, node: NodeId) -> Identity {
        Identity {
            node,
            boot: boot(node),
            directory: Incarnation(1),
            name: name(node),
            site: self.global.state().nodes[&node].site,
            address: address(node),
            nbd: address(node),
        }
    }

    pub(super) fn disks_of(&self, node: NodeId) -> Vec<LocalDisk> {
        let first = u32::from(node.0 - 1) * self.size.disks_per_node();
        let of_node = (first..first + self.size.disks_per_node()).map(|nth| {
            let disk = &self.global.state().disks[&DiskId(nth + 1)];
            assert_eq!(disk.node, node, "disks are numbered by node");
            LocalDisk {
                at: disk.at,
                capacity_bytes: self.size.disk_bytes,
                has_room: true,
                health: DiskHealth::default(),
            }
        });
        of_node.collect()
    }

    /// A sign of life of a node that hears everybody.
    pub(super) fn beat(&self, node: NodeId) -> Beat {
        beat(self.identity(node), self.disks_of(node))
    }
}

pub(super) fn beat(identity: Identity, disks: Vec<LocalDisk>) -> Beat {
    Beat {
        site: identity.site,
        boot: identity.boot,
        member: member(identity.node),
        name: identity.name,
        address: identity.address,
        nbd: identity.nbd,
        site_quorum: true,
        global_quorum: true,
        disks,
        healed: Vec::new(),
    }
}

/// The first node of the so-manieth site, which founds it.
pub(super) fn first_node(size: &Size, nth: u8) -> NodeId {
    NodeId(u16::from(nth) * size.nodes_per_site() + 1)
}
