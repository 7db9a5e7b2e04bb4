//! Parity buffers that are used again: a fresh megabyte costs more in page faults than the
//! parity in it costs to compute.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

/// At most so many bytes lie idle in a pool.
const IDLE_BYTES_MAX: usize = 32 << 20;

/// A pool of buffers. A buffer comes back when the last [`Bytes`] of it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// A buffer of `len` bytes with anything in it.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Not one that is much too large: it would stay bound to the small.
        let fits = |b: &Vec<u8>| (len..=len.saturating_mul(2)).contains(&b.capacity());
        let found = idle.iter().position(fits).map(|i| idle.swap_remove(i));
        drop(idle);
        let mut buffer = found.unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// Hands a buffer out for good; it returns by itself.
    pub(crate) fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent {
            buffer,
            home: Arc::downgrade(self),
        })
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = idle.iter().map(Vec::capacity).sum();
        if held + buffer.capacity() <= IDLE_BYTES_MAX {
            idle.push(buffer);
        }
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: Weak<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.give_back(std::mem::take(&mut self.buffer));
        }
    }
}
