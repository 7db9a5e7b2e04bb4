//! `cargo xtask soak`: whoever owns a volume dies, for many rounds, alone or with its whole site, and
//! every acknowledged byte is counted.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::command::paint;
use crate::demo::grouped;
use crate::fabric::{Fabric, Victim, fresh_directory};
use crate::history::{BLOCK_BYTES, History, Verdict};
use crate::round::{Outcome, Round};
use crate::{layers, setup};

const VOLUME: &str = "soak";
const HISTORY_BYTES: usize = 64 << 20;

/// A site that came back must be well again by then, before the next one dies.
const HEAL_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many times the owner dies: with its site, then alone, in turn.
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

/// What dies in a round, with the volume's owner in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    OfSite,
    OfOwner,
}

impl Death {
    const ALL: [Self; 2] = [Self::OfSite, Self::OfOwner];

    fn name(self) -> &'static str {
        match self {
            Self::OfSite => "a site's death",
            Self::OfOwner => "an owner's death",
        }
    }

    /// The bar of the contract for the first acknowledged write.
    fn first_write_max(self) -> Duration {
        match self {
            Self::OfSite => Duration::from_secs(10),
            Self::OfOwner => Duration::from_secs(3),
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

/// What round `number` kills, from 1 on: each site and each node comes to its turn.
fn turn(fabric: &Fabric, number: u32) -> (Death, String, String) {
    let number = number as usize - 1;
    let (pair, death) = (number / 2, Death::ALL[number % 2]);
    let site = &fabric.sites[pair % fabric.sites.len()];
    let node = &site.nodes[pair / fabric.sites.len() % site.nodes.len()];
    (death, site.name.clone(), node.name.clone())
}

fn rounds(fabric: &mut Fabric, args: &Args) -> anyhow::Result<()> {
    fabric.atoll(&format!("volume create {VOLUME} --size {HISTORY_BYTES}"))?;
    let history = History::new(0, HISTORY_BYTES / BLOCK_BYTES);
    let bar = ProgressBar::new(u64::from(args.rounds));
    let style = ProgressStyle::with_template(
        "{bar:30.cyan/dim} {pos}/{len} times killed, {msg} {elapsed:.dim}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message("nothing lost");
    bar.enable_steady_tick(Duration::from_millis(200));
    let started = Instant::now();
    let mut tally = Tally::default();
    for number in 1..=args.rounds {
        let (death, site, node) = turn(fabric, number);
        let victim = match death {
            Death::OfSite => Victim::Site(&site),
            Death::OfOwner => Victim::Node(&node),
        };
        let again = || format!("in round {number} ({victim}, seed {})", args.seed);
        let round = Round {
            fabric,
            history: &history,
            export: VOLUME,
            victim,
            owner: Some(&node),
            seed: args
                .seed
                .wrapping_mul(1_000_003)
                .wrapping_add(u64::from(number)),
        };
        let outcome = round.run(|_| Ok(Verdict::default())).with_context(again)?;
        let line = format!("round {number:>3}  {}", told(victim, &outcome));
        bar.suspend(|| println!("{line}"));
        tally.add(death, outcome);
        if tally.verdict.lost_bytes > 0 {
            bar.set_message(format!("{} bytes lost", tally.verdict.lost_bytes));
        }
        bar.inc(1);
        fabric.start_again(victim).with_context(again)?;
        fabric.wait_until_healthy(HEAL_MAX).with_context(again)?;
    }
    bar.finish_and_clear();
    tally.report(started.elapsed())
}

fn told(victim: Victim<'_>, outcome: &Outcome) -> String {
    let owner = outcome.owner.as_deref().unwrap_or("nobody");
    format!(
        "{victim:<8} owner {owner:<7} first write after {:>5.2} s  {:>9} writes  {:>5} MiB verified  {} lost",
        outcome.first_write.as_secs_f64(),
        grouped(outcome.writes),
        outcome.verdict.verified_bytes >> 20,
        outcome.verdict.lost_bytes
    )
}

/// What all rounds came to.
#[derive(Debug, Default)]
struct Tally {
    pauses: Vec<(Death, Duration)>,
    /// Rounds that killed the owner.
    hits: usize,
    verdict: Verdict,
}

impl Tally {
    fn add(&mut self, death: Death, outcome: Outcome) {
        self.pauses.push((death, outcome.first_write));
        self.hits += usize::from(outcome.has_hit);
        self.verdict.add(outcome.verdict);
    }

    /// How long writes paused, sorted.
    fn pauses_after(&self, death: Death) -> Vec<Duration> {
        let pauses = self.pauses.iter().filter(|(of, _)| *of == death);
        let mut pauses: Vec<Duration> = pauses.map(|(_, pause)| *pause).collect();
        pauses.sort_unstable();
        pauses
    }

    /// Tells all of it; an error if it is not what was promised.
    fn report(&self, took: Duration) -> anyhow::Result<()> {
        let rounds = self.pauses.len();
        println!("\n{rounds} rounds in {} s", took.as_secs());
        println!("rounds that hit the owner  {} of {rounds}", self.hits);
        for death in Death::ALL {
            let pauses = self.pauses_after(death);
            let (Some(median), Some(worst)) = (pauses.get(pauses.len() / 2), pauses.last()) else {
                continue;
            };
            println!(
                "first acknowledged write   after {} (x {}): median {:.2} s, worst {:.2} s",
                death.name(),
                pauses.len(),
                median.as_secs_f64(),
                worst.as_secs_f64()
            );
        }
        let verdict = &self.verdict;
        println!(
            "bytes verified             {}",
            grouped(verdict.verified_bytes)
        );
        println!("acknowledged bytes lost    {}", grouped(verdict.lost_bytes));
        self.judge()?;
        println!("{}", paint("32;1", "nothing acknowledged was lost"));
        Ok(())
    }

    fn judge(&self) -> anyhow::Result<()> {
        if self.pauses.is_empty() {
            bail!("no rounds were run");
        }
        if self.verdict.lost_bytes != 0 {
            bail!(
                "acknowledged bytes were lost:\n  {}",
                self.verdict.faults.join("\n  ")
            );
        }
        if self.hits != self.pauses.len() {
            bail!(
                "{} rounds did not hit the owner: they prove nothing",
                self.pauses.len() - self.hits
            );
        }
        for death in Death::ALL {
            let bar = death.first_write_max();
            if self
                .pauses_after(death)
                .last()
                .is_some_and(|worst| *worst > bar)
            {
                bail!(
                    "the worst pause after {} is over the bar of {} s",
                    death.name(),
                    bar.as_secs()
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
