//! Payload beside a header: buffers that are handed on, never copied for bookkeeping.

use bytes::{Bytes, BytesMut};

/// A byte string in one or more buffers.
#[derive(Clone, Default, Debug)]
pub struct Payload {
    chunks: Vec<Bytes>,
    len: usize,
}

impl Payload {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }

    /// Appends a buffer.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push(chunk);
        }
    }

    /// Appends another payload's buffers.
    pub fn append(&mut self, other: &Self) {
        self.chunks.extend(other.chunks.iter().cloned());
        self.len += other.len;
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers in order.
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// One contiguous buffer: free if there is one chunk, else the one gather copy.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        if self.chunks.len() == 1 {
            return self.chunks.swap_remove(0);
        }
        let mut all = BytesMut::with_capacity(self.len);
        for chunk in &self.chunks {
            all.extend_from_slice(chunk);
        }
        all.freeze()
    }

    /// The sub-range `[start, start + len)`, sharing the buffers; `None` if out of range.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Option<Self> {
        if start.checked_add(len)? > self.len {
            return None;
        }
        let mut out = Self::empty();
        let (mut skip, mut want) = (start, len);
        for chunk in &self.chunks {
            if skip >= chunk.len() {
                skip -= chunk.len();
                continue;
            }
            let take = want.min(chunk.len() - skip);
            out.push(chunk.slice(skip..skip + take));
            want -= take;
            skip = 0;
            if want == 0 {
                break;
            }
        }
        Some(out)
    }
}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Self {
        let mut out = Self::empty();
        out.push(chunk);
        out
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self
                .chunks
                .iter()
                .flatten()
                .eq(other.chunks.iter().flatten())
    }
}

impl Eq for Payload {}
