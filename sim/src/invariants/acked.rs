//! Acknowledged implies held by a majority, durably (section 4, R5): when an owner answers a
//! write, and when a change of the replicas is adopted, a quorum of each set that counts holds
//! all that the owner committed.

use std::collections::BTreeMap;

use model::ids::{DiskRef, NodeId, Version, VolumeId};
use model::placement::JournalConfig;

use super::{Broken, broken};
use crate::world::World;

/// The configuration of each volume's journal that was looked at last.
#[derive(Debug, Default)]
pub(super) struct Adopted(BTreeMap<VolumeId, Version>);

impl Adopted {
    /// A node's placement changed: an adopted set holds what the owner committed.
    pub(super) fn check(&mut self, world: &World, node: NodeId) -> Result<(), Broken> {
        let Some(process) = world.nodes[&node].process.as_ref() else {
            return Ok(());
        };
        for (volume, record) in &process.host.current_view().volumes {
            let last = self.0.entry(*volume).or_default();
            if record.journal.version <= *last {
                continue;
            }
            *last = record.journal.version;
            if let Some(owner) = world.owner(*volume) {
                check(world, owner, *volume)?;
            }
        }
        Ok(())
    }
}

pub(super) fn check(world: &World, owner: NodeId, volume: VolumeId) -> Result<(), Broken> {
    let process = world.nodes[&owner].process.as_ref();
    let Some(machine) = process.and_then(|p| p.volumes.get(&volume)) else {
        return Ok(());
    };
    let Some((epoch, committed)) = machine.committed() else {
        return Ok(());
    };
    // What the last life of a disk that is down held, only its answers tell: it may hold it.
    let may_hold = |at: &&DiskRef| {
        let open = world.open_of(**at);
        world.bereft.contains(&at.disk)
            || open.is_none_or(|open| open.machine.holds(volume, committed))
    };
    let journal = world.record(volume).map(|r| &r.journal);
    let committed_set = journal.map(|j| j.replicas.clone());
    // A set that the owner counts, and a change's adoption has just put an end to, has dropped
    // what it held: its disks may hear of that before the owner does.
    let names = |set: &Vec<DiskRef>| {
        journal.is_none_or(|j| j.replicas == *set || j.next.as_ref() == Some(set))
    };
    let counted = machine.replica_sets().into_iter().filter(names);
    for set in counted.chain(committed_set) {
        let held = set.iter().filter(may_hold).count();
        if held < JournalConfig::ack_quorum(set.len()) {
            return Err(broken(
                "acknowledged implies on a majority",
                format_args!(
                    "{owner} in {epoch} committed {committed:?}, {held} of {set:?} hold it"
                ),
            ));
        }
    }
    Ok(())
}
