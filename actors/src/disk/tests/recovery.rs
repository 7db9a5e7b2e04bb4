//! Damage (R8) and recovery, scripted.

use std::time::Duration;

use model::ids::{DiskId, DiskRef, Epoch, Position};
use model::journal::Checkpoint;
use model::store::{ScanVerdict, ScannedEntry};
use proptest::prelude::{any, prop, proptest};

use super::bench::{
    AT, Append, Bench, INCARNATION, VOLUME, appended, at, fetch, join, plain, seal,
};
use crate::disk::entry::{DISK_MARK, Entry};
use crate::disk::{DiskConfig, DiskInput};
use crate::messages::{DiskReply, DiskRequest};

const OTHER: DiskRef = DiskRef {
    disk: DiskId(8),
    incarnation: INCARNATION,
};

fn three() -> Bench {
    let mut b = Bench::new(DiskConfig::default(), 1000);
    b.joined(1);
    assert_eq!(b.append_plain(1, Position::ZERO, 1..=3), appended(at(1, 3)));
    b
}

fn restart(b: &mut Bench, verdict: ScanVerdict) {
    b.run();
    b.crash(0, verdict);
    b.run();
    b.advance(Duration::from_secs(2));
}

fn reset(epoch: u64, base: Position) -> DiskRequest {
    DiskRequest::Reset {
        founded: Epoch(0),
        incarnation: INCARNATION,
        volume: VOLUME,
        epoch: Epoch(epoch),
        base,
        at: base,
        checkpoint: Checkpoint {
            covers: base,
            ..Checkpoint::EMPTY
        },
    }
}

/// Sends a reset and answers the record's read.
fn refill(b: &mut Bench, epoch: u64, current: u64, base: Position) -> DiskReply {
    let id = b.send(reset(epoch, base), &[5]);
    b.run();
    b.records(current, &[AT], None);
    b.run();
    b.answer(id).expect("answered").0
}

#[test]
fn a_damaged_journal_promises_but_counts_only_once_refilled() {
    let mut b = three();
    restart(&mut b, ScanVerdict::Damaged);
    // The next scan may find nothing wrong any more: the damage was written down.
    restart(&mut b, ScanVerdict::Whole);
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Damaged);
    let fenced = DiskReply::Fenced { promised: Epoch(2) };
    assert_eq!(b.append_plain(1, at(1, 3), 4..=4), fenced);
    assert_eq!(b.append_plain(2, at(1, 3), 4..=4), DiskReply::Damaged);
    assert_eq!(b.ask(fetch(2, 1), &[]), DiskReply::Damaged);

    assert_eq!(refill(&mut b, 2, 2, at(1, 2)), appended(at(1, 2)));
    assert_eq!(
        b.ask(seal(2), &[]),
        DiskReply::Damaged,
        "it holds nothing yet"
    );
    let mut append = Append::new(2, at(1, 2), vec![plain(at(1, 3)), plain(at(2, 4))]);
    append.committed = at(1, 3);
    assert_eq!(b.append(append.clone()), appended(at(2, 4)));
    assert_eq!(
        b.ask(seal(2), &[]),
        DiskReply::Damaged,
        "not in its own epoch"
    );
    restart(&mut b, ScanVerdict::Whole);
    append.committed = at(2, 4);
    b.append(append);
    b.run();
    for _ in 0..2 {
        let DiskReply::Sealed(report) = b.ask(seal(2), &[]) else {
            panic!();
        };
        assert_eq!((report.base, report.last), (at(1, 2), at(2, 4)));
        restart(&mut b, ScanVerdict::Whole);
    }
}

#[test]
fn only_the_current_owner_refills_and_only_after_it_was_told() {
    let mut b = three();
    restart(&mut b, ScanVerdict::Damaged);
    // The first one may have been sent before the damage.
    assert_eq!(b.ask(reset(2, at(1, 2)), &[5]), DiskReply::Damaged);
    assert_eq!(refill(&mut b, 2, 3, at(1, 2)), DiskReply::Busy);
    assert_eq!(b.ask(seal(3), &[]), DiskReply::Damaged);
    assert_eq!(refill(&mut b, 3, 3, at(1, 2)), appended(at(1, 2)));
}

#[test]
fn on_a_damaged_disk_a_founding_replica_counts_only_once_refilled() {
    let mut b = three();
    restart(&mut b, ScanVerdict::Damaged);
    leave(&mut b, 3);
    restart(&mut b, ScanVerdict::Whole);
    assert_eq!(b.ask(seal(5), &[]), DiskReply::Unknown);
    let id = b.send(join(5), &[]);
    b.records(5, &[AT], None);
    b.run();
    assert_eq!(b.answer(id).unwrap().0, DiskReply::Damaged);
    assert_eq!(
        refill(&mut b, 5, 5, Position::ZERO),
        appended(Position::ZERO)
    );
    let mut append = Append::new(5, Position::ZERO, vec![plain(at(5, 1))]);
    append.committed = at(5, 1);
    b.append(append);
    b.run();
    assert!(matches!(b.ask(seal(5), &[]), DiskReply::Sealed(_)));
}

#[test]
fn known_damage_is_not_taken_for_new() {
    let mut b = three();
    b.run();
    b.store.lose(2);
    b.lose_power(0);
    b.restart();
    b.advance(Duration::from_secs(2));
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Damaged);
    assert_eq!(refill(&mut b, 2, 2, at(1, 2)), appended(at(1, 2)));
    let mut append = Append::new(2, at(1, 2), vec![plain(at(2, 3))]);
    append.committed = at(2, 3);
    b.append(append);
    b.run();
    // The store still tells of the damage, but it lies before what was refilled.
    b.lose_power(0);
    b.restart();
    b.advance(Duration::from_secs(2));
    assert!(matches!(b.ask(seal(2), &[]), DiskReply::Sealed(_)));
    // Damage behind that is new.
    let last = b.store.entries.len() - 1;
    b.store.lose(last);
    b.lose_power(0);
    b.restart();
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Damaged);
}

/// A journal that rotted while its disk ran, was found out by a read, and refilled: after a
/// restart the store tells of the same rot, which lies before all that the replica is. Were it
/// taken for new, replicas that rot and heal one after the other would all be damaged at once
/// when the power goes, and the volume would stand still for good.
#[test]
fn damage_that_was_healed_before_a_restart_is_not_new() {
    let mut b = three();
    let is_rotten = |e: &ScannedEntry| e.at.offset == 2;
    b.store.rot(is_rotten);
    b.store.will_tell(is_rotten);
    assert!(matches!(b.ask(seal(2), &[]), DiskReply::Sealed(_)));
    assert_eq!(b.ask(fetch(2, 1), &[]), DiskReply::Damaged);
    assert_eq!(refill(&mut b, 2, 2, at(1, 2)), appended(at(1, 2)));
    let mut append = Append::new(2, at(1, 2), vec![plain(at(2, 3))]);
    append.committed = at(2, 3);
    b.append(append);
    b.run();
    for _ in 0..2 {
        b.lose_power(0);
        b.restart();
        b.run();
        b.advance(Duration::from_secs(2));
        assert!(matches!(b.ask(seal(2), &[]), DiskReply::Sealed(_)));
    }
}

/// A mark that is copied forward comes behind entries that count. It says that the disk was
/// damaged once, and nothing of what lies before it now.
#[test]
fn damage_before_a_mark_that_was_copied_forward_is_new() {
    let mut b = three();
    let last = b.store.entries.len() - 1;
    let (mut mark, payload) = b.store.entries[last].clone();
    mark.at.offset += 1;
    (mark.volume, mark.header) = (DISK_MARK, Entry::DiskWasDamaged.into_header());
    b.store.entries.push((mark, payload));
    b.store.lose(last);
    b.restart();
    b.run();
    b.advance(Duration::from_secs(2));
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Damaged);
}

#[test]
fn unreadable_payload_damages_for_good() {
    let mut b = three();
    assert!(matches!(b.ask(seal(2), &[]), DiskReply::Sealed(_)));
    b.store.rot(|e| e.at.offset == 2);
    assert_eq!(b.ask(fetch(2, 1), &[]), DiskReply::Damaged);
    restart(&mut b, ScanVerdict::Whole);
    assert_eq!(b.ask(seal(3), &[]), DiskReply::Damaged);
}

#[test]
fn missing_and_garbled_entries_are_damage() {
    for kind in 0..3 {
        let mut b = three();
        b.run();
        match kind {
            0 => drop(b.store.entries.remove(0)),
            1 => drop(b.store.entries.remove(2)),
            _ => b.store.entries[3].0.header = vec![200, 1, 2],
        }
        restart(&mut b, ScanVerdict::Whole);
        assert_eq!(b.ask(seal(2), &[]), DiskReply::Damaged, "{kind}");
        restart(&mut b, ScanVerdict::Whole);
        assert_eq!(b.ask(seal(2), &[]), DiskReply::Damaged, "{kind}, again");
        assert_eq!(b.append_plain(1, at(1, 3), 4..=4), {
            DiskReply::Fenced { promised: Epoch(2) }
        });
    }
}

#[test]
fn deleted_volumes_leave_nothing() {
    let mut b = three();
    let waiting = b.send(seal(2), &[]);
    b.view(1, &[AT], true);
    b.run();
    assert_eq!(b.answer(waiting).unwrap().0, DiskReply::Unknown);
    restart(&mut b, ScanVerdict::Whole);
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Unknown);
}

/// The placement and the group's own word name the volume elsewhere: the replica goes.
fn leave(b: &mut Bench, epoch: u64) {
    b.view(epoch, &[OTHER], false);
    b.records(epoch, &[OTHER], None);
    b.run();
}

#[test]
fn a_replica_that_a_change_left_behind_goes() {
    let mut b = three();
    leave(&mut b, 1);
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Unknown);
    restart(&mut b, ScanVerdict::Whole);
    assert_eq!(b.ask(seal(2), &[]), DiskReply::Unknown);
}

/// A view may be old: only the disk's own linearizable read counts, and only of an epoch that
/// is not below the promise (R2).
#[test]
fn an_old_view_takes_no_replica_away() {
    let mut b = three();
    // The view is behind: the group still counts on this disk, now or after a change.
    for next in [None, Some([AT].as_slice())] {
        let disks = if next.is_some() { [OTHER] } else { [AT] };
        b.view(1, &[OTHER], false);
        assert_eq!(b.record_reads.len(), 1);
        b.records(1, &disks, next);
    }
    // An unknown volume is no evidence (R16).
    b.input(DiskInput::View(Default::default()));
    assert!(b.record_reads.is_empty());
    assert!(matches!(b.ask(seal(2), &[]), DiskReply::Sealed(_)));
    // A record that is older than the promise says nothing.
    b.view(1, &[OTHER], false);
    assert!(b.record_reads.is_empty());
}

/// A change may name the disk again while it reads the record: the Join that follows is newer
/// than what was asked.
#[test]
fn a_join_overtakes_the_question_whether_to_leave() {
    let mut b = three();
    b.view(1, &[OTHER], false);
    let id = b.send(join(1), &[]);
    b.records(1, &[OTHER], None);
    b.run();
    assert!(matches!(b.answer(id).unwrap().0, DiskReply::Joined { .. }));
    assert!(matches!(b.ask(seal(2), &[]), DiskReply::Sealed(_)));
}

proptest! {
    /// Whatever a disk's bytes say, recovery gives a machine that works, not a panic.
    #[test]
    fn recovery_survives_any_headers(
        edits in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u8>()), 1..6),
        whole in any::<bool>(),
    ) {
        let mut b = three();
        for (entry, byte, value) in edits {
            let entry = usize::from(entry) % b.store.entries.len();
            let header = &mut b.store.entries[entry].0.header;
            let byte = usize::from(byte) % header.len();
            header[byte] = value;
        }
        let verdict = if whole { ScanVerdict::Whole } else { ScanVerdict::Damaged };
        restart(&mut b, verdict);
        b.ask(seal(2), &[]);
        b.append_plain(2, at(1, 3), 4..=4);
        restart(&mut b, ScanVerdict::Whole);
        b.ask(fetch(2, 1), &[]);
    }
}
