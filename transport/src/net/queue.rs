//! The bounded queue in front of one peer's streams of one class.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use model::payload::Payload;
use tokio::sync::Notify;

use super::config::ClassLimits;
use super::stats::ClassCounters;

/// A message that waits for its stream.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) header: Vec<u8>,
    pub(crate) payload: Payload,
    expires: Instant,
}

impl Item {
    pub(crate) fn bytes(&self) -> usize {
        self.header.len() + self.payload.len()
    }
}

/// The queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
}

/// First in, first out; bounded in messages and in bytes; old messages are dropped.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: ClassLimits,
    inner: Mutex<Inner>,
    ready: Notify,
    pub(crate) counters: ClassCounters,
}

impl Queue {
    pub(crate) fn new(limits: ClassLimits) -> Self {
        Self {
            limits,
            inner: Mutex::default(),
            ready: Notify::new(),
            counters: ClassCounters::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock can leave it half done: a poisoned one is as good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a message. A message longer than the byte bound is taken when alone.
    pub(crate) fn push(&self, header: Vec<u8>, payload: Payload, now: Instant) -> Result<(), Full> {
        let item = Item {
            header,
            payload,
            expires: now + self.limits.deadline,
        };
        let mut inner = self.lock();
        if !self.fits(&inner, &item) {
            self.purge_locked(&mut inner, now);
            if !self.fits(&inner, &item) {
                drop(inner);
                self.counters.add_busy();
                return Err(Full);
            }
        }
        inner.bytes += item.bytes();
        inner.items.push_back(item);
        drop(inner);
        self.ready.notify_one();
        Ok(())
    }

    fn fits(&self, inner: &Inner, item: &Item) -> bool {
        inner.items.is_empty()
            || (inner.items.len() < self.limits.queue_messages_max
                && inner.bytes + item.bytes() <= self.limits.queue_bytes_max)
    }

    /// Every message of a queue has the same deadline, so the oldest expires first.
    fn purge_locked(&self, inner: &mut Inner, now: Instant) {
        let mut expired = 0;
        while inner.items.front().is_some_and(|item| item.expires <= now) {
            if let Some(item) = inner.items.pop_front() {
                inner.bytes -= item.bytes();
                expired += 1;
            }
        }
        self.counters.add_expired(expired);
    }

    /// Drops what expired; whether anything is left.
    pub(crate) fn purge(&self, now: Instant) -> bool {
        let mut inner = self.lock();
        self.purge_locked(&mut inner, now);
        !inner.items.is_empty()
    }

    /// Moves live messages to `out` until it holds about `bytes_max`; at least one if there
    /// is one.
    pub(crate) fn take(&self, bytes_max: usize, now: Instant, out: &mut Vec<Item>) {
        let mut inner = self.lock();
        self.purge_locked(&mut inner, now);
        let mut taken = 0;
        while let Some(item) = inner.items.front() {
            if taken > 0 && taken + item.bytes() > bytes_max {
                break;
            }
            taken += item.bytes();
            if let Some(item) = inner.items.pop_front() {
                inner.bytes -= item.bytes();
                out.push(item);
            }
        }
    }

    /// Returns after a push that no waiter has seen yet; also without cause.
    pub(crate) async fn pushed(&self) {
        self.ready.notified().await;
    }

    /// (messages, bytes) now.
    pub(crate) fn len(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.items.len(), inner.bytes)
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        let dropped = std::mem::take(&mut *self.lock());
        drop(dropped);
    }
}
