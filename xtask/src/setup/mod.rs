//! Installs what is missing, and is quick when nothing is.

mod components;
mod packages;
mod rocksdb;

use std::process::{Command, Stdio};

use anyhow::bail;

use crate::command::Step;

/// Cargo's helpers; each is a crate and the program that it installs.
const CARGO_HELPERS: [&str; 2] = ["cargo-nextest", "cargo-deny"];

/// What exercises a file system at random, as helpers are: a crate and the program.
const FSX: &str = "fsx";

/// What building and running the fabric needs: Debian packages, RocksDB's library.
pub(crate) fn for_running() -> anyhow::Result<()> {
    packages::install()?;
    rocksdb::ensure()
}

/// What the tests and checks need beyond that: the toolchain's components, cargo's helpers.
pub(crate) fn for_testing() -> anyhow::Result<()> {
    for_running()?;
    components::install()?;
    CARGO_HELPERS.into_iter().try_for_each(cargo_install)
}

/// What the layer `long` needs beyond that.
pub(crate) fn for_long_tests() -> anyhow::Result<()> {
    cargo_install(FSX)
}

/// Installs a crate's program, unless it is there.
fn cargo_install(program: &str) -> anyhow::Result<()> {
    if is_there(program) {
        return Ok(());
    }
    Step::cargo(&format!("installing {program}"))
        .args(["install", "--locked", program])
        .run()
}

/// Whether nothing of that is missing; installs nothing.
pub(crate) fn is_complete() -> anyhow::Result<()> {
    let mut missing: Vec<&str> = packages::missing()?;
    missing.extend(components::missing());
    missing.extend(
        CARGO_HELPERS
            .into_iter()
            .filter(|program| !is_there(program)),
    );
    if !rocksdb::is_built()? {
        missing.push("RocksDB's library");
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "missing: {}; `cargo xtask setup` installs what is",
        missing.join(", ")
    )
}

/// Whether the program can be started.
fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}
