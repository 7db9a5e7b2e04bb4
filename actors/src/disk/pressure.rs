//! Whether clients want something of a disk: what upkeep elsewhere goes by.

use std::time::Duration;

use model::ids::Actor;
use model::time::Time;

use crate::messages::DiskRequest;

/// A disk that clients asked nothing of for so long is left alone.
const PRESSED_FOR: Duration = Duration::from_millis(500);

/// When clients' work came last: records for a journal, and what Segment machines read and write.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    last: Option<Time>,
}

impl Pressure {
    pub(super) fn note(&mut self, now: Time, from: Actor, request: &DiskRequest) {
        let is_clients = match request {
            DiskRequest::Append { records, .. } => !records.is_empty(),
            DiskRequest::Get { .. } | DiskRequest::Put(_) => matches!(from, Actor::Segment(_)),
            _ => false,
        };
        if is_clients {
            self.last = Some(now);
        }
    }

    pub(super) fn is_pressed(&self, now: Time) -> bool {
        self.last.is_some_and(|at| now.since(at) < PRESSED_FOR)
    }
}
