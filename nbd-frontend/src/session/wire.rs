//! Numbers and headers of the NBD protocol (its `doc/proto.md`, with the extended headers of
//! branch `extension-ext-header`). All integers are big-endian.

/// First word of the greeting, "NBDMAGIC".
pub(crate) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting and start of every option, "IHAVEOPT".
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every reply to an option.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of a compact request.
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of an extended request.
pub(crate) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk.
pub(crate) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Start of an extended reply chunk.
pub(crate) const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of the client's flags.
pub(crate) const CLIENT_FLAGS_BYTES: usize = 4;
/// Bytes of an option's header.
pub(crate) const OPTION_HEADER_BYTES: usize = 16;
/// Length of the header of a reply to an option in bytes.
pub(crate) const OPTION_REPLY_HEADER_BYTES: usize = 20;
/// Bytes of a compact request's header.
pub(crate) const COMPACT_REQUEST_BYTES: usize = 28;
/// Bytes of an extended request's header.
pub(crate) const EXTENDED_REQUEST_BYTES: usize = 32;

/// Handshake flags, both directions: fixed newstyle, no zeroes after EXPORT_NAME.
pub(crate) const FLAG_FIXED_NEWSTYLE: u32 = 1 << 0;
pub(crate) const FLAG_NO_ZEROES: u32 = 1 << 1;

/// Transmission flags.
pub(crate) mod transmission_flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Options.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
    pub(crate) const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub(crate) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const ERR_UNSUP: u32 = (1 << 31) | 1;
    pub(crate) const ERR_POLICY: u32 = (1 << 31) | 2;
    pub(crate) const ERR_INVALID: u32 = (1 << 31) | 3;
    pub(crate) const ERR_TLS_REQD: u32 = (1 << 31) | 5;
    pub(crate) const ERR_UNKNOWN: u32 = (1 << 31) | 6;
    pub(crate) const ERR_SHUTDOWN: u32 = (1 << 31) | 7;
    pub(crate) const ERR_TOO_BIG: u32 = (1 << 31) | 9;
    pub(crate) const ERR_EXT_HEADER_REQD: u32 = (1 << 31) | 10;
}

/// Types of information on an export.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Commands.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub(crate) mod command_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
    pub(crate) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Flag of a reply chunk: the last of its reply.
pub(crate) const REPLY_FLAG_DONE: u16 = 1 << 0;

/// Types of reply chunks.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const BLOCK_STATUS_EXT: u16 = 6;
    pub(crate) const ERROR: u16 = (1 << 15) | 1;
}

/// Flags of an extent in context `base:allocation`.
pub(crate) const STATE_HOLE: u32 = 1 << 0;
pub(crate) const STATE_ZERO: u32 = 1 << 1;

/// Error numbers of replies in the transmission phase. ENOMEM (12) and ENOTSUP (95) are never
/// sent: memory is reserved before a request is read, and zeroing is always fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Errno {
    /// A mutation of a read-only export.
    Permission = 1,
    /// Data that cannot be read, or an answer of the volume that makes no sense.
    Io = 5,
    /// A malformed request, or a read, trim, cache or status past the end.
    Invalid = 22,
    /// No space left, or a write or zero past the end.
    NoSpace = 28,
    /// A read larger than [`crate::export::PAYLOAD_BYTES_MAX`].
    Overflow = 75,
    /// The server is being shut down, or the volume is gone.
    Shutdown = 108,
}

impl Errno {
    /// Text for people.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Permission => "the export is read-only",
            Self::Io => "the data cannot be read or written",
            Self::Invalid => "invalid request",
            Self::NoSpace => "no space left",
            Self::Overflow => "the request is larger than 32 MiB",
            Self::Shutdown => "the export is being shut down",
        }
    }
}

/// A request's header, compact or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestHeader {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl RequestHeader {
    /// Reads a header; `bytes` holds one in full. `None` if it does not start with its magic.
    pub(crate) fn parse(bytes: &[u8], extended: bool) -> Option<Self> {
        let mut at = Reader::new(bytes);
        let magic = if extended {
            EXTENDED_REQUEST_MAGIC
        } else {
            REQUEST_MAGIC
        };
        if at.u32()? != magic {
            return None;
        }
        Some(Self {
            flags: at.u16()?,
            command: at.u16()?,
            cookie: at.u64()?,
            offset: at.u64()?,
            length: if extended {
                at.u64()?
            } else {
                u64::from(at.u32()?)
            },
        })
    }
}

/// Reads integers and strings off a byte slice; `None` once it is too short.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string preceded by its length in 32 bits.
    pub(crate) fn counted(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
