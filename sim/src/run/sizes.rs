//! The volume's size, as the operator has it changed: smaller, and as it was again. What is cut
//! off reads as zeros once the volume has grown back; in between, it is served or refused.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use model::BLOCK_BYTES;
use model::block::Allocation;
use model::ids::Version;
use model::meta::{MetaRequest, MetaToken};
use model::time::Time;

use super::{Failure, Own, Run};
use crate::allocation::TouchId;
use crate::faults::{Fault, FaultPlan};
use crate::oracle::{SECTOR, Value, WriteId};
use crate::world::RUN_TOKENS;

/// How often the operator looks, and how soon he asks again.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const AGAIN: Duration = Duration::from_millis(300);

/// Sectors of a block.
const SECTORS: u64 = (BLOCK_BYTES / SECTOR) as u64;

/// A block that was cut off: zeros from some time on between its cut and its return.
#[derive(Debug)]
struct CutBlock {
    called: Time,
    write: WriteId,
    touch: TouchId,
}

/// What the operator wants of the volume's size.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// The sizes that are still to come, in blocks, one after the other.
    wanted: VecDeque<u64>,
    /// When the first of them was asked for last.
    asked: Option<Time>,
    /// The newest word on the size that was seen: who knew it may be dead.
    seen: Version,
    /// The blocks that are cut off.
    cut: BTreeMap<u64, CutBlock>,
    /// Those that were: from when until when.
    returned: Vec<(u64, Time, Time)>,
}

impl Sizes {
    /// Whether an operation on these sectors, called then, may be refused for being too far.
    pub(super) fn may_refuse(&self, called: Time, first: u64, count: u64) -> bool {
        let blocks = first / SECTORS..(first + count).div_ceil(SECTORS);
        let was_cut =
            |(block, _, until): &(u64, Time, Time)| blocks.contains(block) && *until >= called;
        self.cut.range(blocks.clone()).next().is_some() || self.returned.iter().any(was_cut)
    }
}

impl Run {
    /// The volume's size at the beginning and at the end, in blocks.
    fn whole(&self) -> u64 {
        self.plan.workload.volume / BLOCK_BYTES as u64
    }

    /// The size in blocks by the newest word, if that is known to somebody who lives.
    fn size(&self) -> Option<(u64, Version)> {
        let record = self.world.record(self.volume)?;
        let known = record.resized >= self.sizes.seen;
        known.then(|| (record.size_bytes / BLOCK_BYTES as u64, record.resized))
    }

    /// How small the operator wants it, perhaps in two steps, if it can be smaller.
    pub(super) fn shrunk(&self, plan: &FaultPlan) -> Fault {
        let last = self.sizes.wanted.back().copied();
        let is = last.or_else(|| Some(self.size()?.0));
        let Some(is) = is.filter(|_| self.whole() >= 2) else {
            return Fault::Spared;
        };
        // Some fraction of what there is, not always the same one.
        let of = |size: u64| (size * plan.other.clamp(1, 4) / 5).max(1);
        let once = of(is);
        Fault::Resized(match plan.both {
            true => vec![once, of(once)],
            false => vec![once],
        })
    }

    /// The operator wants it as it was, perhaps in two steps.
    pub(super) fn grow_back(&mut self, plan: &FaultPlan) {
        let whole = self.whole();
        let wanted = match plan.other {
            3 => vec![(whole / 2).max(1), whole],
            _ => vec![whole],
        };
        self.want_sizes(&wanted);
    }

    /// Nobody serves the volume, and it is made smaller and larger: whoever serves it next cuts
    /// it. In half the runs that come here.
    pub(super) fn resize_unserved(&mut self) -> Result<(), Failure> {
        if self.whole() < 2 || self.rng_of_sizes.one_in(2) {
            return Ok(());
        }
        let (half, whole) = (self.whole() / 2, self.whole());
        self.want_sizes(&[half, whole]);
        self.until("the volume's size", Duration::from_secs(60), |run| {
            run.is_sized()
        })
    }

    /// The operator wants it to have these sizes, one after the other.
    pub(super) fn want_sizes(&mut self, sizes: &[u64]) {
        if self.sizes.wanted.is_empty() {
            let now = self.world.now();
            self.world.schedule(now, Own::Resize.number());
        }
        self.sizes.wanted.extend(sizes);
    }

    /// The operator looks, and asks for the next size.
    pub(super) fn resize(&mut self) {
        let now = self.world.now();
        let Some(wanted) = self.sizes.wanted.front().copied() else {
            return;
        };
        self.world.schedule(now + LOOK_EVERY, Own::Resize.number());
        let Some((is, resized)) = self.size() else {
            return;
        };
        self.sizes.seen = resized;
        if wanted == is {
            self.return_blocks(now, wanted);
            self.sizes.wanted.pop_front();
            self.sizes.asked = None;
            self.tell(format!("the volume has {is} blocks"));
            return;
        }
        if self.sizes.asked.is_some_and(|at| now.since(at) < AGAIN) {
            return;
        }
        let running = self.running();
        if running.is_empty() {
            return;
        }
        self.cut_blocks(now, wanted);
        self.sizes.asked = Some(now);
        let by = *self.rng_of_sizes.pick(&running);
        self.next_tag += 1;
        let token = MetaToken(RUN_TOKENS + self.next_tag);
        let request = MetaRequest::ResizeVolume {
            volume: self.volume,
            expected: resized,
            size_bytes: wanted * BLOCK_BYTES as u64,
        };
        self.world.ask_meta(by, token, request);
    }

    /// From now on what lies beyond may be zeros.
    fn cut_blocks(&mut self, now: Time, size: u64) {
        let horizon = self.horizon();
        for block in size..self.whole() {
            if self.sizes.cut.contains_key(&block) {
                continue;
            }
            let sectors = block * SECTORS..(block + 1) * SECTORS;
            let write = self
                .oracle
                .write_called(now, sectors.map(|s| (s, Value::ZERO)));
            let hole = std::iter::once((block, Allocation::Hole));
            let touch = self.allocation.called(now, hole, horizon);
            let called = now;
            self.sizes.cut.insert(
                block,
                CutBlock {
                    called,
                    write,
                    touch,
                },
            );
        }
    }

    /// The volume has grown: what had been cut off by then is zeros.
    fn return_blocks(&mut self, now: Time, size: u64) {
        let still = self.sizes.cut.split_off(&size);
        for (block, was) in std::mem::replace(&mut self.sizes.cut, still) {
            self.oracle.write_answered(now, was.write);
            self.allocation.answered(now, was.touch);
            self.sizes.returned.push((block, was.called, now));
        }
    }

    /// Whether the volume is as the operator wants it.
    pub(super) fn is_sized(&self) -> bool {
        self.sizes.wanted.is_empty()
    }
}
