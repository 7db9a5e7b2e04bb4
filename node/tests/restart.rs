//! A dead site's nodes are started one by one, on real processes: none of them serves before most
//! of them run, and none is waited for as if it could.

mod dev_fabric;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use dev_fabric::DevFabric;

#[test]
fn a_dead_site_comes_back_node_by_node() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let fabric = DevFabric::start(
        &scratch.path().join("fabric"),
        &["--disk-size", "2GiB", "--nodes", "3", "--disks", "1"],
    );
    for node in ["a1", "a2", "a3"] {
        fabric.signal(node, Signal::KILL);
    }
    fabric.wait_for_degraded(&["site a"]);
    // That nobody answers is told at once; that the site is away, once it is decided.
    fabric.wait_for("status", "/nodes/up", &json!(6));
    fabric.wait_for("status", "/sites/up", &json!(2));

    let asked = Instant::now();
    let first = fabric.json("node start a1");
    println!("a1 after {:?}: {first}", asked.elapsed());
    assert!(first["nodes"][0]["pid"].is_u64(), "{first:#}");
    let waits_for = first["nodes"][0]["waits_for"].as_str();
    assert!(
        waits_for.is_some_and(|w| w.ends_with("_group")),
        "{first:#}"
    );
    assert!(asked.elapsed() < Duration::from_secs(40));

    for node in ["a2", "a3"] {
        let asked = Instant::now();
        let started = fabric.json(&format!("node start {node}"));
        println!("{node} after {:?}: {started}", asked.elapsed());
        assert!(started["nodes"][0]["pid"].is_u64(), "{started:#}");
    }
    let status = fabric.wait_for_degraded(&[]);
    assert_eq!(status["nodes"], json!({ "up": 9, "of": 9 }));
}
