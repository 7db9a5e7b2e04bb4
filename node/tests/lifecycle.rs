//! Disks and nodes are emptied and go, on real processes, under a client that checks all that
//! it reads.
#![cfg(feature = "sim")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_atoll");

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// `atoll dev` with nine nodes of two disks; dropping it stops it.
struct Fabric {
    process: Child,
    directory: PathBuf,
    ready: Value,
}

impl Fabric {
    fn start(directory: &Path) -> Self {
        let mut process = Command::new(PROGRAM)
            .args(["dev", "--json", "--disks", "2", "--disk-size", "512MiB"])
            .arg("--dir")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("atoll starts");
        let stdout = process.stdout.take().expect("it is piped");
        let mut fabric = Self {
            process,
            directory: directory.to_owned(),
            ready: Value::Null,
        };
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("it says when it is ready");
        fabric.ready = serde_json::from_str(&line).expect("a ready line");
        fabric
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("--dir").arg(&self.directory);
        let output = command.args(line.split(' ')).arg("--json").output();
        output.expect("it runs")
    }

    fn json(&self, line: &str) -> Value {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        serde_json::from_slice(&output.stdout).expect("json")
    }

    /// What a command that is refused says.
    fn refused(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "{line} was done");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn nbd(&self, node: &str) -> String {
        let sites = self.ready["sites"].as_array().expect("sites");
        let nodes = sites.iter().map(|s| s["nodes"].as_array().expect("nodes"));
        let mut nodes = nodes.flatten().filter(|n| n["name"] == node);
        let address = nodes.next().expect("a node")["nbd"].as_str();
        address.expect("an address").to_owned()
    }

    /// A client that writes and reads for so long, then reads everything.
    fn check(&self, node: &str, minutes: &str) -> Child {
        Command::new(PROGRAM)
            .args(["check", &format!("nbd://{}/vol", self.nbd(node))])
            .args(["--minutes", minutes, "--overwrite", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("atoll starts")
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.process.wait();
    }
}

fn passed(check: Child) {
    let output = check.wait_with_output().expect("it ends");
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

fn is_whole(fabric: &Fabric) -> bool {
    let status = fabric.json("status");
    status["healthy"] == json!(true)
        && status["at_risk_bytes"] == json!(0)
        && status["repairs"] == json!([])
}

#[test]
fn a_disk_and_a_node_are_emptied_under_load_and_go() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let fabric = Fabric::start(&scratch.path().join("fabric"));
    fabric.json("volume create vol --size 64MiB --home a");
    until("a whole fabric", || is_whole(&fabric));

    let check = fabric.check("b2", "0.5");
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
        fabric.run(&format!("disk remove {disk}")).status.success()
    });
    std::fs::remove_dir_all(path.as_str().expect("a path")).expect("it is taken out");
    passed(check);
    until("a whole fabric", || is_whole(&fabric));
    let journal = shown()["journal"].clone();
    assert!(!journal.to_string().contains(&disk), "{journal}");

    // A node, likewise: its disks, its volumes.
    let owner = shown()["owner"].as_str().unwrap_or("a1").to_owned();
    let check = fabric.check("c3", "0.4");
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
        let stop = fabric.run(&format!("node safe-to-stop {other}"));
        let told: Value = serde_json::from_slice(&stop.stdout).unwrap_or_default();
        let why = told["reasons"].to_string();
        stop.status.code() == Some(1) && why.contains(&format!("the group of site {site}"))
    });
    passed(check);
    until("its removal", || {
        fabric.run(&format!("node remove {owner}")).status.success()
    });
    until("a whole fabric", || is_whole(&fabric));
}
