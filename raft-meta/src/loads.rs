//! How many slots of a pool the disks of a site hold, by their weights, and which move makes
//! that more even. In integers only, so that every replica of the site's group computes the same.
//!
//! What counts is the sum over the disks of `slots^2 / weight`: least where slots are spread by
//! weight. A disk's n-th slot adds `(2n - 1) / weight` to it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use model::ids::DiskRef;
use model::planted::{Bug, planted};

use crate::rendezvous::Candidate;

/// A move pays if what the slot adds where it goes is less than so much of what it added where
/// it lay: differences of a thirty-second are not worth a copy.
const PAYS: (u128, u128) = (31, 32);

/// What a slot adds on a disk: `numerator / weight`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    numerator: u64,
    weight: u64,
}

impl Cost {
    /// The cost of a disk's so-manieth slot, counted from 1.
    fn of(nth: u64, weight: u64) -> Self {
        Self {
            numerator: (2 * nth).saturating_sub(1),
            weight,
        }
    }

    /// Both over the same denominator.
    fn scaled(self, other: Self) -> (u128, u128) {
        (
            u128::from(self.numerator) * u128::from(other.weight),
            u128::from(other.numerator) * u128::from(self.weight),
        )
    }
}

impl Ord for Cost {
    fn cmp(&self, other: &Self) -> Ordering {
        let (own, others) = self.scaled(*other);
        own.cmp(&others)
    }
}

impl PartialOrd for Cost {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cost {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Cost {}

#[derive(Clone, Copy, Debug)]
struct Load {
    slots: u64,
    weight: u64,
}

/// The slots of one pool on the disks that may be given some.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loads {
    disks: BTreeMap<DiskRef, Load>,
    /// Slots that these disks are to share.
    slots: u64,
    weight: u128,
}

impl Loads {
    /// Of slots that lie there, or are on their way there, and of so many that are yet to be
    /// placed. Slots elsewhere do not count.
    pub(crate) fn new(
        candidates: &[Candidate],
        places: impl Iterator<Item = DiskRef>,
        unplaced: usize,
    ) -> Self {
        let load = |c: &Candidate| {
            let weight = c.weight.max(1);
            (c.at, Load { slots: 0, weight })
        };
        let mut loads = Self {
            disks: candidates.iter().map(load).collect(),
            slots: 0,
            weight: 0,
        };
        let weights = loads.disks.values().map(|load| u128::from(load.weight));
        loads.weight = weights.sum();
        places.for_each(|at| loads.add(at));
        loads.slots = loads.disks.values().map(|load| load.slots).sum();
        loads.slots += unplaced as u64;
        loads
    }

    /// A slot goes there.
    pub(crate) fn add(&mut self, at: DiskRef) {
        if let Some(load) = self.disks.get_mut(&at) {
            load.slots += 1;
        }
    }

    /// A slot leaves.
    pub(crate) fn take(&mut self, at: DiskRef) {
        if let Some(load) = self.disks.get_mut(&at) {
            load.slots = load.slots.saturating_sub(1);
        }
    }

    /// What one more slot would cost there; `None` of a disk that is given none.
    pub(crate) fn cost_of_next(&self, at: DiskRef) -> Option<Cost> {
        let load = self.disks.get(&at)?;
        Some(Cost::of(load.slots + 1, load.weight))
    }

    /// What the last slot costs there; `None` where there is none.
    pub(crate) fn cost_of_last(&self, at: DiskRef) -> Option<Cost> {
        let load = self.disks.get(&at).filter(|load| load.slots > 0)?;
        Some(Cost::of(load.slots, load.weight))
    }

    /// Whether one more slot there is within the disk's share.
    pub(crate) fn has_share_left(&self, at: DiskRef) -> bool {
        self.disks.get(&at).is_some_and(|load| {
            let with_it = u128::from(load.slots + 1) * self.weight;
            with_it <= u128::from(self.slots) * u128::from(load.weight)
        })
    }

    /// Whether a move is worth a copy. Each that is lowers the sum, and what was moved back would
    /// raise it: after finitely many there is none.
    pub(crate) fn pays(&self, from: DiskRef, to: DiskRef) -> bool {
        let (Some(last), Some(next)) = (self.cost_of_last(from), self.cost_of_next(to)) else {
            return false;
        };
        if planted(Bug::SwingingSpread) {
            // As if nothing had to be gained by it.
            return next <= last;
        }
        let (next, last) = next.scaled(last);
        next * PAYS.1 < last * PAYS.0
    }

    /// Whether some move would pay, if its row bears it.
    pub(crate) fn is_uneven(&self) -> bool {
        let (fullest, emptiest) = (self.fullest(), self.emptiest());
        let ends = fullest.first().zip(emptiest.first());
        ends.is_some_and(|(from, to)| self.pays(*from, *to))
    }

    /// The disks that hold some, the fullest for their weights first.
    pub(crate) fn fullest(&self) -> Vec<DiskRef> {
        let cost = |at: &DiskRef| Some((self.cost_of_last(*at)?, *at));
        let mut all: Vec<(Cost, DiskRef)> = self.disks.keys().filter_map(cost).collect();
        all.sort_by_key(|(cost, at)| (std::cmp::Reverse(*cost), *at));
        all.into_iter().map(|(_, at)| at).collect()
    }

    /// All disks, the emptiest for their weights first.
    pub(crate) fn emptiest(&self) -> Vec<DiskRef> {
        let cost = |at: &DiskRef| Some((self.cost_of_next(*at)?, *at));
        let mut all: Vec<(Cost, DiskRef)> = self.disks.keys().filter_map(cost).collect();
        all.sort();
        all.into_iter().map(|(_, at)| at).collect()
    }
}
