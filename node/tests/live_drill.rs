//! Drills on a fabric that is in use, by the directory of one of its nodes: a site is fenced off
//! by all others, and back, whatever dies meanwhile.
#![cfg(feature = "sim")]

mod dev_fabric;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use dev_fabric::{DevFabric, PATIENCE, PROGRAM};

/// A fence that nobody renews is over in 3 s; a busy machine takes its time to say so.
const OVER_MAX: Duration = Duration::from_secs(5);

/// By one node's directory, as on a machine that has nothing else of the fabric.
fn command(fabric: &DevFabric, node: &str, line: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--dir").arg(fabric.directory(node));
    command.args(line.split(' '));
    command
}

fn output(fabric: &DevFabric, node: &str, line: &str) -> Output {
    command(fabric, node, line).output().expect("atoll starts")
}

fn refused(fabric: &DevFabric, node: &str, line: &str) -> String {
    let output = output(fabric, node, line);
    assert!(!output.status.success(), "{line} was done");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn status(fabric: &DevFabric, node: &str) -> Value {
    let told = output(fabric, node, "status --json");
    serde_json::from_slice(&told.stdout).unwrap_or_default()
}

/// What a node's `status` says of a drill.
fn told_of_drill(status: &Value) -> Option<String> {
    let degraded = status["degraded"].as_array()?.iter();
    // A volume of a drill may be told of, too.
    let is_drill = |d: &&Value| {
        d["what"]
            .as_str()
            .is_some_and(|w| w.starts_with("drill at"))
    };
    let of = degraded.filter(is_drill);
    of.map(ToString::to_string).next()
}

/// Waits until a node says that a site is fenced; how that reads.
fn fenced(fabric: &DevFabric, node: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(told) = told_of_drill(&status(fabric, node)) {
            return told;
        }
        assert!(Instant::now() < deadline, "no site is ever fenced");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until these nodes say that no site is fenced.
fn over(fabric: &DevFabric, nodes: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    for node in nodes {
        loop {
            let told = status(fabric, node);
            if told["degraded"].is_array() && told_of_drill(&told).is_none() {
                break;
            }
            assert!(Instant::now() < deadline, "{node}: {told:#}");
        }
    }
}

/// How often each of these nodes let a fence down. By its log: `status` waits a second for nodes
/// that are silent.
fn ends(fabric: &DevFabric, nodes: &[&str]) -> Vec<usize> {
    let of = nodes.iter().map(|node| {
        let log = fs::read(fabric.directory(node).join("log")).expect("a log");
        let log = String::from_utf8_lossy(&log);
        log.matches("the drill's fence is over").count()
    });
    of.collect()
}

/// Something ends the drill: how long it takes until all of these nodes let the fence down.
fn ends_after(fabric: &DevFabric, nodes: &[&str], deed: impl FnOnce()) -> Duration {
    let before = ends(fabric, nodes);
    deed();
    let since = Instant::now();
    loop {
        let now = ends(fabric, nodes);
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            return since.elapsed();
        }
        assert!(since.elapsed() < PATIENCE, "{nodes:?}: {now:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn healthy(fabric: &DevFabric) {
    fabric.wait_for("status", "/healthy", &json!(true));
    fabric.wait_for("status", "/at_risk_bytes", &json!(0));
}

fn begin(fabric: &DevFabric, node: &str, line: &str) -> Child {
    let log = fabric.directory(node).with_extension("drill");
    command(fabric, node, line)
        .stdout(Stdio::piped())
        .stderr(fs::File::create(log).expect("a file"))
        .spawn()
        .expect("atoll starts")
}

/// The report of a drill that was begun.
fn end(drill: Child) -> Value {
    let output = drill.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.trim_end().lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|e| panic!("no report ({e}): {text}"))
}

fn start(scratch: &Path) -> DevFabric {
    let directory = scratch.join("fabric");
    let fabric = DevFabric::start(&directory, &["--disks", "1", "--disk-size", "1GiB"]);
    healthy(&fabric);
    fabric
}

#[test]
fn a_site_of_a_live_fabric_is_lost_for_a_while_and_back() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let fabric = start(scratch.path());

    // Nothing begins by mistake.
    let unsaid = refused(&fabric, "a1", "drill run site-loss --site b");
    assert!(
        unsaid.contains("--live") && unsaid.contains("3 s"),
        "{unsaid}"
    );
    let nameless = refused(&fabric, "a1", "drill run site-loss --live");
    assert!(nameless.contains("--site SITE, of a, b, c"), "{nameless}");
    let own = refused(&fabric, "a1", "drill run site-loss --live --site a");
    assert!(own.contains("in another site"), "{own}");
    let kills = refused(&fabric, "a1", "drill run node-loss --live");
    assert!(kills.contains("atoll dev"), "{kills}");
    let endless = refused(
        &fabric,
        "a1",
        "drill run site-loss --live --site b --seconds 601",
    );
    assert!(endless.contains("600 s"), "{endless}");
    let dev = fabric.refused("drill run site-loss --live --site b");
    assert!(dev.contains("leave --live out"), "{dev}");

    // A client of the site that will be lost.
    fabric.json("volume create db --size 64MiB --home b");
    let mut client = fabric.attach("b1", "db");
    client.write(0, &[1; 4096], true).expect("written");
    assert_eq!(fabric.json("volume show db")["owner"], "b1");

    let line = "drill run site-loss --live --failback --site b --size 8MiB --seconds 24 --json";
    let drill = begin(&fabric, "a1", line);
    let told = fenced(&fabric, "a1");
    for part in ["site b", "as if it were lost", "atoll drill stop"] {
        assert!(told.contains(part), "{told}");
    }
    assert!(
        told_of_drill(&status(&fabric, "c2")).is_some(),
        "all other sites tell of it"
    );
    assert!(
        told_of_drill(&status(&fabric, "b1")).is_none(),
        "the site itself is told nothing"
    );
    // Its client waits: nothing is acknowledged that only a lost site would have.
    let waiting = thread::spawn(move || {
        let since = Instant::now();
        client.write(4096, &[2; 4096], true).expect("written");
        (since.elapsed(), client)
    });
    let busy = refused(&fabric, "c1", "drill run site-loss --live --site b");
    assert!(busy.contains("drill at site b"), "{busy}");

    let report = end(drill);
    let log = fs::read_to_string(fabric.directory("a1").with_extension("drill"));
    println!("{report:#}\n{}", log.unwrap_or_default());
    for (key, value) in [
        ("drill", json!("site-loss")),
        ("verdict", json!("pass")),
        ("rpo_bytes", json!(0)),
        ("bytes_lost", json!(0)),
    ] {
        assert_eq!(report[key], value, "{key}: {report:#}");
    }
    assert!(report["rto_ms"].as_u64() < Some(10_000), "{report:#}");
    assert!(report["bytes_verified"].as_u64() > Some(8 << 20));
    let timeline = report["timeline"].to_string();
    for part in [
        "site b is fenced by all other sites",
        "the fence around site b is lifted",
        "volume db was at b1",
        "goes home to b1",
        "full protection",
    ] {
        assert!(timeline.contains(part), "{part}: {timeline}");
    }
    let page = fs::read_to_string(report["report"].as_str().expect("a path")).expect("a page");
    assert!(page.ends_with("</html>\n") && page.contains("a live fabric"));

    let (waited, mut client) = waiting.join().expect("the client lives");
    assert!(waited > Duration::from_secs(3), "it waited {waited:?} only");
    let read = client.read(0, 8192).expect("read");
    assert!(read[..4096] == [1; 4096] && read[4096..] == [2; 4096]);
    healthy(&fabric);
    let left = fabric.json("volume list");
    let left = left["volumes"].as_array().expect("a list");
    assert_eq!(left.len(), 1, "clients' volumes alone: {left:?}");
    assert_eq!(fabric.json("volume show db")["owner"], "b1", "at home");
}

#[test]
fn whatever_dies_a_fence_is_over_within_seconds() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut fabric = start(scratch.path());
    let line = "drill run site-isolation --live --site b --size 4MiB --seconds 40 --json";

    // The operator's word ends it at once.
    let drill = begin(&fabric, "a1", line);
    fenced(&fabric, "a1");
    let others = ["a1", "a2", "a3", "c1", "c2", "c3"];
    let took = ends_after(&fabric, &others, || {
        let stopped = output(&fabric, "c1", "drill stop");
        let stopped = String::from_utf8_lossy(&stopped.stdout).into_owned();
        assert!(
            stopped.contains("the fence around site b is lifted"),
            "{stopped}"
        );
    });
    println!("drill stop: over {took:?} after its answer");
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    over(&fabric, &["a1", "c3"]);
    let report = end(drill);
    assert_eq!(report["verdict"], json!("fail"), "{report:#}");
    assert!(
        report.to_string().contains("the fence ended early"),
        "{report:#}"
    );
    healthy(&fabric);
    let none = output(&fabric, "c1", "drill stop");
    assert!(String::from_utf8_lossy(&none.stdout).contains("no drill fences a site"));

    // The drill's process dies without a word.
    let mut drill = begin(&fabric, "a1", line);
    fenced(&fabric, "a1");
    let took = ends_after(&fabric, &others, || drill.kill().expect("it runs"));
    println!("the drill is killed: over after {took:?}");
    drill.wait().expect("it ended");
    assert!(took < OVER_MAX, "it took {took:?}");
    over(&fabric, &others);
    healthy(&fabric);
    // Its volume is what is left of it.
    let left = fabric.json("volume list")["volumes"][0]["name"].clone();
    let left = left.as_str().expect("a volume").to_owned();
    assert!(left.starts_with("drill-"), "{left}");
    fabric.json(&format!("volume delete {left}"));

    // The node that it asks dies.
    let drill = begin(&fabric, "c1", line);
    fenced(&fabric, "a1");
    let left = ["a1", "a2", "a3", "c2", "c3"];
    let took = ends_after(&fabric, &left, || fabric.signal("c1", Signal::KILL));
    println!("its node is killed: over after {took:?}");
    assert!(took < OVER_MAX, "it took {took:?}");
    let report = end(drill);
    assert_eq!(report["verdict"], json!("fail"), "{report:#}");

    // With a node down no site is fenced.
    let line = "drill run site-loss --live --site b";
    over(&fabric, &["a1"]);
    let unsafe_now = refused(&fabric, "a1", line);
    assert!(
        unsafe_now.contains("site b is not fenced, and nothing was done")
            && unsafe_now.contains("node c1"),
        "{unsafe_now}"
    );
    fabric.start_again("node start c1");
    healthy(&fabric);
}
