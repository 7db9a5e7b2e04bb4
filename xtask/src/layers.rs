//! `cargo xtask test`: layers of tests, cheapest first. Every test is in exactly one layer; the
//! last one takes long, and is run only if it is named.

use std::time::Instant;

use anyhow::Context;
use clap::ValueEnum;

use crate::command::{Step, paint};
use crate::{setup, soak, verify};

/// Deaths in the real layer, of a site and of an owner alone; `cargo xtask soak` goes on longer.
const SOAK_ROUNDS: u32 = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this layer; repeat it for more.
    #[arg(long = "layer", value_enum)]
    layers: Vec<Layer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// Format, lints, licenses, purity, directions.
    Verify,
    /// Tests inside crates, and examples in docs.
    Unit,
    /// Properties and scenarios of one crate, from outside; decoders are fed with mutated bytes.
    Property,
    /// Every crash point of the disk's files.
    Crash,
    /// Whole fabrics on virtual time.
    Sim,
    /// Real processes, real clients.
    Real,
    /// Those that take longer than a change may wait; only if it is named.
    Long,
}

/// What [`Layer::Long`] asks of nextest: the tests that say `#[ignore = "long: ..."]`, one at a
/// time, since some of them measure.
const LONG: [&str; 4] = ["--run-ignored", "only", "--test-threads", "1"];

impl Layer {
    /// The layer's tests in nextest's language; together they are all, apart they overlap not: what
    /// is ignored is [`Layer::Long`]'s, and only that.
    fn filter(self) -> Option<&'static str> {
        match self {
            Self::Verify => None,
            Self::Unit => Some("not kind(test)"),
            Self::Property => Some(
                "kind(test) and not package(atoll-node) and not (package(atoll-disk-store) and binary(/crash/))",
            ),
            Self::Crash => Some("package(atoll-disk-store) and kind(test) and binary(/crash/)"),
            Self::Sim => Some("package(atoll-sim)"),
            Self::Real | Self::Long => Some("package(atoll-node) and kind(test)"),
        }
    }

    /// Whether it runs when no layer is named.
    fn is_usual(self) -> bool {
        self != Self::Long
    }

    fn run(self) -> anyhow::Result<()> {
        let Some(filter) = self.filter() else {
            return verify::run();
        };
        match self {
            Self::Real => build()?,
            Self::Long => {
                setup::for_long_tests()?;
                build()?;
            }
            _ => {}
        }
        let name = format!("tests: {}", self.name());
        let args = [
            "nextest",
            "run",
            "--release",
            "--cargo-quiet",
            "--status-level",
            "fail",
        ];
        let [product, simulator] = verify::HALVES;
        let packages = if self == Self::Sim {
            simulator
        } else {
            product
        };
        Step::cargo(&name)
            .args(args)
            .args(packages)
            .args(["--filterset", filter])
            .args(if self == Self::Long { &LONG[..] } else { &[] })
            .run()?;
        if matches!(self, Self::Unit | Self::Sim) {
            Step::cargo(&format!("{name}, examples in docs"))
                .args(["test", "--release", "--quiet", "--doc"])
                .args(packages)
                .run()?;
        }
        if self == Self::Sim {
            let seeds = NEW_SEEDS;
            new_seeds(&NewSeeds { seeds })?;
        }
        if self == Self::Real {
            soak::run(&soak::Args::rounds(SOAK_ROUNDS))?;
        }
        Ok(())
    }

    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// What [`new_seeds`] is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct NewSeeds {
    /// How many; so many as the tests run.
    #[arg(long, value_name = "N", default_value_t = NEW_SEEDS)]
    seeds: u32,
}

/// So many new seeds are run with the tests: less than a minute.
const NEW_SEEDS: u32 = 256;

/// Seeds that no other state of the source ran: the first one is the tree's own, so that who
/// tries it again, or after a rebase, meets the same.
///
/// # Errors
/// If one of them fails.
pub(crate) fn new_seeds(args: &NewSeeds) -> anyhow::Result<()> {
    let tree = Step::new("the tree", "git").args(["rev-parse", "HEAD^{tree}"]);
    // Without history it is as if it were the first.
    let from = first_seed(tree.output().unwrap_or_default().trim()).to_string();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    Step::cargo("new seeds")
        .args([
            "run",
            "--release",
            "--quiet",
            "--package",
            "atoll-sim",
            "--",
        ])
        .args(["--from", &from, "--seeds", &args.seeds.to_string()])
        .args(["--jobs", &jobs.to_string()])
        .run()
        .with_context(|| format!("{} new seeds, from {from} on", args.seeds))
}

/// A tree's first seed: far from the small ones that tests name, and from those of others.
fn first_seed(tree: &str) -> u64 {
    let digits = tree.get(..12).unwrap_or(tree);
    (u64::from_str_radix(digits, 16).unwrap_or(0) + 1) << 12
}

/// Builds `target/release/atoll`.
pub(crate) fn build() -> anyhow::Result<()> {
    Step::cargo("building atoll")
        .args(["build", "--release", "--quiet", "--package", "atoll-node"])
        .run()
}

/// Runs the layers, and ends with one line that says so.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    setup::for_testing()?;
    let mut layers = args.layers.clone();
    if layers.is_empty() {
        layers.extend(Layer::value_variants().iter().filter(|l| l.is_usual()));
    }
    for layer in &layers {
        layer
            .run()
            .with_context(|| format!("run it alone: cargo xtask test --layer {}", layer.name()))?;
    }
    let names: Vec<String> = layers.iter().map(|layer| layer.name()).collect();
    let took = started.elapsed().as_secs();
    println!(
        "\n{} in {took} s: {}",
        paint("32;1", "all tests passed"),
        names.join(", ")
    );
    Ok(())
}
