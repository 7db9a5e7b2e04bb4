//! Releasing files and copying forward, scripted.

use std::time::Duration;

use model::ids::{Epoch, Position, VolumeId};
use model::store::{FileNo, ScanVerdict};

use super::bench::{
    Append, Bench, INCARNATION, VOLUME, appended, at, checkpoint, fetch, plain, seal,
};
use crate::disk::DiskConfig;
use crate::messages::{DiskReply, DiskRequest};

const FILES_MAX: u64 = 4;

/// Nothing is cheap to copy.
fn dear() -> DiskConfig {
    DiskConfig {
        files_max: FILES_MAX,
        move_cheap_bytes: 0,
        move_credit_bytes_max: 4096,
        ..DiskConfig::default()
    }
}

/// A whole file is, and there are never too many.
fn cheap() -> DiskConfig {
    DiskConfig {
        files_max: 1000,
        move_cheap_bytes: 1024,
        ..dear()
    }
}

/// Writes and trims so much that many files are filled.
fn fill(b: &mut Bench, rounds: u64) {
    let (mut last, volume) = (Position::ZERO, VolumeId(2));
    for _ in 0..rounds {
        let seq = last.seq.0;
        let mut records: Vec<_> = (1..=5).map(|i| plain(at(1, seq + i))).collect();
        records.push(checkpoint(at(1, seq + 6), at(1, seq + 5)));
        let mut append = Append::new(1, last, records);
        last = at(1, seq + 6);
        append.committed = last;
        append.trim = at(1, seq + 5);
        let DiskRequest::Append {
            prev,
            records,
            committed,
            trim,
            ..
        } = append.request()
        else {
            unreachable!();
        };
        let request = DiskRequest::Append {
            incarnation: INCARNATION,
            volume,
            epoch: Epoch(1),
            prev,
            records,
            committed,
            trim,
            lease: false,
        };
        assert_eq!(b.ask(request, &[0; 6]), appended(last));
    }
    b.run();
}

/// Two replicas, of which one stays idle with three records.
fn idle(config: DiskConfig, file_entries: u64) -> Bench {
    let mut b = Bench::new(config, file_entries);
    b.joined(1);
    assert_eq!(b.append_plain(1, Position::ZERO, 1..=3), appended(at(1, 3)));
    let id = b.send(
        DiskRequest::Join {
            incarnation: INCARNATION,
            volume: VolumeId(2),
            epoch: Epoch(1),
            version: model::ids::Version(1),
        },
        &[],
    );
    b.records(1, &[super::bench::AT], None);
    b.run();
    assert!(matches!(b.answer(id).unwrap().0, DiskReply::Joined { .. }));
    b
}

fn check_idle(b: &mut Bench) {
    b.advance(Duration::from_secs(2));
    let DiskReply::Sealed(report) = b.ask(seal(2), &[]) else {
        panic!();
    };
    assert_eq!((report.base, report.last), (Position::ZERO, at(1, 3)));
    let id = b.send(fetch(2, 1), &[]);
    b.run();
    let (reply, payload) = b.answer(id).unwrap();
    let records = (1..=3).map(|s| plain(at(1, s))).collect();
    assert_eq!(reply, DiskReply::Fetched { records });
    assert_eq!(payload.into_bytes().as_ref(), [1, 2, 3]);
}

#[test]
fn what_pins_files_and_is_dear_is_copied_once_there_are_many() {
    let mut b = idle(dear(), 4);
    fill(&mut b, 40);
    assert!(
        b.disk.stats().files <= FILES_MAX + 1,
        "{:?}",
        b.disk.stats()
    );
    assert!(b.store.entries.len() < 40, "{}", b.store.entries.len());
    assert!(b.store.entries[0].0.at.file > FileNo(40));
    assert!(b.disk.stats().moved_bytes > 0);
    b.crash(0, ScanVerdict::Whole);
    check_idle(&mut b);
}

#[test]
fn the_little_that_an_idle_volume_holds_never_pins_a_file() {
    let mut b = idle(cheap(), 32);
    fill(&mut b, 200);
    // At rest: the file that is written, and the one before.
    assert!(b.disk.stats().files <= 2, "{:?}", b.disk.stats());
    // Each round writes a state, which is counted, and six records; of what is idle four entries
    // are copied for 64 others, about.
    let (written, states): (u64, u64) = (200 * 7 * 97, 200 * 96);
    let copied = b.disk.stats().moved_bytes - states;
    assert!((written / 64..written / 8).contains(&copied), "{copied}");
    b.crash(0, ScanVerdict::Whole);
    check_idle(&mut b);
}

#[test]
fn a_disk_at_rest_copies_nothing() {
    let mut b = idle(cheap(), 32);
    fill(&mut b, 200);
    let before = b.disk.stats();
    for _ in 0..100 {
        b.advance(Duration::from_secs(1));
        b.run();
    }
    assert_eq!(b.disk.stats().moved_bytes, before.moved_bytes);
    assert_eq!(b.disk.stats().syncs, before.syncs);
}

#[test]
fn a_damaged_log_is_not_given_up_for_a_few_files() {
    let mut b = idle(cheap(), 32);
    b.crash(0, ScanVerdict::Damaged);
    b.run();
    let records = |b: &Bench| b.disk.stats().replicas[&VOLUME].records;
    let held = records(&b);
    assert!(held > 0 && !b.disk.stats().replicas[&VOLUME].whole);
    refill_busy(&mut b);
    fill(&mut b, 200);
    assert!(b.disk.stats().files > 10, "it pins them");
    assert_eq!(records(&b), held);
}

#[test]
fn a_damaged_idle_replica_never_pins_a_file_and_stays_damaged() {
    let mut b = idle(dear(), 4);
    b.crash(0, ScanVerdict::Damaged);
    b.run();
    refill_busy(&mut b);
    fill(&mut b, 40);
    assert!(
        b.disk.stats().files <= FILES_MAX + 1,
        "{:?}",
        b.disk.stats()
    );
    assert!(b.disk.stats().replicas[&VolumeId(2)].whole);
    b.crash(0, ScanVerdict::Whole);
    b.advance(Duration::from_secs(2));
    assert!(b.disk.stats().replicas[&VolumeId(2)].whole);
    assert!(!b.disk.stats().replicas[&VOLUME].whole);
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Damaged);
}

/// The busy replica is refilled by its owner; the idle one is not.
fn refill_busy(b: &mut Bench) {
    let reset = DiskRequest::Reset {
        founded: Epoch(0),
        incarnation: INCARNATION,
        volume: VolumeId(2),
        epoch: Epoch(1),
        base: Position::ZERO,
        at: Position::ZERO,
        checkpoint: model::journal::Checkpoint::EMPTY,
    };
    assert_eq!(b.ask(reset.clone(), &[]), DiskReply::Damaged);
    let id = b.send(reset, &[]);
    b.records(1, &[super::bench::AT], None);
    b.run();
    assert_eq!(b.answer(id).unwrap().0, appended(Position::ZERO));
}

#[test]
fn a_crash_anywhere_while_copying_forward_keeps_the_state() {
    for (keep, stop) in [0, 1, 2, 100]
        .into_iter()
        .flat_map(|keep| (0..60).map(move |stop| (keep, stop)))
    {
        for config in [dear(), cheap()] {
            let mut b = idle(config, 4);
            fill(&mut b, 3);
            // One more round of writes, one operation at a time.
            let append = Append::new(1, at(1, 3), vec![plain(at(1, 4))]);
            b.send(append.request(), &[4]);
            let mut last = 18;
            for _ in 0..stop {
                if !b.step(0) {
                    last += 1;
                    let record = plain(at(1, last));
                    let request = DiskRequest::Append {
                        incarnation: INCARNATION,
                        volume: VolumeId(2),
                        epoch: Epoch(1),
                        prev: at(1, last - 1),
                        records: vec![record],
                        committed: Position::ZERO,
                        trim: Position::ZERO,
                        lease: false,
                    };
                    b.send(request, &[1]);
                }
            }
            b.crash(keep, ScanVerdict::Whole);
            b.run();
            b.advance(Duration::from_secs(2));
            let DiskReply::Sealed(report) = b.ask(seal(2), &[]) else {
                panic!("{keep} {stop}");
            };
            assert!(report.last.seq.0 >= 3, "{keep} {stop}");
            let id = b.send(fetch(2, 1), &[]);
            b.run();
            let (_, payload) = b.answer(id).unwrap();
            assert_eq!(payload.into_bytes()[..3], [1, 2, 3]);
        }
    }
}

#[test]
fn a_file_is_not_released_while_it_is_read() {
    let mut b = idle(dear(), 4);
    assert!(matches!(b.ask(seal(1), &[]), DiskReply::Sealed(_)));
    let id = b.send(fetch(1, 1), &[]);
    assert_eq!(b.store.queue.len(), 1);
    // The read stays in the queue while everything else goes on.
    let read = b.store.queue.pop_front().unwrap();
    fill(&mut b, 20);
    assert_eq!(b.store.entries[0].0.at.file, FileNo(0));
    b.store.queue.push_back(read);
    b.run();
    let (_, payload) = b.answer(id).unwrap();
    assert_eq!(payload.into_bytes().as_ref(), [1, 2, 3]);
    assert!(b.store.entries[0].0.at.file > FileNo(0));
}
