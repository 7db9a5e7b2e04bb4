//! `cargo xtask sim`: the simulator alone, with planted bugs and without RocksDB.

use std::process::ExitCode;

use clap::Parser;
use sim::cli::{SimArgs, go};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whole fabrics on virtual time, under faults.
#[derive(Debug, Parser)]
#[command(name = "sim", bin_name = "cargo xtask sim")]
struct Cli {
    #[command(flatten)]
    args: SimArgs,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match go(&cli.args, cli.json) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
