//! Whole sessions, byte by byte, with an initiator that may do anything.

use bytes::{BufMut, Bytes};
use model::block::Chunk;

use super::pdu::{BHS_BYTES, Bhs, RESERVED_TAG, padding, request, response};
use super::{
    Access, CloseReason, CommandId, Effect, Entropy, Limits, ListedTarget, Scope, Session,
};
use crate::scsi::sense::Sense;
use crate::scsi::{Command, Outcome};

/// An initiator and its session.
struct Pair {
    session: Session,
    effects: Vec<Effect>,
    cmd_sn: u32,
}

fn header(opcode: u8, flags: u8, tag: u32) -> Bhs {
    let mut bhs = Bhs::new(opcode, flags);
    bhs.put32(16, tag);
    bhs
}

impl Pair {
    fn new(limits: Limits) -> Self {
        let entropy = Entropy {
            identifier: 1,
            challenge: [1; 16],
        };
        Self {
            session: Session::new(limits, entropy),
            effects: Vec::new(),
            cmd_sn: 7,
        }
    }

    /// Logged in, on these terms.
    fn logged_in(limits: Limits, keys: &str) -> Self {
        let mut pair = Self::new(limits);
        let text = format!("InitiatorName=iqn.h\0TargetName=iqn.t\0{keys}");
        let mut login = header(request::LOGIN | 0x40, 0x87, 1);
        login.put32(24, pair.cmd_sn);
        pair.send(login, text.as_bytes());
        assert!(matches!(pair.effects[..], [Effect::Identify(_)]));
        pair.session.identified(Ok(Access::Open));
        pair.advance();
        assert!(matches!(pair.effects[..], [Effect::Establish(_)]));
        pair.session.established(Ok(3));
        let answers = pair.receive();
        assert_eq!(answers[0].0.0[36], 0, "it is let in");
        assert_eq!(answers[0].0.be16(14), 3);
        pair
    }

    fn advance(&mut self) {
        self.effects.clear();
        self.session.advance(&mut self.effects);
    }

    fn send(&mut self, mut bhs: Bhs, data: &[u8]) {
        bhs.put_data_bytes(data.len());
        let wire = [&bhs.0[..], data, &[0; 3][..padding(data.len())]].concat();
        // Byte by byte: nothing may depend on how much comes at once.
        for byte in wire {
            self.session.input().put_u8(byte);
            self.session.advance(&mut self.effects);
        }
    }

    /// A numbered request.
    fn ask(&mut self, mut bhs: Bhs, data: &[u8]) {
        self.effects.clear();
        bhs.put32(24, self.cmd_sn);
        self.cmd_sn += 1;
        self.send(bhs, data);
    }

    fn command(&mut self, tag: u32, flags: u8, expected: u32, cdb: &[u8], data: &[u8]) {
        let mut bhs = header(request::COMMAND, flags, tag);
        bhs.put32(20, expected);
        bhs.0[32..32 + cdb.len()].copy_from_slice(cdb);
        self.ask(bhs, data);
    }

    fn executed(&self) -> (CommandId, Command) {
        match &self.effects[..] {
            [Effect::Execute { id, command }] => (*id, command.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// What came, PDU by PDU.
    fn receive(&mut self) -> Vec<(Bhs, Vec<u8>)> {
        let mut wire = Vec::new();
        while !self.session.output().is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let count = self.session.output().slices(&mut slices);
            let sent: usize = slices[..count].iter().map(|s| s.len()).sum();
            for slice in &slices[..count] {
                wire.extend_from_slice(slice);
            }
            self.session.output_mut().sent(sent);
        }
        let mut pdus = Vec::new();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let bhs = Bhs(rest[..BHS_BYTES].try_into().expect("a header"));
            let length = bhs.data_bytes();
            let data = rest[BHS_BYTES..BHS_BYTES + length].to_vec();
            rest = &rest[BHS_BYTES + length + padding(length)..];
            pdus.push((bhs, data));
        }
        pdus
    }
}

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const LENGTH: u32 = 4096;

fn read_to(outcome: Vec<Chunk>) -> Outcome {
    Outcome {
        data: outcome,
        ..Outcome::good()
    }
}

#[test]
fn a_read_is_cut_to_what_the_initiator_takes() {
    let mut pair = Pair::logged_in(
        Limits::default(),
        "MaxRecvDataSegmentLength=1024\0MaxBurstLength=2048\0",
    );
    pair.command(5, 0xc0, LENGTH, &READ, &[]);
    let (id, _) = pair.executed();
    let data = vec![Chunk::Data(Bytes::from(vec![1; 1500])), Chunk::Zeros(2596)];
    pair.session.completed(id, read_to(data));
    let pdus = pair.receive();
    assert_eq!(pdus.len(), 4);
    for (n, (bhs, data)) in pdus.iter().enumerate() {
        let n32 = u32::try_from(n).expect("few");
        assert_eq!((bhs.opcode(), data.len()), (response::DATA_IN & 0x3f, 1024));
        assert_eq!((bhs.be32(36), bhs.be32(40)), (n32, n32 * 1024));
        // The end of a burst; and the status with the last.
        assert_eq!(bhs.has(1, 0x80), n % 2 == 1);
        assert_eq!(bhs.has(1, 0x01), n == 3);
    }
    let all = pdus.iter().flat_map(|(_, data)| data);
    assert_eq!(all.filter(|byte| **byte == 1).count(), 1500);
}

#[test]
fn residuals_say_what_was_not_moved() {
    let mut pair = Pair::logged_in(Limits::default(), "");
    for (expected, flag, count, moved) in [(512, 0x04, 3584, 512), (8192, 0x02, 4096, 4096)] {
        pair.command(5, 0xc0, expected, &READ, &[]);
        let (id, _) = pair.executed();
        pair.session
            .completed(id, read_to(vec![Chunk::Zeros(4096)]));
        let pdus = pair.receive();
        let (bhs, data) = &pdus[0];
        assert!(bhs.has(1, flag), "{:#x}", bhs.0[1]);
        assert_eq!((bhs.be32(44), data.len()), (count, moved));
    }
    pair.command(5, 0xc0, LENGTH, &READ, &[]);
    let (id, _) = pair.executed();
    pair.session
        .completed(id, Outcome::check(Sense::UNREADABLE));
    let (bhs, data) = pair.receive().remove(0);
    assert_eq!((bhs.opcode(), bhs.0[3]), (response::COMMAND & 0x3f, 2));
    assert_eq!((bhs.be32(44), data.len()), (LENGTH, 20));
}

#[test]
fn a_write_is_asked_for_piece_by_piece() {
    let keys = "InitialR2T=Yes\0ImmediateData=Yes\0MaxBurstLength=2048\0FirstBurstLength=1024\0";
    let mut pair = Pair::logged_in(Limits::default(), keys);
    pair.command(9, 0xa0, LENGTH, &WRITE, &[1; 1024]);
    let mut at = 1024;
    for length in [2048, 1024] {
        let (r2t, _) = pair.receive().remove(0);
        assert_eq!(r2t.opcode(), response::R2T & 0x3f);
        assert_eq!((r2t.be32(40), r2t.be32(44)), (at, length));
        let mut data_out = header(request::DATA_OUT, 0x80, 9);
        data_out.put32(20, r2t.be32(20));
        data_out.put32(40, at);
        pair.effects.clear();
        pair.send(data_out, &vec![2; length as usize]);
        at += length;
    }
    let (id, command) = pair.executed();
    assert_eq!(command.data, [vec![1; 1024], vec![2; 3072]].concat());
    pair.session.completed(id, Outcome::good());
    let (bhs, _) = pair.receive().remove(0);
    assert_eq!((bhs.opcode(), bhs.be32(44)), (response::COMMAND & 0x3f, 0));
}

#[test]
fn data_in_disorder_fails_the_command_alone() {
    let mut pair = Pair::logged_in(Limits::default(), "InitialR2T=Yes\0ImmediateData=No\0");
    pair.command(9, 0xa0, LENGTH, &WRITE, &[]);
    let (r2t, _) = pair.receive().remove(0);
    let mut data_out = header(request::DATA_OUT, 0, 9);
    data_out.put32(20, r2t.be32(20));
    data_out.put32(36, 1);
    pair.send(data_out, &[0; 512]);
    let (bhs, data) = pair.receive().remove(0);
    assert_eq!((bhs.0[3], data[4] & 0x0f), (2, 0x0b));
    // What is still on its way is nobody's.
    data_out.put32(36, 0);
    pair.send(data_out, &[0; 512]);
    assert_eq!(pair.session.closing(), None);
    pair.command(10, 0xc0, LENGTH, &READ, &[]);
    pair.executed();
}

#[test]
fn only_so_much_is_under_way_at_once() {
    let limits = Limits {
        bytes_max: 8192,
        ..Limits::default()
    };
    let mut pair = Pair::logged_in(limits, "");
    let mut begun = Vec::new();
    for tag in 1..=4 {
        pair.command(tag, 0xc0, LENGTH, &READ, &[]);
        begun.extend(pair.effects.iter().map(|e| match e {
            Effect::Execute { id, .. } => *id,
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(begun.len(), 2);
    pair.session
        .completed(begun[0], read_to(vec![Chunk::Zeros(4096)]));
    pair.advance();
    pair.executed();
}

#[test]
fn numbers_out_of_the_window_are_ignored() {
    let limits = Limits {
        commands_max: 2,
        ..Limits::default()
    };
    let mut pair = Pair::logged_in(limits, "");
    let at = pair.cmd_sn;
    for wrong in [at + 2, at - 1, at + 1] {
        pair.cmd_sn = wrong;
        pair.command(1, 0xc0, LENGTH, &READ, &[]);
        assert!(pair.effects.is_empty(), "{wrong}");
    }
    pair.cmd_sn = at;
    pair.command(1, 0xc0, LENGTH, &READ, &[]);
    let (id, _) = pair.executed();
    pair.command(2, 0xc0, LENGTH, &READ, &[]);
    pair.executed();
    // The window is full until one has ended.
    pair.command(3, 0xc0, LENGTH, &READ, &[]);
    assert!(pair.effects.is_empty());
    pair.session
        .completed(id, read_to(vec![Chunk::Zeros(4096)]));
    let (bhs, _) = pair.receive().remove(0);
    assert_eq!((bhs.be32(28), bhs.be32(32)), (at + 2, at + 2));
}

#[test]
fn an_abort_is_answered_when_nothing_runs_any_more() {
    let mut pair = Pair::logged_in(Limits::default(), "");
    pair.command(5, 0xc0, LENGTH, &READ, &[]);
    let (id, _) = pair.executed();
    let mut abort = header(request::TASK_MANAGEMENT | 0x40, 0x81, 6);
    abort.put32(20, 5);
    pair.effects.clear();
    pair.send(abort, &[]);
    assert_eq!(pair.effects, [Effect::Abort(vec![id])]);
    assert!(pair.receive().is_empty());
    pair.session.completed(id, Outcome::good());
    let pdus = pair.receive();
    assert_eq!(pdus.len(), 1, "the command itself is not answered");
    assert_eq!(
        (pdus[0].0.opcode(), pdus[0].0.0[2]),
        (response::TASK_MANAGEMENT & 0x3f, 0)
    );
    // There is no such task any more.
    pair.send(abort, &[]);
    assert_eq!(pair.receive()[0].0.0[2], 1);
}

#[test]
fn a_reset_waits_for_the_others() {
    let mut pair = Pair::logged_in(Limits::default(), "");
    let reset = header(request::TASK_MANAGEMENT | 0x40, 0x85, 6);
    pair.effects.clear();
    pair.send(reset, &[]);
    assert_eq!(pair.effects, [Effect::Reset(Scope::Unit)]);
    assert!(pair.receive().is_empty());
    pair.session.reset();
    assert_eq!(pair.receive()[0].0.0[2], 0);
}

#[test]
fn pings_go_both_ways() {
    let mut pair = Pair::logged_in(Limits::default(), "");
    pair.ask(header(request::NOP_OUT, 0x80, 4), b"ping");
    let (bhs, data) = pair.receive().remove(0);
    assert_eq!(
        (bhs.opcode(), bhs.tag(), &data[..]),
        (response::NOP_IN & 0x3f, 4, &b"ping"[..])
    );
    pair.session.ping();
    let (bhs, _) = pair.receive().remove(0);
    assert!(pair.session.is_pinged());
    let mut answer = header(request::NOP_OUT | 0x40, 0x80, RESERVED_TAG);
    answer.put32(20, bhs.be32(20));
    pair.send(answer, &[]);
    assert!(!pair.session.is_pinged());
    assert!(pair.receive().is_empty());
}

#[test]
fn discovery_lists_and_does_no_more() {
    let mut pair = Pair::new(Limits::default());
    let mut login = header(request::LOGIN | 0x40, 0x87, 1);
    login.put32(24, pair.cmd_sn);
    pair.send(
        login,
        b"InitiatorName=iqn.h\0SessionType=Discovery\0MaxRecvDataSegmentLength=512\0",
    );
    pair.session.identified(Ok(Access::Open));
    pair.advance();
    pair.session.established(Ok(1));
    pair.receive();
    let mut text = header(request::TEXT, 0x80, 2);
    text.put32(20, RESERVED_TAG);
    pair.ask(text, b"SendTargets=All\0");
    assert_eq!(pair.effects, [Effect::Discover(None)]);
    let targets: Vec<ListedTarget> = (0..20)
        .map(|n| ListedTarget {
            name: format!("iqn.2026-01.io.atoll:v{n}"),
            portals: vec!["127.0.0.1:3260".into()],
        })
        .collect();
    pair.session.discovered(&targets);
    let mut whole = Vec::new();
    loop {
        let (bhs, data) = pair.receive().remove(0);
        whole.extend(data);
        if !bhs.has(1, 0x40) {
            break;
        }
        text.put32(20, bhs.be32(20));
        pair.ask(text, &[]);
    }
    let said = String::from_utf8(whole).expect("text");
    assert_eq!(said.matches("TargetAddress=127.0.0.1:3260,1\0").count(), 20);
    pair.command(9, 0xc0, LENGTH, &READ, &[]);
    assert_eq!(pair.receive()[0].0.opcode(), response::REJECT & 0x3f);
}

#[test]
fn a_logout_ends_the_session() {
    let mut pair = Pair::logged_in(Limits::default(), "");
    pair.ask(header(request::LOGOUT, 0x80, 4), &[]);
    assert_eq!(pair.receive()[0].0.opcode(), response::LOGOUT & 0x3f);
    assert_eq!(pair.session.closing(), Some(CloseReason::Done));
}

#[test]
fn what_can_not_come_now_ends_the_connection_or_is_rejected() {
    let mut early = Pair::new(Limits::default());
    early.send(header(request::COMMAND, 0x80, 1), &[]);
    assert_eq!(early.session.closing(), Some(CloseReason::Protocol));
    let mut pair = Pair::logged_in(Limits::default(), "ImmediateData=No\0");
    for (flags, expected, data) in [(0xa0, LENGTH, 512), (0x00, 0, 0), (0xe0, LENGTH, 0)] {
        pair.command(1, flags, expected, &WRITE, &vec![0; data]);
        let (bhs, data) = pair.receive().remove(0);
        assert_eq!(bhs.opcode(), response::REJECT & 0x3f, "{flags:#x}");
        assert_eq!(data.len(), BHS_BYTES);
        assert!(pair.effects.is_empty());
    }
    pair.ask(header(0x1c, 0x80, 1), &[]);
    assert_eq!(pair.receive()[0].0.opcode(), response::REJECT & 0x3f);
    let mut large = Bhs::new(request::NOP_OUT, 0x80);
    large.put32(4, 0x00ff_ffff);
    for byte in large.0 {
        pair.session.input().put_u8(byte);
    }
    pair.advance();
    assert_eq!(pair.session.closing(), Some(CloseReason::TooLarge));
}
