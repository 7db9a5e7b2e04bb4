//! Which of a site's disks holds a slot: by weighted rendezvous hashing among those whose share
//! is not full yet, so that shares are even and disks meet others at random. In integers only, so
//! that every replica of the site's group computes the same.

use std::collections::BTreeMap;

use model::geometry::{Code, Pool};
use model::ids::{DiskRef, NodeId, Row, Slot};
use model::planted::{Bug, planted};

use crate::jitter::mix;
use crate::loads::Loads;

/// Binary digits after the point of [`surprise`].
const FRACTION_BITS: u32 = 16;

/// A disk that may be given slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) at: DiskRef,
    pub(crate) node: NodeId,
    /// Its capacity in MiB, at least 1.
    pub(crate) weight: u64,
}

/// `-log2((x + 1) / 2^64)` in fixed point, at least 1: exponentially distributed for random x.
fn surprise(x: u64) -> u64 {
    let x = x | 1;
    let zeros = x.leading_zeros();
    let mut mantissa = u128::from(x) << zeros;
    let mut log = u64::from(63 - zeros);
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        let bit = mantissa >> 64;
        mantissa >>= bit;
        log = log << 1 | u64::from(bit != 0);
    }
    (64 << FRACTION_BITS) - log
}

fn pool_seed(pool: Pool) -> u64 {
    let code = match pool.code {
        Code::Rs { k, m } => u64::from(k) << 8 | u64::from(m),
        Code::Geo { k, m, sites } => {
            1 << 32 | u64::from(sites) << 16 | u64::from(k) << 8 | u64::from(m)
        }
    };
    let layout = u64::from(pool.layout.0) << 48;
    mix(code ^ pool.without.map_or(0, |s| u64::from(s.0) + 1) << 40 ^ layout)
}

/// The smaller, the more a slot belongs on that disk.
pub(crate) fn draw(pool: Pool, row: Row, slot: Slot, at: DiskRef) -> u64 {
    surprise(Draws::of(pool, row, slot).at(at))
}

/// What a slot draws at each disk, before the logarithm: the larger, the more it belongs there.
#[derive(Clone, Copy)]
struct Draws(u64);

impl Draws {
    fn of(pool: Pool, row: Row, slot: Slot) -> Self {
        let place = u64::from(row.0) << 8 | u64::from(slot.0);
        Self(mix(pool_seed(pool) ^ mix(place)))
    }

    fn at(self, at: DiskRef) -> u64 {
        let disk = u64::from(at.disk.0) ^ at.incarnation.0.rotate_left(32);
        mix(self.0 ^ mix(disk))
    }

    /// Of those that fit, the one with the smallest surprise per weight. A site may have thousands
    /// of disks: whether one fits, and its logarithm, is only asked where it may win.
    fn best(
        self,
        candidates: &[Candidate],
        fits: impl Fn(&Candidate) -> bool,
    ) -> Option<Candidate> {
        let mut best: Option<(u64, u64, Candidate)> = None;
        for c in candidates {
            let drawn = self.at(c.at);
            let loses = |(most, _, b): &(u64, u64, Candidate)| {
                b.weight == c.weight && is_clearly_less(drawn, *most)
            };
            if best.as_ref().is_some_and(loses) || !fits(c) {
                continue;
            }
            let surprise = surprise(drawn);
            let wins = |(_, least, b): &(u64, u64, Candidate)| {
                // Compared without dividing.
                let before = u128::from(*least) * u128::from(c.weight.max(1));
                let other = u128::from(surprise) * u128::from(b.weight.max(1));
                (other, c.at) < (before, b.at)
            };
            if best.as_ref().is_none_or(wins) {
                best = Some((drawn, surprise, *c));
            }
        }
        best.map(|(_, _, c)| c)
    }
}

/// Whether its [`surprise`] is larger for certain: by hundreds in the last place, where two that
/// are nearly the same may have the same one.
fn is_clearly_less(x: u64, than: u64) -> bool {
    than >> 16 > 0 && x < than - (than >> 8)
}

/// How often the disks and nodes of a row are in use already.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowUse {
    disks: BTreeMap<DiskRef, u32>,
    nodes: BTreeMap<NodeId, u32>,
}

impl RowUse {
    /// A slot of the row lies there.
    pub(crate) fn add(&mut self, at: DiskRef, node: NodeId) {
        *self.disks.entry(at).or_default() += 1;
        *self.nodes.entry(node).or_default() += 1;
    }

    /// How many slots of the row a disk and its node hold.
    pub(crate) fn of(&self, at: DiskRef, node: NodeId) -> (u32, u32) {
        let disk = self.disks.get(&at).copied().unwrap_or(0);
        (disk, self.nodes.get(&node).copied().unwrap_or(0))
    }

    /// Whether a slot, which is not counted here, may go from one disk to another one: the row
    /// is spread no worse there.
    pub(crate) fn bears(&self, from: (DiskRef, NodeId), to: (DiskRef, NodeId)) -> bool {
        self.of(to.0, to.1) <= self.of(from.0, from.1) || planted(Bug::CrowdedMove)
    }

    /// The disk for a slot: on a node that holds none of the row where there is one, else on
    /// a disk that holds none, else on the least used. Of these, one whose share is not full, or
    /// else the least full. `None` without candidates.
    pub(crate) fn choose(
        &self,
        (pool, row, slot): (Pool, Row, Slot),
        candidates: &[Candidate],
        loads: &Loads,
    ) -> Option<Candidate> {
        let used = |c: &Candidate| {
            if planted(Bug::CrowdedNode) {
                let others = self.nodes.keys().any(|node| *node != c.node);
                return (u32::from(others), 0);
            }
            self.of(c.at, c.node)
        };
        let unused = || candidates.iter().any(|c| used(c) == (0, 0));
        let least = match unused() {
            true => (0, 0),
            false => candidates.iter().map(used).min()?,
        };
        let draws = Draws::of(pool, row, slot);
        let has_share = |c: &Candidate| used(c) == least && loads.has_share_left(c.at);
        if let Some(chosen) = draws.best(candidates, has_share) {
            return Some(chosen);
        }
        let eligible = candidates.iter().filter(|c| used(c) == least);
        let cheapest = eligible.map(|c| loads.cost_of_next(c.at)).min()?;
        let is_cheapest = |c: &Candidate| used(c) == least && loads.cost_of_next(c.at) == cheapest;
        draws.best(candidates, is_cheapest)
    }
}

#[cfg(test)]
mod tests {
    use model::ids::{DiskId, Incarnation};
    use proptest::collection::vec;
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// As it is said: of those on the least used node and disk, one whose share is not full, else
    /// one of the least full; of these the one with the smallest surprise per weight.
    fn plainly(
        used: &RowUse,
        (pool, row, slot): (Pool, Row, Slot),
        candidates: &[Candidate],
        loads: &Loads,
    ) -> Option<DiskRef> {
        let use_of = |c: &Candidate| used.of(c.at, c.node);
        let least = candidates.iter().map(use_of).min()?;
        let mut left: Vec<_> = candidates.iter().filter(|c| use_of(c) == least).collect();
        if left.iter().any(|c| loads.has_share_left(c.at)) {
            left.retain(|c| loads.has_share_left(c.at));
        } else {
            let cheapest = left.iter().map(|c| loads.cost_of_next(c.at)).min()?;
            left.retain(|c| loads.cost_of_next(c.at) == cheapest);
        }
        let drawn = |c: &&Candidate| u128::from(draw(pool, row, slot, c.at));
        let by_weight = |a: &&Candidate, b: &&Candidate| {
            let (x, y) = (
                drawn(a) * u128::from(b.weight),
                drawn(b) * u128::from(a.weight),
            );
            (x, a.at).cmp(&(y, b.at))
        };
        left.into_iter().min_by(by_weight).map(|c| c.at)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_quick_way_chooses_as_the_plain_one(
            disks in vec((1u16..6, 1u64..4), 1..40), taken in vec(0usize..40, 0..6),
            held in vec(0usize..40, 0..120), unplaced in 0usize..40, row in any::<u16>(),
        ) {
            let candidate = |(id, (node, weight)): (u32, &(u16, u64))| disk(id, *node, *weight);
            let all: Vec<_> = (1..).zip(&disks).map(candidate).collect();
            let mut used = RowUse::default();
            for c in taken.iter().filter_map(|nth| all.get(*nth)) {
                used.add(c.at, c.node);
            }
            let held = held.iter().filter_map(|nth| Some(all.get(*nth)?.at));
            let loads = Loads::new(&all, held, unplaced);
            let place = (Pool::of(Code::INDEX), Row(row), Slot(1));
            let chosen = used.choose(place, &all, &loads).map(|c| c.at);
            prop_assert_eq!(chosen, plainly(&used, place, &all, &loads));
        }

        #[test]
        fn what_is_clearly_less_surprises_more(x in any::<u64>(), shift in 0u32..64) {
            let x = x >> shift;
            let most = x - (x >> 8);
            prop_assert!(!is_clearly_less(most, x));
            if x >> 16 > 0 {
                prop_assert!(is_clearly_less(most - 1, x));
                prop_assert!(surprise(most - 1) > surprise(x) + 300);
            }
        }
    }

    fn disk(id: u32, node: u16, weight: u64) -> Candidate {
        let at = DiskRef {
            disk: DiskId(id),
            incarnation: Incarnation(u64::from(id) * 7919),
        };
        Candidate {
            at,
            node: NodeId(node),
            weight,
        }
    }

    #[test]
    fn surprise_is_a_logarithm() {
        assert_eq!(surprise(u64::MAX) >> FRACTION_BITS, 0);
        assert_eq!(surprise(1 << 63), 1 << FRACTION_BITS);
        assert_eq!(surprise(1 << 60), 4 << FRACTION_BITS);
        assert!(surprise(0) <= 64 << FRACTION_BITS);
        assert!(surprise(3 << 62) < surprise(1 << 63));
    }

    #[test]
    fn nodes_first_then_disks_then_least_used() {
        let pool = Pool::of(Code::Rs { k: 4, m: 2 });
        let disks = [disk(1, 1, 1), disk(2, 1, 1), disk(3, 2, 1)];
        let mut used = RowUse::default();
        let loads = Loads::default();
        let mut nodes = Vec::new();
        for slot in 0..4 {
            let place = (pool, Row(0), Slot(slot));
            let c = used.choose(place, &disks, &loads).expect("a disk");
            used.add(c.at, c.node);
            nodes.push(c.node);
        }
        assert_ne!(nodes[0], nodes[1]);
        assert_eq!(used.disks.len(), 3, "the third slot takes the unused disk");
        let nobody = used.choose((pool, Row(0), Slot(9)), &[], &loads);
        assert_eq!(nobody.map(|c| c.at), None);
    }

    #[test]
    fn shares_follow_weights_and_moves_are_few() {
        let pool = Pool::of(Code::Rs { k: 4, m: 2 });
        let mut disks = vec![disk(1, 1, 1), disk(2, 2, 1), disk(3, 3, 2)];
        let owner = |disks: &[Candidate], row: u16| {
            RowUse::default()
                .choose((pool, Row(row), Slot(0)), disks, &Loads::default())
                .expect("a disk")
                .at
        };
        let before: Vec<_> = (0..4000).map(|r| owner(&disks, r)).collect();
        let heavy = before.iter().filter(|at| at.disk == DiskId(3)).count();
        assert!(
            (1800..2200).contains(&heavy),
            "half of the weight, got {heavy} of 4000"
        );
        disks.push(disk(4, 4, 1));
        let after: Vec<_> = (0..4000).map(|r| owner(&disks, r)).collect();
        for (b, a) in before.iter().zip(&after) {
            assert!(
                a == b || a.disk == DiskId(4),
                "only the new disk takes over"
            );
        }
    }
}
