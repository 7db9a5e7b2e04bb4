//! Never two leases at once (R7): when an owner begins to serve, no older one that still runs
//! may answer reads, each by its own clock. That rests on each replica: when it answers a seal,
//! no older owner counts its grant any more.

use actors::volume::Volume;
use model::ids::{DiskId, Epoch, NodeId, VolumeId};
use model::time::Time;

use super::{Broken, broken};
use crate::world::World;

const RULE: &str = "never two leases at once";

pub(super) fn serves(
    world: &World,
    owner: NodeId,
    volume: VolumeId,
    epoch: Epoch,
) -> Result<(), Broken> {
    let longer = |(id, until): &(NodeId, Time)| *id != owner && *until > clock(world, *id);
    let older = |m: &Volume| m.committed().is_some_and(|(of, _)| of < epoch);
    let machines = machines(world, volume).filter(|(_, m)| older(m));
    let mut counts = machines.filter_map(|(id, m)| Some((id, m.leased_until()?)));
    let Some((id, until)) = counts.find(longer) else {
        return Ok(());
    };
    let left = until.since(clock(world, id));
    let how =
        format_args!("{owner} serves {volume} in {epoch}, and {id} may read it for {left:?} more");
    Err(broken(RULE, how))
}

pub(super) fn sealed(
    world: &World,
    disk: DiskId,
    volume: VolumeId,
    epoch: Epoch,
) -> Result<(), Broken> {
    for (id, machine) in machines(world, volume) {
        let Some((of, until)) = machine.grant_of(disk).filter(|(of, _)| *of < epoch) else {
            continue;
        };
        let clock = clock(world, id);
        if until > clock {
            let left = until.since(clock);
            let how = format_args!(
                "{disk} sealed {volume} for {epoch}, and {id} in {of} counts its grant for {left:?} more"
            );
            return Err(broken(RULE, how));
        }
    }
    Ok(())
}

fn machines(world: &World, volume: VolumeId) -> impl Iterator<Item = (NodeId, &Volume)> {
    world.nodes.iter().filter_map(move |(id, node)| {
        let machine = node.process.as_ref()?.volumes.get(&volume)?;
        Some((*id, machine))
    })
}

fn clock(world: &World, node: NodeId) -> Time {
    world.nodes[&node].clock(world.now())
}
