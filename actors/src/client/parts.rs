//! A front end's request in pieces of bounded size, and its answer from theirs.

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::block::{Chunk, Extent, Reply, Request};
use model::ids::{SessionId, VolumeId};
use model::journal::{PART_BYTES_MAX, Part};
use model::payload::Payload;

use super::Tag;
use crate::messages::{ReadChunk, VolumeReply, VolumeRequest};
use crate::planted::{Bug, planted};
use crate::volume::write_sums;

/// One piece of a request.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) tag: Tag,
    index: usize,
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

/// Cuts a request at multiples of the part size, so that whole blocks stay whole.
pub(super) fn split(tag: Tag, request: Request) -> Vec<Piece> {
    let whats = match request {
        Request::Read { offset, length } => cuts(offset, u64::from(length))
            .map(|(offset, length)| What::Read {
                offset,
                length: u32::try_from(length).expect("a part is small"),
            })
            .collect(),
        Request::Write { offset, data } => cuts(offset, data.len() as u64)
            .map(|(at, length)| {
                let start = usize::try_from(at - offset).expect("in memory");
                let data = data.slice(start..start + usize::try_from(length).expect("in memory"));
                What::Write {
                    offset: at,
                    sums: write_sums(at, &data),
                    data,
                }
            })
            .collect(),
        Request::Zero {
            offset,
            length,
            allocate,
        } => vec![What::Zero {
            offset,
            length,
            allocate,
        }],
        Request::Trim { offset, length } => vec![What::Zero {
            offset,
            length,
            allocate: false,
        }],
        Request::Status { offset, length } => vec![What::Status { offset, length }],
        Request::Flush => Vec::new(),
    };
    whats
        .into_iter()
        .enumerate()
        .map(|(index, what)| Piece { tag, index, what })
        .collect()
}

fn cuts(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let part = PART_BYTES_MAX as u64;
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let start = at;
        at = ((start / part + 1) * part).min(end);
        (start < end).then(|| (start, at - start))
    })
}

impl Piece {
    pub(super) fn mutates(&self) -> bool {
        matches!(self.what, What::Write { .. } | What::Zero { .. })
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
    missing: usize,
    chunks: Vec<Vec<Chunk>>,
    status: Option<Vec<Extent>>,
    error: Option<Reply>,
}

impl Gathered {
    pub(super) fn new(pieces: usize) -> Self {
        Self {
            missing: pieces,
            chunks: vec![Vec::new(); pieces],
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
                    Some(chunks) => self.chunks[piece.index] = chunks,
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
                let pieces = std::mem::take(&mut self.chunks).into_iter();
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
