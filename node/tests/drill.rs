//! One scenario file, in the simulator and on real processes, with the same kind of report.
#![cfg(feature = "sim")]

mod dev_fabric;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use dev_fabric::{DevFabric, PROGRAM};

fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../sim/scenarios/{name}.toml"))
}

fn drill(directory: &Path, name: &str) -> Output {
    Command::new(PROGRAM)
        .arg("--dir")
        .arg(directory)
        .args(["drill", "run", "--json"])
        .arg(scenario(name))
        .output()
        .expect("atoll starts")
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
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
    let _fabric = DevFabric::start(&directory, &["--disks", "1", "--disk-size", "512MiB"]);
    // What only the simulator can do is refused before anything is touched.
    let refused = drill(&directory, "failover_monkey_business");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("can't be drilled"),
        "{said}"
    );

    let drilled = drill(&directory, "site-loss");
    let drilled_report = report(&drilled);
    assert!(drilled.status.success(), "{drilled_report}");
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
    let keys = |r: &Value| {
        let object = r.as_object().expect("a report is an object");
        object
            .keys()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    let more: Vec<String> = keys(&drilled_report)
        .difference(&keys(&simulated_report))
        .cloned()
        .collect();
    assert_eq!(more, ["drill"]);
}
