//! Space accounting is exact: what a disk says that its fragments take is what they take, and
//! what the index says that its segments take is what disks hold of them.

use std::collections::BTreeMap;

use disk_store::catalog::Catalog;
use model::ids::{DiskId, FragmentKey, VolumeId};

use super::Served;
use crate::world::World;

pub(super) fn check(world: &World, volume: VolumeId, served: &Served) -> Option<String> {
    let mut stored = 0;
    let mut held: BTreeMap<FragmentKey, Vec<DiskId>> = BTreeMap::new();
    for disk in world.nodes.values().flat_map(|n| n.disks.values()) {
        let rows = disk.catalog.scan(None, usize::MAX).unwrap_or_default();
        let of_volume = rows.iter().filter(|(key, _)| key.segment.volume == volume);
        for (key, row) in of_volume {
            stored += u64::from(row.meta.fragment_bytes);
            held.entry(*key).or_default().push(disk.at.disk);
        }
        let Some(open) = &disk.open else { continue };
        let stats = open.fragments.stats();
        let taken: u64 = rows.iter().map(|(_, row)| row.bytes()).sum();
        if (stats.used_bytes, stats.fragments) != (taken, rows.len() as u64) {
            let count = rows.len();
            let disk = disk.at.disk;
            return Some(format!(
                "exact space: {disk} says {stats:?}, {count} fragments take {taken}"
            ));
        }
    }
    let said = served.stats.stored_bytes;
    let all_run = world.nodes.values().all(|n| n.process.is_some());
    (said != stored && all_run && !world.is_damaged())
        .then(|| {
            let twice = held.into_iter().find(|(_, disks)| disks.len() > 1);
            format!(
                "exact space: the index says {said} bytes, disks hold {stored}; held more than once: {twice:?}"
            )
        })
}
