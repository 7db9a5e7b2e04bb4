//! What is degraded, why, and what is being done about it: what is decided, by one node's
//! view, and who does not answer that node just now.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{DiskId, DiskRef, NodeId, SiteId};
use model::placement::{Alone, DiskFault, Presence, SiteRole, View, VolumeRecord};
use raft_meta::GroupId;
use raft_meta::message::Members;

use super::added;
use super::repairs;
use super::shared;
use super::show::{Heard, disk_name, maintenance_s, node_name, recovered, recovering};
use super::votes;
use crate::admin::protocol::{Degraded, Status, UpOf};
use crate::admin::recovery::in_a_line;

/// The fabric as `view` has it, and as its members answered.
pub(super) fn status(
    view: &View,
    heard: &Heard,
    groups: &BTreeMap<GroupId, Members>,
    seen_by: &str,
) -> Status {
    let mut degraded = Vec::new();
    super::fence::degraded(view, heard, &mut degraded);
    fabric(view, heard, &mut degraded);
    votes::degraded(view, groups, &mut degraded);
    sites(view, heard, &mut degraded);
    nodes(view, heard, &mut degraded);
    let unserved = unserved(view);
    disks(view, &unserved, &mut degraded);
    gone_disks(view, &mut degraded);
    moves(view, &mut degraded);
    faulty(view, &mut degraded);
    super::scrub::degraded(view, heard, &mut degraded);
    volumes(view, heard, &mut degraded);
    let live = || view.volumes.values().filter(|v| !v.deleted);
    let served = live().filter(|v| v.clean || v.owner.is_some_and(|o| o.boot.is_some()));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let nodes = view
        .nodes
        .iter()
        .filter(|(_, n)| n.presence != Presence::Gone);
    let is_replaced = |id: &DiskId| {
        let mut of = unserved.iter().filter(|of| of.disk == *id && of.is_left());
        of.any(|of| of.successor.is_some())
    };
    let disks = view.disks.iter();
    let disks = disks.filter(|(id, d)| d.presence != Presence::Gone && !is_replaced(id));
    Status {
        healthy: degraded.is_empty(),
        degraded,
        at_risk_bytes: repairs::at_risk_bytes(view, heard),
        repairs: repairs::repairs(view, heard),
        notes: notes(view, &unserved),
        seen_by: seen_by.to_owned(),
        sites: up_of(
            view.sites
                .iter()
                .map(|(id, s)| is_up(s.presence) && !is_silent(view, heard, *id)),
        ),
        nodes: up_of(nodes.map(|(id, n)| is_up(n.presence) && !heard.is_silent(*id))),
        disks: up_of(disks.map(|(_, d)| is_up(d.presence) && !heard.is_silent(d.node))),
        volumes: UpOf {
            up: count(served.count()),
            of: count(live().count()),
        },
    }
}

/// What is as it was meant and has to be known: volumes that were recovered with loss, and what
/// one loss takes at once.
fn notes(view: &View, unserved: &[Unserved]) -> Vec<String> {
    let live = view.volumes.values().filter(|v| !v.deleted);
    let recovered = live.filter_map(|v| Some((v, recovered(view, v)?)));
    recovered
        .map(|(v, r)| format!("volume {} {}", v.name, in_a_line(&r)))
        .chain(shared::notes(view))
        .chain(added::notes(view))
        .chain(resting(view))
        .chain(left(view, unserved))
        .collect()
}

/// Disks that are not served, and that nothing counts on: no data is at risk for them.
fn left<'a>(view: &'a View, unserved: &'a [Unserved]) -> impl Iterator<Item = String> + 'a {
    unserved.iter().filter(|of| of.is_left()).map(|of| {
        let name = disk_name(view, of.disk);
        format!(
            "disk {name} is not served, and nothing counts on it: once the node is started again, an empty directory \
             in its place makes a new disk; `atoll disk remove {name} --force` forgets this one"
        )
    })
}

/// The nodes in maintenance.
fn resting(view: &View) -> impl Iterator<Item = String> + '_ {
    view.nodes.values().filter_map(|node| {
        let wait_s = maintenance_s(node.duty)?;
        Some(format!(
            "node {0} is in maintenance: while it is down, what it holds is waited for {wait_s} s longer than \
             usual (`atoll node maintenance {0} --end`)",
            node.name
        ))
    })
}

fn is_up(presence: Presence) -> bool {
    presence == Presence::Up
}

fn up_of(all: impl Iterator<Item = bool>) -> UpOf {
    let (mut up, mut of) = (0, 0);
    for is_up in all {
        of += 1;
        up += u32::from(is_up);
    }
    UpOf { up, of }
}

pub(super) fn add(
    degraded: &mut Vec<Degraded>,
    what: String,
    why: impl Into<String>,
    doing: impl Into<String>,
) {
    degraded.push(Degraded {
        what,
        why: why.into(),
        doing: doing.into(),
    });
}

fn up_nodes(view: &View, site: SiteId) -> impl Iterator<Item = NodeId> + '_ {
    let nodes = view.nodes.iter();
    let up = nodes.filter(move |(_, n)| n.site == site && is_up(n.presence));
    up.map(|(id, _)| *id)
}

/// Whether a site has nodes that are up by decision, and none of them answers.
fn is_silent(view: &View, heard: &Heard, site: SiteId) -> bool {
    let mut up = up_nodes(view, site).peekable();
    up.peek().is_some() && up.all(|node| heard.is_silent(node))
}

fn fabric(view: &View, heard: &Heard, degraded: &mut Vec<Degraded>) {
    let is_lost = |(id, site): &(&SiteId, &model::placement::Site)| {
        !is_up(site.presence) || is_silent(view, heard, **id)
    };
    let lost = view.sites.iter().filter(is_lost).count();
    if lost * 2 > view.sites.len() {
        add(
            degraded,
            "fabric".into(),
            format!("{lost} of {} sites do not answer", view.sites.len()),
            "without a majority of sites nothing is acknowledged and nothing decided: clients wait; \
             start the nodes of another site, or mend the network between sites",
        );
    }
}

/// What counts on a site's or a node's disks, in words.
fn counting(slots: usize, journals: usize) -> String {
    let s = |n: usize| if n == 1 { "" } else { "s" };
    format!(
        "{slots} slot{} of spreads and {journals} journal{} count on it",
        s(slots),
        s(journals)
    )
}

/// What is left without a site.
enum Left {
    /// All that holds data.
    Data,
    /// Two sites with data or more.
    Several,
    /// One, and what is written waits (R22).
    Stall,
    /// One, and writes go on.
    Write,
}

fn left_of(view: &View, away: SiteId) -> Left {
    let others = view
        .sites
        .iter()
        .filter(|(id, s)| **id != away && is_up(s.presence));
    let with_data = others.filter(|(_, s)| s.role.holds_data()).count();
    let write = SiteRole::Witness {
        alone: Alone::Write,
    };
    if !view.sites[&away].role.holds_data() {
        Left::Data
    } else if with_data != 1 || view.sites.values().all(|s| s.role.holds_data()) {
        Left::Several
    } else if view.sites.values().any(|s| s.role == write) {
        Left::Write
    } else {
        Left::Stall
    }
}

fn sites(view: &View, heard: &Heard, degraded: &mut Vec<Degraded>) {
    for (id, site) in &view.sites {
        let what = format!("site {}", site.name);
        if site.presence == Presence::Down {
            let doing = match left_of(view, *id) {
                Left::Data => "its volumes are served elsewhere; start its nodes",
                Left::Several => {
                    "its volumes are served elsewhere; new segments are spread over the sites that are left, \
                     older ones with nothing to spare are written anew there (repairs); start its nodes"
                }
                Left::Stall => {
                    "its volumes are served elsewhere; what is written stays in the journals of the data site that is \
                     left and of the witness, and clients wait once those are full; start its nodes, or have writes go on \
                     in one site alone: `atoll site witness NAME --one-left write`"
                }
                Left::Write => {
                    "its volumes are served elsewhere; whatever is new lies in the one data site that is left, and is \
                     lost with it, until this one is back; start its nodes"
                }
            };
            add(degraded, what, "none of its nodes answers", doing);
        } else if is_up(site.presence) && up_nodes(view, *id).next().is_none() {
            add(
                degraded,
                what,
                "no node of it is up",
                "waiting for its nodes to join or return; start them",
            );
        } else if is_up(site.presence) && is_silent(view, heard, *id) {
            add(
                degraded,
                what,
                "none of its nodes answers, and nothing is decided yet",
                "if a majority of sites finds it silent too, its volumes are given to others",
            );
        } else if !site.takes_segments {
            add(
                degraded,
                what,
                "its disks take no new data: they are full, failed, or their nodes do not answer",
                "new segments are spread over the other sites until its disks have room again; delete what is \
                 not needed there, or add disks",
            );
        }
    }
}

fn nodes(view: &View, heard: &Heard, degraded: &mut Vec<Degraded>) {
    let references = references(view);
    for (id, node) in &view.nodes {
        let what = format!("node {}", node.name);
        let site = view.sites.get(&node.site);
        let site_up = site.is_none_or(|s| is_up(s.presence));
        let site_told = !site_up
            || is_silent(view, heard, node.site)
            || up_nodes(view, node.site).next().is_none();
        if node.presence == Presence::Down && !site_told {
            let of_node = view.disks.iter().filter(|(_, d)| d.node == *id);
            let held = of_node.filter_map(|(disk, _)| references.get(disk));
            let (slots, journals) = held.fold((0, 0), |sum, r| (sum.0 + r.0, sum.1 + r.1));
            add(
                degraded,
                what,
                "it does not answer",
                format!(
                    "its volumes are served by others; {}: its fragments are read around until it returns; start it",
                    counting(slots, journals)
                ),
            );
        } else if is_up(node.presence) && heard.is_silent(*id) && !site_told {
            add(
                degraded,
                what,
                "it does not answer, and nothing is decided yet",
                "if its site finds it silent too, its volumes are given to others",
            );
        }
    }
}

/// Disks that are gone for good, and on which something counts that was not given to others yet.
fn gone_disks(view: &View, degraded: &mut Vec<Degraded>) {
    // What a site that is away lost is told with it.
    let site_up = |disk: DiskId| {
        let site = view.site_of(disk).and_then(|site| view.sites.get(&site));
        site.is_none_or(|site| is_up(site.presence))
    };
    let is_gone = |disk: &DiskId| {
        let known = view.disks.get(disk);
        known.is_none_or(|d| d.presence == Presence::Gone) && site_up(*disk)
    };
    let mut left: BTreeMap<DiskId, (usize, usize)> = BTreeMap::new();
    let settled = view.pools.values().flat_map(|table| &table.places);
    let settled = settled.filter(|place| place.to.is_none());
    for at in settled.filter_map(|place| place.disk) {
        left.entry(at.disk).or_default().0 += 1;
    }
    // One that ended cleanly has no journal: its next owner founds one.
    for volume in view.volumes.values().filter(|v| !v.deleted && !v.clean) {
        for at in &volume.journal.replicas {
            left.entry(at.disk).or_default().1 += 1;
        }
    }
    for (disk, (slots, journals)) in left.into_iter().filter(|(disk, _)| is_gone(disk)) {
        add(
            degraded,
            format!("disk {}", disk_name(view, disk)),
            "it was removed, or is lost for good",
            format!("{}: others take that over", counting(slots, journals)),
        );
    }
}

/// How many slots of spreads and how many journals count on a disk. A volume that ended cleanly has
/// no journal: its next owner founds one.
fn references(view: &View) -> BTreeMap<DiskId, (usize, usize)> {
    let mut references: BTreeMap<DiskId, (usize, usize)> = BTreeMap::new();
    let places = view.pools.values().flat_map(|table| &table.places);
    for at in places.flat_map(|place| [place.disk, place.to]).flatten() {
        references.entry(at.disk).or_default().0 += 1;
    }
    for volume in view.volumes.values().filter(|v| !v.deleted && !v.clean) {
        let next = volume.journal.next.iter().flatten();
        let both = volume.journal.replicas.iter().chain(next);
        let both: BTreeSet<DiskId> = both.map(|at| at.disk).collect();
        for disk in both {
            references.entry(disk).or_default().1 += 1;
        }
    }
    references
}

/// A disk that its node, which is up, does not serve.
struct Unserved {
    disk: DiskId,
    slots: usize,
    journals: usize,
    /// A younger disk of the node, which took its place.
    successor: Option<DiskId>,
}

impl Unserved {
    fn is_left(&self) -> bool {
        (self.slots, self.journals) == (0, 0)
    }
}

fn unserved(view: &View) -> Vec<Unserved> {
    let references = references(view);
    let (mut unserved, mut taken) = (Vec::new(), BTreeSet::new());
    // The youngest first: each takes the oldest disk that is younger and not yet taken.
    for (id, disk) in view.disks.iter().rev() {
        let node = view.nodes.get(&disk.node);
        if disk.presence != Presence::Down || !node.is_some_and(|n| is_up(n.presence)) {
            continue;
        }
        let mut younger = view.disks.range(*id..).filter(|(other, d)| {
            d.node == disk.node && is_up(d.presence) && !taken.contains(*other)
        });
        let successor = younger.next().map(|(other, _)| *other);
        taken.extend(successor);
        let (slots, journals) = references.get(id).copied().unwrap_or_default();
        unserved.push(Unserved {
            disk: *id,
            slots,
            journals,
            successor,
        });
    }
    unserved
}

/// Disks that their nodes do not serve, while something counts on them.
fn disks(view: &View, unserved: &[Unserved], degraded: &mut Vec<Degraded>) {
    for of in unserved.iter().filter(|of| !of.is_left()) {
        let next = match of.successor {
            Some(new) => format!("disk {} took its place at the node", disk_name(view, new)),
            None => {
                "restart the node with an empty directory in its place for a new disk".to_owned()
            }
        };
        add(
            degraded,
            format!("disk {}", disk_name(view, of.disk)),
            "its node does not serve it: it failed, or its directory is gone",
            format!(
                "{}: reads go around it, new segments avoid it; {next}",
                counting(of.slots, of.journals)
            ),
        );
    }
}

/// Disks that are emptied for what was found of them.
fn faulty(view: &View, degraded: &mut Vec<Degraded>) {
    for (id, disk) in &view.disks {
        let Some(fault) = disk.fault.filter(|_| disk.presence != Presence::Gone) else {
            continue;
        };
        let name = disk_name(view, *id);
        let why = match fault {
            DiskFault::Rots => "it corrupts data again and again",
            DiskFault::Slow => "it has been slow for long, beside the other disks of its site",
        };
        add(
            degraded,
            format!("disk {name}"),
            why.to_owned(),
            format!(
                "what it holds goes to other disks; `atoll disk remove {name}` once it is empty, and give \
                 its node another one; `atoll disk undrain {name}` if it is to serve all the same"
            ),
        );
    }
}

/// Slots in motion, by the disk that they leave (R20).
fn moves(view: &View, degraded: &mut Vec<Degraded>) {
    let mut leaving: BTreeMap<DiskId, (usize, BTreeSet<DiskId>)> = BTreeMap::new();
    for place in view.pools.values().flat_map(|table| &table.places) {
        if let (Some(from), Some(to)) = (place.disk, place.to) {
            // What leaves a disk that serves lacks nothing: it is told as a repair alone.
            if repairs::serves(view, from) {
                continue;
            }
            let (slots, targets) = leaving.entry(from.disk).or_default();
            *slots += 1;
            targets.insert(to.disk);
        }
    }
    for (from, (slots, targets)) in leaving {
        let targets: Vec<String> = targets.iter().map(|to| disk_name(view, *to)).collect();
        let s = if slots == 1 { "" } else { "s" };
        let (what, whose) = match view.disks.contains_key(&from) {
            true => (format!("move off disk {}", disk_name(view, from)), "it"),
            false => ("rebuilding lost disks".to_owned(), "disks of a lost site"),
        };
        add(
            degraded,
            what,
            format!("{slots} slot{s} of spreads that {whose} held are being moved"),
            format!(
                "their fragments are copied or rebuilt on {}; until then they are read around",
                targets.join(", ")
            ),
        );
    }
}

/// What clients of a volume feel or soon may: nobody serves it, or its journal counts on fewer
/// replicas than it has.
fn volumes(view: &View, heard: &Heard, degraded: &mut Vec<Degraded>) {
    for volume in view.volumes.values().filter(|v| !v.deleted && !v.clean) {
        let what = format!("volume {}", volume.name);
        match volume.owner {
            Some(owner) if owner.boot.is_some() => {
                let told = heard.figures.get(&owner.node);
                let told = told.and_then(|f| f.volumes.get(&volume.id));
                match told {
                    Some(told) if !told.serving => add(
                        degraded,
                        what,
                        recovering(&node_name(view, owner.node), told),
                        format!(
                            "clients wait; it serves once enough replicas of its journal answer: start the nodes \
                             that hold them; what is left if they are lost: `atoll volume recover {}`",
                            volume.name
                        ),
                    ),
                    Some(told) if told.replicas_in_step < present(view, heard, volume) => add(
                        degraded,
                        what,
                        format!(
                            "{} of its {} journal replicas take what is written",
                            told.replicas_in_step, told.replicas
                        ),
                        "the others are refilled, or replaced if that fails for long",
                    ),
                    // Silence is told with the node, loss with the disk.
                    Some(_) | None => {}
                }
            }
            Some(_) | None => add(
                degraded,
                what,
                "it has no owner yet",
                "a node is taking it over",
            ),
        }
    }
}

/// How many replicas of a volume's journal lie on disks that serve, at nodes that answer.
fn present(view: &View, heard: &Heard, volume: &VolumeRecord) -> u64 {
    let serves = |at: &&DiskRef| {
        let disk = view.disks.get(&at.disk).filter(|d| d.at == **at);
        disk.is_some_and(|d| is_up(d.presence) && !heard.is_silent(d.node))
    };
    volume.journal.replicas.iter().filter(serves).count() as u64
}

#[cfg(test)]
pub(super) mod tests;
