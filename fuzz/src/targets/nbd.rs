//! A client's conversation with the NBD server: handshake, then transmission.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use model::block::{Allocation, BlockError, Chunk, Extent, Reply, Request};
use nbd_frontend::export::{ExportError, ExportInfo, ListedExport, PAYLOAD_BYTES_MAX};
use nbd_frontend::session::{Effect, Encryption, Limits, RequestId, Session};

use crate::Verdict;
use crate::input::Input;

const SIZE: u64 = 1 << 30;

const LIMITS: Limits = Limits {
    requests_max: 64,
    bytes_max: 1 << 20,
    read_ahead: 16 << 10,
};

/// A write's payload has room before it is there: what the protocol's largest one needs.
pub(super) const BUDGET: usize = PAYLOAD_BYTES_MAX as usize + (4 << 20);

fn find(name: &str) -> Result<ExportInfo, ExportError> {
    let info = |read_only| ExportInfo {
        name: name.to_owned(),
        description: "an export".to_owned(),
        size: SIZE,
        read_only,
        multi_conn: read_only,
    };
    match name {
        "" | "vol" => Ok(info(false)),
        "ro" => Ok(info(true)),
        "secret" => Err(ExportError::Forbidden),
        _ => Err(ExportError::Unknown),
    }
}

/// A volume without memory: what a request deserves, if it may be asked at all.
fn answer(request: &Request) -> Reply {
    let (offset, length) = match request {
        Request::Read { offset, length } => (*offset, u64::from(*length)),
        Request::Write { offset, data } => (*offset, data.len() as u64),
        Request::Zero { offset, length, .. }
        | Request::Trim { offset, length }
        | Request::Status { offset, length } => (*offset, *length),
        Request::Flush => return Reply::Done,
    };
    assert!(length > 0, "nothing is never submitted");
    let end = offset.checked_add(length);
    assert!(end.is_some_and(|end| end <= SIZE), "all lies in the volume");
    match request {
        Request::Read { .. } if offset % 3 == 0 => Reply::Error(BlockError::Unreadable),
        Request::Read { .. } => {
            let data = Bytes::from_static(&[7; 64]);
            let first = data.slice(..usize::try_from(length.min(64)).unwrap_or(64));
            let zeros = Chunk::Zeros(length - first.len() as u64);
            let chunks = [Chunk::Data(first), zeros];
            Reply::Data(
                chunks
                    .into_iter()
                    .take(1 + usize::from(length > 64))
                    .collect(),
            )
        }
        Request::Status { .. } => Reply::Status(vec![Extent {
            length,
            state: Allocation::Zero,
        }]),
        _ => Reply::Done,
    }
}

struct Server {
    session: Session,
    held: VecDeque<(RequestId, Request)>,
    /// Requests are answered late, the last one first.
    late: bool,
}

impl Server {
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Lookup { name } => self.session.looked_up(find(&name)),
                Effect::Open { name } => self.session.opened(find(&name)),
                Effect::List => {
                    let listed = ListedExport {
                        name: "vol".to_owned(),
                        description: String::new(),
                    };
                    self.session.listed(Ok(vec![listed]));
                }
                Effect::StartTls => self.session.tls_started(),
                Effect::Submit { id, request } => self.held.push_back((id, request)),
            }
        }
        if !self.late || self.held.len() > 8 || !self.session.wants_input() {
            while let Some((id, request)) = self.held.pop_back() {
                self.session.replied(id, answer(&request));
            }
        }
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = self.session.output().slices(&mut slices);
            let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
            assert!(bytes > 0, "what waits can be sent");
            self.session.output_mut().sent(bytes);
        }
        assert!(self.session.in_flight() <= LIMITS.requests_max);
    }
}

pub(super) fn run(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let how = input.u8();
    let piece = 1 + 16 * usize::from(how >> 3);
    let encryption = match how & 3 {
        0 | 1 => Encryption::Off,
        2 => Encryption::Allowed,
        _ => Encryption::Required,
    };
    let mut server = Server {
        session: Session::new(LIMITS, encryption),
        held: VecDeque::new(),
        late: how & 4 != 0,
    };
    for piece in input.rest().chunks(piece) {
        let mut taken = 0;
        loop {
            let mut effects = Vec::new();
            let step = server.session.receive(&piece[taken..], &mut effects);
            taken += step;
            let idle = step == 0 && effects.is_empty();
            server.carry_out(effects);
            if idle {
                break;
            }
        }
        if taken < piece.len() {
            assert!(!server.session.wants_input(), "what is wanted is taken");
            break;
        }
    }
    server.late = false;
    server.carry_out(Vec::new());
    assert_eq!(server.session.in_flight(), 0, "all is answered");
    Verdict::of(server.session.is_transmitting())
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length, data].concat()
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes(), name.as_bytes(), rest].concat()
}

/// A request's header: compact, or extended.
fn request(extended: bool, command: u16, offset: u64, length: u32) -> Vec<u8> {
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let wide = u64::from(length).to_be_bytes();
    let length = if extended { &wide[..] } else { &wide[4..] };
    [
        &magic.to_be_bytes()[..],
        &[0, 0],
        &command.to_be_bytes(),
        &7_u64.to_be_bytes(),
        &offset.to_be_bytes(),
        length,
    ]
    .concat()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let (go_to, list, info, structured, set_meta, extended) = (7, 3, 6, 8, 10, 11);
    let flags = 3_u32.to_be_bytes().to_vec();
    let context = named("base:allocation", &[]);
    let meta = option(
        set_meta,
        &named("vol", &[&[0, 0, 0, 1], &context[..]].concat()),
    );
    let go = option(go_to, &named("vol", &[0, 1, 0, 3]));
    let of_all = |extended: bool| {
        let write = [request(extended, 1, 8192, 16), vec![5; 16]].concat();
        let plain = [
            (0, 4097, 200),
            (3, 0, 0),
            (4, 0, 4096),
            (5, 1, 9),
            (6, 8, 8),
            (7, 0, 65536),
        ];
        let plain = plain.map(|(command, at, length)| request(extended, command, at, length));
        [write, plain.concat(), request(extended, 2, 0, 0)].concat()
    };
    let handshakes = [
        (vec![], false),
        (option(structured, b""), false),
        ([option(structured, b""), meta.clone()].concat(), false),
        ([option(extended, b""), meta].concat(), true),
        (
            [option(list, b""), option(info, &named("ro", &[0, 0]))].concat(),
            false,
        ),
    ];
    let talk = |(how, (options, extended)): (u8, (Vec<u8>, bool))| {
        let rest = [&options[..], &go, &of_all(extended)].concat();
        [&[how], &flags[..], &rest].concat()
    };
    let mut seeds: Vec<_> = [0x40, 0x44, 0xf8, 0x80, 0x7c]
        .into_iter()
        .zip(handshakes)
        .map(talk)
        .collect();
    // Encrypted, and then NBD_OPT_EXPORT_NAME.
    let tls = [option(5, b""), option(1, b"vol"), of_all(false)].concat();
    seeds.push([&[0x03], &flags[..], &tls].concat());
    seeds
}
