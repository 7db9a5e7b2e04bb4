//! What the oracle accepts, and what it does not.

use super::*;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Time {
    Time(seconds * SECOND)
}

fn write(oracle: &mut Oracle, called: u64, answered: u64, value: u64) {
    let id = oracle.write_called(at(called), std::iter::once((0, Value(value))));
    oracle.write_answered(at(answered), id);
}

fn read(oracle: &mut Oracle, called: u64, now: u64, value: u64) -> Result<(), Violation> {
    oracle.read((at(called), at(now), at(called)), 0, Value(value))
}

#[test]
fn an_acknowledged_write_is_never_unseen() {
    let mut oracle = Oracle::default();
    write(&mut oracle, 1, 2, 7);
    assert!(read(&mut oracle, 3, 4, 7).is_ok());
    assert!(matches!(
        read(&mut oracle, 3, 4, 0),
        Err(Violation::Stale { .. })
    ));
    assert!(matches!(
        read(&mut oracle, 3, 4, 8),
        Err(Violation::Invented { .. })
    ));
}

#[test]
fn a_read_beside_a_write_may_see_either() {
    let mut oracle = Oracle::default();
    write(&mut oracle, 1, 2, 7);
    write(&mut oracle, 3, 6, 8);
    assert!(read(&mut oracle, 4, 5, 7).is_ok());
    assert!(read(&mut oracle, 4, 5, 8).is_ok());
    // Once it was seen, it stays.
    assert!(read(&mut oracle, 7, 8, 7).is_err());
}

#[test]
fn an_unanswered_write_may_come_late_but_stays_once_seen() {
    let mut oracle = Oracle::default();
    let _lost = oracle.write_called(at(1), std::iter::once((0, Value(7))));
    write(&mut oracle, 2, 3, 8);
    assert!(read(&mut oracle, 4, 5, 8).is_ok());
    assert!(read(&mut oracle, 6, 7, 7).is_ok());
    assert!(read(&mut oracle, 8, 9, 8).is_ok() && oracle.finish().is_err());
}

#[test]
fn what_may_have_done_nothing_did_so_by_its_answer() {
    let mut oracle = Oracle::default();
    write(&mut oracle, 1, 2, 7);
    let trim = oracle.write_called(at(3), std::iter::once((0, Value::ZERO)));
    oracle.optional_answered(at(4), trim);
    // It reads as before, or as zeros.
    assert!(read(&mut oracle, 5, 6, 7).is_ok());
    assert!(read(&mut oracle, 7, 8, 0).is_ok());
    // What was written since, and acknowledged, is no trim's to take.
    write(&mut oracle, 9, 10, 8);
    assert!(read(&mut oracle, 11, 12, 8).is_ok());
    assert!(matches!(
        read(&mut oracle, 13, 14, 0),
        Err(Violation::Stale { .. })
    ));
    assert!(oracle.finish().is_ok());
}

#[test]
fn a_sifted_trim_is_no_excuse() {
    let mut oracle = Oracle::default();
    let trim = oracle.write_called(at(1), std::iter::once((0, Value::ZERO)));
    oracle.optional_answered(at(2), trim);
    for i in 2..20 {
        write(&mut oracle, 2 * i, 2 * i + 1, i);
        assert!(read(&mut oracle, 2 * i + 1, 2 * i + 1, i).is_ok());
    }
    assert!(oracle.sectors[&0].live.len() <= LIVE_MAX + 1);
    assert!(matches!(
        read(&mut oracle, 50, 51, 0),
        Err(Violation::Stale { .. })
    ));
}

#[test]
fn zeros_take_turns_no_more_than_others() {
    let mut oracle = Oracle::default();
    let _late = oracle.write_called(at(1), std::iter::once((0, Value(7))));
    let trim = oracle.write_called(at(2), std::iter::once((0, Value::ZERO)));
    oracle.write_answered(at(3), trim);
    assert!(read(&mut oracle, 4, 5, 0).is_ok());
    // The unanswered one came late.
    assert!(read(&mut oracle, 6, 7, 7).is_ok());
    assert!(oracle.finish().is_ok());
    // It is gone again.
    assert!(read(&mut oracle, 8, 9, 0).is_ok());
    assert!(matches!(oracle.finish(), Err(Violation::TookTurns { .. })));
}

#[test]
fn two_zeros_may_take_turns_with_what_lies_between_them() {
    let mut oracle = Oracle::default();
    write(&mut oracle, 1, 2, 0);
    assert!(read(&mut oracle, 3, 4, 0).is_ok());
    write(&mut oracle, 5, 6, 7);
    assert!(read(&mut oracle, 7, 8, 7).is_ok());
    let _unanswered = oracle.write_called(at(9), std::iter::once((0, Value::ZERO)));
    assert!(read(&mut oracle, 10, 11, 7).is_ok());
    assert!(read(&mut oracle, 12, 13, 0).is_ok());
    assert!(oracle.finish().is_ok());
}

#[test]
fn what_a_recovery_may_have_lost_is_a_suffix() {
    let mut oracle = Oracle::default();
    let sector = |n: u64, value: u64| std::iter::once((n, Value(value)));
    for (at, n, value) in [(1, 0, 7), (3, 0, 8), (5, 1, 9), (7, 2, 10)] {
        let id = oracle.write_called(Time(at * SECOND), sector(n, value));
        oracle.write_answered(Time((at + 1) * SECOND), id);
    }
    // What was acknowledged by 2 is covered.
    assert_eq!(oracle.lose(Time(2 * SECOND), Time(10 * SECOND)), 3);
    let times = |t: u64| (Time(t * SECOND), Time((t + 1) * SECOND), Time(t * SECOND));
    // It is there; of the others, each may be gone; but not one before another that is not.
    assert!(matches!(
        oracle.read(times(11), 0, Value(0)),
        Err(Violation::Stale { .. })
    ));
    assert!(oracle.read(times(13), 2, Value(0)).is_ok());
    assert!(oracle.read(times(13), 1, Value(9)).is_ok());
    assert!(matches!(
        oracle.read(times(15), 0, Value(7)),
        Err(Violation::Stale { .. })
    ));
    assert!(oracle.read(times(17), 0, Value(8)).is_ok());
    // What was written since overtakes what may be gone: that does not come back.
    write(&mut oracle, 20, 21, 11);
    let id = oracle.write_called(Time(20 * SECOND), sector(2, 12));
    oracle.write_answered(Time(21 * SECOND), id);
    assert!(oracle.read(times(22), 2, Value(12)).is_ok());
    assert!(oracle.read(times(24), 2, Value(10)).is_err());
}

#[test]
fn sifting_changes_no_verdict() {
    let mut oracle = Oracle::default();
    for i in 1..100 {
        write(&mut oracle, 2 * i, 2 * i + 1, i);
        assert!(read(&mut oracle, 2 * i + 1, 2 * i + 1, i).is_ok());
    }
    assert!(oracle.sectors[&0].live.len() <= LIVE_MAX + 1);
    for old in [0, 1, 50, 98] {
        assert!(matches!(
            read(&mut oracle, 300, 301, old),
            Err(Violation::Stale { .. })
        ));
    }
    assert!(read(&mut oracle, 300, 301, 99).is_ok());
    assert!(oracle.finish().is_ok());
}
