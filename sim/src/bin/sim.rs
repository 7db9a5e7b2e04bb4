//! Runs seeds of the simulator: `sim --seeds N [--from S] [--twice] [--json]`, `sim --seed S
//! [--trace LINES] [--bug NAME]`, `sim --mutants`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use actors::planted::Bug;
use sim::run::{Outage, Outcome, RunConfig, differs, run};

struct Args {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    mutants: bool,
    bug: Option<Bug>,
    twice: bool,
    json: bool,
    trace: usize,
    outage: Option<Outage>,
}

const USAGE: &str = "There are --seeds N, --from S, --seed S, --trace LINES, --twice, \
                     --mutants, --bug NAME, --outage NAME, --json";

fn bug_named(name: &str) -> Result<Bug, String> {
    let known = Bug::ALL.iter().find(|(_, _, known)| *known == name);
    known
        .map(|(bug, _, _)| *bug)
        .ok_or(format!("'{name}' is no planted bug"))
}

fn outage_named(name: &str) -> Result<Outage, String> {
    let known = Outage::ALL.into_iter().find(|o| format!("{o:?}") == name);
    known.ok_or(format!("'{name}' is none of {:?}", Outage::ALL))
}

fn args() -> Result<Args, String> {
    let mut args = Args {
        seeds: 200,
        from: 1,
        seed: None,
        mutants: false,
        bug: None,
        twice: false,
        json: false,
        trace: 0,
        outage: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut next = || words.next().ok_or(format!("{word} needs a value"));
        let mut number = || {
            let word = next()?;
            word.parse::<u64>()
                .map_err(|_| format!("'{word}' is no number"))
        };
        match word.as_str() {
            "--seeds" => args.seeds = number()?,
            "--from" => args.from = number()?,
            "--seed" => args.seed = Some(number()?),
            "--trace" => args.trace = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--mutants" => args.mutants = true,
            "--bug" => args.bug = Some(bug_named(&next()?)?),
            "--twice" => args.twice = true,
            "--outage" => args.outage = Some(outage_named(&next()?)?),
            "--json" => args.json = true,
            _ => return Err(format!("'{word}'? {USAGE}")),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("sim: {error}");
            return ExitCode::from(2);
        }
    };
    // A machine's panic is a run's outcome, told with its seed; not a backtrace a time.
    if args.seed.is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    if args.mutants {
        mutants(&args)
    } else if let Some(seed) = args.seed {
        one(seed, &args)
    } else {
        many(&args)
    }
}

fn one(seed: u64, args: &Args) -> ExitCode {
    let config = RunConfig {
        seed,
        bug: args.bug,
        outage: args.outage,
        keep: args.trace,
    };
    let outcome = run(config);
    for line in &outcome.tail {
        eprintln!("{line}");
    }
    for fault in &outcome.faults {
        eprintln!("fault {} to {}: {:?}", fault.at, fault.until, fault.fault);
    }
    report(seed, &outcome, args.json);
    if args.twice && !is_repeated(config, &outcome) {
        return ExitCode::FAILURE;
    }
    if outcome.failure.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn report(seed: u64, outcome: &Outcome, json: bool) {
    let failure = outcome.failure.as_ref().map(ToString::to_string);
    if json {
        let value = serde_json::json!({
            "seed": seed, "trace_hash": format!("{:016x}", outcome.trace_hash), "failure": failure,
            "events": outcome.events, "operations": outcome.operations, "checked": outcome.checked,
            "sim_seconds": outcome.simulated.as_secs_f64(),
        });
        println!("{value}");
    } else {
        println!(
            "seed {seed}: {} ({} operations, {} sector reads checked, {} events, {:.1} s simulated, trace {:016x})",
            failure.as_deref().unwrap_or("passed"),
            outcome.operations,
            outcome.checked,
            outcome.events,
            outcome.simulated.as_secs_f64(),
            outcome.trace_hash,
        );
    }
}

/// Runs a seed again; tells the first event that differs, if one does.
fn is_repeated(config: RunConfig, first: &Outcome) -> bool {
    let Some(at) = differs(config, first) else {
        return true;
    };
    eprintln!("seed {} is not deterministic: {at}", config.seed);
    false
}

#[allow(clippy::disallowed_methods)] // Tells how fast it ran; no run sees it.
fn many(args: &Args) -> ExitCode {
    let started = Instant::now();
    let (mut failed, mut simulated, mut events) = (Vec::new(), 0.0, 0);
    for seed in args.from..args.from + args.seeds {
        let config = RunConfig {
            seed,
            bug: args.bug,
            outage: args.outage,
            keep: 0,
        };
        let outcome = run(config);
        if args.twice && !is_repeated(config, &outcome) {
            failed.push(seed);
            continue;
        }
        simulated += outcome.simulated.as_secs_f64();
        events += outcome.events;
        if let Some(failure) = &outcome.failure {
            eprintln!("seed {seed} FAILED: {failure}\n  replay: cargo xtask sim --seed {seed}");
            failed.push(seed);
        }
        let done = seed - args.from + 1;
        if !args.json && (done.is_multiple_of(20) || done == args.seeds) {
            eprint!("\r{done} of {} seeds, {} failed", args.seeds, failed.len());
            let _ = std::io::stderr().flush();
        }
    }
    let wall = started.elapsed().as_secs_f64();
    if !args.json {
        eprintln!();
    }
    let value = serde_json::json!({
        "seeds": args.seeds, "failed": failed, "sim_hours": simulated / 3600.0,
        "speedup": simulated / wall.max(1e-9), "events": events,
    });
    println!("{value}");
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn mutants(args: &Args) -> ExitCode {
    let mut rows = Vec::new();
    let mut escaped = 0;
    for (bug, rule, name) in Bug::ALL {
        let mut caught = None;
        for seed in args.from..args.from + args.seeds {
            let outcome = run(RunConfig {
                seed,
                bug: Some(bug),
                outage: None,
                keep: 0,
            });
            if outcome.failure.is_some() {
                caught = Some((seed - args.from + 1, outcome.failure));
                break;
            }
        }
        escaped += u64::from(caught.is_none());
        let (seeds, how) = match &caught {
            Some((seeds, how)) => (*seeds, how.as_ref().map(ToString::to_string)),
            None => (args.seeds, None),
        };
        if !args.json {
            let verdict = if caught.is_some() {
                "caught"
            } else {
                "ESCAPED"
            };
            eprintln!(
                "{rule:>4} {name:<16} {verdict} in {seeds} seeds: {}",
                how.clone().unwrap_or_default()
            );
        }
        rows.push(serde_json::json!({
            "rule": rule, "name": name, "caught": caught.is_some(), "seeds": seeds, "how": how,
        }));
    }
    println!("{}", serde_json::Value::from(rows));
    if escaped == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
