//! What replicas say of their logs is a peer's word: it makes a log that can be replayed, or none.

use model::ids::{Seq, SessionId};
use model::journal::{Checkpoint, Part};

use super::*;

const VOLUME: VolumeId = VolumeId(1);
const EPOCH: Epoch = Epoch(5);

fn at(epoch: u64, seq: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
    }
}

fn record(position: Position, body: RecordBody, payload_len: u32) -> RecordHead {
    RecordHead {
        position,
        body,
        payload_len,
    }
}

fn close(position: Position) -> RecordHead {
    record(position, RecordBody::Close(SessionId(at(1, 1))), 0)
}

fn covering(position: Position, covers: Position) -> RecordHead {
    let checkpoint = Checkpoint {
        covers,
        ..Checkpoint::EMPTY
    };
    record(position, RecordBody::Checkpoint(checkpoint), 0)
}

/// Whether a log that begins after (2, 10), and has (2, 11) and (3, 12), takes one more record.
fn takes(next: RecordHead) -> bool {
    let mut log = Log::new(at(2, 10));
    let of = (VOLUME, EPOCH);
    let held = vec![close(at(2, 11)), close(at(3, 12))];
    assert!(extend(&mut log, of, held, &Bytes::new()));
    let payload = Bytes::from(vec![0; next.payload_len as usize]);
    extend(&mut log, of, vec![next], &payload)
}

#[test]
fn a_log_goes_on_below_the_epoch_that_adopts_it() {
    assert!(takes(close(at(3, 13))) && takes(close(at(4, 13))));
    for position in [at(2, 13), at(3, 12), at(3, 14), at(5, 13), at(6, 13)] {
        assert!(!takes(close(position)), "{position:?}");
    }
}

#[test]
fn a_log_holds_what_can_be_replayed() {
    let part = Part {
        session: SessionId(at(1, 1)),
        n: 1,
        low: 1,
    };
    let write = |sums: usize| RecordBody::Write {
        part,
        offset: 0,
        sums: vec![0; sums],
    };
    assert!(takes(record(at(3, 13), write(2), 8192)));
    assert!(!takes(record(at(3, 13), write(1), 8192)));
    let kept = |offset| record(at(3, 13), RecordBody::Kept { offset }, 100);
    assert!(takes(kept(0)));
    assert!(!takes(kept(4000)));
    let zero = |offset, length| RecordBody::Zero {
        part,
        offset,
        length,
        allocate: false,
    };
    assert!(takes(record(at(3, 13), zero(0, u64::MAX), 0)));
    assert!(!takes(record(at(3, 13), zero(2, u64::MAX), 0)));
}

#[test]
fn a_checkpoint_covers_a_place_of_the_log_or_what_is_before_it() {
    for covers in [at(1, 3), at(2, 9), at(2, 10), at(2, 11), at(3, 12)] {
        assert!(takes(covering(at(3, 13), covers)), "{covers:?}");
    }
    for covers in [at(3, 9), at(1, 10), at(3, 11), at(2, 12), at(3, 13)] {
        assert!(!takes(covering(at(3, 13), covers)), "{covers:?}");
    }
}

#[test]
fn a_replica_that_holds_what_nobody_wrote_yet_counts_for_nothing() {
    let report = |base, last, checkpoint| SealReport {
        epoch: EPOCH,
        base,
        last,
        committed: Position::ZERO,
        checkpoint,
    };
    let (low, own) = (at(4, 9), at(5, 9));
    let known = |at, covers| {
        let checkpoint = Checkpoint {
            covers,
            ..Checkpoint::EMPTY
        };
        Some((at, checkpoint, Vec::new()))
    };
    assert!(is_below(&report(low, low, None), EPOCH));
    assert!(is_below(&report(low, low, known(low, low)), EPOCH));
    assert!(!is_below(&report(own, low, None), EPOCH));
    assert!(!is_below(&report(low, own, None), EPOCH));
    assert!(!is_below(&report(low, low, known(own, low)), EPOCH));
    assert!(!is_below(&report(low, low, known(low, own)), EPOCH));
}
