//! A replica that counts, and whose log does not start at the beginning, knows a committed
//! checkpoint that covers what it trimmed (R3, R9): else it could not be recovered from alone.

use model::ids::{DiskId, Seq, VolumeId};

use crate::world::World;

pub(super) fn check(world: &World, volume: VolumeId) -> Option<String> {
    let disks = world.nodes.values().flat_map(|n| &n.disks);
    let open = disks.filter_map(|(id, disk)| Some((*id, disk.open.as_ref()?)));
    let mut replicas = open.filter_map(|(id, open)| {
        let stats = open.machine.stats();
        Some((id, *stats.replicas.get(&volume)?))
    });
    let lacks: Option<(DiskId, _)> = replicas.find(|(_, replica)| {
        let covered = replica.covers.is_some_and(|c| c.seq >= replica.base.seq);
        replica.whole && replica.base.seq > Seq(0) && !covered
    });
    lacks.map(|(disk, replica)| format!("a checkpoint for what {disk} trimmed: {replica:?}"))
}
