//! Bytes for the client: headers gathered in one buffer, payload beside them, never copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Payload below this many bytes is copied among the headers: cheaper than one more slice.
const INLINE_BYTES: usize = 512;

#[derive(Debug)]
enum Piece {
    /// That many bytes from the front of the headers.
    Headers(usize),
    /// Payload, its first byte not sent yet.
    Payload(Bytes),
}

/// What waits to be sent, oldest first. A shell gathers it with [`Output::slices`] into one
/// vectored write and reports with [`Output::sent`] how much of it went out.
#[derive(Debug, Default)]
pub struct Output {
    headers: BytesMut,
    pieces: VecDeque<Piece>,
    length: usize,
}

impl Output {
    /// How many bytes wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Fills `slices` with the first pieces that wait and returns how many slices it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut headers = &self.headers[..];
        let mut filled = 0;
        for (piece, slice) in self.pieces.iter().zip(slices) {
            let bytes = match piece {
                Piece::Headers(length) => {
                    let (first, rest) = headers.split_at(*length);
                    headers = rest;
                    first
                }
                Piece::Payload(bytes) => &bytes[..],
            };
            *slice = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Forgets the first `count` bytes: they were sent.
    ///
    /// # Panics
    /// If fewer bytes wait: the shell has lost count.
    pub fn sent(&mut self, mut count: usize) {
        assert!(count <= self.length, "more bytes were sent than waited");
        self.length -= count;
        while count > 0 {
            let piece = self
                .pieces
                .front_mut()
                .expect("the pieces add up to the length");
            let (size, step) = match piece {
                Piece::Headers(length) => {
                    let step = count.min(*length);
                    self.headers.advance(step);
                    let size = *length;
                    *length -= step;
                    (size, step)
                }
                Piece::Payload(bytes) => {
                    let (size, step) = (bytes.len(), count.min(bytes.len()));
                    bytes.advance(step);
                    (size, step)
                }
            };
            count -= step;
            if step == size {
                self.pieces.pop_front();
            }
        }
        if self.length == 0 {
            self.headers.clear();
        }
    }

    /// Appends header bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.headers.extend_from_slice(bytes);
        self.length += bytes.len();
        if let Some(Piece::Headers(length)) = self.pieces.back_mut() {
            *length += bytes.len();
        } else {
            self.pieces.push_back(Piece::Headers(bytes.len()));
        }
    }

    /// Appends payload, without a copy unless it is tiny.
    pub(super) fn push(&mut self, payload: Bytes) {
        if payload.len() < INLINE_BYTES {
            self.put(&payload);
        } else {
            self.length += payload.len();
            self.pieces.push_back(Piece::Payload(payload));
        }
    }
}
