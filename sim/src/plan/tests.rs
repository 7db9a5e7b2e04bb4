//! A plan survives its file, and what is no plan is refused.

use std::collections::BTreeSet;

use model::geometry::Code;

use super::topology::Topology;
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

/// Half of the seeds have the fabric of which most is known; the others leave out no kind.
#[test]
fn fabrics_are_drawn_from_a_stream_of_their_own() {
    let plans: Vec<Plan> = (1..=400).map(Plan::draw).collect();
    let default = Topology::default();
    let (usual, others): (Vec<&Plan>, Vec<&Plan>) =
        plans.iter().partition(|p| p.topology == default);
    assert!((150..250).contains(&usual.len()), "{}", usual.len());
    for plan in usual {
        assert_eq!(plan, &Plan::draw_on(plan.seed, default.clone()));
    }
    let of = |what: fn(&Topology) -> u64| -> BTreeSet<u64> {
        others.iter().map(|p| what(&p.topology)).collect()
    };
    assert_eq!(of(|t| t.sites), [3, 4].into());
    assert_eq!(of(|t| t.nodes), [1, 2, 3, 4].into());
    assert_eq!(of(|t| t.disks), [1, 2, 3].into());
    let codes: BTreeSet<Code> = others.iter().map(|p| p.topology.volume_code()).collect();
    assert!(codes.len() > 6, "{codes:?}");
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
