//! Drills on real processes: one scenario file, in the simulator and on processes, with the same
//! kind of report; and drills by name, which leave the fabric as it was.
#![cfg(feature = "sim")]

mod dev_fabric;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use dev_fabric::{DevFabric, PROGRAM};

fn scenario(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/scenarios");
    let file: PathBuf = folder.join(format!("{name}.toml"));
    file.display().to_string()
}

fn drill(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("--dir")
        .arg(directory)
        .args(["drill", "run", "--json"])
        .args(arguments)
        .output()
        .expect("atoll starts")
}

/// The last line that was printed.
fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.trim_end().lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// What the contract promises of every drill.
fn assert_passed(output: &Output, name: &str, rto_max_ms: u64) -> Value {
    let report = report(output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report:#}\n{said}");
    let facts = ["drill", "verdict", "rpo_bytes", "bytes_lost"].map(|key| report[key].clone());
    assert_eq!(facts, [json!(name), json!("pass"), json!(0), json!(0)]);
    assert!(report["rto_ms"].as_u64() < Some(rto_max_ms), "{report:#}");
    assert!(report["rto_ms"].is_u64(), "{report:#}");
    assert!(
        report["bytes_verified"].as_u64() > Some(1 << 20),
        "{report:#}"
    );
    let page = report["report"].as_str().expect("a path");
    let page = fs::read_to_string(page).expect("a page");
    assert!(
        page.ends_with("</html>\n") && page.contains("<svg"),
        "a whole page"
    );
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "it needs nothing else"
    );
    report
}

fn keys(report: &Value) -> BTreeSet<String> {
    let object = report.as_object().expect("a report is an object");
    object.keys().cloned().collect()
}

#[test]
fn site_loss_is_simulated_and_drilled() {
    let simulated = Command::new(PROGRAM)
        .args(["sim", "run", "--json"])
        .arg(scenario("site-loss"))
        .output()
        .expect("atoll starts");
    let simulated_report = report(&simulated);
    assert!(simulated.status.success(), "{simulated_report}");

    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("fabric");
    let fabric = DevFabric::start(&directory, &["--disks", "1", "--disk-size", "512MiB"]);
    // What only the simulator can do is refused before anything is touched.
    let refused = drill(&directory, &[&scenario("failover_monkey_business")]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("can't be drilled"),
        "{said}"
    );

    let drilled = drill(&directory, &[&scenario("site-loss")]);
    let drilled_report = assert_passed(&drilled, "site-loss", 10_000);
    for report in [&simulated_report, &drilled_report] {
        assert_eq!(
            (&report["passed"], &report["bytes_lost"]),
            (&true.into(), &0.into())
        );
        assert!(
            report["rto_s"].as_f64() < Some(10.0) && report["rto_s"].is_number(),
            "{report}"
        );
        assert!(
            report["timeline"].to_string().contains("are killed"),
            "{report}"
        );
    }
    let of_every_report = keys(&sim::report::Report::default().to_json());
    for report in [&simulated_report, &drilled_report] {
        let missing: Vec<String> = of_every_report.difference(&keys(report)).cloned().collect();
        assert!(
            missing.is_empty(),
            "the same kind of report, without {missing:?}"
        );
    }
    // What was lost for good is back, and the volume is gone.
    fabric.wait_for("status", "/healthy", &json!(true));
    assert_eq!(fabric.json("volume list")["volumes"], json!([]));
}

#[test]
fn drills_by_name_leave_the_fabric_as_it_was() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("fabric");
    let fabric = DevFabric::start(&directory, &["--nodes", "2", "--disk-size", "1GiB"]);
    fabric.wait_for("status", "/healthy", &json!(true));
    let before = fabric.json("node list");

    // What this fabric can't have is refused before anything is touched.
    let refused = drill(&directory, &["link-cut"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("--wan"),
        "{said}"
    );
    let refused = drill(&directory, &["site-loss", "--disk", "a1/1"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("--site"),
        "{said}"
    );

    let short = ["--size", "4MiB", "--seconds", "2"];
    let lost = drill(
        &directory,
        &[&["node-loss", "--node", "b2"], &short[..]].concat(),
    );
    let lost = assert_passed(&lost, "node-loss", 3_000);
    let timeline = lost["timeline"].to_string();
    assert!(
        timeline.contains("b2 is killed") && timeline.contains("b2 runs again"),
        "{timeline}"
    );
    assert!(lost["client_throughput_ratio"].is_number(), "{lost:#}");
    assert!(lost["full_protection_ms"].is_u64(), "{lost:#}");

    let rotten = drill(&directory, &[&["corruption"], &short[..]].concat());
    let rotten = assert_passed(&rotten, "corruption", 3_000);
    let timeline = rotten["timeline"].to_string();
    assert!(
        timeline.contains("rotten fragments are repaired"),
        "{timeline}"
    );
    assert!(rotten["wan_repair_bytes"].is_u64(), "{rotten:#}");
    let scrubs = fabric.json("scrub status");
    let disks = scrubs["disks"].as_array().expect("a list").iter();
    let repaired: u64 = disks.filter_map(|d| d["scrub"]["repaired"].as_u64()).sum();
    assert!(repaired > 0, "{scrubs:#}");

    // A `geo` volume's disk is rebuilt within its site: data and index (R25).
    let of_geo = ["disk-loss", "--code", "geo:2+1"];
    let disk_lost = drill(&directory, &[&of_geo[..], &short[..]].concat());
    let disk_lost = assert_passed(&disk_lost, "disk-loss", 3_000);
    assert_eq!(disk_lost["wan_repair_bytes"], json!(0), "{disk_lost:#}");

    // All nodes serve, nothing is left, and the reports are listed.
    fabric.wait_for("status", "/healthy", &json!(true));
    assert_eq!(fabric.json("volume list")["volumes"], json!([]));
    let names = |list: &Value| -> Vec<(Value, Value)> {
        let nodes = list["nodes"].as_array().expect("a list").iter();
        nodes
            .map(|n| (n["name"].clone(), n["condition"].clone()))
            .collect()
    };
    assert_eq!(names(&fabric.json("node list")), names(&before));
    let reports = fabric.json("drill report");
    assert_eq!(reports["reports"].as_array().map(Vec::len), Some(3));
}

/// What needs an emulated WAN, and the largest disaster of all: each to its end, on one fabric.
#[test]
#[ignore = "long: cargo xtask test --layer long"]
fn a_site_is_isolated_a_link_is_cut_and_power_is_lost() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("fabric");
    let options = ["--nodes", "2", "--disk-size", "1GiB", "--wan"];
    let fabric = DevFabric::start(&directory, &options);
    fabric.wait_for("status", "/healthy", &json!(true));
    // Power that is lost everywhere is a pause as long as it is away: its bar is that all is there.
    let drills = [
        ("site-isolation", "12", 10_000, "nothing gets through"),
        ("link-cut", "4", 3_000, "nothing gets through"),
        ("power-loss-everywhere", "4", 60_000, "are killed"),
    ];
    for (name, seconds, rto_max_ms, strike) in drills {
        let short = [name, "--size", "4MiB", "--seconds", seconds];
        let drilled = drill(&directory, &short);
        let drilled = assert_passed(&drilled, name, rto_max_ms);
        let timeline = drilled["timeline"].to_string();
        assert!(timeline.contains(strike), "{name}: {timeline}");
        println!("{name}: {} ms", drilled["rto_ms"]);
        fabric.wait_for("status", "/healthy", &json!(true));
        assert_eq!(fabric.json("volume list")["volumes"], json!([]));
    }
    let reports = fabric.json("drill report");
    assert_eq!(reports["reports"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_full_fabric_refuses_writes_and_takes_them_again() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("fabric");
    let small = ["--nodes", "1", "--disks", "1", "--disk-size", "256MiB"];
    let fabric = DevFabric::start(&directory, &small);
    fabric.wait_for("status", "/healthy", &json!(true));

    let short = ["full-disk", "--size", "4MiB", "--seconds", "2"];
    let full = drill(&directory, &short);
    let full = assert_passed(&full, "full-disk", 10_000);
    assert!(full["writes_refused"].as_u64() > Some(0), "{full:#}");
    assert!(
        full["longest_read_pause_ms"].as_u64() < Some(3_000),
        "{full:#}"
    );
    let timeline = full["timeline"].to_string();
    for part in ["no space left, after", "is full", "-ballast is deleted"] {
        assert!(timeline.contains(part), "{timeline}");
    }
    let page = fs::read_to_string(full["report"].as_str().expect("a path")).expect("a page");
    assert!(page.contains("<title>the fabric is full: "), "{page}");
    assert_eq!(fabric.json("volume list")["volumes"], json!([]));
}

#[test]
fn a_roomy_fabric_is_not_filled() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("fabric");
    let fabric = DevFabric::start(&directory, &["--nodes", "1", "--disks", "1"]);
    fabric.wait_for("status", "/healthy", &json!(true));
    let refused = drill(&directory, &["full-disk"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("16 GiB") && said.contains("--disk-size"),
        "{said}"
    );
    // A deletion says so.
    fabric.json("volume create spare --size 1GiB");
    assert_eq!(fabric.json("volume delete spare")["deleted"], "spare");
    assert_eq!(fabric.json("volume list")["volumes"], json!([]));
}
