use super::*;
use crate::ids::{Boot, ClientId, NodeId, Position, Seq};

const VOLUME: VolumeId = VolumeId(1);

fn at(epoch: u64, seq: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
    }
}

fn is_sound(body: RecordBody, payload_len: u32) -> bool {
    let position = at(3, 9);
    let head = RecordHead {
        position,
        body,
        payload_len,
    };
    head.is_sound(VOLUME)
}

fn part(n: u64, low: u64) -> Part {
    let session = SessionId(at(3, 1));
    Part { session, n, low }
}

fn write(offset: u64, payload_len: u32, sums: usize) -> bool {
    let (part, sums) = (part(1, 1), vec![0; sums]);
    is_sound(RecordBody::Write { part, offset, sums }, payload_len)
}

fn zero(part: Part, offset: u64, length: u64) -> bool {
    let body = RecordBody::Zero {
        part,
        offset,
        length,
        allocate: true,
    };
    is_sound(body, 0)
}

#[test]
fn a_write_has_one_checksum_a_piece() {
    for (offset, bytes, sums) in [(0, 4096, 1), (1, 4096, 2), (4095, 2, 2), (4095, 4098, 3)] {
        assert!(write(offset, bytes, sums));
        assert!(!write(offset, bytes, sums - 1));
        assert!(!write(offset, bytes, sums + 1));
    }
    assert!(!write(0, 0, 0) && !write(0, 0, 1));
}

#[test]
fn ranges_end_where_bytes_have_numbers() {
    assert!(zero(part(1, 1), 0, u64::MAX));
    assert!(!zero(part(1, 1), 1, u64::MAX));
    assert!(!zero(part(1, 1), 4096, 0));
    assert!(!write(u64::MAX - 4095, 4096, 1));
}

#[test]
fn parts_are_within_their_window() {
    assert!(zero(part(PARTS_IN_FLIGHT_MAX, 1), 0, 1));
    for (n, low) in [
        (0, 0),
        (1, 2),
        (PARTS_IN_FLIGHT_MAX + 1, 1),
        (u64::MAX, u64::MAX),
    ] {
        assert!(!zero(part(n, low), 0, 1), "{n} from {low}");
    }
}

#[test]
fn what_is_kept_lies_in_one_block() {
    let kept = |offset, bytes| is_sound(RecordBody::Kept { offset }, bytes);
    assert!(kept(4000, 96) && kept(4096, 4096));
    assert!(!kept(4000, 97) && !kept(4000, 0) && !kept(u64::MAX, 1));
}

#[test]
fn a_checkpoint_covers_what_is_before_it() {
    let covering = |covers| {
        let checkpoint = Checkpoint {
            covers,
            ..Checkpoint::EMPTY
        };
        is_sound(RecordBody::Checkpoint(checkpoint), 7)
    };
    assert!(covering(at(3, 8)));
    assert!(!covering(at(3, 9)) && !covering(at(4, 8)));
}

#[test]
fn a_session_begins_and_ends() {
    let client = ClientRef {
        node: NodeId(1),
        boot: Boot(1),
        client: ClientId(1),
    };
    assert!(is_sound(RecordBody::Open(client), 0));
    assert!(is_sound(RecordBody::Close(SessionId(at(3, 1))), 0));
}
