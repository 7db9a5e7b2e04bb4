//! Slots that are moved only so that a site's disks are full by their weights (decision 15):
//! after a disk was added, came back empty, or serves again.
//!
//! A plan goes to its end before its first move is begun: always from the disk that is fullest
//! for its weight to the one that is emptiest, as far as a row's spread bears it. So no slot is
//! brought to a disk that it would leave again, though only a few moves are under way at a time.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{DiskRef, Row};

use crate::descent::Descent;
use crate::rendezvous::Candidate;
use crate::site::{MOVES_PER_COMMAND_MAX, MoveBegin, SiteState};

/// Slots that leave one disk at a time, and that come to one, whatever they are moved for:
/// clients' reads and writes are on the same disks.
const PER_DISK_MAX: usize = 2;

/// Whether nothing more urgent than to spread slots is to be done, or under way: every slot lies on a disk that
/// serves and is to, and goes to such a one if it goes.
pub(super) fn is_well(state: &SiteState) -> bool {
    let is_well = |at: DiskRef| state.has(at) && !state.drains(at) && !state.rests(at);
    let mut slots = state.slots.values().flatten().flat_map(BTreeMap::values);
    state.has_takers() && slots.all(|slot| is_well(slot.disk) && slot.to.is_none_or(is_well))
}

/// The moves to begin now: of the plan's first ones, those whose rows are at rest and whose disks
/// have few others. Disks without room are given none.
pub(super) fn plan(state: &SiteState, has_room: impl Fn(&Candidate) -> bool) -> Vec<MoveBegin> {
    let candidates = state.candidates();
    let mut pace = Pace::of(state);
    let mut begun = Vec::new();
    for (pool, table) in &state.slots {
        let loads = state.loads(*pool);
        if !loads.is_uneven() {
            continue;
        }
        let mut descent = Descent::new(*pool, table, loads, &candidates, &has_room);
        let moving = (0..).map(Row).zip(table);
        let moving = moving.filter(|(_, row)| row.values().any(|at| at.to.is_some()));
        let mut busy: BTreeSet<Row> = moving.map(|(row, _)| row).collect();
        descent.prefer_others_than(&busy);
        for _ in 0..MOVES_PER_COMMAND_MAX {
            let Some(step) = descent.step() else { break };
            let (row, slot) = step.slot;
            let is_first = busy.insert(row) && begun.len() < MOVES_PER_COMMAND_MAX;
            if is_first && pace.admits(step.from, step.to) {
                begun.push(MoveBegin {
                    pool: *pool,
                    row,
                    slot,
                    version: table[usize::from(row.0)][&slot].version,
                    to: step.to,
                });
            }
        }
    }
    begun
}

/// Moves under way, by disk.
#[derive(Default)]
struct Pace {
    leaving: BTreeMap<DiskRef, usize>,
    coming: BTreeMap<DiskRef, usize>,
}

impl Pace {
    fn of(state: &SiteState) -> Self {
        let mut pace = Self::default();
        for at in state.slots.values().flatten().flat_map(BTreeMap::values) {
            if let Some(to) = at.to {
                *pace.leaving.entry(at.disk).or_default() += 1;
                *pace.coming.entry(to).or_default() += 1;
            }
        }
        pace
    }

    /// Whether another move may begin; if so it counts.
    fn admits(&mut self, from: DiskRef, to: DiskRef) -> bool {
        let leaving = self.leaving.entry(from).or_default();
        let coming = self.coming.entry(to).or_default();
        if *leaving >= PER_DISK_MAX || *coming >= PER_DISK_MAX {
            return false;
        }
        *leaving += 1;
        *coming += 1;
        true
    }
}

#[cfg(test)]
mod tests;
