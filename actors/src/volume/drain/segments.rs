//! The data segments of a drain: packed from the frozen layer, written, and handed to the index.

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::ids::{BlockNo, RequestId, SegmentId};
use model::payload::Payload;
use model::placement::View;
use model::store::Claim;
use model::time::Time;

use super::{Drain, SEGMENT_BLOCKS};
use crate::messages::SegmentRef;
use crate::planted::{Bug, planted};
use crate::volume::Pending;
use crate::volume::index::{Delta, NewMapping};
use crate::volume::overlay::{Content, Overlay, Run, Sums};
use crate::volume::serve::Serving;

/// Blocks of a crowded cut's segments at most: what disks have in reserve may be little, and in
/// pieces. They are brought together later.
const CROWDED_BLOCKS: usize = 128;

/// So many spreads are tried for what replaces other data.
const SPREADS_TRIED: u8 = 3;

/// A segment that is being written.
#[derive(Debug)]
pub(in crate::volume) struct Packed {
    segment: SegmentRef,
    data: Payload,
    /// What of the volume it holds.
    runs: Vec<PackedRun>,
    /// Spreads that had no room for it, of a crowded cut's.
    refusals: u8,
}

#[derive(Debug)]
struct PackedRun {
    first: BlockNo,
    offset: u32,
    sums: Vec<u32>,
}

impl Packed {
    /// Whether a crowded cut goes on without it.
    pub(super) const fn has_no_room(&self) -> bool {
        self.refusals >= SPREADS_TRIED
    }

    /// Its blocks, by where they begin in the volume.
    pub(super) fn blocks(self) -> Vec<(u64, Bytes)> {
        let bytes = self.data.into_bytes();
        let of_run = |run: &PackedRun| {
            let (first, offset) = (run.first.0, run.offset as usize);
            let blocks = 0..run.sums.len();
            let bytes = bytes.clone();
            blocks.map(move |i| {
                let at = offset + i * BLOCK_BYTES;
                let block = bytes.slice(at..at + BLOCK_BYTES);
                ((first + i as u64) * BLOCK_BYTES as u64, block)
            })
        };
        self.runs.iter().flat_map(of_run).collect()
    }

    /// It is durable: its blocks are read from it from now on.
    pub(super) fn bring_to(&self, overlay: &mut Overlay) {
        let is_new = overlay.bring(self.segment);
        assert!(is_new, "a segment is brought once (R1)");
        for PackedRun {
            first,
            offset,
            sums,
        } in &self.runs
        {
            let blocks = sums.len() as u64;
            let content = Content::Stored {
                segment: self.segment,
                offset: *offset,
                sums: Sums::new(sums.as_slice().into()),
            };
            overlay.insert(*first, Run { blocks, content });
        }
    }
}

impl Serving {
    /// Packs the frozen layer's data into segments, in block order.
    pub(super) fn pack(&mut self, view: &View) {
        let frozen = self
            .layers
            .frozen
            .as_ref()
            .expect("a drain has a frozen layer");
        let blocks_max = match frozen.crowded_out {
            true => CROWDED_BLOCKS,
            false => SEGMENT_BLOCKS,
        };
        let mut packs: Vec<(Payload, Vec<PackedRun>)> = Vec::new();
        for (first, run) in frozen.overlay.runs() {
            let Content::Data { bytes, sums } = &run.content else {
                assert!(
                    !matches!(run.content, Content::Patch(_)) || frozen.unmerged.contains(&first),
                    "patches were merged, or are kept"
                );
                continue;
            };
            let sums = sums.first(usize::try_from(run.blocks).expect("in memory"));
            let mut at = 0;
            while let Some(range) = frozen.next_with_room(first, at..sums.len()) {
                at = range.start;
                let room = |p: &(Payload, _)| blocks_max - p.0.len() / BLOCK_BYTES;
                if packs.last().is_none_or(|p| room(p) == 0) {
                    packs.push((Payload::empty(), Vec::new()));
                }
                let pack = packs.last_mut().expect("just made");
                let take = room(pack).min(range.len());
                pack.1.push(PackedRun {
                    first: BlockNo(first.0 + at as u64),
                    offset: u32::try_from(pack.0.len()).expect("within a segment"),
                    sums: sums[at..at + take].to_vec(),
                });
                pack.0
                    .push(bytes.slice(at * BLOCK_BYTES..(at + take) * BLOCK_BYTES));
                at += take;
            }
        }
        self.drain = Drain::Writing {
            writes: Pending::new(),
            written: Vec::new(),
        };
        for (data, runs) in packs {
            let packed = Packed {
                segment: self.unnamed(),
                data,
                runs,
                refusals: 0,
            };
            self.write_packed(packed, view);
        }
    }

    /// A segment that has no id yet.
    fn unnamed(&self) -> SegmentRef {
        let id = SegmentId {
            volume: self.id,
            epoch: self.epoch(),
            counter: 0,
        };
        let pool = model::geometry::Pool::of(self.code);
        SegmentRef { id, pool, bytes: 0 }
    }

    /// Names a segment and has it written; without a pool it waits.
    pub(super) fn write_packed(&mut self, mut packed: Packed, view: &View) {
        let Some(pool) = view.pool_for(self.code) else {
            self.drain = match std::mem::replace(&mut self.drain, Drain::Idle) {
                Drain::Writing { writes, written } => Drain::Blocked {
                    unwritten: vec![packed],
                    written,
                    writes,
                },
                Drain::Blocked {
                    mut unwritten,
                    written,
                    writes,
                } => {
                    unwritten.push(packed);
                    Drain::Blocked {
                        unwritten,
                        written,
                        writes,
                    }
                }
                _ => unreachable!("segments are packed while writing"),
            };
            return;
        };
        let again = packed.segment.bytes > 0 && planted(Bug::ReusedId);
        let name = match again {
            true => packed.segment.id,
            false => self.segment_counter.take(self.id),
        };
        let claim = match self.is_crowded_cut() {
            true if planted(Bug::NoReserve) => Claim::Client,
            true => Claim::Overwrite,
            false => Claim::Client,
        };
        let data = packed.data.clone();
        let (id, segment) = self.write_data(name, pool, claim, data);
        packed.segment = segment;
        match &mut self.drain {
            Drain::Writing { writes, .. } | Drain::Blocked { writes, .. } => {
                writes.insert(id, packed);
            }
            _ => unreachable!("segments are packed while writing"),
        }
    }

    /// A segment's write was answered: every slot is durable.
    pub(in crate::volume) fn segment_written(
        &mut self,
        now: Time,
        id: RequestId,
        segment: SegmentId,
    ) {
        if self.copy_written(now, id, segment) {
            return;
        }
        if let Drain::Paging { writes, .. } = &mut self.drain
            && writes.remove(&id).is_some()
        {
            // In the index's reserve: that says nothing of room for clients (R18).
            return;
        }
        // That those found room which replace other data says nothing of room for more.
        if !self.is_crowded_cut() {
            self.fullness.stored();
        }
        if self.bypass_written(id, segment) {
            return;
        }
        match &mut self.drain {
            Drain::Writing { writes, written }
            | Drain::Blocked {
                writes, written, ..
            } => {
                if let Some(packed) = writes.remove(&id) {
                    assert_eq!(packed.segment.id, segment);
                    written.push(packed);
                }
            }
            _ => {}
        }
    }

    /// A segment can't be written where its pool says (R18): the id is abandoned, the data
    /// goes under the next counter to the pool that the view names then.
    pub(in crate::volume) fn segment_unwritable(&mut self, now: Time, id: RequestId, full: bool) {
        if self.copy_unwritable(now, id, full) {
            return;
        }
        if full {
            self.fullness.refused(now);
        }
        if self.bypass_unwritable(now, id) {
            return;
        }
        let refused = u8::from(full && self.is_crowded_cut());
        match &mut self.drain {
            Drain::Writing { writes, .. } => {
                let Some(mut packed) = writes.remove(&id) else {
                    return;
                };
                packed.refusals += refused;
                let Drain::Writing { writes, written } =
                    std::mem::replace(&mut self.drain, Drain::Idle)
                else {
                    unreachable!("just matched")
                };
                self.drain = Drain::Blocked {
                    unwritten: vec![packed],
                    written,
                    writes,
                };
            }
            Drain::Blocked {
                writes, unwritten, ..
            } => {
                let mut packed = writes.remove(&id);
                if let Some(packed) = &mut packed {
                    packed.refusals += refused;
                }
                unwritten.extend(packed);
            }
            Drain::Paging { writes, failed, .. } => {
                *failed |= writes.remove(&id).is_some();
            }
            _ => {}
        }
    }

    pub(super) fn delta(&self, written: Vec<Packed>) -> Delta {
        let frozen = self
            .layers
            .frozen
            .as_ref()
            .expect("a drain has a frozen layer");
        let mut delta = Delta::default();
        for (first, run) in frozen.overlay.runs() {
            match run.content {
                Content::Hole => delta.push(first, run.blocks, NewMapping::Hole),
                Content::Zero => delta.push(first, run.blocks, NewMapping::Zero),
                // In a segment already (R14); so is the base of a patch that is kept (R28).
                Content::Stored {
                    segment,
                    offset,
                    ref sums,
                } => {
                    let count = usize::try_from(run.blocks).expect("a run fits a segment");
                    let sums = sums.first(count).to_vec();
                    let to = NewMapping::Data {
                        segment,
                        offset,
                        sums,
                    };
                    delta.push(first, run.blocks, to);
                }
                Content::Patch(ref patch) => {
                    if let Some(base) = patch.base() {
                        let to = NewMapping::Data {
                            segment: base.segment,
                            offset: base.offset,
                            sums: vec![base.sum],
                        };
                        delta.push(first, 1, to);
                    }
                }
                Content::Data { .. } => {}
            }
        }
        if !planted(Bug::LostReference) {
            frozen.overlay.brought().for_each(|s| delta.bring(s));
        }
        for packed in written {
            for PackedRun {
                first,
                offset,
                sums,
            } in packed.runs
            {
                let blocks = sums.len() as u64;
                let segment = packed.segment;
                delta.push(
                    first,
                    blocks,
                    NewMapping::Data {
                        segment,
                        offset,
                        sums,
                    },
                );
            }
        }
        delta
    }
}
