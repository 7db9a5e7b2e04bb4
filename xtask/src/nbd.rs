//! A small blocking NBD client: fixed newstyle, GO, simple replies, many requests in flight.
//! It exists because a history of acknowledgements needs to see each reply; bulk data goes
//! through real clients.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use thiserror::Error;

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, no zeroes after EXPORT_NAME.
const FLAGS: u16 = 0b11;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR_BIT: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;
const COMMAND_DISCONNECT: u16 = 2;

/// No option reply that matters here is longer.
const OPTION_REPLY_BYTES_MAX: u32 = 64 << 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection is of no use any more.
#[derive(Debug, Error)]
pub(crate) enum NbdError {
    /// The connection failed, was closed, or an answer did not come in time.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server broke the protocol.
    #[error("the server breaks the protocol: {0}")]
    Protocol(&'static str),
    /// The server has no such export now.
    #[error("the server does not serve '{export}' (reply {reply:#x})")]
    Refused {
        /// What was asked for.
        export: String,
        /// NBD's error.
        reply: u32,
    },
}

/// A request's reply.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The handle that [`Client::write`] or [`Client::read`] gave.
    pub(crate) handle: u64,
    /// What was read (nothing for a write), or NBD's error number.
    pub(crate) result: Result<Vec<u8>, u32>,
}

/// A connection to one export.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    size: u64,
    next: u64,
    /// How many bytes each open request's reply carries.
    open: BTreeMap<u64, u32>,
}

impl Client {
    /// Connects and opens the export.
    pub(crate) fn connect(address: SocketAddr, export: &str) -> Result<Self, NbdError> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        // A stopped server's kernel accepts, and then nothing comes.
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        let mut client = Self {
            stream,
            size: 0,
            next: 1,
            open: BTreeMap::new(),
        };
        client.greet()?;
        client.go(export)?;
        client.stream.set_read_timeout(None)?;
        Ok(client)
    }

    /// The export's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Lets [`Client::receive`] fail with `WouldBlock` or `TimedOut` after so long; the
    /// connection is then to be dropped.
    pub(crate) fn set_patience(&self, patience: Duration) -> Result<(), NbdError> {
        Ok(self.stream.set_read_timeout(Some(patience))?)
    }

    fn greet(&mut self) -> Result<(), NbdError> {
        if self.u64()? != NBD_MAGIC || self.u64()? != OPTION_MAGIC {
            return Err(NbdError::Protocol("no newstyle greeting"));
        }
        if self.u16()? & FLAGS != FLAGS {
            return Err(NbdError::Protocol("no fixed newstyle"));
        }
        self.stream.write_all(&u32::from(FLAGS).to_be_bytes())?;
        Ok(())
    }

    fn go(&mut self, export: &str) -> Result<(), NbdError> {
        let name = export.as_bytes();
        let name_length =
            u32::try_from(name.len()).map_err(|_| NbdError::Protocol("a name too long"))?;
        let mut option = Vec::new();
        option.extend(OPTION_MAGIC.to_be_bytes());
        option.extend(OPTION_GO.to_be_bytes());
        option.extend((name_length + 6).to_be_bytes());
        option.extend(name_length.to_be_bytes());
        option.extend(name);
        option.extend(0_u16.to_be_bytes());
        self.stream.write_all(&option)?;
        loop {
            if self.u64()? != OPTION_REPLY_MAGIC || self.u32()? != OPTION_GO {
                return Err(NbdError::Protocol("no reply to GO"));
            }
            let (reply, length) = (self.u32()?, self.u32()?);
            if length > OPTION_REPLY_BYTES_MAX {
                return Err(NbdError::Protocol("an endless option reply"));
            }
            let payload = self.bytes(length)?;
            match (reply, payload.get(..10)) {
                (REPLY_ACK, _) => return Ok(()),
                (REPLY_INFO, Some(info)) if info[..2] == INFO_EXPORT.to_be_bytes() => {
                    let size: [u8; 8] = info[2..10].try_into().expect("8 bytes");
                    self.size = u64::from_be_bytes(size);
                }
                (REPLY_INFO, _) => {}
                (reply, _) if reply & REPLY_ERROR_BIT != 0 => {
                    return Err(NbdError::Refused {
                        export: export.to_owned(),
                        reply,
                    });
                }
                _ => return Err(NbdError::Protocol("an unknown option reply")),
            }
        }
    }

    /// Sends a write; its reply comes by [`Client::receive`].
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<u64, NbdError> {
        let length =
            u32::try_from(data.len()).map_err(|_| NbdError::Protocol("a write too long"))?;
        let handle = self.request(COMMAND_WRITE, offset, length, data)?;
        self.open.insert(handle, 0);
        Ok(handle)
    }

    /// Sends a read; its reply comes by [`Client::receive`].
    pub(crate) fn read(&mut self, offset: u64, length: u32) -> Result<u64, NbdError> {
        let handle = self.request(COMMAND_READ, offset, length, &[])?;
        self.open.insert(handle, length);
        Ok(handle)
    }

    fn request(
        &mut self,
        command: u16,
        offset: u64,
        length: u32,
        data: &[u8],
    ) -> Result<u64, NbdError> {
        let handle = self.next;
        self.next += 1;
        let mut frame = Vec::with_capacity(28 + data.len());
        frame.extend(REQUEST_MAGIC.to_be_bytes());
        frame.extend(0_u16.to_be_bytes());
        frame.extend(command.to_be_bytes());
        frame.extend(handle.to_be_bytes());
        frame.extend(offset.to_be_bytes());
        frame.extend(length.to_be_bytes());
        frame.extend(data);
        self.stream.write_all(&frame)?;
        Ok(handle)
    }

    /// Waits for the next reply to any request in flight.
    pub(crate) fn receive(&mut self) -> Result<Reply, NbdError> {
        if self.u32()? != SIMPLE_REPLY_MAGIC {
            return Err(NbdError::Protocol("no simple reply"));
        }
        let (error, handle) = (self.u32()?, self.u64()?);
        let length = self
            .open
            .remove(&handle)
            .ok_or(NbdError::Protocol("a reply to nothing"))?;
        let result = if error == 0 {
            Ok(self.bytes(length)?)
        } else {
            Err(error)
        };
        Ok(Reply { handle, result })
    }

    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, NbdError> {
        let length =
            usize::try_from(length).map_err(|_| NbdError::Protocol("a length too long"))?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NbdError> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, NbdError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, NbdError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, NbdError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A courtesy; a server that is gone does not miss it.
        drop(self.request(COMMAND_DISCONNECT, 0, 0, &[]));
    }
}
