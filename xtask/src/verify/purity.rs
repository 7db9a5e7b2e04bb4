//! The cores pull in no runtime, and the product has none of the simulator's switches: asked a
//! crate at a time, because building the workspace at once unifies features and hides leaks.

use anyhow::bail;

use crate::command::Step;

/// Crates whose default features are pure.
const CORES: [&str; 9] = [
    "model",
    "coding",
    "raft-meta",
    "transport",
    "disk-store",
    "actors",
    "nbd-frontend",
    "iscsi-frontend",
    "sim",
];

/// What none of them may reach.
const BANNED: [&str; 9] = [
    "tokio",
    "actix",
    "actix-rt",
    "quinn",
    "rocksdb",
    "librocksdb-sys",
    "rustls",
    "mio",
    "socket2",
];

/// The product, as it is built.
const PRODUCT: &str = "atoll-node";

/// Features of ours that only the simulator's own program and tests turn on: bugs that can be
/// planted, counters that only it reads.
const SIMULATOR_FEATURES: [&str; 2] = ["planted", "sometimes"];

/// Checks every core, and the product.
pub(crate) fn check() -> anyhow::Result<()> {
    cores()?;
    product()
}

fn product() -> anyhow::Result<()> {
    let args = [
        "tree",
        "--package",
        PRODUCT,
        "--all-features",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p} [{f}]",
    ];
    let tree = Step::cargo("cargo tree").args(args).output()?;
    let switches = switches_in(&tree);
    if switches.is_empty() {
        return Ok(());
    }
    bail!(
        "{PRODUCT} is built with what is for the simulator alone:\n  {}",
        switches.join("\n  ")
    );
}

/// Crates of ours in the tree with a feature that is for the simulator alone.
fn switches_in(tree: &str) -> Vec<String> {
    let features = |line: &str| {
        let (_, of) = line.rsplit_once('[')?;
        Some(of.split(']').next()?.to_owned())
    };
    let switched = |line: &&str| {
        let of = features(line).unwrap_or_default();
        line.starts_with("atoll-") && of.split(',').any(|f| SIMULATOR_FEATURES.contains(&f))
    };
    let mut found: Vec<String> = tree.lines().filter(switched).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

fn cores() -> anyhow::Result<()> {
    let mut leaks = Vec::new();
    for core in CORES {
        let package = format!("atoll-{core}");
        let args = [
            "tree",
            "--package",
            &package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ];
        let tree = Step::cargo("cargo tree").args(args).output()?;
        leaks.extend(banned_in(&tree).into_iter().map(|name| {
            format!("{package} reaches {name}; see: cargo tree -p {package} -e normal -i {name}")
        }));
    }
    if leaks.is_empty() {
        return Ok(());
    }
    bail!("cores are not pure:\n  {}", leaks.join("\n  "));
}

fn banned_in(tree: &str) -> Vec<&'static str> {
    let has = |name: &&str| {
        tree.lines()
            .any(|line| line.split(' ').next() == Some(name))
    };
    BANNED.into_iter().filter(has).collect()
}

#[cfg(test)]
mod tests {
    use super::{banned_in, switches_in};

    #[test]
    fn a_planted_bug_in_the_product_is_seen() {
        let clean = "atoll-node v0.1.0 (/x) [default,sim]\natoll-actors v0.1.0 (/x) [runtime] (*)\nplanted v1.0.0 [planted]\n";
        assert!(switches_in(clean).is_empty());
        let planted =
            "atoll-actors v0.1.0 (/x) [planted,runtime] (*)\natoll-model v0.1.0 (/x) [sometimes]\n";
        assert_eq!(switches_in(planted).len(), 2);
    }

    #[test]
    fn a_leak_is_seen_and_a_namesake_is_not() {
        let clean = "atoll-model v0.1.0 (/x)\ntokio-util-lookalike v1.0.0\nbytes v1.12.0\n";
        assert!(banned_in(clean).is_empty());
        let leaking = "atoll-model v0.1.0 (/x)\ntokio v1.54.0\n";
        assert_eq!(banned_in(leaking), ["tokio"]);
    }
}
