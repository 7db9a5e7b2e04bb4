//! The simulator's command line: of `atoll sim` and of `cargo xtask sim`.

mod durability;
mod many;
mod one;
mod scale;

use std::io;
use std::path::PathBuf;

use actors::planted::Bug;
use clap::{Args, Subcommand};

use crate::campaign::Swarm;
use crate::durability::DurabilityError;
use crate::plan::{Outage, PlanError};
use crate::scale::SizeError;

pub use durability::DurabilityArgs;
pub use one::read;
pub use scale::ScaleArgs;

/// What to simulate; without a command, many seeds of the default swarm.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SimArgs {
    /// A command.
    #[command(subcommand)]
    pub command: Option<SimCommand>,
    /// Seeds.
    #[command(flatten)]
    pub many: ManyArgs,
}

/// What else there is.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum SimCommand {
    /// Run a scenario file, and report what happened.
    Run(RunArgs),
    /// Make a failing plan as small as it gets, and write it as a scenario file.
    Minimize(MinimizeArgs),
    /// Metadata and placement alone, payload elided, at the size of a hundred sites' disks.
    Scale(ScaleArgs),
    /// How likely data is to be lost within a year, and for how long it can't be read, for each code.
    Durability(DurabilityArgs),
    /// Print a seed's plan as a scenario file.
    Show {
        /// The seed.
        #[arg(long)]
        seed: u64,
    },
}

/// Which scenario to run, and how.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct RunArgs {
    /// The file (TOML).
    pub file: PathBuf,
    /// Another seed than the file's.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Run it twice, and compare every event.
    #[arg(long)]
    pub twice: bool,
    /// Show the last so many events.
    #[arg(long, value_name = "LINES")]
    pub trace: Option<usize>,
    /// A bug to plant.
    #[arg(long, value_name = "NAME", value_parser = bug_named, hide = !cfg!(feature = "planted"))]
    pub bug: Option<Bug>,
}

/// Which plan to make smaller.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct MinimizeArgs {
    /// A scenario file.
    #[arg(required_unless_present = "seed", conflicts_with = "seed")]
    pub file: Option<PathBuf>,
    /// A seed of the default swarm.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where to write it [default: minimized-NAME.toml].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write it to where the simulator's tests look for regressions (in a checkout of the source).
    #[arg(long, conflicts_with = "out")]
    pub as_test: bool,
    /// A bug to plant.
    #[arg(long, value_name = "NAME", value_parser = bug_named, hide = !cfg!(feature = "planted"))]
    pub bug: Option<Bug>,
    /// At most so many seconds of real time.
    #[arg(long, default_value_t = 300)]
    pub seconds: u64,
}

/// Seeds to run.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct ManyArgs {
    /// How many seeds [default: 200].
    #[arg(long, value_name = "N")]
    pub seeds: Option<u64>,
    /// The first.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub from: u64,
    /// Only this one.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub jobs: usize,
    /// Go on for so long (of real time), however many seeds that takes.
    #[arg(long, value_name = "HOURS", conflicts_with = "seeds")]
    pub hours: Option<f64>,
    /// End with the first seed that fails, however many that takes unless --seeds says so.
    #[arg(long)]
    pub until_failure: bool,
    /// Run every seed twice, and compare every event.
    #[arg(long)]
    pub twice: bool,
    /// Show the last so many events of one seed.
    #[arg(long, value_name = "LINES", requires = "seed")]
    pub trace: Option<usize>,
    /// The one thing that goes wrong, instead of the seeds' faults.
    #[arg(long, value_name = "NAME", value_parser = outage_named)]
    pub outage: Option<Outage>,
    /// Every seed on the default fabric, three sites of three nodes: what its speed is measured by.
    #[arg(long, conflicts_with_all = ["outage", "bug", "mutants"])]
    pub default_fabric: bool,
    /// A bug to plant.
    #[arg(long, value_name = "NAME", value_parser = bug_named, hide = !cfg!(feature = "planted"))]
    pub bug: Option<Bug>,
    /// Plant every bug, one after the other, until a seed shows it.
    #[arg(long, hide = !cfg!(feature = "planted"))]
    pub mutants: bool,
}

impl ManyArgs {
    fn swarm(&self) -> Swarm {
        match self.outage {
            Some(outage) => Swarm::Outage(outage),
            None if self.default_fabric => Swarm::DefaultFabric,
            None => Swarm::Drawn,
        }
    }
}

/// What was asked can't be done.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A scenario file.
    #[error("{path} is no scenario: {error}", path = .path.display())]
    Plan {
        /// Which.
        path: PathBuf,
        /// Why.
        error: PlanError,
    },
    /// A plan that can't be written.
    #[error(transparent)]
    Unwritable(PlanError),
    /// A fabric that can't be.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// A durability that can't be estimated.
    #[error(transparent)]
    Durability(#[from] DurabilityError),
    /// Nothing to make smaller.
    #[error("{0} does not fail: there is nothing to minimize")]
    Passes(String),
    /// No planted bugs.
    #[error("this build has no planted bugs: use `cargo xtask sim`")]
    NoBugs,
    /// No checkout.
    #[error("--as-test writes to {0}, which is not here: run it at the source's root")]
    NoSource(&'static str),
}

fn bug_named(name: &str) -> Result<Bug, String> {
    if !cfg!(feature = "planted") {
        return Err(CliError::NoBugs.to_string());
    }
    let known = Bug::ALL.iter().find(|(_, _, known)| *known == name);
    known
        .map(|(bug, _, _)| *bug)
        .ok_or(format!("'{name}' is no planted bug"))
}

fn outage_named(name: &str) -> Result<Outage, String> {
    let known = Outage::ALL.into_iter().find(|o| format!("{o:?}") == name);
    known.ok_or(format!("'{name}' is none of {:?}", Outage::ALL))
}

/// Does it; true if nothing was wrong.
///
/// # Errors
/// What can't be done.
pub fn go(args: &SimArgs, as_json: bool) -> Result<bool, CliError> {
    match &args.command {
        Some(SimCommand::Run(args)) => one::scenario(args, as_json),
        Some(SimCommand::Minimize(minimize)) => one::minimize(minimize, as_json),
        Some(SimCommand::Scale(args)) => scale::measure(args, as_json),
        Some(SimCommand::Durability(args)) => durability::measure(args, as_json),
        Some(SimCommand::Show { seed }) => one::show(*seed),
        None if args.many.mutants => many::mutants(&args.many, as_json),
        None => match args.many.seed {
            Some(seed) => Ok(one::seed(seed, &args.many, as_json)),
            None => Ok(many::seeds(&args.many, as_json)),
        },
    }
}

/// A machine's panic is a run's outcome, told with its seed; not a backtrace a time.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}
