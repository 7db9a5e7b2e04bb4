//! An NBD client over any stream of bytes: one request at a time, structured replies and
//! `base:allocation` where the server has them. It checks servers; it is not the fastest.
//!
//! **Invariant:** a server's bytes are as hostile as a client's: an error, never a panic, never
//! an allocation beyond what was asked for.

use std::io::{self, Read, Write};

use thiserror::Error;

use crate::session::wire::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    REPLY_FLAG_DONE, REQUEST_MAGIC, Reader, SIMPLE_REPLY_MAGIC, STATE_HOLE, STATE_ZERO,
    STRUCTURED_REPLY_MAGIC, chunk, command, command_flag, info, option, option_reply,
    transmission_flag,
};

/// No option reply that matters here is longer; nor is an error's or a status's chunk.
const SMALL_BYTES_MAX: u32 = 1 << 20;

/// Option replies to one option at most: a server that goes on for ever is broken.
const OPTION_REPLIES_MAX: u32 = 4096;

const CONTEXT: &[u8] = b"base:allocation";

/// Why something was not done.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The connection failed, was closed, or an answer did not come in time: what was asked may
    /// have been done.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server broke the protocol.
    #[error("the server breaks the protocol: {0}")]
    Protocol(&'static str),
    /// The server has no such export now.
    #[error("the server does not serve '{export}' (reply {reply:#x})")]
    NoExport {
        /// What was asked for.
        export: String,
        /// NBD's option reply.
        reply: u32,
    },
    /// The server answered a request with an error.
    #[error("the server answered with error {0}")]
    Errno(u32),
}

/// A run of bytes that are alike in `base:allocation`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// How many bytes.
    pub length: u32,
    /// They take no space.
    pub hole: bool,
    /// They read as zeros.
    pub zero: bool,
}

/// A connection to one export.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    size: u64,
    flags: u16,
    structured: bool,
    context: Option<u32>,
    next: u64,
}

impl<S: Read + Write> Client<S> {
    /// Greets the server, and opens an export.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn open(stream: S, export: &str) -> Result<Self, ClientError> {
        let mut client = Self {
            stream,
            size: 0,
            flags: 0,
            structured: false,
            context: None,
            next: 0,
        };
        client.greet()?;
        client.structured = client
            .option(option::STRUCTURED_REPLY, &[], |_, _| {})?
            .is_ok();
        if client.structured {
            client.ask_context(export)?;
        }
        client.go(export)?;
        Ok(client)
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Whether it can be flushed.
    pub fn can_flush(&self) -> bool {
        self.has(transmission_flag::SEND_FLUSH)
    }

    /// Whether a write can ask to be durable.
    pub fn can_fua(&self) -> bool {
        self.has(transmission_flag::SEND_FUA)
    }

    /// Whether it can be trimmed.
    pub fn can_trim(&self) -> bool {
        self.has(transmission_flag::SEND_TRIM)
    }

    /// Whether zeros need not be sent.
    pub fn can_zero(&self) -> bool {
        self.has(transmission_flag::SEND_WRITE_ZEROES)
    }

    /// Whether several connections see one export.
    pub fn can_multi_conn(&self) -> bool {
        self.has(transmission_flag::CAN_MULTI_CONN)
    }

    /// Whether nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.has(transmission_flag::READ_ONLY)
    }

    /// Whether it tells what is allocated.
    pub fn has_allocation(&self) -> bool {
        self.context.is_some()
    }

    fn greet(&mut self) -> Result<(), ClientError> {
        if self.u64()? != GREETING_MAGIC || self.u64()? != OPTION_MAGIC {
            return Err(ClientError::Protocol("no newstyle greeting"));
        }
        let flags = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES;
        if u32::from(self.u16()?) & flags != flags {
            return Err(ClientError::Protocol("no fixed newstyle"));
        }
        self.stream.write_all(&flags.to_be_bytes())?;
        Ok(())
    }

    /// Sends an option, shows each information reply, and says how it ended: with an
    /// acknowledgement or an error's type.
    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        mut show: impl FnMut(u32, &[u8]),
    ) -> Result<Result<(), u32>, ClientError> {
        let mut frame = Vec::with_capacity(16 + data.len());
        frame.extend(OPTION_MAGIC.to_be_bytes());
        frame.extend(option.to_be_bytes());
        frame.extend(length_of(data)?.to_be_bytes());
        frame.extend(data);
        self.stream.write_all(&frame)?;
        for _ in 0..OPTION_REPLIES_MAX {
            if self.u64()? != OPTION_REPLY_MAGIC || self.u32()? != option {
                return Err(ClientError::Protocol("no reply to the option"));
            }
            let (reply, length) = (self.u32()?, self.u32()?);
            let payload = self.small(length)?;
            match reply {
                option_reply::ACK => return Ok(Ok(())),
                error if error & (1 << 31) != 0 => return Ok(Err(error)),
                _ => show(reply, &payload),
            }
        }
        Err(ClientError::Protocol("option replies without end"))
    }

    fn ask_context(&mut self, export: &str) -> Result<(), ClientError> {
        let mut data = Vec::new();
        data.extend(length_of(export.as_bytes())?.to_be_bytes());
        data.extend(export.as_bytes());
        data.extend(1_u32.to_be_bytes());
        data.extend(length_of(CONTEXT)?.to_be_bytes());
        data.extend(CONTEXT);
        let mut context = None;
        let answered = self.option(option::SET_META_CONTEXT, &data, |reply, payload| {
            let mut at = Reader::new(payload);
            if let (option_reply::META_CONTEXT, Some(id)) = (reply, at.u32()) {
                let name = at.take(payload.len() - 4).unwrap_or_default();
                context = context.or((name == CONTEXT).then_some(id));
            }
        })?;
        self.context = context.filter(|_| answered.is_ok());
        Ok(())
    }

    fn go(&mut self, export: &str) -> Result<(), ClientError> {
        let mut data = Vec::new();
        data.extend(length_of(export.as_bytes())?.to_be_bytes());
        data.extend(export.as_bytes());
        data.extend(0_u16.to_be_bytes());
        let mut told = None;
        let answered = self.option(option::GO, &data, |reply, payload| {
            let mut at = Reader::new(payload);
            if (reply, at.u16()) == (option_reply::INFO, Some(info::EXPORT)) {
                told = at.u64().zip(at.u16());
            }
        })?;
        if let Err(reply) = answered {
            let export = export.to_owned();
            return Err(ClientError::NoExport { export, reply });
        }
        let told = told.ok_or(ClientError::Protocol("an export without a size"))?;
        (self.size, self.flags) = told;
        Ok(())
    }

    /// Reads.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, ClientError> {
        let cookie = self.request(command::READ, 0, offset, length, &[])?;
        let mut data = vec![0; as_usize(length)];
        if !self.structured {
            self.simple(cookie)?;
            self.stream.read_exact(&mut data)?;
            return Ok(data);
        }
        let mut covered = 0_u64;
        self.chunks(cookie, |client, kind, length| {
            if kind != chunk::OFFSET_DATA && kind != chunk::OFFSET_HOLE {
                return Err(ClientError::Protocol("a read is answered by another chunk"));
            }
            let header = if kind == chunk::OFFSET_DATA { 8 } else { 12 };
            let at = client.u64()?;
            let bytes = match kind {
                chunk::OFFSET_DATA => u64::from(length.checked_sub(header).ok_or(SHORT)?),
                _ if length == header => u64::from(client.u32()?),
                _ => return Err(SHORT),
            };
            let range = at
                .checked_sub(offset)
                .and_then(|from| Some((from, from.checked_add(bytes)?)))
                .filter(|(_, to)| *to <= data.len() as u64);
            let (from, to) = range.ok_or(ClientError::Protocol("data that was not asked for"))?;
            let part = &mut data[from as usize..to as usize];
            match kind {
                chunk::OFFSET_DATA => client.stream.read_exact(part)?,
                _ => part.fill(0),
            }
            covered += bytes;
            Ok(())
        })?;
        if covered != u64::from(length) {
            return Err(ClientError::Protocol("a read is answered in part"));
        }
        Ok(data)
    }

    /// Writes; durably, with `fua`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), ClientError> {
        let flags = if fua { command_flag::FUA } else { 0 };
        let cookie = self.request(command::WRITE, flags, offset, length_of(data)?, data)?;
        self.done(cookie)
    }

    /// Makes all that was acknowledged durable.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn flush(&mut self) -> Result<(), ClientError> {
        let cookie = self.request(command::FLUSH, 0, 0, 0, &[])?;
        self.done(cookie)
    }

    /// Gives bytes up. What they read as afterwards is the server's affair.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), ClientError> {
        let cookie = self.request(command::TRIM, 0, offset, length, &[])?;
        self.done(cookie)
    }

    /// Makes bytes zeros; with `allocate`, their space is kept.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn zero(&mut self, offset: u64, length: u32, allocate: bool) -> Result<(), ClientError> {
        let flags = if allocate { command_flag::NO_HOLE } else { 0 };
        let cookie = self.request(command::WRITE_ZEROES, flags, offset, length, &[])?;
        self.done(cookie)
    }

    /// What is allocated, from `offset` on; it may be told of less than was asked for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn allocation(&mut self, offset: u64, length: u32) -> Result<Vec<Extent>, ClientError> {
        let context = self.context;
        let cookie = self.request(command::BLOCK_STATUS, 0, offset, length, &[])?;
        let mut extents = Vec::new();
        self.chunks(cookie, |client, kind, length| {
            let payload = client.small(length)?;
            let mut at = Reader::new(&payload);
            if kind != chunk::BLOCK_STATUS || at.u32() != context {
                return Err(ClientError::Protocol(
                    "a status is answered by another chunk",
                ));
            }
            while let Some((length, flags)) = at.u32().zip(at.u32()) {
                extents.push(Extent {
                    length,
                    hole: flags & STATE_HOLE != 0,
                    zero: flags & STATE_ZERO != 0,
                });
            }
            Ok(())
        })?;
        let sound = extents.iter().all(|e| e.length > 0) && !extents.is_empty();
        if sound {
            Ok(extents)
        } else {
            Err(ClientError::Protocol("an empty extent"))
        }
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn disconnect(&mut self) -> Result<(), ClientError> {
        self.request(command::DISC, 0, 0, 0, &[]).map(drop)
    }

    fn request(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> Result<u64, ClientError> {
        let cookie = self.next;
        self.next += 1;
        let mut frame = Vec::with_capacity(28 + data.len());
        frame.extend(REQUEST_MAGIC.to_be_bytes());
        frame.extend(flags.to_be_bytes());
        frame.extend(command.to_be_bytes());
        frame.extend(cookie.to_be_bytes());
        frame.extend(offset.to_be_bytes());
        frame.extend(length.to_be_bytes());
        frame.extend(data);
        self.stream.write_all(&frame)?;
        Ok(cookie)
    }

    /// An answer without data.
    fn done(&mut self, cookie: u64) -> Result<(), ClientError> {
        if !self.structured {
            return self.simple(cookie);
        }
        // A structured server may answer so with simple replies.
        self.chunks(cookie, |_, _, _| {
            Err(ClientError::Protocol("data that was not asked for"))
        })
    }

    fn simple(&mut self, cookie: u64) -> Result<(), ClientError> {
        if self.u32()? != SIMPLE_REPLY_MAGIC {
            return Err(ClientError::Protocol("no simple reply"));
        }
        self.simple_rest(cookie)
    }

    fn simple_rest(&mut self, cookie: u64) -> Result<(), ClientError> {
        let (error, answered) = (self.u32()?, self.u64()?);
        if answered != cookie {
            return Err(ClientError::Protocol("a reply to something else"));
        }
        match error {
            0 => Ok(()),
            error => Err(ClientError::Errno(error)),
        }
    }

    /// Takes chunks until the last one; `take` reads the body of each that is no error.
    fn chunks(
        &mut self,
        cookie: u64,
        mut take: impl FnMut(&mut Self, u16, u32) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut error = None;
        loop {
            match self.u32()? {
                STRUCTURED_REPLY_MAGIC => {}
                SIMPLE_REPLY_MAGIC => return self.simple_rest(cookie),
                _ => return Err(ClientError::Protocol("no reply")),
            }
            let (flags, kind, answered) = (self.u16()?, self.u16()?, self.u64()?);
            let length = self.u32()?;
            if answered != cookie {
                return Err(ClientError::Protocol("a reply to something else"));
            }
            match kind {
                chunk::NONE if length == 0 => {}
                chunk::NONE => return Err(ClientError::Protocol("an empty chunk with a body")),
                kind if kind & (1 << 15) != 0 => {
                    let payload = self.small(length)?;
                    error = error.or(Reader::new(&payload).u32());
                }
                kind => take(self, kind, length)?,
            }
            if flags & REPLY_FLAG_DONE != 0 {
                return error.map_or(Ok(()), |e| Err(ClientError::Errno(e)));
            }
        }
    }

    fn small(&mut self, length: u32) -> Result<Vec<u8>, ClientError> {
        if length > SMALL_BYTES_MAX {
            return Err(ClientError::Protocol("an answer that is too long"));
        }
        let mut bytes = vec![0; as_usize(length)];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ClientError> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, ClientError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, ClientError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ClientError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
}

const SHORT: ClientError = ClientError::Protocol("a chunk of the wrong length");

fn as_usize(length: u32) -> usize {
    usize::try_from(length).expect("a usize has at least 32 bits")
}

fn length_of(data: &[u8]) -> Result<u32, ClientError> {
    u32::try_from(data.len()).map_err(|_| ClientError::Protocol("a request too long"))
}
