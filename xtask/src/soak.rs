//! `cargo xtask soak`: sites die for many rounds, and every acknowledged byte is counted.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::paint;
use crate::demo::grouped;
use crate::fabric::{Fabric, fresh_directory};
use crate::history::{BLOCK_BYTES, History, Verdict};
use crate::{layers, round, setup};

const VOLUME: &str = "soak";
const HISTORY_BYTES: usize = 64 << 20;

/// The bar of the contract.
const FIRST_WRITE_MAX: Duration = Duration::from_secs(10);

/// A site that came back must be well again by then, before the next one dies.
const HEAL_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many sites die.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Decides which blocks are written when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Emulate this round trip between sites, such as 20ms.
    #[arg(long)]
    wan_rtt: Option<String>,
}

impl Args {
    /// So many rounds, without distance.
    pub(crate) fn rounds(rounds: u32) -> Self {
        Self {
            rounds,
            seed: 1,
            wan_rtt: None,
        }
    }
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::for_running()?;
    layers::build()?;
    let mut more = vec!["--sites", "3", "--nodes", "3", "--disks", "2"];
    if let Some(rtt) = &args.wan_rtt {
        more.extend(["--wan-rtt", rtt]);
    }
    let mut fabric = Fabric::start(fresh_directory("soak"), &more)?;
    let result = rounds(&mut fabric, args);
    if result.is_err() {
        fabric.keep();
    }
    result
}

fn rounds(fabric: &mut Fabric, args: &Args) -> anyhow::Result<()> {
    fabric.atoll(&format!("volume create {VOLUME} --size {HISTORY_BYTES}"))?;
    let history = History::new(0, HISTORY_BYTES / BLOCK_BYTES);
    let names: Vec<String> = fabric.sites.iter().map(|site| site.name.clone()).collect();
    let bar = ProgressBar::new(u64::from(args.rounds));
    let style = ProgressStyle::with_template(
        "{bar:30.cyan/dim} {pos}/{len} sites killed, {msg} {elapsed:.dim}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message("nothing lost");
    bar.enable_steady_tick(Duration::from_millis(200));
    let started = Instant::now();
    let mut pauses = Vec::new();
    let mut total = Verdict::default();
    for (number, site) in (1..=args.rounds).zip(names.iter().cycle()) {
        let again = || format!("in round {number} (site {site}, seed {})", args.seed);
        let seed = args
            .seed
            .wrapping_mul(1_000_003)
            .wrapping_add(u64::from(number));
        let outcome = round::kill_a_site(fabric, &history, VOLUME, site, seed, |_| {
            Ok(Verdict::default())
        })
        .with_context(again)?;
        let line = format!(
            "round {number:>3}  site {site}  first write after {:>5.2} s  {:>9} writes  {:>5} MiB verified  {} lost",
            outcome.first_write.as_secs_f64(),
            grouped(outcome.writes),
            outcome.verdict.verified_bytes >> 20,
            outcome.verdict.lost_bytes
        );
        bar.suspend(|| println!("{line}"));
        pauses.push(outcome.first_write);
        total.add(outcome.verdict);
        if total.lost_bytes > 0 {
            bar.set_message(format!("{} bytes lost", total.lost_bytes));
        }
        bar.inc(1);
        fabric.start_site(site).with_context(again)?;
        fabric.wait_until_healthy(HEAL_MAX).with_context(again)?;
    }
    bar.finish_and_clear();
    report(&mut pauses, &total, started.elapsed())
}

fn report(pauses: &mut [Duration], total: &Verdict, took: Duration) -> anyhow::Result<()> {
    pauses.sort_unstable();
    let (Some(median), Some(worst)) = (pauses.get(pauses.len() / 2), pauses.last()) else {
        bail!("no rounds were run");
    };
    println!("\n{} rounds in {} s", pauses.len(), took.as_secs());
    println!(
        "first acknowledged write   median {:.2} s, worst {:.2} s",
        median.as_secs_f64(),
        worst.as_secs_f64()
    );
    println!(
        "bytes verified             {}",
        grouped(total.verified_bytes)
    );
    println!("acknowledged bytes lost    {}", grouped(total.lost_bytes));
    if total.lost_bytes != 0 {
        bail!(
            "acknowledged bytes were lost:\n  {}",
            total.faults.join("\n  ")
        );
    }
    if *worst > FIRST_WRITE_MAX {
        bail!(
            "the worst pause is over the bar of {} s",
            FIRST_WRITE_MAX.as_secs()
        );
    }
    println!("{}", paint("32;1", "nothing acknowledged was lost"));
    Ok(())
}
