//! What the operator adds, until it is there: disks, in place of lost ones or beside others, and
//! nodes with disks.

use std::net::SocketAddr;
use std::time::Duration;

use model::ids::{Incarnation, NodeId, SiteId};
use raft_meta::node::{AdminCommand, AdminReply, AdminToken};

use super::drains::newest;
use super::{Own, Run};
use crate::faults::{Fault, Kind, Plan};
use crate::plan::topology::NodeName;

/// A command that was not carried out is given again after this time.
const AGAIN: Duration = Duration::from_millis(500);

/// What a command is to add.
#[derive(Clone, Copy, Debug)]
pub(super) enum Adding {
    /// A disk of this node.
    Disk(NodeId),
    /// The so-manieth of the nodes that join.
    Node(usize),
}

impl Run {
    /// What a plan adds now; nothing where all is lost.
    pub(super) fn added(&self, plan: &Plan, node: NodeId) -> Fault {
        let site = self.world.nodes[&node].site;
        let sites = self.world.sites();
        let of_site = &sites[&site];
        match plan.kind {
            Kind::AddDisk if !self.lost.contains(&node) => Fault::DiskAdded(node),
            Kind::AddNode if of_site.iter().any(|n| !self.lost.contains(n)) => {
                let site = self.place_of(node).site;
                let coming = self.joining.iter().filter(|p| p.site == site);
                let node = self.plan.topology.nodes + coming.count() as u64 + 1;
                Fault::NodeAdded(NodeName { site, node })
            }
            _ => Fault::Spared,
        }
    }

    fn place_of(&self, node: NodeId) -> NodeName {
        let mut names = self.by_name.iter();
        let found = names.find(|(_, id)| **id == node);
        *found.expect("every node has a name").0
    }

    /// A new disk is added to a node.
    pub(super) fn give_disk(&mut self, number: usize) {
        let node = NodeId(u16::try_from(number).expect("a node's number"));
        let incarnation = Incarnation(self.rng.bits());
        let command = AdminCommand::AddDisk { node, incarnation };
        if !self.command_later(Adding::Disk(node), command) {
            self.add_again(Adding::Disk(node));
        }
    }

    /// A node is to join.
    pub(super) fn invite(&mut self, place: NodeName) {
        self.joining.push(place);
        self.join(self.joining.len() - 1);
    }

    /// A node joins, unless the fabric knows it by an answer that was lost.
    pub(super) fn join(&mut self, i: usize) {
        let place = self.joining[i];
        let name = place.to_string();
        let known = newest(&self.world).and_then(|global| {
            let mut nodes = global.nodes.iter();
            nodes.find(|(_, n)| n.name == name).map(|(id, _)| *id)
        });
        if let Some(id) = known {
            return self.welcome(id, place);
        }
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let command = AdminCommand::AddNode {
            site: self.site_at(place.site),
            name,
            address,
            nbd: address,
        };
        if !self.command_later(Adding::Node(i), command) {
            self.add_again(Adding::Node(i));
        }
    }

    fn site_at(&self, index: u64) -> SiteId {
        let first = NodeName {
            site: index,
            node: 1,
        };
        self.world.nodes[&self.by_name[&first]].site
    }

    /// The fabric knows the node: it starts, and gets its disks.
    fn welcome(&mut self, id: NodeId, place: NodeName) {
        if self.world.nodes.contains_key(&id) {
            return;
        }
        self.add_node(id, self.site_at(place.site), place);
        self.start_node(id);
        for _ in 0..self.plan.topology.disks {
            self.give_disk(usize::from(id.0));
        }
    }

    /// Gives a command to a node that runs; false if there is none.
    fn command_later(&mut self, adding: Adding, command: AdminCommand) -> bool {
        let Some(by) = self.running().first().copied() else {
            return false;
        };
        self.next_tag += 1;
        let token = AdminToken(self.next_tag);
        self.adding.insert(token, adding);
        self.world.admin(by, token, command);
        true
    }

    fn add_again(&mut self, adding: Adding) {
        let own = match adding {
            Adding::Disk(node) => Own::AddDisk(usize::from(node.0)),
            Adding::Node(i) => Own::Join(i),
        };
        let at = self.world.now() + AGAIN;
        self.world.plan(at, own.number());
    }

    pub(super) fn admin_replied(&mut self, token: AdminToken, reply: &AdminReply) {
        let Some(adding) = self.adding.remove(&token) else {
            return;
        };
        match (adding, reply) {
            (Adding::Disk(node), AdminReply::Disk(at)) => {
                self.add_disk(node, *at);
                if self.world.nodes[&node].process.is_some() {
                    self.world.announce_disks(node);
                }
            }
            (Adding::Node(i), AdminReply::Node(id)) => self.welcome(*id, self.joining[i]),
            _ => self.add_again(adding),
        }
    }
}
