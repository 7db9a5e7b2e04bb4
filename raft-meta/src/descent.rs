//! A pool's way to where no move pays any more (decision 15): always from the disk that is
//! fullest for its weight to the one that is emptiest, as far as a row's spread bears it.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::Pool;
use model::ids::{DiskRef, NodeId, Row, Slot};

use crate::loads::Loads;
use crate::rendezvous::{Candidate, RowUse, draw};
use crate::site::{PoolSlots, SlotAt};

/// A slot of a row.
pub(crate) type Place = (Row, Slot);

/// A move on the way.
pub(crate) struct Step {
    pub(crate) slot: Place,
    pub(crate) from: DiskRef,
    pub(crate) to: DiskRef,
}

/// A pool on its way. A slot in motion counts where it goes.
pub(crate) struct Descent {
    pool: Pool,
    /// Where each slot lies, or will.
    rows: Vec<BTreeMap<Slot, DiskRef>>,
    /// The same by disk, of those that may be given slots.
    held: BTreeMap<DiskRef, BTreeSet<Place>>,
    /// Rows of which others are moved first.
    busy: BTreeSet<Row>,
    /// Slots that stay where they are.
    fixed: BTreeSet<Place>,
    loads: Loads,
    nodes: BTreeMap<DiskRef, NodeId>,
    roomy: BTreeSet<DiskRef>,
}

impl Descent {
    /// Of a table, with its loads; disks without room are given nothing.
    pub(crate) fn new(
        pool: Pool,
        table: &PoolSlots,
        loads: Loads,
        candidates: &[Candidate],
        has_room: impl Fn(&Candidate) -> bool,
    ) -> Self {
        let mut held: BTreeMap<DiskRef, BTreeSet<Place>> =
            candidates.iter().map(|c| (c.at, BTreeSet::new())).collect();
        let mut rows = Vec::with_capacity(table.len());
        for (number, slots) in (0..).map(Row).zip(table) {
            for (slot, at) in slots {
                if let Some(held) = held.get_mut(&at.target()) {
                    held.insert((number, *slot));
                }
            }
            let targets = slots.iter().map(|(slot, at)| (*slot, SlotAt::target(at)));
            rows.push(targets.collect());
        }
        let roomy = candidates.iter().filter(|c| has_room(c)).map(|c| c.at);
        Self {
            pool,
            rows,
            held,
            busy: BTreeSet::new(),
            fixed: BTreeSet::new(),
            loads,
            nodes: candidates.iter().map(|c| (c.at, c.node)).collect(),
            roomy: roomy.collect(),
        }
    }

    /// Slots of these rows are moved only where no others can be.
    pub(crate) fn prefer_others_than(&mut self, rows: &BTreeSet<Row>) {
        self.busy.extend(rows);
    }

    /// These slots stay.
    pub(crate) fn fix(&mut self, slots: impl Iterator<Item = Place>) {
        self.fixed.extend(slots);
    }

    /// The next move, which is made; `None` at the end of the way.
    pub(crate) fn step(&mut self) -> Option<Step> {
        let mut targets = self.loads.emptiest();
        targets.retain(|at| self.roomy.contains(at));
        let emptiest = *targets.first()?;
        for from in self.loads.fullest() {
            // Those that follow are emptier.
            if !self.loads.pays(from, emptiest) {
                return None;
            }
            let paying = targets.iter().copied();
            let mut paying = paying.take_while(|to| self.loads.pays(from, *to));
            if let Some((slot, to)) = paying.find_map(|to| Some((self.best(from, to)?, to))) {
                self.make(slot, from, to);
                return Some(Step { slot, from, to });
            }
        }
        None
    }

    /// The slot that `to` has most claim to.
    fn best(&self, from: DiskRef, to: DiskRef) -> Option<Place> {
        if from == to {
            return None;
        }
        let claim = |(row, slot): &&Place| {
            let is_busy = self.busy.contains(row);
            (is_busy, draw(self.pool, *row, *slot, to), *row, *slot)
        };
        let held = self.held[&from].iter();
        let may_go = held.filter(|place| !self.fixed.contains(place));
        let borne = may_go.filter(|place| self.bears(**place, from, to));
        borne.min_by_key(claim).copied()
    }

    /// Whether a slot's row is spread no worse with it there.
    fn bears(&self, (row, slot): Place, from: DiskRef, to: DiskRef) -> bool {
        let mut used = RowUse::default();
        let row = self.rows[usize::from(row.0)].iter();
        for (_, at) in row.filter(|(other, _)| **other != slot) {
            if let Some(node) = self.nodes.get(at) {
                used.add(*at, *node);
            }
        }
        used.bears((from, self.nodes[&from]), (to, self.nodes[&to]))
    }

    fn make(&mut self, (row, slot): Place, from: DiskRef, to: DiskRef) {
        assert!(self.loads.pays(from, to), "no move is for nothing");
        self.loads.take(from);
        self.loads.add(to);
        self.rows[usize::from(row.0)].insert(slot, to);
        let known = "disks that may be given slots alone";
        let left = self.held.get_mut(&from).expect(known).remove(&(row, slot));
        let came = self.held.get_mut(&to).expect(known).insert((row, slot));
        assert!(left && came, "a slot is on one disk");
        self.busy.insert(row);
    }
}
