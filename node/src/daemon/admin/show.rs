//! The view's records and what nodes told of themselves, as the admin API's lists.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{DiskId, NodeId, SiteId};
use model::placement::{
    Alone, DiskFault, Duty, JournalConfig, Presence, RecoveredFrom, SiteRole, View, VolumeRecord,
};

use crate::admin::protocol::{
    Condition, Disk, Disks, Fault, Node, Nodes, OneLeft, Site, Sites, Volume, VolumeState,
    VolumeStats, Volumes,
};
use crate::admin::recovery::Recovered;
use crate::daemon::peers::{Figures, Peers, Question, VOLUMES_MAX, VolumeFigures};

/// What nodes told of themselves, and which were silent.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) figures: BTreeMap<NodeId, Figures>,
    silent: BTreeSet<NodeId>,
}

impl Heard {
    /// Asks these nodes; one that is down by a committed decision is silent without a wait.
    pub(super) fn from(
        peers: &Peers,
        view: &View,
        nodes: BTreeSet<NodeId>,
        question: Question,
    ) -> Self {
        let is_up = |id: &NodeId| {
            view.nodes
                .get(id)
                .is_some_and(|n| n.presence == Presence::Up)
        };
        let (asked, _): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
            nodes.iter().partition(|id| is_up(id));
        let figures = peers.ask(&asked, question);
        let silent = nodes.into_iter().filter(|id| !figures.contains_key(id));
        Self {
            silent: silent.collect(),
            figures,
        }
    }

    /// As if those had told that, and these had been silent.
    #[cfg(test)]
    pub(super) fn of(figures: BTreeMap<NodeId, Figures>, silent: Vec<NodeId>) -> Self {
        Self {
            figures,
            silent: silent.into_iter().collect(),
        }
    }

    /// Whether it was asked and did not answer.
    pub(super) fn is_silent(&self, node: NodeId) -> bool {
        self.silent.contains(&node)
    }

    /// Names of those that were silent.
    pub(super) fn unreachable(&self, view: &View) -> Vec<String> {
        self.silent.iter().map(|id| node_name(view, *id)).collect()
    }

    fn used_bytes(&self, node: NodeId) -> Option<u64> {
        let figures = self.figures.get(&node)?;
        Some(figures.disks.values().map(|d| d.used_bytes).sum())
    }
}

/// Every node that was not removed.
pub(super) fn members(view: &View) -> BTreeSet<NodeId> {
    let members = view
        .nodes
        .iter()
        .filter(|(_, n)| n.presence != Presence::Gone);
    members.map(|(id, _)| *id).collect()
}

/// The owners of these volumes.
pub(super) fn owners<'a>(records: impl Iterator<Item = &'a VolumeRecord>) -> BTreeSet<NodeId> {
    records.filter_map(|v| v.owner).map(|o| o.node).collect()
}

pub(super) fn site_name(view: &View, site: Option<SiteId>) -> String {
    site.and_then(|id| view.sites.get(&id))
        .map_or_else(String::new, |s| s.name.clone())
}

pub(super) fn node_name(view: &View, node: NodeId) -> String {
    view.nodes
        .get(&node)
        .map_or_else(|| node.to_string(), |n| n.name.clone())
}

pub(super) fn disk_name(view: &View, id: DiskId) -> String {
    let node = view.disks.get(&id).and_then(|d| view.nodes.get(&d.node));
    format!("{}/{}", node.map_or("?", |n| n.name.as_str()), id.0)
}

/// A volume's state and figures, or why there are none.
fn figures(
    view: &View,
    record: &VolumeRecord,
    heard: &Heard,
) -> (VolumeState, Result<VolumeStats, String>) {
    let is_claimed = record.owner.is_some_and(|o| o.boot.is_some());
    if record.clean && !is_claimed {
        let checkpoint = &record.checkpoint;
        let stats = VolumeStats {
            logical_bytes: checkpoint.mapped_blocks * model::BLOCK_BYTES as u64,
            stored_bytes: checkpoint.stored_bytes,
            ..VolumeStats::default()
        };
        return (VolumeState::Idle, Ok(stats));
    }
    let Some(owner) = record.owner else {
        let why = "it has no owner yet: a node is taking it over";
        return (VolumeState::Starting, Err(why.to_owned()));
    };
    let name = node_name(view, owner.node);
    let Some(of_owner) = heard.figures.get(&owner.node) else {
        let why = format!("its owner {name} does not answer");
        return (VolumeState::Unknown, Err(why));
    };
    match of_owner.volumes.get(&record.id) {
        Some(told) if told.serving => {
            let stats = VolumeStats {
                logical_bytes: told.logical_bytes,
                stored_bytes: told.stored_bytes,
                untrimmed_bytes: told.untrimmed_bytes,
                sessions: told.sessions,
                replicas_current: Some(told.replicas_current),
            };
            (VolumeState::Serving, Ok(stats))
        }
        Some(told) => (VolumeState::Starting, Err(recovering(&name, told))),
        None if of_owner.volumes.len() >= VOLUMES_MAX => {
            let why = format!("its owner {name} has too many volumes for one list: show this one");
            (VolumeState::Unknown, Err(why))
        }
        None => {
            let why = format!("its owner {name} has not started it yet");
            (VolumeState::Starting, Err(why))
        }
    }
}

/// What a volume that does not serve yet waits for.
pub(super) fn recovering(owner: &str, told: &VolumeFigures) -> String {
    if told.replicas == 0 {
        return format!("its owner {owner} is starting it");
    }
    let replicas = usize::try_from(told.replicas).unwrap_or(usize::MAX);
    let need = JournalConfig::seal_quorum(replicas) as u64;
    let (sealed, lost) = (told.replicas_current, told.replicas_lost);
    let so_far = format!(
        "its owner {owner} is recovering it: {sealed} of {replicas} journal replicas are sealed"
    );
    if sealed >= need {
        return so_far;
    }
    let lost = match lost {
        0 => String::new(),
        1 => ", 1 lost what it had".to_owned(),
        n => format!(", {n} lost what they had"),
    };
    format!("{so_far}{lost}, {need} are needed")
}

pub(super) fn volume(view: &View, record: &VolumeRecord, heard: &Heard) -> Volume {
    let (state, stats) = figures(view, record, heard);
    let (stats, stats_missing) = match stats {
        Ok(stats) => (Some(stats), None),
        Err(why) => (None, Some(why)),
    };
    let journal = record.journal.replicas.iter();
    Volume {
        name: record.name.clone(),
        size_bytes: record.size_bytes,
        home: site_name(view, Some(record.home)),
        code: record.code.to_string(),
        state,
        owner: record.owner.map(|o| node_name(view, o.node)),
        epoch: record.epoch.0,
        stats,
        stats_missing,
        journal: journal.map(|at| disk_name(view, at.disk)).collect(),
        recovered: recovered(view, record).map(Box::new),
    }
}

/// A volume's last recovery with loss.
pub(super) fn recovered(view: &View, record: &VolumeRecord) -> Option<Recovered> {
    let recovered = record.recovered.as_ref()?;
    Some(Recovered {
        from: match recovered.from {
            RecoveredFrom::Replica(at) => format!("replica {}", disk_name(view, at.disk)),
            RecoveredFrom::Checkpoint => "checkpoint".to_owned(),
        },
        covered: recovered.covered.to_string(),
        at: recovered.at.to_string(),
        pending: recovered.pending,
    })
}

/// Every volume, by name.
pub(super) fn volumes(view: &View, heard: &Heard) -> Volumes {
    let live = view.volumes.values().filter(|v| !v.deleted);
    let mut volumes: Vec<Volume> = live.map(|v| volume(view, v, heard)).collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Volumes {
        volumes,
        unreachable: heard.unreachable(view),
    }
}

/// How something is by a committed decision; `is_silent` is what was heard of it just now.
fn condition(presence: Presence, is_silent: bool) -> Condition {
    match presence {
        Presence::Up if is_silent => Condition::Suspect,
        Presence::Up => Condition::Up,
        Presence::Down => Condition::Away,
        Presence::Gone => Condition::Lost,
    }
}

/// How many volumes a node owns.
fn owned(view: &View) -> BTreeMap<NodeId, u32> {
    let mut owned = BTreeMap::new();
    let live = view.volumes.values().filter(|v| !v.deleted);
    for owner in live.filter_map(|v| v.owner) {
        *owned.entry(owner.node).or_default() += 1;
    }
    owned
}

/// How much the disks of a node may hold.
fn capacity(view: &View) -> BTreeMap<NodeId, u64> {
    let mut capacity = BTreeMap::new();
    for disk in view.disks.values().filter(|d| d.presence != Presence::Gone) {
        *capacity.entry(disk.node).or_default() += disk.capacity_bytes;
    }
    capacity
}

pub(super) fn sites(view: &View, heard: &Heard) -> Sites {
    let (owned, capacity) = (owned(view), capacity(view));
    let sites = view.sites.iter().map(|(id, site)| {
        let of_site = || {
            let of_site = view.nodes.iter().filter(|(_, n)| n.site == *id);
            of_site.map(|(node, _)| *node)
        };
        let used = of_site().filter_map(|node| heard.used_bytes(node));
        Site {
            name: site.name.clone(),
            condition: condition(site.presence, of_site().all(|node| heard.is_silent(node))),
            witness: one_left(site.role),
            nodes: of_site().map(|node| node_name(view, node)).collect(),
            volumes_owned: of_site().filter_map(|node| owned.get(&node)).sum(),
            capacity_bytes: of_site().filter_map(|node| capacity.get(&node)).sum(),
            used_bytes: used.reduce(|a, b| a + b),
        }
    });
    Sites {
        sites: sites.collect(),
        unreachable: heard.unreachable(view),
    }
}

/// What becomes of writes with one data site left, if the site is a witness.
fn one_left(role: SiteRole) -> Option<OneLeft> {
    match role {
        SiteRole::Data => None,
        SiteRole::Witness { alone } => Some(match alone {
            Alone::Stall => OneLeft::Stall,
            Alone::Write => OneLeft::Write,
        }),
    }
}

pub(super) fn nodes(view: &View, heard: &Heard) -> Nodes {
    let (owned, capacity) = (owned(view), capacity(view));
    let nodes = view.nodes.iter().map(|(id, node)| Node {
        name: node.name.clone(),
        site: site_name(view, Some(node.site)),
        condition: condition(node.presence, heard.is_silent(*id)),
        draining: node.duty.is_drain(),
        maintenance_s: maintenance_s(node.duty),
        quic: node.address.to_string(),
        nbd: node.nbd.to_string(),
        volumes_owned: owned.get(id).copied().unwrap_or(0),
        capacity_bytes: capacity.get(id).copied().unwrap_or(0),
        used_bytes: heard.used_bytes(*id),
        cache_bytes: heard.figures.get(id).map(|f| f.cache_bytes),
        repair_wan_bytes: heard.figures.get(id).map(|f| f.repair_wan_bytes),
    });
    let mut nodes: Vec<Node> = nodes.collect();
    nodes.sort_by(|a, b| (&a.site, &a.name).cmp(&(&b.site, &b.name)));
    Nodes {
        nodes,
        unreachable: heard.unreachable(view),
    }
}

/// For how much longer than usual what is in maintenance is waited for.
pub(super) fn maintenance_s(duty: Duty) -> Option<u32> {
    match duty {
        Duty::Maintenance { wait_s } => Some(wait_s),
        Duty::Serve | Duty::Drain => None,
    }
}

pub(super) fn disks(view: &View, heard: &Heard) -> Disks {
    // By site and node, then in the order in which they were made.
    let mut of_view: Vec<_> = view.disks.iter().collect();
    of_view.sort_by_key(|(id, disk)| {
        let node = node_name(view, disk.node);
        (site_name(view, view.site_of(**id)), node, **id)
    });
    let disks = of_view.into_iter().map(|(id, disk)| {
        let told = heard.figures.get(&disk.node);
        let told = told.and_then(|figures| figures.disks.get(id));
        Disk {
            name: disk_name(view, *id),
            site: site_name(view, view.site_of(*id)),
            condition: condition(disk.presence, heard.is_silent(disk.node)),
            draining: disk.duty == Duty::Drain && disk.presence != Presence::Gone,
            fault: disk.fault.map(|fault| match fault {
                DiskFault::Rots => Fault::Rots,
                DiskFault::Slow => Fault::Slow,
            }),
            label: told.map(|d| d.name.clone()),
            path: told.map(|d| d.path.clone()),
            capacity_bytes: disk.capacity_bytes,
            used_bytes: told.map(|d| d.used_bytes),
            scrub: told.map(super::scrub::scrub),
        }
    });
    Disks {
        disks: disks.collect(),
        unreachable: heard.unreachable(view),
    }
}

#[cfg(test)]
pub(super) mod tests;
