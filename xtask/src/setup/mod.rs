//! Installs what is missing, and is quick when nothing is.

mod packages;
mod rocksdb;

use std::process::{Command, Stdio};

use crate::command::Step;

/// Cargo's helpers; each is a crate and the program that it installs.
const CARGO_HELPERS: [&str; 2] = ["cargo-nextest", "cargo-deny"];

/// What building and running the fabric needs: Debian packages, RocksDB's library.
pub(crate) fn for_running() -> anyhow::Result<()> {
    packages::install()?;
    rocksdb::ensure()
}

/// What the tests and checks need beyond that: cargo's helpers.
pub(crate) fn for_testing() -> anyhow::Result<()> {
    for_running()?;
    for program in CARGO_HELPERS {
        if !is_there(program) {
            Step::cargo(&format!("installing {program}"))
                .args(["install", "--locked", program])
                .run()?;
        }
    }
    Ok(())
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
