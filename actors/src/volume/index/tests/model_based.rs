//! Random histories.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::{BlockNo, Delta, IndexConfig, Kind, NewMapping, Pace, Plain, SegmentRef, TINY, World};

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(u64, u64, Kind)>),
    /// Unmaps from a block on, to far beyond the end.
    Cut(u64),
    /// Applies in single attempts, looking up between them.
    ApplyWatched(Vec<(u64, u64, Kind)>),
    /// Moves what segment number n (modulo) holds to a new one; the second half is raced.
    Move(usize),
    Lookup(u64, u32),
    Checkpoint(Pace),
    Abort,
    Reopen,
}

/// Blocks near zero, near a leaf's end, and so far away that the tree is high.
fn block() -> impl Strategy<Value = u64> {
    let base = prop_oneof![
        6 => Just(0_u64),
        2 => Just(65_536 - 300),
        1 => Just(1 << 24),
        1 => Just((1 << 34) - 100),
        1 => Just((1 << 63) + 12_345),
    ];
    (base, 0_u64..1500).prop_map(|(base, at)| base + at)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![1 => Just(Kind::Hole), 1 => Just(Kind::Zero), 4 => Just(Kind::Data)]
}

/// Ranges that do not overlap, in any order; data of at most a segment.
fn changes() -> impl Strategy<Value = Vec<(u64, u64, Kind)>> {
    let blocks = prop_oneof![8 => 1_u64..8, 2 => 200_u64..600];
    vec((block(), blocks, kind()), 1..12).prop_map(|changes| {
        let mut apart: BTreeMap<u64, (u64, Kind)> = BTreeMap::new();
        let mut data = 0;
        let mut order = Vec::new();
        for (first, blocks, kind) in changes {
            let before = apart.range(..first + blocks).next_back();
            let free = before.is_none_or(|(at, (blocks, _))| at + blocks <= first);
            let fits = kind != Kind::Data || data + blocks <= 1024;
            if free && fits {
                data += if kind == Kind::Data { blocks } else { 0 };
                apart.insert(first, (blocks, kind));
                order.push((first, blocks, kind));
            }
        }
        order
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => changes().prop_map(Step::Apply),
        1 => block().prop_map(Step::Cut),
        2 => changes().prop_map(Step::ApplyWatched),
        2 => any::<usize>().prop_map(Step::Move),
        4 => (block(), 1_u32..700).prop_map(|(at, n)| Step::Lookup(at, n)),
        4 => prop_oneof![Just(Pace::Busy), Just(Pace::Resting)].prop_map(Step::Checkpoint),
        1 => Just(Step::Abort),
        1 => Just(Step::Reopen),
    ]
}

impl World {
    fn apply_watched(&mut self, changes: &[(u64, u64, Kind)]) {
        let delta = self.delta(changes);
        loop {
            let result = self.index.apply(&delta);
            // From the first attempt on, all of it is seen.
            if let Some((first, blocks, _)) = changes.first() {
                self.check_lookup(first.saturating_sub(3), *blocks as u32 + 6);
            }
            let Err(missing) = result else { break };
            for page in missing.pages {
                let bytes = Self::page(&self.store, &page);
                self.index
                    .arrived(page, bytes)
                    .expect("good pages are taken");
            }
        }
        self.finish_apply();
    }

    /// A walk in small parts finds exactly the blocks of a segment.
    fn check_walk(&mut self, segment: SegmentRef, blocks: &[(u64, u32)]) {
        let of = BTreeMap::from([(segment.id.counter, segment)]);
        let mut walked = Vec::new();
        let mut from = Some(BlockNo(0));
        while let Some(at) = from {
            let part = self.drive(|index| index.pieces(at, &of, 50));
            assert!(part.next.is_none_or(|next| next > at), "a walk goes on");
            let mut count = 0;
            for piece in part.pieces {
                assert_eq!(piece.segment, segment);
                count += piece.sums.len();
                for i in 0..piece.sums.len() as u32 {
                    let block = piece.offset / super::BLOCK + i;
                    walked.push((piece.first.0 + u64::from(i), block));
                }
            }
            assert!(count <= 50);
            from = part.next;
        }
        assert_eq!(walked, blocks);
    }

    /// As compaction does: copies live blocks, meanwhile some of them are overwritten.
    fn move_segment(&mut self, n: usize) {
        let live = self.truth.live();
        let Some((counter, _)) = live.iter().nth(n % live.len().max(1)) else {
            return;
        };
        let from = self.truth.segments[counter];
        let blocks: Vec<(u64, u32)> = self
            .truth
            .blocks
            .iter()
            .filter_map(|(at, plain)| match plain {
                Plain::Data { segment, block, .. } if segment == counter => Some((*at, *block)),
                Plain::Data { .. } | Plain::Zero => None,
            })
            .collect();
        self.check_walk(from, &blocks);
        let raced: Vec<(u64, u64, Kind)> = blocks
            .iter()
            .step_by(2)
            .map(|(at, _)| (*at, 1, Kind::Data))
            .collect();
        let segment = self.new_segment(blocks.len() as u32);
        let mut delta = Delta::default();
        let mut moved = Vec::new();
        for (i, (at, block)) in blocks.iter().enumerate() {
            let offset = i as u32 * super::BLOCK;
            let to = NewMapping::Data {
                segment,
                offset,
                sums: vec![i as u32],
            };
            if i % 2 == 1 {
                moved.push((*at, to.clone()));
            }
            delta.push_moved(BlockNo(*at), from.id, block * super::BLOCK, to);
        }
        self.apply(&raced);
        moved.iter().for_each(|(at, to)| self.note(*at, 1, to));
        self.truth.segments.insert(segment.id.counter, segment);
        self.drive(|index| index.apply(&delta));
        self.finish_apply();
    }
}

fn run(steps: &[Step], config: IndexConfig) {
    let mut world = World::new(config);
    let mut epoch = 1;
    for step in steps {
        match step {
            Step::Apply(changes) => world.apply(changes),
            Step::Cut(first) => {
                let blocks = u64::MAX - first;
                let delta = {
                    let mut delta = Delta::default();
                    delta.push(BlockNo(*first), blocks, NewMapping::Hole);
                    delta
                };
                world.note(*first, blocks, &NewMapping::Hole);
                world.drive(|index| index.apply(&delta));
                world.finish_apply();
            }
            Step::ApplyWatched(changes) => world.apply_watched(changes),
            Step::Move(n) => world.move_segment(*n),
            Step::Lookup(first, count) => world.check_lookup(*first, *count),
            Step::Checkpoint(pace) => {
                world.pace = *pace;
                world.checkpoint();
            }
            Step::Abort => {
                let plan = world.plan();
                drop(world.index.abort(plan));
            }
            Step::Reopen => {
                epoch += 1;
                world.reopen(epoch);
            }
        }
    }
    world.checkpoint();
    world.reopen(epoch + 1);
    for base in [
        0,
        65_536 - 300,
        1 << 24,
        (1 << 34) - 100,
        (1 << 63) + 12_345,
    ] {
        world.check_lookup(base, 2200);
    }
    world.check_rows();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn tiny_cache_and_early_merges(steps in vec(step(), 1..40)) {
        run(&steps, TINY);
    }

    #[test]
    fn defaults(steps in vec(step(), 1..40)) {
        run(&steps, IndexConfig::default());
    }

    #[test]
    fn middling(steps in vec(step(), 1..60)) {
        run(&steps, IndexConfig { cache_bytes: 60_000, pending_bytes_max: 16_000 });
    }
}
