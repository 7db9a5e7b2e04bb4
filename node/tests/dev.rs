//! The supervisor behind `atoll dev`, as a process, over doubles of nodes: what it starts,
//! what it says, and that nothing outlives it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use node::daemon::config::{NodeConfig, Routes};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn program() -> PathBuf {
    let here = std::env::current_exe().expect("this test's file");
    let profile = here
        .parent()
        .and_then(Path::parent)
        .expect("target/<profile>/deps/<test>");
    let program = profile.join("examples/node_double");
    assert!(
        program.exists(),
        "{} is not built: run the package's tests without --test",
        program.display()
    );
    program
}

struct Dev {
    process: Child,
    ready: Value,
}

impl Dev {
    fn start(directory: &Path, more: &[&str]) -> Self {
        let mut process = Command::new(program())
            .args(["dev", "--json", "--dir"])
            .arg(directory)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the supervisor starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| {
            let mut said = String::new();
            process
                .stderr
                .take()
                .expect("a pipe")
                .read_to_string(&mut said)
                .expect("text");
            panic!("no ready line ({e}): {line:?}\n{said}")
        });
        Self { process, ready }
    }

    fn pids(&self) -> BTreeMap<String, i32> {
        let sites = self.ready["sites"].as_array().expect("sites");
        let nodes = sites
            .iter()
            .flat_map(|s| s["nodes"].as_array().expect("nodes"));
        let pid = |n: &Value| i32::try_from(n["pid"].as_i64().expect("a pid")).expect("a pid");
        nodes
            .map(|n| (n["name"].as_str().expect("a name").to_owned(), pid(n)))
            .collect()
    }

    fn signal(&self, signal: Signal) {
        kill(i32::try_from(self.process.id()).expect("a pid"), signal);
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // A failed test leaves nothing behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("a process of this test");
}

fn is_alive(pid: i32) -> bool {
    // A zombie's is empty.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn atoll(directory: &Path, line: &str) -> Output {
    Command::new(program())
        .arg("--dir")
        .arg(directory)
        .args(line.split(' '))
        .output()
        .expect("it runs")
}

fn json(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("json")
}

#[test]
fn a_fabric_is_made_ends_and_is_found_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut dev = Dev::start(directory.path(), &["--nodes", "2"]);
    let pids = dev.pids();
    assert_eq!(
        pids.keys().collect::<Vec<_>>(),
        ["a1", "a2", "b1", "b2", "c1", "c2"]
    );
    assert!(pids.values().all(|pid| is_alive(*pid)));
    let ports = |dev: &Dev| -> Vec<Value> {
        let sites = dev.ready["sites"].as_array().expect("sites");
        sites.iter().map(|s| s["nodes"][0]["nbd"].clone()).collect()
    };
    let before = ports(&dev);

    let second = Command::new(program())
        .args(["dev", "--dir"])
        .arg(directory.path())
        .output()
        .expect("runs");
    assert!(String::from_utf8_lossy(&second.stderr).contains("another `atoll dev` runs"));

    dev.signal(Signal::INT);
    assert!(dev.process.wait().expect("it ends").success());
    assert!(pids.values().all(|pid| !is_alive(*pid)), "stopped with it");

    let other = Command::new(program())
        .args(["dev", "--sites", "5", "--dir"])
        .arg(directory.path())
        .output();
    assert!(String::from_utf8_lossy(&other.expect("runs").stderr).contains("3 sites, not 5"));

    let dev = Dev::start(directory.path(), &[]);
    assert_eq!(ports(&dev), before);
    assert!(
        dev.pids()
            .values()
            .all(|pid| !pids.values().any(|old| old == pid))
    );
}

#[test]
fn nothing_outlives_a_killed_supervisor() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dev = Dev::start(directory.path(), &["--nodes", "1"]);
    let pids = dev.pids();
    // One that is stopped can do nothing for its own end.
    kill(pids["b1"], Signal::STOP);
    dev.signal(Signal::KILL);
    for pid in pids.values() {
        wait_until("a node outlives its supervisor", || !is_alive(*pid));
    }
}

#[test]
fn a_killed_node_stays_dead_until_it_is_started() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dev = Dev::start(directory.path(), &["--nodes", "2"]);
    let pids = dev.pids();
    kill(pids["a1"], Signal::KILL);
    wait_until("a1 dies", || !is_alive(pids["a1"]));
    std::thread::sleep(Duration::from_millis(300));
    let admin = node::admin::client::Connection::open(&directory.path().join("a1"));
    assert!(admin.is_err(), "nobody revives it");

    let started = json(&atoll(directory.path(), "node start a1 --json"));
    let new = i32::try_from(started["nodes"][0]["pid"].as_i64().expect("a pid")).expect("a pid");
    assert!(is_alive(new) && new != pids["a1"]);
    let again = json(&atoll(directory.path(), "node start a1 --json"));
    assert_eq!(again, started, "one that runs is left alone");

    kill(pids["b1"], Signal::STOP);
    let stopped = json(&atoll(directory.path(), "site stop b --json"));
    assert!(
        stopped["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .all(|n| n["pid"].is_null())
    );
    assert!(
        !is_alive(pids["b1"]) && !is_alive(pids["b2"]),
        "a stopped process is woken to end"
    );
    assert!(is_alive(pids["c1"]));
    json(&atoll(directory.path(), "site start b --json"));

    let wrong = atoll(directory.path(), "node start z9");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("nodes are a1, a2, b1"));
}

/// Who was killed a moment ago may not be dead yet: what is started then is not the one that dies.
#[test]
fn a_node_that_is_dying_is_started_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dev = Dev::start(directory.path(), &["--nodes", "2", "--sites", "1"]);
    let mut pids = dev.pids();
    for _ in 0..10 {
        for pid in pids.values() {
            kill(*pid, Signal::KILL);
        }
        let started = json(&atoll(directory.path(), "site start a --json"));
        let new: BTreeMap<String, i32> = started["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .map(|n| {
                let pid = i32::try_from(n["pid"].as_i64().expect("a pid")).expect("a pid");
                (n["name"].as_str().expect("a name").to_owned(), pid)
            })
            .collect();
        assert!(
            new.iter()
                .all(|(name, pid)| pids[name] != *pid && is_alive(*pid))
        );
        pids = new;
    }
    // One that stands still is alive, and answers nobody.
    kill(pids["a1"], Signal::STOP);
    let asked = Instant::now();
    json(&atoll(directory.path(), "node start a1 --json"));
    assert!(asked.elapsed() < Duration::from_secs(30));
    kill(pids["a1"], Signal::CONT);
}

#[test]
fn the_fabric_outlives_a_terminal_where_that_is_wanted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let shell = r#"trap '' HUP; exec "$0" dev --json --dir "$1" --nodes 1 --sites 1"#;
    let mut process = Command::new("sh")
        .args(["-c", shell])
        .arg(program())
        .arg(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the supervisor starts");
    let mut line = String::new();
    let stdout = process.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let ready = serde_json::from_str(&line).expect("json");
    let dev = Dev { process, ready };
    dev.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    json(&atoll(directory.path(), "node start a1 --json"));
    assert!(is_alive(dev.pids()["a1"]));
}

#[test]
fn one_that_does_not_start_keeps_no_other_from_being_made() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let _dev = Dev::start(directory.path(), &["--nodes", "2", "--sites", "2"]);
    json(&atoll(directory.path(), "site stop a --json"));
    fs::write(directory.path().join("a1/broken"), "").expect("write");
    fs::remove_dir_all(directory.path().join("a2")).expect("removed");
    let failed = atoll(directory.path(), "site start a");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(
        !failed.status.success() && said.contains("this node is broken"),
        "{said}"
    );
    assert!(directory.path().join("a2/node.json").exists());
}

#[test]
fn a_node_that_lacks_others_is_not_waited_for() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let _dev = Dev::start(directory.path(), &["--nodes", "3"]);
    json(&atoll(directory.path(), "node stop a1 --json"));
    fs::write(directory.path().join("a1/alone"), "").expect("write");
    let asked = Instant::now();
    let started = json(&atoll(directory.path(), "node start a1 --json"));
    assert!(asked.elapsed() < Duration::from_secs(30));
    assert_eq!(started["nodes"][0]["waits_for"], "site_group");
    let pid = i32::try_from(started["nodes"][0]["pid"].as_i64().expect("a pid")).expect("a pid");
    assert!(is_alive(pid));
    json(&atoll(directory.path(), "node stop a1 --json"));
    let said = atoll(directory.path(), "node start a1");
    assert!(String::from_utf8_lossy(&said.stdout).contains("waits for its site group"));
}

#[test]
fn nothing_waits_for_a_node_that_starts() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let _dev = Dev::start(directory.path(), &["--nodes", "1", "--wan"]);
    json(&atoll(directory.path(), "node stop a1 --json"));
    fs::write(directory.path().join("a1/mute"), "").expect("write");
    let start = || {
        Command::new(program())
            .arg("--dir")
            .arg(directory.path())
            .args(["node", "start", "a1"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs")
    };
    let log = directory.path().join("a1/log");
    let lives = || fs::read_to_string(&log).map_or(0, |said| said.lines().count());
    let first = start();
    wait_until("a1 runs", || lives() == 2);
    let second = start();
    let asked = Instant::now();
    json(&atoll(directory.path(), "link cut a b --json"));
    json(&atoll(directory.path(), "link heal --json"));
    json(&atoll(directory.path(), "node stop b1 --json"));
    json(&atoll(directory.path(), "node start b1 --json"));
    assert!(asked.elapsed() < Duration::from_secs(30));
    // Who ends it ends the wait.
    let stopped = json(&atoll(directory.path(), "node stop a1 --json"));
    assert!(stopped["nodes"][0]["pid"].is_null());
    for start in [first, second] {
        let failed = start.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&failed.stderr);
        assert!(
            !failed.status.success() && said.contains("node a1 ended"),
            "{said}"
        );
    }
    assert_eq!(lives(), 2, "nobody revives what was stopped");
}

#[test]
fn a_node_whose_directory_is_gone_joins_anew() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let _dev = Dev::start(directory.path(), &["--nodes", "1"]);
    json(&atoll(directory.path(), "site stop a --json"));
    fs::remove_dir_all(directory.path().join("a1")).expect("removed");
    json(&atoll(directory.path(), "site start a --json"));
    assert!(directory.path().join("a1/node.json").exists());
}

/// A double does not look after its directory: it is stopped in the end.
#[test]
fn a_node_whose_directory_is_gone_under_it_ends_and_joins_anew() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dev = Dev::start(directory.path(), &["--nodes", "1"]);
    let pids = dev.pids();
    fs::remove_dir_all(directory.path().join("a1")).expect("removed");
    let started = json(&atoll(directory.path(), "node start a1 --json"));
    assert!(!is_alive(pids["a1"]), "it served a directory that is gone");
    assert!(started["nodes"][0]["pid"].is_u64());
    assert!(directory.path().join("a1/node.json").exists());
    // A node whose directory is there is left alone.
    json(&atoll(directory.path(), "node start b1 --json"));
    assert!(is_alive(pids["b1"]));
}

#[test]
fn a_node_that_does_not_start_is_named_with_its_last_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dev = Dev::start(directory.path(), &["--nodes", "1"]);
    json(&atoll(directory.path(), "node stop c1 --json"));
    fs::write(directory.path().join("c1/broken"), "").expect("write");
    let failed = atoll(directory.path(), "node start c1");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(
        !failed.status.success() && said.contains("node c1 ended"),
        "{said}"
    );
    assert!(said.contains("this node is broken"), "{said}");
    drop(dev);
}

#[test]
fn a_fabric_is_found_without_the_node_that_does_not_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut dev = Dev::start(directory.path(), &["--nodes", "1"]);
    dev.signal(Signal::INT);
    assert!(dev.process.wait().expect("it ends").success());
    drop(dev);
    fs::write(directory.path().join("c1/broken"), "").expect("write");
    // Its directory is lost, and it is made anew.
    fs::remove_dir_all(directory.path().join("b1")).expect("removed");
    let dev = Dev::start(directory.path(), &[]);
    let nodes: Vec<&Value> = dev.ready["sites"]
        .as_array()
        .expect("sites")
        .iter()
        .collect();
    let pid = |site: usize| &nodes[site]["nodes"][0]["pid"];
    assert!(pid(0).is_u64() && pid(1).is_u64() && pid(2).is_null());
    let serves = |site: usize| &nodes[site]["nodes"][0]["serves"];
    assert!(serves(0).is_null() && serves(2) == false);
    assert!(directory.path().join("b1/node.json").exists());
}

#[test]
fn a_found_node_that_runs_and_does_not_serve_is_told_as_such() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut dev = Dev::start(directory.path(), &["--nodes", "3"]);
    dev.signal(Signal::INT);
    assert!(dev.process.wait().expect("it ends").success());
    drop(dev);
    for (node, what) in [("c1", "alone"), ("c2", "broken"), ("c3", "broken")] {
        fs::write(directory.path().join(node).join(what), "").expect("write");
    }
    let asked = Instant::now();
    let dev = Dev::start(directory.path(), &[]);
    assert!(
        asked.elapsed() < Duration::from_secs(60),
        "nobody else will come"
    );
    let node = |site: usize, node: usize| &dev.ready["sites"][site]["nodes"][node];
    assert!(node(0, 0)["pid"].is_u64());
    let runs = |n: usize| node(2, n)["pid"].is_u64();
    let told = (0..3).all(|n| node(2, n)["serves"] == false);
    let running = (0..3).filter(|n| runs(*n)).collect::<Vec<_>>();
    assert!(told && running == [0], "{:#}", dev.ready);
    assert!(node::admin::client::Connection::open(&directory.path().join("c1")).is_ok());
}

#[test]
fn the_wan_emulator_is_on_every_link_between_sites() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let plain = Dev::start(directory.path(), &["--nodes", "1"]);
    let refused = atoll(directory.path(), "link cut a b");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--wan"));
    plain.signal(Signal::TERM);
    drop(plain);
    wait_until("the lock is free", || {
        let lock = fs::File::open(directory.path().join("dev.lock")).expect("the lock");
        lock.try_lock().is_ok()
    });

    let _dev = Dev::start(directory.path(), &["--wan-rtt", "20ms"]);
    let routes = Routes::load(&directory.path().join("a1")).expect("routes");
    let quic = |node: &str| {
        let config = NodeConfig::load(&directory.path().join(node));
        config.expect("a configuration").quic
    };
    let others: BTreeSet<_> = ["b1", "c1"].map(quic).into();
    assert!(routes.0.keys().eq(&others), "{routes:?} to {others:?}");
    assert!(others.iter().all(|at| routes.to(*at) != *at));
    let links = json(&atoll(directory.path(), "link cut a b --one-way --json"));
    let cut: Vec<&Value> = links["links"]
        .as_array()
        .expect("links")
        .iter()
        .filter(|l| l["cut"] == true)
        .collect();
    assert_eq!(cut.len(), 1);
    assert_eq!(
        (&cut[0]["from"], &cut[0]["to"]),
        (&Value::from("a"), &Value::from("b"))
    );
    assert_eq!(cut[0]["delay_us"], Value::from(10_000));
    json(&atoll(directory.path(), "link set a b --rtt 50ms --json"));
    let links = json(&atoll(directory.path(), "link heal --json"));
    let ab = &links["links"][0];
    assert_eq!(
        (&ab["cut"], &ab["delay_us"]),
        (&Value::from(false), &Value::from(25_000))
    );
}
