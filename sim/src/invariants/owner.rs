//! One unfenced owner a volume: epochs in which a volume is served only rise (but for one who can
//! have nothing acknowledged any more), no two machines serve in the same (R1), and when one begins, so many replicas promised its epoch that
//! nobody else can have anything acknowledged any more (R7).

use std::collections::BTreeMap;

use actors::volume::Volume;
use model::ids::{DiskRef, Epoch, NodeId, VolumeId};
use model::placement::JournalConfig;

use super::{Broken, broken};
use crate::world::World;

/// The epochs in which volumes were served last, and what replicas promised for that.
#[derive(Debug, Default)]
pub(super) struct Owners {
    last: BTreeMap<VolumeId, Epoch>,
    promised: BTreeMap<(DiskRef, VolumeId), Epoch>,
}

const RULE: &str = "one unfenced owner a volume";

impl Owners {
    /// The epoch in which a volume was served last.
    pub(super) fn last(&self, volume: VolumeId) -> Epoch {
        self.last.get(&volume).copied().unwrap_or(Epoch(0))
    }

    /// A promise outlives the process (R7), unless the log that it is in is damaged (R8).
    pub(super) fn opened(&self, world: &World, node: NodeId) -> Result<(), Broken> {
        for disk in world.nodes[&node].disks.values() {
            let Some(open) = &disk.open else { continue };
            for (volume, replica) in open.machine.stats().replicas {
                let before = self.promised.get(&(disk.at, volume));
                if let Some(before) = before.filter(|b| replica.whole && replica.promised < **b) {
                    let how = format_args!("{:?} forgot that it promised {before}", disk.at);
                    return Err(broken("a promise is for good", how));
                }
            }
        }
        Ok(())
    }

    pub(super) fn serves(
        &mut self,
        world: &World,
        node: NodeId,
        volume: VolumeId,
        epoch: Epoch,
    ) -> Result<(), Broken> {
        let last = self.last(volume);
        self.last.insert(volume, last.max(epoch));
        let process = world.nodes[&node].process.as_ref();
        let machine = process.and_then(|p| p.volumes.get(&volume));
        if last >= epoch && last > Epoch(0) {
            // Who stood still may learn only now that it had begun: it is too late, if nobody
            // takes anything from it any more.
            let fenced = machine.is_some_and(|m| self.is_fenced(world, m, volume, epoch));
            if last > epoch && fenced {
                return Ok(());
            }
            let how = format_args!("{node} serves {volume} in {epoch} after {last}");
            return Err(broken(RULE, how));
        }
        let Some(machine) = machine else {
            return Ok(());
        };
        let holds = |at: &DiskRef| {
            let committed = machine.committed().map(|(_, position)| position);
            let open = world.open_of(*at).map(|open| &open.machine);
            let promised = open.and_then(|m| m.promised(volume)) == Some(epoch);
            promised && committed.is_some_and(|c| open.is_some_and(|m| m.holds(volume, c)))
        };
        for at in machine.replica_sets().into_iter().flatten().filter(holds) {
            self.promised.insert((at, volume), epoch);
        }
        // A disk that is down takes nothing; when it is back, its promise is what it was.
        // One that lost its journal takes nothing for a set that it was given up in: who begins with
        // that set, and did not hear of the recovery, had its promise before.
        let recovered = world.record(volume).and_then(|r| r.recovered);
        let given_up = |at: &DiskRef| {
            let is_later = recovered.is_some_and(|r| epoch < r.epoch);
            is_later && world.bereft.contains(&at.disk)
        };
        let open = |at: &&DiskRef| {
            let disk = world.open_of(**at).filter(|_| !given_up(at));
            disk.is_some_and(|d| d.machine.promised(volume).is_none_or(|p| p < epoch))
        };
        for set in machine.replica_sets().into_iter().take(1) {
            let unfenced: Vec<&DiskRef> = set.iter().filter(open).collect();
            if unfenced.len() >= JournalConfig::ack_quorum(set.len()) {
                let how = format_args!("{node} serves in {epoch}, {unfenced:?} did not promise it");
                return Err(broken(RULE, how));
            }
        }
        Ok(())
    }

    /// Whether so many replicas promised a higher epoch that nothing of this one is acknowledged.
    fn is_fenced(&self, world: &World, machine: &Volume, volume: VolumeId, epoch: Epoch) -> bool {
        let takes = |at: &&DiskRef| {
            let open = world.open_of(**at);
            let promised = open.and_then(|open| open.machine.promised(volume));
            let promised = promised.max(self.promised.get(&(**at, volume)).copied());
            promised.is_none_or(|promised| promised <= epoch)
        };
        machine.replica_sets().iter().any(|set| {
            let left = set.iter().filter(takes).count();
            left < JournalConfig::ack_quorum(set.len())
        })
    }
}
