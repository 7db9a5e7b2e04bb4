//! The operator's commands: sites, nodes, disks, tokens.

use model::geometry::Pool;
use model::ids::{Boot, DiskId, DiskRef, Incarnation, NodeId, SiteId};
use model::placement::{DiskFault, Duty, Presence, SiteRole, VolumeRecord};
use model::sometimes::{Sometimes, reached};

use super::room::{DISKS_MAX, NODES_MAX};
use super::{DiskEntry, DiskWord, GlobalState, NodeEntry, SiteEntry};
use crate::controller::faulty::share;
use crate::node::{AdminCommand, AdminRefusal, AdminReply, TokenHash};

/// Bound of sites, removed ones included.
pub const SITES_MAX: usize = 64;

/// Bound of a site's or a node's name in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Bound of join tokens; used ones make room.
pub const TOKENS_MAX: usize = 4096;

fn allowed(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

impl GlobalState {
    pub(super) fn apply_admin(&mut self, command: AdminCommand) -> AdminReply {
        let done = match command {
            AdminCommand::AddSite { name } => self.add_site(name).map(AdminReply::Site),
            AdminCommand::AddNode {
                site,
                name,
                address,
                nbd,
            } => {
                let entry = NodeEntry {
                    name,
                    site,
                    address,
                    nbd,
                    gone: false,
                    duty: Duty::Serve,
                };
                self.add_node(entry).map(AdminReply::Node)
            }
            AdminCommand::AddDisk { node, incarnation } => {
                self.add_disk(node, incarnation).map(AdminReply::Disk)
            }
            AdminCommand::AddToken { hash } => self.add_token(hash).map(|()| AdminReply::Done),
            AdminCommand::UseToken { hash } => self.use_token(hash).map(|()| AdminReply::Done),
            AdminCommand::CreatePool { code } => {
                self.create_pool(Pool::of(code)).map(|()| AdminReply::Done)
            }
            AdminCommand::RemoveNode { node } => self.remove_node(node).map(|()| AdminReply::Done),
            AdminCommand::RemoveSite { site } => self.remove_site(site).map(|()| AdminReply::Done),
            AdminCommand::SetDiskDuty { disk, duty } => {
                self.set_disk_duty(disk, duty).map(|()| AdminReply::Done)
            }
            AdminCommand::SetNodeDuty { node, duty } => {
                self.set_node_duty(node, duty).map(|()| AdminReply::Done)
            }
            AdminCommand::RemoveDisk { disk, lost } => {
                self.remove_disk(disk, lost).map(|()| AdminReply::Done)
            }
            AdminCommand::SetSiteRole { site, role } => {
                self.set_site_role(site, role).map(|()| AdminReply::Done)
            }
            AdminCommand::MapIscsi {
                volume,
                initiators,
                chap,
                mutual,
            } => self
                .map_iscsi(volume, initiators, (chap, mutual))
                .map(|()| AdminReply::Done),
            AdminCommand::UnmapIscsi { volume } => {
                self.unmap_iscsi(volume).map(|()| AdminReply::Done)
            }
            AdminCommand::SetUnitState {
                volume,
                expected,
                state,
            } => self
                .set_unit_state(volume, expected, *state)
                .map(|()| AdminReply::Done),
        };
        done.unwrap_or_else(AdminReply::Refused)
    }

    fn add_site(&mut self, name: String) -> Result<SiteId, AdminRefusal> {
        let taken = self
            .sites
            .values()
            .any(|s| s.name == name && s.presence != Presence::Gone);
        if !allowed(&name) || taken {
            return Err(AdminRefusal::BadName);
        }
        if self.sites.len() >= SITES_MAX || self.next_site == u8::MAX {
            return Err(AdminRefusal::Full);
        }
        let id = SiteId(self.next_site);
        self.next_site += 1;
        let entry = SiteEntry {
            name,
            presence: Presence::Up,
            founder: None,
            founding: None,
            generation: 0,
            contacts: Vec::new(),
            role: SiteRole::Data,
        };
        self.sites.insert(id, entry);
        Ok(id)
    }

    /// What holds data goes on to, and what holds none never will, once volumes are there: slots do
    /// not move between sites.
    fn set_site_role(&mut self, site: SiteId, role: SiteRole) -> Result<(), AdminRefusal> {
        let known = self.sites.get(&site);
        let entry = known.filter(|s| s.presence != Presence::Gone);
        let before = entry.ok_or(AdminRefusal::NoSite)?.role;
        let changes = before.holds_data() != role.holds_data();
        let is_settled = self.sites[&site].is_settled();
        let left = self.data_sites().into_iter().filter(|s| *s != site).count();
        if changes && !role.holds_data() && left < 2 {
            return Err(AdminRefusal::TooFewSites);
        }
        let others = self.sites.iter().filter(|(id, _)| **id != site);
        let mut witnesses = others.filter(|(_, s)| !s.role.holds_data());
        if changes && witnesses.any(|(_, s)| s.presence != Presence::Gone) {
            return Err(AdminRefusal::AnotherWitness);
        }
        if changes && (!self.volumes.is_empty() || !is_settled) {
            return Err(AdminRefusal::HoldsSegments);
        }
        let entry = self.sites.get_mut(&site).ok_or(AdminRefusal::NoSite)?;
        entry.role = role;
        if changes {
            self.respread_unused_pools();
        }
        Ok(())
    }

    fn add_node(&mut self, entry: NodeEntry) -> Result<NodeId, AdminRefusal> {
        let taken = self.nodes.values().any(|n| n.name == entry.name && !n.gone);
        if !allowed(&entry.name) || taken {
            return Err(AdminRefusal::BadName);
        }
        let site = self
            .sites
            .get_mut(&entry.site)
            .filter(|s| s.presence != Presence::Gone);
        let Some(site) = site else {
            return Err(AdminRefusal::NoSite);
        };
        if site.founder.is_some() && site.contacts.is_empty() {
            return Err(AdminRefusal::NotFounded);
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(AdminRefusal::Full);
        }
        let id = NodeId(self.next_node);
        self.next_node += 1;
        site.founder.get_or_insert(id);
        self.nodes.insert(id, entry);
        Ok(id)
    }

    fn add_disk(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Result<DiskRef, AdminRefusal> {
        if self.site_of_node(node).is_none() {
            return Err(AdminRefusal::NoNode);
        }
        // The same again: the first answer was lost.
        let again = self
            .disks
            .values()
            .find(|d| d.node == node && d.at.incarnation == incarnation && !d.word.is_last());
        if let Some(known) = again {
            return Ok(known.at);
        }
        if self.disks.len() >= DISKS_MAX || self.next_disk == u32::MAX {
            return Err(AdminRefusal::Full);
        }
        let at = DiskRef {
            disk: DiskId(self.next_disk),
            incarnation,
        };
        self.next_disk += 1;
        self.disks.insert(
            at.disk,
            DiskEntry {
                at,
                node,
                word: DiskWord::Serve,
            },
        );
        Ok(at)
    }

    fn add_token(&mut self, hash: TokenHash) -> Result<(), AdminRefusal> {
        if self.tokens.contains_key(&hash) {
            return Err(AdminRefusal::BadToken);
        }
        if self.tokens.len() >= TOKENS_MAX {
            let used = self
                .tokens
                .iter()
                .find(|(_, used)| **used)
                .map(|(hash, _)| *hash);
            self.tokens.remove(&used.ok_or(AdminRefusal::Full)?);
        }
        self.tokens.insert(hash, false);
        Ok(())
    }

    fn use_token(&mut self, hash: TokenHash) -> Result<(), AdminRefusal> {
        match self.tokens.get_mut(&hash) {
            Some(used) if !*used => {
                *used = true;
                Ok(())
            }
            _ => Err(AdminRefusal::BadToken),
        }
    }

    fn remove_node(&mut self, node: NodeId) -> Result<(), AdminRefusal> {
        let entry = self.nodes.get_mut(&node).ok_or(AdminRefusal::NoNode)?;
        entry.gone = true;
        let of = entry.site;
        let is_empty = !self.nodes.values().any(|n| n.site == of && !n.gone);
        if let Some(site) = self.sites.get_mut(&of) {
            if is_empty && !site.contacts.is_empty() {
                // R11: nobody is left of its group. The next node founds it anew.
                site.contacts.clear();
                (site.founder, site.founding) = (None, None);
                site.generation += 1;
                if site.presence == Presence::Up {
                    site.presence = Presence::Down;
                }
            } else if site.founder == Some(node) && site.contacts.is_empty() {
                // A site whose founder never came may get another one.
                site.founder = None;
            }
        }
        Ok(())
    }

    fn set_node_duty(&mut self, node: NodeId, duty: Duty) -> Result<(), AdminRefusal> {
        let entry = self.nodes.get_mut(&node).filter(|n| !n.gone);
        entry.ok_or(AdminRefusal::NoNode)?.duty = duty;
        Ok(())
    }

    fn disk(&mut self, disk: DiskId) -> Result<&mut DiskEntry, AdminRefusal> {
        let entry = self.disks.get(&disk).ok_or(AdminRefusal::NoDisk)?;
        if self.site_of_node(entry.node).is_none() {
            return Err(AdminRefusal::NoDisk);
        }
        self.disks.get_mut(&disk).ok_or(AdminRefusal::NoDisk)
    }

    fn set_disk_duty(&mut self, disk: DiskId, duty: Duty) -> Result<(), AdminRefusal> {
        let entry = self.disk(disk)?;
        if entry.word.is_last() {
            return Err(AdminRefusal::NoDisk);
        }
        entry.word = match duty {
            // The operator knows what was found, and has it serve all the same.
            Duty::Serve if matches!(entry.word, DiskWord::Faulty(_) | DiskWord::Trusted) => {
                DiskWord::Trusted
            }
            Duty::Serve => DiskWord::Serve,
            Duty::Drain => DiskWord::Drain,
            // It is a node's.
            Duty::Maintenance { .. } => return Err(AdminRefusal::BadDuty),
        };
        Ok(())
    }

    /// Only where the operator said nothing of the disk.
    pub(super) fn flag_disk(&mut self, at: DiskRef, fault: DiskFault) -> bool {
        let site = self.site_of_disk(at);
        let beside = self.disks.values();
        let beside = beside.filter(|e| !e.word.is_last() && self.site_of_node(e.node) == site);
        let (mut disks, mut faulty) = (0, 0);
        for entry in beside {
            disks += 1;
            faulty += usize::from(entry.fault().is_some());
        }
        let entry = self.disks.get_mut(&at.disk).filter(|e| e.at == at);
        let Some(entry) = entry.filter(|e| e.word == DiskWord::Serve) else {
            return false;
        };
        if faulty >= share(disks) {
            return false;
        }
        reached(Sometimes::DiskFlagged);
        entry.word = DiskWord::Faulty(fault);
        true
    }

    /// A disk that was drained, and that no journal names, goes for good once its site's group
    /// knows of no slot on it. From now on no journal takes it any more.
    fn remove_disk(&mut self, disk: DiskId, lost: bool) -> Result<(), AdminRefusal> {
        let entry = self.disk(disk)?.clone();
        let drains = self.duty_of_disk(&entry) == Duty::Drain;
        if !lost && !drains {
            return Err(AdminRefusal::NotDrained);
        }
        let names = |v: &&VolumeRecord| {
            let next = v.journal.next.iter().flatten();
            let mut all = v.journal.replicas.iter().chain(next);
            !v.deleted && all.any(|at| *at == entry.at)
        };
        if !lost && self.volumes.values().any(|v| names(&v)) {
            return Err(AdminRefusal::HoldsJournals);
        }
        let entry = self.disk(disk)?;
        entry.word = match lost || entry.word == DiskWord::Lost {
            true => DiskWord::Lost,
            false => DiskWord::Remove,
        };
        Ok(())
    }

    pub(super) fn found_site(&mut self, site: SiteId, node: NodeId, founding: Boot) -> bool {
        let Some(entry) = self.sites.get_mut(&site) else {
            return false;
        };
        let allowed = entry.founder == Some(node)
            && entry.contacts.is_empty()
            && entry.presence != Presence::Gone;
        if allowed {
            entry.founding = Some(founding);
        }
        allowed
    }

    fn remove_site(&mut self, site: SiteId) -> Result<(), AdminRefusal> {
        let entry = self.sites.get_mut(&site).ok_or(AdminRefusal::NoSite)?;
        entry.presence = Presence::Gone;
        // Segments go to the sites that are left, whichever they were before.
        self.unwritable = None;
        Ok(())
    }

    pub(super) fn set_contacts(&mut self, site: SiteId, nodes: Vec<NodeId>) -> bool {
        let known = nodes
            .iter()
            .all(|n| self.nodes.get(n).is_some_and(|e| e.site == site && !e.gone));
        let Some(entry) = self.sites.get_mut(&site) else {
            return false;
        };
        if nodes.is_empty() || !known {
            return false;
        }
        let first = entry.contacts.is_empty();
        entry.contacts = nodes;
        if first {
            self.respread_unused_pools();
        }
        true
    }
}
