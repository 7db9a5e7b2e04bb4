//! Clients that others made, as the tests run them: bounded in time, and gone when the test is,
//! whatever ends that.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::dev_fabric::DevFabric;

/// Longer than any client of the usual layer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory on a real disk: the temporary one may be memory.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Where a node serves a volume.
pub(crate) fn uri(fabric: &DevFabric, node: &str, volume: &str) -> String {
    format!("nbd://{}/{volume}", fabric.address(node))
}

/// A client that is stopped after so long, or when the test's thread ends.
pub(crate) fn bounded(patience: Duration, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "timeout", "--kill-after=5"])
        .arg(patience.as_secs().to_string())
        .arg(program)
        .args(arguments)
        .env("LC_ALL", "C");
    command
}

/// What comes of a client that is given so long.
pub(crate) fn output(patience: Duration, program: &str, arguments: &[&str]) -> Output {
    bounded(patience, program, arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What a client says that must succeed within so long.
pub(crate) fn run_within(patience: Duration, program: &str, arguments: &[&str]) -> String {
    let output = output(patience, program, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {}: {} ({} s are a timeout, or it is not installed if that is 127)\n{said}{}",
        arguments.join(" "),
        output.status,
        patience.as_secs(),
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// What a client says that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    run_within(PATIENCE, program, arguments)
}

/// What a client says to programs.
pub(crate) fn json(program: &str, arguments: &[&str]) -> serde_json::Value {
    let said = run(program, arguments);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{program}: {error}: {said}"))
}

/// Bytes that nobody compresses, other ones for each seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    let mut noise = vec![0; bytes];
    for word in noise.chunks_mut(8) {
        word.copy_from_slice(&chance.next().to_le_bytes()[..word.len()]);
    }
    noise
}

/// Numbers that a seed decides (splitmix64).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of 0 to `below`, without it.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }
}
