//! Replies of the transmission phase: simple, structured or extended.
//!
//! All data of a reply is at hand before its first byte is sent, so that its last content chunk
//! can carry the DONE flag: nothing can fail any more.

use model::block::{Allocation, Chunk, Extent};

use super::options::ALLOCATION_ID;
use super::output::Output;
use super::wire::{
    EXTENDED_REPLY_MAGIC, Errno, REPLY_FLAG_DONE, RequestHeader, SIMPLE_REPLY_MAGIC, STATE_HOLE,
    STATE_ZERO, STRUCTURED_REPLY_MAGIC, chunk, command_flag,
};
use crate::export::BLOCK_BYTES_PREFERRED;

/// Most extents in one reply: a client asks for the rest.
const EXTENTS_MAX: usize = 1 << 16;
/// What one takes at most.
const EXTENT_BYTES: u64 = 16;

/// How replies are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Simple replies only.
    Simple,
    /// Structured replies to reads, statuses and errors; simple ones to the rest.
    Structured,
    /// Extended headers both ways, no simple replies.
    Extended,
}

/// Whom a reply goes to, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct To {
    pub(super) framing: Framing,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    /// Whether it answers a read: those never get a simple reply once structured replies are
    /// agreed on.
    pub(super) read: bool,
}

/// A run of content: what one chunk says.
struct Run {
    offset: u64,
    length: u64,
    zeros: bool,
    /// How many of the chunks it takes.
    chunks: usize,
}

impl To {
    /// Success, without data.
    pub(super) fn done(self, out: &mut Output) {
        match self.framing {
            Framing::Structured if self.read => self.chunk(REPLY_FLAG_DONE, chunk::NONE, 0, out),
            Framing::Simple | Framing::Structured => self.simple(0, out),
            Framing::Extended => self.chunk(REPLY_FLAG_DONE, chunk::NONE, 0, out),
        }
    }

    /// Failure.
    pub(super) fn error(self, errno: Errno, out: &mut Output) {
        if self.framing == Framing::Simple {
            return self.simple(errno as u32, out);
        }
        let text = errno.message();
        self.chunk(REPLY_FLAG_DONE, chunk::ERROR, 6 + text.len() as u64, out);
        out.put(&(errno as u32).to_be_bytes());
        out.put(&(text.len() as u16).to_be_bytes());
        out.put(text.as_bytes());
    }

    /// What was read. Chunks that don't add up to what was asked for are an error.
    pub(super) fn data(self, header: &RequestHeader, chunks: Vec<Chunk>, out: &mut Output) {
        let sum = chunks
            .iter()
            .try_fold(0u64, |sum, chunk| sum.checked_add(length(chunk)));
        if sum != Some(header.length) {
            return self.error(Errno::Io, out);
        }
        if self.framing == Framing::Simple {
            self.simple(0, out);
            return chunks.into_iter().for_each(|chunk| push(chunk, out));
        }
        let one = header.flags & command_flag::DF != 0;
        let runs = runs(header.offset, &chunks, one);
        let last = runs.len().saturating_sub(1);
        let mut chunks = chunks.into_iter();
        for (index, run) in runs.into_iter().enumerate() {
            let flags = if index == last { REPLY_FLAG_DONE } else { 0 };
            let pieces = chunks.by_ref().take(run.chunks);
            if run.zeros {
                self.chunk(flags, chunk::OFFSET_HOLE, 12, out);
                out.put(&run.offset.to_be_bytes());
                out.put(&(run.length as u32).to_be_bytes());
                pieces.for_each(drop);
            } else {
                self.chunk(flags, chunk::OFFSET_DATA, 8 + run.length, out);
                out.put(&run.offset.to_be_bytes());
                pieces.for_each(|chunk| push(chunk, out));
            }
        }
    }

    /// How `length` bytes are allocated: one chunk for the one context. Reports nothing past
    /// the end asked for; with `one`, a single extent.
    pub(super) fn status(self, length: u64, extents: &[Extent], one: bool, out: &mut Output) {
        let most = if one { 1 } else { EXTENTS_MAX };
        let mut merged: Vec<(u64, u32)> = Vec::new();
        let mut left = length;
        for extent in extents.iter().filter(|extent| extent.length > 0) {
            let step = extent.length.min(left);
            let flags = state(extent.state);
            let full = merged.len() == most;
            match merged.last_mut() {
                _ if step == 0 => break,
                Some((length, before)) if *before == flags => *length += step,
                _ if full => break,
                _ => merged.push((step, flags)),
            }
            left -= step;
        }
        if merged.is_empty() {
            return self.error(Errno::Io, out);
        }
        let count = merged.len() as u64;
        if self.framing == Framing::Extended {
            self.chunk(
                REPLY_FLAG_DONE,
                chunk::BLOCK_STATUS_EXT,
                8 + 16 * count,
                out,
            );
            out.put(&ALLOCATION_ID.to_be_bytes());
            out.put(&(count as u32).to_be_bytes());
            for (length, flags) in merged {
                out.put(&length.to_be_bytes());
                out.put(&u64::from(flags).to_be_bytes());
            }
        } else {
            self.chunk(REPLY_FLAG_DONE, chunk::BLOCK_STATUS, 4 + 8 * count, out);
            out.put(&ALLOCATION_ID.to_be_bytes());
            for (length, flags) in merged {
                // Without extended headers no request is longer than 32 bits say.
                out.put(&(length as u32).to_be_bytes());
                out.put(&flags.to_be_bytes());
            }
        }
    }

    fn simple(self, errno: u32, out: &mut Output) {
        let mut head = [0; 16];
        head[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        head[4..8].copy_from_slice(&errno.to_be_bytes());
        head[8..].copy_from_slice(&self.cookie.to_be_bytes());
        out.put(&head);
    }

    /// A chunk's header.
    fn chunk(self, flags: u16, kind: u16, length: u64, out: &mut Output) {
        let mut head = [0; 32];
        head[4..6].copy_from_slice(&flags.to_be_bytes());
        head[6..8].copy_from_slice(&kind.to_be_bytes());
        head[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        if self.framing == Framing::Extended {
            head[..4].copy_from_slice(&EXTENDED_REPLY_MAGIC.to_be_bytes());
            head[16..24].copy_from_slice(&self.offset.to_be_bytes());
            head[24..].copy_from_slice(&length.to_be_bytes());
            out.put(&head);
        } else {
            head[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
            head[16..20].copy_from_slice(&(length as u32).to_be_bytes());
            out.put(&head[..20]);
        }
    }
}

/// What the extents of so many bytes take in a reply at most.
pub(super) const fn status_bytes_max(length: u64) -> u64 {
    // A range that begins within a block touches one more.
    let blocks = (length / BLOCK_BYTES_PREFERRED as u64).saturating_add(2);
    let most = EXTENTS_MAX as u64;
    EXTENT_BYTES * if blocks < most { blocks } else { most }
}

/// Groups chunks into runs: neighbours of a kind together; with `one`, all in a single run,
/// which is a hole only if it is nothing else.
fn runs(start: u64, chunks: &[Chunk], one: bool) -> Vec<Run> {
    let all_zeros = chunks.iter().all(|chunk| matches!(chunk, Chunk::Zeros(_)));
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    let mut offset = start;
    for chunk in chunks {
        let length = length(chunk);
        let zeros = if one {
            all_zeros
        } else {
            matches!(chunk, Chunk::Zeros(_))
        };
        match runs.last_mut() {
            Some(run) if run.zeros == zeros || length == 0 => {
                run.length += length;
                run.chunks += 1;
            }
            // An empty chunk at the front: let what follows say what the run is.
            Some(run) if run.length == 0 => {
                run.length = length;
                run.chunks += 1;
                run.zeros = zeros;
            }
            _ => runs.push(Run {
                offset,
                length,
                zeros,
                chunks: 1,
            }),
        }
        offset += length;
    }
    runs
}

fn push(chunk: Chunk, out: &mut Output) {
    match chunk {
        Chunk::Data(bytes) => out.push(bytes),
        Chunk::Zeros(count) => out.push_zeros(count),
    }
}

const fn length(chunk: &Chunk) -> u64 {
    match chunk {
        Chunk::Data(bytes) => bytes.len() as u64,
        Chunk::Zeros(count) => *count,
    }
}

const fn state(allocation: Allocation) -> u32 {
    match allocation {
        Allocation::Data => 0,
        Allocation::Zero => STATE_ZERO,
        Allocation::Hole => STATE_HOLE | STATE_ZERO,
    }
}
