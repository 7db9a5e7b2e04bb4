//! How slots lie, by the sites' own tables: how even, and whether each row is spread as it must be.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::Pool;
use model::ids::{DiskRef, NodeId, Row, SiteId, Slot};
use raft_meta::site::SiteState;

use super::fabric::{CODE, Fabric, POOL};
use super::report::{Section, Value};

impl Fabric {
    /// How many slots of the data's pool each disk holds.
    fn held(&self) -> Vec<u64> {
        let all = self.sites.values().flat_map(|group| held(group.state()));
        all.map(|(_, slots)| slots).collect()
    }

    /// What lies in one slot of the data's pool, if segments are spread over rows as by chance and
    /// the fullest disk is as full as is assumed.
    pub(super) fn slot_bytes(&self) -> u64 {
        let most = self.held().into_iter().max().unwrap_or(0).max(1);
        let full = u128::from(self.size.disk_bytes) * u128::from(self.size.fill_percent) / 100;
        u64::try_from(full).unwrap_or(u64::MAX) / most
    }

    /// What lies in all of them.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.held().iter().sum::<u64>() * self.slot_bytes()
    }
}

/// A site's slots of a pool, by the disk where each goes.
pub(super) fn slots(state: &SiteState, pool: Pool) -> impl Iterator<Item = (Row, Slot, DiskRef)> {
    let rows = state.slots.get(&pool).into_iter().flatten();
    let rows = (0..).map(Row).zip(rows);
    rows.flat_map(|(row, slots)| {
        slots
            .iter()
            .map(move |(slot, at)| (row, *slot, at.target()))
    })
}

/// How many slots of the data's pool each disk of a site holds.
pub(super) fn held(state: &SiteState) -> BTreeMap<DiskRef, u64> {
    let mut held: BTreeMap<DiskRef, u64> = state.disks.values().map(|d| (d.at, 0)).collect();
    for (_, _, at) in slots(state, POOL) {
        *held.entry(at).or_default() += 1;
    }
    held
}

/// Rows of a site in which a node holds more than one slot, though there are nodes enough.
pub(super) fn crowded_rows(state: &SiteState, pool: Pool) -> usize {
    let mut rows: BTreeMap<Row, Vec<NodeId>> = BTreeMap::new();
    for (row, _, at) in slots(state, pool) {
        rows.entry(row)
            .or_default()
            .push(state.disks[&at.disk].node);
    }
    let crowded = |nodes: &&Vec<NodeId>| {
        let apart: BTreeSet<&NodeId> = nodes.iter().collect();
        apart.len() < nodes.len().min(state.nodes.len())
    };
    rows.values().filter(crowded).count()
}

/// Rows of which one site holds more than may be lost.
fn heavy_rows(fabric: &Fabric, pool: Pool) -> usize {
    let entry = &fabric.global.state().pools[&pool];
    let most = usize::from(pool.code.slots_per_site_max());
    let is_heavy = |row: &&[SiteId]| {
        let of = |site: &SiteId| row.iter().filter(|s| *s == site).count();
        row.iter().any(|site| of(site) > most)
    };
    let rows = entry.sites.chunks(usize::from(entry.slots));
    rows.filter(is_heavy).count()
}

pub(super) fn section(fabric: &Fabric) -> Section {
    let mut section = Section::new("placement", format!("Placement of {CODE}"));
    let pools = fabric.global.state().pools.keys();
    let bad: usize = pools
        .map(|pool| {
            let sites = fabric.sites.values();
            let crowded = sites.map(|group| crowded_rows(group.state(), *pool));
            crowded.sum::<usize>() + heavy_rows(fabric, *pool)
        })
        .sum();
    let held = fabric.held();
    let total: u64 = held.iter().sum();
    let mean = total as f64 / held.len() as f64;
    let most = held.iter().max().copied().unwrap_or(0);
    section.put("slots", "slots", Value::Count(total));
    let in_one = Value::Bytes(fabric.slot_bytes());
    section.put("slot-bytes", "in one slot, as assumed", in_one);
    let stored = Value::Bytes(fabric.stored_bytes());
    section.put("stored", "in all of them, parity included", stored);
    section.count("bad-rows", "rows that are not spread as they must be", bad);
    let idle = held.iter().filter(|slots| **slots == 0).count();
    section.count("idle-disks", "disks without a slot", idle);
    section.put("mean", "slots a disk, mean", Value::Ratio(mean));
    section.put("most", "slots a disk, most", Value::Count(most));
    let usable = mean / most.max(1) as f64;
    let what = "of all space is used when the first disk is full";
    section.put("usable", what, Value::Ratio(usable));
    section
}
