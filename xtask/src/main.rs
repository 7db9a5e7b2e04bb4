//! One command surface: `cargo xtask`.
//!
//! **Invariant:** nothing here depends on a crate of the fabric or on RocksDB: it builds in
//! seconds on a bare machine, and it sees the fabric as any client does.

mod bench;
mod command;
mod demo;
mod fabric;
mod fix;
mod fuzz;
mod history;
mod layers;
mod nbd;
mod resilience;
mod round;
mod setup;
mod soak;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::command::Step;

/// Atoll's tasks.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show it: three sites as real processes, one of them killed, nothing lost.
    Demo(demo::Args),
    /// Run every test, cheapest layer first; installs what is missing before.
    Test(layers::Args),
    /// Check format, lints, licenses, purity and directions of crates; changes nothing.
    Verify,
    /// Format, and apply what clippy can fix by itself.
    Fix,
    /// Kill sites for many rounds, and count what was lost.
    Soak(soak::Args),
    /// Run the simulator on seeds that are new with every state of the source.
    NewSeeds(layers::NewSeeds),
    /// Run the simulator; arguments go to it, such as --seed 7.
    Sim {
        /// For the simulator.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Feed every decoder of hostile bytes with mutated inputs, for longer than `test` does.
    Fuzz(fuzz::Args),
    /// Measure, beside qemu-nbd and nbdkit in the same run.
    Bench(bench::Args),
    /// Run every drill again and again, and say what it came to.
    Resilience(resilience::Args),
    /// Only install what is missing: packages, cargo's helpers, RocksDB's library.
    Setup,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => layers::run(&args),
        Task::Verify => setup::is_complete().and_then(|()| verify::run()),
        Task::Fix => fix::run(),
        Task::Soak(args) => soak::run(&args),
        Task::NewSeeds(args) => layers::new_seeds(&args),
        Task::Sim { arguments } => simulate(arguments),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Resilience(args) => resilience::run(&args),
        Task::Setup => setup::for_testing(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n\u{1b}[31merror:\u{1b}[0m {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The simulator is a library with a small program beside it; no RocksDB is needed for it. It is
/// built for speed, in a profile of its own.
fn simulate(arguments: Vec<OsString>) -> anyhow::Result<()> {
    let step = Step::cargo("simulator").args([
        "run",
        "--profile",
        "sim",
        "--quiet",
        "--package",
        "atoll-sim",
        "--",
    ]);
    step.args(arguments).run()
}
