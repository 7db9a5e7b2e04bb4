//! Scenario files: the library that ships, and the plans that failed once. Optimized builds
//! only: `cargo xtask test` runs it so.

use std::fs;
use std::path::{Path, PathBuf};

use sim::plan::Plan;
use sim::run::{Options, run};

/// Each scenario runs on so many seeds, its own first.
const SEEDS: u64 = 3;

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(directory).expect("the directory ships with the source");
    let paths = entries.map(|e| e.expect("it can be listed").path());
    let mut files: Vec<PathBuf> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

fn plan(file: &Path) -> Plan {
    let text = fs::read_to_string(file).expect("it can be read");
    Plan::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn passes(name: &str) {
    let file = format!("scenarios/{name}.toml");
    let mut plan = plan(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
    assert_eq!(plan.name, name);
    let options = Options {
        count_wan: true,
        ..Options::default()
    };
    let first = plan.seed;
    for seed in first..first + SEEDS {
        plan.seed = seed;
        let report = run(&plan, options).report;
        assert!(report.passed(), "{}", report.to_text());
        assert_eq!(report.bytes_lost, 0);
        assert!(report.operations > 500, "{}", report.to_text());
    }
}

macro_rules! scenarios {
    ($($name:ident: $file:literal,)*) => {
        const NAMES: &[&str] = &[$($file,)*];
        $(
            #[test]
            fn $name() {
                passes($file);
            }
        )*
    };
}

scenarios! {
    advanced_dtl: "advanced_dtl",
    automated_ha: "automated_ha",
    back_to_life: "back_to_life",
    disk_failures: "disk_failures",
    edge_reroute: "edge_reroute",
    enospc: "enospc",
    failover_monkey_business: "failover_monkey_business",
    full_site: "full-site",
    hung_disk: "hung_disk",
    journals_lost: "journals_lost",
    lease_outlives_quorum: "lease_outlives_quorum",
    lost_under_a_look: "lost_under_a_look",
    maintenance: "maintenance",
    migration_monkey_business: "migration_monkey_business",
    partial_download_bad_fragment: "partial_download_bad_fragment",
    quorum_lost: "quorum_lost",
    rebalance_node_spread: "rebalance_node_spread",
    rolling_restart: "rolling_restart",
    scrub_with_slave_out_to_lunch: "scrub_with_slave_out_to_lunch",
    site_loss: "site-loss",
    site_added: "site_added",
    site_and_nodes_away: "site_and_nodes_away",
    site_loss_under_rebuild: "site_loss_under_rebuild",
    slow_links: "slow-links",
    slow_disk: "slow_disk",
    split_brain_three_ways: "split_brain_three_ways",
    stealing_and_fencing: "stealing_and_fencing",
    theft_while_migrating: "theft_while_migrating",
    volume_larceny: "volume_larceny",
    witness_lost: "witness_lost",
    witness_one_left: "witness_one_left",
    witness_stalls: "witness_stalls",
    zombie_owner: "zombie_owner",
}

#[test]
fn every_scenario_that_ships_is_tested() {
    let stem = |p: &PathBuf| p.file_stem().map(|s| s.to_string_lossy().into_owned());
    let found: Vec<String> = files("scenarios").iter().filter_map(stem).collect();
    assert_eq!(found, NAMES);
}

/// Plans that a fault of the product or of the simulator made fail once.
#[test]
fn what_failed_once_passes() {
    for file in files("tests/regressions") {
        let report = run(&plan(&file), Options::default()).report;
        assert!(report.passed(), "{}: {}", file.display(), report.to_text());
    }
}
