//! `cargo xtask resilience`: every drill again and again, and what it came to: the figures of
//! `docs/resilience.md`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use crate::command::root;
use crate::fabric::{Fabric, fresh_directory, given_program, program};
use crate::{layers, setup};

/// The drill that needs a fabric of small disks.
const FULL_DISK: &str = "full-disk";

/// What `full-disk` runs on: it is filled in some seconds.
const SMALL: [&str; 6] = ["--nodes", "1", "--disks", "1", "--disk-size", "256MiB"];

/// What all others run on.
const USUAL: [&str; 2] = ["--wan-rtt", "2ms"];

/// Whole again, before the next drill begins.
const HEAL_MAX: Duration = Duration::from_secs(300);

/// The page that has the table.
const PAGE: &str = "docs/resilience.md";
const BEGIN: &str = "<!-- made by cargo xtask resilience: begin -->\n";
const END: &str = "<!-- made by cargo xtask resilience: end -->";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each drill runs. With ATOLL_PROGRAM=PATH another build than that of this tree.
    #[arg(long, default_value_t = 20)]
    runs: u32,
    /// Only these drills, by name.
    #[arg(long, value_name = "DRILL")]
    only: Vec<String>,
    /// Put the table into docs/resilience.md: of all drills.
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What one run came to.
#[derive(Debug)]
struct Run {
    passed: bool,
    /// What was expected and did not come.
    missed: Vec<String>,
    rto_ms: Option<u64>,
    protected_ms: Option<u64>,
    ratio: Option<f64>,
    verified_bytes: u64,
    lost_bytes: u64,
    wan_repair_bytes: Option<u64>,
}

impl Run {
    /// One without a report.
    fn broken(error: &anyhow::Error) -> Self {
        Self {
            passed: false,
            missed: vec![format!("{error:#}")],
            rto_ms: None,
            protected_ms: None,
            ratio: None,
            verified_bytes: 0,
            lost_bytes: 0,
            wan_repair_bytes: None,
        }
    }

    fn of(told: &Value) -> Self {
        let expectations = told["expectations"].as_array();
        let missed = expectations.into_iter().flatten();
        let missed = missed.filter(|e| e["judged"] == true && e["met"] == false);
        let words = |e: &Value| {
            let (what, found) = (e["what"].as_str(), e["found"].as_str());
            format!("{}: {}", what.unwrap_or("?"), found.unwrap_or("?"))
        };
        Self {
            passed: told["verdict"] == "pass",
            missed: missed.map(words).collect(),
            rto_ms: told["rto_ms"].as_u64(),
            protected_ms: told["full_protection_ms"].as_u64(),
            ratio: told["client_throughput_ratio"].as_f64(),
            verified_bytes: told["bytes_verified"].as_u64().unwrap_or(0),
            lost_bytes: told["bytes_lost"].as_u64().unwrap_or(0),
            wan_repair_bytes: told["wan_repair_bytes"].as_u64(),
        }
    }
}

/// What all runs of a drill came to.
#[derive(Debug, Serialize)]
struct Row {
    drill: String,
    runs: usize,
    passed: usize,
    rto_ms_median: Option<u64>,
    rto_ms_max: Option<u64>,
    protected_ms_median: Option<u64>,
    protected_ms_max: Option<u64>,
    ratio_median: Option<f64>,
    ratio_min: Option<f64>,
    wan_repair_bytes_median: Option<u64>,
    verified_bytes: u64,
    lost_bytes: u64,
    /// Of the runs that failed, what did not come.
    missed: Vec<String>,
}

impl Row {
    fn of(drill: &str, runs: &[Run]) -> Self {
        let rto = sorted(runs.iter().filter_map(|run| run.rto_ms));
        let protected = sorted(runs.iter().filter_map(|run| run.protected_ms));
        let crossed = sorted(runs.iter().filter_map(|run| run.wan_repair_bytes));
        let mut ratios: Vec<f64> = runs.iter().filter_map(|run| run.ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let numbered = runs.iter().enumerate();
        let missed = numbered.flat_map(|(n, run)| {
            let words = run.missed.iter();
            words.map(move |what| format!("run {}: {what}", n + 1))
        });
        Self {
            drill: drill.to_owned(),
            runs: runs.len(),
            passed: runs.iter().filter(|run| run.passed).count(),
            rto_ms_median: middle(&rto),
            rto_ms_max: rto.last().copied(),
            protected_ms_median: middle(&protected),
            protected_ms_max: protected.last().copied(),
            ratio_median: middle(&ratios),
            ratio_min: ratios.first().copied(),
            wan_repair_bytes_median: middle(&crossed),
            verified_bytes: runs.iter().map(|run| run.verified_bytes).sum(),
            lost_bytes: runs.iter().map(|run| run.lost_bytes).sum(),
            missed: missed.collect(),
        }
    }

    fn line(&self) -> String {
        format!(
            "| `{}` | {} of {} | {} / {} | {} / {} | {} / {} | {} | {} MiB | {} |",
            self.drill,
            self.passed,
            self.runs,
            seconds(self.rto_ms_median),
            seconds(self.rto_ms_max),
            seconds(self.protected_ms_median),
            seconds(self.protected_ms_max),
            plain(self.ratio_median),
            plain(self.ratio_min),
            self.wan_repair_bytes_median
                .map_or_else(|| "-".to_owned(), |b| format!("{:.1} MiB", mib(b))),
            self.verified_bytes >> 20,
            self.lost_bytes,
        )
    }
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values
}

/// The median, the lower one of two.
fn middle<T: Copy>(sorted: &[T]) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[last / 2])
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.2} s", ms as f64 / 1e3))
}

fn plain(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::for_running()?;
    if given_program().is_none() {
        layers::build()?;
    }
    let mut usual = Fabric::start(fresh_directory("resilience-1"), &USUAL)?;
    let drills = drills(&usual, &args.only)?;
    let bar = ProgressBar::new(u64::from(args.runs) * drills.len() as u64);
    let style = ProgressStyle::with_template(
        "{bar:30.cyan/dim} {pos}/{len} drills, {msg}, {eta} to go {elapsed:.dim}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut of_all: Vec<(String, Vec<Run>)> = drills.into_iter().map(|d| (d, vec![])).collect();
    // Round by round, so that a disturbance of the machine does not hit all runs of one drill.
    for _ in 0..args.runs {
        for (drill, runs) in &mut of_all {
            bar.set_message(drill.clone());
            bar.inc(1);
            match one(&usual, drill) {
                Ok(run) => runs.push(run),
                Err(error) => {
                    // What a fabric comes to that does not get whole again is no end of the others.
                    bar.println(format!("{drill}: {error:#}"));
                    runs.push(Run::broken(&error));
                    usual.keep();
                    let fresh = format!("resilience-{}", bar.position() + 1);
                    usual = Fabric::start(fresh_directory(&fresh), &USUAL)?;
                }
            }
        }
    }
    bar.finish_and_clear();
    let rows: Vec<Row> = of_all
        .iter()
        .map(|(drill, runs)| Row::of(drill, runs))
        .collect();
    report(args, &rows)?;
    let failed: usize = rows.iter().map(|row| row.runs - row.passed).sum();
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} runs failed"),
    }
}

/// The drills' names, as the product lists them; those that were asked for, if any were.
fn drills(fabric: &Fabric, only: &[String]) -> anyhow::Result<Vec<String>> {
    let listed = fabric.atoll("drill list")?;
    let listed = listed["drills"].as_array().context("no list of drills")?;
    let names = listed.iter().filter_map(|drill| drill["name"].as_str());
    let names: Vec<String> = names.map(ToOwned::to_owned).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        bail!("'{unknown}' is no drill: there are {}", names.join(", "));
    }
    let is_asked = |name: &String| only.is_empty() || only.contains(name);
    Ok(names.into_iter().filter(is_asked).collect())
}

fn one(usual: &Fabric, drill: &str) -> anyhow::Result<Run> {
    if drill == FULL_DISK {
        let small = Fabric::start(fresh_directory("resilience-small"), &SMALL)?;
        return on(&small, drill);
    }
    on(usual, drill)
}

fn on(fabric: &Fabric, drill: &str) -> anyhow::Result<Run> {
    fabric.wait_until_healthy(HEAL_MAX)?;
    let output = Command::new(program())
        .arg("--dir")
        .arg(&fabric.directory)
        .args([
            "drill",
            "run",
            drill,
            "--size",
            "16MiB",
            "--seconds",
            "4",
            "--json",
        ])
        .output()
        .with_context(|| format!("can't start {}", program().display()))?;
    // A drill that fails says so with its exit status, and reports all the same.
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let told: Value = serde_json::from_str(last).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("the drill {drill} reported nothing: {}", said.trim_end())
    })?;
    Ok(Run::of(&told))
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        "| drill | passed | recovery time, median / longest | fault to full protection, median / longest | \
         throughput ratio, median / least | repair between sites, median | verified | lost |"
            .to_owned(),
        "| --- | --- | --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    lines.extend(rows.iter().map(Row::line));
    for row in rows.iter().filter(|row| !row.missed.is_empty()) {
        lines.push(String::new());
        lines.push(format!(
            "`{}` missed: {}.",
            row.drill,
            row.missed.join("; ")
        ));
    }
    lines.join("\n") + "\n"
}

fn report(args: &Args, rows: &[Row]) -> anyhow::Result<()> {
    let table = table(rows);
    if args.json {
        println!("{}", json!({ "runs": args.runs, "drills": rows }));
    } else {
        print!("{table}");
    }
    if args.write {
        let path = root().join(PAGE);
        let page = fs::read_to_string(&path).with_context(|| format!("can't read {PAGE}"))?;
        let page = replaced(&page, &table)
            .with_context(|| format!("{PAGE} has no place for the table"))?;
        fs::write(&path, page).with_context(|| format!("can't write {PAGE}"))?;
    }
    Ok(())
}

/// The page with another table between its marks.
fn replaced(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(verdict: &str, rto_ms: u64) -> Value {
        json!({
            "verdict": verdict, "rto_ms": rto_ms, "full_protection_ms": 10 * rto_ms, "bytes_verified": 1 << 20,
            "bytes_lost": 0, "client_throughput_ratio": null, "wan_repair_bytes": 3 << 20,
            "expectations": [
                { "what": "writes go on", "found": "after 4 s", "met": verdict == "pass", "judged": true },
                { "what": "good to know", "found": "no", "met": false, "judged": false },
            ],
        })
    }

    #[test]
    fn a_row_tells_the_middle_the_worst_and_what_was_missed() {
        let runs = [
            ("pass", 900),
            ("fail", 4000),
            ("pass", 1100),
            ("pass", 1000),
        ];
        let runs: Vec<Run> = runs.iter().map(|(v, ms)| Run::of(&told(v, *ms))).collect();
        let row = Row::of("node-loss", &runs);
        assert_eq!(
            row.line(),
            "| `node-loss` | 3 of 4 | 1.00 s / 4.00 s | 10.00 s / 40.00 s | - / - | 3.0 MiB | 4 MiB | 0 |"
        );
        assert_eq!(row.missed, ["run 2: writes go on: after 4 s"]);
    }

    #[test]
    fn a_table_takes_the_place_of_the_last_one() {
        let page = format!("a\n{BEGIN}old\n{END}\nz\n");
        let once = replaced(&page, "new\n").expect("it has its marks");
        assert_eq!(once, format!("a\n{BEGIN}\nnew\n\n{END}\nz\n"));
        assert_eq!(replaced(&once, "new\n"), Some(once.clone()));
        assert_eq!(replaced("no marks", "new"), None);
    }
}
