//! One budget of bytes for all connections of a server.
//!
//! Each connection holds a few bytes of its own, so that small requests wait for nobody. What it
//! holds beyond them comes from a pool, in the order in which connections asked. A connection holds
//! nothing while it waits but what goes on by itself, so that two can't wait for each other; one
//! whose client holds a part of the pool and does not go on is dropped, if others wait
//! ([`super::Config::stall_max`]), and one whose client is gone in any case. What goes on by itself
//! goes on as the volume does: large requests of one that can't be served keep their part, and may
//! keep others of that size waiting.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::export::PAYLOAD_BYTES_MAX;

/// Bytes that every connection may hold without asking.
pub const OWN_BYTES: usize = 128 << 10;

/// The least that a pool may hold: one request of any kind, and what goes with it.
pub const POOL_BYTES_MIN: usize = PAYLOAD_BYTES_MAX as usize + (1 << 20);

/// A server's bytes, to be shared by its connections. Clones are of the same budget.
#[derive(Clone, Debug)]
pub struct Budget {
    pool: Arc<Semaphore>,
    bytes: usize,
    /// Connections that wait for a part of it.
    waiting: Rc<Cell<usize>>,
}

impl Budget {
    /// A budget with a pool of so many bytes, or of [`POOL_BYTES_MIN`] if that is more.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(POOL_BYTES_MIN, u32::MAX as usize);
        Self {
            pool: Arc::new(Semaphore::new(bytes)),
            bytes,
            waiting: Rc::default(),
        }
    }

    /// A connection's share, with nothing of the pool.
    pub(super) fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            taken: None,
            asked: None,
        }
    }
}

/// A part of the pool, as it is handed out.
type Part = OwnedSemaphorePermit;

struct Asked {
    part: LocalBoxFuture<'static, Part>,
    budget: Budget,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let waiting = &self.budget.waiting;
        waiting.set(waiting.get() - 1);
    }
}

/// What one connection may hold; dropping it gives everything back.
pub(super) struct Share {
    budget: Budget,
    taken: Option<Part>,
    asked: Option<Asked>,
}

impl Share {
    /// Bytes that may be held.
    pub(super) fn credit(&self) -> usize {
        OWN_BYTES + self.taken()
    }

    /// Bytes of the pool.
    pub(super) fn taken(&self) -> usize {
        self.taken.as_ref().map_or(0, Part::num_permits)
    }

    /// Whether another connection waits for a part of the pool.
    pub(super) fn is_wanted(&self) -> bool {
        self.budget.waiting.get() > usize::from(self.asked.is_some())
    }

    /// Gives back what is not needed to hold so many bytes.
    pub(super) fn keep(&mut self, held: usize) {
        let needed = held.saturating_sub(OWN_BYTES);
        if let Some(taken) = &mut self.taken {
            drop(taken.split(taken.num_permits().saturating_sub(needed)));
        }
    }

    /// Asks for what is missing to hold `needed` bytes, after [`Share::keep`]: whether it was
    /// handed out now. What was asked for before is waited for, whatever is needed by now.
    pub(super) fn poll_grow(&mut self, cx: &mut Context<'_>, needed: usize) -> bool {
        if self.asked.is_none() {
            let missing = needed.saturating_sub(self.credit());
            // More than there is: less will be needed once something of its own is done.
            if missing > self.budget.bytes {
                return false;
            }
            self.asked = Some(self.budget.ask(missing));
        }
        let asked = self
            .asked
            .as_mut()
            .map(|asked| asked.part.as_mut().poll(cx));
        let Some(Poll::Ready(part)) = asked else {
            return false;
        };
        self.asked = None;
        match &mut self.taken {
            Some(taken) => taken.merge(part),
            None => self.taken = Some(part),
        }
        true
    }

    /// Nothing is missing any more.
    pub(super) fn ask_no_more(&mut self) {
        self.asked = None;
    }
}

impl Budget {
    fn ask(&self, bytes: usize) -> Asked {
        let count = u32::try_from(bytes).expect("the pool is not larger");
        let pool = Arc::clone(&self.pool);
        let part = async move {
            let part = pool.acquire_many_owned(count).await;
            part.expect("the pool is never closed")
        };
        self.waiting.set(self.waiting.get() + 1);
        Asked {
            part: part.boxed_local(),
            budget: self.clone(),
        }
    }
}
