//! A front end's request in pieces of bounded size, and its answer from theirs.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::block::{Chunk, Extent, Reply, Request};
use model::ids::{SessionId, VolumeId};
use model::journal::{PART_BYTES_MAX, Part, ZERO_PART_BYTES_MAX};
use model::payload::Payload;

use super::Tag;
use crate::messages::{ReadChunk, VolumeReply, VolumeRequest};
use crate::planted::{Bug, planted};
use crate::volume::write_sums;

/// One piece of a request.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) tag: Tag,
    index: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Read {
        offset: u64,
        length: u32,
    },
    Write {
        offset: u64,
        data: Bytes,
        sums: Vec<u32>,
    },
    Zero {
        offset: u64,
        length: u64,
        allocate: bool,
    },
    Status {
        offset: u64,
        length: u64,
    },
}

/// A request that is cut into pieces as they are sent, at multiples of the part size, so that whole
/// blocks stay whole: a range of zeros may be as long as the largest volume.
#[derive(Debug)]
pub(super) struct Pieces {
    tag: Tag,
    request: Request,
    /// The part size; what has none is one piece.
    part: u64,
    /// Where the next piece begins, and where the last one ends.
    at: u64,
    end: u64,
    index: u64,
    count: u64,
}

impl Pieces {
    pub(super) fn of(tag: Tag, request: Request) -> Self {
        let part = PART_BYTES_MAX as u64;
        let (offset, length, part) = match &request {
            Request::Read { offset, length } => (*offset, u64::from(*length), part),
            Request::Write { offset, data } => (*offset, data.len() as u64, part),
            Request::Zero {
                offset,
                length,
                allocate: true,
            } => (*offset, *length, ZERO_PART_BYTES_MAX),
            Request::Zero { offset, length, .. }
            | Request::Trim { offset, length }
            | Request::Status { offset, length } => (*offset, *length, u64::MAX),
            Request::Flush => (0, 0, part),
        };
        let end = offset.saturating_add(length);
        let cut = part < u64::MAX && length > 0;
        let count = match request {
            Request::Flush => 0,
            _ if cut => (end - 1) / part - offset / part + 1,
            _ => 1,
        };
        Self {
            tag,
            request,
            part,
            at: offset,
            end,
            index: 0,
            count,
        }
    }

    /// How many there are, those that were taken included.
    pub(super) fn total(&self) -> u64 {
        self.count
    }

    pub(super) fn mutates(&self) -> bool {
        matches!(
            self.request,
            Request::Write { .. } | Request::Zero { .. } | Request::Trim { .. }
        )
    }

    /// Whether they take leaves of the index, and no payload.
    pub(super) fn are_zeros(&self) -> bool {
        self.part == ZERO_PART_BYTES_MAX
    }

    /// What of the request begins at `offset` and is so long.
    fn what(&self, offset: u64, length: u64) -> What {
        match &self.request {
            Request::Read { .. } => What::Read {
                offset,
                length: u32::try_from(length).expect("a part is small"),
            },
            Request::Write {
                offset: first,
                data,
            } => {
                let start = usize::try_from(offset - first).expect("in memory");
                let data = data.slice(start..start + usize::try_from(length).expect("in memory"));
                What::Write {
                    offset,
                    sums: write_sums(offset, &data),
                    data,
                }
            }
            Request::Zero { allocate, .. } => What::Zero {
                offset,
                length,
                allocate: *allocate,
            },
            Request::Trim { .. } => What::Zero {
                offset,
                length,
                allocate: false,
            },
            Request::Status { .. } => What::Status { offset, length },
            Request::Flush => unreachable!("it has no pieces"),
        }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.index == self.count {
            return None;
        }
        let (start, index) = (self.at, self.index);
        let border = (start / self.part + 1).saturating_mul(self.part);
        self.at = border.min(self.end);
        self.index += 1;
        let what = self.what(start, self.at - start);
        let tag = self.tag;
        Some(Piece { tag, index, what })
    }
}

impl Piece {
    /// Whether it takes leaves of the index, and no payload.
    pub(super) fn is_zeros(&self) -> bool {
        matches!(self.what, What::Zero { allocate: true, .. })
    }

    /// The message for it in a session; mutating pieces take their part.
    pub(super) fn message(
        &self,
        volume: VolumeId,
        session: SessionId,
        part: Option<Part>,
    ) -> (VolumeRequest, Payload) {
        match (&self.what, part) {
            (What::Write { offset, data, sums }, Some(part)) => {
                let (offset, sums) = (*offset, sums.clone());
                (
                    VolumeRequest::Write {
                        volume,
                        part,
                        offset,
                        sums,
                    },
                    Payload::from(data.clone()),
                )
            }
            (
                What::Zero {
                    offset,
                    length,
                    allocate,
                },
                Some(part),
            ) => {
                let (offset, length, allocate) = (*offset, *length, *allocate);
                let zero = VolumeRequest::Zero {
                    volume,
                    part,
                    offset,
                    length,
                    allocate,
                };
                (zero, Payload::empty())
            }
            (What::Read { offset, length }, None) => {
                let (offset, length) = (*offset, *length);
                (
                    VolumeRequest::Read {
                        volume,
                        session,
                        offset,
                        length,
                    },
                    Payload::empty(),
                )
            }
            (What::Status { offset, length }, None) => {
                let (offset, length) = (*offset, *length);
                (
                    VolumeRequest::Status {
                        volume,
                        session,
                        offset,
                        length,
                    },
                    Payload::empty(),
                )
            }
            _ => unreachable!("mutating pieces, and only they, are numbered"),
        }
    }
}

/// The answers of a request's pieces.
#[derive(Debug)]
pub(super) struct Gathered {
    missing: u64,
    chunks: BTreeMap<u64, Vec<Chunk>>,
    status: Option<Vec<Extent>>,
    error: Option<Reply>,
}

impl Gathered {
    pub(super) fn new(pieces: u64) -> Self {
        Self {
            missing: pieces,
            chunks: BTreeMap::new(),
            status: None,
            error: None,
        }
    }

    /// Takes a piece's answer; the whole answer with the last one.
    pub(super) fn take(
        &mut self,
        piece: &Piece,
        reply: VolumeReply,
        payload: Bytes,
    ) -> Option<Reply> {
        match (reply, &piece.what) {
            (VolumeReply::Error(error), _) => self.error = Some(Reply::Error(error)),
            (VolumeReply::Data(chunks), What::Read { length, .. }) => {
                match cut(&chunks, payload, *length) {
                    Some(chunks) => drop(self.chunks.insert(piece.index, chunks)),
                    None => self.error = Some(Reply::Error(model::block::BlockError::Unreadable)),
                }
            }
            (VolumeReply::Status(extents), What::Status { .. }) => self.status = Some(extents),
            _ => {}
        }
        self.missing -= 1;
        if self.missing > 0 {
            return None;
        }
        if let Some(error) = self.error.take() {
            return Some(error);
        }
        Some(match (&piece.what, self.status.take()) {
            (What::Read { .. }, _) => {
                let pieces = std::mem::take(&mut self.chunks).into_values();
                let mut chunks: Vec<Chunk> = pieces.flatten().collect();
                if planted(Bug::ShortRead) && chunks.len() > 1 {
                    chunks.pop();
                }
                Reply::Data(chunks)
            }
            (What::Status { .. }, Some(extents)) => Reply::Status(extents),
            _ => Reply::Done,
        })
    }
}

/// The chunks with their bytes; `None` if an owner's answer doesn't add up.
fn cut(chunks: &[ReadChunk], payload: Bytes, length: u32) -> Option<Vec<Chunk>> {
    let mut out = Vec::with_capacity(chunks.len());
    let mut at = 0_usize;
    let mut total = 0_u64;
    for chunk in chunks {
        match chunk {
            ReadChunk::Data(n) => {
                let end = at
                    .checked_add(*n as usize)
                    .filter(|end| *end <= payload.len())?;
                out.push(Chunk::Data(payload.slice(at..end)));
                at = end;
                total += u64::from(*n);
            }
            ReadChunk::Zeros(n) => {
                out.push(Chunk::Zeros(u64::from(*n)));
                total += u64::from(*n);
            }
        }
    }
    (at == payload.len() && total == u64::from(length)).then_some(out)
}

const _: () = assert!(PART_BYTES_MAX.is_multiple_of(BLOCK_BYTES));

#[cfg(test)]
#[path = "tests/parts.rs"]
mod tests;
