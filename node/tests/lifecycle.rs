//! Disks and nodes are emptied and go, on real processes, under a client that checks all that
//! it reads.
#![cfg(feature = "sim")]

mod dev_fabric;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dev_fabric::{DevFabric, PROGRAM};

/// Everything that is there is moved within it, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client that writes and reads for so long, then reads everything.
fn check(fabric: &DevFabric, node: &str, minutes: &str) -> Child {
    Command::new(PROGRAM)
        .args(["check", &format!("nbd://{}/vol", fabric.address(node))])
        .args(["--minutes", minutes, "--overwrite", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("atoll starts")
}

fn passed(checking: Child) {
    let output = checking.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{report}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["passed"], json!(true), "{report}");
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn is_whole(fabric: &DevFabric) -> bool {
    let status = fabric.json("status");
    status["healthy"] == json!(true)
        && status["at_risk_bytes"] == json!(0)
        && status["repairs"] == json!([])
}

#[test]
fn a_disk_and_a_node_are_emptied_under_load_and_go() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let fabric = DevFabric::start(
        &scratch.path().join("fabric"),
        &["--disks", "2", "--disk-size", "512MiB"],
    );
    fabric.json("volume create vol --size 64MiB --home a");
    until("a whole fabric", || is_whole(&fabric));

    let checking = check(&fabric, "b2", "0.5");
    let shown = || fabric.json("volume show vol");
    until("something stored", || {
        shown()["stored_bytes"].as_u64() > Some(1 << 20)
    });
    // A disk with a replica of the journal.
    let disk = shown()["journal"][0].as_str().expect("a disk").to_owned();
    let why = fabric.refused(&format!("disk remove {disk}"));
    assert!(why.contains(&format!("disk drain {disk}")), "{why}");
    let why = fabric.refused(&format!("disk remove {disk} --force"));
    assert!(why.contains("serves"), "{why}");
    let told = fabric.json(&format!("disk drain {disk}"));
    assert_eq!(told["draining"], json!(true), "{told}");
    assert!(told["left"]["slots"].as_u64() > Some(0), "{told}");
    let why = fabric.refused(&format!("disk remove {disk}"));
    assert!(why.contains("still has"), "{why}");
    let path = fabric.json(&format!("disk show {disk}"))["path"].clone();
    until("an empty disk", || {
        fabric
            .command(&format!("disk remove {disk}"))
            .status
            .success()
    });
    std::fs::remove_dir_all(path.as_str().expect("a path")).expect("it is taken out");
    passed(checking);
    until("a whole fabric", || is_whole(&fabric));
    let journal = shown()["journal"].clone();
    assert!(!journal.to_string().contains(&disk), "{journal}");

    // A node, likewise: its disks, its volumes.
    let owner = shown()["owner"].as_str().unwrap_or("a1").to_owned();
    let checking = check(&fabric, "c3", "0.4");
    until("an empty node", || {
        let told = fabric.json(&format!("node drain {owner}"));
        let left = &told["left"];
        (&left["slots"], &left["journals"], &left["volumes_owned"])
            == (&json!(0), &json!([]), &json!([]))
    });
    assert_eq!(
        fabric.json(&format!("node safe-to-stop {owner}"))["safe"],
        json!(true)
    );
    fabric.json(&format!("node stop {owner}"));
    // Of its site's voters one more may not go.
    let site = &owner[..1];
    let others = [1, 2].map(|n| format!("{site}{n}"));
    let other = others.iter().find(|n| **n != owner).expect("two others");
    until("its death", || {
        let stop = fabric.command(&format!("node safe-to-stop {other} --json"));
        let told: Value = serde_json::from_slice(&stop.stdout).unwrap_or_default();
        let why = told["reasons"].to_string();
        stop.status.code() == Some(1) && why.contains(&format!("the group of site {site}"))
    });
    passed(checking);
    until("its removal", || {
        fabric
            .command(&format!("node remove {owner}"))
            .status
            .success()
    });
    until("a whole fabric", || is_whole(&fabric));
}

/// In maintenance a node may stop for longer than a lost disk is waited for: what it holds is not
/// made anew elsewhere, and what must not wait has left it before.
#[test]
fn a_node_in_maintenance_is_waited_for() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let fabric = DevFabric::start(
        &scratch.path().join("fabric"),
        &["--disk-size", "512MiB", "--heal-after", "2"],
    );
    fabric.json("volume create vol --size 64MiB --home a");
    until("a whole fabric", || is_whole(&fabric));
    let checking = check(&fabric, "b2", "0.4");
    let shown = || fabric.json("volume show vol");
    until("something stored", || {
        shown()["stored_bytes"].as_u64() > Some(1 << 20)
    });
    // Not where the client is.
    fabric.json("volume move vol --to a1");
    fabric.wait_for("volume show vol", "/owner", &json!("a1"));
    let owner = "a1";

    let told = fabric.json(&format!("node maintenance {owner} --for 1h"));
    assert_eq!(
        (&told["safe"], &told["wait_s"], &told["volumes_owned"]),
        (&json!(true), &json!(3600), &json!([])),
        "{told}"
    );
    assert_ne!(shown()["owner"], json!(owner));
    let node = fabric.json(&format!("node show {owner}"));
    assert_eq!(node["maintenance_s"], json!(3600), "{node}");
    let why = fabric.json("status")["notes"].to_string();
    assert!(
        why.contains(&format!("node {owner} is in maintenance")),
        "{why}"
    );
    fabric.json(&format!("node stop {owner}"));
    until("its death", || {
        fabric.json(&format!("node show {owner}"))["condition"] != json!("up")
    });
    // Three times as long as any other would be waited for, and no slot moved.
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        assert_eq!(fabric.json("status")["repairs"], json!([]));
        std::thread::sleep(Duration::from_millis(500));
    }
    passed(checking);
    fabric.json(&format!("node start {owner}"));
    let told = fabric.json(&format!("node maintenance {owner} --end"));
    assert_eq!(told["wait_s"], json!(null), "{told}");
    until("a whole fabric", || is_whole(&fabric));
}
