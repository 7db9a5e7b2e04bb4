//! A client and a shell around one session, without I/O.

use std::io::IoSlice;

use model::block::{Reply, Request};
use nbd_frontend::export::{ExportError, ExportInfo, ListedExport};
use nbd_frontend::session::{Effect, Encryption, Limits, RequestId, Session};

use super::memory::Memory;

pub const SIZE: u64 = 1 << 20;

// Options.
pub const EXPORT_NAME: u32 = 1;
pub const ABORT: u32 = 2;
pub const LIST: u32 = 3;
pub const STARTTLS: u32 = 5;
pub const INFO: u32 = 6;
pub const GO: u32 = 7;
pub const STRUCTURED: u32 = 8;
pub const LIST_META: u32 = 9;
pub const SET_META: u32 = 10;
pub const EXTENDED: u32 = 11;
// Replies to options.
pub const ACK: u32 = 1;
pub const SERVER: u32 = 2;
pub const REP_INFO: u32 = 3;
pub const META: u32 = 4;
pub const UNSUP: u32 = 0x8000_0001;
pub const POLICY: u32 = 0x8000_0002;
pub const INVALID: u32 = 0x8000_0003;
pub const TLS_REQD: u32 = 0x8000_0005;
pub const UNKNOWN: u32 = 0x8000_0006;
pub const TOO_BIG: u32 = 0x8000_0009;
pub const EXT_REQD: u32 = 0x8000_000a;
// Commands and their flags.
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const ZERO: u16 = 6;
pub const STATUS: u16 = 7;
pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;
pub const DF: u16 = 4;
pub const REQ_ONE: u16 = 8;
pub const FAST_ZERO: u16 = 16;
pub const PAYLOAD_LEN: u16 = 32;
// Chunks.
pub const NONE: u16 = 0;
pub const OFFSET_DATA: u16 = 1;
pub const OFFSET_HOLE: u16 = 2;
pub const BLOCK_STATUS: u16 = 5;
pub const BLOCK_STATUS_EXT: u16 = 6;
pub const ERROR: u16 = 0x8001;
// Errors.
pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const EOVERFLOW: u32 = 75;
pub const ESHUTDOWN: u32 = 108;

/// A reply to an option: option, type, data.
pub type OptionReply = (u32, u32, Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Simple {
        error: u32,
        cookie: u64,
        data: Vec<u8>,
    },
    Chunk {
        flags: u16,
        kind: u16,
        cookie: u64,
        offset: Option<u64>,
        data: Vec<u8>,
    },
}

pub fn info(name: &str, read_only: bool) -> ExportInfo {
    ExportInfo {
        name: name.to_owned(),
        description: format!("export {name}"),
        size: SIZE,
        read_only,
        multi_conn: read_only,
    }
}

/// The exports of the tests: `vol` (also the default) and `ro`.
pub fn find(name: &str) -> Result<ExportInfo, ExportError> {
    match name {
        "" | "vol" => Ok(info("vol", false)),
        "ro" => Ok(info("ro", true)),
        "secret" => Err(ExportError::Forbidden),
        _ => Err(ExportError::Unknown),
    }
}

pub struct Peer {
    pub session: Session,
    pub memory: Memory,
    /// Output that the test has not looked at.
    pub out: Vec<u8>,
    /// Requests that wait for an answer, with `hold`.
    pub held: Vec<(RequestId, Request)>,
    pub hold: bool,
    /// Whether a TLS handshake was asked for.
    pub tls_asked: bool,
}

impl Peer {
    pub fn with(limits: Limits, encryption: Encryption) -> Self {
        Self {
            session: Session::new(limits, encryption),
            memory: Memory::new(SIZE),
            out: Vec::new(),
            held: Vec::new(),
            hold: false,
            tls_asked: false,
        }
    }

    /// Greeted, flags answered: ready for options.
    pub fn new(encryption: Encryption) -> Self {
        let mut peer = Self::with(Limits::default(), encryption);
        peer.send(&3u32.to_be_bytes());
        let greeting = std::mem::take(&mut peer.out);
        assert_eq!(greeting, b"NBDMAGICIHAVEOPT\0\x03");
        peer
    }

    /// In the transmission phase on `vol`: plain, structured or extended.
    pub fn transmitting(negotiate: &[u32], contexts: bool) -> Self {
        Self::on("vol", negotiate, contexts)
    }

    pub fn on(export: &str, negotiate: &[u32], contexts: bool) -> Self {
        let mut peer = Self::new(Encryption::Off);
        for option in negotiate {
            assert_eq!(peer.option(*option, b""), [(*option, ACK, vec![])]);
        }
        if contexts {
            let replies = peer.option(SET_META, &meta(export, &["base:allocation"]));
            assert_eq!(replies.len(), 2);
        }
        peer.go(export);
        peer
    }

    pub fn go(&mut self, export: &str) {
        let replies = self.option(GO, &go(export, &[]));
        assert_eq!(replies.last(), Some(&(GO, ACK, vec![])));
        assert!(self.session.is_transmitting());
    }

    /// Sends bytes and carries out what comes of them; returns how many were taken.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let mut effects = Vec::new();
            let step = self.session.receive(&bytes[taken..], &mut effects);
            taken += step;
            let idle = step == 0 && effects.is_empty();
            self.carry_out(effects);
            self.collect();
            if idle {
                return taken;
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Lookup { name } => self.session.looked_up(find(&name)),
                Effect::Open { name } => self.session.opened(find(&name)),
                Effect::List => {
                    let listed = |name: &str| ListedExport {
                        name: name.to_owned(),
                        description: "d".to_owned(),
                    };
                    self.session.listed(Ok(vec![listed("vol"), listed("ro")]));
                }
                Effect::StartTls => self.tls_asked = true,
                Effect::Submit { id, request } if self.hold => self.held.push((id, request)),
                Effect::Submit { id, request } => {
                    let reply = self.memory.execute(request);
                    self.session.replied(id, reply);
                }
            }
        }
    }

    /// Answers held request number `index` as the volume would.
    pub fn release(&mut self, index: usize) {
        let (id, request) = self.held.remove(index);
        let reply = self.memory.execute(request);
        self.reply(id, reply);
    }

    pub fn reply(&mut self, id: RequestId, reply: Reply) {
        self.session.replied(id, reply);
        self.collect();
    }

    /// Moves the session's output to `out`, in odd steps.
    pub fn collect(&mut self) {
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = self.session.output().slices(&mut slices);
            let all: Vec<u8> = slices[..count]
                .iter()
                .flat_map(|it| it.iter().copied())
                .collect();
            let step = all.len().min(1000);
            self.out.extend_from_slice(&all[..step]);
            self.session.output_mut().sent(step);
        }
    }

    /// Sends an option and returns all that comes back.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<OptionReply> {
        self.send(&option_bytes(option, data));
        self.option_replies()
    }

    pub fn option_replies(&mut self) -> Vec<OptionReply> {
        let out = std::mem::take(&mut self.out);
        let mut at = &out[..];
        let mut replies = Vec::new();
        while !at.is_empty() {
            assert_eq!(u64_of(&mut at), 0x0003_e889_0455_65a9);
            let (option, kind, length) = (u32_of(&mut at), u32_of(&mut at), u32_of(&mut at));
            let (data, rest) = at.split_at(length as usize);
            replies.push((option, kind, data.to_vec()));
            at = rest;
        }
        replies
    }

    /// The type of the one reply to an option.
    pub fn verdict(&mut self, option: u32, data: &[u8]) -> u32 {
        let replies = self.option(option, data);
        assert_eq!(replies.len(), 1, "{replies:?}");
        assert_eq!(replies[0].0, option);
        replies[0].1
    }

    /// Sends a compact request and returns what comes back; `read` bytes follow a simple reply.
    pub fn request(&mut self, flags: u16, command: u16, offset: u64, length: u32) -> Vec<Message> {
        self.send(&compact(flags, command, 7, offset, length));
        let read = if command == READ { length as usize } else { 0 };
        self.messages(read)
    }

    pub fn extended(&mut self, flags: u16, command: u16, offset: u64, length: u64) -> Vec<Message> {
        self.send(&extended(flags, command, 7, offset, length));
        self.messages(0)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Vec<Message> {
        let mut bytes = compact(0, WRITE, 7, offset, data.len() as u32);
        bytes.extend_from_slice(data);
        self.send(&bytes);
        self.messages(0)
    }

    /// The error of the one reply; 0 for success.
    pub fn errno(&mut self, flags: u16, command: u16, offset: u64, length: u32) -> u32 {
        error_of(&self.request(flags, command, offset, length))
    }

    pub fn messages(&mut self, read: usize) -> Vec<Message> {
        parse(&std::mem::take(&mut self.out), read)
    }
}

/// The error of one reply; 0 for success.
pub fn error_of(messages: &[Message]) -> u32 {
    match messages {
        [Message::Simple { error, .. }] => *error,
        [
            Message::Chunk {
                kind: ERROR, data, ..
            },
        ] => u32_of(&mut &data[..]),
        [Message::Chunk { .. }, ..] => 0,
        other => panic!("not one reply: {other:?}"),
    }
}

pub fn parse(out: &[u8], read: usize) -> Vec<Message> {
    let mut at = out;
    let mut messages = Vec::new();
    while !at.is_empty() {
        match u32_of(&mut at) {
            0x6744_6698 => {
                let (error, cookie) = (u32_of(&mut at), u64_of(&mut at));
                let (data, rest) = at.split_at(if error == 0 { read } else { 0 });
                messages.push(Message::Simple {
                    error,
                    cookie,
                    data: data.to_vec(),
                });
                at = rest;
            }
            magic @ (0x668e_33ef | 0x6e8a_278c) => {
                let (flags, kind) = (u16_of(&mut at), u16_of(&mut at));
                let cookie = u64_of(&mut at);
                let (offset, length) = if magic == 0x6e8a_278c {
                    (Some(u64_of(&mut at)), u64_of(&mut at))
                } else {
                    (None, u64::from(u32_of(&mut at)))
                };
                let (data, rest) = at.split_at(length as usize);
                messages.push(Message::Chunk {
                    flags,
                    kind,
                    cookie,
                    offset,
                    data: data.to_vec(),
                });
                at = rest;
            }
            magic => panic!("not a reply: {magic:x}"),
        }
    }
    messages
}

pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

pub fn go(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(requests.len() as u16).to_be_bytes());
    for request in requests {
        data.extend_from_slice(&request.to_be_bytes());
    }
    data
}

pub fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}

pub fn compact(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

pub fn extended(flags: u16, command: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = 0x21e4_1c71_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

pub fn u16_of(at: &mut &[u8]) -> u16 {
    let (head, rest) = at.split_first_chunk().expect("two bytes");
    *at = rest;
    u16::from_be_bytes(*head)
}

pub fn u32_of(at: &mut &[u8]) -> u32 {
    let (head, rest) = at.split_first_chunk().expect("four bytes");
    *at = rest;
    u32::from_be_bytes(*head)
}

pub fn u64_of(at: &mut &[u8]) -> u64 {
    let (head, rest) = at.split_first_chunk().expect("eight bytes");
    *at = rest;
    u64::from_be_bytes(*head)
}
