//! One plan: a seed's or a scenario file's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{CliError, ManyArgs, MinimizeArgs, RunArgs, quiet_panics};
use crate::campaign::Swarm;
use crate::minimize::{self, Budget};
use crate::plan::Plan;
use crate::run::{Options, Outcome, differs, run};

/// Where the simulator's tests look for plans that failed once.
const REGRESSIONS: &str = "sim/tests/regressions";

pub(super) fn seed(seed: u64, args: &ManyArgs, as_json: bool) -> bool {
    let plan = args.swarm().plan(seed, args.bug);
    let options = Options {
        bug: args.bug,
        keep: args.trace.unwrap_or(0),
        count_wan: true,
    };
    if !args.twice && !as_json && args.trace.is_none() {
        quiet_panics();
    }
    report(&plan, options, args.twice, as_json)
}

pub(super) fn scenario(args: &RunArgs, as_json: bool) -> Result<bool, CliError> {
    let mut plan = read(&args.file)?;
    plan.seed = args.seed.unwrap_or(plan.seed);
    let options = Options {
        bug: args.bug,
        keep: args.trace.unwrap_or(0),
        count_wan: true,
    };
    quiet_panics();
    Ok(report(&plan, options, args.twice, as_json))
}

/// Reads a scenario file; without a name it gets its file's.
///
/// # Errors
/// What is wrong with it.
pub fn read(file: &Path) -> Result<Plan, CliError> {
    let text = fs::read_to_string(file).map_err(|error| CliError::File {
        path: file.to_owned(),
        error,
    })?;
    let mut plan = Plan::parse(&text).map_err(|error| CliError::Plan {
        path: file.to_owned(),
        error,
    })?;
    if plan.name.is_empty() {
        plan.name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
    }
    Ok(plan)
}

fn report(plan: &Plan, options: Options, twice: bool, as_json: bool) -> bool {
    let outcome = run(plan, options);
    for line in &outcome.tail {
        eprintln!("{line}");
    }
    tell(&outcome, as_json);
    if !twice {
        return outcome.failure.is_none();
    }
    match differs(plan, options, &outcome) {
        Some(at) => {
            eprintln!("not deterministic: {at}");
            false
        }
        None => {
            if !as_json {
                println!("twice the same {} events", outcome.events);
            }
            outcome.failure.is_none()
        }
    }
}

fn tell(outcome: &Outcome, as_json: bool) {
    if !as_json {
        println!("{}", outcome.report.to_text());
        return;
    }
    let mut value = outcome.report.to_json();
    value["events"] = json!(outcome.events);
    value["checked"] = json!(outcome.checked);
    value["sim_seconds"] = json!(outcome.simulated.as_secs_f64());
    println!("{value}");
}

pub(super) fn show(seed: u64) -> Result<bool, CliError> {
    print!(
        "{}",
        Plan::draw(seed).to_toml().map_err(CliError::Unwritable)?
    );
    Ok(true)
}

/// Exit status 0 means that it was made smaller: the plan that it wrote fails.
pub(super) fn minimize(args: &MinimizeArgs, as_json: bool) -> Result<bool, CliError> {
    if args.as_test && !Path::new(REGRESSIONS).is_dir() {
        return Err(CliError::NoSource(REGRESSIONS));
    }
    let plan = match (&args.file, args.seed) {
        (Some(file), _) => read(file)?,
        (None, seed) => Swarm::Drawn.plan(seed.unwrap_or_default(), args.bug),
    };
    quiet_panics();
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let options = Options {
        bug: args.bug,
        ..Options::default()
    };
    let budget = Budget {
        time: Duration::from_secs(args.seconds),
        ..Budget::default()
    };
    let small = minimize::minimize(&plan, options, budget, |size, runs| {
        bar.set_message(format!("{size} ({runs} runs)"));
        bar.tick();
    });
    bar.finish_and_clear();
    let mut small = small.ok_or_else(|| CliError::Passes(plan.name.clone()))?;
    small.plan.about = format!(
        "Minimized from {}. It failed so: {}",
        plan.name, small.failure
    );
    small.plan.name = format!("minimized-{}", plan.name);
    let file = format!("{}.toml", small.plan.name);
    let path = match &args.out {
        Some(out) => out.clone(),
        None if args.as_test => Path::new(REGRESSIONS).join(file),
        None => PathBuf::from(file),
    };
    let text = small.plan.to_toml().map_err(CliError::Unwritable)?;
    fs::write(&path, text).map_err(|error| CliError::File {
        path: path.clone(),
        error,
    })?;
    if as_json {
        println!(
            "{}",
            json!({
                "file": path, "failure": small.failure.to_string(), "runs": small.runs,
                "before": small.before.to_string(), "after": small.after.to_string(),
            })
        );
    } else {
        println!("before  {}\nafter   {}", small.before, small.after);
        println!("fails   {}", small.failure);
        println!(
            "written to {} after {} runs; replay it:",
            path.display(),
            small.runs
        );
        let bug = args
            .bug
            .map_or_else(String::new, |bug| format!(" --bug {}", bug.name()));
        println!("  atoll sim run {}{bug}", path.display());
    }
    Ok(true)
}
