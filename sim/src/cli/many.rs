//! Many seeds, and planted bugs.

use std::time::Duration;

use actors::planted::Bug;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{CliError, ManyArgs, quiet_panics};
use crate::campaign::{Campaign, Summary, Swarm, catch};

const SEEDS: u64 = 200;

/// Each planted bug must show within so many.
const SEEDS_FOR_BUGS: u64 = 500;

pub(super) fn seeds(args: &ManyArgs, as_json: bool) -> bool {
    quiet_panics();
    let endless = args.hours.is_some() || args.until_failure;
    let seeds = args.seeds.or((!endless).then_some(SEEDS));
    let hours = |h: f64| Duration::try_from_secs_f64(h * 3600.0).unwrap_or(Duration::MAX);
    let campaign = Campaign {
        from: args.from,
        seeds,
        jobs: args.jobs,
        time: args.hours.map(hours),
        until_failure: args.until_failure,
        twice: args.twice,
        bug: args.bug,
        swarm: args.swarm(),
    };
    let bar = bar(&campaign);
    let summary = campaign.go(|seed, all| {
        if let Some(fault) = all.failed.get(&seed) {
            let swarm = campaign.swarm;
            let bug = campaign
                .bug
                .map_or_else(String::new, |bug| format!(" --bug {}", bug.name()));
            let mut line = format!(
                "seed {seed} FAILED: {fault}\n  replay: cargo xtask sim --seed {seed}{swarm}{bug}"
            );
            if swarm == Swarm::Drawn {
                line += &format!("\n  minimize: cargo xtask sim minimize --seed {seed}{bug}");
            }
            bar.suspend(|| eprintln!("{line}"));
        }
        bar.set_message(format!(
            "{} failed, {:.0} x real time",
            all.failed.len(),
            all.speedup()
        ));
        match campaign.seeds {
            Some(_) => bar.set_position(all.seeds),
            None => bar.set_position(all.wall.as_secs()),
        }
    });
    bar.finish_and_clear();
    if !as_json {
        tell(&summary);
    }
    println!("{}", contract(&summary));
    summary.failed.is_empty()
}

fn bar(campaign: &Campaign) -> ProgressBar {
    let (length, template) = match (campaign.seeds, campaign.time) {
        (Some(seeds), _) => (
            Some(seeds),
            "{bar:30.cyan/dim} {pos}/{len} seeds, {msg}, {eta} left",
        ),
        (None, Some(time)) => (Some(time.as_secs()), "{bar:30.cyan/dim} {msg}, {eta} left"),
        (None, None) => (None, "{spinner} {msg}, {elapsed}"),
    };
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::new_spinner(),
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The line that programs read.
fn contract(summary: &Summary) -> Value {
    let failed: Vec<u64> = summary.failed.keys().copied().collect();
    json!({
        "seeds": summary.seeds,
        "failed": failed,
        "sim_hours": summary.simulated.as_secs_f64() / 3600.0,
        "speedup": summary.speedup(),
        "events": summary.events,
    })
}

/// What people read.
fn tell(summary: &Summary) {
    let wall = summary.wall.as_secs_f64().max(1e-9);
    let hours = summary.simulated.as_secs_f64() / 3600.0;
    eprintln!(
        "{} seeds, {} failed; {hours:.2} hours simulated in {wall:.1} s: {:.3} hours a second ({:.0} x real time), {:.0} events a second",
        summary.seeds,
        summary.failed.len(),
        hours / wall,
        summary.speedup(),
        summary.events as f64 / wall,
    );
    if summary.reached.is_empty() {
        return;
    }
    eprintln!("interesting states, and how often they were reached:");
    for (state, count) in &summary.reached {
        let mark = if *count == 0 { "  <- never" } else { "" };
        eprintln!("  {count:>9}  {}{mark}", state.name());
    }
}

pub(super) fn mutants(args: &ManyArgs, as_json: bool) -> Result<bool, CliError> {
    if !cfg!(feature = "planted") {
        return Err(CliError::NoBugs);
    }
    quiet_panics();
    let mut rows = Vec::new();
    let mut escaped = 0;
    let seeds = args.seeds.unwrap_or(SEEDS_FOR_BUGS);
    for (bug, rule, name) in Bug::ALL {
        let caught = catch(bug, args.from, seeds, args.jobs);
        let how = caught.by.as_ref().map(|(_, fault)| fault.to_string());
        escaped += u64::from(caught.by.is_none());
        if !as_json {
            let verdict = if caught.by.is_some() {
                "caught"
            } else {
                "ESCAPED"
            };
            eprintln!(
                "{rule:>6} {name:<16} {verdict} in {} seeds: {}",
                caught.seeds,
                how.clone().unwrap_or_default()
            );
        }
        rows.push(json!({
            "rule": rule,
            "name": name,
            "caught": caught.by.is_some(),
            "seeds": caught.seeds,
            "how": how,
        }));
    }
    println!("{}", Value::from(rows));
    Ok(escaped == 0)
}
