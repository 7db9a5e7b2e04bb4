//! Longer histories with a point.

use model::ids::{Epoch, SegmentId};

use super::super::page::{LEAF_BLOCKS, PAGE_BYTES};
use super::super::{Corrupt, IndexConfig};
use super::{Index, Kind, Pace, TINY, World};

/// A small generator: tests need no more.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: u64) -> u64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// Distinct single blocks.
    fn writes(&mut self, count: usize, span: u64) -> Vec<(u64, u64, Kind)> {
        let mut blocks = std::collections::BTreeSet::new();
        while blocks.len() < count {
            blocks.insert(self.below(span));
        }
        blocks.into_iter().map(|at| (at, 1, Kind::Data)).collect()
    }
}

#[test]
fn an_empty_index_has_no_page() {
    let mut world = World::new(IndexConfig::default());
    world.checkpoint();
    assert_eq!(world.committed.0.root, None);
    world.apply(&[(5, 3, Kind::Data), (100, 10, Kind::Zero)]);
    world.checkpoint();
    assert!(world.committed.0.root.is_some());
    world.apply(&[(0, 1 << 40, Kind::Hole)]);
    world.checkpoint();
    assert_eq!(world.committed.0.root, None);
    assert!(world.store.is_empty(), "all was dropped");
    assert_eq!(world.index.stats().stored_bytes, 0);
}

#[test]
fn sequential_writes_take_a_page_a_leaf() {
    let mut world = World::new(IndexConfig::default());
    for i in 0..64 {
        world.apply(&[(i * 1024, 1024, Kind::Data)]);
    }
    world.checkpoint();
    let pages = world.written / PAGE_BYTES;
    assert!((256..256 + 16).contains(&pages), "{pages}");
    let runs = world.drive(|index| index.lookup(super::BlockNo(512), 1024));
    assert_eq!(runs.len(), 2, "adjacent blocks of a segment are one run");
}

#[test]
fn random_writes_cost_deltas_not_leaves() {
    let mut world = World::new(IndexConfig::default());
    let mut random = Lcg(1);
    let span = 500 * LEAF_BLOCKS as u64;
    for i in 0..span / 1024 {
        world.apply(&[(i * 1024, 1024, Kind::Data)]);
    }
    world.checkpoint();
    world.written = 0;
    let (rounds, writes) = (20, 500);
    for _ in 0..rounds {
        let changes = random.writes(writes, span);
        world.apply(&changes);
        world.checkpoint();
    }
    let per_write = world.written / (rounds * writes);
    assert!(
        per_write < 700,
        "{per_write} bytes of index pages a write; a leaf would be 4096"
    );
    world.check_lookup(0, span as u32);
    world.reopen(2);
    world.check_lookup(0, span as u32);
    world.check_rows();
}

#[test]
fn index_segments_stay_within_three_times_their_live_pages() {
    let mut world = World::new(IndexConfig {
        cache_bytes: 1 << 20,
        pending_bytes_max: 8 << 10,
    });
    let mut random = Lcg(2);
    let span = 100 * LEAF_BLOCKS as u64;
    for round in 0..300 {
        let changes = random.writes(20, span);
        world.apply(&changes);
        world.checkpoint();
        let stats = world.index.stats();
        let slack = 128 * PAGE_BYTES as u64;
        let most = 3 * stats.index_live_bytes + slack;
        assert!(stats.index_bytes <= most, "round {round}: {stats:?}");
    }
    assert!(world.index.stats().index_segments < 200);
    world.check_lookup(0, span as u32);
}

/// A volume of a GiB, every block written once, in any order; so much a drain.
fn filled_at_random(drain_blocks: usize) -> World {
    let mut world = World::new(IndexConfig::default());
    let mut random = Lcg(4);
    let mut blocks: Vec<u64> = (0..1 << 18).collect();
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, random.below(i as u64 + 1) as usize);
    }
    for drained in blocks.chunks(drain_blocks) {
        for part in drained.chunks(1024) {
            let changes: Vec<_> = part.iter().map(|at| (*at, 1, Kind::Data)).collect();
            world.apply(&changes);
        }
        world.checkpoint();
        let stats = world.index.stats();
        println!(
            "{} pages, {} live, {} written",
            stats.index_bytes / PAGE_BYTES as u64,
            stats.index_live_bytes / PAGE_BYTES as u64,
            world.written / PAGE_BYTES
        );
    }
    world
}

#[test]
fn random_writes_leave_an_index_that_is_little_more_than_its_leaves() {
    const LEAVES: u64 = 1024;
    for drain_blocks in [600, 4200, 16_000] {
        let mut world = filled_at_random(drain_blocks);
        let pages = |world: &World| world.index.stats().index_bytes / PAGE_BYTES as u64;
        assert!(pages(&world) < LEAVES * 8 / 5, "{} pages", pages(&world));
        let drains = (1_u64 << 18) / drain_blocks as u64;
        let (written, filling) = ((world.written / PAGE_BYTES) as u64, LEAVES * 12);
        let most = filling + drains * 20;
        assert!(written < most, "{written} pages written in {drains} drains");
        // Nobody writes any more.
        world.pace = Pace::Resting;
        let mut checkpoints = 0;
        while world.index.is_untidy() {
            world.checkpoint();
            checkpoints += 1;
            assert!(checkpoints < 5, "it comes to rest");
        }
        let stats = world.index.stats();
        assert!(stats.index_bytes <= stats.index_live_bytes * 5 / 4 + (64 << 12));
        assert!(pages(&world) < LEAVES * 3 / 2, "{} pages", pages(&world));
        let added = (world.written / PAGE_BYTES) as u64 - written;
        assert!(added <= 2 * LEAVES, "{added} pages for tidying");
        world.check_lookup(0, 1 << 18);
    }
}

#[test]
fn a_tidy_index_is_left_alone_and_one_that_rests_comes_to_an_end() {
    // Far more than the cache: every page that moves must be read.
    let mut world = World::new(TINY);
    let mut random = Lcg(6);
    let span = 3_000 * LEAF_BLOCKS as u64;
    for _ in 0..40 {
        let changes = random.writes(400, span);
        world.apply(&changes);
        world.checkpoint();
    }
    world.pace = Pace::Resting;
    let mut checkpoints = 0;
    while world.index.is_untidy() {
        world.checkpoint();
        checkpoints += 1;
        assert!(checkpoints < 40, "it comes to rest");
    }
    assert!(checkpoints > 1, "more than one sweep moves");
    let stats = world.index.stats();
    assert!(
        stats.index_bytes <= stats.index_live_bytes * 3 / 2,
        "{stats:?}"
    );
    let written = world.written;
    world.checkpoint();
    assert!((world.written - written) / PAGE_BYTES < 64, "nothing moves");
    world.check_lookup(0, span as u32);
    world.reopen(2);
    world.check_lookup(0, span as u32);
    world.check_rows();
}

#[test]
fn unmapping_everything_stays_within_memory() {
    let mut world = World::new(TINY);
    let mut random = Lcg(3);
    let span = 2_000 * LEAF_BLOCKS as u64;
    for _ in 0..10 {
        let changes = random.writes(400, span);
        world.apply(&changes);
        world.checkpoint();
    }
    let mut delta = super::Delta::default();
    delta.push(super::BlockNo(1), 1 << 34, super::NewMapping::Hole);
    world.note(1, 1 << 34, &super::NewMapping::Hole);
    let mut most = 0;
    world.drive(|index: &mut Index| {
        let result = index.apply(&delta);
        most = most.max(index.stats().cache_bytes + index.dirty_bytes());
        result
    });
    assert!(most < 3 << 20, "{most} bytes");
    world.finish_apply();
    world.checkpoint();
    world.check_lookup(0, 3_000);
}

#[test]
fn damaged_pages_are_refused() {
    let mut world = World::new(TINY);
    world.apply(&[(0, 300, Kind::Data)]);
    world.checkpoint();
    world.reopen(2);
    let missing = world
        .index
        .lookup(super::BlockNo(0), 1)
        .expect_err("nothing is loaded");
    let page = missing.pages[0];
    let mut bytes = World::page(&world.store, &page).to_vec();
    bytes[100] ^= 1;
    assert_eq!(world.index.arrived(page, bytes.into()), Err(Corrupt::Sum));
    assert_eq!(
        world.index.arrived(page, bytes::Bytes::new()),
        Err(Corrupt::Length)
    );
    assert!(world.index.damage().is_none());
    world.check_lookup(0, 400);
}

/// R16: an index that was just opened has empty tables; what it reaches, pages of its own
/// included, must not seem unreachable to the audit.
#[test]
fn what_a_checkpoint_reaches_is_reached_right_after_opening() {
    let mut world = World::new(IndexConfig::default());
    let changes = Lcg(5).writes(500, 1 << 20);
    world.apply(&changes);
    world.checkpoint();
    let data: Vec<SegmentId> = world.truth.segments.values().map(|s| s.id).collect();
    let pages: Vec<SegmentId> = world.index.index_segments().map(|s| s.id).collect();
    assert!(!data.is_empty() && !pages.is_empty());
    for segment in data.into_iter().take(8).chain(pages) {
        world.reopen(2);
        assert!(world.drive(|index| index.reaches(segment)), "{segment:?}");
        let other = SegmentId {
            epoch: Epoch(segment.epoch.0 + 1),
            ..segment
        };
        assert!(!world.drive(|index| index.reaches(other)));
    }
}
