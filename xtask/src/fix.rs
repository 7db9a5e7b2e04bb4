//! The checks' writing half.

use crate::command::Step;
use crate::setup;

/// Applies what clippy can fix by itself, then formats.
pub(crate) fn run() -> anyhow::Result<()> {
    setup::for_running()?;
    let clippy = [
        "clippy",
        "--release",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ];
    Step::cargo("clippy --fix").args(clippy).run()?;
    Step::cargo("format").args(["fmt", "--all"]).run()
}
