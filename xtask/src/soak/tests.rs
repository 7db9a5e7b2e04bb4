use std::time::Duration;

use super::{Death, Tally};
use crate::history::Verdict;
use crate::round::Outcome;

fn tally(rounds: &[(Death, u64, bool)]) -> Tally {
    let mut tally = Tally::default();
    for (death, seconds, has_hit) in rounds {
        let outcome = Outcome {
            first_write: Duration::from_secs(*seconds),
            owner: Some("a1".to_owned()),
            has_hit: *has_hit,
            writes: 1,
            verdict: Verdict::default(),
        };
        tally.add(*death, outcome);
    }
    tally
}

#[test]
fn each_kind_of_death_has_its_bar() {
    let good = [(Death::OfSite, 9, true), (Death::OfOwner, 2, true)];
    tally(&good).judge().expect("within both bars");
    for bad in [(Death::OfSite, 11, true), (Death::OfOwner, 4, true)] {
        let fault = tally(&[good[0], good[1], bad]).judge();
        let fault = fault.expect_err("over its bar").to_string();
        assert!(fault.contains(bad.0.name()), "{fault}");
    }
}

#[test]
fn a_round_that_missed_the_owner_proves_nothing() {
    let rounds = [(Death::OfSite, 1, true), (Death::OfSite, 1, false)];
    let fault = tally(&rounds).judge().expect_err("one missed").to_string();
    assert!(fault.contains("1 rounds did not hit"), "{fault}");
    tally(&[]).judge().expect_err("none at all");
}

#[test]
fn a_lost_byte_is_a_fault() {
    let mut tally = tally(&[(Death::OfOwner, 1, true)]);
    tally.verdict.lose("byte 0".to_owned());
    let fault = tally.judge().expect_err("one is lost").to_string();
    assert!(fault.contains("byte 0"), "{fault}");
}
