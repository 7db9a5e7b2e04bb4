//! Commands against a unit that is known.

use std::sync::Arc;

use bytes::Bytes;
use model::block::{Chunk, Reply, Request};
use model::ids::Version;
use model::iscsi::{Nexus, UnitState};

use super::cdb::Cdb;
use super::facts::{AccessState, Facts, Identity, PortGroup};
use super::sense::{Sense, Status};
use super::{Command, Device, Outcome, Step, data_out};

pub(super) fn facts() -> Facts {
    let group = |id, access, ports| PortGroup { id, access, ports };
    Facts {
        size_bytes: 1 << 20,
        read_only: false,
        identity: Identity {
            naa: 0x3000_0000_0000_0001,
            serial: "0000000000000001".into(),
            target: "iqn.2026-01.io.atoll:v".into(),
        },
        port: 1,
        groups: vec![
            group(1, AccessState::Optimized, vec![1, 2]),
            group(2, AccessState::NonOptimized, vec![3]),
        ],
        version: Version(1),
        state: Arc::new(UnitState::default()),
    }
}

fn nexus(name: &str) -> Nexus {
    Nexus {
        initiator: name.into(),
        port: 1,
    }
}

fn command(bytes: &[u8], data: &[u8]) -> Command {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    Command {
        lun: 0,
        cdb: Cdb(cdb),
        data: Bytes::copy_from_slice(data),
        expected: u32::try_from(data.len()).expect("little data"),
    }
}

fn start(bytes: &[u8], data: &[u8]) -> Step {
    let facts = facts();
    Device::new(nexus("a"), &facts).start(&command(bytes, data), &facts)
}

fn data_of(step: Step) -> Vec<u8> {
    match step {
        Step::Done(Outcome {
            status: Status::Good,
            data,
            ..
        }) => match &data[..] {
            [Chunk::Data(bytes)] => bytes.to_vec(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_is_a_read_of_bytes() {
    let step = start(&[0x28, 0, 0, 0, 0, 2, 0, 0, 4, 0], &[]);
    let Step::Submit { request, .. } = step else {
        panic!("{step:?}");
    };
    let expected = Request::Read {
        offset: 1024,
        length: 2048,
    };
    assert_eq!(request, expected);
}

#[test]
fn the_last_block_is_there_and_the_next_is_not() {
    assert!(matches!(
        start(&[0x28, 0, 0, 0, 7, 0xff, 0, 0, 1, 0], &[]),
        Step::Submit { .. }
    ));
    let beyond = start(&[0x28, 0, 0, 0, 7, 0xff, 0, 0, 2, 0], &[]);
    assert_eq!(beyond, Sense::OUT_OF_RANGE.into());
    let none = start(&[0x28, 0, 0, 0, 8, 0, 0, 0, 0, 0], &[]);
    assert_eq!(none, Step::Done(Outcome::good()));
    let none_beyond = start(&[0x28, 0, 0, 0, 8, 1, 0, 0, 0, 0], &[]);
    assert_eq!(none_beyond, Sense::OUT_OF_RANGE.into());
}

#[test]
fn what_is_not_supported_says_so() {
    assert_eq!(start(&[0xff], &[]), Sense::OPCODE.into());
    assert_eq!(start(&[0x5e, 0x0f], &[]), Sense::CDB_FIELD.into());
    // RDPROTECT.
    assert_eq!(
        start(&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], &[]),
        Sense::CDB_FIELD.into()
    );
}

#[test]
fn another_lun_is_not_there() {
    let facts = facts();
    let mut device = Device::new(nexus("a"), &facts);
    let mut asked = command(&[0, 0, 0, 0, 0, 0], &[]);
    asked.lun = 1 << 48;
    assert_eq!(device.start(&asked, &facts), Sense::NO_UNIT.into());
    asked.cdb.0[0] = 0x12;
    asked.cdb.0[4] = 96;
    assert_eq!(data_of(device.start(&asked, &facts))[0], 0x7f);
}

#[test]
fn unmap_goes_range_by_range() {
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (first, blocks) in [(8_u64, 8_u32), (64, 16)] {
        list.extend(first.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    let mut step = start(&[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list);
    let mut trimmed = Vec::new();
    while let Step::Submit { request, task } = step {
        trimmed.push(request);
        step = task.resume(Reply::Done);
    }
    let trim = |offset, length| Request::Trim { offset, length };
    assert_eq!(trimmed, [trim(4096, 4096), trim(32768, 8192)]);
    assert_eq!(step, Step::Done(Outcome::good()));
    let cut = start(&[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list[..39]);
    assert_eq!(cut, Sense::LIST_LENGTH.into());
}

#[test]
fn write_same_of_zeros_moves_no_data() {
    let same = |flags, data: &[u8]| start(&[0x41, flags, 0, 0, 0, 8, 0, 0, 8, 0], data);
    let request = |step| match step {
        Step::Submit { request, .. } => request,
        other => panic!("{other:?}"),
    };
    let (offset, length) = (4096, 4096);
    assert_eq!(
        request(same(0x08, &[0; 512])),
        Request::Trim { offset, length }
    );
    let allocate = false;
    let zero = Request::Zero {
        offset,
        length,
        allocate,
    };
    assert_eq!(request(same(0, &[0; 512])), zero);
    assert!(matches!(
        request(same(0x08, &[1; 512])),
        Request::Write { .. }
    ));
    assert_eq!(same(0, &[0; 256]), Sense::INFORMATION_UNIT.into());
    assert_eq!(same(0x10, &[0; 512]), Sense::CDB_FIELD.into());
}

#[test]
fn an_atomic_write_stays_within_its_part() {
    let facts = Facts {
        size_bytes: 4 << 20,
        ..facts()
    };
    let mut device = Device::new(nexus("a"), &facts);
    let mut write = command(
        &[0x9c, 0, 0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 0, 1, 0, 0],
        &[1; 512],
    );
    assert!(matches!(device.start(&write, &facts), Step::Submit { .. }));
    write.cdb.0[13] = 2;
    assert_eq!(device.start(&write, &facts), Sense::CDB_FIELD.into());
}

#[test]
fn who_reserved_the_unit_shuts_others_out_and_they_are_told() {
    let mut facts = facts();
    let (mut a, mut b) = (
        Device::new(nexus("a"), &facts),
        Device::new(nexus("b"), &facts),
    );
    let mut list = [0; 24];
    list[15] = 1;
    let register = command(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &list);
    for device in [&mut a, &mut b] {
        let Step::Change(next) = device.start(&register, &facts) else {
            panic!("it registers");
        };
        device.changed(&next);
        facts.state = Arc::new(*next);
    }
    list[7] = 1;
    let reserve = command(&[0x5f, 1, 5, 0, 0, 0, 0, 0, 24, 0], &list);
    let Step::Change(next) = a.start(&reserve, &facts) else {
        panic!("it reserves");
    };
    a.changed(&next);
    facts.state = Arc::new(*next);
    let write = command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
    let mut c = Device::new(nexus("c"), &facts);
    let conflict = Step::Done(Outcome::status(Status::ReservationConflict));
    assert_eq!(c.start(&write, &facts), conflict);
    let again = b.start(&reserve, &facts);
    assert_eq!(again, conflict);
    let release = command(&[0x5f, 2, 5, 0, 0, 0, 0, 0, 24, 0], &list);
    let Step::Change(next) = a.start(&release, &facts) else {
        panic!("it releases");
    };
    facts.state = Arc::new(*next);
    let told = super::Attention::ReservationsReleased.sense();
    assert_eq!(b.start(&write, &facts), told.into());
    assert!(matches!(b.start(&write, &facts), Step::Submit { .. }));
}

#[test]
fn a_new_size_and_a_new_owner_are_told_once() {
    let mut facts = facts();
    let mut device = Device::new(nexus("a"), &facts);
    facts.size_bytes *= 2;
    facts.groups[0].access = AccessState::NonOptimized;
    facts.groups[1].access = AccessState::Optimized;
    let ready = command(&[0; 6], &[]);
    let mut codes = Vec::new();
    while let Step::Done(Outcome {
        sense: Some(sense), ..
    }) = device.start(&ready, &facts)
    {
        codes.push(sense.code);
    }
    assert_eq!(codes, [0x2a09, 0x2a06]);
}

#[test]
fn write_protection_is_set_and_told() {
    let facts = facts();
    let mut device = Device::new(nexus("a"), &facts);
    let mut page = data_of(device.start(&command(&[0x1a, 8, 0x0a, 0, 255, 0], &[]), &facts));
    page[..4].copy_from_slice(&[0; 4]);
    page[4 + 4] |= 0x08;
    let select = command(&[0x15, 0x10, 0, 0, 16, 0], &page);
    let Step::Change(next) = device.start(&select, &facts) else {
        panic!("it is set");
    };
    assert!(next.write_protected);
    let facts = Facts {
        state: Arc::new(*next),
        ..facts
    };
    device.changed(&facts.state);
    let write = command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
    assert_eq!(device.start(&write, &facts), Sense::PROTECTED.into());
    // A page that changes what can't be changed.
    page[4 + 2] ^= 0x04;
    let select = command(&[0x15, 0x10, 0, 0, 16, 0], &page);
    assert_eq!(device.start(&select, &facts), Sense::LIST_FIELD.into());
}

#[test]
fn data_of_commands_is_bounded() {
    let mut cdb = [0xff; 16];
    for opcode in 0..=u8::MAX {
        cdb[0] = opcode;
        assert!(data_out(Cdb(cdb)) <= 8 << 20, "{opcode:#04x}");
    }
}
