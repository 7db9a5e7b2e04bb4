//! A journal without space for another file: its disk does not retire (R8), writes are refused,
//! what is queued keeps its place, and what frees files passes.

use std::time::Duration;

use model::ids::Position;
use model::journal::{RecordBody, RecordHead};
use model::machine::Machine;

use super::bench::{Append, Bench, Space, appended, at, checkpoint, plain};
use crate::disk::DiskConfig;
use crate::messages::DiskReply;

/// Bytes of a client.
fn bytes(position: Position) -> RecordHead {
    RecordHead {
        body: RecordBody::Kept { offset: 0 },
        ..plain(position)
    }
}

/// A replica of four records, of which the last lies in the journal's second file.
fn four(space: Space) -> Bench {
    let mut b = Bench::new(DiskConfig::default(), 4);
    b.joined(1);
    // The scrub rests from here on.
    b.advance(Duration::from_secs(1));
    assert_eq!(b.append_plain(1, Position::ZERO, 1..=3), appended(at(1, 3)));
    b.store.space = space;
    let append = Append::new(1, at(1, 3), vec![plain(at(1, 4))]);
    let payload = append.payload();
    b.send(append.request(), &payload);
    b.run();
    b
}

/// A checkpoint that lets the first four records be trimmed.
fn trim(b: &mut Bench) -> DiskReply {
    let record = checkpoint(at(1, 5), at(1, 4));
    let mut append = Append::new(1, at(1, 4), vec![record]);
    (append.committed, append.trim) = (at(1, 5), at(1, 4));
    b.append(append)
}

#[test]
fn what_frees_files_passes_and_writes_wait() {
    let mut b = four(Space::Short);
    assert_eq!(b.answers.pop_front().map(|a| a.1), Some(appended(at(1, 4))));
    let write =
        |b: &mut Bench, seq| b.append(Append::new(1, at(1, seq - 1), vec![bytes(at(1, seq))]));
    assert_eq!(write(&mut b, 5), DiskReply::Busy);
    assert_eq!(trim(&mut b), appended(at(1, 5)));
    // Its state was written anew, so that the first file could go: there is room.
    assert_eq!(write(&mut b, 6), appended(at(1, 6)));
    assert_eq!(b.retired, 0);
}

#[test]
fn what_found_no_place_keeps_it_until_there_is_space() {
    let mut b = four(Space::None);
    assert_eq!((b.answers.len(), b.retired), (0, 0));
    let append = Append::new(1, at(1, 4), vec![bytes(at(1, 5))]);
    assert_eq!(b.append(append), DiskReply::Busy);
    for _ in 0..3 {
        // It tries again now and then, and not without end.
        let due = b.disk.next_deadline().expect("it tries again");
        assert!(due.since(b.now) >= Duration::from_millis(900));
        b.now = due;
        b.run();
        assert_eq!(b.answers.len(), 0);
    }
    b.store.space = Space::Ample;
    b.now = b.disk.next_deadline().expect("it tries again");
    b.run();
    assert_eq!(b.answers.pop_front().map(|a| a.1), Some(appended(at(1, 4))));
    let idle = b.disk.next_deadline().map(|due| due.since(b.now));
    assert!(idle.is_none_or(|idle| idle > Duration::from_secs(60)));
    let append = Append::new(1, at(1, 4), vec![bytes(at(1, 5))]);
    assert_eq!(b.append(append), appended(at(1, 5)));
    b.restart();
    assert!(b.disk.holds(super::bench::VOLUME, at(1, 5)));
}

#[test]
fn a_release_that_found_no_space_is_asked_for_again() {
    let mut b = four(Space::Ample);
    b.store.refuses_releases = true;
    assert_eq!(trim(&mut b), appended(at(1, 5)));
    assert_eq!((b.retired, b.disk.stats().files), (0, 2));
    b.store.refuses_releases = false;
    b.advance(Duration::from_secs(1));
    b.run();
    assert_eq!(b.disk.stats().files, 1, "the first file went");
}
