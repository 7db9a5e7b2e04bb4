//! A fourth site joins a fabric with data: what is there is spread over all four, by itself (decision
//! 22), so that it holds its share, and any site may go.
#![cfg(feature = "sim")]

mod dev_fabric;
mod filled;
mod real_clients;

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dev_fabric::{DevFabric, PROGRAM};
use filled::Filled;

/// All is spread within it, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node's process, outside of the dev fabric.
struct Joined(Child);

impl Drop for Joined {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn join(fabric: &DevFabric, scratch: &Path, node: &str) -> Joined {
    let token = fabric.json(&format!("token --node {node} --site d"));
    let directory = scratch.join(node);
    let mut joining = Command::new(PROGRAM);
    joining.args(["join", "--token", token["token"].as_str().expect("one")]);
    joining.args(["--node", node, "--site", "d", "--disk", "d1"]);
    let quic = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let quic = quic.expect("a free port").to_string();
    joining.args(["--quic", &quic, "--nbd", "127.0.0.1:0"]);
    joining
        .args(["--disk-size", "2GiB", "--dir"])
        .arg(&directory);
    let joined = joining.output().expect("it runs");
    assert!(joined.status.success(), "{joined:?}");
    let mut running = Command::new(PROGRAM);
    running.arg("--dir").arg(&directory).arg("run");
    let running = running.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let joined = Joined(running.expect("it runs"));
    until(&format!("{node} serves"), || {
        let nodes = fabric.json("node list");
        let mut nodes = nodes["nodes"].as_array().expect("a list").iter();
        nodes.any(|n| n["name"] == json!(node) && n["condition"] == json!("up"))
    });
    joined
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn used(fabric: &DevFabric, site: &str) -> u64 {
    let disks = fabric.json("disk list");
    let disks = disks["disks"].as_array().expect("a list").iter();
    let of_site = disks.filter(|d| d["site"] == json!(site));
    of_site.filter_map(|d| d["used_bytes"].as_u64()).sum()
}

fn notes(fabric: &DevFabric) -> Vec<String> {
    let status = fabric.json("status");
    // Left out if there are none.
    let notes = status["notes"].as_array().into_iter().flatten();
    notes.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn what_is_there_is_spread_over_a_site_that_joins() {
    let filled = Filled::new(96);
    filled.drained();
    let fabric = &filled.fabric;
    let before = used(fabric, "a");
    let scratch = real_clients::scratch();

    let _first = join(fabric, scratch.path(), "d1");
    // With one node it would have two fragments of a segment there, where the others have one a node.
    until("what is waited for is told", || {
        let notes = notes(fabric);
        notes
            .iter()
            .any(|n| n.starts_with("site d holds nothing of rs:4+2 yet"))
    });
    assert_eq!(used(fabric, "d"), 0, "it can't take its share yet");
    let _second = join(fabric, scratch.path(), "d2");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = fabric.json("status");
        let (old, new) = (used(fabric, "a"), used(fabric, "d"));
        if status["repairs"] == json!([]) && new * 10 > old * 8 && old * 10 < before * 9 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "no quarter of all is in site d: {new} bytes, {old} in site a, {before} before: {status:#}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(notes(fabric).is_empty(), "nothing is waited for any more");
    filled.becomes_whole("spread over four sites");

    // Any one of the four may go.
    fabric.json("site stop a");
    filled.reads_back("b1", "without site a");
}
