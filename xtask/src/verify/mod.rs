//! Checks that only read: format, lints, licenses, purity, directions.

mod direction;
mod purity;

use std::time::Instant;

use crate::command::{Step, done, heading};

/// Every check; the first that fails ends it.
pub(crate) fn run() -> anyhow::Result<()> {
    Step::cargo("format")
        .args(["fmt", "--all", "--check"])
        .run()?;
    own("directions: which crate may import which", direction::check)?;
    own(
        "purity: no runtime and no RocksDB in the cores, no planted bugs in the product",
        purity::check,
    )?;
    Step::cargo("bans, licenses, sources")
        .args([
            "deny",
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ])
        .run()?;
    for packages in HALVES {
        // The release profile, as everywhere: build scripts and macros compile once.
        Step::cargo("lints")
            .args(["clippy", "--release", "--quiet"])
            .args(packages)
            .args(["--all-targets", "--", "-D", "warnings"])
            .run()?;
    }
    Ok(())
}

/// The product and the simulator are built apart: together, cargo would unify their features,
/// and the product's binary would have the simulator's planted bugs.
pub(crate) const HALVES: [&[&str]; 2] = [
    &["--workspace", "--exclude", "atoll-sim"],
    &["--package", "atoll-sim"],
];

fn own(name: &str, check: fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    heading(name);
    let started = Instant::now();
    check()?;
    done(name, started);
    Ok(())
}
