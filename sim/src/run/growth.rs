//! What the operator adds, until it is there: disks, in place of lost ones or beside others, nodes
//! with disks, and whole sites.

use std::net::SocketAddr;
use std::time::Duration;

use model::ids::{Incarnation, NodeId, SiteId};
use raft_meta::node::{AdminCommand, AdminReply, AdminToken};

use super::drains::newest;
use super::{Own, Run};
use crate::faults::{Fault, FaultPlan, Kind};
use crate::plan::topology::{NodeName, site_name};

/// A command that was not carried out is given again after this time.
const AGAIN: Duration = Duration::from_millis(500);

/// What a command is to add.
#[derive(Clone, Copy, Debug)]
pub(super) enum Adding {
    /// The so-manieth of the disks that are given to nodes.
    Disk(usize),
    /// The so-manieth of the nodes that join.
    Node(usize),
    /// The so-manieth of the sites that come.
    Site(usize),
}

impl Run {
    /// What a plan adds now; nothing where all is lost.
    pub(super) fn added(&self, plan: &FaultPlan, node: NodeId) -> Fault {
        let site = self.world.nodes[&node].site;
        let sites = self.world.sites();
        let of_site = &sites[&site];
        let bytes = self.plan.topology.disk * if plan.both { 2 } else { 1 };
        match plan.kind {
            Kind::AddDisk if !self.lost.contains(&node) => Fault::DiskAdded(node, bytes),
            Kind::AddNode if of_site.iter().any(|n| !self.lost.contains(n)) => {
                let site = self.place_of(node).site;
                let coming = self.joining.iter().filter(|(p, _)| p.site == site);
                let node = self.plan.topology.nodes + coming.count() as u64 + 1;
                Fault::NodeAdded(NodeName { site, node }, bytes)
            }
            Kind::AddSite => {
                Fault::SiteAdded(self.plan.topology.sites + self.building.len() as u64)
            }
            _ => Fault::Spared,
        }
    }

    fn place_of(&self, node: NodeId) -> NodeName {
        let mut names = self.by_name.iter();
        let found = names.find(|(_, id)| **id == node);
        *found.expect("every node has a name").0
    }

    /// A node is to get a new disk.
    pub(super) fn give_disk(&mut self, node: NodeId, bytes: u64) {
        self.given.push((node, bytes));
        self.give(self.given.len() - 1);
    }

    /// A disk is given to its node.
    pub(super) fn give(&mut self, i: usize) {
        let (node, _) = self.given[i];
        let incarnation = Incarnation(self.rng.bits());
        self.command_for(Adding::Disk(i), AdminCommand::AddDisk { node, incarnation });
    }

    /// A node is to join.
    pub(super) fn invite(&mut self, place: NodeName, bytes: u64) {
        self.joining.push((place, bytes));
        self.join(self.joining.len() - 1);
    }

    /// A node joins, unless the fabric knows it by an answer that was lost.
    pub(super) fn join(&mut self, i: usize) {
        let (place, _) = self.joining[i];
        let name = place.to_string();
        let known = newest(&self.world).and_then(|global| {
            let mut nodes = global.nodes.iter();
            nodes.find(|(_, n)| n.name == name).map(|(id, _)| *id)
        });
        if let Some(id) = known {
            return self.welcome(id, i);
        }
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let command = AdminCommand::AddNode {
            site: self.site_at(place.site),
            name,
            address,
            nbd: address,
        };
        self.command_for(Adding::Node(i), command);
    }

    fn site_at(&self, index: u64) -> SiteId {
        let first = NodeName {
            site: index,
            node: 1,
        };
        let built = self.built.get(&index).copied();
        built.unwrap_or_else(|| self.world.nodes[&self.by_name[&first]].site)
    }

    /// A site is to come.
    pub(super) fn build(&mut self, index: u64) {
        self.building.push(index);
        self.add_site(self.building.len() - 1);
    }

    /// A site comes, unless the fabric knows it by an answer that was lost.
    pub(super) fn add_site(&mut self, i: usize) {
        let name = site_name(self.building[i]);
        let known = newest(&self.world).and_then(|global| {
            let mut sites = global.sites.iter();
            sites.find(|(_, s)| s.name == name).map(|(id, _)| *id)
        });
        match known {
            Some(site) => self.settle(site, i),
            None => self.command_for(Adding::Site(i), AdminCommand::AddSite { name }),
        }
    }

    /// The fabric knows the site: its nodes join.
    fn settle(&mut self, id: SiteId, i: usize) {
        let site = self.building[i];
        if self.built.insert(site, id).is_some() {
            return;
        }
        for node in 1..=self.plan.topology.nodes {
            self.invite(NodeName { site, node }, self.plan.topology.disk);
        }
    }

    /// The fabric knows the node: it starts, and gets its disks.
    fn welcome(&mut self, id: NodeId, i: usize) {
        let (place, bytes) = self.joining[i];
        if self.world.nodes.contains_key(&id) {
            return;
        }
        let site = self.site_at(place.site);
        // The site went for good meanwhile: a machine of its own would not be left of it.
        let of_site = self.world.sites().remove(&site).unwrap_or_default();
        if !of_site.is_empty() && of_site.iter().all(|n| self.lost.contains(n)) {
            return;
        }
        self.add_node(id, site, place);
        self.start_node(id);
        for _ in 0..self.plan.topology.disks {
            self.give_disk(id, bytes);
        }
    }

    /// Gives a command to a node that runs, once there is one.
    fn command_for(&mut self, adding: Adding, command: AdminCommand) {
        let Some(by) = self.running().first().copied() else {
            return self.add_again(adding);
        };
        self.next_tag += 1;
        let token = AdminToken(self.next_tag);
        self.adding.insert(token, adding);
        self.world.admin(by, token, command);
    }

    fn add_again(&mut self, adding: Adding) {
        let own = match adding {
            Adding::Disk(i) => Own::AddDisk(i),
            Adding::Node(i) => Own::Join(i),
            Adding::Site(i) => Own::Build(i),
        };
        let at = self.world.now() + AGAIN;
        self.world.schedule(at, own.number());
    }

    pub(super) fn admin_replied(&mut self, token: AdminToken, reply: &AdminReply) {
        let Some(adding) = self.adding.remove(&token) else {
            return;
        };
        match (adding, reply) {
            (Adding::Disk(i), AdminReply::Disk(at)) => {
                let (node, bytes) = self.given[i];
                self.add_disk(node, *at, bytes);
                if self.world.nodes[&node].process.is_some() {
                    self.world.announce_disks(node);
                }
            }
            (Adding::Node(i), AdminReply::Node(id)) => self.welcome(*id, i),
            (Adding::Site(i), AdminReply::Site(id)) => self.settle(*id, i),
            _ => self.add_again(adding),
        }
    }
}
