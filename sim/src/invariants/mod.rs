//! What must hold once nothing goes wrong any more, one invariant a file. Each says in words
//! what is missing; a run waits for all of them, within a bound.

mod orphans;
mod redundancy;
mod replicas;
mod trimmed;

use actors::volume::VolumeStats;
use model::ids::{NodeId, VolumeId};

use crate::world::World;

/// What is not yet as it must be, of a volume that nobody writes to.
#[must_use]
pub fn unhealed(world: &mut World, volume: VolumeId) -> Option<String> {
    let served = match served(world, volume) {
        Ok(served) => served,
        Err(unserved) => return Some(unserved),
    };
    replicas::check(world, volume, &served)
        .or_else(|| trimmed::check(&served))
        .or_else(|| orphans::check(world, volume, &served))
        .or_else(|| redundancy::check(world, volume, &served))
}

/// A volume's owner and how its machine is.
struct Served {
    owner: NodeId,
    stats: VolumeStats,
}

fn served(world: &World, volume: VolumeId) -> Result<Served, String> {
    let unserved = || Err(format!("not served ({})", world.describe(volume)));
    let Some(owner) = world.owner(volume) else {
        return unserved();
    };
    let process = world.nodes.get(&owner).and_then(|n| n.process.as_ref());
    match process.and_then(|p| p.volumes.get(&volume)) {
        Some(machine) if machine.stats().serving => Ok(Served {
            owner,
            stats: machine.stats(),
        }),
        _ => unserved(),
    }
}
