//! Frames on a stream: a mark and two lengths, a header, a payload.
//!
//! ```text
//! 0             4         8                  8 + h                8 + h + p
//! | m: 4 h: 28  | p: u32  | header (h bytes) | payload (p bytes)  |   little-endian
//! ```
//!
//! The mark is the upper four bits of the first word; what it means is `paths`' business.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

/// Bytes of a frame before its header.
pub const PREFIX_BYTES: usize = 8;

/// A mark has four bits.
pub const MARK_MAX: u8 = 15;

/// Bits of a header's length.
const LENGTH_BITS: u32 = 28;

/// No payload of the fabric is longer.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// What a stream may carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest header, bytes.
    pub header_bytes_max: usize,
    /// Longest payload, bytes.
    pub payload_bytes_max: usize,
    /// Whether frames may bear a mark.
    pub marked: bool,
}

impl Limits {
    /// Between nodes of a fabric.
    pub const FABRIC: Self = Self {
        header_bytes_max: model::wire::HEADER_BYTES_MAX,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        marked: true,
    };

    fn check(self, mark: u8, header: usize, payload: usize) -> Result<(), FrameError> {
        if mark > MARK_MAX || mark != 0 && !self.marked {
            return Err(FrameError::Marked { mark });
        }
        if header > self.header_bytes_max {
            return Err(FrameError::HeaderTooLong { bytes: header });
        }
        if payload > self.payload_bytes_max {
            return Err(FrameError::PayloadTooLong { bytes: payload });
        }
        Ok(())
    }
}

/// A frame that breaks the limits. On a received stream it is final: nothing after it can be
/// understood.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The header is, or claims to be, too long.
    #[error("a header of {bytes} bytes is over the limit")]
    HeaderTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The payload is, or claims to be, too long.
    #[error("a payload of {bytes} bytes is over the limit")]
    PayloadTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A mark where there is none, or of more than four bits.
    #[error("a frame bears the mark {mark}")]
    Marked {
        /// The mark.
        mark: u8,
    },
}

/// The bytes that go before a header. What a mark puts before the header counts as header.
///
/// # Errors
/// If a length is over its limit, or the mark is not one.
pub fn prefix(
    mark: u8,
    header: usize,
    payload: usize,
    limits: Limits,
) -> Result<[u8; PREFIX_BYTES], FrameError> {
    limits.check(mark, header, payload)?;
    let h = u32::try_from(header).ok().filter(|h| h >> LENGTH_BITS == 0);
    let h = h.ok_or(FrameError::HeaderTooLong { bytes: header })?;
    let p = u32::try_from(payload).map_err(|_| FrameError::PayloadTooLong { bytes: payload })?;
    let mut out = [0; PREFIX_BYTES];
    out[..4].copy_from_slice(&(h | u32::from(mark) << LENGTH_BITS).to_le_bytes());
    out[4..].copy_from_slice(&p.to_le_bytes());
    Ok(out)
}

/// A message as it arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Four bits.
    pub mark: u8,
    /// Shares the received buffer if it lies in one piece: decode it, don't keep it.
    pub header: Bytes,
    /// In a buffer of its own (the one gather copy), so that keeping it pins nothing else.
    pub payload: Bytes,
}

/// Cuts a stream of bytes, in pieces of any size, into frames.
///
/// Memory: what was pushed and not yet returned, plus one payload while it is gathered; the
/// lengths that a peer claims allocate nothing. Draining [`Decoder::next_frame`] after every
/// push bounds it by the limits plus a piece.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    pieces: VecDeque<Bytes>,
    buffered: usize,
    /// Mark and lengths of the frame being received.
    lengths: Option<(u8, usize, usize)>,
    failed: Option<FrameError>,
}

impl Decoder {
    /// At the start of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pieces: VecDeque::new(),
            buffered: 0,
            lengths: None,
            failed: None,
        }
    }

    /// The next bytes of the stream.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() && self.failed.is_none() {
            self.buffered += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The next whole frame; `None` if more bytes are needed first.
    ///
    /// # Errors
    /// A frame claims more than the limits. Every later call repeats the error.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (mark, header, payload) = match self.lengths {
            Some(lengths) => lengths,
            None => {
                if self.buffered < PREFIX_BYTES {
                    return Ok(None);
                }
                let lengths = self.take_prefix();
                if let Err(error) = self.limits.check(lengths.0, lengths.1, lengths.2) {
                    self.pieces.clear();
                    self.buffered = 0;
                    self.failed = Some(error);
                    return Err(error);
                }
                self.lengths = Some(lengths);
                lengths
            }
        };
        if self.buffered < header + payload {
            return Ok(None);
        }
        self.lengths = None;
        let header = self.take_shared(header);
        let payload = self.gather(payload);
        Ok(Some(Frame {
            mark,
            header,
            payload,
        }))
    }

    /// Whether the stream may end here without cutting a frame.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.buffered == 0 && self.lengths.is_none()
    }

    fn take_prefix(&mut self) -> (u8, usize, usize) {
        let mut bytes = [0; PREFIX_BYTES];
        self.copy_out(PREFIX_BYTES, |at, part| {
            bytes[at..at + part.len()].copy_from_slice(part)
        });
        let [a, b, c, d, e, f, g, h] = bytes;
        let widen = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let first = u32::from_le_bytes([a, b, c, d]);
        (
            d >> (LENGTH_BITS - 24),
            widen(first & ((1 << LENGTH_BITS) - 1)),
            widen(u32::from_le_bytes([e, f, g, h])),
        )
    }

    /// `len` bytes, without a copy if they lie in one piece.
    fn take_shared(&mut self, len: usize) -> Bytes {
        match self.pieces.front_mut() {
            Some(front) if front.len() > len => {
                self.buffered -= len;
                front.split_to(len)
            }
            _ => self.gather(len),
        }
    }

    fn gather(&mut self, len: usize) -> Bytes {
        if len == 0 {
            return Bytes::new();
        }
        let mut out = BytesMut::with_capacity(len);
        self.copy_out(len, |_, part| out.extend_from_slice(part));
        out.freeze()
    }

    /// Hands `len` buffered bytes to `sink`, part by part with their offsets.
    fn copy_out(&mut self, len: usize, mut sink: impl FnMut(usize, &[u8])) {
        assert!(len <= self.buffered, "the caller counted what is buffered");
        let mut at = 0;
        while at < len {
            let Some(front) = self.pieces.front_mut() else {
                break;
            };
            let part = front.split_to(front.len().min(len - at));
            if front.is_empty() {
                self.pieces.pop_front();
            }
            sink(at, &part);
            at += part.len();
        }
        assert_eq!(at, len, "the pieces hold what is counted");
        self.buffered -= len;
    }
}
