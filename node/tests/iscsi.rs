//! Volumes over iSCSI, by initiators that others made, through nodes of different sites.

mod dev_fabric;
mod real_clients;

use std::time::Duration;

use serde_json::Value;

use dev_fabric::DevFabric;
use real_clients::{output, run, scratch};

const IQN: &str = "iqn.2026-01.io.atoll:vol";

/// The suite's 230 tests take a minute, a third of it sleeps of its own.
const SUITE_MAX: Duration = Duration::from_secs(300);

/// What libiscsi's suite skips, and why.
const SKIPS: [(&str, usize); 6] = [
    // PREVENT ALLOW MEDIUM REMOVAL (8): nothing is removed from a volume.
    ("Logical unit is not removable", 8),
    // NoMedia, for the same reason.
    ("Media is not removable", 1),
    // SANITIZE (11) is run only with `--allow-sanitize`.
    ("--allow-sanitize flag is not set", 11),
    // ReadOnly wants a unit that is write protected from the start.
    ("Logical unit is not write-protected", 1),
    // Unaligned UNMAP, and data of the wrong length (5): they want physical blocks larger than
    // logical ones, and say so as this.
    ("LBPPB < 2", 5),
    // WRITE SAME of 0 blocks, all that follow (2): WSNZ.
    ("does not support 0-blocks", 2),
];

fn started() -> (tempfile::TempDir, DevFabric) {
    let scratch = scratch();
    let fabric = DevFabric::start(&scratch.path().join("fabric"), &["--disk-size", "1GiB"]);
    fabric.json("volume create vol --size 256MiB --home a");
    (scratch, fabric)
}

fn url(fabric: &DevFabric, node: &str) -> String {
    format!("iscsi://{}/{IQN}/0", fabric.iscsi(node))
}

/// The suite's last words: of so many tests, these passed and these failed.
fn counts(said: &str) -> Vec<String> {
    let tests = said.lines().find(|line| line.trim().starts_with("tests"));
    let tests = tests.unwrap_or_else(|| panic!("{said}"));
    tests.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn libiscsis_suite_fails_nothing_and_skips_what_is_known() {
    let (_scratch, fabric) = started();
    let mapped = fabric.json("iscsi map vol");
    assert_eq!(mapped["iqn"], IQN);
    assert_eq!(mapped["lun"], 0);
    assert_eq!(mapped["portals"].as_array().map(Vec::len), Some(9));
    let (a, b) = (url(&fabric, "a1"), url(&fabric, "b2"));
    let arguments = ["-d", "-v", "-t", "ALL", &a, &b];
    let output = output(SUITE_MAX, "iscsi-test-cu", &arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        counts(&said),
        ["tests", "230", "230", "230", "0", "0"],
        "{said}"
    );
    let skipped: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("[SKIPPED]"))
        .collect();
    for (why, count) in SKIPS {
        let found = skipped.iter().filter(|line| line.contains(why)).count();
        assert_eq!(found, count, "{why}: {skipped:#?}");
    }
    let known: usize = SKIPS.iter().map(|(_, count)| count).sum();
    assert_eq!(skipped.len(), known, "{skipped:#?}");
}

#[test]
fn initiators_see_and_use_what_they_may() {
    let (_scratch, fabric) = started();
    fabric.json("iscsi map vol --initiator iqn.2026-01.test:me --chap host:secretsecret12");
    let portal = format!("iscsi://{}", fabric.iscsi("c3"));
    let me = ["-i", "iqn.2026-01.test:me"];
    let seen = run("iscsi-ls", &[me[0], me[1], &portal]);
    assert_eq!(
        seen.matches(IQN).count(),
        9,
        "each node is a portal: {seen}"
    );
    let other = output(
        SUITE_MAX,
        "iscsi-ls",
        &["-i", "iqn.2026-01.test:you", &portal],
    );
    assert!(!String::from_utf8_lossy(&other.stdout).contains(IQN));
    let at = |who: &str| format!("iscsi://{who}{}/{IQN}/0", fabric.iscsi("b1"));
    run("iscsi-inq", &[me[0], me[1], &at("host%secretsecret12@")]);
    for who in ["host%anothersecret@", ""] {
        let refused = output(SUITE_MAX, "iscsi-inq", &[me[0], me[1], &at(who)]);
        assert!(!refused.status.success(), "{who}");
    }
    assert_eq!(fabric.json("iscsi unmap vol")["unmapped"], "vol");
    let listed: Value = fabric.json("iscsi list");
    assert_eq!(listed["targets"].as_array().map(Vec::len), Some(0));
    let gone = output(
        SUITE_MAX,
        "iscsi-inq",
        &[me[0], me[1], &at("host%secretsecret12@")],
    );
    assert!(!gone.status.success());
}
