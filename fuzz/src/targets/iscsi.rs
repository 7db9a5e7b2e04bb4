//! An initiator's conversation with the iSCSI server: login, then commands; and commands alone.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use iscsi_frontend::scsi::cdb::Cdb;
use iscsi_frontend::scsi::facts::{AccessState, Facts, Identity, PortGroup};
use iscsi_frontend::scsi::{Command, Device, Outcome, Step, data_out};
use iscsi_frontend::session::{
    Access, CommandId, Credentials, Effect, Entropy, Limits, ListedTarget, LoginError, Session,
};
use model::block::{Allocation, Chunk, Extent, Reply, Request};
use model::ids::Version;
use model::iscsi::{Nexus, Secret, UnitState};

use crate::Verdict;
use crate::input::{Input, chunk};

const SIZE: u64 = 1 << 30;

const LIMITS: Limits = Limits {
    commands_max: 16,
    bytes_max: 1 << 20,
    output_max: 1 << 20,
    read_ahead: 16 << 10,
};

/// One command's data may be gathered while another one's is read; its answer is no larger.
pub(super) const BUDGET: usize = 48 << 20;

fn facts(state: UnitState) -> Facts {
    Facts {
        size_bytes: SIZE,
        read_only: false,
        identity: Identity {
            naa: 3 << 60,
            serial: "00000001".to_owned(),
            target: "iqn.t".to_owned(),
        },
        port: 1,
        groups: vec![PortGroup {
            id: 1,
            access: AccessState::Optimized,
            ports: vec![1],
        }],
        version: Version(1),
        state: Arc::new(state),
    }
}

/// A volume without memory.
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
    assert!(end.is_some_and(|end| end <= SIZE), "all lies in the unit");
    match request {
        Request::Read { .. } => Reply::Data(vec![Chunk::Zeros(length)]),
        Request::Status { .. } => Reply::Status(vec![Extent {
            length,
            state: Allocation::Hole,
        }]),
        _ => Reply::Done,
    }
}

/// A unit, whose nexus is asked one command after another.
struct Unit {
    device: Device,
    facts: Facts,
}

impl Unit {
    fn new(initiator: String) -> Self {
        let facts = facts(UnitState::default());
        let nexus = Nexus { initiator, port: 1 };
        Self {
            device: Device::new(nexus, &facts),
            facts,
        }
    }

    /// What a command comes to, after so many steps at most: the rest of a long one is no news.
    fn carry_out(&mut self, command: &Command) -> Outcome {
        let mut step = self.device.start(command, &self.facts);
        for _ in 0..64 {
            step = match step {
                Step::Done(outcome) => return outcome,
                Step::Submit { request, task } => {
                    let reply = answer(&request);
                    self.device.resume(task, reply)
                }
                Step::Change(state) => {
                    self.device.changed(&state);
                    self.facts.state = Arc::new(*state);
                    return Outcome::good();
                }
                Step::Lost => panic!("the volume's session is there"),
            };
        }
        Outcome::good()
    }
}

struct Server {
    session: Session,
    unit: Unit,
    held: VecDeque<(CommandId, Command)>,
    /// Commands are answered late, the last one first.
    late: bool,
    chap: bool,
}

impl Server {
    fn identify(&self, target: Option<&str>) -> Result<Access, LoginError> {
        match target {
            Some("iqn.secret") => Err(LoginError::Forbidden),
            Some(_) if self.chap => Ok(Access::Proven(Credentials {
                initiator: Secret {
                    user: "host".to_owned(),
                    secret: "a long secret".to_owned(),
                },
                target: None,
            })),
            _ => Ok(Access::Open),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Identify(names) => {
                    let access = self.identify(names.target.as_deref());
                    self.session.identified(access);
                }
                Effect::Establish(_) => self.session.established(Ok(1)),
                Effect::Discover(_) => {
                    let listed = ListedTarget {
                        name: "iqn.t".to_owned(),
                        portals: vec!["127.0.0.1:3260".to_owned()],
                    };
                    self.session.discovered(&[listed]);
                }
                Effect::Execute { id, command } => self.held.push_back((id, command)),
                Effect::Abort(_) => {}
                Effect::Reset(_) => self.session.reset(),
            }
        }
        if !self.late || self.held.len() > 4 || !self.session.wants_input() {
            while let Some((id, command)) = self.held.pop_back() {
                let outcome = self.unit.carry_out(&command);
                self.session.completed(id, outcome);
            }
        }
        while !self.session.output().is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = self.session.output().slices(&mut slices);
            let bytes = slices[..count].iter().map(|slice| slice.len()).sum();
            assert!(bytes > 0, "what waits can be sent");
            self.session.output_mut().sent(bytes);
        }
    }
}

pub(super) fn run(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let how = input.u8();
    let piece = 1 + 16 * usize::from(how >> 3);
    let entropy = Entropy {
        identifier: 1,
        challenge: [7; 16],
    };
    let mut server = Server {
        session: Session::new(LIMITS, entropy),
        unit: Unit::new("iqn.h,i,0x800000000001".to_owned()),
        held: VecDeque::new(),
        late: how & 1 != 0,
        chap: how & 2 != 0,
    };
    while !input.is_empty() && server.session.closing().is_none() {
        let bytes = input.take(piece);
        server.session.input().put_slice(bytes);
        loop {
            let mut effects = Vec::new();
            server.session.advance(&mut effects);
            if effects.is_empty() && server.held.is_empty() {
                break;
            }
            let is_done = effects.is_empty() && server.late;
            server.carry_out(effects);
            if is_done {
                break;
            }
        }
        server.carry_out(Vec::new());
    }
    Verdict::of(server.session.is_full())
}

/// Commands with their data, of one nexus.
pub(super) fn scsi(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let mut unit = Unit::new("iqn.h,i,0x800000000001".to_owned());
    let mut taken = false;
    while !input.is_empty() {
        let mut cdb = [0; 16];
        let bytes = input.take(16);
        cdb[..bytes.len()].copy_from_slice(bytes);
        let cdb = Cdb(cdb);
        let mut data = input.chunk().to_vec();
        data.truncate(usize::try_from(data_out(cdb)).expect("small"));
        let expected = u32::try_from(data.len()).expect("small");
        let outcome = unit.carry_out(&Command {
            lun: 0,
            cdb,
            data: Bytes::from(data),
            expected,
        });
        taken |= outcome.sense.is_none();
    }
    Verdict::of(taken)
}

/// A PDU of an initiator.
fn pdu(opcode: u8, flags: u8, numbers: &[(usize, u32)], cdb: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bhs = [0; 48];
    bhs[0] = opcode;
    bhs[1] = flags;
    let length = u32::try_from(data.len()).expect("a short seed");
    bhs[4..8].copy_from_slice(&length.to_be_bytes());
    for (at, number) in numbers {
        bhs[*at..at + 4].copy_from_slice(&number.to_be_bytes());
    }
    bhs[32..32 + cdb.len()].copy_from_slice(cdb);
    let pad = vec![0; data.len().wrapping_neg() & 3];
    [&bhs[..], data, &pad].concat()
}

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0];
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0];

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let names = b"InitiatorName=iqn.h\0TargetName=iqn.t\0InitialR2T=Yes\0";
    let digests =
        b"InitiatorName=iqn.h\0TargetName=iqn.t\0HeaderDigest=CRC32C\0DataDigest=CRC32C\0";
    let discovery = b"InitiatorName=iqn.h\0SessionType=Discovery\0";
    let login = |keys: &[u8]| pdu(0x43, 0x87, &[(16, 1), (24, 1)], &[], keys);
    let normal = [
        login(names),
        pdu(0x01, 0xc0, &[(16, 2), (20, 4096), (24, 1)], &READ, &[]),
        pdu(
            0x01,
            0xa0,
            &[(16, 3), (20, 4096), (24, 2)],
            &WRITE,
            &[1; 512],
        ),
        pdu(0x05, 0x80, &[(16, 3), (20, 1), (40, 512)], &[], &[2; 3584]),
        pdu(
            0x00,
            0x80,
            &[(16, 4), (20, u32::MAX), (24, 3)],
            &[],
            b"ping",
        ),
        pdu(0x42, 0x85, &[(16, 5), (24, 4)], &[], &[]),
        pdu(0x06, 0x80, &[(16, 6), (24, 4)], &[], &[]),
    ];
    let found = [
        login(discovery),
        pdu(
            0x04,
            0x80,
            &[(16, 2), (20, u32::MAX), (24, 1)],
            &[],
            b"SendTargets=All\0",
        ),
    ];
    let with = |how: u8, pdus: &[Vec<u8>]| [&[how][..], &pdus.concat()].concat();
    vec![
        with(0xf8, &normal),
        with(0xf9, &normal),
        with(0xf8, &found),
        with(0xf8, &[login(digests)]),
    ]
}

pub(super) fn scsi_seeds() -> Vec<Vec<u8>> {
    let command = |cdb: &[u8], data: &[u8]| {
        let mut bytes = cdb.to_vec();
        bytes.resize(16, 0);
        [bytes, chunk(data)].concat()
    };
    let mut unmap = vec![0, 22, 0, 16, 0, 0, 0, 0];
    unmap.extend([0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0]);
    let mut register = vec![0; 24];
    register[15] = 1;
    let mut copy = vec![0; 16 + 32 + 28];
    copy[3] = 32;
    copy[11] = 28;
    copy[16] = 0xe4;
    copy[16 + 4..16 + 8].copy_from_slice(&[1, 3, 0, 8]);
    copy[16 + 8] = 0x30;
    copy[48] = 0x02;
    copy[51] = 24;
    copy[59] = 8;
    copy[75] = 64;
    vec![
        command(&READ, &[]),
        command(&WRITE, &[1; 4096]),
        command(&[0x12, 1, 0x83, 0, 255, 0], &[]),
        command(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &unmap),
        command(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &register),
        command(&[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 76, 0, 0], &copy),
        command(&[0x1a, 0, 0x3f, 0, 255, 0], &[]),
        command(
            &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            &[0; 1024],
        ),
    ]
}
