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
    mix(code ^ pool.without.map_or(0, |s| u64::from(s.0) + 1) << 40)
}

/// The smaller, the more a slot belongs on that disk.
pub(crate) fn draw(pool: Pool, row: Row, slot: Slot, at: DiskRef) -> u64 {
    let place = u64::from(row.0) << 8 | u64::from(slot.0);
    let disk = u64::from(at.disk.0) ^ at.incarnation.0.rotate_left(32);
    surprise(mix(mix(pool_seed(pool) ^ mix(place)) ^ mix(disk)))
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
        let least = candidates.iter().map(used).min()?;
        let eligible = || candidates.iter().filter(|c| used(c) == least);
        let has_share = |c: &&Candidate| loads.has_share_left(c.at);
        let some_has_share = eligible().any(|c| has_share(&c));
        let cheapest = eligible().map(|c| loads.cost_of_next(c.at)).min()?;
        let fits = |c: &&Candidate| match some_has_share {
            true => has_share(c),
            false => loads.cost_of_next(c.at) == cheapest,
        };
        eligible()
            .filter(fits)
            .map(|c| (draw(pool, row, slot, c.at), *c))
            .reduce(|best, other| {
                // The smaller surprise per weight wins: compared without dividing.
                let b = u128::from(best.0) * u128::from(other.1.weight.max(1));
                let o = u128::from(other.0) * u128::from(best.1.weight.max(1));
                if (o, other.1.at) < (b, best.1.at) {
                    other
                } else {
                    best
                }
            })
            .map(|(_, c)| c)
    }
}

#[cfg(test)]
mod tests {
    use model::ids::{DiskId, Incarnation};

    use super::*;

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
        let pool = Pool {
            code: Code::Rs { k: 4, m: 2 },
            without: None,
        };
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
        let pool = Pool {
            code: Code::Rs { k: 4, m: 2 },
            without: None,
        };
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
