//! `cargo xtask demo`: a volume that outlives a data center, in front of your eyes.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::{Step, paint};
use crate::fabric::{Fabric, Victim, fresh_directory};
use crate::history::{BLOCK_BYTES, History, Verdict};
use crate::round::Round;
use crate::{layers, setup};

const VOLUME: &str = "demo";
const VOLUME_BYTES: u64 = 256 << 20;

/// Written by nbdcopy, at the volume's beginning.
const FILE_BYTES: u64 = 128 << 20;

/// Written by the history's writer, after it.
const HISTORY_BYTES: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The site to kill.
    #[arg(long, default_value = "a")]
    site: String,
    /// Emulate this round trip between sites, such as 20ms.
    #[arg(long)]
    wan_rtt: Option<String>,
    /// Leave the fabric's directory behind.
    #[arg(long)]
    keep: bool,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::for_running()?;
    layers::build()?;
    let bar = Bar::new();
    let directory = fresh_directory("demo");
    let mut more = vec!["--sites", "3", "--nodes", "3", "--disks", "2"];
    if let Some(rtt) = &args.wan_rtt {
        more.extend(["--wan-rtt", rtt]);
    }
    bar.begin("starting three sites of three nodes with two disks each");
    let mut fabric = Fabric::start(directory, &more)?;
    if args.keep {
        fabric.keep();
    }
    let pids = fabric.sites.iter().flat_map(|s| &s.nodes).count();
    bar.end(&format!(
        "{pids} processes serve, in {} sites",
        fabric.sites.len()
    ));
    let shown = scenario(&mut fabric, &args.site, &bar);
    if shown.is_err() {
        fabric.keep();
    }
    shown
}

fn scenario(fabric: &mut Fabric, site: &str, bar: &Bar) -> anyhow::Result<()> {
    bar.begin("creating a volume");
    let create = format!("volume create {VOLUME} --size {VOLUME_BYTES} --home {site}");
    fabric.atoll(&create)?;
    let home = fabric
        .site(site)?
        .nodes
        .first()
        .context("a site without nodes")?
        .nbd;
    bar.end(&format!(
        "volume {VOLUME}: {}, rs:4+2, home site {site}; nbd://{home}/{VOLUME}",
        mib(VOLUME_BYTES)
    ));

    let original = fabric.directory.join("original");
    random_file(&original, FILE_BYTES).context("can't make a file to copy")?;
    bar.begin("nbdcopy writes a file of random bytes");
    let started = Instant::now();
    let to = format!("nbd://{home}/{VOLUME}");
    Step::new("nbdcopy", "nbdcopy")
        .args(["--flush".as_ref(), original.as_os_str(), to.as_ref()])
        .output()?;
    bar.end(&format!(
        "nbdcopy wrote {} at {}",
        mib(FILE_BYTES),
        speed(FILE_BYTES, started.elapsed())
    ));

    bar.begin(&format!(
        "writing unique blocks at depth 16, then SIGKILL for all of site {site}"
    ));
    let blocks = usize::try_from(HISTORY_BYTES)? / BLOCK_BYTES;
    let history = History::new(FILE_BYTES, blocks);
    let round = Round {
        fabric,
        history: &history,
        export: VOLUME,
        victim: Victim::Site(site),
        owner: None,
        seed: 1,
    };
    let outcome = round.run(|survivor| {
        bar.begin("nbdcopy reads the file back through a surviving site, while writes go on");
        read_back(&fabric.directory, survivor, &history, bar)
    })?;
    let first = outcome.first_write.as_secs_f64();
    bar.end(&format!(
        "site {site} is dead; {} writes were acknowledged before and after",
        outcome.writes
    ));
    let verdict = outcome.verdict;

    let status = fabric.atoll("status")?;
    for degraded in status["degraded"].as_array().into_iter().flatten() {
        let text = |key: &str| degraded[key].as_str().unwrap_or("?").to_owned();
        println!(
            "  {} {}: {}; {}",
            paint("33", "status"),
            text("what"),
            text("why"),
            text("doing")
        );
    }
    println!("\n  {}", paint("1", "what a lost data center cost"));
    figure("first acknowledged write after", &format!("{first:.2} s"));
    figure(
        "bytes verified",
        &format!(
            "{} ({})",
            grouped(verdict.verified_bytes),
            mib(verdict.verified_bytes)
        ),
    );
    figure("bytes lost", &grouped(verdict.lost_bytes));
    if verdict.lost_bytes != 0 {
        bail!(
            "acknowledged bytes were lost:\n  {}",
            verdict.faults.join("\n  ")
        );
    }
    println!("\n  {}", paint("32;1", "nothing acknowledged was lost"));
    Ok(())
}

/// Copies the volume by a survivor, and compares the file with what it was. Writes that stood
/// still meanwhile would make it a lesser test.
fn read_back(
    directory: &Path,
    survivor: SocketAddr,
    history: &History,
    bar: &Bar,
) -> anyhow::Result<Verdict> {
    let back = directory.join("back");
    let from = format!("nbd://{survivor}/{VOLUME}");
    let before = history.total_acknowledged();
    let started = Instant::now();
    Step::new("nbdcopy", "nbdcopy")
        .args([from.as_ref(), back.as_os_str()])
        .output()?;
    let took = started.elapsed();
    let writes = history.total_acknowledged() - before;
    if writes == 0 {
        bail!("no write was acknowledged while the volume was read back");
    }
    bar.end(&format!(
        "{survivor} gave the volume back at {}, beside {} writes",
        speed(VOLUME_BYTES, took),
        grouped(writes)
    ));
    compare(&directory.join("original"), &back)
}

fn figure(name: &str, value: &str) {
    println!("  {name:<32} {}", paint("36;1", value));
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn speed(bytes: u64, took: Duration) -> String {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let rate = bytes as f64 / took.as_secs_f64().max(1e-9) / f64::from(1 << 20);
    format!("{rate:.0} MiB/s")
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn random_file(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut source = File::open("/dev/urandom")?.take(bytes);
    let mut file = File::create(path)?;
    std::io::copy(&mut source, &mut file)?;
    file.flush()
}

/// Compares the file with the beginning of what was read back.
fn compare(original: &Path, back: &Path) -> anyhow::Result<Verdict> {
    let length = fs::metadata(original)?.len();
    let mut expected = BufReader::with_capacity(1 << 20, File::open(original)?);
    let mut found = BufReader::with_capacity(1 << 20, File::open(back)?);
    let mut verdict = Verdict::default();
    let (mut a, mut b) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    for offset in (0..length).step_by(BLOCK_BYTES) {
        expected.read_exact(&mut a)?;
        found
            .read_exact(&mut b)
            .with_context(|| format!("the volume ends before byte {offset}"))?;
        if a == b {
            verdict.verified_bytes += BLOCK_BYTES as u64;
        } else {
            verdict.lose(format!("byte {offset}: not what nbdcopy wrote"));
        }
    }
    Ok(verdict)
}

/// Shows what is being done, and what was.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    fn begin(&self, what: &str) {
        self.0.reset_elapsed();
        self.0.set_message(what.to_owned());
        if self.0.is_hidden() {
            println!("{} {what}", paint("36;1", "▸"));
        }
    }

    fn end(&self, what: &str) {
        self.0.suspend(|| println!("{} {what}", paint("32;1", "✔")));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn numbers_are_grouped() {
        let texts = [0, 999, 1000, 134_217_728].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "134,217,728"]);
    }
}
