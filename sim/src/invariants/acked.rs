//! Acknowledged implies held by a majority, durably (R5): when an owner answers a
//! write, and when a change of the replicas is adopted, a quorum of each set that counts holds
//! all that the owner committed.

use std::collections::BTreeMap;

use actors::volume::Volume;
use model::ids::{DiskRef, Epoch, NodeId, Position, Seq, Version, VolumeId};
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
    /// Its recoveries with loss.
    recoveries: BTreeMap<VolumeId, Recoveries>,
}

/// What recoveries with loss (R11) left: one may follow the other before anybody serves.
#[derive(Debug, Default)]
struct Recoveries {
    /// The last one.
    epoch: Epoch,
    /// What older owners had in their logs when its entry was first seen in a node's state.
    logged: Position,
    /// Until when all that was answered lies within what each of them covers that no owner
    /// served after.
    covered_until: Option<Time>,
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
        if let Some((epoch, committed)) = machine(world, owner, volume).and_then(Volume::committed)
        {
            self.recovered(world, volume);
            let last = self.recoveries.entry(volume).or_default();
            // It can't know of the recovery. What it was about to write before may lie on a majority,
            // and who stood still hears of that later. That anything else is acknowledged, no
            // quorum is left for.
            if epoch < last.epoch && committed > last.logged {
                let how = format_args!(
                    "{owner} committed {committed} in {epoch}, logs ended at {} when {volume} was recovered in {}",
                    last.logged, last.epoch
                );
                return Err(broken("after a recovery no older owner acknowledges", how));
            }
            if committed.epoch < last.epoch {
                return Ok(());
            }
            let last = self.committed.entry(volume).or_default();
            *last = committed.max(*last);
            let answers = self.answers.entry(volume).or_default();
            answers.push((world.now(), committed));
        }
        Ok(())
    }

    /// Notes a recovery with loss: what it covers is all that later owners must have.
    fn recovered(&mut self, world: &World, volume: VolumeId) {
        let Some(recovered) = world.record(volume).and_then(|r| r.recovered) else {
            return;
        };
        let all = self.recoveries.entry(volume).or_default();
        if recovered.epoch <= all.epoch {
            return;
        }
        let machines = world.running().filter_map(|p| p.volumes.get(&volume));
        let logged = machines.filter_map(logged);
        let older = logged.filter(|(epoch, _)| *epoch < recovered.epoch);
        let answered = self.committed.get(&volume).copied();
        all.logged = older
            .map(|(_, at)| at)
            .chain(answered)
            .max()
            .unwrap_or_default();
        all.epoch = recovered.epoch;
        let answers = self.answers.get(&volume).into_iter().flatten();
        let within = answers.take_while(|(_, committed)| *committed <= recovered.covered);
        let until = within.map(|(at, _)| *at).last().unwrap_or(Time::ZERO);
        all.covered_until = Some(all.covered_until.map_or(until, |before| before.min(until)));
        if let Some(committed) = self.committed.get_mut(&volume) {
            *committed = recovered.covered.min(*committed);
        }
    }

    /// Until when all that was answered is there, now that an owner serves after a recovery.
    pub(super) fn covered_until(&mut self, world: &World, volume: VolumeId) -> Time {
        self.recovered(world, volume);
        let all = self.recoveries.entry(volume).or_default();
        all.covered_until.take().unwrap_or(Time::ZERO)
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
        // After a recovery with loss (R11) it has what was covered.
        self.recovered(world, volume);
        let Some(committed) = self.committed.get(&volume).filter(|c| c.epoch < epoch) else {
            return Ok(());
        };
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
        for (volume, record) in process.host.current_view().volumes.iter() {
            self.recovered(world, *volume);
            let last = self.adopted.entry(*volume).or_default();
            if record.journal.version <= *last {
                continue;
            }
            *last = record.journal.version;
            // Of a clean volume the checkpoint has all: a new set is to hold what is written from
            // now on (R3).
            if record.clean {
                continue;
            }
            if let Some(owner) = world.owner(*volume) {
                check(world, owner, *volume)?;
            }
        }
        Ok(())
    }
}

/// An owner's epoch, and where its log ends.
fn logged(machine: &Volume) -> Option<(Epoch, Position)> {
    let (epoch, mut last) = machine.committed()?;
    loop {
        let next = Position {
            epoch,
            seq: Seq(last.seq.0 + 1),
        };
        if machine.has_record(next) != Some(true) {
            return Some((epoch, last));
        }
        last = next;
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
