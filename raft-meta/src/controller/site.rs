//! What a site group's leader proposes: registrations, deaths and returns of the site's nodes
//! and disks, and disks for the slots that the site holds.

use model::ids::{NodeId, SiteId};
use model::placement::Presence;
use model::planted::{Bug, planted};
use model::time::Time;

use crate::detector::{Detector, Liveness};
use crate::global::{DiskEntry, DiskWord, GlobalState};
use crate::message::Beat;
use crate::site::{SiteCommand, SiteState};

/// All that should be proposed now.
pub(crate) fn decide(
    now: Time,
    state: &SiteState,
    global: &GlobalState,
    detector: &Detector,
) -> Vec<SiteCommand> {
    let mut out = Vec::new();
    for (node, entry) in &global.nodes {
        if entry.site != state.site {
            continue;
        }
        if entry.gone {
            out.extend(bury(state, *node));
        } else {
            out.extend(register(now, state, *node, detector));
            out.extend(presence(now, state, *node, detector));
            disks(now, state, global, (*node, detector), &mut out);
        }
    }
    for disk in global.disks.values() {
        out.extend(operators_word(state, global, disk));
    }
    assign(state, global, &mut out);
    out
}

/// What the operator said of a disk and the site's group does not know yet.
fn operators_word(
    state: &SiteState,
    global: &GlobalState,
    entry: &DiskEntry,
) -> Option<SiteCommand> {
    let at = entry.at;
    let known = state.disks.get(&at.disk).filter(|d| d.at == at)?;
    if known.presence == Presence::Gone {
        return None;
    }
    let duty = global.duty_of_disk(entry);
    let is_empty = || !state.holds_slots(at) || planted(Bug::RemoveFull);
    match entry.word {
        DiskWord::Lost => Some(SiteCommand::RemoveDisk { at, lost: true }),
        _ if known.duty != duty => Some(SiteCommand::SetDiskDuty { at, duty }),
        DiskWord::Remove if is_empty() => Some(SiteCommand::RemoveDisk { at, lost: false }),
        DiskWord::Remove
        | DiskWord::Drain
        | DiskWord::Serve
        | DiskWord::Faulty(_)
        | DiskWord::Trusted => None,
    }
}

fn bury(state: &SiteState, node: NodeId) -> Option<SiteCommand> {
    let known = state
        .nodes
        .get(&node)
        .filter(|n| n.presence != Presence::Gone)?;
    let (expected, boot) = (known.presence, known.boot);
    Some(SiteCommand::SetNodePresence {
        node,
        expected,
        boot,
        to: Presence::Gone,
    })
}

fn live_beat(now: Time, site: SiteId, node: NodeId, detector: &Detector) -> Option<&Beat> {
    detector.beat(now, node).filter(|b| b.site == site)
}

fn register(
    now: Time,
    state: &SiteState,
    node: NodeId,
    detector: &Detector,
) -> Option<SiteCommand> {
    let beat = live_beat(now, state.site, node, detector)?;
    let known = state.nodes.get(&node);
    let same = known.is_some_and(|n| {
        n.boot == beat.boot
            && n.member == beat.member
            && n.address == beat.address
            && n.nbd == beat.nbd
            && n.name == beat.name
    });
    let gone = known.is_some_and(|n| n.presence == Presence::Gone);
    (!same && !gone).then(|| SiteCommand::RegisterNode {
        node,
        boot: beat.boot,
        member: beat.member,
        name: beat.name.clone(),
        address: beat.address,
        nbd: beat.nbd,
    })
}

fn presence(
    now: Time,
    state: &SiteState,
    node: NodeId,
    detector: &Detector,
) -> Option<SiteCommand> {
    let known = state.nodes.get(&node)?;
    let to = match (known.presence, detector.liveness(now, node)) {
        (Presence::Up, Liveness::Dead) => Presence::Down,
        (Presence::Down, Liveness::Alive) => Presence::Up,
        _ => return None,
    };
    let (expected, boot) = (known.presence, known.boot);
    Some(SiteCommand::SetNodePresence {
        node,
        expected,
        boot,
        to,
    })
}

/// A disk is its node's by the global placement group's entry; a beat alone makes no disk.
fn disks(
    now: Time,
    state: &SiteState,
    global: &GlobalState,
    (node, detector): (NodeId, &Detector),
    out: &mut Vec<SiteCommand>,
) {
    let Some(beat) = live_beat(now, state.site, node, detector) else {
        return;
    };
    if !state.nodes.contains_key(&node) {
        return;
    }
    for disk in &beat.disks {
        let at = disk.at;
        let entry = global.disks.get(&at.disk);
        if !entry.is_some_and(|e| e.at == at && e.node == node) {
            continue;
        }
        let capacity_bytes = disk.capacity_bytes;
        match state.disks.get(&at.disk) {
            Some(d) if d.at == at && d.node == node && d.capacity_bytes == capacity_bytes => {
                if d.presence == Presence::Down {
                    let (expected, to) = (Presence::Down, Presence::Up);
                    out.push(SiteCommand::SetDiskPresence { at, expected, to });
                }
            }
            _ => out.push(SiteCommand::RegisterDisk {
                at,
                node,
                capacity_bytes,
            }),
        }
    }
    for disk in state.disks.values().filter(|d| d.node == node) {
        if disk.presence == Presence::Up && detector.disk_is_dead(now, node, disk.at) {
            let (expected, to) = (Presence::Up, Presence::Down);
            out.push(SiteCommand::SetDiskPresence {
                at: disk.at,
                expected,
                to,
            });
        }
    }
}

fn assign(state: &SiteState, global: &GlobalState, out: &mut Vec<SiteCommand>) {
    if !state.has_candidates() {
        return;
    }
    for (pool, entry) in &global.pools {
        if !entry.sites.contains(&state.site) {
            continue;
        }
        let rows = entry.slots_of(state.site);
        if !state.has_assigned(*pool, &rows) {
            out.push(SiteCommand::AssignPool { pool: *pool, rows });
        }
    }
}
