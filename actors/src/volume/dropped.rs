//! Segments that no checkpoint reaches any more, until they may be deleted.
//!
//! **Invariant (R15):** a segment is handed out for deletion only once the checkpoint that
//! dropped it is committed *and* published, and no read that began before is running.

use std::collections::VecDeque;

use model::ids::{Position, SegmentId};

use super::read::JobId;
use crate::messages::SegmentRef;

#[derive(Debug)]
struct Dropped {
    /// Position of the record of the checkpoint that dropped them.
    at: Position,
    /// Reads before this one may still look at them.
    horizon: JobId,
    segments: Vec<SegmentRef>,
}

/// What committed checkpoints dropped, oldest first.
#[derive(Debug, Default)]
pub(super) struct DroppedSegments {
    queue: VecDeque<Dropped>,
    published: Position,
}

impl DroppedSegments {
    /// The committed checkpoint at `at` dropped these; reads from `horizon` on don't see them.
    pub(super) fn push(&mut self, at: Position, horizon: JobId, segments: Vec<SegmentRef>) {
        if segments.is_empty() {
            return;
        }
        let in_order = self.queue.back().is_none_or(|last| last.at < at);
        assert!(in_order, "checkpoints are committed in order");
        self.queue.push_back(Dropped {
            at,
            horizon,
            segments,
        });
    }

    /// The checkpoint at `at` is in the global record.
    pub(super) fn published(&mut self, at: Position) {
        self.published = self.published.max(at);
    }

    /// Whether a segment still waits here.
    pub(super) fn contains(&self, segment: SegmentId) -> bool {
        let mut waiting = self.queue.iter().flat_map(|d| &d.segments);
        waiting.any(|s| s.id == segment)
    }

    /// The next segments to be deleted, if `oldest` is the oldest read that still runs.
    pub(super) fn release(&mut self, oldest: JobId) -> Option<Vec<SegmentRef>> {
        let front = self.queue.front()?;
        if front.at > self.published || front.horizon > oldest {
            return None;
        }
        self.queue.pop_front().map(|dropped| dropped.segments)
    }
}

#[cfg(test)]
#[path = "tests/dropped.rs"]
mod tests;
