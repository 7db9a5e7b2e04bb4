//! Which fragments to read to rebuild lost ones: the cheapest choice.

use model::geometry::Code;
use model::ids::{SiteId, Slot};

use crate::codec::Codec;
use crate::matrix::Span;
use crate::slots::SlotSet;

/// What a repair reads, and what that costs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairPlan {
    /// The fragments to read, ascending.
    pub reads: Vec<Slot>,
    /// Bytes read within the site for each byte of a fragment's length.
    pub local_bytes_per_byte: u32,
    /// Bytes read from other sites for each byte of a fragment's length.
    pub wan_bytes_per_byte: u32,
}

/// A fragment over the WAN costs more than all local ones together.
const LOCAL_COST: u32 = 1;
const WAN_COST: u32 = 1 << 10;

impl Codec {
    /// The cheapest plan to rebuild all of `lost`, at site `at`, from `available`: fewest
    /// fragments over the WAN, then fewest reads. `None` if they do not suffice.
    ///
    /// # Panics
    /// If a slot is none of this code.
    pub fn plan(
        &self,
        lost: &[Slot],
        available: SlotSet,
        site_of: impl Fn(Slot) -> SiteId,
        at: SiteId,
    ) -> Option<RepairPlan> {
        let cost = |slot| {
            if site_of(slot) == at {
                LOCAL_COST
            } else {
                WAN_COST
            }
        };
        let lost_set: SlotSet = lost.iter().copied().collect();
        let reads = self.cheapest(lost_set, available.without(lost_set), cost)?;
        let wan = reads.iter().filter(|&slot| site_of(slot) != at).count();
        let count = |n: usize| u32::try_from(n).expect("at most 64 slots");
        Some(RepairPlan {
            reads: reads.iter().collect(),
            local_bytes_per_byte: count(reads.len() - wan),
            wan_bytes_per_byte: count(wan),
        })
    }

    /// The sources of `available` whose total cost is lowest (for `geo`, the best of a few
    /// choices that includes each repair inside a column and across columns) and which
    /// determine all of `want`. A wanted slot that is available is its own source. `None` if
    /// they do not suffice.
    ///
    /// # Panics
    /// If a slot is none of this code.
    pub fn cheapest(
        &self,
        want: SlotSet,
        available: SlotSet,
        cost: impl Fn(Slot) -> u32,
    ) -> Option<SlotSet> {
        assert!(
            want.union(available).is_subset(self.all()),
            "a slot of another code"
        );
        let direct = want.intersection(available);
        let rest = want.without(direct);
        if rest.is_empty() {
            return Some(direct);
        }
        // What is read anyway costs nothing more.
        let cost = |slot| if direct.contains(slot) { 0 } else { cost(slot) };
        let reads = match self.code() {
            Code::Rs { k, .. } => cheapest_of(available, usize::from(k), &cost),
            Code::Geo { k, m, sites } => Columns {
                codec: self,
                k,
                m,
                sites,
            }
            .cheapest(rest, available, &cost),
        };
        Some(reads?.union(direct))
    }
}

/// The `count` cheapest slots of a set; `None` if there are fewer.
fn cheapest_of(set: SlotSet, count: usize, cost: &impl Fn(Slot) -> u32) -> Option<SlotSet> {
    if set.len() < count {
        return None;
    }
    Some(by_cost(set, cost).into_iter().take(count).collect())
}

fn by_cost(set: SlotSet, cost: &impl Fn(Slot) -> u32) -> Vec<Slot> {
    let mut slots: Vec<Slot> = set.iter().collect();
    slots.sort_by_key(|&slot| (cost(slot), slot));
    slots
}

fn total(set: SlotSet, cost: &impl Fn(Slot) -> u32) -> u64 {
    set.iter().map(|slot| u64::from(cost(slot))).sum()
}

/// Planning for `geo:k+m`.
struct Columns<'a> {
    codec: &'a Codec,
    k: u8,
    m: u8,
    sites: u8,
}

impl Columns<'_> {
    fn cheapest(
        &self,
        want: SlotSet,
        available: SlotSet,
        cost: &impl Fn(Slot) -> u32,
    ) -> Option<SlotSet> {
        let simple = self.one_step(want, available, cost);
        // One slot, rebuilt across columns or with both ways open: nothing else is cheaper,
        // since every dependency touches either k in its column or one in each other column.
        if let (1, Some((reads, true))) = (want.len(), simple) {
            return Some(reads);
        }
        let own_columns: SlotSet = want
            .iter()
            .map(|s| self.column(s))
            .fold(SlotSet::EMPTY, SlotSet::union);
        let own_places: SlotSet = want
            .iter()
            .map(|s| self.place(s))
            .fold(SlotSet::EMPTY, SlotSet::union);
        let general = [SlotSet::EMPTY, own_columns, own_places].map(|first| {
            let preferred = by_cost(available.intersection(first), cost);
            let others = by_cost(available.without(first), cost);
            self.support(want, preferred.into_iter().chain(others))
        });
        let candidates = general
            .into_iter()
            .flatten()
            .chain(simple.map(|(reads, _)| reads));
        candidates.min_by_key(|&reads| (total(reads, cost), reads))
    }

    /// Each wanted slot from k of its column or from its place in all other columns. Also
    /// says whether the way across columns was open each time.
    fn one_step(
        &self,
        want: SlotSet,
        available: SlotSet,
        cost: &impl Fn(Slot) -> u32,
    ) -> Option<(SlotSet, bool)> {
        let (mut reads, mut open) = (SlotSet::EMPTY, true);
        for slot in want.iter() {
            let cost = |s| if reads.contains(s) { 0 } else { cost(s) };
            let inner = cheapest_of(
                self.column(slot).intersection(available),
                usize::from(self.k),
                &cost,
            );
            let mut others = self.place(slot);
            others.remove(slot);
            let outer = others.is_subset(available).then_some(others);
            open &= outer.is_some();
            let best = inner
                .into_iter()
                .chain(outer)
                .min_by_key(|&r| (total(r, &cost), r))?;
            reads = reads.union(best);
        }
        Some((reads, open))
    }

    /// The sources that express all wanted slots over the first basis in `order`.
    fn support(&self, want: SlotSet, order: impl Iterator<Item = Slot>) -> Option<SlotSet> {
        let span = Span::of(self.codec.generator(), order);
        let mut reads = SlotSet::EMPTY;
        for slot in want.iter() {
            let mix = span.express(self.codec.generator().row(slot))?;
            let used = span
                .sources()
                .iter()
                .zip(mix)
                .filter(|(_, factor)| *factor != 0);
            used.for_each(|(source, _)| reads.insert(*source));
        }
        Some(reads)
    }

    fn column(&self, slot: Slot) -> SlotSet {
        let width = self.k + self.m;
        let first = slot.0 / width * width;
        (first..first + width).map(Slot).collect()
    }

    fn place(&self, slot: Slot) -> SlotSet {
        let width = self.k + self.m;
        (0..self.sites)
            .map(|column| Slot(column * width + slot.0 % width))
            .collect()
    }
}
