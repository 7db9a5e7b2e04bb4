//! A disk's directory is emptied while its node is down, and no quorum answers when that is started
//! again: the node serves its other disk, ends when it is told to, and takes the new disk in once a quorum
//! is there.

mod dev_fabric;

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dev_fabric::{DevFabric, PATIENCE, remove};

/// How often a node's log says something.
fn said(fabric: &DevFabric, node: &str, what: &str) -> usize {
    let log = fs::read_to_string(fabric.directory(node).join("log")).expect("a log");
    log.lines().filter(|line| line.contains(what)).count()
}

/// Whether the global placement group is nothing without a node.
fn is_needed(fabric: &DevFabric, node: &str) -> bool {
    let told = fabric.command(&format!("node safe-to-stop {node} --json"));
    let told: Value = serde_json::from_slice(&told.stdout).expect("json");
    let reasons = told["reasons"].as_array().expect("a list").iter();
    let mut of = reasons.filter_map(Value::as_str);
    of.any(|why| why.starts_with("the global placement group"))
}

#[test]
fn a_disk_that_waits_for_a_quorum_keeps_no_other_away() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let fabric = DevFabric::start(
        &scratch.path().join("fabric"),
        &["--nodes", "1", "--disks", "2", "--disk-size", "1GiB"],
    );
    // Until then a1 alone may be a quorum.
    let began = Instant::now();
    while is_needed(&fabric, "a1") {
        assert!(began.elapsed() < PATIENCE, "a1 is the only voter");
        std::thread::sleep(Duration::from_millis(100));
    }
    for site in ["a", "b", "c"] {
        fabric.json(&format!("site stop {site}"));
    }
    // The first one in the order of its configuration.
    remove(&fabric.directory("a1").join("disks/d1"));
    let opened = said(&fabric, "a1", "disk opened");

    let started = fabric.json("node start a1");
    assert!(started["nodes"][0]["pid"].is_u64(), "{started:#}");
    assert_eq!(said(&fabric, "a1", "disk opened"), opened + 1);
    TcpStream::connect(fabric.address("a1")).expect("its clients are taken");

    let asked = Instant::now();
    fabric.json("node stop a1");
    let took = asked.elapsed();
    println!("stopped after {took:?}");
    assert!(took < Duration::from_secs(12), "it was killed: {took:?}");
    assert_eq!(said(&fabric, "a1", "disk formatted"), 2, "d1 is not known");

    fabric.json("node start a1");
    for site in ["b", "c"] {
        fabric.json(&format!("site start {site}"));
    }
    let began = Instant::now();
    while said(&fabric, "a1", "disk formatted") < 3 {
        assert!(began.elapsed() < PATIENCE, "d1 is never taken in");
        std::thread::sleep(Duration::from_millis(100));
    }
    fabric.wait_for("status", "/disks/up", &json!(6));
    fabric.stop();
}

/// What keeps a disk from being opened may pass: it is tried again, and its node need not be.
#[test]
fn a_disk_that_could_not_be_opened_is_tried_again() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let fabric = DevFabric::start(
        &scratch.path().join("fabric"),
        &["--nodes", "1", "--disks", "2", "--disk-size", "1GiB"],
    );
    fabric.json("node stop b1");
    let journal = fabric.directory("b1").join("disks/d1/journal");
    let aside = fabric.directory("b1").join("disks/d1/aside");
    fs::rename(&journal, &aside).expect("it is put aside");
    fabric.json("node start b1");
    let tries = || said(&fabric, "b1", "is not served, and tried again in");
    let began = Instant::now();
    while tries() == 0 {
        assert!(began.elapsed() < PATIENCE, "it can't be opened");
        std::thread::sleep(Duration::from_millis(100));
    }
    fabric.wait_for("status", "/disks/up", &json!(5));
    fs::rename(&aside, &journal).expect("it is put back");
    let began = Instant::now();
    while said(&fabric, "b1", "the disk is served again") == 0 {
        assert!(began.elapsed() < PATIENCE, "it is opened");
        std::thread::sleep(Duration::from_millis(200));
    }
    fabric.wait_for("status", "/healthy", &json!(true));
}
