//! Reads: look up, load index pages, read segments, assemble; answer under a lease (R7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use model::BLOCK_BYTES;
use model::block::{Allocation, BlockError, Extent};
use model::ids::{BlockNo, Endpoint, RequestId};
use model::journal::PagePtr;
use model::payload::Payload;

use super::Pending;
use super::asking::Reading;
use super::index::Missing;
use super::journal::RequestIds;
use super::layers::{Layers, Slot, Source};
use crate::messages::{BlockRun, ReadChunk, SegmentRef, SegmentRequest, VolumeReply};
use crate::planted::{Bug, planted};

/// Bytes of a range that one `Status` describes at most; the front end asks on.
pub const STATUS_BYTES_MAX: u64 = 256 << 20;

/// What a job is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// A client's read.
    Read {
        from: Endpoint,
        id: RequestId,
        offset: u64,
        length: u32,
    },
    /// A client's question for allocation.
    Status {
        from: Endpoint,
        id: RequestId,
        offset: u64,
        length: u64,
    },
    /// The base of a block that a drain must merge a patch with (R12).
    Base { block: BlockNo },
    /// Blocks that are written anew.
    Copy,
}

impl Target {
    /// The client's request that it is for.
    fn asker(&self) -> Option<(Endpoint, RequestId)> {
        match self {
            Self::Read { from, id, .. } | Self::Status { from, id, .. } => Some((*from, *id)),
            Self::Base { .. } | Self::Copy => None,
        }
    }
}

/// Numbers jobs in the order in which they began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct JobId(pub(super) u64);

#[derive(Debug)]
struct Job {
    target: Target,
    slots: Vec<Slot>,
    /// Segment reads that are out.
    outstanding: usize,
    /// Whether it waits for index pages instead.
    looking: bool,
    /// Those, and of them the ones that could not be read once.
    wanted: Vec<PagePtr>,
    failed: BTreeSet<PagePtr>,
}

/// A job's end.
#[derive(Debug)]
pub(super) enum Outcome {
    /// An answer for a client, to be sent under a lease.
    Answer {
        to: Endpoint,
        id: RequestId,
        reply: VolumeReply,
        payload: Payload,
    },
    /// A block's merged bytes, or nothing if its base is unreadable.
    Base {
        block: BlockNo,
        bytes: Option<Bytes>,
    },
    /// What was to be copied, or nothing if some of it is unreadable.
    Copied {
        job: JobId,
        bytes: Option<Vec<Bytes>>,
    },
}

/// One segment read and the slots that it fills.
#[derive(Debug)]
struct Fill {
    job: JobId,
    segment: SegmentRef,
    slots: Vec<usize>,
}

/// All reads under way.
#[derive(Debug, Default)]
pub(super) struct Reader {
    jobs: BTreeMap<JobId, Job>,
    next: u64,
    fills: Pending<Fill>,
    loads: Pending<PagePtr>,
    loading: BTreeSet<PagePtr>,
    /// Pages that could not be read lately: who reads for upkeep does not ask for them at once.
    resting: BTreeSet<PagePtr>,
    looking: VecDeque<JobId>,
    /// Clients' requests that jobs are for.
    askers: BTreeSet<(Endpoint, RequestId)>,
    done: Vec<Outcome>,
}

impl Reader {
    /// Begins a job.
    pub(super) fn begin(
        &mut self,
        target: Target,
        layers: &mut Layers,
        ids: &mut RequestIds,
        out: &mut Vec<SegmentRequest>,
    ) {
        if target
            .asker()
            .is_some_and(|asker| !self.askers.insert(asker))
        {
            // A client asks again for what it waits for.
            return;
        }
        self.next += 1;
        let id = JobId(self.next);
        let job = Job {
            target,
            slots: Vec::new(),
            outstanding: 0,
            looking: true,
            wanted: Vec::new(),
            failed: BTreeSet::new(),
        };
        self.jobs.insert(id, job);
        self.look(id, layers, ids, out);
    }

    /// The oldest job that is still under way, or the next one's number: nothing older reads
    /// any more, so what was unmapped before it began may be deleted (R15).
    pub(super) fn oldest(&self) -> JobId {
        self.jobs
            .keys()
            .next()
            .copied()
            .unwrap_or(JobId(self.next + 1))
    }

    /// The number after the newest job's.
    pub(super) fn horizon(&self) -> JobId {
        JobId(self.next + 1)
    }

    /// Whether jobs ended that nobody took yet: those that needed nothing but memory.
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Who waits for a request.
    pub(super) fn reading(&self, request: &SegmentRequest) -> Reading {
        let SegmentRequest::Read { id, .. } = request else {
            return Reading::Upkeep;
        };
        let job = self.fills.get(id).and_then(|fill| self.jobs.get(&fill.job));
        match job.map(|job| job.target) {
            Some(Target::Read { .. } | Target::Status { .. }) => Reading::Client,
            Some(Target::Base { .. } | Target::Copy) => Reading::Upkeep,
            None => Reading::Page,
        }
    }

    /// Ends jobs that nobody waits for any more; the requests that they sent.
    pub(super) fn abandon(&mut self, is: impl Fn(&Target) -> bool) -> BTreeSet<RequestId> {
        self.jobs.retain(|_, job| !is(&job.target));
        let orphans = self
            .fills
            .iter()
            .filter(|(_, f)| !self.jobs.contains_key(&f.job));
        let ids: BTreeSet<RequestId> = orphans.map(|(id, _)| *id).collect();
        self.fills.retain(|id, _| !ids.contains(id));
        ids
    }

    /// The jobs that ended.
    pub(super) fn take_done(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.done)
    }

    /// Loads index pages for someone else (a drain), who looks again at every arrival, and once
    /// they have rested.
    pub(super) fn load(
        &mut self,
        mut missing: Missing,
        ids: &mut RequestIds,
        out: &mut Vec<SegmentRequest>,
    ) {
        missing.pages.retain(|page| !self.resting.contains(page));
        self.ask(missing.pages, ids, out);
    }

    /// Whether a page could not be read lately.
    pub(super) fn is_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Pages that could not be read may be asked for again.
    pub(super) fn rested(&mut self) {
        self.resting.clear();
    }

    fn ask(&mut self, pages: Vec<PagePtr>, ids: &mut RequestIds, out: &mut Vec<SegmentRequest>) {
        for page in pages {
            if self.loading.insert(page) {
                let id = ids.take();
                self.loads.insert(id, page);
                let segment = SegmentRef {
                    id: page.segment,
                    pool: page.pool,
                    bytes: page.segment_bytes,
                };
                let runs = vec![BlockRun {
                    offset: page.offset,
                    sums: vec![page.sum],
                }];
                out.push(SegmentRequest::Read { id, segment, runs });
            }
        }
    }

    /// Begins to read what is to be copied: where it lies is known.
    pub(super) fn begin_copy(
        &mut self,
        slots: Vec<Slot>,
        ids: &mut RequestIds,
        out: &mut Vec<SegmentRequest>,
    ) -> JobId {
        self.next += 1;
        let id = JobId(self.next);
        let job = Job {
            target: Target::Copy,
            slots,
            outstanding: 0,
            looking: false,
            wanted: Vec::new(),
            failed: BTreeSet::new(),
        };
        self.jobs.insert(id, job);
        self.fetch(id, ids, out);
        self.finish_if_ready(id);
        id
    }

    fn look(
        &mut self,
        id: JobId,
        layers: &mut Layers,
        ids: &mut RequestIds,
        out: &mut Vec<SegmentRequest>,
    ) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let (first, blocks) = span(job.target);
        let found = match job.target {
            Target::Copy => unreachable!("what is copied was looked up"),
            Target::Base { block } => {
                let mut slots = Vec::new();
                layers.gather_base(block, &mut slots).map(|()| slots)
            }
            Target::Read { .. } | Target::Status { .. } => layers.gather(first, blocks),
        };
        match found {
            Ok(slots) => {
                job.slots = slots;
                job.looking = false;
                if !matches!(job.target, Target::Status { .. }) {
                    self.fetch(id, ids, out);
                }
                self.finish_if_ready(id);
            }
            // The index is damaged for good; the owner ends, and says so.
            Err(missing) if missing.pages.is_empty() => self.fail(id),
            Err(missing) => {
                job.looking = true;
                job.wanted.clone_from(&missing.pages);
                self.looking.push_back(id);
                self.ask(missing.pages, ids, out);
            }
        }
    }

    /// Asks for what a job's slots lack: one request a segment.
    fn fetch(&mut self, id: JobId, ids: &mut RequestIds, out: &mut Vec<SegmentRequest>) {
        let job = self.jobs.get_mut(&id).expect("the caller has it");
        let mut by_segment: BTreeMap<SegmentRef, Vec<usize>> = BTreeMap::new();
        for (i, slot) in job.slots.iter().enumerate() {
            if let Source::Stored { segment, .. } = &slot.source {
                by_segment.entry(*segment).or_default().push(i);
            }
        }
        job.outstanding = by_segment.len();
        for (segment, mut slots) in by_segment {
            slots.sort_by_key(|i| match &job.slots[*i].source {
                Source::Stored { offset, .. } => *offset,
                _ => 0,
            });
            let runs = slots
                .iter()
                .filter_map(|i| match &job.slots[*i].source {
                    Source::Stored { offset, sums, .. } => Some(BlockRun {
                        offset: *offset,
                        sums: sums.clone(),
                    }),
                    _ => None,
                })
                .collect();
            let request = ids.take();
            self.fills.insert(
                request,
                Fill {
                    job: id,
                    segment,
                    slots,
                },
            );
            out.push(SegmentRequest::Read {
                id: request,
                segment,
                runs,
            });
        }
    }

    /// A segment read's answer; `None` if it is unreadable.
    pub(super) fn arrived(
        &mut self,
        id: RequestId,
        runs: Option<Vec<Bytes>>,
        layers: &mut Layers,
        ids: &mut RequestIds,
        out: &mut Vec<SegmentRequest>,
    ) {
        if let Some(page) = self.loads.remove(&id) {
            self.loading.remove(&page);
            let bytes = runs.and_then(|mut runs| runs.pop());
            let good = bytes.is_some_and(|bytes| layers.index.arrived(page, bytes).is_ok());
            match good {
                true => self.resting.remove(&page),
                false => self.resting.insert(page),
            };
            for id in std::mem::take(&mut self.looking) {
                let Some(job) = self.jobs.get_mut(&id) else {
                    continue;
                };
                if !good && !job.wanted.contains(&page) {
                    self.looking.push_back(id);
                } else if good || job.failed.insert(page) {
                    // It may be elsewhere by now: look up again (R15).
                    self.look(id, layers, ids, out);
                } else {
                    self.fail(id);
                }
            }
            return;
        }
        let Some(fill) = self.fills.remove(&id) else {
            return;
        };
        let Some(runs) = runs else {
            self.fail(fill.job);
            return;
        };
        let Some(job) = self.jobs.get_mut(&fill.job) else {
            return;
        };
        assert_eq!(
            runs.len(),
            fill.slots.len(),
            "the Segment machine answers run by run"
        );
        for (i, bytes) in fill.slots.iter().zip(runs) {
            // What is copied moves away: its place in the cache would be of no use.
            if !matches!(job.target, Target::Copy) {
                keep(layers, fill.segment, &job.slots[*i], &bytes);
            }
            job.slots[*i].source = Source::Bytes(bytes);
        }
        job.outstanding -= 1;
        self.finish_if_ready(fill.job);
    }

    fn fail(&mut self, id: JobId) {
        let number = id;
        let Some(job) = self.jobs.remove(&id) else {
            return;
        };
        if let Some(asker) = job.target.asker() {
            self.askers.remove(&asker);
        }
        self.done.push(match job.target {
            Target::Read { from, id, .. } | Target::Status { from, id, .. } => Outcome::Answer {
                to: from,
                id,
                reply: VolumeReply::Error(BlockError::Unreadable),
                payload: Payload::empty(),
            },
            Target::Base { block } => Outcome::Base { block, bytes: None },
            Target::Copy => Outcome::Copied {
                job: number,
                bytes: None,
            },
        });
    }

    fn finish_if_ready(&mut self, id: JobId) {
        let number = id;
        let job = &self.jobs[&id];
        if job.outstanding > 0 || job.looking {
            return;
        }
        let job = self.jobs.remove(&id).expect("just seen");
        if let Some(asker) = job.target.asker() {
            self.askers.remove(&asker);
        }
        self.done.push(match job.target {
            Target::Read {
                from,
                id,
                offset,
                length,
            } => {
                let (chunks, payload) = assemble(job.slots, offset, length);
                Outcome::Answer {
                    to: from,
                    id,
                    reply: VolumeReply::Data(chunks),
                    payload,
                }
            }
            Target::Status {
                from,
                id,
                offset,
                length,
            } => {
                let mut extents = extents(&job.slots, offset, length);
                if planted(Bug::ShortStatus) {
                    extents.truncate(1);
                }
                let reply = VolumeReply::Status(extents);
                Outcome::Answer {
                    to: from,
                    id,
                    reply,
                    payload: Payload::empty(),
                }
            }
            Target::Base { block } => {
                let bytes = job.slots.into_iter().next().map(|slot| whole(&slot));
                Outcome::Base { block, bytes }
            }
            Target::Copy => {
                let slots = job.slots.into_iter();
                let bytes = slots.map(|slot| match slot.source {
                    Source::Bytes(bytes) => bytes,
                    Source::Zeros { .. } | Source::Stored { .. } => {
                        unreachable!("every read was answered")
                    }
                });
                let bytes = Some(bytes.collect());
                Outcome::Copied { job: number, bytes }
            }
        });
    }
}

/// The blocks that a range lies in.
pub(super) fn blocks(offset: u64, length: u64) -> (BlockNo, u64) {
    let block = BLOCK_BYTES as u64;
    let first = offset / block;
    (BlockNo(first), (offset + length).div_ceil(block) - first)
}

/// The blocks that a job looks at.
fn span(target: Target) -> (BlockNo, u64) {
    match target {
        Target::Read { offset, length, .. } => blocks(offset, u64::from(length)),
        Target::Status { offset, length, .. } => blocks(offset, length.min(STATUS_BYTES_MAX)),
        Target::Base { block } => (block, 1),
        Target::Copy => unreachable!("what is copied was looked up"),
    }
}

/// Keeps what was read from a segment. A block of its own buffer, so that it pins no more.
fn keep(layers: &mut Layers, segment: SegmentRef, slot: &Slot, bytes: &Bytes) {
    let Source::Stored { offset, .. } = slot.source else {
        return;
    };
    let first = offset as usize / BLOCK_BYTES;
    for (i, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let number = u32::try_from(first + i).expect("a block of a segment");
        let own = if bytes.len() == BLOCK_BYTES {
            bytes.clone()
        } else {
            Bytes::copy_from_slice(block)
        };
        layers.cache.put((segment.id, number), own);
    }
}

/// A slot's single block with its patches laid over it.
fn whole(slot: &Slot) -> Bytes {
    assert_eq!(slot.blocks, 1);
    let mut block = match &slot.source {
        Source::Bytes(bytes) => {
            if slot.patches.is_empty() {
                return bytes.clone();
            }
            BytesMut::from(&bytes[..])
        }
        Source::Zeros { .. } => BytesMut::zeroed(BLOCK_BYTES),
        Source::Stored { .. } => unreachable!("every read was answered"),
    };
    for patch in &slot.patches {
        patch.lay_over(&mut block);
    }
    block.freeze()
}

fn assemble(slots: Vec<Slot>, offset: u64, length: u32) -> (Vec<ReadChunk>, Payload) {
    let (start, end) = (offset, offset + u64::from(length));
    let mut chunks: Vec<ReadChunk> = Vec::new();
    let mut payload = Payload::empty();
    for slot in slots {
        let slot_start = slot.first.0 * BLOCK_BYTES as u64;
        let from = start.max(slot_start) - slot_start;
        let to = end.min(slot_start + slot.blocks * BLOCK_BYTES as u64) - slot_start;
        let len = u32::try_from(to - from).expect("within the read's length");
        if matches!(slot.source, Source::Zeros { .. }) && slot.patches.is_empty() {
            match chunks.last_mut() {
                Some(ReadChunk::Zeros(n)) => *n += len,
                _ => chunks.push(ReadChunk::Zeros(len)),
            }
            continue;
        }
        let bytes = match (&slot.source, slot.patches.is_empty()) {
            (Source::Bytes(bytes), true) => bytes.clone(),
            _ => whole(&slot),
        };
        let range =
            usize::try_from(from).expect("in memory")..usize::try_from(to).expect("in memory");
        payload.push(bytes.slice(range));
        match chunks.last_mut() {
            Some(ReadChunk::Data(n)) => *n += len,
            _ => chunks.push(ReadChunk::Data(len)),
        }
    }
    (chunks, payload)
}

/// How a range is allocated, from where its blocks come from.
pub(super) fn extents(slots: &[Slot], offset: u64, length: u64) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    let end = offset + length;
    for slot in slots {
        let slot_start = slot.first.0 * BLOCK_BYTES as u64;
        let from = slot_start.max(offset);
        let to = (slot_start + slot.blocks * BLOCK_BYTES as u64).min(end);
        let state = match slot.source {
            Source::Zeros { allocated: false } if slot.patches.is_empty() => Allocation::Hole,
            Source::Zeros { .. } if slot.patches.is_empty() => Allocation::Zero,
            Source::Stored { .. } if planted(Bug::WrongStatus) => Allocation::Hole,
            _ => Allocation::Data,
        };
        match out.last_mut() {
            Some(last) if last.state == state => last.length += to - from,
            _ => out.push(Extent {
                length: to - from,
                state,
            }),
        }
    }
    out
}
