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
        "purity: no runtime and no RocksDB in the cores",
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
    // The release profile, as everywhere: build scripts and macros compile once.
    let clippy = [
        "clippy",
        "--release",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    Step::cargo("lints").args(clippy).run()
}

fn own(name: &str, check: fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    heading(name);
    let started = Instant::now();
    check()?;
    done(name, started);
    Ok(())
}
