//! Requests that wait for the owner's start, or for the window: each once, however often its
//! client asks again, and only so many bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::ids::{Endpoint, RequestId};

use crate::messages::VolumeRequest;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) from: Endpoint,
    pub(super) id: RequestId,
    pub(super) request: VolumeRequest,
    pub(super) payload: Bytes,
}

/// Those that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    by_turn: BTreeMap<u64, Waiting>,
    turns: BTreeMap<(Endpoint, RequestId), u64>,
    next_turn: u64,
    bytes: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.by_turn.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }

    /// Their payload.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts one at the end; one that waits already keeps its turn, as it was asked for last.
    pub(super) fn push(&mut self, waiting: Waiting) {
        let asker = (waiting.from, waiting.id);
        let turn = self.turns.get(&asker).copied().unwrap_or_else(|| {
            self.next_turn += 1;
            self.next_turn
        });
        self.put(turn, waiting);
    }

    /// Takes the one whose turn it is, and its turn.
    pub(super) fn pop(&mut self) -> Option<(u64, Waiting)> {
        let (turn, waiting) = self.by_turn.pop_first()?;
        self.turns.remove(&(waiting.from, waiting.id));
        self.bytes -= waiting.payload.len();
        Some((turn, waiting))
    }

    /// Puts one at its turn.
    pub(super) fn put(&mut self, turn: u64, waiting: Waiting) {
        self.turns.insert((waiting.from, waiting.id), turn);
        self.bytes += waiting.payload.len();
        if let Some(before) = self.by_turn.insert(turn, waiting) {
            self.bytes -= before.payload.len();
        }
        assert_eq!(self.turns.len(), self.by_turn.len());
    }
}
