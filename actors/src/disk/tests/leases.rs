//! Leases (R7), scripted.

use std::time::Duration;

use model::ids::{Epoch, Position};
use model::store::ScanVerdict;

use super::bench::{Append, Bench, appended, at, plain, release, seal};
use crate::disk::DiskConfig;
use crate::messages::DiskReply;

fn leased() -> Bench {
    let mut b = Bench::new(DiskConfig::default(), 1000);
    b.joined(1);
    assert!(renew(&mut b, 1));
    b
}

fn renew(b: &mut Bench, epoch: u64) -> bool {
    let mut append = Append::new(epoch, Position::ZERO, vec![]);
    append.lease = true;
    match b.append(append) {
        DiskReply::Appended { leased, .. } => leased,
        DiskReply::Fenced { .. } | DiskReply::Busy => false,
        other => panic!("{other:?}"),
    }
}

fn is_sealed(b: &mut Bench, id: model::ids::RequestId) -> bool {
    b.run();
    match b.answer(id) {
        None => false,
        Some((DiskReply::Sealed(_), _)) => true,
        Some((other, _)) => panic!("{other:?}"),
    }
}

#[test]
fn a_seal_promises_at_once_and_answers_after_the_lease() {
    let mut b = leased();
    let id = b.send(seal(2), &[]);
    assert!(!is_sealed(&mut b, id));
    let fenced = DiskReply::Fenced { promised: Epoch(2) };
    assert!(!renew(&mut b, 1));
    assert_eq!(b.append_plain(1, Position::ZERO, 1..=1), fenced);
    // Even the new owner's appends wait, should it have sealed others.
    assert_eq!(b.append_plain(2, Position::ZERO, 1..=1), DiskReply::Busy);
    b.advance(Duration::from_millis(1019));
    assert!(!is_sealed(&mut b, id));
    b.advance(Duration::from_millis(1));
    assert!(is_sealed(&mut b, id));
    assert_eq!(b.append_plain(2, Position::ZERO, 1..=1), appended(at(2, 1)));
}

#[test]
fn a_missed_seal_waits_for_the_lease_too() {
    let mut b = leased();
    assert_eq!(b.append_plain(2, Position::ZERO, 1..=1), DiskReply::Busy);
    assert!(!renew(&mut b, 1), "it promised nevertheless");
    b.advance(Duration::from_millis(1020));
    assert_eq!(b.append_plain(2, Position::ZERO, 1..=1), appended(at(2, 1)));
}

#[test]
fn a_higher_seal_fences_a_waiting_one() {
    let mut b = leased();
    let two = b.send(seal(2), &[]);
    b.run();
    let three = b.send(seal(3), &[]);
    let (reply, _) = b.answer(two).unwrap();
    assert_eq!(reply, DiskReply::Fenced { promised: Epoch(3) });
    b.advance(Duration::from_millis(1020));
    assert!(is_sealed(&mut b, three));
}

#[test]
fn the_same_epochs_second_seal_does_not_wait_for_its_own_lease() {
    let mut b = leased();
    let id = b.send(seal(1), &[]);
    assert!(is_sealed(&mut b, id));
}

#[test]
fn a_release_ends_the_lease_for_good() {
    let mut b = leased();
    let id = b.send(seal(2), &[]);
    assert!(!is_sealed(&mut b, id));
    assert_eq!(b.ask(release(1), &[]), DiskReply::Released);
    assert!(is_sealed(&mut b, id), "at once");

    let mut b = leased();
    assert_eq!(b.ask(release(1), &[]), DiskReply::Released);
    assert!(!renew(&mut b, 1), "a late append gets none");
    let append = Append::new(1, Position::ZERO, vec![plain(at(1, 1))]);
    assert_eq!(b.append(append), appended(at(1, 1)), "it may still write");
    let id = b.send(seal(2), &[]);
    assert!(is_sealed(&mut b, id));
    assert!(renew(&mut b, 2), "the next epoch gets its own");
}

#[test]
fn a_restart_waits_one_term() {
    let mut b = leased();
    b.crash(0, ScanVerdict::Whole);
    assert!(renew(&mut b, 1), "the owner goes on");
    let id = b.send(seal(2), &[]);
    assert_eq!(b.ask(release(1), &[]), DiskReply::Released);
    // The forgotten lease may be another epoch's: a release does not end it.
    b.advance(Duration::from_millis(1019));
    assert!(!is_sealed(&mut b, id));
    b.advance(Duration::from_millis(1));
    assert!(is_sealed(&mut b, id));
}

#[test]
fn a_promise_that_waited_for_its_lease_survives_a_crash() {
    let mut b = leased();
    b.send(seal(2), &[]);
    b.step(0);
    b.crash(0, ScanVerdict::Whole);
    assert!(!renew(&mut b, 1));
}
