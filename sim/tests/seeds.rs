//! Seeds that must pass, the same trace twice, and planted bugs that must be caught. A failure
//! prints the command that replays it.

use actors::planted::Bug;
use sim::run::{Outcome, RunConfig, run};

const SEEDS: u64 = 200;
const MUTANT_SEEDS: u64 = 50;

fn outcome(seed: u64, bug: Option<Bug>) -> Outcome {
    run(RunConfig { seed, bug, keep: 0 })
}

#[test]
fn seeds_pass() {
    let mut checked = 0;
    for seed in 1..=SEEDS {
        let outcome = outcome(seed, None);
        if let Some(failure) = outcome.failure {
            panic!("seed {seed}: {failure}\nreplay: cargo xtask sim --seed {seed}");
        }
        checked += outcome.checked;
    }
    assert!(checked > SEEDS * 100, "only {checked} sectors were checked: the runs did no work");
    println!("{SEEDS} seeds passed, {checked} sector reads checked");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 14, 25, 105] {
        let (first, second) = (outcome(seed, None), outcome(seed, None));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.events, second.events, "seed {seed}");
    }
    assert_ne!(outcome(1, None).trace_hash, outcome(2, None).trace_hash);
}

fn is_caught(bug: Bug) {
    // A machine's own assertion may be what catches it: that is no failure of this test.
    let caught = (1..=MUTANT_SEEDS).find(|seed| outcome(*seed, Some(bug)).failure.is_some());
    assert!(caught.is_some(), "{bug:?} escaped {MUTANT_SEEDS} seeds");
}

#[test]
fn a_skipped_seal_is_caught() {
    is_caught(Bug::SkipSeal);
}

#[test]
fn an_acknowledgement_by_one_replica_is_caught() {
    is_caught(Bug::AckByOne);
}

#[test]
fn an_early_trim_is_caught() {
    is_caught(Bug::EarlyTrim);
}

#[test]
fn an_expired_lease_is_caught() {
    is_caught(Bug::ExpiredLease);
}

#[test]
fn a_lost_fsync_is_caught() {
    is_caught(Bug::LostFsync);
}

#[test]
fn a_forgotten_session_is_caught() {
    is_caught(Bug::ForgetSession);
}
