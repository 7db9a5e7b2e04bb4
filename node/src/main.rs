//! The `atoll` binary: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::cli::main()
}
