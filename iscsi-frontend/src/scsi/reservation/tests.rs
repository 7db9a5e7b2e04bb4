//! The rules of reservations, each with two or three nexuses.

use model::iscsi::{Nexus, ReservationKind, UnitState};

use super::{
    Attention, CLEAR, KINDS, LIST_BYTES, PREEMPT, REGISTER, REGISTER_AND_IGNORE, RELEASE, RESERVE,
    Refused, attentions, change, conflicts, excludes_reads, is_of_registrants, number, release,
    report, reserve,
};
use crate::scsi::opcodes::Access;
use crate::scsi::sense::Sense;

fn nexus(name: &str) -> Nexus {
    Nexus {
        initiator: name.into(),
        port: 1,
    }
}

fn list(key: u64, other: u64) -> [u8; LIST_BYTES] {
    let mut list = [0; LIST_BYTES];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&other.to_be_bytes());
    list
}

fn registered(names: &[(&str, u64)]) -> UnitState {
    names
        .iter()
        .fold(UnitState::default(), |state, (name, key)| {
            change(&state, &nexus(name), (REGISTER, 0), &list(0, *key)).expect("registers")
        })
}

fn reserved(kind: ReservationKind) -> UnitState {
    let state = registered(&[("a", 1), ("b", 2)]);
    change(&state, &nexus("a"), (RESERVE, number(kind)), &list(1, 0)).expect("reserves")
}

#[test]
fn a_registration_needs_the_key_that_is_there() {
    let state = registered(&[("a", 1)]);
    let again = change(&state, &nexus("a"), (REGISTER, 0), &list(9, 2));
    assert_eq!(again, Err(Refused::Conflict));
    let moved = change(&state, &nexus("a"), (REGISTER, 0), &list(1, 2)).expect("moves");
    assert_eq!(moved.registrations[0].key, 2);
    let ignored = change(&state, &nexus("a"), (REGISTER_AND_IGNORE, 0), &list(9, 3));
    assert_eq!(ignored.expect("ignores").registrations[0].key, 3);
    assert_eq!(moved.generation, 2);
    let gone = change(&moved, &nexus("a"), (REGISTER, 0), &list(2, 0)).expect("leaves");
    assert!(gone.registrations.is_empty());
}

#[test]
fn each_type_excludes_what_it_says() {
    for kind in KINDS {
        let state = reserved(kind);
        let shut = |name: &str, access| conflicts(&state, &nexus(name), access);
        assert!(!shut("a", Access::Write), "{kind:?}");
        assert_eq!(
            shut("b", Access::Write),
            !is_of_registrants(kind),
            "{kind:?}"
        );
        assert!(shut("c", Access::Write), "{kind:?}");
        assert_eq!(shut("c", Access::Read), excludes_reads(kind), "{kind:?}");
        assert!(!shut("c", Access::Status) && !shut("c", Access::Always));
    }
}

#[test]
fn the_holder_alone_releases_by_its_type() {
    let kind = ReservationKind::WriteExclusive;
    let state = reserved(kind);
    let other = change(&state, &nexus("b"), (RELEASE, number(kind)), &list(2, 0));
    assert_eq!(other, Ok(state.clone()));
    let wrong = change(&state, &nexus("a"), (RELEASE, 3), &list(1, 0));
    assert_eq!(wrong, Err(Refused::Check(Sense::RELEASE)));
    let free = change(&state, &nexus("a"), (RELEASE, number(kind)), &list(1, 0)).expect("releases");
    assert_eq!(free.held, None);
    let taken = change(&state, &nexus("b"), (RESERVE, number(kind)), &list(2, 0));
    assert_eq!(taken, Err(Refused::Conflict));
}

#[test]
fn a_reservation_goes_with_its_holder_and_one_of_all_with_the_last() {
    let leave = |state: &UnitState, name: &str, key| {
        change(state, &nexus(name), (REGISTER, 0), &list(key, 0)).expect("leaves")
    };
    let of_one = reserved(ReservationKind::WriteExclusiveRegistrants);
    let left = leave(&of_one, "a", 1);
    assert_eq!(left.held, None);
    let told = attentions(&of_one, &left, &nexus("b"));
    assert_eq!(told, [Attention::ReservationsReleased]);
    let of_all = leave(&reserved(ReservationKind::WriteExclusiveAll), "a", 1);
    assert!(of_all.held.is_some());
    assert_eq!(leave(&of_all, "b", 2).held, None);
}

#[test]
fn who_preempts_a_holder_takes_over() {
    let state = reserved(ReservationKind::ExclusiveAccess);
    let next = change(&state, &nexus("b"), (PREEMPT, 1), &list(2, 1)).expect("preempts");
    assert_eq!(next.registrations.len(), 1);
    let held = next.held.as_ref().expect("held");
    assert_eq!(
        (held.kind, &held.by),
        (ReservationKind::WriteExclusive, &nexus("b"))
    );
    let told = attentions(&state, &next, &nexus("a"));
    assert_eq!(told, [Attention::RegistrationsPreempted]);
    let nobody = change(&state, &nexus("b"), (PREEMPT, 1), &list(2, 7));
    assert_eq!(nobody, Err(Refused::Conflict));
    let cleared = change(&state, &nexus("b"), (CLEAR, 0), &list(2, 0)).expect("clears");
    let told = attentions(&state, &cleared, &nexus("a"));
    assert_eq!(told, [Attention::ReservationsPreempted]);
}

#[test]
fn who_is_not_registered_changes_nothing() {
    let state = reserved(ReservationKind::WriteExclusive);
    for action in [RESERVE, RELEASE, CLEAR, PREEMPT] {
        let tried = change(&state, &nexus("c"), (action, 1), &list(0, 1));
        assert_eq!(tried, Err(Refused::Conflict), "action {action}");
    }
}

#[test]
fn of_old_reservations_only_the_holder_has_access() {
    let state = reserve(&UnitState::default(), &nexus("a")).expect("reserves");
    assert!(conflicts(&state, &nexus("b"), Access::Status));
    assert!(!conflicts(&state, &nexus("a"), Access::Write));
    assert_eq!(reserve(&state, &nexus("b")), Err(Refused::Conflict));
    assert_eq!(release(&state, &nexus("b")), state);
    assert_eq!(release(&state, &nexus("a")), UnitState::default());
    assert_eq!(
        reserve(&registered(&[("a", 1)]), &nexus("a")),
        Err(Refused::Conflict)
    );
}

#[test]
fn reports_are_as_long_as_they_say() {
    let state = reserved(ReservationKind::WriteExclusive);
    let keys = report(&state, 0).expect("keys");
    assert_eq!(keys[..8], [0, 0, 0, 2, 0, 0, 0, 16]);
    let held = report(&state, 1).expect("the reservation");
    assert_eq!((held.len(), held[15], held[21]), (24, 1, 1));
    let full = report(&state, 3).expect("full status");
    assert_eq!(full.len(), 8 + 2 * (24 + 24));
    assert!(report(&state, 4).is_err());
}
