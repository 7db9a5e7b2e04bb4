//! The last resort (R11): what the operator is told of a volume whose journal lost its quorum, and
//! what may be done. The node's admin API and the simulator's operator judge by the same function.
//!
//! **Invariant:** nothing is offered as long as a replica that does not answer may come back: with
//! it the volume goes on by itself, or less is lost. Only what is gone by a committed entry, by
//! its disk's own word or by the operator's, is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::ids::{DiskRef, NodeId, Position};
use model::placement::{Duty, JournalConfig, Presence, RecoveredFrom, View, VolumeRecord};

use super::wanted::wanted;

/// The fewest replicas that a volume may go on with, if its fabric has as many sites (R22).
const REPLICAS_MIN: usize = 2;

/// What was heard of one replica of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It is whole (R8): it would count in a seal.
    Holds {
        /// Its log ends here.
        last: Position,
        /// How long ago it was appended to; nothing since its disk was opened, if that is not
        /// known.
        idle: Option<Duration>,
    },
    /// Its disk serves, and lost synced bytes of it (R8).
    Damaged,
    /// Its disk serves, and has no such replica (R2).
    Missing,
    /// Its disk is lost for good: removed, or replaced by another life of it.
    Gone,
    /// Its node or its disk does not answer: it may come back.
    Silent,
}

/// What may be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Enough replicas answer: the volume goes on by itself.
    NotNeeded,
    /// These may come back: with them it goes on by itself, or less is lost.
    Wait(Vec<DiskRef>),
    /// Its owner's node answers nothing, and nobody decided yet that it is down: the owner may have
    /// in memory all that it acknowledged.
    AwaitOwner(NodeId),
    /// There are not disks in enough sites that serve for a new journal.
    NoDisks,
    /// Nothing more can be had than this.
    Offer(Offer),
}

/// From what, up to where, and onto which disks a volume may be recovered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// What it would go on from.
    pub from: RecoveredFrom,
    /// All up to here is covered; what followed may be lost.
    pub covered: Position,
    /// Whether nothing that was acknowledged is lost: the volume ended cleanly (R3).
    pub clean: bool,
    /// The new journal.
    pub replicas: Vec<DiskRef>,
    /// Its next owner; of one that goes on from a checkpoint nobody need be.
    pub to: Option<NodeId>,
}

/// What is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The placement.
    pub view: &'a View,
    /// The volume.
    pub record: &'a VolumeRecord,
    /// What was heard of its replicas; of others nothing was.
    pub heard: &'a BTreeMap<DiskRef, Heard>,
    /// Nodes that answered nothing.
    pub silent: &'a BTreeSet<NodeId>,
    /// Whether its owner lives and leads: it has all that it acknowledged in memory, and replaces
    /// lost replicas by itself, whatever became of them (R5).
    pub leads: bool,
}

/// Judges.
#[must_use]
pub fn judge(of: &Situation<'_>) -> Verdict {
    let (view, record, silent) = (of.view, of.record, of.silent);
    let (heard, leads) = (of.heard, of.leads);
    let of = |at: &DiskRef| heard.get(at).copied().unwrap_or(Heard::Silent);
    let members = &record.journal.replicas;
    if leads || goes_on(record, of) {
        return Verdict::NotNeeded;
    }
    let away = members.iter().filter(|at| of(at) == Heard::Silent);
    let away: Vec<DiskRef> = away.copied().collect();
    if !away.is_empty() {
        return Verdict::Wait(away);
    }
    if let Some(owner) = may_live(view, record).filter(|owner| silent.contains(owner)) {
        return Verdict::AwaitOwner(owner);
    }
    let gone = members.iter().filter(|at| of(at) == Heard::Gone);
    let mut left = serving(view, gone, silent);
    let published = record.checkpoint.covers;
    // R3: what is left from before the founding is obsolete, and what ends before the checkpoint
    // lacks what that has.
    let logs = members.iter().filter_map(|at| match of(at) {
        Heard::Holds { last, .. } if counts(record, last) && last >= published => Some((last, *at)),
        _ => None,
    });
    let best = logs.max().filter(|_| !record.clean);
    let (from, covered, kept) = match best {
        Some((last, at)) => (RecoveredFrom::Replica(at), last, vec![at]),
        None => (RecoveredFrom::Checkpoint, published, Vec::new()),
    };
    if let Some(disk) = kept.first().and_then(|at| left.disks.get_mut(&at.disk)) {
        // It is the only copy, and answers: it stays, whatever is wanted of its disk.
        (disk.presence, disk.duty) = (Presence::Up, Duty::Serve);
    }
    let replicas = wanted(&left, record.id, &kept).unwrap_or_else(|| kept.clone());
    let sites = view.sites.values();
    let settled = sites.filter(|s| s.presence != Presence::Gone).count();
    let keeps = kept.iter().all(|at| replicas.contains(at));
    if replicas.len() < REPLICAS_MIN.min(settled) || !keeps {
        return Verdict::NoDisks;
    }
    let to = match from {
        RecoveredFrom::Replica(at) => owner(&left, record, at, silent),
        RecoveredFrom::Checkpoint => None,
    };
    Verdict::Offer(Offer {
        from,
        covered,
        clean: record.clean && record.to_recover().is_none(),
        replicas,
        to,
    })
}

/// The node whose life claimed the volume, unless it was decided that it is down: then another
/// owner is in the record soon, and what the old one holds is fenced.
fn may_live(view: &View, record: &VolumeRecord) -> Option<NodeId> {
    let owner = record.owner.filter(|owner| owner.boot.is_some())?;
    let node = view.nodes.get(&owner.node)?;
    (node.presence == Presence::Up).then_some(owner.node)
}

/// Whether a log is of the journal's present founding (R3).
fn counts(record: &VolumeRecord, last: Position) -> bool {
    last.epoch >= record.founded
}

/// Whether enough of what was heard of is there for an owner to start.
fn goes_on(record: &VolumeRecord, of: impl Fn(&DiskRef) -> Heard) -> bool {
    let members = &record.journal.replicas;
    if let Some((only, covered)) = record.to_salvage() {
        let holds = |h| matches!(h, Heard::Holds { last, .. } if last >= covered);
        return holds(of(&only)) && founds(members, of);
    }
    if record.is_to_found() {
        return founds(members, of);
    }
    let logs = members.iter().filter_map(|at| match of(at) {
        Heard::Holds { last, .. } => Some(last),
        _ => None,
    });
    let logs: Vec<Position> = logs.collect();
    // One that is damaged or empty is refilled, and then acknowledges again.
    logs.len() >= JournalConfig::seal_quorum(members.len())
        && logs.iter().any(|last| counts(record, *last))
        && (founds(members, of) || members.len() < 3)
}

/// Whether a journal can be founded on these: any disk that serves will do.
fn founds(members: &[DiskRef], of: impl Fn(&DiskRef) -> Heard) -> bool {
    let serves = |at: &&DiskRef| !matches!(of(at), Heard::Gone | Heard::Silent);
    members.iter().filter(serves).count() >= JournalConfig::ack_quorum(members.len())
}

/// The placement without what is known to be lost, or does not answer.
fn serving<'a>(
    view: &View,
    lost: impl Iterator<Item = &'a DiskRef>,
    silent: &BTreeSet<NodeId>,
) -> View {
    let mut left = view.clone();
    for at in lost {
        if let Some(disk) = left.disks.get_mut(&at.disk).filter(|d| d.at == *at) {
            disk.presence = Presence::Gone;
        }
    }
    for disk in left.disks.values_mut().filter(|d| silent.contains(&d.node)) {
        disk.presence = Presence::Gone;
    }
    left
}

/// Who serves next: the present owner if it may, else a node of the home site, else the one that
/// has the log.
fn owner(
    view: &View,
    record: &VolumeRecord,
    at: DiskRef,
    silent: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let takes = |node: &NodeId| view.takes_volumes(*node) && !silent.contains(node);
    let present = record.owner.map(|o| o.node).filter(takes);
    let home = || {
        let at_home = |id: &&NodeId| view.nodes[*id].site == record.home && takes(id);
        view.nodes.keys().find(at_home).copied()
    };
    present.or_else(home).or_else(|| view.node_of(at))
}

#[cfg(test)]
#[path = "tests/recover.rs"]
mod tests;
