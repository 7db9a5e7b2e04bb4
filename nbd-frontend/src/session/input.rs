//! Bytes of the client that are not processed yet.

use bytes::BufMut;
use bytes::buf::Limit;

/// Size of the buffer in bytes during the handshake, and the least it ever has.
pub(super) const HANDSHAKE_BYTES: usize = 4096;

/// A read buffer: filled at its end by the shell, emptied at its front by the session.
#[derive(Debug, Default)]
pub(super) struct Staging {
    bytes: Vec<u8>,
    start: usize,
}

impl Staging {
    /// Room for bytes so that `capacity` of them can wait in all; at least one more.
    pub(super) fn room(&mut self, capacity: usize) -> Limit<&mut Vec<u8>> {
        self.bytes.drain(..self.start);
        self.start = 0;
        let room = capacity.saturating_sub(self.bytes.len()).max(1);
        self.bytes.reserve_exact(room);
        (&mut self.bytes).limit(room)
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `count` bytes, if that many wait.
    pub(super) fn peek(&self, count: usize) -> Option<&[u8]> {
        self.bytes[self.start..].get(..count)
    }

    /// The first bytes, at most `count`.
    pub(super) fn front(&self, count: usize) -> &[u8] {
        let count = count.min(self.len());
        &self.bytes[self.start..self.start + count]
    }

    /// Drops the first `count` bytes, which were peeked at.
    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "only what was seen is consumed");
        self.start += count;
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    /// Drops up to `count` bytes and returns how many.
    pub(super) fn skip(&mut self, count: u64) -> u64 {
        let step = usize::try_from(count).unwrap_or(usize::MAX).min(self.len());
        self.consume(step);
        step as u64
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}
