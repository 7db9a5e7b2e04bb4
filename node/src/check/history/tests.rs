//! What the history holds against a server, and what it does not.

use super::{Duration, History, Op, Value};

fn call(history: &History, op: Op) -> super::Call {
    history.called(&mut history.lock(), op, Some(0))
}

/// Values are unique.
fn write(value: u64) -> Op {
    Op::Write {
        first: 0,
        count: 2,
        value: Value(value),
    }
}

const ZEROS: Op = Op::Clear {
    first: 0,
    count: 2,
    allocate: false,
};

#[test]
fn only_data_shows_that_writes_go_on() {
    let history = History::new(1 << 20, 1);
    let site = "a".to_owned();
    let fault = history.strike("full");
    history.in_effect(fault);
    history.acknowledged(&call(&history, ZEROS), Some(&site));
    assert_eq!(history.resumed(fault, "a"), None, "zeros need no room");
    history.acknowledged(&call(&history, write(7)), Some(&site));
    assert!(history.resumed(fault, "a").is_some());
    let samples = history.samples();
    let kinds: Vec<(bool, bool)> = samples.iter().map(|s| (s.mutates, s.writes)).collect();
    assert_eq!(kinds, [(true, false), (true, true)]);
}

#[test]
fn a_write_is_refused_only_where_that_may_be_and_stays_unknown() {
    let history = History::new(1 << 20, 1);
    let site = "a".to_owned();
    assert!(!history.refused(&call(&history, write(100)), Some(&site)));
    history.allow_refusals(true);
    let read = Op::Read { first: 0, count: 2 };
    assert!(
        !history.refused(&call(&history, read), Some(&site)),
        "a read"
    );
    assert!(history.refused(&call(&history, write(7)), Some(&site)));
    assert_eq!(history.refusals().0, 1);
    // One sector was changed before it was refused, the other was not.
    let seen = [Some(Value(7)), Some(Value::ZERO)];
    history.read(&call(&history, read), seen.into_iter());
    assert_eq!(history.fault(), None);
    // What was seen stays.
    let seen = [Some(Value::ZERO), Some(Value::ZERO)];
    history.read(&call(&history, read), seen.into_iter());
    assert!(history.fault().is_some());
    assert!(history.wait(Duration::ZERO));
    history.allow_refusals(false);
    assert!(!history.refused(&call(&history, write(200)), Some(&site)));
}

#[test]
fn a_trim_is_no_excuse_for_what_was_written_since() {
    let history = History::new(1 << 20, 1);
    let read = Op::Read { first: 0, count: 2 };
    history.acknowledged(&call(&history, write(100)), None);
    history.trimmed(&call(&history, ZEROS));
    // One sector was left as it was, the other was not.
    let seen = [Some(Value(100)), Some(Value::ZERO)];
    history.read(&call(&history, read), seen.into_iter());
    history.acknowledged(&call(&history, write(7)), None);
    let seen = [Some(Value(7)), Some(Value(8))];
    history.read(&call(&history, read), seen.into_iter());
    assert_eq!(history.fault(), None);
    // The server lost it: a hole reads as zeros.
    let seen = [Some(Value(7)), Some(Value::ZERO)];
    history.read(&call(&history, read), seen.into_iter());
    assert!(history.fault().is_some());
    assert_eq!(history.report().bytes_lost, 512);
}
