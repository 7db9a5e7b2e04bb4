//! The transmission phase: requests in, what is in flight, replies in any order.

use bytes::buf::Limit;
use bytes::{BufMut, Bytes};
use model::block::{BlockError, Reply, Request};

use super::reply::{Framing, To, status_bytes_max};
use super::wire::{
    COMPACT_REQUEST_BYTES, EXTENDED_REQUEST_BYTES, Errno, RequestHeader, command,
    command_flag as flag,
};
use super::{CloseReason, Effect, Phase, RequestId, Session};
use crate::export::PAYLOAD_BYTES_MAX;

/// Largest payload in bytes of a WRITE that is skipped and refused; more is taken for an attack.
const DISCARD_BYTES_MAX: u64 = 64 << 20;
/// From this many missing bytes on, a payload is read straight into its own buffer; less is
/// read together with the requests after it, and copied.
const DIRECT_BYTES: usize = 16 << 10;

/// What a request takes without any payload: the header of its reply, or its error.
const REPLY_BYTES: usize = 128;

/// The export in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transmission {
    pub(super) size: u64,
    pub(super) read_only: bool,
    /// Whether `base:allocation` is selected.
    pub(super) has_status: bool,
}

/// A WRITE whose payload is being read.
#[derive(Debug)]
pub(super) struct Upload {
    header: RequestHeader,
    /// Its capacity is the payload's length.
    data: Vec<u8>,
    missing: usize,
}

impl Upload {
    pub(super) const fn takes_direct_input(&self) -> bool {
        self.missing >= DIRECT_BYTES
    }

    pub(super) fn input(&mut self) -> Limit<&mut Vec<u8>> {
        let room = self.length() - self.data.len();
        (&mut self.data).limit(room)
    }

    pub(super) const fn memory(&self) -> usize {
        self.data.capacity()
    }

    pub(super) fn missing(&self) -> usize {
        self.length() - self.data.len()
    }

    pub(super) const fn cost(&self) -> usize {
        cost(&self.header)
    }

    /// The payload's length; it was checked when the header came.
    const fn length(&self) -> usize {
        self.header.length as usize
    }
}

/// A request that gets an error once its payload is skipped.
#[derive(Debug)]
pub(super) struct Refusal {
    header: RequestHeader,
    errno: Errno,
}

/// A request in flight, as far as its reply needs it.
#[derive(Clone, Copy, Debug)]
struct Pending {
    header: RequestHeader,
    /// Bytes that it holds against the connection's limit.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
}

/// Requests in flight, and what they hold.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    slots: Vec<Slot>,
    free: Vec<u32>,
    count: usize,
    bytes: usize,
}

impl InFlight {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.free.capacity() * size_of::<u32>()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, pending: Pending) -> RequestId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("requests in flight are bounded")
        });
        self.count += 1;
        self.bytes += pending.bytes;
        let entry = &mut self.slots[slot as usize];
        assert!(entry.pending.is_none(), "a free slot is empty");
        entry.pending = Some(pending);
        RequestId {
            slot,
            generation: entry.generation,
        }
    }

    fn remove(&mut self, id: RequestId) -> Pending {
        let entry = &mut self.slots[id.slot as usize];
        assert!(
            entry.generation == id.generation,
            "a request is answered once"
        );
        let pending = entry.pending.take().expect("a request is answered once");
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.count -= 1;
        self.bytes -= pending.bytes;
        pending
    }
}

/// What a request that passed its checks asks for.
enum Verdict {
    /// Nothing to do: it is done.
    Done,
    /// A WRITE, once its payload is there.
    Upload,
    /// A request for the volume.
    Submit(Request),
}

impl Session {
    /// Whether the limits allow one more request.
    pub(super) const fn has_room(&self) -> bool {
        self.in_flight.count < self.limits.requests_max
            && self.in_flight.bytes + self.output.len() < self.limits.bytes_max
    }

    /// A request's header.
    pub(super) fn request(&mut self, effects: &mut Vec<Effect>) -> bool {
        let extended = self.framing == Framing::Extended;
        let size = if extended {
            EXTENDED_REQUEST_BYTES
        } else {
            COMPACT_REQUEST_BYTES
        };
        if !self.has_room() {
            // What it lacked may be less by now; with credit alone it would not go on.
            self.lacks = None;
            return false;
        }
        let Some(bytes) = self.staging.peek(size) else {
            return false;
        };
        let Some(header) = RequestHeader::parse(bytes, extended) else {
            self.close(CloseReason::Magic);
            return true;
        };
        if !self.affords(cost(&header)) {
            return false;
        }
        self.staging.consume(size);
        if header.command == command::DISC {
            self.close(CloseReason::Done);
            return true;
        }
        // With extended headers a WRITE must carry PAYLOAD_LEN, but qemu's client (10.0.2) sets
        // it on none. Its payload comes all the same.
        let has_payload =
            header.command == command::WRITE || (extended && header.flags & flag::PAYLOAD_LEN != 0);
        let payload = if has_payload { header.length } else { 0 };
        let most = if extended {
            u64::from(PAYLOAD_BYTES_MAX)
        } else {
            DISCARD_BYTES_MAX
        };
        if payload > most {
            self.close(CloseReason::TooLarge);
            return true;
        }
        match self.check(&header) {
            Ok(Verdict::Done) => self.to(&header).done(&mut self.output),
            Ok(Verdict::Submit(request)) => self.submit(header, request, effects),
            Ok(Verdict::Upload) => self.begin_upload(header),
            Err(errno) if payload > 0 => {
                let refusal = Refusal { header, errno };
                self.phase = Phase::Discard {
                    remaining: payload,
                    refusal,
                };
            }
            Err(errno) => self.to(&header).error(errno, &mut self.output),
        }
        true
    }

    /// Whether a request may go on, and what it is.
    fn check(&self, header: &RequestHeader) -> Result<Verdict, Errno> {
        let export = self.transmission.as_ref().ok_or(Errno::Io)?;
        let allowed = self.allowed_flags(header.command).ok_or(Errno::Invalid)?;
        if header.flags & !allowed != 0 {
            return Err(Errno::Invalid);
        }
        let RequestHeader { offset, length, .. } = *header;
        let mutation = is_mutation(header.command);
        if mutation && export.read_only {
            return Err(Errno::Permission);
        }
        if offset
            .checked_add(length)
            .is_none_or(|end| end > export.size)
        {
            return Err(past_the_end(header.command));
        }
        let bounded = u32::try_from(length)
            .ok()
            .filter(|length| *length <= PAYLOAD_BYTES_MAX);
        Ok(match header.command {
            command::FLUSH if offset != 0 || length != 0 => return Err(Errno::Invalid),
            command::FLUSH => Verdict::Submit(Request::Flush),
            command::BLOCK_STATUS if !export.has_status || length == 0 => {
                return Err(Errno::Invalid);
            }
            command::BLOCK_STATUS => Verdict::Submit(Request::Status { offset, length }),
            command::WRITE => {
                if bounded.is_none() {
                    return Err(Errno::Invalid);
                }
                if length == 0 {
                    Verdict::Done
                } else {
                    Verdict::Upload
                }
            }
            _ if length == 0 => Verdict::Done,
            command::READ => {
                let length = bounded.ok_or(Errno::Overflow)?;
                Verdict::Submit(Request::Read { offset, length })
            }
            command::TRIM => Verdict::Submit(Request::Trim { offset, length }),
            command::WRITE_ZEROES => {
                let allocate = header.flags & flag::NO_HOLE != 0;
                Verdict::Submit(Request::Zero {
                    offset,
                    length,
                    allocate,
                })
            }
            command::CACHE => {
                // A read whose bytes are dropped brings them into the owner's cache.
                let length = bounded.unwrap_or(PAYLOAD_BYTES_MAX);
                Verdict::Submit(Request::Read { offset, length })
            }
            _ => return Err(Errno::Invalid),
        })
    }

    /// The flags that a command may carry; none if there is no such command. FUA was
    /// advertised, so every command may carry it; it asks for what is always so.
    fn allowed_flags(&self, command: u16) -> Option<u16> {
        let own = match command {
            command::READ if self.framing == Framing::Simple => 0,
            command::READ => flag::DF,
            command::WRITE if self.framing == Framing::Extended => flag::PAYLOAD_LEN,
            command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => return None,
        };
        Some(own | flag::FUA)
    }

    fn begin_upload(&mut self, header: RequestHeader) {
        let missing = header.length as usize;
        assert!(
            missing <= PAYLOAD_BYTES_MAX as usize,
            "the length was checked"
        );
        let data = Vec::with_capacity(missing);
        self.phase = Phase::Upload(Upload {
            header,
            data,
            missing,
        });
    }

    /// More of a WRITE's payload.
    pub(super) fn upload(&mut self, effects: &mut Vec<Effect>) -> bool {
        let Phase::Upload(upload) = &mut self.phase else {
            unreachable!("called in this phase only");
        };
        // Some of it may have been read directly.
        let missing = upload.length() - upload.data.len();
        let taken = self.staging.front(missing);
        upload.data.extend_from_slice(taken);
        let taken = taken.len();
        self.staging.consume(taken);
        upload.missing = missing - taken;
        if upload.missing > 0 {
            return false;
        }
        let header = upload.header;
        let data = Bytes::from(std::mem::take(&mut upload.data));
        self.phase = Phase::Request;
        self.submit(
            header,
            Request::Write {
                offset: header.offset,
                data,
            },
            effects,
        );
        true
    }

    /// Skips a refused request's payload, then replies.
    pub(super) fn discard(&mut self) -> bool {
        let Phase::Discard { remaining, refusal } = &mut self.phase else {
            unreachable!("called in this phase only");
        };
        *remaining -= self.staging.skip(*remaining);
        if *remaining > 0 {
            return false;
        }
        let (header, errno) = (refusal.header, refusal.errno);
        self.to(&header).error(errno, &mut self.output);
        self.phase = Phase::Request;
        true
    }

    fn submit(&mut self, header: RequestHeader, request: Request, effects: &mut Vec<Effect>) {
        let bytes = cost(&header);
        let id = self.in_flight.insert(Pending { header, bytes });
        effects.push(Effect::Submit { id, request });
    }

    /// The volume's answer to [`Effect::Submit`].
    ///
    /// # Panics
    /// If `id` is not in flight: a request is answered once.
    pub fn replied(&mut self, id: RequestId, reply: Reply) {
        let Pending { header, .. } = self.in_flight.remove(id);
        if self.closing().is_some_and(|reason| !reason.is_graceful()) {
            return;
        }
        let to = self.to(&header);
        let output = &mut self.output;
        match (header.command, reply) {
            (_, Reply::Error(BlockError::NoSession)) => self.close(CloseReason::NoSession),
            (command, Reply::Error(error)) => to.error(errno(command, error), output),
            (command::READ, Reply::Data(chunks)) => to.data(&header, chunks, output),
            (command::CACHE, Reply::Data(_)) => to.done(output),
            (command::BLOCK_STATUS, Reply::Status(extents)) => {
                let one = header.flags & flag::REQ_ONE != 0;
                to.status(header.length, &extents, one, output);
            }
            (command, Reply::Done) if is_mutation(command) || command == command::FLUSH => {
                to.done(output);
            }
            // The volume broke its contract: say that nothing is known, rather than guess.
            _ => to.error(Errno::Io, output),
        }
    }

    /// Whom a reply goes to.
    const fn to(&self, header: &RequestHeader) -> To {
        To {
            framing: self.framing,
            cookie: header.cookie,
            offset: header.offset,
            read: header.command == command::READ,
        }
    }
}

/// Bytes that a request holds from its header to its reply: a payload, in either direction.
const fn cost(header: &RequestHeader) -> usize {
    let most = PAYLOAD_BYTES_MAX as u64;
    let payload = match header.command {
        command::READ | command::WRITE | command::CACHE if header.length < most => header.length,
        command::READ | command::WRITE | command::CACHE => most,
        command::BLOCK_STATUS if header.flags & flag::REQ_ONE == 0 => {
            status_bytes_max(header.length)
        }
        _ => 0,
    };
    REPLY_BYTES + payload as usize
}

const fn is_mutation(command: u16) -> bool {
    matches!(
        command,
        command::WRITE | command::TRIM | command::WRITE_ZEROES
    )
}

/// The error of a range that reaches past the end.
const fn past_the_end(command: u16) -> Errno {
    match command {
        command::WRITE | command::WRITE_ZEROES => Errno::NoSpace,
        _ => Errno::Invalid,
    }
}

/// The error number of a volume's error; [`BlockError::NoSession`] never gets that far.
const fn errno(command: u16, error: BlockError) -> Errno {
    match error {
        BlockError::OutOfRange => past_the_end(command),
        BlockError::NoSpace if is_mutation(command) => Errno::NoSpace,
        BlockError::ReadOnly if is_mutation(command) => Errno::Permission,
        BlockError::NoVolume | BlockError::NoSession => Errno::Shutdown,
        BlockError::NoSpace | BlockError::ReadOnly | BlockError::Unreadable => Errno::Io,
    }
}
