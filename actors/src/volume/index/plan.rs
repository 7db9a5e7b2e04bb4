//! Checkpoints: what is dirty or pending becomes pages of new index segments, children before
//! parents; then lists, the table of index segments and the root page. A plan changes nothing
//! until it is committed.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::geometry::Pool;
use model::ids::{Position, VolumeId};
use model::journal::{Checkpoint, PagePtr};
use model::payload::Payload;

use super::encode::{DeltaWriter, encode_list, encode_node, encode_root, encode_table};
use super::page::{
    Child, Entry, IndexSegment, LIST_ENTRIES_MAX, Location, NodeKey, PAGE_BYTES, Root,
    SEGMENT_BLOCKS_MAX, Space, TABLE_ENTRIES_MAX,
};
use super::table::{IndexSegments, location};
use super::{Index, SegmentCounter};
use crate::messages::SegmentRef;

/// Stored delta pages beyond twice the needed ones, from which on all are written anew.
const DELTA_PAGES_SLACK: usize = 8;

/// A checkpoint that is not committed yet.
#[derive(Debug)]
pub struct Plan {
    segments: Vec<(SegmentRef, Payload)>,
    checkpoint: Checkpoint,
    /// Where each dirty page lies then, children first.
    moves: Vec<(NodeKey, Location)>,
    table: IndexSegments,
    deltas: Vec<Location>,
    meta: Vec<Location>,
    dropped: Vec<SegmentRef>,
}

impl Plan {
    /// The index segments to be written, all of them, before the checkpoint is recorded (R3).
    #[must_use]
    pub fn segments(&self) -> &[(SegmentRef, Payload)] {
        &self.segments
    }

    /// What is recorded then.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }
}

/// Lays pages out in segments.
struct Layout {
    segments: Vec<(SegmentRef, Vec<u8>)>,
    pages: usize,
}

impl Layout {
    /// Room for exactly `pages` pages, in new segments.
    fn new(volume: VolumeId, pages: usize, alloc: &mut SegmentCounter, pool: Pool) -> Self {
        let full = usize::from(SEGMENT_BLOCKS_MAX);
        let mut segments = Vec::new();
        let mut left = pages;
        while left > 0 {
            let bytes = left.min(full) * PAGE_BYTES;
            left -= left.min(full);
            let id = alloc.take(volume);
            let segment = SegmentRef {
                id,
                pool,
                bytes: bytes as u32,
            };
            segments.push((segment, Vec::with_capacity(bytes)));
        }
        Self { segments, pages: 0 }
    }

    fn put(&mut self, page: &[u8]) -> PagePtr {
        assert_eq!(page.len(), PAGE_BYTES);
        let (segment, data) = &mut self.segments[self.pages / usize::from(SEGMENT_BLOCKS_MAX)];
        self.pages += 1;
        let offset = data.len() as u32;
        data.extend_from_slice(page);
        PagePtr {
            segment: segment.id,
            pool: segment.pool,
            segment_bytes: segment.bytes,
            offset,
            length: PAGE_BYTES as u32,
            sum: model::crc32c(page),
        }
    }

    /// Lists pages, and the lists again until one lists all; its pages go to `meta`.
    fn put_list(
        &mut self,
        volume: VolumeId,
        mut pages: Vec<PagePtr>,
        meta: &mut Vec<Location>,
    ) -> Option<PagePtr> {
        for level in 0.. {
            let mut lists = Vec::new();
            for chunk in pages.chunks(LIST_ENTRIES_MAX) {
                let list = self.put(&encode_list(volume, level, chunk));
                meta.push(location(&list));
                lists.push(list);
            }
            if lists.len() <= 1 {
                return lists.pop();
            }
            pages = lists;
        }
        unreachable!("each level is shorter")
    }

    fn finish(self) -> Vec<(SegmentRef, Payload)> {
        let finish = |(segment, data): (SegmentRef, Vec<u8>)| {
            assert_eq!(
                data.len(),
                segment.bytes as usize,
                "every page was foreseen"
            );
            (segment, Payload::from(Bytes::from(data)))
        };
        self.segments.into_iter().map(finish).collect()
    }
}

/// Pages that [`Layout::put_list`] makes.
fn list_pages(mut pages: usize) -> usize {
    let mut lists = 0;
    while pages > 0 {
        pages = pages.div_ceil(LIST_ENTRIES_MAX);
        lists += pages;
        if pages == 1 {
            break;
        }
    }
    lists
}

impl Index {
    /// Plans a checkpoint of all that was applied, which covers the journal up to `covers`:
    /// as few new index segments in `pool` as its pages need. Call [`Index::prepare_checkpoint`]
    /// first. Until [`Index::commit`] or [`Index::abort`] nothing may be applied.
    ///
    /// # Panics
    /// If a delta is being applied, a checkpoint is planned, or the index is not loaded yet.
    pub fn checkpoint(&mut self, alloc: &mut SegmentCounter, pool: Pool, covers: Position) -> Plan {
        assert!(!self.planned, "one checkpoint at a time");
        assert!(
            self.applying.is_none(),
            "a checkpoint is an exact cut (R13)"
        );
        assert!(
            self.loading.is_none() && self.damage.is_none(),
            "the index is loaded"
        );
        self.planned = true;
        if self.is_empty() {
            return self.plan_empty(alloc, covers);
        }
        let dirty = self.forest.cache.dirty();
        let (pages, whole) = self.delta_pages(&dirty);
        let table = self.table_without_superseded(&dirty, whole);
        self.plan_pages(alloc, pool, covers, dirty, (pages, whole), table)
    }

    /// Whether nothing at all is mapped.
    fn is_empty(&self) -> bool {
        let trees = [Space::Blocks, Space::Segments].map(|space| self.forest.tree(space).height);
        let hole = |leaf| {
            self.blocks
                .leaf(leaf)
                .all(|(_, entry)| entry == Entry::Hole)
        };
        let gone = |leaf| self.segments.leaf(leaf).all(|(_, row)| row.is_none());
        trees == [0, 0]
            && self.blocks.leaves().all(|(leaf, _)| hole(leaf))
            && self.segments.leaves().all(|(leaf, _)| gone(leaf))
    }

    fn plan_empty(&self, alloc: &SegmentCounter, covers: Position) -> Plan {
        let rows = self.forest.table.rows();
        let dropped = rows
            .map(|(counter, row)| IndexSegments::segment(counter, &row))
            .collect();
        let next_counter = alloc.next();
        Plan {
            segments: Vec::new(),
            checkpoint: Checkpoint {
                covers,
                next_counter,
                ..Checkpoint::EMPTY
            },
            moves: Vec::new(),
            table: IndexSegments::default(),
            deltas: Vec::new(),
            meta: Vec::new(),
            dropped,
        }
    }

    /// The delta pages to write: what is new, or (true) all, which replace the stored ones: if
    /// those are too many, if they lie where nothing is to stay, or if that gives back twice as
    /// many pages as it costs.
    fn delta_pages(&self, dirty: &[NodeKey]) -> (Vec<Vec<u8>>, bool) {
        let new = self.encode_deltas(false);
        let stored = self.deltas.len() + new.len();
        let left = self.deltas.iter().any(|at| self.is_left(*at));
        if stored <= DELTA_PAGES_SLACK && !left {
            return (new, false);
        }
        let all = self.encode_deltas(true);
        let too_many = stored > 2 * all.len() + DELTA_PAGES_SLACK;
        let more = all.len().saturating_sub(new.len());
        if left || too_many || self.pages_kept_by_deltas(dirty) > 2 * more {
            (all, true)
        } else {
            (new, false)
        }
    }

    /// Pages of the segments of which the stored delta pages alone would be live.
    fn pages_kept_by_deltas(&self, dirty: &[NodeKey]) -> usize {
        let table = self.table_without_superseded(dirty, false);
        let mut deltas: BTreeMap<u32, u16> = BTreeMap::new();
        for at in &self.deltas {
            *deltas.entry(at.segment).or_default() += 1;
        }
        let rows = table.rows();
        let alone = rows.filter(|(counter, row)| deltas.get(counter) == Some(&row.live));
        alone.map(|(_, row)| usize::from(row.blocks)).sum()
    }

    /// Whether a page lies in a pool that is to be left, or in a segment that is to go.
    fn is_left(&self, at: Location) -> bool {
        let page = self.forest.table.pointer(at);
        let in_pool = page.is_some_and(|page| self.leave.contains(&page.pool));
        in_pool || self.emptied.contains(&at.segment)
    }

    fn encode_deltas(&self, whole: bool) -> Vec<Vec<u8>> {
        let mut writer = DeltaWriter::new(self.volume);
        self.blocks
            .groups(whole)
            .iter()
            .for_each(|group| writer.blocks(group));
        self.segments
            .groups(whole)
            .iter()
            .for_each(|group| writer.segments(group));
        writer.finish()
    }

    /// The table of index segments as of the checkpoint, but for the new ones.
    fn table_without_superseded(&self, dirty: &[NodeKey], whole: bool) -> IndexSegments {
        let mut table = self.forest.table.clone();
        self.forest
            .freed
            .iter()
            .for_each(|(counter, pages)| table.release(*counter, *pages));
        let stored = dirty
            .iter()
            .filter_map(|key| self.forest.cache.stored_at(*key));
        let deltas = if whole { self.deltas.as_slice() } else { &[] };
        for at in stored
            .chain(self.meta.iter().copied())
            .chain(deltas.iter().copied())
        {
            table.release(at.segment, 1);
        }
        table
    }

    fn plan_pages(
        &self,
        alloc: &mut SegmentCounter,
        pool: Pool,
        covers: Position,
        dirty: Vec<NodeKey>,
        (delta_pages, whole): (Vec<Vec<u8>>, bool),
        mut table: IndexSegments,
    ) -> Plan {
        let dropped = table.take_dead();
        let kept = if whole { &[] } else { self.deltas.as_slice() };
        let deltas_after = kept.len() + delta_pages.len();
        let fixed = dirty.len() + delta_pages.len() + list_pages(deltas_after) + 1;
        let mut layout = Layout::new(self.volume, pages_of(fixed, table.len()), alloc, pool);
        for (segment, _) in &layout.segments {
            let blocks = (segment.bytes / PAGE_BYTES as u32) as u16;
            let (volume, epoch) = (segment.id.volume, segment.id.epoch);
            let row = IndexSegment {
                volume,
                epoch,
                pool,
                blocks,
                live: blocks,
            };
            assert!(
                table.insert(segment.id.counter, row),
                "a counter is never used again (R1)"
            );
        }
        let moves = self.put_nodes(&mut layout, &dirty);
        let mut meta = Vec::new();
        let mut deltas: Vec<Location> = kept.to_vec();
        deltas.extend(delta_pages.iter().map(|page| location(&layout.put(page))));
        let pointer = |at: &Location| table.pointer(*at).expect("what is kept is in the table");
        let list = deltas.iter().map(pointer).collect();
        let list = layout.put_list(self.volume, list, &mut meta);
        let rows: Vec<_> = table.rows().collect();
        let rows: Vec<PagePtr> = rows
            .chunks(TABLE_ENTRIES_MAX)
            .map(|rows| layout.put(&encode_table(self.volume, rows)))
            .collect();
        meta.extend(rows.iter().map(location));
        let rows = layout.put_list(self.volume, rows, &mut meta);
        let root = self.root_after(&moves, list, &table);
        let root = layout.put(&encode_root(self.volume, &root));
        meta.push(location(&root));
        let checkpoint = Checkpoint {
            covers,
            root: Some(root),
            table: rows,
            next_counter: alloc.next(),
            mapped_blocks: self.counts.mapped_blocks,
            stored_bytes: self.counts.data_stored + table.stored_bytes(),
        };
        Plan {
            segments: layout.finish(),
            checkpoint,
            moves,
            table,
            deltas,
            meta,
            dropped,
        }
    }

    fn put_nodes(&self, layout: &mut Layout, dirty: &[NodeKey]) -> Vec<(NodeKey, Location)> {
        let mut moved: BTreeMap<NodeKey, Location> = BTreeMap::new();
        let mut moves = Vec::with_capacity(dirty.len());
        for key in dirty {
            let node = self
                .forest
                .cache
                .get(*key)
                .expect("a dirty page is in memory");
            let page = encode_node(self.volume, *key, node, |child, link| {
                moved.get(&child).copied().or(match link {
                    Child::At(at) => Some(at),
                    Child::New | Child::Absent => None,
                })
            });
            let at = location(&layout.put(&page));
            moved.insert(*key, at);
            moves.push((*key, at));
        }
        moves
    }

    fn root_after(
        &self,
        moves: &[(NodeKey, Location)],
        deltas: Option<PagePtr>,
        table: &IndexSegments,
    ) -> Root {
        let trees = [Space::Blocks, Space::Segments].map(|space| {
            let tree = self.forest.tree(space);
            let level = tree.height.checked_sub(1)?;
            let key = NodeKey {
                space,
                level,
                index: 0,
            };
            let moved = moves.iter().rev().find(|(moved, _)| *moved == key);
            let at = match (moved, tree.root) {
                (Some((_, at)), _) => *at,
                (None, Child::At(at)) => at,
                (None, Child::New | Child::Absent) => unreachable!("a new root is dirty"),
            };
            Some((
                tree.height,
                table.pointer(at).expect("a live page's segment is kept"),
            ))
        });
        Root {
            trees,
            deltas,
            mapped_blocks: self.counts.mapped_blocks,
            data_segments: self.counts.data_segments,
            data_stored: self.counts.data_stored,
        }
    }

    /// The plan's checkpoint is committed. Returns the data and index segments that it no
    /// longer reaches and the one before did: deleted once no other recoverable root reaches
    /// them (R15). They may be of another volume: a parent's (R17).
    ///
    /// # Panics
    /// If no checkpoint is planned.
    pub fn commit(&mut self, plan: Plan) -> Vec<SegmentRef> {
        assert!(self.planned, "only what was planned is committed");
        self.planned = false;
        self.preparation = None;
        self.emptied.clear();
        for (key, at) in &plan.moves {
            self.forest.set_link(*key, Child::At(*at));
            self.forest.cache.make_clean(*key, *at);
        }
        self.forest.table = plan.table;
        self.forest.freed.clear();
        if plan.checkpoint.root.is_none() {
            self.blocks.clear();
            self.segments.clear();
        }
        self.blocks.stored();
        self.segments.stored();
        self.deltas = plan.deltas;
        self.meta = plan.meta;
        let mut dropped = std::mem::take(&mut self.dropped);
        dropped.extend(plan.dropped);
        let pages_max = self.config.cache_bytes / super::PAGE_MEMORY;
        self.forest.cache.evict(pages_max, false);
        dropped
    }

    /// The segments that the last committed checkpoint may reach and a plan's will not.
    #[must_use]
    pub fn dropped_by(&self, plan: &Plan) -> Vec<SegmentRef> {
        self.dropped.iter().chain(&plan.dropped).copied().collect()
    }

    /// The plan can't be carried out (a segment was not to be written, R18): all stays to be
    /// done by another plan, with new counters. Returns this one's segments, which no root ever
    /// reached: what was written of them is to be deleted.
    ///
    /// # Panics
    /// If no checkpoint is planned.
    #[must_use]
    pub fn abort(&mut self, plan: Plan) -> Vec<SegmentRef> {
        assert!(self.planned, "only what was planned is aborted");
        self.planned = false;
        plan.segments
            .into_iter()
            .map(|(segment, _)| segment)
            .collect()
    }
}

/// Pages of a checkpoint, with the table's, which has a row for each of its new segments too.
fn pages_of(fixed: usize, old_segments: usize) -> usize {
    let mut new_segments = 1;
    loop {
        let rows = (old_segments + new_segments).div_ceil(TABLE_ENTRIES_MAX);
        let pages = fixed + rows + list_pages(rows);
        let needed = pages.div_ceil(usize::from(SEGMENT_BLOCKS_MAX));
        if needed == new_segments {
            return pages;
        }
        new_segments = needed;
    }
}
