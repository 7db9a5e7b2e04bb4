//! A site is lost for good, on real processes: what that left with nothing to spare is written
//! anew over the sites that are left (R26), so that the next loss takes nothing either; and when the site
//! is back, all is spread over it again.
#![cfg(feature = "sim")]

mod dev_fabric;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use dev_fabric::DevFabric;

/// Everything is copied within it, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const BYTES: usize = 256 << 20;

const VOLUME_BYTES: usize = 288 << 20;

fn copy(from: &str, to: &str) {
    let done = Command::new("timeout")
        .args(["120", "nbdcopy", from, to])
        .status();
    assert!(done.expect("nbdcopy is there").success(), "{from} to {to}");
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bytes that nobody compresses, and of which no block is another's.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next)
        .take(bytes / 8)
        .flatten()
        .collect()
}

fn reads_back(fabric: &DevFabric, node: &str, path: &Path, noise: &[u8]) {
    let text = path.to_str().expect("text");
    copy(&format!("nbd://{}/vol", fabric.address(node)), text);
    let back = std::fs::read(path).expect("it was copied");
    assert!(back == noise, "through {node}, other bytes came back");
    std::fs::remove_file(path).expect("it is there");
}

#[test]
fn what_a_lost_site_left_without_slack_survives_the_next_loss() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let fabric = DevFabric::start(&scratch.path().join("fabric"), &["--disk-size", "1GiB"]);
    fabric.json("volume create vol --size 288MiB --home a");
    let (source, back) = (scratch.path().join("source"), scratch.path().join("back"));
    let mut noise = noise(BYTES);
    std::fs::write(&source, &noise).expect("a file");
    copy(
        source.to_str().expect("text"),
        &format!("nbd://{}/vol", fabric.address("a1")),
    );
    noise.resize(VOLUME_BYTES, 0);
    let status = || fabric.json("status");
    fabric.wait_for("volume show vol", "/untrimmed_bytes", &json!(0));
    until("nothing at risk", || status()["at_risk_bytes"] == json!(0));

    // A site dies. What lies in the others is at risk, until it is written anew.
    fabric.json("site stop c");
    let (mut at_risk, mut told) = (false, false);
    until("nothing at risk any more", || {
        let now = status();
        let repairs = now["repairs"].to_string();
        told |= repairs.contains("protecting volume vol against the next loss");
        at_risk |= now["at_risk_bytes"].as_u64().is_some_and(|n| n > 0);
        at_risk && now["at_risk_bytes"] == json!(0)
    });
    assert!(told, "status told of it meanwhile");

    // Two more nodes die, one in each site that is left: rs:4+2 alone would be lost by now.
    fabric.json("node stop a3");
    fabric.json("node stop b3");
    fabric.json("cache drop");
    reads_back(&fabric, "b1", &back, &noise);

    // All are back: everything is spread over three sites again, and one may be lost again.
    for node in ["a3", "b3"] {
        fabric.json(&format!("node start {node}"));
    }
    fabric.json("site start c");
    until("a whole fabric", || {
        let now = status();
        let whole = now["healthy"] == json!(true) && now["at_risk_bytes"] == json!(0);
        let stored = fabric.json("volume show vol")["stored_bytes"].as_u64();
        // 1.5 for the data, a little for the index; it was 2.
        whole && now["repairs"] == json!([]) && stored.is_some_and(|n| n < BYTES as u64 * 16 / 10)
    });
    fabric.json("site stop a");
    fabric.json("cache drop");
    reads_back(&fabric, "c1", &back, &noise);
}
