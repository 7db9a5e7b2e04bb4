//! What a row's disks hold, a window of segments at a time: by their catalogs, taken after each
//! of them took note of the move (R20).

use std::collections::{BTreeMap, VecDeque};

use coding::layout;
use model::ids::{DiskRef, RequestId, SegmentId, Slot};
use model::spread::SlotMove;
use model::store::FragmentMeta;
use model::time::Time;

use super::sources::{Row, Source};
use crate::messages::FragmentAt;

/// A question that is out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Out {
    pub(super) id: RequestId,
    pub(super) due: Time,
    pub(super) attempts: u32,
}

impl Out {
    /// One that is to be asked now.
    pub(super) fn new(id: RequestId, now: Time) -> Self {
        Self {
            id,
            due: now,
            attempts: 0,
        }
    }
}

/// One disk's answer.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) source: Source,
    pub(super) out: Option<Out>,
    pub(super) got: Option<(Vec<FragmentAt>, Option<SegmentId>)>,
}

/// The next window of a row.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) pages: BTreeMap<DiskRef, Page>,
}

/// A segment of which the target has no fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Missing {
    pub(super) segment: SegmentId,
    pub(super) meta: FragmentMeta,
    /// Where its fragments are.
    pub(super) holders: BTreeMap<Slot, (DiskRef, Source)>,
}

impl Listing {
    pub(super) fn of(row: &Row) -> Self {
        let page = |source: &Source| Page {
            source: *source,
            out: None,
            got: None,
        };
        let pages = row.disks.iter().map(|(at, source)| (*at, page(source)));
        Self {
            pages: pages.collect(),
        }
    }

    /// Whether it still asks whom it should.
    pub(super) fn is_of(&self, row: &Row) -> bool {
        let asked = self.pages.iter().map(|(at, page)| (at, &page.source));
        asked.eq(row.disks.iter())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.pages.values().all(|page| page.got.is_some())
    }

    /// What the target lacks up to where every page reaches; and where that is, if there may
    /// be more. What is rotten there it lacks, too.
    pub(super) fn missing(
        self,
        healing: &SlotMove,
        rotten: Option<&BTreeMap<SegmentId, FragmentMeta>>,
    ) -> (VecDeque<Missing>, Option<SegmentId>) {
        let ends = self.pages.values().filter_map(|p| p.got.as_ref()?.1);
        let end = ends.min();
        let mut found: BTreeMap<SegmentId, Missing> = BTreeMap::new();
        let mut held = Vec::new();
        for (at, page) in self.pages {
            let (keys, _) = page.got.expect("it is complete");
            let within = |f: &FragmentAt| end.is_none_or(|end| f.key.segment <= end);
            for FragmentAt { key, meta } in keys.into_iter().filter(within) {
                let is_sound = meta.pool == healing.pool
                    && page.source.slots.contains(key.slot)
                    && is_possible(&meta);
                if !is_sound {
                    continue;
                }
                if at == healing.to && key.slot == healing.slot {
                    if rotten.is_none_or(|rotten| !rotten.contains_key(&key.segment)) {
                        held.push(key.segment);
                    }
                    continue;
                }
                let missing = found.entry(key.segment).or_insert_with(|| Missing {
                    segment: key.segment,
                    meta,
                    holders: BTreeMap::new(),
                });
                if missing.meta == meta {
                    missing.holders.insert(key.slot, (at, page.source));
                }
            }
        }
        for segment in held {
            found.remove(&segment);
        }
        (found.into_values().collect(), end)
    }
}

/// Whether a segment can have such a fragment: a peer says how long it is, and room is made for it.
pub(super) fn is_possible(meta: &FragmentMeta) -> bool {
    layout::check_length(meta.segment_bytes as usize).is_ok()
        && meta.fragment_bytes == layout::fragment_bytes(meta.pool.code, meta.segment_bytes)
}
