//! Nodes that lose their metadata logs, or find them damaged, come back by themselves: as other
//! members, in the same fabric.

mod dev_fabric;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use dev_fabric::{DevFabric, PATIENCE, PROGRAM};

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn is_healthy(fabric: &DevFabric) -> bool {
    let status = fabric.json("status");
    status["healthy"] == json!(true) && status["nodes"]["up"] == json!(9)
}

/// What a node's own admin socket says.
fn told(node: &Path, line: &str) -> Value {
    let output = Command::new(PROGRAM)
        .arg("--dir")
        .arg(node)
        .args(line.split(' '))
        .arg("--json")
        .output()
        .expect("it runs");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Flips a bit in the middle of each of RocksDB's logs.
fn damage(meta: &Path) {
    for entry in fs::read_dir(meta.join("db")).expect("a database") {
        let path = entry.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("read");
        let middle = bytes.len() / 2;
        if path.extension().is_some_and(|e| e == "log" || e == "sst") && middle > 0 {
            bytes[middle] ^= 1;
            fs::write(&path, bytes).expect("written");
        }
    }
}

#[test]
fn nodes_without_their_metadata_logs_come_back() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let directory = scratch.path().join("fabric");
    let fabric = DevFabric::start(&directory, &["--disks", "1", "--disk-size", "512MiB"]);
    fabric.json("volume create vol --size 16MiB");
    until("a whole fabric", || is_healthy(&fabric));

    // The founder is one of them.
    for (node, lost) in [("a1", true), ("b1", true), ("a1", false), ("c1", false)] {
        fabric.json(&format!("node stop {node}"));
        let meta = directory.join(node).join("meta");
        if lost {
            fs::remove_dir_all(&meta).expect("it is gone");
        } else {
            damage(&meta);
        }
        fabric.json(&format!("node start {node}"));
        until(&format!("{node} is back"), || is_healthy(&fabric));
        assert_eq!(meta.join("damaged-1").exists(), !lost, "{node}");
        until(&format!("{node} knows the volume"), || {
            told(&directory.join(node), "status")["volumes"]["of"] == json!(1)
        });
    }
}
