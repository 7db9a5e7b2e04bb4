//! A drain that finds no room. What was trimmed since its cut gives room only once a checkpoint
//! unmaps it, and so does what was copied together: so the cut is taken back and a later one is
//! made, which has both in it. Of its data, what takes the place of other data goes into a reserve
//! (R18): with the checkpoint that makes room for as much. The rest stays in the journal.
//!
//! **Invariant (R13):** a cut is taken back as long as the index knows nothing of it, and all that
//! was committed since is in the next one: each checkpoint is an exact cut.

use std::ops::Range;

use model::ids::BlockNo;
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::segments::Packed;
use super::{Drain, Serving};
use crate::planted::{Bug, planted};
use crate::volume::index::Mapping;
use crate::volume::layers::Frozen;
use crate::volume::overlay::Content;

/// Blocks of a crowded cut that are packed at most: while disks refuse them its checkpoint, which
/// makes room, is not there.
const PACKED_MAX: usize = 4096;

/// Runs whose pages are loaded together.
const RUNS_AHEAD: usize = 64;

impl Frozen {
    /// The next blocks of a run that are packed, counted from its first: all, or on a full fabric
    /// those that replace others.
    pub(super) fn next_with_room(&self, first: BlockNo, of: Range<usize>) -> Option<Range<usize>> {
        if !self.crowded_out {
            return Some(of).filter(|of| !of.is_empty());
        }
        let replaces = |i: &usize| self.replacing.contains(&BlockNo(first.0 + *i as u64));
        let from = of.clone().find(replaces)?;
        let to = (from..of.end).find(|i| !replaces(i)).unwrap_or(of.end);
        Some(from..to)
    }
}

impl Serving {
    /// Whether what is being drained found no room as it was.
    pub(super) fn is_crowded_cut(&self) -> bool {
        let frozen = self.layers.frozen.as_ref();
        frozen.is_some_and(|frozen| frozen.crowded_out)
    }

    /// Whether there is no room, and a checkpoint of what is here would make some.
    pub(super) fn would_make_room(&self, now: Time) -> bool {
        let frozen = self.layers.frozen.as_ref();
        let unmaps = self.layers.active.unmaps() || frozen.is_some_and(|f| f.overlay.unmaps());
        self.fullness.is_certain(now)
            && (unmaps || self.fullness.has_overwrite_waiting() || self.rewriter_wants_checkpoint())
            && !self.is_crowded_cut()
            && !planted(Bug::HeldSpace)
    }

    /// Takes the cut back, and makes another one of all that is committed now. Segments that were
    /// written already are of it as if records had brought them (R14).
    pub(super) fn take_back(&mut self, now: Time) {
        reached(Sometimes::CutTakenBack);
        let Drain::Blocked {
            written, writes, ..
        } = std::mem::replace(&mut self.drain, Drain::Idle)
        else {
            unreachable!("the caller matched")
        };
        assert!(writes.is_empty(), "every write was answered");
        let frozen = self.layers.frozen.take();
        let mut overlay = frozen.expect("a drain has a frozen layer").overlay;
        for packed in &written {
            packed.bring_to(&mut overlay);
        }
        overlay.take_in(std::mem::take(&mut self.layers.active));
        self.layers.active = overlay;
        self.freeze(now);
        self.held_until = now + self.config.drain_age;
        self.fullness.cut_anew();
        let frozen = self.layers.frozen.as_mut();
        frozen.expect("just frozen").crowded_out = true;
    }

    /// Finds what of a crowded cut takes the place of data in the index; false while pages of that
    /// are being loaded. What they do not tell in time stays in the journal. So does all data of a
    /// cut that unmaps something: its checkpoint makes room the sooner.
    pub(super) fn find_replacing(&mut self, now: Time) -> bool {
        let Drain::Merging { until, .. } = self.drain else {
            unreachable!("the caller matched")
        };
        let frozen = self.layers.frozen.as_mut().expect("a drain's layer");
        if !frozen.crowded_out || frozen.overlay.unmaps() {
            return true;
        }
        let from = frozen.looked_to;
        let data = frozen.overlay.runs().filter_map(|(first, run)| {
            let is_data = matches!(run.content, Content::Data { .. });
            (is_data && first >= from).then_some((first, run.blocks))
        });
        let mut missing = Vec::new();
        for (first, blocks) in data {
            let count = u32::try_from(blocks).expect("a run fits a segment");
            match self.layers.index.lookup(first, count) {
                Ok(_) if !missing.is_empty() => {}
                Ok(runs) => {
                    let mut at = first;
                    for run in runs {
                        let end = BlockNo(at.0 + u64::from(run.blocks));
                        if matches!(run.mapping, Mapping::Data { .. }) {
                            frozen.replacing.extend((at.0..end.0).map(BlockNo));
                        }
                        at = end;
                    }
                    frozen.looked_to = at;
                }
                Err(_) if now >= until => {}
                Err(wanted) => missing.push(wanted),
            }
            if missing.len() >= RUNS_AHEAD || frozen.replacing.len() >= PACKED_MAX {
                break;
            }
        }
        let is_done = missing.is_empty();
        for wanted in missing {
            self.reader
                .load(wanted, &mut self.segment_ids, &mut self.to_segment);
        }
        is_done
    }

    /// What found no room in the reserve either stays in the journal: the checkpoint goes on
    /// without it, and what that frees is room for the next one's.
    pub(super) fn keep_crowded_out(&mut self, now: Time) {
        let Drain::Blocked {
            unwritten,
            written,
            writes,
        } = std::mem::replace(&mut self.drain, Drain::Idle)
        else {
            unreachable!("the caller matched")
        };
        assert!(self.is_crowded_cut(), "only such a cut's are counted");
        reached(Sometimes::OverwriteKept);
        let (kept, unwritten): (Vec<_>, Vec<_>) =
            unwritten.into_iter().partition(Packed::has_no_room);
        for packed in kept {
            self.journal_again(now, packed.blocks());
        }
        self.drain = match unwritten.is_empty() {
            true => Drain::Writing { writes, written },
            false => Drain::Blocked {
                unwritten,
                written,
                writes,
            },
        };
    }
}
