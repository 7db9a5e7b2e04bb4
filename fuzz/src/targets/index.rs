//! Index pages, from the checkpoint's root down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use actors::messages::SegmentRef;
use actors::volume::index::{Delta, Index, IndexConfig, Missing, NewMapping, Pace, SegmentCounter};
use bytes::Bytes;
use model::geometry::{Code, Pool};
use model::ids::{BlockNo, Epoch, SegmentId, VolumeId};
use model::journal::{Checkpoint, PagePtr};

use super::envelope::{POOL, POSITION};
use crate::Verdict;
use crate::input::Input;

const VOLUME: VolumeId = VolumeId(7);
const PAGE: usize = 4096;
const INDEX_POOL: Pool = Pool::of(Code::INDEX);

/// Small, so that pages are asked for again.
const CONFIG: IndexConfig = IndexConfig {
    cache_bytes: 64 << 10,
    pending_bytes_max: 1 << 10,
};

/// Pages by where they lie, as the index asks for them.
type Pages = BTreeMap<(SegmentId, u32), Vec<u8>>;

struct Stored {
    checkpoint: Checkpoint,
    pages: Pages,
}

impl Stored {
    fn page(&self, ptr: &PagePtr) -> Option<&Vec<u8>> {
        self.pages.get(&(ptr.segment, ptr.offset))
    }
}

/// An index that was checkpointed a few times, as its writer left it.
static STORED: LazyLock<Stored> = LazyLock::new(|| {
    let mut stored = Stored {
        checkpoint: Checkpoint::EMPTY,
        pages: Pages::new(),
    };
    let mut index = Index::open(VOLUME, &Checkpoint::EMPTY, CONFIG);
    let mut counter = SegmentCounter::new(Epoch(1), 0);
    for round in 0..4_u64 {
        let mut delta = Delta::default();
        let segment = SegmentRef {
            id: counter.take(VOLUME),
            pool: POOL,
            bytes: 64 * PAGE as u32,
        };
        for i in 0..64_u64 {
            let to = NewMapping::Data {
                segment,
                offset: i as u32 * PAGE as u32,
                sums: vec![i as u32],
            };
            delta.push(BlockNo(i * (37 + round) + (round << 20)), 1, to);
        }
        delta.push(BlockNo(1 << 30), 300, NewMapping::Zero);
        drive(&mut index, &stored, |index| index.apply(&delta)).expect("sound");
        let none = BTreeSet::new();
        drive(&mut index, &stored, |index| {
            index.prepare_checkpoint(&none, Pace::Resting)
        })
        .expect("sound");
        let plan = index.checkpoint(&mut counter, INDEX_POOL, POSITION);
        for (segment, payload) in plan.segments() {
            let bytes = payload.chunks().concat();
            for (i, page) in bytes.chunks(PAGE).enumerate() {
                let at = (segment.id, (i * PAGE) as u32);
                stored.pages.insert(at, page.to_vec());
            }
        }
        stored.checkpoint = plan.checkpoint();
        index.commit(plan);
    }
    stored
});

/// Carries an operation out, with the pages that it asks for; `None` if the index is damaged,
/// or there is no such page.
fn drive<T>(
    index: &mut Index,
    stored: &Stored,
    mut operation: impl FnMut(&mut Index) -> Result<T, Missing>,
) -> Option<T> {
    for _ in 0..10_000 {
        let missing = match operation(index) {
            Ok(done) => return Some(done),
            Err(missing) => missing.pages,
        };
        assert_eq!(
            missing.is_empty(),
            index.damage().is_some(),
            "it asks, or is damaged"
        );
        assert!(missing.len() <= 64);
        if missing.is_empty() {
            return None;
        }
        for ptr in missing {
            let page = stored.page(&ptr)?;
            // As a reader does that trusts no copy: a wrong one is read from elsewhere.
            if model::crc32c(page) != ptr.sum {
                return None;
            }
            // The enemy's page has a sum that its parent tells.
            let _ = index.arrived(ptr, Bytes::copy_from_slice(page));
        }
    }
    panic!("an operation never ends");
}

/// Edits of stored pages; then all parents are told the sums that their pages now have.
fn edited(input: &mut Input<'_>) -> Stored {
    let mut checkpoint = STORED.checkpoint;
    let mut pages = STORED.pages.clone();
    let places: Vec<_> = pages.keys().copied().collect();
    while !input.is_empty() {
        let which = usize::from(input.u8());
        let at = usize::from(input.u16()) % PAGE;
        let length = usize::from(input.u8());
        let bytes = input.take(length);
        let bytes = &bytes[..bytes.len().min(PAGE - at)];
        // The last pages are those that the checkpoint reaches.
        let place = places[places.len() - 1 - which % places.len()];
        let page = pages.get_mut(&place).expect("listed");
        page[at..at + bytes.len()].copy_from_slice(bytes);
    }
    // A page that changed is told to those that name its old sum, until nothing changes: no
    // further than the tree is deep.
    let mut sums: BTreeMap<_, _> = STORED
        .pages
        .iter()
        .map(|(at, p)| (*at, model::crc32c(p)))
        .collect();
    for _ in 0..8 {
        let mut renamed = Vec::new();
        for (place, page) in &pages {
            let now = model::crc32c(page);
            let before = sums.insert(*place, now).expect("listed");
            if before != now {
                renamed.push((before.to_le_bytes(), now.to_le_bytes()));
            }
        }
        if renamed.is_empty() {
            break;
        }
        for (before, now) in renamed {
            for page in pages.values_mut() {
                rename(page, before, now);
            }
            for ptr in [&mut checkpoint.root, &mut checkpoint.table]
                .into_iter()
                .flatten()
            {
                if ptr.sum.to_le_bytes() == before {
                    ptr.sum = u32::from_le_bytes(now);
                }
            }
        }
    }
    Stored { checkpoint, pages }
}

fn rename(page: &mut [u8], before: [u8; 4], now: [u8; 4]) {
    let found = page.windows(4).position(|window| window == before);
    if let Some(at) = found {
        page[at..at + 4].copy_from_slice(&now);
    }
}

pub(super) fn run(data: &[u8]) -> Verdict {
    let stored = edited(&mut Input::new(data));
    let mut index = Index::open(VOLUME, &stored.checkpoint, CONFIG);
    Verdict::of(used(&mut index, &stored).is_some())
}

/// Looks all over it, changes it, and plans a checkpoint.
fn used(index: &mut Index, stored: &Stored) -> Option<()> {
    for first in [0, 64, 1 << 20, (3 << 20) + 17, 1 << 30, u64::MAX >> 13] {
        drive(index, stored, |index| index.lookup(BlockNo(first), 70))?;
    }
    drive(index, stored, |index| index.data_segments(0, 100))?;
    let segment = SegmentRef {
        id: SegmentCounter::new(Epoch(2), 1 << 31).take(VOLUME),
        pool: POOL,
        bytes: PAGE as u32,
    };
    drive(index, stored, |index| index.reaches(segment.id))?;
    let mut delta = Delta::default();
    let to = NewMapping::Data {
        segment,
        offset: 0,
        sums: vec![1],
    };
    delta.push(BlockNo(3), 1, to);
    delta.push(BlockNo(1 << 20), 200, NewMapping::Hole);
    drive(index, stored, |index| index.apply(&delta))?;
    let none = BTreeSet::new();
    drive(index, stored, |index| {
        index.prepare_checkpoint(&none, Pace::Resting)
    })?;
    let mut counter = SegmentCounter::new(Epoch(2), (1 << 31) + 1);
    let plan = index.checkpoint(&mut counter, INDEX_POOL, POSITION);
    index.commit(plan);
    Some(())
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // A sum in a page; any page may be the one.
    let edit = |which: u8, at: u16, bytes: &[u8]| {
        let [low, high] = at.to_le_bytes();
        [&[which, low, high, bytes.len() as u8], bytes].concat()
    };
    vec![Vec::new(), edit(200, 4095, &[0]), edit(0, 0, &[])]
}
