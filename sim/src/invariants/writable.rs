//! R27: once all disks have room, new segments go to all sites.

use raft_meta::GroupId;

use crate::world::World;

pub(super) fn check(world: &World) -> Option<String> {
    let newest = world
        .running()
        .max_by_key(|p| p.meta.applied(GroupId::Global))?;
    let left = newest.meta.global()?.unwritable?;
    Some(format!("new segments do without {left}, which has room"))
}
