//! Joins, appends and log matching, scripted.

use std::time::Duration;

use model::ids::{DiskId, DiskRef, Epoch, Incarnation, Position};
use model::journal::Checkpoint;
use model::meta::MetaReply;
use model::store::{JournalOp, ScanVerdict};

use super::bench::{
    AT, Append, Bench, INCARNATION, VOLUME, appended, at, checkpoint, fetch, join, plain, seal,
};
use crate::disk::{DiskConfig, DiskInput};
use crate::messages::{DiskReply, DiskRequest};

fn bench() -> Bench {
    Bench::new(DiskConfig::default(), 1000)
}

/// A replica with records 1.1 to 1.3.
fn three() -> Bench {
    let mut b = bench();
    b.joined(1);
    assert_eq!(b.append_plain(1, Position::ZERO, 1..=3), appended(at(1, 3)));
    b
}

#[test]
fn without_a_join_there_is_no_replica() {
    let mut b = bench();
    assert_eq!(b.ask(seal(1), &[]), DiskReply::Unknown);
    assert_eq!(b.append_plain(1, Position::ZERO, 1..=1), DiskReply::Unknown);
    assert_eq!(b.ask(fetch(1, 1), &[]), DiskReply::Unknown);
}

#[test]
fn a_join_counts_only_as_the_record_says() {
    let other = DiskRef {
        disk: DiskId(7),
        incarnation: Incarnation(1),
    };
    let mut b = bench();
    let id = b.send(join(2), &[]);
    b.records(3, &[AT], None);
    let fenced = DiskReply::Fenced { promised: Epoch(3) };
    assert_eq!(b.answer(id).unwrap().0, fenced);

    let id = b.send(join(2), &[]);
    b.records(2, &[other], None);
    assert_eq!(b.answer(id).unwrap().0, DiskReply::Busy);

    let id = b.send(join(2), &[]);
    let (token, _) = b.record_reads.pop_front().unwrap();
    let reply = MetaReply::Unavailable;
    b.input(DiskInput::Volume { token, reply });
    assert_eq!(b.answer(id).unwrap().0, DiskReply::Busy);

    let id = b.send(join(2), &[]);
    b.advance(Duration::from_secs(6));
    assert_eq!(b.answer(id).unwrap().0, DiskReply::Busy);
    b.records(2, &[AT], None);
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Unknown, "it came too late");

    let id = b.send(join(2), &[]);
    b.records(2, &[other], Some(&[AT]));
    assert!(b.answer(id).is_none(), "not before it is durable");
    b.run();
    assert!(matches!(b.answer(id).unwrap().0, DiskReply::Joined { .. }));
}

#[test]
fn another_life_of_the_disk_is_not_meant() {
    let mut b = three();
    let request = DiskRequest::Seal {
        incarnation: Incarnation(1),
        volume: VOLUME,
        epoch: Epoch(9),
    };
    assert_eq!(b.ask(request, &[]), DiskReply::WrongIncarnation);
    assert_eq!(b.append_plain(1, at(1, 3), 4..=4), appended(at(1, 4)));
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable_and_batches_gather() {
    let mut b = three();
    let before = b.disk.stats().syncs;
    let send = |b: &mut Bench, prev: u64| {
        let append = Append::new(1, at(1, prev), vec![plain(at(1, prev + 1))]);
        let payload = append.payload();
        b.send(append.request(), &payload)
    };
    let ids = [send(&mut b, 3), send(&mut b, 4), send(&mut b, 5)];
    assert_eq!(b.store.queue.len(), 1, "one append in flight");
    assert!(b.answers.is_empty());
    b.step(0);
    assert!(b.answer(ids[0]).is_some());
    assert!(b.answers.is_empty());
    let Some((_, JournalOp::Append(entries))) = b.store.queue.front() else {
        panic!("the rest gathered");
    };
    assert_eq!(entries.len(), 2);
    b.step(0);
    assert!(b.answer(ids[1]).is_some() && b.answer(ids[2]).is_some());
    assert_eq!(b.disk.stats().syncs, before + 2);
}

#[test]
fn a_duplicate_waits_for_the_original() {
    let mut b = three();
    let append = Append::new(1, at(1, 3), vec![plain(at(1, 4))]);
    let payload = append.payload();
    b.send(append.clone().request(), &payload);
    let dup = b.send(append.request(), &payload);
    assert!(b.answer(dup).is_none());
    b.run();
    assert_eq!(b.answer(dup).unwrap().0, appended(at(1, 4)));
    assert_eq!(b.disk.stats().replicas[&VOLUME].records, 4);
}

#[test]
fn gaps_and_other_histories_mismatch() {
    let mut b = three();
    let mismatch = DiskReply::Mismatch {
        base: Position::ZERO,
        last: at(1, 3),
    };
    assert_eq!(b.append_plain(1, at(1, 5), 6..=6), mismatch);
    assert_eq!(b.append_plain(2, at(2, 3), 4..=4), mismatch);
    assert_eq!(b.append_plain(2, at(1, 3), 4..=4), appended(at(2, 4)));
}

#[test]
fn only_a_conflict_truncates_and_never_the_committed() {
    let mut b = three();
    // A stale shorter append changes nothing, and claims no more than it sent.
    assert_eq!(b.append_plain(1, Position::ZERO, 1..=1), appended(at(1, 1)));
    assert_eq!(b.disk.stats().replicas[&VOLUME].records, 3);

    let mut commit = Append::new(1, at(1, 3), vec![]);
    commit.committed = at(1, 1);
    assert_eq!(b.append(commit), appended(at(1, 3)));
    assert_eq!(b.append_plain(2, at(1, 1), 2..=2), appended(at(2, 2)));
    assert_eq!(b.disk.stats().replicas[&VOLUME].records, 2);
    // What a peer wants truncated although it is committed stays.
    assert_eq!(
        b.append_plain(3, Position::ZERO, 1..=1),
        DiskReply::Mismatch {
            base: Position::ZERO,
            last: at(2, 2)
        }
    );
    b.crash(0, ScanVerdict::Whole);
    assert_eq!(b.append_plain(3, at(2, 2), 3..=3), appended(at(3, 3)));
}

#[test]
fn a_stale_tail_is_not_taken_for_committed() {
    let mut b = three();
    // Records 1.2 and 1.3 are an older owner's; the new one has committed others there.
    let mut append = Append::new(2, at(1, 1), vec![]);
    append.committed = at(2, 9);
    assert_eq!(b.append(append), appended(at(1, 1)));
    let DiskReply::Sealed(report) = b.ask(seal(2), &[]) else {
        panic!();
    };
    assert_eq!((report.committed, report.last), (at(1, 1), at(1, 3)));
    assert_eq!(b.append_plain(2, at(1, 1), 2..=2), appended(at(2, 2)));
}

#[test]
fn truncation_survives_a_crash() {
    let mut b = three();
    assert_eq!(b.append_plain(2, at(1, 1), 2..=2), appended(at(2, 2)));
    b.crash(0, ScanVerdict::Whole);
    b.advance(Duration::from_secs(2));
    let DiskReply::Sealed(report) = b.ask(seal(3), &[]) else {
        panic!();
    };
    assert_eq!(report.last, at(2, 2));
    assert_eq!(report.epoch, Epoch(3));
}

#[test]
fn lower_epochs_are_fenced_and_a_missed_seal_promises() {
    let mut b = three();
    assert_eq!(b.append_plain(3, at(1, 3), 4..=4), appended(at(3, 4)));
    let fenced = DiskReply::Fenced { promised: Epoch(3) };
    assert_eq!(b.append_plain(2, at(1, 3), 4..=4), fenced);
    assert_eq!(b.ask(seal(2), &[]), fenced);
    assert_eq!(b.ask(fetch(2, 1), &[]), fenced);
    b.crash(0, ScanVerdict::Whole);
    assert_eq!(b.append_plain(2, at(1, 3), 4..=4), fenced, "also later on");
}

#[test]
fn fetch_reads_records_and_their_payloads() {
    let mut b = three();
    let DiskReply::Sealed(report) = b.ask(seal(2), &[]) else {
        panic!();
    };
    assert_eq!((report.base, report.last), (Position::ZERO, at(1, 3)));
    assert_eq!(b.ask(fetch(3, 2), &[]), DiskReply::Busy, "never sealed so");
    let id = b.send(fetch(2, 2), &[]);
    b.run();
    let (reply, payload) = b.answer(id).unwrap();
    let records = vec![plain(at(1, 2)), plain(at(1, 3))];
    assert_eq!(reply, DiskReply::Fetched { records });
    assert_eq!(payload.into_bytes().as_ref(), [2, 3]);
    let none = DiskReply::Fetched { records: vec![] };
    assert_eq!(b.ask(fetch(2, 4), &[]), none);
}

#[test]
fn trimming_stops_at_the_committed_checkpoint_and_its_table_stays() {
    let mut b = three();
    let records = vec![checkpoint(at(1, 4), at(1, 2)), plain(at(1, 5))];
    let mut append = Append::new(1, at(1, 3), records);
    append.trim = at(1, 2);
    append.committed = at(1, 3);
    assert_eq!(b.append(append), appended(at(1, 5)));
    assert_eq!(b.disk.stats().replicas[&VOLUME].records, 5, "not committed");
    let mut more = Append::new(1, at(1, 5), vec![]);
    more.committed = at(1, 5);
    more.trim = at(1, 3);
    b.append(more.clone());
    assert_eq!(b.disk.stats().replicas[&VOLUME].records, 5, "not covered");
    // A second checkpoint lets the first one's record go; its own table is kept beside.
    let records = vec![checkpoint(at(1, 6), at(1, 5))];
    let mut append = Append::new(1, at(1, 5), records);
    append.committed = at(1, 6);
    append.trim = at(1, 5);
    b.append(append);
    assert_eq!(b.disk.stats().replicas[&VOLUME].records, 1);
    b.crash(0, ScanVerdict::Whole);
    b.advance(Duration::from_secs(2));
    let DiskReply::Sealed(report) = b.ask(seal(2), &[]) else {
        panic!();
    };
    assert_eq!((report.base, report.last), (at(1, 5), at(1, 6)));
    let covers = Checkpoint {
        covers: at(1, 5),
        ..Checkpoint::EMPTY
    };
    assert_eq!(report.checkpoint, Some((at(1, 6), covers, vec![6])));
    // A late append from before the base joins at the base, or not at all.
    assert_eq!(b.append_plain(2, at(1, 2), 3..=3), {
        DiskReply::Mismatch {
            base: at(1, 5),
            last: at(1, 6),
        }
    });
    let records = (4..=6).map(|s| plain(at(1, s))).collect();
    let joint = Append::new(2, at(1, 3), records);
    assert_eq!(b.append(joint), appended(at(1, 6)));
}

#[test]
fn a_reset_is_atomic_and_its_late_duplicate_harmless() {
    let reset = DiskRequest::Reset {
        founded: Epoch(0),
        incarnation: INCARNATION,
        volume: VOLUME,
        epoch: Epoch(2),
        base: at(2, 8),
        at: at(2, 9),
        checkpoint: Checkpoint {
            covers: at(2, 8),
            ..Checkpoint::EMPTY
        },
    };
    let mut b = three();
    let id = b.send(reset.clone(), &[42]);
    assert!(b.answer(id).is_none());
    // Lost: the old log is there. Kept: the new one is, whole.
    for (keep, last, records) in [(0, at(1, 3), 3), (9, at(2, 8), 0)] {
        b.send(reset.clone(), &[42]);
        b.crash(keep, ScanVerdict::Whole);
        b.advance(Duration::from_secs(2));
        assert_eq!(b.disk.stats().replicas[&VOLUME].records, records);
        let DiskReply::Sealed(report) = b.ask(seal(2), &[]) else {
            panic!();
        };
        assert_eq!(report.last, last);
    }
    assert_eq!(b.append_plain(2, at(2, 8), 9..=10), appended(at(2, 10)));
    assert_eq!(b.ask(reset, &[42]), appended(at(2, 8)));
    let DiskReply::Sealed(report) = b.ask(seal(2), &[]) else {
        panic!();
    };
    assert_eq!((report.base, report.last), (at(2, 8), at(2, 10)));
    assert_eq!(report.checkpoint.unwrap().2, vec![42]);
}

#[test]
fn malformed_appends_do_nothing() {
    let mut b = three();
    let bad = [
        Append::new(1, at(1, 3), vec![plain(at(1, 5))]),
        Append::new(1, at(1, 3), vec![plain(at(2, 4))]),
        Append::new(1, at(1, u64::MAX), vec![plain(at(1, 0))]),
        Append::new(1, at(1, 3), vec![checkpoint(at(1, 4), at(1, 4))]),
    ];
    for append in bad {
        let payload = vec![0; append.records.len()];
        assert_eq!(b.ask(append.request(), &payload), DiskReply::Busy);
    }
    let short = Append::new(1, at(1, 3), vec![plain(at(1, 4))]);
    assert_eq!(b.ask(short.request(), &[]), DiskReply::Busy);
    assert_eq!(b.disk.stats().replicas[&VOLUME].records, 3);
}

#[test]
fn a_full_queue_takes_no_more() {
    let config = DiskConfig {
        queue_bytes_max: 2000,
        appends_max: 3,
        ..DiskConfig::default()
    };
    let mut b = Bench::new(config, 1000);
    b.joined(1);
    let mut big = Append::new(1, Position::ZERO, vec![plain(at(1, 1))]);
    big.records[0].payload_len = 1500;
    let first = b.send(big.clone().request(), &[1; 1500]);
    (big.prev, big.records[0].position) = (at(1, 1), at(1, 2));
    let second = b.send(big.request(), &[1; 1500]);
    let renewal = || Append::new(1, Position::ZERO, vec![]).request();
    let third = b.send(renewal(), &[]);
    let fourth = b.send(renewal(), &[]);
    assert_eq!(b.answer(fourth).unwrap().0, DiskReply::Busy);
    b.run();
    assert_eq!(b.answer(first).unwrap().0, appended(at(1, 1)));
    assert_eq!(b.answer(second).unwrap().0, appended(at(1, 1)));
    assert_eq!(b.answer(third).unwrap().0, appended(Position::ZERO));
}

/// R3: a volume ended cleanly, and was founded anew on a replica that still holds the end of its
/// old log, which was committed. (It refused for ever once, and the volume never started again.)
#[test]
fn a_founding_reset_takes_the_place_of_an_older_log() {
    let mut b = Bench::new(DiskConfig::default(), 1000);
    b.joined(3);
    let mut append = Append::new(3, Position::ZERO, vec![plain(at(3, 1)), plain(at(3, 2))]);
    append.committed = at(3, 2);
    b.append(append);
    b.run();
    assert!(matches!(b.ask(seal(4), &[]), DiskReply::Sealed(_)));
    b.advance(Duration::from_secs(2));
    let founding = |founded: u64| DiskRequest::Reset {
        incarnation: INCARNATION,
        volume: VOLUME,
        epoch: Epoch(4),
        base: at(3, 1),
        at: at(3, 1),
        checkpoint: Checkpoint {
            covers: at(3, 1),
            ..Checkpoint::EMPTY
        },
        founded: Epoch(founded),
    };
    let mut next = Append::new(4, at(3, 1), vec![plain(at(4, 2))]);
    next.committed = at(3, 1);
    // Without a founding it contradicts what was committed.
    assert_eq!(b.ask(founding(3), &[]), appended(at(3, 1)));
    let mismatch = DiskReply::Mismatch {
        base: Position::ZERO,
        last: at(3, 2),
    };
    assert_eq!(b.append(next.clone()), mismatch);
    assert_eq!(b.ask(founding(4), &[]), appended(at(3, 1)));
    assert_eq!(b.append(next), appended(at(4, 2)));
    // A late duplicate takes nothing away.
    assert_eq!(b.ask(founding(4), &[]), appended(at(3, 1)));
    let DiskReply::Sealed(report) = b.ask(seal(5), &[]) else {
        panic!("sealed")
    };
    assert_eq!(report.last, at(4, 2));
}
