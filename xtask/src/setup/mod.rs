//! Installs what is missing, and is quick when nothing is.

mod packages;
mod rocksdb;

use std::process::{Command, Stdio};

use crate::command::Step;

/// Cargo's helpers, by the program that shows that they are there.
const CARGO_HELPERS: [(&str, &str); 2] = [("cargo-nextest", "cargo-nextest"), ("cargo-deny", "cargo-deny")];

/// Debian packages, cargo's helpers, RocksDB's library.
pub(crate) fn run() -> anyhow::Result<()> {
    packages::install()?;
    for (program, name) in CARGO_HELPERS {
        if !is_there(program) {
            Step::cargo(&format!("installing {name}")).args(["install", "--locked", name]).run()?;
        }
    }
    rocksdb::ensure()
}

fn is_there(program: &str) -> bool {
    let quiet = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    // nextest calls itself as a cargo command and wants its own name first.
    quiet.is_ok()
}
