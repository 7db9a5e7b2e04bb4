//! What a look through the rows of all data segments finds.

use std::collections::{BTreeMap, BTreeSet};

use model::geometry::Pool;
use model::placement::View;
use model::sometimes::{Sometimes, reached};

use super::RewriteTerms;
use super::cause::{Cause, Causes};
use crate::messages::SegmentRef;
use crate::planted::{Bug, planted};
use crate::volume::drain::SEGMENT_BLOCKS;
use crate::volume::index::{Index, Missing};

/// Rows that are looked at together.
const ROWS_MAX: usize = 1024;

/// Segments that one pass takes at most: it is made again until none is left.
const SEGMENTS_MAX: usize = 1 << 16;

/// Segments that a pass takes at most on a full fabric.
const CROWDED_MAX: usize = 256;

/// Live blocks that it may copy then, whatever the volume's size.
const CROWDED_BLOCKS: u64 = 128;

/// The segments of a volume on a full fabric that have dead blocks, those with the most, by that.
#[derive(Debug, Default)]
struct Holey {
    by_dead: BTreeMap<(u32, u32), (SegmentRef, u32)>,
}

impl Holey {
    fn add(&mut self, segment: SegmentRef, live: u32, blocks: u32) {
        let dead = u64::from(blocks.saturating_sub(live));
        let share = u32::try_from((dead << 16) / u64::from(blocks.max(1))).expect("at most one");
        let key = (share, segment.id.counter);
        self.by_dead.insert(key, (segment, live));
        if self.by_dead.len() > CROWDED_MAX {
            self.by_dead.pop_first();
        }
    }

    /// Whatever frees a block is worth a pass, and first what frees most for what is copied. Only
    /// so much at a time: it takes room before it makes some.
    fn choose(self, mapped_blocks: u64) -> Option<(Cause, BTreeMap<u32, SegmentRef>, u64)> {
        let budget = (mapped_blocks / 256).max(CROWDED_BLOCKS);
        let (mut segments, mut live_blocks) = (BTreeMap::new(), 0);
        for ((_, counter), (segment, live)) in self.by_dead.into_iter().rev() {
            let sum = live_blocks + u64::from(live);
            if sum > budget && !segments.is_empty() {
                break;
            }
            reached(Sometimes::HoleySegment);
            live_blocks = sum;
            segments.insert(counter, segment);
        }
        (!segments.is_empty()).then_some((Cause::Sparse, segments, live_blocks))
    }
}

/// Segments that have one thing in common.
#[derive(Debug, Default)]
struct Found {
    segments: BTreeMap<u32, SegmentRef>,
    live_blocks: u64,
    /// Of those that the map has no room for, too.
    all_live_blocks: u64,
    dead_blocks: u64,
}

impl Found {
    fn add(&mut self, segment: SegmentRef, live: u32, blocks: u32) {
        self.all_live_blocks += u64::from(live);
        if self.segments.len() < SEGMENTS_MAX {
            self.segments.insert(segment.id.counter, segment);
            self.live_blocks += u64::from(live);
            self.dead_blocks += u64::from(blocks.saturating_sub(live));
        }
    }
}

/// How far a look has come.
#[derive(Debug)]
pub(super) struct Survey {
    from: u32,
    /// What is wrong with each pool.
    causes: BTreeMap<Pool, Causes>,
    at_risk: Found,
    misplaced: Found,
    sparse: Found,
    small: Found,
    /// Shorter than this is small.
    small_blocks: u32,
    /// There is no room: what has dead blocks is looked for, however few they are.
    crowded: bool,
    holey: Holey,
    /// Segments that could not be read lately, by counter: not now.
    resting: BTreeSet<u32>,
    /// Some of those should not stay.
    left_some: bool,
}

impl Survey {
    pub(super) fn new(terms: &RewriteTerms, crowded: bool, resting: BTreeSet<u32>) -> Self {
        Self {
            crowded,
            holey: Holey::default(),
            resting,
            left_some: false,
            from: 0,
            causes: BTreeMap::new(),
            at_risk: Found::default(),
            misplaced: Found::default(),
            sparse: Found::default(),
            small: Found::default(),
            small_blocks: terms.small_blocks,
        }
    }

    /// Looks through all rows.
    ///
    /// # Errors
    /// The pages of the index to be loaded before it goes on.
    pub(super) fn proceed(&mut self, index: &mut Index, view: &View) -> Result<(), Missing> {
        loop {
            let part = index.data_segments(self.from, ROWS_MAX)?;
            for (segment, live) in part.rows {
                self.add(view, segment, live);
            }
            let Some(next) = part.next else {
                return Ok(());
            };
            assert!(next > self.from, "a survey goes on");
            self.from = next;
        }
    }

    fn add(&mut self, view: &View, segment: SegmentRef, live: u32) {
        let pool = segment.pool;
        let causes = self.causes.entry(pool);
        let causes = causes.or_insert_with(|| Causes::of(view, pool));
        let row = view.pools.get(&pool).map(|table| table.row(segment.id));
        let blocks = segment.bytes / model::BLOCK_BYTES as u32;
        let cause = causes.of_row(row);
        if self.resting.contains(&segment.id.counter) {
            self.left_some |= cause.is_some();
            if cause == Some(Cause::AtRisk) {
                self.at_risk.all_live_blocks += u64::from(live);
            }
            return;
        }
        let found = match cause {
            Some(Cause::AtRisk) if planted(Bug::LeftAtRisk) => return,
            Some(Cause::AtRisk) => &mut self.at_risk,
            // What is misplaced takes more than its share of room.
            Some(Cause::Misplaced) if self.crowded => {
                return self.holey.add(segment, live, blocks + blocks / 4);
            }
            Some(Cause::Misplaced) => &mut self.misplaced,
            Some(Cause::Sparse) | None if self.crowded => {
                if live < blocks {
                    self.holey.add(segment, live, blocks);
                }
                return;
            }
            Some(Cause::Sparse) | None if live * 2 <= blocks => &mut self.sparse,
            Some(Cause::Sparse) | None if blocks < self.small_blocks => &mut self.small,
            Some(Cause::Sparse) | None => return,
        };
        found.add(segment, live, blocks);
    }

    /// Whether it is to be looked again for segments that are left alone now.
    pub(super) fn left_some(&self) -> bool {
        self.left_some
    }

    /// Blocks that the next loss may make unreadable.
    pub(super) fn at_risk_blocks(&self) -> u64 {
        self.at_risk.all_live_blocks
    }

    /// What is to be written anew now, and how many live blocks it has: weakest first. The volume
    /// maps so many blocks.
    pub(super) fn choose(
        self,
        terms: &RewriteTerms,
        mapped_blocks: u64,
    ) -> Option<(Cause, BTreeMap<u32, SegmentRef>, u64)> {
        let Self {
            at_risk,
            misplaced,
            sparse,
            small,
            holey,
            crowded,
            ..
        } = self;
        let some = |cause, found: Found| (cause, found.segments, found.live_blocks);
        if !at_risk.segments.is_empty() {
            return Some(some(Cause::AtRisk, at_risk));
        }
        if !misplaced.segments.is_empty() {
            return Some(some(Cause::Misplaced, misplaced));
        }
        if crowded {
            return holey.choose(mapped_blocks);
        }
        // A pass reads every leaf of the index, a 256th of what is mapped: it is to free several
        // times that, and to leave far fewer segments than it takes.
        let enough_dead = sparse.dead_blocks >= terms.dead_blocks.max(mapped_blocks / 64);
        let segments = small.segments.len() as u64;
        let fewer = segments > 4 * small.live_blocks.div_ceil(SEGMENT_BLOCKS as u64);
        let worth_it = u64::from(terms.small_segments).max(mapped_blocks / 4096);
        let enough_small = segments >= worth_it && fewer;
        let mut chosen = Found::default();
        for (found, enough) in [(sparse, enough_dead), (small, enough_small)] {
            if enough {
                chosen.segments.extend(found.segments);
                chosen.live_blocks += found.live_blocks;
            }
        }
        (!chosen.segments.is_empty()).then(|| some(Cause::Sparse, chosen))
    }
}

#[cfg(test)]
mod tests {
    use model::geometry::Code;
    use model::ids::{DiskId, DiskRef, Epoch, Incarnation, Row, SegmentId, SiteId, VolumeId};
    use model::placement::{Presence, Site, SiteRole};
    use model::spread::{SlotPlace, SpreadTable};

    use super::*;

    fn segment(counter: u32, blocks: u32) -> SegmentRef {
        SegmentRef {
            id: SegmentId {
                volume: VolumeId(1),
                epoch: Epoch(1),
                counter,
            },
            pool: Pool::of(Code::Rs { k: 4, m: 2 }),
            bytes: blocks * 4096,
        }
    }

    fn chosen(rows: &[(u32, u32)]) -> Option<(Cause, Vec<u32>, u64)> {
        let terms = RewriteTerms {
            dead_blocks: 100,
            small_blocks: 10,
            small_segments: 3,
            ..RewriteTerms::default()
        };
        let mut survey = Survey::new(&terms, false, BTreeSet::new());
        for (counter, (blocks, live)) in (0..).zip(rows) {
            survey.add(&View::default(), segment(counter, *blocks), *live);
        }
        assert_eq!(survey.at_risk_blocks(), 0, "no site is away");
        let (cause, of, blocks) = survey.choose(&terms, 1000)?;
        Some((cause, of.into_keys().collect(), blocks))
    }

    #[test]
    fn what_gains_too_little_stays() {
        assert_eq!(chosen(&[]), None);
        // Each is more than half alive, or all together too few are dead.
        assert_eq!(chosen(&[(200, 101), (150, 76), (150, 100)]), None);
        assert_eq!(chosen(&[(100, 50), (90, 45)]), None);
        assert_eq!(chosen(&[(9, 9), (9, 8)]), None, "two small ones");
    }

    #[test]
    fn the_dead_and_the_small_are_chosen_each_for_itself() {
        let sparse = [(200, 100), (200, 101), (9, 9)];
        assert_eq!(chosen(&sparse), Some((Cause::Sparse, vec![0], 100)));
        let small = [(9, 9), (8, 8), (200, 150), (7, 6), (5, 5), (4, 4)];
        let of = vec![0, 1, 3, 4, 5];
        assert_eq!(chosen(&small), Some((Cause::Sparse, of, 32)));
        let both = [(9, 9), (8, 8), (200, 0), (7, 6), (5, 5), (4, 4)];
        let of = vec![0, 1, 2, 3, 4, 5];
        assert_eq!(chosen(&both), Some((Cause::Sparse, of, 32)));
        // One segment for three or four is not worth a walk over everything.
        assert_eq!(chosen(&small[..4]), None);
    }

    /// Site 4 was away and is back, and site 1 is lost since: of its disks nobody knows. Of the
    /// rows of what was written without site 4, the first has two slots in site 1, the others one.
    fn one_site_back_another_lost(without: Pool) -> View {
        let site = |presence| Site {
            name: String::new(),
            presence,
            takes_segments: true,
            role: SiteRole::Data,
        };
        let sites = (1..=4).map(|id| match id {
            1 => (SiteId(id), site(Presence::Down)),
            _ => (SiteId(id), site(Presence::Up)),
        });
        let (rows, slots) = (8, 4);
        let place = |row: u16, slot: u8| SlotPlace {
            disk: (slot > u8::from(row == 0)).then_some(DiskRef {
                disk: DiskId(u32::from(slot)),
                incarnation: Incarnation(1),
            }),
            ..SlotPlace::default()
        };
        let places = (0..rows).flat_map(|row| (0..slots).map(move |slot| place(row, slot)));
        let table = SpreadTable {
            rows,
            places: places.collect(),
            slots,
        };
        View {
            sites: sites.collect(),
            pools: BTreeMap::from([(without, table)]),
            ..View::default()
        }
    }

    /// Found by the simulator's seed 640: rows that were not at risk themselves were passed over
    /// because others of their pool were.
    #[test]
    fn what_is_not_at_risk_in_a_pool_that_is_may_be_misplaced() {
        let pool = Pool {
            without: Some(SiteId(4)),
            ..Pool::of(Code::Rs { k: 2, m: 2 })
        };
        let view = one_site_back_another_lost(pool);
        let segments = (0..64).map(|counter| SegmentRef {
            pool,
            ..segment(counter, 100)
        });
        let table = &view.pools[&pool];
        let (weak, whole): (Vec<_>, Vec<_>) = segments.partition(|s| table.row(s.id) == Row(0));
        assert!(!weak.is_empty() && !whole.is_empty(), "there are both");
        let counters = |of: &[SegmentRef]| of.iter().map(|s| s.id.counter).collect::<Vec<_>>();
        let terms = RewriteTerms::default();
        let chosen = |segments: &[SegmentRef]| {
            let mut survey = Survey::new(&terms, false, BTreeSet::new());
            for segment in segments {
                survey.add(&view, *segment, 100);
            }
            let (cause, of, _) = survey.choose(&terms, 1000)?;
            Some((cause, of.into_keys().collect::<Vec<_>>()))
        };
        let all = [weak.clone(), whole.clone()].concat();
        let expected = Some((Cause::AtRisk, counters(&weak)));
        assert_eq!(chosen(&all), expected, "weakest first");
        let expected = Some((Cause::Misplaced, counters(&whole)));
        assert_eq!(chosen(&whole), expected);
    }
}
