//! The first disks of a pool's slots.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::{Pool, SLOTS_MAX};
use model::ids::{Row, Slot, Version};

use super::{POOLS_MAX, PoolSlots, ROWS_MAX, SiteState, SlotAt};
use crate::descent::{Descent, Place};
use crate::loads::Loads;
use crate::rendezvous::{Candidate, RowUse};

impl SiteState {
    /// Slots that have a disk keep it. The others get one so that no move pays from the beginning.
    pub(super) fn assign(&mut self, pool: Pool, rows: &[Vec<Slot>]) -> bool {
        let candidates = self.candidates();
        let known = self.slots.contains_key(&pool) || self.slots.len() < POOLS_MAX;
        let sound = !rows.is_empty()
            && rows.len() <= ROWS_MAX
            && rows.iter().flatten().all(|s| s.0 < SLOTS_MAX);
        if candidates.is_empty() || !known || !sound {
            return false;
        }
        let old = self.slots.get(&pool).cloned().unwrap_or_default();
        let (mut table, mut loads) = self.kept(&old, rows, &candidates);
        let kept = places(&table);
        for (number, (row, slots)) in (0..).map(Row).zip(table.iter_mut().zip(rows)) {
            let mut used = RowUse::default();
            for at in row.values().map(SlotAt::target) {
                if let Some(disk) = self.disks.get(&at.disk) {
                    used.add(at, disk.node);
                }
            }
            for slot in slots {
                if !row.contains_key(slot) {
                    let chosen = used.choose((pool, number, *slot), &candidates, &loads);
                    let chosen = chosen.expect("there are candidates");
                    used.add(chosen.at, chosen.node);
                    loads.add(chosen.at);
                    row.insert(*slot, SlotAt::new(chosen.at));
                }
            }
        }
        // Rows that came last may have found the wrong disks left.
        let mut descent = Descent::new(pool, &table, loads, &candidates, |_| true);
        descent.fix(kept.iter().copied());
        for _ in 0..table.len() {
            let Some(step) = descent.step() else { break };
            let (row, slot) = step.slot;
            table[usize::from(row.0)].insert(slot, SlotAt::new(step.to));
        }
        if self.first_version != Version(0) {
            let new = places(&table);
            for (row, slot) in new.into_iter().filter(|place| !kept.contains(place)) {
                let at = table[usize::from(row.0)]
                    .get_mut(&slot)
                    .expect("just listed");
                *at = SlotAt::lost(at.disk, self.first_version);
            }
        }
        self.slots.insert(pool, table);
        true
    }

    /// The table with what stays, and the loads with what is yet to be placed.
    fn kept(
        &self,
        old: &PoolSlots,
        rows: &[Vec<Slot>],
        candidates: &[Candidate],
    ) -> (PoolSlots, Loads) {
        let keep = |(number, slots): (usize, &Vec<Slot>)| {
            let had = old.get(number);
            let at = |slot: &Slot| Some((*slot, *had?.get(slot)?));
            slots.iter().filter_map(at).collect::<BTreeMap<_, _>>()
        };
        let table: PoolSlots = rows.iter().enumerate().map(keep).collect();
        let wanted: usize = rows.iter().map(Vec::len).sum();
        let unplaced = wanted.saturating_sub(table.iter().map(BTreeMap::len).sum());
        let targets = table.iter().flat_map(BTreeMap::values).map(SlotAt::target);
        let loads = Loads::new(candidates, targets, unplaced);
        (table, loads)
    }
}

fn places(table: &PoolSlots) -> BTreeSet<Place> {
    let rows = (0..).map(Row).zip(table);
    let of_row = |(row, slots): (Row, &BTreeMap<Slot, SlotAt>)| {
        slots
            .keys()
            .map(move |slot| (row, *slot))
            .collect::<Vec<_>>()
    };
    rows.flat_map(of_row).collect()
}
