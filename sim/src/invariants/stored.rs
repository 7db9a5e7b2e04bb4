//! No journal trim before its segments survive the policy's losses (R3), and no site's loss
//! takes more (R24, R25): when an owner has a checkpoint recorded, every new segment that
//! it reaches can be decoded from what disks hold, whichever one site is lost; and so can every
//! segment that a record refers to, as soon as there is the record (R14).

use std::collections::BTreeSet;

use actors::messages::SegmentRef;
use disk_store::catalog::Catalog;
use model::ids::{DiskRef, Epoch, FragmentKey, NodeId, SegmentId, SiteId, Slot, VolumeId};
use model::placement::{Alone, SiteRole, View};

use super::{Broken, broken};
use crate::world::World;

const RULE: &str = "no trim before its segments survive";

/// The segments that were looked at.
#[derive(Debug, Default)]
pub(super) struct Stored {
    seen: BTreeSet<SegmentId>,
}

impl Stored {
    pub(super) fn recorded(
        &mut self,
        world: &World,
        owner: NodeId,
        volume: VolumeId,
        last: Epoch,
    ) -> Result<(), Broken> {
        let Some(process) = world.nodes[&owner].process.as_ref() else {
            return Ok(());
        };
        let machine = process.volumes.get(&volume);
        let Some(machine) = machine else {
            return Ok(());
        };
        let mut segments = machine.recording().unwrap_or_default();
        segments.extend(machine.referred());
        let epoch = process.volumes[&volume].stats().epoch;
        if epoch < last {
            return Ok(());
        }
        let view = process.host.current_view();
        // Older ones were looked at when they were new; disks may have been lost since.
        for segment in segments {
            // Its row may be pending for long, and change.
            if segment.id.epoch != epoch || !self.seen.insert(segment.id) {
                continue;
            }
            let sites = held(world, view, &segment);
            let needed = usize::from(segment.pool.code.data_fragments());
            let is_alone = view.is_of_one_site(segment.pool);
            if is_alone && !writes_alone(view) {
                let how = format_args!("{segment:?} lies in one site, and no policy allows it");
                return Err(broken("R22", how));
            }
            for lost in view.sites.keys().collect::<BTreeSet<_>>() {
                let left = sites.iter().filter(|s| *s != lost).count();
                if left < needed && !world.is_damaged() && !is_alone {
                    let how = format_args!("{left} of {segment:?} are left without {lost}");
                    return Err(broken(RULE, how));
                }
            }
        }
        let pages = process.volumes[&volume].index_segments();
        let Some(record) = view.volumes.get(&volume) else {
            return Ok(());
        };
        let code = record.code.index();
        let weak = |s: &SegmentRef| s.pool.code != code && s.pool.without.is_none();
        match pages.into_iter().find(weak) {
            Some(segment) => Err(broken("R25", format_args!("index pages in {segment:?}"))),
            None => Ok(()),
        }
    }
}

/// Whether a witness has writes go on with one data site left (R22).
fn writes_alone(view: &View) -> bool {
    let role = SiteRole::Witness {
        alone: Alone::Write,
    };
    view.sites.values().any(|site| site.role == role)
}

/// The sites of a segment's fragments. One on a disk that is down counts: what its last life
/// held, only its answers told.
fn held(world: &World, view: &View, segment: &SegmentRef) -> Vec<SiteId> {
    let Some(table) = view.pools.get(&segment.pool) else {
        return Vec::new();
    };
    let row = table.row(segment.id);
    let slots = (0..segment.pool.code.slots()).map(Slot);
    let holds = |slot: Slot| {
        let key = FragmentKey {
            segment: segment.id,
            slot,
        };
        let has = |at: &DiskRef| {
            let disk = world.sim_disk(*at);
            disk.is_some_and(|disk| {
                let found = disk.catalog.get(key).is_ok_and(|row| row.is_some());
                found || disk.open.is_none()
            })
        };
        // While a slot is being moved, what was written before is at its former disk.
        let places = [table.disk(row, slot), table.former(row, slot)];
        let at = places.into_iter().flatten().find(has)?;
        view.site_of(at.disk)
    };
    slots.filter_map(holds).collect()
}
