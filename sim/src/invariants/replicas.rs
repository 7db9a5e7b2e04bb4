//! The journal is at full redundancy: a replica in each site that is left, up to three, on
//! disks that serve, each with all that was committed, and no change pending (R5, R6).

use std::collections::BTreeSet;

use model::ids::VolumeId;
use model::placement::Presence;

use super::Served;
use crate::world::World;

/// Replicas of a journal, in so many sites.
const REPLICAS: usize = 3;

pub(super) fn check(world: &World, volume: VolumeId, served: &Served) -> Option<String> {
    let process = world.nodes[&served.owner].process.as_ref()?;
    let view = process.host.current_view();
    let journal = &view.volumes.get(&volume)?.journal;
    let up = view.sites.values().filter(|s| s.presence == Presence::Up);
    let expected = up.count().min(REPLICAS);
    let sites: BTreeSet<_> = journal
        .replicas
        .iter()
        .map(|at| view.site_of(at.disk))
        .collect();
    let serves = |at: &&model::ids::DiskRef| {
        let disk = view.disks.get(&at.disk);
        disk.is_some_and(|d| d.at == **at && d.presence == Presence::Up)
    };
    let serving = journal.replicas.iter().filter(serves).count();
    let full = sites.len() == expected
        && serving == expected
        && journal.replicas.len() == expected
        && served.stats.replicas_current == expected
        && journal.next.is_none();
    (!full).then(|| {
        format!(
            "{expected} journal replicas: {journal:?}, {} current",
            served.stats.replicas_current
        )
    })
}
