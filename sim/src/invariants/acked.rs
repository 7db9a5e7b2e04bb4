//! Acknowledged implies held by a majority, durably (section 4, R5): when an owner answers a
//! write, and when a change of the replicas is adopted, a quorum of each set that counts holds
//! all that the owner committed.

use std::collections::BTreeMap;

use actors::volume::Volume;
use model::ids::{DiskRef, Epoch, NodeId, Position, Version, VolumeId};
use model::placement::JournalConfig;
use model::time::Time;

use super::{Broken, broken};
use crate::world::World;

/// What was looked at last, of each volume.
#[derive(Debug, Default)]
pub(super) struct Acked {
    /// The configuration of its journal.
    adopted: BTreeMap<VolumeId, Version>,
    /// What an owner had committed when it answered a write.
    committed: BTreeMap<VolumeId, Position>,
    /// The same, each time.
    answers: BTreeMap<VolumeId, Vec<(Time, Position)>>,
}

impl Acked {
    /// An owner answered a write.
    pub(super) fn answered(
        &mut self,
        world: &World,
        owner: NodeId,
        volume: VolumeId,
    ) -> Result<(), Broken> {
        check(world, owner, volume)?;
        if let Some((_, committed)) = machine(world, owner, volume).and_then(Volume::committed) {
            let last = self.committed.entry(volume).or_default();
            *last = committed.max(*last);
            let answers = self.answers.entry(volume).or_default();
            answers.push((world.now(), committed));
        }
        Ok(())
    }

    /// Until when all that was answered lies within what is covered.
    pub(super) fn until(&self, volume: VolumeId, covered: Position) -> Time {
        let answers = self.answers.get(&volume).into_iter().flatten();
        let within = answers.take_while(|(_, committed)| *committed <= covered);
        within.map(|(at, _)| *at).last().unwrap_or(Time::ZERO)
    }

    /// An owner begins to serve: what any owner answered before is in its log (R4), as what a
    /// leader of Raft committed is in the logs of all later ones.
    pub(super) fn serves(
        &mut self,
        world: &World,
        owner: NodeId,
        volume: VolumeId,
        epoch: Epoch,
    ) -> Result<(), Broken> {
        let Some(committed) = self.committed.get_mut(&volume).filter(|c| c.epoch < epoch) else {
            return Ok(());
        };
        // After a recovery with loss (R11) it has what was covered.
        let recovered = world.record(volume).and_then(|r| r.recovered);
        if let Some(recovered) = recovered.filter(|r| committed.epoch < r.epoch && r.epoch <= epoch)
        {
            *committed = recovered.covered.min(*committed);
        }
        let holds = machine(world, owner, volume).and_then(|m| m.has_record(*committed));
        if holds == Some(false) {
            let how = format_args!("{owner} serves {volume} in {epoch} without {committed:?}");
            return Err(broken("what was acknowledged is in every later log", how));
        }
        Ok(())
    }

    /// A node's placement changed: an adopted set holds what the owner committed.
    pub(super) fn placed(&mut self, world: &World, node: NodeId) -> Result<(), Broken> {
        let Some(process) = world.nodes[&node].process.as_ref() else {
            return Ok(());
        };
        for (volume, record) in &process.host.current_view().volumes {
            let last = self.adopted.entry(*volume).or_default();
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

fn machine(world: &World, owner: NodeId, volume: VolumeId) -> Option<&Volume> {
    let process = world.nodes[&owner].process.as_ref();
    process.and_then(|p| p.volumes.get(&volume))
}

fn check(world: &World, owner: NodeId, volume: VolumeId) -> Result<(), Broken> {
    let Some(machine) = machine(world, owner, volume) else {
        return Ok(());
    };
    let Some((epoch, committed)) = machine.committed() else {
        return Ok(());
    };
    // Who led before a recovery with loss acknowledges nothing any more, and its set is not the
    // record's.
    let recovered = world.record(volume).and_then(|r| r.recovered);
    if recovered.is_some_and(|r| epoch < r.epoch) {
        return Ok(());
    }
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
