//! The scrub of journals.

use std::time::Duration;

use super::bench::{Append, Bench, at, plain};
use crate::disk::DiskConfig;
use crate::messages::DiskReply;

const EVERY: Duration = Duration::from_secs(60);

/// Three records, of which the second rots at rest; whether an owner holds a lease when that is
/// looked for.
fn after_a_pass(is_owned: bool) -> DiskReply {
    let mut config = DiskConfig::default();
    config.scrub.journals_every = EVERY;
    let mut b = Bench::new(config, 16);
    b.joined(1);
    b.append_plain(1, at(0, 0), 1..=3);
    b.store.rot(|entry| entry.at.offset == 3);
    // Renewed all the while, or never asked for.
    let step = Duration::from_millis(500);
    for _ in 0..EVERY.as_millis() / step.as_millis() + 4 {
        b.advance(step);
        if is_owned {
            let mut renewal = Append::new(1, at(1, 3), Vec::new());
            renewal.lease = true;
            b.append(renewal);
        }
        b.run();
    }
    b.append(Append::new(1, at(1, 3), vec![plain(at(1, 4))]))
}

#[test]
fn what_rots_under_an_owner_is_told_before_anybody_needs_it() {
    assert_eq!(after_a_pass(true), DiskReply::Damaged);
}

#[test]
fn what_no_owner_lives_for_is_left_alone() {
    let reply = after_a_pass(false);
    assert!(matches!(reply, DiskReply::Appended { .. }), "{reply:?}");
}
