//! A new owner serves once a record of its own epoch is committed, and not before (R4): what
//! older epochs left may lie on a majority and yet be replaced by a later owner, which adopts
//! another log (Raft's dissertation, 3.6.2).

use model::ids::{Epoch, NodeId, VolumeId};

use super::{Broken, broken};
use crate::world::World;

pub(super) fn check(
    world: &World,
    owner: NodeId,
    volume: VolumeId,
    epoch: Epoch,
) -> Result<(), Broken> {
    let process = world.nodes[&owner].process.as_ref();
    let machine = process.and_then(|p| p.volumes.get(&volume));
    match machine.and_then(|m| m.committed()) {
        Some((_, committed)) if committed.epoch < epoch => Err(broken(
            "a new owner commits by a record of its own epoch",
            format_args!("{owner} serves {volume} in {epoch}, committed is {committed:?}"),
        )),
        _ => Ok(()),
    }
}
