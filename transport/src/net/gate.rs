//! Backpressure: while a class's gate is closed, its streams are not read, and QUIC's flow
//! control stops the senders.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Opens and closes reading of one class, for all peers at once.
#[derive(Debug, Default)]
pub struct Gate {
    closed: AtomicBool,
    opened: Notify,
}

impl Gate {
    /// Reading stops after the message that is being delivered, at most one per stream.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Reading goes on.
    pub fn open(&self) {
        self.closed.store(false, Ordering::Release);
        self.opened.notify_waiters();
    }

    /// Whether reading is stopped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Returns once it is open.
    pub(crate) async fn wait_open(&self) {
        while self.is_closed() {
            let mut opened = pin!(self.opened.notified());
            opened.as_mut().enable();
            // Opened between the two lines: the notification would be missed.
            if !self.is_closed() {
                return;
            }
            opened.await;
        }
    }
}
