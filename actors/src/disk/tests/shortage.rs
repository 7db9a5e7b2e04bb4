//! A journal without space for another file: its disk does not retire (R8), owners are told, and
//! what frees files passes, with all that stands before it in an owner's log (R18).

use std::time::Duration;

use bytes::Bytes;
use model::ids::{Epoch, Position, Version};
use model::journal::{Checkpoint, RecordBody, RecordHead};
use model::machine::Machine;
use model::payload::Payload;
use model::placement::JournalConfig;

use super::bench::{AT, Append, Bench, Space, VOLUME, appended, at, checkpoint, plain};
use crate::disk::DiskConfig;
use crate::messages::{DiskReply, DiskRequest};
use crate::volume::journal::{
    Adopted, CommittedCheckpoint, Journal, JournalTerms, RequestIds, ToDisk,
};

/// Bytes of a client.
fn bytes(position: Position) -> RecordHead {
    RecordHead {
        body: RecordBody::Kept { offset: 0 },
        ..plain(position)
    }
}

/// The answer of a disk that is short.
fn short(last: Position) -> DiskReply {
    DiskReply::Appended {
        last,
        leased: false,
        short: true,
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
    let append = Append::new(1, at(1, 3), vec![bytes(at(1, 4))]);
    let payload = append.payload();
    b.send(append.request(), &payload);
    b.run();
    b
}

/// The write that was refused, and behind it a checkpoint that lets the first four records be
/// trimmed.
fn trim(b: &mut Bench) -> DiskReply {
    let record = checkpoint(at(1, 6), at(1, 4));
    let mut append = Append::new(1, at(1, 4), vec![bytes(at(1, 5)), record]);
    (append.committed, append.trim) = (at(1, 6), at(1, 4));
    b.append(append)
}

#[test]
fn what_frees_files_passes_with_what_stands_before_it() {
    let mut b = four(Space::Left(10_000));
    assert_eq!(b.answers.pop_front().map(|a| a.1), Some(appended(at(1, 4))));
    let write = |b: &mut Bench, seq| {
        let mut append = Append::new(1, at(1, seq - 1), vec![bytes(at(1, seq))]);
        append.lease = true;
        b.append(append)
    };
    let answer = |last, short| DiskReply::Appended {
        last,
        leased: true,
        short,
    };
    assert_eq!(write(&mut b, 5), answer(at(1, 4), true));
    // An answer was lost: what is held already needs no room.
    assert_eq!(write(&mut b, 4), answer(at(1, 4), true));
    assert_eq!(trim(&mut b), short(at(1, 6)));
    // Its state was written anew, so that the first file could go: there is room.
    assert_eq!(write(&mut b, 7), answer(at(1, 7), false));
    assert_eq!(b.retired, 0);
}

#[test]
fn clients_bytes_leave_half_of_what_is_left() {
    let mut b = four(Space::Left(3000));
    let mut first = bytes(at(1, 5));
    first.payload_len = 2000;
    let records = vec![first, checkpoint(at(1, 6), at(1, 4))];
    let append = Append::new(1, at(1, 4), records);
    assert_eq!(b.ask(append.request(), &[7; 2001]), short(at(1, 4)));
    assert_eq!(trim(&mut b), short(at(1, 6)));
}

#[test]
fn what_found_no_place_keeps_it_until_there_is_space() {
    let mut b = four(Space::Left(0));
    assert_eq!((b.answers.len(), b.retired), (0, 0));
    let append = Append::new(1, at(1, 4), vec![bytes(at(1, 5))]);
    let later = b.send(append.clone().request(), &append.payload());
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
    assert_eq!(b.answer(later).map(|a| a.0), Some(short(at(1, 4))));
    let idle = b.disk.next_deadline().map(|due| due.since(b.now));
    assert!(idle.is_none_or(|idle| idle > Duration::from_secs(60)));
    assert_eq!(b.append(append), appended(at(1, 5)));
    b.restart();
    assert!(b.disk.holds(VOLUME, at(1, 5)));
}

#[test]
fn a_disk_that_was_opened_without_space_takes_nothing_that_it_has_no_place_for() {
    let mut b = four(Space::Ample);
    b.store.space = Space::Left(100);
    b.restart();
    let append = Append::new(1, at(1, 4), vec![bytes(at(1, 5))]);
    assert_eq!(b.append(append), short(at(1, 4)));
}

#[test]
fn a_release_that_found_no_space_is_asked_for_again() {
    let mut b = four(Space::Ample);
    b.store.refuses_releases = true;
    assert_eq!(trim(&mut b), appended(at(1, 6)));
    assert_eq!((b.retired, b.disk.stats().files), (0, 2));
    b.store.refuses_releases = false;
    b.advance(Duration::from_secs(1));
    b.run();
    assert_eq!(b.disk.stats().files, 1, "the first file went");
}

/// An owner with its one replica.
struct Owner {
    journal: Journal,
    ids: RequestIds,
    disk: Bench,
    /// Payload that was sent.
    sent_bytes: usize,
}

impl Owner {
    fn new() -> Self {
        let config = JournalConfig {
            version: Version::default(),
            replicas: vec![AT],
            next: None,
        };
        let adopted = Adopted::founding(CommittedCheckpoint::backstop(Checkpoint::EMPTY));
        let terms = JournalTerms::default();
        let mut owner = Self {
            journal: Journal::start(VOLUME, Epoch(1), &config, terms, adopted),
            ids: RequestIds::default(),
            disk: Bench::new(DiskConfig::default(), 6),
            sent_bytes: 0,
        };
        owner.pass(Duration::from_secs(1));
        owner
    }

    fn run(&mut self) {
        for _ in 0..20 {
            let mut out = Vec::new();
            self.journal.expire(self.disk.now);
            self.journal.pump(self.disk.now, &mut self.ids, &mut out);
            if out.is_empty() {
                return;
            }
            out.into_iter().for_each(|sent| self.carry(sent));
            self.disk.records(1, &[AT], None);
            self.disk.run();
            while let Some((id, reply, _)) = self.disk.answers.pop_front() {
                let now = self.disk.now;
                let landed = self.journal.reply(now, AT.disk, id, &reply);
                landed.expect("no higher epoch");
                self.journal.advance(now);
            }
        }
        panic!("they talk without end");
    }

    fn carry(&mut self, sent: ToDisk) {
        self.sent_bytes += sent.payload.len();
        let payload = sent.payload.into_bytes();
        let is_known = matches!(sent.request, DiskRequest::Append { .. });
        assert!(is_known || payload.is_empty());
        self.disk.send_as(sent.id, sent.request, &payload);
    }

    fn pass(&mut self, span: Duration) {
        let end = self.disk.now + span;
        while self.disk.now < end {
            self.disk.advance(Duration::from_millis(50));
            self.disk.run();
            self.run();
        }
    }

    fn write(&mut self, bytes: usize) -> Position {
        let payload = Payload::from(Bytes::from(vec![7; bytes]));
        let position = self.journal.append(RecordBody::Kept { offset: 0 }, payload);
        self.run();
        position
    }

    /// What is committed is in segments.
    fn checkpoint(&mut self) -> (Position, Checkpoint) {
        let checkpoint = Checkpoint {
            covers: self.journal.committed(),
            ..Checkpoint::EMPTY
        };
        let body = RecordBody::Checkpoint(checkpoint);
        (self.journal.append(body, Payload::empty()), checkpoint)
    }

    fn trim(&mut self, (at, checkpoint): (Position, Checkpoint)) {
        let sessions = Bytes::new();
        self.journal.checkpoint_committed(CommittedCheckpoint {
            at,
            checkpoint,
            sessions,
        });
    }
}

/// R18: what was journaled last, and refused, stands before the checkpoint that frees files: an
/// owner that may not send the one without the other would wait for space that only it can make.
#[test]
fn an_owner_gets_its_checkpoint_past_a_shortage() {
    let mut owner = Owner::new();
    for _ in 0..8 {
        owner.write(1000);
    }
    owner.disk.store.space = Space::Left(20_000);
    let taken = owner.write(1000);
    let refused = owner.write(1000);
    owner.pass(Duration::from_secs(3));
    assert_eq!(owner.journal.committed(), taken);
    assert!(owner.journal.is_short(), "no more is to be journaled");
    assert!(owner.sent_bytes < 12_000, "what is refused is sent once");
    // Reads go on.
    owner.journal.renew();
    owner.run();
    assert!(owner.journal.leased_until() > owner.disk.now);
    let checkpoint = owner.checkpoint();
    owner.pass(Duration::from_secs(2));
    assert_eq!(owner.journal.committed(), checkpoint.0);
    assert!(owner.journal.committed() > refused);
    owner.trim(checkpoint);
    owner.pass(Duration::from_secs(2));
    assert!(!owner.journal.is_short(), "a file went");
    let written = owner.write(1000);
    assert_eq!(owner.journal.committed(), written);
}

/// Where there is no room even for that, it is tried at leisure until there is some.
#[test]
fn an_owner_without_any_room_waits_for_it() {
    let mut owner = Owner::new();
    owner.disk.store.space = Space::Left(5000);
    owner.write(1000);
    owner.write(3000);
    let checkpoint = owner.checkpoint();
    let before = owner.sent_bytes;
    owner.pass(Duration::from_secs(10));
    assert!(owner.journal.committed() < checkpoint.0);
    assert!(owner.sent_bytes - before <= 11 * 3000);
    owner.disk.store.space = Space::Ample;
    owner.pass(Duration::from_secs(3));
    assert_eq!(owner.journal.committed(), checkpoint.0);
    assert!(!owner.journal.is_short());
}
