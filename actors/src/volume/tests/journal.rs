use model::ids::{DiskId, Incarnation, SessionId};
use model::journal::SealReport;

use super::*;

const VOLUME: VolumeId = VolumeId(1);
const EPOCH: Epoch = Epoch(5);
const NOW: Time = Time(1_000_000_000);

fn replica() -> DiskRef {
    DiskRef {
        disk: DiskId(1),
        incarnation: Incarnation(1),
    }
}

fn position(epoch: u64, seq: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
    }
}

/// One request, answered; the request.
fn answer(
    journal: &mut Journal,
    ids: &mut RequestIds,
    reply: impl FnOnce(&DiskRequest) -> DiskReply,
) -> DiskRequest {
    let mut out = Vec::new();
    journal.pump(NOW, ids, &mut out);
    let sent = out.pop().expect("there is something to send");
    let reply = reply(&sent.request);
    journal
        .reply(NOW, replica().disk, sent.id, &reply)
        .expect("no higher epoch");
    sent.request
}

/// An owner of a founded journal with one replica, which holds all of its `records`.
fn streaming(records: u64) -> (Journal, RequestIds) {
    let config = JournalConfig {
        version: Version::default(),
        replicas: vec![replica()],
        next: None,
    };
    let adopted = Adopted::founding(CommittedCheckpoint::backstop(Checkpoint::EMPTY));
    let mut journal = Journal::start(VOLUME, EPOCH, &config, JournalTerms::default(), adopted);
    let mut ids = RequestIds::default();
    // `EpochStart` is the first one.
    for _ in 1..records {
        journal.append(
            RecordBody::Close(SessionId(Position::ZERO)),
            Payload::empty(),
        );
    }
    let last = position(EPOCH.0, records);
    for _ in 0..3 {
        answer(&mut journal, &mut ids, |request| match request {
            DiskRequest::Join { .. } => DiskReply::Joined {
                report: SealReport {
                    epoch: EPOCH,
                    base: Position::ZERO,
                    last: Position::ZERO,
                    committed: Position::ZERO,
                    checkpoint: None,
                },
            },
            DiskRequest::Reset { base, .. } => DiskReply::Appended {
                last: *base,
                leased: true,
            },
            _ => DiskReply::Appended { last, leased: true },
        });
    }
    assert_eq!(journal.replicas[0].matched, last);
    (journal, ids)
}

/// A replica whose tail is another owner's is stepped back to where the logs meet: each append
/// tries below the last one, however much of the log goes with it. (It stepped on the spot
/// once, as fast as messages go.)
#[test]
fn a_mismatch_steps_back_until_the_logs_meet() {
    let (mut journal, mut ids) = streaming(20);
    journal.append(
        RecordBody::Close(SessionId(Position::ZERO)),
        Payload::empty(),
    );
    let mut prevs = Vec::new();
    while prevs.last().is_none_or(|prev| *prev > 10) {
        assert!(prevs.len() < 20, "it steps on the spot: {prevs:?}");
        let request = answer(&mut journal, &mut ids, |request| match request {
            DiskRequest::Append { prev, .. } if prev.seq.0 <= 10 => DiskReply::Appended {
                last: position(EPOCH.0, 21),
                leased: true,
            },
            _ => DiskReply::Mismatch {
                base: Position::ZERO,
                last: position(2, 15),
            },
        });
        let DiskRequest::Append { prev, .. } = request else {
            unreachable!("{request:?}")
        };
        prevs.push(prev.seq.0);
    }
    assert_eq!(prevs, [20, 14, 13, 12, 11, 10]);
    assert_eq!(journal.replicas[0].matched, position(EPOCH.0, 21));
}

#[test]
fn a_replica_that_meets_nowhere_starts_anew() {
    let (mut journal, mut ids) = streaming(5);
    journal.append(
        RecordBody::Close(SessionId(Position::ZERO)),
        Payload::empty(),
    );
    for _ in 0..10 {
        let request = answer(&mut journal, &mut ids, |_| DiskReply::Mismatch {
            base: Position::ZERO,
            last: position(2, 15),
        });
        if matches!(request, DiskRequest::Reset { .. }) {
            return;
        }
    }
    panic!("it steps on the spot");
}
