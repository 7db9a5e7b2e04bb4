//! All links of the owner's site are cut under clients of every site, who write unique values to the same
//! blocks: in both directions, and in either one alone. The others take over; the one that is cut
//! off acknowledges nothing from then on, though it hears the others, or is heard; and the oracle
//! of the simulator finds every answer right, until the end.
#![cfg(feature = "sim")]

mod dev_fabric;
mod real_clients;

use std::thread;
use std::time::Duration;

use node::check::{Check, Sample, Target, Terms};
use serde_json::json;

use dev_fabric::{DevFabric, PATIENCE};
use real_clients::scratch;

/// The design's bound for a site that can't be reached.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Work before the cut, during it, and after it was healed.
const BEFORE: Duration = Duration::from_secs(2);
const CUT: Duration = Duration::from_secs(20);
const AFTER: Duration = Duration::from_secs(5);

/// Whose front ends are used; the first one is the owner, whose site is cut off.
const NODES: [&str; 3] = ["a1", "b1", "c1"];

/// The links of site a, as they are cut.
const CUTS: [(&str, [&str; 2]); 3] = [
    ("in both directions", ["link cut a b", "link cut a c"]),
    (
        "from it to the others",
        ["link cut a b --one-way", "link cut a c --one-way"],
    ),
    (
        "from the others to it",
        ["link cut b a --one-way", "link cut c a --one-way"],
    ),
];

/// Clients of all sites, on the same few blocks.
fn clients(fabric: &DevFabric, seed: u64) -> Check {
    let target = |node: &str| Target {
        address: fabric.address(node),
        site: Some(node[..1].to_owned()),
    };
    let terms = Terms {
        export: "vol".to_owned(),
        targets: NODES.map(target).to_vec(),
        connections: 3,
        bytes: 1 << 20,
        think: Duration::from_millis(5),
        patience: PATIENCE,
        seed,
        overwrite: true,
    };
    Check::begin(terms).expect("it is served")
}

/// Clients go on for so long, and nothing is wrong.
fn work(check: &Check, span: Duration, when: &str) {
    let failed = check.wait(span);
    assert!(!failed, "{when}: {:?}", check.history().fault());
}

/// Through the node that is cut off, nothing that was asked under the cut was done; through each of
/// the others something was, soon.
fn assert_one_owner(samples: &[Sample], cut: Duration, healed: Duration, when: &str) {
    let under_it = |s: &&Sample| s.at - s.took > cut && s.at < healed;
    for (by, node) in NODES.iter().enumerate() {
        let done = samples.iter().filter(under_it);
        let done = done.filter(|s| s.by == by && s.mutates);
        let first = done.clone().map(|s| s.at - cut).min();
        println!(
            "{when}, through {node}: {} writes, the first after {first:?}",
            done.count()
        );
        if by == 0 {
            assert_eq!(first, None, "{when}: {node} acknowledged a write");
        } else {
            assert!(
                first.is_some_and(|first| first < PAUSE_MAX),
                "{when}: through {node}, the first write after {first:?}"
            );
        }
    }
}

#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_site_that_is_cut_off_acknowledges_nothing_and_nothing_acknowledged_changes() {
    let scratch = scratch();
    let options = [
        "--disk-size",
        "1GiB",
        "--nodes",
        "2",
        "--disks",
        "1",
        "--wan",
    ];
    let fabric = DevFabric::start(&scratch.path().join("fabric"), &options);
    fabric.json("volume create vol --size 16MiB --home a");
    for (seed, (how, cuts)) in (1..).zip(CUTS) {
        let when = format!("site a cut off {how}");
        let check = clients(&fabric, seed);
        fabric.json("volume move vol --to a1");
        fabric.wait_for("volume show vol", "/owner", &json!("a1"));
        let epoch = fabric.json("volume show vol")["epoch"].as_u64();
        work(&check, BEFORE, "before anything was cut");

        for cut in cuts {
            fabric.json(cut);
        }
        let cut = check.history().now();
        work(&check, CUT, &when);
        let shown = fabric.json("volume show vol");
        let owner = shown["owner"].as_str().unwrap_or_default();
        assert!(
            !owner.is_empty() && !owner.starts_with('a'),
            "{when}: {shown:#}"
        );
        assert!(shown["epoch"].as_u64() > epoch, "{when}: {shown:#}");
        let healed = check.history().now();
        fabric.json("link heal");
        work(&check, AFTER, &format!("{when}, and healed"));
        assert_one_owner(&check.history().samples(), cut, healed, &when);

        fabric.wait_for("status", "/healthy", &json!(true));
        // Who was cut off goes on, by the connections that it has.
        let again = check.history().now();
        thread::sleep(Duration::from_secs(1));
        let samples = check.history().samples();
        let goes_on = |by| samples.iter().any(|s| s.by == by && s.at > again);
        assert!(
            (0..NODES.len()).all(goes_on),
            "{when}, and healed: somebody is left behind"
        );
        let history = check.history().clone();
        let verdict = check.end();
        let report = Check::report(&history, when.clone(), &verdict);
        let broken = report.timeline.iter().find(|e| e.what.contains("broke"));
        assert!(broken.is_none(), "{when}: {broken:?}");
        verdict.unwrap_or_else(|error| panic!("{when}: {error}"));
        println!("{when}: {} bytes were checked", report.checked_bytes);
    }
}
