//! Where segments lie, all is well (R26): nothing that the loss of a site left with just enough to
//! be read is still so once the sites that are left have a pool of their own; and nothing that
//! was written without a site stays without it once that is back.

use std::collections::BTreeSet;

use model::geometry::{Code, Pool};
use model::ids::{SegmentId, VolumeId};
use model::placement::{Presence, View};

use super::{Served, redundancy};
use crate::world::World;

pub(super) fn check(world: &mut World, volume: VolumeId, served: &Served) -> Option<String> {
    let process = world.nodes[&served.owner].process.as_ref()?;
    let view = std::sync::Arc::clone(process.host.current_view());
    let held = redundancy::held(world, volume);
    let all = held.values().flatten();
    let segments: BTreeSet<_> = all.map(|(key, meta)| (key.segment, meta.pool)).collect();
    segments
        .into_iter()
        .find_map(|(segment, pool)| wrong(&view, segment, pool))
}

fn wrong(view: &View, segment: SegmentId, pool: Pool) -> Option<String> {
    let is_back = |site| {
        let known = view.sites.get(&site);
        known.is_some_and(|s| s.presence == Presence::Up && s.takes_segments)
    };
    if pool.without.is_some_and(is_back) {
        return Some(format!("{segment} lies in {pool}, and the site is back"));
    }
    let away = view.away()?;
    let has_room = view.pools.keys().any(|p| p.without == Some(away));
    let Code::Rs { m, .. } = pool.code else {
        return None;
    };
    let table = view.pools.get(&pool)?;
    let row = table.row(segment);
    let places = (0..table.slots).map(|slot| table.place(row, model::ids::Slot(slot)));
    // After a restart nobody may be left who knows the disks of that site.
    let is_away = |at: model::ids::DiskRef| view.site_of(at.disk) == Some(away);
    let lost = places.filter(|p| p.disk.is_none_or(is_away)).count();
    (has_room && lost >= usize::from(m))
        .then(|| format!("{segment} of {pool} has nothing to spare without {away}"))
}
