//! A plan survives its file, and what is no plan is refused.

use super::{Outage, Plan, PlanError};

#[test]
fn a_drawn_plan_is_its_file() {
    for seed in 1..200 {
        let plan = Plan::draw(seed);
        let text = plan.to_toml().expect("a plan can be written");
        assert_eq!(Plan::parse(&text), Ok(plan), "seed {seed}:\n{text}");
    }
    let outage = Outage::LinkCut.plan(3);
    let text = outage.to_toml().expect("a plan can be written");
    assert_eq!(Plan::parse(&text), Ok(outage));
}

#[test]
fn what_is_not_said_has_a_default() {
    let plan = Plan::parse(
        "seed = 7\n[[faults]]\nat = '2s'\nkind = 'kill-site'\nvictim = 'b'\nlasts = '1min'",
    );
    let plan = plan.expect("it is a plan");
    assert_eq!(
        (plan.seed, plan.topology.sites, plan.faults.len()),
        (7, 3, 1)
    );
    assert_eq!(String::from(plan.faults[0].victim), "b1");
}

#[test]
fn what_is_no_plan_is_refused() {
    let cases = [
        "sed = 7",
        "[topology]\nsites = 2",
        "[topology]\nnodes = 1000000000",
        "[workload]\nvolume = '5000'",
        "[workload]\nvolume = '1TiB'",
        "[workload]\nclients = []",
        "[workload]\noperations = ['1s client 9 write 0+8']",
        "[workload]\noperations = ['1s client 0 write 0+18446744073709551615']",
        "[workload]\noperations = ['1s client 0 steal 0+8']",
        "[[faults]]\nat = '1s'\nkind = 'kill'\nvictim = 'z9'\nlasts = '1s'",
        "[[faults]]\nat = '1s'\nkind = 'sulk'\nvictim = 'a1'\nlasts = '1s'",
        "[[faults]]\nat = '100000min'\nkind = 'kill'\nvictim = 'a1'\nlasts = '1s'",
    ];
    for text in cases {
        assert!(Plan::parse(text).is_err(), "{text}");
    }
    assert_eq!(
        Plan::parse("[topology]\nsites = 2"),
        Err(PlanError::Topology)
    );
}
