//! The index against a plain map from block to mapping, with a store of its segments from
//! which every dropped one vanishes at once.

mod format;
mod model_based;
mod scenarios;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::geometry::{Code, Pool};
use model::ids::{BlockNo, Epoch, Position, SegmentId, Seq, VolumeId};
use model::journal::{Checkpoint, PagePtr};

use super::decode::decode;
use super::page::{Child, Node, NodeKey, PAGE_BYTES, Page};
use super::table::stored_bytes;
use super::{
    Delta, Index, IndexConfig, MappedRun, Mapping, Missing, NewMapping, Pace, Plan, SegmentCounter,
};
use crate::messages::SegmentRef;

const VOLUME: VolumeId = VolumeId(7);
const POOL: Pool = Pool::of(Code::INDEX);
const DATA_POOL: Pool = Pool::of(Code::Rs { k: 4, m: 2 });
const BLOCK: u32 = PAGE_BYTES as u32;

/// What a block holds, in the plain map; holes are absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plain {
    Zero,
    Data { segment: u32, block: u32, sum: u32 },
}

/// What would be lost in a crash.
#[derive(Clone, Debug)]
struct Truth {
    blocks: BTreeMap<u64, Plain>,
    /// All data segments that were introduced and not reported as dropped.
    segments: BTreeMap<u32, SegmentRef>,
}

impl Truth {
    fn live(&self) -> BTreeMap<u32, u32> {
        let mut live = BTreeMap::new();
        for block in self.blocks.values() {
            if let Plain::Data { segment, .. } = block {
                *live.entry(*segment).or_insert(0) += 1;
            }
        }
        live
    }
}

struct World {
    index: Index,
    config: IndexConfig,
    pace: Pace,
    counter: SegmentCounter,
    store: BTreeMap<SegmentId, Bytes>,
    truth: Truth,
    /// As of the last commit.
    committed: (Checkpoint, Truth),
    /// Pages loaded so far.
    loads: usize,
    /// Index segments' bytes written so far.
    written: usize,
    seq: u64,
}

impl World {
    fn new(config: IndexConfig) -> Self {
        let truth = Truth {
            blocks: BTreeMap::new(),
            segments: BTreeMap::new(),
        };
        Self {
            index: Index::open(VOLUME, &Checkpoint::EMPTY, config),
            config,
            pace: Pace::Busy,
            counter: SegmentCounter::new(Epoch(1), 0),
            store: BTreeMap::new(),
            committed: (Checkpoint::EMPTY, truth.clone()),
            truth,
            loads: 0,
            written: 0,
            seq: 0,
        }
    }

    fn page(store: &BTreeMap<SegmentId, Bytes>, ptr: &PagePtr) -> Bytes {
        let segment = store
            .get(&ptr.segment)
            .expect("a page that is asked for is in the store");
        assert_eq!(segment.len(), ptr.segment_bytes as usize);
        let (at, length) = (ptr.offset as usize, ptr.length as usize);
        let page = segment.slice(at..at + length);
        assert_eq!(model::crc32c(&page), ptr.sum);
        page
    }

    /// Carries an operation out, loading what it asks for, last page first.
    fn drive<T>(&mut self, mut operation: impl FnMut(&mut Index) -> Result<T, Missing>) -> T {
        for _ in 0..100_000 {
            match operation(&mut self.index) {
                Ok(done) => return done,
                Err(missing) => {
                    assert!(
                        !missing.pages.is_empty(),
                        "damaged: {:?}",
                        self.index.damage()
                    );
                    assert!(missing.pages.len() <= 64);
                    for page in missing.pages.iter().rev() {
                        self.loads += 1;
                        let bytes = Self::page(&self.store, page);
                        self.index
                            .arrived(*page, bytes)
                            .expect("good pages are taken");
                    }
                }
            }
        }
        panic!("an operation never ends");
    }

    fn new_segment(&mut self, blocks: u32) -> SegmentRef {
        let id = self.counter.take(VOLUME);
        SegmentRef {
            id,
            pool: DATA_POOL,
            bytes: blocks * BLOCK,
        }
    }

    /// Applies changes to both, data in one new segment: (first, blocks, what).
    fn apply(&mut self, changes: &[(u64, u64, Kind)]) {
        let delta = self.delta(changes);
        self.drive(|index| index.apply(&delta));
        self.finish_apply();
    }

    fn delta(&mut self, changes: &[(u64, u64, Kind)]) -> Delta {
        let data = changes.iter().filter(|(_, _, kind)| *kind == Kind::Data);
        let total: u64 = data.map(|(_, blocks, _)| blocks).sum();
        let segment = (total > 0).then(|| self.new_segment(total as u32));
        let mut delta = Delta::default();
        let mut packed = 0;
        for (first, blocks, kind) in changes {
            let to = match kind {
                Kind::Hole => NewMapping::Hole,
                Kind::Zero => NewMapping::Zero,
                Kind::Data => {
                    let segment = segment.expect("there is data");
                    let sums: Vec<u32> = (0..*blocks)
                        .map(|i| sum_of(&segment, packed + i as u32))
                        .collect();
                    let offset = packed * BLOCK;
                    packed += *blocks as u32;
                    NewMapping::Data {
                        segment,
                        offset,
                        sums,
                    }
                }
            };
            self.note(*first, *blocks, &to);
            delta.push(BlockNo(*first), *blocks, to);
        }
        self.truth
            .segments
            .extend(segment.map(|s| (s.id.counter, s)));
        delta
    }

    fn note(&mut self, first: u64, blocks: u64, to: &NewMapping) {
        let old: Vec<u64> = self
            .truth
            .blocks
            .range(first..first + blocks)
            .map(|(at, _)| *at)
            .collect();
        for at in old {
            self.truth.blocks.remove(&at);
        }
        for i in 0..blocks {
            let plain = match to {
                NewMapping::Hole => return,
                NewMapping::Zero => Plain::Zero,
                NewMapping::Data {
                    segment,
                    offset,
                    sums,
                } => Plain::Data {
                    segment: segment.id.counter,
                    block: offset / BLOCK + i as u32,
                    sum: sums[i as usize],
                },
            };
            self.truth.blocks.insert(first + i, plain);
        }
    }

    fn finish_apply(&mut self) {
        let stats = self.index.stats();
        let live = self.truth.live();
        assert_eq!(stats.mapped_blocks, u64::from(live.values().sum::<u32>()));
        assert_eq!(stats.data_segments, live.len() as u64);
    }

    fn expected(&self, first: u64, count: u32) -> Vec<Option<Plain>> {
        (first..first + u64::from(count))
            .map(|at| self.truth.blocks.get(&at).copied())
            .collect()
    }

    fn flatten(&self, runs: &[MappedRun]) -> Vec<Option<Plain>> {
        let mut flat = Vec::new();
        for run in runs {
            for i in 0..run.blocks {
                flat.push(match &run.mapping {
                    Mapping::Hole => None,
                    Mapping::Zero => Some(Plain::Zero),
                    Mapping::Data {
                        segment,
                        offset,
                        sums,
                    } => {
                        assert_eq!(sums.len(), run.blocks as usize);
                        let counter = segment.id.counter;
                        assert_eq!(self.truth.segments.get(&counter), Some(segment));
                        let (block, sum) = (offset / BLOCK + i, sums[i as usize]);
                        Some(Plain::Data {
                            segment: counter,
                            block,
                            sum,
                        })
                    }
                });
            }
        }
        flat
    }

    fn check_lookup(&mut self, first: u64, count: u32) {
        let runs = self.drive(|index| index.lookup(BlockNo(first), count));
        assert_eq!(
            self.flatten(&runs),
            self.expected(first, count),
            "at {first}"
        );
    }

    fn plan(&mut self) -> Plan {
        let pace = self.pace;
        self.drive(|index| index.prepare_checkpoint(&BTreeSet::new(), pace));
        self.seq += 1;
        let covers = Position {
            epoch: Epoch(1),
            seq: Seq(self.seq),
        };
        self.index.checkpoint(&mut self.counter, POOL, covers)
    }

    /// Plans, stores, commits; checks what was dropped, and every page that is reached.
    fn checkpoint(&mut self) {
        let plan = self.plan();
        let checkpoint = plan.checkpoint();
        let before: BTreeSet<SegmentId> = self.store.keys().copied().collect();
        for (segment, data) in plan.segments() {
            assert_eq!(segment.bytes as usize, data.len());
            assert!(data.len() <= model::geometry::SEGMENT_BYTES_MAX);
            self.written += data.len();
            self.store.insert(segment.id, data.clone().into_bytes());
        }
        let dropped = self.index.commit(plan);
        let live = self.truth.live();
        let dead = |counter: &u32| !live.contains_key(counter);
        let mut expected: BTreeSet<SegmentId> = self
            .truth
            .segments
            .iter()
            .filter(|(c, _)| dead(c))
            .map(|(_, s)| s.id)
            .collect();
        self.truth.segments.retain(|counter, _| !dead(counter));
        let pages = self.reached(&checkpoint);
        let reached: BTreeSet<SegmentId> = pages.keys().copied().collect();
        expected.extend(before.difference(&reached));
        let reported: BTreeSet<SegmentId> = dropped.iter().map(|s| s.id).collect();
        assert_eq!(reported.len(), dropped.len(), "nothing is dropped twice");
        assert_eq!(reported, expected);
        self.store.retain(|id, _| !reported.contains(id));
        self.check_table(&checkpoint, &pages);
        self.committed = (checkpoint, self.truth.clone());
    }

    fn check_table(&self, checkpoint: &Checkpoint, pages: &BTreeMap<SegmentId, u16>) {
        let table: BTreeMap<SegmentId, u16> = self
            .index
            .forest
            .table
            .rows()
            .map(|(counter, row)| {
                (
                    SegmentId {
                        volume: row.volume,
                        epoch: row.epoch,
                        counter,
                    },
                    row.live,
                )
            })
            .collect();
        assert_eq!(table, *pages, "live pages of index segments");
        let index: u64 = self
            .store
            .values()
            .map(|s| stored_bytes(POOL, (s.len() / PAGE_BYTES) as u16))
            .sum();
        let data: u64 = self
            .truth
            .segments
            .values()
            .map(|s| stored_bytes(s.pool, (s.bytes / BLOCK) as u16))
            .sum();
        assert_eq!(checkpoint.stored_bytes, index + data);
        assert_eq!(self.index.stats().stored_bytes, index + data);
    }

    /// Counts the pages that a checkpoint reaches, by segment, straight from the store.
    fn reached(&self, checkpoint: &Checkpoint) -> BTreeMap<SegmentId, u16> {
        let mut pages = BTreeMap::new();
        let mut rows = BTreeMap::new();
        let mut left: Vec<PagePtr> = checkpoint.table.into_iter().collect();
        let mut trees = Vec::new();
        left.extend(checkpoint.root);
        while let Some(ptr) = left.pop() {
            *pages.entry(ptr.segment).or_insert(0) += 1;
            match decode(VOLUME, &Self::page(&self.store, &ptr)).expect("stored pages decode") {
                Page::List { pages, .. } => left.extend(pages),
                Page::Root(root) => {
                    left.extend(root.deltas);
                    trees.extend(root.trees.iter().flatten().map(|(_, ptr)| *ptr));
                }
                Page::Table(more) => rows.extend(more),
                Page::Delta(_) => {}
                Page::Node(..) => panic!("trees come later"),
            }
        }
        let mut table = super::table::IndexSegments::default();
        for (counter, row) in rows {
            table.insert(counter, row);
        }
        let mut nodes: BTreeSet<NodeKey> = BTreeSet::new();
        while let Some(ptr) = trees.pop() {
            *pages.entry(ptr.segment).or_insert(0) += 1;
            let page = decode(VOLUME, &Self::page(&self.store, &ptr)).expect("stored pages decode");
            let Page::Node(key, node) = page else {
                panic!("a tree has nodes")
            };
            assert!(nodes.insert(key), "a page is reached once");
            if let Node::Inner(children) = node {
                for child in children.iter() {
                    if let Child::At(at) = child {
                        trees.push(table.pointer(*at).expect("its segment is in the table"));
                    }
                }
            }
        }
        pages
    }

    fn reopen(&mut self, epoch: u64) {
        let (checkpoint, truth) = self.committed.clone();
        self.truth = truth;
        self.index = Index::open(VOLUME, &checkpoint, self.config);
        self.counter = SegmentCounter::new(Epoch(epoch), checkpoint.next_counter);
        assert_eq!(self.index.stats().mapped_blocks, checkpoint.mapped_blocks);
        assert_eq!(self.index.stats().stored_bytes, checkpoint.stored_bytes);
    }

    /// Every live segment has a row with the right count.
    fn check_rows(&mut self) {
        let mut rows = BTreeMap::new();
        let mut from = Some(0);
        while let Some(at) = from {
            let part = self.drive(|index| index.data_segments(at, 5));
            let part_rows = part.rows.iter();
            rows.extend(part_rows.map(|(segment, live)| (segment.id.counter, *live)));
            from = part.next;
        }
        assert_eq!(rows, self.truth.live());
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Hole,
    Zero,
    Data,
}

fn sum_of(segment: &SegmentRef, block: u32) -> u32 {
    segment.id.counter.wrapping_mul(2_654_435_761) ^ block.wrapping_mul(40_503)
}

const TINY: IndexConfig = IndexConfig {
    cache_bytes: 0,
    pending_bytes_max: 1 << 10,
};
