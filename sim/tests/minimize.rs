//! A failing plan is made much smaller, and still fails the same way. Optimized builds only:
//! `cargo xtask test` runs it so.

use actors::planted::Bug;
use sim::minimize::{Budget, minimize};
use sim::plan::Plan;
use sim::run::{Options, run};

fn shrinks(bug: Bug) {
    let options = Options {
        bug: Some(bug),
        ..Options::default()
    };
    let mut plans = (1..=50).map(Plan::draw);
    // Invariants catch some bugs at once: a plan of less than ten operations has no tenth of them.
    let failing = plans.find(|plan| {
        let outcome = run(plan, options);
        outcome.failure.is_some() && outcome.script.len() >= 10
    });
    let failing = failing.expect("a planted bug is caught");
    let kind = |plan: &Plan| run(plan, options).failure.map(|f| f.kind());
    let small = minimize(&failing, options, Budget::default(), |_, _| {});
    let small = small.expect("it fails");
    assert_eq!(kind(&small.plan), kind(&failing));
    let (before, after) = (small.before, small.after);
    println!("{bug:?}: {before} -> {after} in {} runs", small.runs);
    assert!(after.operations * 10 <= before.operations, "{after}");
    assert!(after.nodes < before.nodes && after.faults <= 2, "{after}");
    // What is written to a file is what fails, and without the bug it passes.
    let text = small.plan.to_toml().expect("it can be written");
    let read = Plan::parse(&text).expect("it can be read");
    assert_eq!(read, small.plan);
    assert_eq!(run(&read, Options::default()).failure, None);
}

#[test]
fn a_write_acknowledged_by_one_is_minimized() {
    shrinks(Bug::AckByOne);
}

#[test]
fn a_lost_fsync_is_minimized() {
    shrinks(Bug::LostFsync);
}

#[test]
fn a_plan_that_passes_is_not_made_smaller() {
    let plan = Plan::draw(1);
    assert!(minimize(&plan, Options::default(), Budget::default(), |_, _| {}).is_none());
}
