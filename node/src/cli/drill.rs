//! `atoll drill`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use model::geometry::Code;
use serde_json::{Value, json};

use super::print;
use super::render::{self, table};
use super::style::{Style, Tone};
use crate::admin::client;
use crate::admin::protocol::Request;
use crate::drill::{self, DrillError, Named, Order, Script, Terms};
use crate::units::ByteSize;

/// The smallest volume of a drill: less is lost in the noise.
const SIZE_MIN: ByteSize = ByteSize(1 << 20);
/// Under the disaster; on a live fabric, of the fence at most.
const SECONDS: u64 = 10;
const LIVE_SECONDS: u64 = 60;
/// The history of every sector is kept in memory.
const SIZE_MAX: ByteSize = ByteSize(1 << 30);

/// On drills.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum DrillCommand {
    /// All drills that have a name.
    List,
    /// Carry a drill out, under load, and report what happened: on the processes of `atoll dev`;
    /// with --live, on a fabric that is in use, by the directory of one of its nodes.
    Run(Box<RunDrill>),
    /// End the drill on a live fabric now: the fence around its site is lifted.
    Stop,
    /// The reports of earlier drills.
    Report,
}

/// Which drill, and how.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct RunDrill {
    /// A drill by its name (`atoll drill list`), or a scenario file (TOML).
    #[arg(value_name = "NAME|FILE")]
    pub what: String,
    /// The site that it hits [default: the volume's owner's].
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// The node that it hits [default: the volume's owner].
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// The disk that it hits: NODE/DISK by number or by name, or its directory.
    #[arg(long, value_name = "DISK")]
    pub disk: Option<String>,
    /// The code of the drill's volume.
    #[arg(long, default_value = "rs:4+2")]
    pub code: Code,
    /// The size of the drill's volume, all of which is written first.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    pub size: ByteSize,
    /// How long clients work under the disaster; before it, half as long [default: 10]. On a live
    /// fabric, for how long its site is fenced at most: 10 to 600 [default: 60].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub seconds: Option<u64>,
    /// How long what must come is waited for: full protection, an empty node.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub patience: u64,
    /// disk-loss: say nothing to the fabric; it gives the disk up by itself (`atoll dev
    /// --heal-after`).
    #[arg(long)]
    pub hands_off: bool,
    /// Keep the drill's volume.
    #[arg(long)]
    pub keep: bool,
    /// Yes, on a fabric that is in use: fence the site that --site names, for a while that ends by
    /// itself.
    #[arg(long)]
    pub live: bool,
    /// On a live fabric: clients' volumes that moved are moved back at the end.
    #[arg(long, requires = "live")]
    pub failback: bool,
    /// Drill though something is degraded already.
    #[arg(long)]
    pub anyway: bool,
    /// Where the report is written [default: drills/NAME-N.html in the fabric's directory].
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

fn size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|e: crate::units::UnitError| e.to_string())?;
    if (SIZE_MIN..=SIZE_MAX).contains(&size) && size.0.is_multiple_of(model::BLOCK_BYTES as u64) {
        return Ok(size);
    }
    Err(format!(
        "a drill's volume is a whole number of blocks of 4 KiB, from {SIZE_MIN} to {SIZE_MAX}"
    ))
}

/// Carries a command out; true if nothing was wrong.
pub(super) fn run(directory: &Path, command: &DrillCommand, as_json: bool) -> anyhow::Result<bool> {
    match command {
        DrillCommand::List => print(&list(as_json)).map(|()| true),
        DrillCommand::Stop => stop(directory, as_json).map(|()| true),
        DrillCommand::Report => print(&reports(directory, as_json)?).map(|()| true),
        DrillCommand::Run(args) => {
            let outcome = drill::run(directory, &script(args)?, &terms(args))?;
            let text = match as_json {
                true => outcome.to_json().to_string(),
                false => outcome.to_text(Style::of(&io::stdout())),
            };
            print(&text)?;
            Ok(outcome.passed())
        }
    }
}

/// Lifts the fence of whatever drill there is.
fn stop(directory: &Path, as_json: bool) -> anyhow::Result<()> {
    let told = client::ask(directory, &Request::SiteFenceLift { drill: None })?;
    print(&match as_json {
        true => render::json(&told, false).to_string(),
        false => render::human(&told, Style::of(&io::stdout())),
    })
}

fn script(args: &RunDrill) -> anyhow::Result<Script> {
    if let Some(named) = Named::find(&args.what) {
        return Ok(Script::Named(named));
    }
    let file = Path::new(&args.what);
    if !file.exists() {
        let known = Named::ALL.map(|d| d.about().name).join(", ");
        let name = args.what.clone();
        return Err(DrillError::Unknown { name, known }.into());
    }
    Ok(Script::File(Box::new(sim::cli::read(file)?)))
}

fn terms(args: &RunDrill) -> Terms {
    Terms {
        order: Order {
            site: args.site.clone(),
            node: args.node.clone(),
            disk: args.disk.clone(),
            code: args.code,
            size: args.size,
            span: Duration::from_secs(args.seconds.unwrap_or(match args.live {
                true => LIVE_SECONDS,
                false => SECONDS,
            })),
            patience: Duration::from_secs(args.patience),
            hands_off: args.hands_off,
            failback: args.failback,
        },
        keep: args.keep,
        anyway: args.anyway,
        live: args.live,
        page: args.report.clone(),
    }
}

fn list(as_json: bool) -> String {
    let all = Named::ALL.map(Named::about);
    if as_json {
        let item = |a: &drill::About| json!({ "name": a.name, "what": a.what, "needs": a.needs, "expects": a.bar });
        let drills: Vec<Value> = all.iter().map(item).collect();
        return json!({ "drills": drills }).to_string();
    }
    let row = |a: &drill::About| [a.name, a.what, a.bar, a.needs].map(ToOwned::to_owned);
    let rows = all.iter().map(row).collect();
    let table = table(
        ["drill", "what it does", "must come out", "needs"],
        &[],
        rows,
    );
    format!(
        "{table}\n\nEach fills a volume, measures its clients, does what it says under load, waits for full\n\
         protection, reads all back, and leaves the fabric as it was. A scenario file does, too:\n  \
         atoll --dir D drill run site-loss --site b\n  atoll --dir D drill run my-scenario.toml\n\n\
         On a fabric that is in use, a site is fenced off by all others for a while (site-loss, site-isolation,\n\
         failback), and `drill stop` ends that at once:\n  \
         atoll --dir NODE drill run site-loss --live --site b"
    )
}

/// What earlier drills came to, the latest last.
fn reports(directory: &Path, as_json: bool) -> anyhow::Result<String> {
    let mut found: Vec<(std::time::SystemTime, Value)> = Vec::new();
    let folder = directory.join("drills");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e).with_context(|| folder.display().to_string()),
    };
    for path in entries.iter().map(std::fs::DirEntry::path) {
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        // What something else wrote there is no report.
        if let Ok(value) = serde_json::from_slice(&text) {
            found.push((path.metadata()?.modified()?, value));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    let reports: Vec<Value> = found.into_iter().map(|(_, value)| value).collect();
    if as_json {
        return Ok(json!({ "reports": reports }).to_string());
    }
    if reports.is_empty() {
        return Ok("no drills yet: `atoll drill list` shows what there is".to_owned());
    }
    let style = Style::of(&io::stdout());
    let rows = reports.iter().map(|r| report_row(r, style));
    Ok(table(
        [
            "drill",
            "verdict",
            "rto",
            "lost",
            "protected",
            "kept",
            "report",
        ],
        &[2, 3, 4, 5],
        rows.collect(),
    ))
}

fn report_row(report: &Value, style: Style) -> [String; 7] {
    let text = |name: &str| report[name].as_str().unwrap_or("?").to_owned();
    let seconds = |name: &str| {
        let ms = report[name].as_f64();
        ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.2} s", ms / 1e3))
    };
    let verdict = match text("verdict").as_str() {
        "pass" => style.paint(Tone::Good, "pass"),
        other => style.paint(Tone::Bad, other),
    };
    let ratio = report["client_throughput_ratio"].as_f64();
    [
        text("drill"),
        verdict,
        seconds("rto_ms"),
        report["bytes_lost"].to_string(),
        seconds("full_protection_ms"),
        ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.0} %", r * 100.0)),
        text("report"),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{DrillCommand, list, script};
    use crate::cli::args::{Cli, Command};

    fn parse(line: &str) -> Result<DrillCommand, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Drill(command) => Ok(command),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn drills_are_asked_for_by_name_or_file() {
        let line =
            "atoll drill run site-loss --site b --code geo:2+1 --size 16MiB --seconds 5 --json";
        let Ok(DrillCommand::Run(args)) = parse(line) else {
            panic!("a run")
        };
        assert_eq!(
            (args.site.as_deref(), args.size.0, args.seconds),
            (Some("b"), 16 << 20, Some(5))
        );
        assert!(script(&args).is_ok());
        let Ok(DrillCommand::Run(args)) = parse("atoll drill run no-such-drill") else {
            panic!("a run")
        };
        let error = script(&args).expect_err("there is none").to_string();
        assert!(
            error.contains("node-loss"),
            "it says what there is: {error}"
        );
        for bad in [
            "--size 1KiB",
            "--size 2GiB",
            "--size 1048577",
            "--seconds 0",
            "--code rs:0+0",
        ] {
            assert!(
                parse(&format!("atoll drill run corruption {bad}")).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_list_tells_all() {
        for (text, name) in [
            (list(false), "power-loss-everywhere"),
            (list(true), "\"power-loss-everywhere\""),
        ] {
            assert!(text.contains(name) && text.contains("link-cut"), "{text}");
        }
    }
}
