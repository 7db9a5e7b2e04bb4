//! Scenario files, as `sim run FILE` reads them: an operator's, and nobody's enemy; but a file
//! that is wrong is told what is wrong with it.
#![allow(missing_docs)]

use fuzz::{BUDGET, Target, Verdict};
use sim::plan::Plan;

fn run_scenario(data: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(data) else {
        return Verdict::Refused;
    };
    let Ok(plan) = Plan::parse(text) else {
        return Verdict::Refused;
    };
    let again = plan.to_toml().expect("what was read can be written");
    assert_eq!(Plan::parse(&again).as_ref(), Ok(&plan));
    Verdict::Taken
}

fn scenarios() -> Vec<Vec<u8>> {
    let drawn = (1..4).map(|seed| Plan::draw(seed).to_toml().expect("written").into_bytes());
    drawn.collect()
}

static TARGETS: [Target; 1] = [Target {
    name: "scenario",
    run: run_scenario,
    seeds: scenarios,
    budget: BUDGET,
}];

fuzz::feed! {
    TARGETS, "tests/corpus";
    scenario
}
