//! What the operator does with disks and nodes: has them emptied, removed, or asks whether a
//! node may stop.

use std::collections::BTreeSet;
use std::time::Instant;

use model::ids::{DiskRef, NodeId};
use model::placement::{Alone, Disk, Duty, Presence, SiteRole, View};
use raft_meta::GroupId;
use raft_meta::node::{AdminCommand, AdminReply};

use super::safety::{self, Loss};
use super::show::{self, Heard, disk_name, node_name};
use super::{Admin, DISKS_MAX, POLL, fail, node_named, site_named, unknown, unknown_outcome};
use crate::admin::protocol::{
    DiskRemoved, Emptying, Failure, FailureKind, Left, Maintenance, OneLeft, Removed, Reply, Safety,
};
use crate::daemon::peers::Question;

/// Slots that count on some disks, where they lie or are moved to.
fn slots_on(view: &View, disks: &BTreeSet<DiskRef>) -> u64 {
    let places = view.pools.values().flat_map(|table| &table.places);
    let on = places.filter(|place| {
        let here = |at: Option<DiskRef>| at.is_some_and(|at| disks.contains(&at));
        here(place.disk) || here(place.to)
    });
    on.count() as u64
}

/// What is left of disks (and of a node, if it is one's) that are to be empty.
fn left(view: &View, heard: &Heard, disks: &BTreeSet<DiskRef>, node: Option<NodeId>) -> Left {
    let live = || view.volumes.values().filter(|v| !v.deleted);
    let names = |v: &&model::placement::VolumeRecord| {
        let next = v.journal.next.iter().flatten();
        let mut all = v.journal.replicas.iter().chain(next);
        all.any(|at| disks.contains(at))
    };
    let bytes = |at: &DiskRef| {
        let of = heard.figures.get(&view.node_of(*at)?)?;
        Some(of.disks.get(&at.disk)?.used_bytes)
    };
    let owned = live().filter(|v| node.is_some() && v.owner.map(|o| o.node) == node);
    Left {
        slots: slots_on(view, disks),
        journals: live().filter(names).map(|v| v.name.clone()).collect(),
        volumes_owned: owned.map(|v| v.name.clone()).collect(),
        fragment_bytes: disks.iter().map(bytes).sum(),
    }
}

impl Left {
    /// What must be gone before a disk may be, in words.
    fn in_words(&self) -> Option<String> {
        let mut parts = Vec::new();
        let s = |n: usize| if n == 1 { "" } else { "s" };
        if self.slots > 0 {
            let n = usize::try_from(self.slots).unwrap_or(usize::MAX);
            parts.push(format!("{n} slot{} of spreads", s(n)));
        }
        if !self.journals.is_empty() {
            let n = self.journals.len();
            let names = self.journals.join(", ");
            parts.push(format!("{n} journal replica{} ({names})", s(n)));
        }
        (!parts.is_empty()).then(|| parts.join(" and "))
    }
}

impl Admin {
    /// Names of disks are known to their nodes alone.
    pub(super) fn disk_named(&self, view: &View, name: &str) -> Result<Disk, Failure> {
        let heard = self.hear(view, show::members(view), Question::All)?;
        let listed = show::disks(view, &heard).disks;
        let called = listed.iter().find(|d| d.is_called(name));
        let by_name = |d: &&Disk| called.is_some_and(|c| c.name == disk_name(view, d.at.disk));
        let found = view.disks.values().find(by_name).cloned();
        found.ok_or_else(|| unknown("disk", name, listed.iter().map(|d| d.name.as_str())))
    }

    pub(super) fn command(&self, command: AdminCommand) -> Result<(), Failure> {
        match self.meta.admin(command).blocking_recv() {
            Ok(AdminReply::Done) => Ok(()),
            Ok(AdminReply::Refused(why)) => Err(fail(FailureKind::Refused, why.to_string())),
            Ok(_) | Err(_) => Err(unknown_outcome()),
        }
    }

    /// Has a disk emptied, or serve again.
    pub(super) fn disk_duty(&self, name: &str, duty: Duty) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let disk = self.disk_named(&view, name)?;
        let name = disk_name(&view, disk.at.disk);
        let of_node = view.nodes.get(&disk.node);
        if disk.presence == Presence::Gone {
            return Err(fail(
                FailureKind::Refused,
                format!("disk {name} was removed"),
            ));
        }
        if let Some(node) = of_node.filter(|n| duty == Duty::Serve && n.duty == Duty::Drain) {
            let why = format!(
                "node {0} is drained with all its disks: `atoll node undrain {0}` first",
                node.name
            );
            return Err(fail(FailureKind::Refused, why));
        }
        let id = disk.at.disk;
        self.command(AdminCommand::SetDiskDuty { disk: id, duty })?;
        let is_known = |view: &View| view.disks.get(&id).is_some_and(|d| d.duty == duty);
        let view = self.await_view(is_known);
        let heard = self.hear(&view, BTreeSet::from([disk.node]), Question::All)?;
        Ok(Reply::Emptying(Emptying {
            what: format!("disk {name}"),
            draining: duty == Duty::Drain,
            left: left(&view, &heard, &BTreeSet::from([disk.at]), None),
        }))
    }

    /// Has a site be a witness, or hold data.
    pub(super) fn site_witness(
        &self,
        name: &str,
        one_left: Option<OneLeft>,
    ) -> Result<Reply, Failure> {
        let site = site_named(&self.meta.view(), name)?;
        let role = match one_left {
            None => SiteRole::Data,
            Some(OneLeft::Stall) => SiteRole::Witness {
                alone: Alone::Stall,
            },
            Some(OneLeft::Write) => SiteRole::Witness {
                alone: Alone::Write,
            },
        };
        self.command(AdminCommand::SetSiteRole { site, role })?;
        let view = self.await_view(|view| view.sites.get(&site).is_some_and(|s| s.role == role));
        let heard = self.hear(&view, show::members(&view), Question::All)?;
        let mut sites = show::sites(&view, &heard);
        sites.sites.retain(|s| s.name == name);
        Ok(Reply::Sites(sites))
    }

    /// Has a node emptied, or serve again.
    pub(super) fn node_duty(&self, name: &str, duty: Duty) -> Result<Reply, Failure> {
        let (node, _) = node_named(&self.meta.view(), name)?;
        self.command(AdminCommand::SetNodeDuty { node, duty })?;
        let is_known = |view: &View| view.nodes.get(&node).is_some_and(|n| n.duty == duty);
        let view = self.await_view(is_known);
        let heard = self.hear(&view, BTreeSet::from([node]), Question::All)?;
        let disks = view.disks.values().filter(|d| d.node == node);
        Ok(Reply::Emptying(Emptying {
            what: format!("node {name}"),
            draining: duty == Duty::Drain,
            left: left(&view, &heard, &disks.map(|d| d.at).collect(), Some(node)),
        }))
    }

    /// Prepares a node for a stop, or ends that.
    pub(super) fn maintenance(&self, name: &str, wait_s: Option<u32>) -> Result<Reply, Failure> {
        let (node, known) = node_named(&self.meta.view(), name)?;
        if known.duty.is_drain() {
            let why = format!(
                "node {name} is drained, and leaves with all that it holds: `atoll node undrain {name}` first"
            );
            return Err(fail(FailureKind::Refused, why));
        }
        let duty = wait_s.map_or(Duty::Serve, |wait_s| Duty::Maintenance { wait_s });
        if known.duty != duty {
            self.command(AdminCommand::SetNodeDuty { node, duty })?;
        }
        let is_known = |view: &View| view.nodes.get(&node).is_some_and(|n| n.duty == duty);
        let view = self.await_view(is_known);
        let heard = self.hear(&view, show::members(&view), Question::All)?;
        let disks = view.disks.values().filter(|d| d.node == node);
        let left = left(&view, &heard, &disks.map(|d| d.at).collect(), Some(node));
        let reasons = match known.presence {
            Presence::Up => {
                let loss = Loss::of_node(&view, node);
                safety::reasons(&view, &heard, &self.groups()?, &loss)
            }
            Presence::Down | Presence::Gone => Vec::new(),
        };
        let is_bare = left.journals.is_empty() && left.volumes_owned.is_empty();
        Ok(Reply::Maintenance(Maintenance {
            node: node_name(&view, node),
            wait_s: view
                .nodes
                .get(&node)
                .and_then(|n| show::maintenance_s(n.duty)),
            safe: is_bare && reasons.is_empty(),
            journals: left.journals,
            volumes_owned: left.volumes_owned,
            reasons,
        }))
    }

    /// The view in which something is so, or the one that there is when time is up.
    pub(super) fn await_view(&self, is_so: impl Fn(&View) -> bool) -> std::sync::Arc<View> {
        let deadline = Instant::now() + DISKS_MAX;
        loop {
            let view = self.meta.view();
            if is_so(&view) || Instant::now() > deadline {
                return view;
            }
            std::thread::sleep(POLL);
        }
    }

    /// A disk goes for good: an empty one, or one that is lost by the operator's word.
    pub(super) fn remove_disk(&self, name: &str, lost: bool) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let disk = self.disk_named(&view, name)?;
        let (id, name) = (disk.at.disk, disk_name(&view, disk.at.disk));
        let refused = |why: String| Err(fail(FailureKind::Refused, why));
        if disk.presence == Presence::Gone {
            return refused(format!("disk {name} was removed"));
        }
        let serves = disk.presence == Presence::Up;
        if lost && serves {
            return refused(format!(
                "disk {name} serves: --force is for one that is lost; `atoll disk drain {name}` \
                 empties it first"
            ));
        }
        if !lost {
            self.check_empty(&view, &disk, &name)?;
        }
        self.command(AdminCommand::RemoveDisk { disk: id, lost })?;
        let gone = |view: &View| {
            let known = view.disks.get(&id);
            known.is_none_or(|d| d.presence == Presence::Gone)
        };
        if !gone(&self.await_view(gone)) {
            return Err(unknown_outcome());
        }
        Ok(Reply::DiskRemoved(DiskRemoved { removed_disk: name }))
    }

    /// Whether nothing is left of a disk that was drained.
    fn check_empty(&self, view: &View, disk: &Disk, name: &str) -> Result<(), Failure> {
        let refused = |why: String| Err(fail(FailureKind::Refused, why));
        if disk.duty != Duty::Drain {
            return refused(format!(
                "disk {name} takes part: `atoll disk drain {name}` empties it first"
            ));
        }
        let heard = self.hear(view, BTreeSet::from([disk.node]), Question::All)?;
        let left = left(view, &heard, &BTreeSet::from([disk.at]), None);
        let Some(words) = left.in_words() else {
            return Ok(());
        };
        let next = match disk.presence {
            Presence::Up => "wait, `atoll status` says how long",
            _ => "it does not serve: bring it back, or give it up with --force",
        };
        refused(format!("disk {name} still has {words}: {next}"))
    }

    /// The operator's word that a node is gone for good. Of one that serves it is not taken.
    pub(super) fn remove_node(&self, name: &str) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let (node, known) = node_named(&view, name)?;
        if known.presence == Presence::Up {
            let heard = self.hear(&view, show::members(&view), Question::All)?;
            let of_site = self.groups()?.remove(&GroupId::Site(known.site));
            let is_stuck = of_site.is_some_and(|m| !safety::has_majority(&view, &heard, &m));
            let site = show::site_name(&view, Some(known.site));
            let why = match is_stuck && heard.is_silent(node) {
                true => format!(
                    "the group of site {site} has no majority without node '{name}', and can't find it down: \
                     start it. If its directory is lost, stop the other nodes of the site and delete theirs too: \
                     `atoll site start {site}` then makes the site anew out of what the others have"
                ),
                false => format!(
                    "node '{name}' is up: `atoll node drain {name}` empties it, then stop it; a node that \
                     died is down after some seconds (`atoll node list`)"
                ),
            };
            return Err(fail(FailureKind::Refused, why));
        }
        self.command(AdminCommand::RemoveNode { node })?;
        Ok(Reply::Removed(Removed {
            removed: name.to_owned(),
        }))
    }

    /// Whether a node may stop now without anything falling below what it needs.
    pub(super) fn safe_to_stop(&self, name: &str) -> Result<Reply, Failure> {
        let view = self.meta.view();
        let (node, known) = node_named(&view, name)?;
        let heard = self.hear(&view, show::members(&view), Question::All)?;
        let reasons = match known.presence {
            Presence::Up => {
                let loss = Loss::of_node(&view, node);
                safety::reasons(&view, &heard, &self.groups()?, &loss)
            }
            // It serves nothing that its stop would take away.
            Presence::Down | Presence::Gone => Vec::new(),
        };
        Ok(Reply::Safety(Safety {
            node: node_name(&view, node),
            safe: reasons.is_empty(),
            reasons,
        }))
    }
}
