//! The bounded queue in front of one peer's streams of one class.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use model::payload::Payload;
use tokio::sync::Notify;

use super::config::ClassLimits;
use super::stats::ClassCounters;
use super::ways::share;
use crate::paths::Mark;

/// A message that waits for its stream.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) mark: Mark,
    pub(crate) header: Vec<u8>,
    pub(crate) payload: Payload,
    expires: Instant,
}

impl Item {
    pub(crate) fn bytes(&self) -> usize {
        self.mark.len() + self.header.len() + self.payload.len()
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
    pub(crate) fn push(
        &self,
        mark: Mark,
        header: Vec<u8>,
        payload: Payload,
        now: Instant,
    ) -> Result<(), Full> {
        let (_, patience) = share(mark.leg);
        let item = Item {
            mark,
            header,
            payload,
            expires: now + self.limits.deadline / patience,
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
        let (room, _) = share(item.mark.leg);
        inner.items.is_empty()
            || (inner.items.len() < self.limits.queue_messages_max / room
                && inner.bytes + item.bytes() <= self.limits.queue_bytes_max / room)
    }

    /// The oldest expire first, but for those that are relayed: they are dropped when their turn
    /// comes.
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
        let (mut taken, mut expired) = (0, 0);
        while let Some(item) = inner.items.front() {
            if item.expires <= now {
                inner.bytes -= item.bytes();
                inner.items.pop_front();
                expired += 1;
                continue;
            }
            if taken > 0 && taken + item.bytes() > bytes_max {
                break;
            }
            taken += item.bytes();
            if let Some(item) = inner.items.pop_front() {
                inner.bytes -= item.bytes();
                out.push(item);
            }
        }
        self.counters.add_expired(expired);
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
