//! `sim durability`: how likely data is to be lost within a year.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use model::geometry::Code;
use model::units::{ByteSize, parse_duration};

use super::CliError;
use crate::durability::{Effort, Rates, Shape, Terms, Times, fits, run};

const EXAMPLES: &str = "\
A rate is events a year for each: 0.3, or 1.5% (the same as 0.015). A time is 10min, 4h or 7d.

What it prints holds for a pool that fills the disks, and for the assumptions that it prints first: only disks,
nodes and sites fail, and independently of each other. What is left out is said in docs/resilience.md.

Examples:
  sim durability                                     the default codes on three sites
  sim durability --code rs:4+2 --code rs:1+2         two codes (rs:1+2 is three copies)
  sim durability --nodes 6 --disks 12 --disk-bytes 16TiB
  sim durability --site-lost 0 --site-outage 0       disks and nodes alone
  sim durability --json";

/// For which codes, on which fabric, under which assumptions.
#[derive(Clone, Debug, PartialEq, Args)]
#[command(after_help = EXAMPLES)]
pub struct DurabilityArgs {
    /// A code; may be said several times [default: those that fit of rs:4+2, rs:2+2, geo:2+1, rs:1+2
    /// (three copies) and rs:2+4 (the index of every volume)].
    #[arg(long = "code", value_name = "CODE")]
    pub codes: Vec<Code>,
    /// Sites.
    #[arg(long, value_name = "N", default_value_t = Shape::default().sites)]
    pub sites: u8,
    /// Nodes of each site.
    #[arg(long, value_name = "N", default_value_t = Shape::default().nodes)]
    pub nodes: u16,
    /// Disks of each node.
    #[arg(long, value_name = "N", default_value_t = Shape::default().disks)]
    pub disks: u16,
    /// Rows of the pool.
    #[arg(long, value_name = "N", default_value_t = Shape::default().rows)]
    pub rows: u16,
    /// What fragments take on each disk, parity included.
    #[arg(long, value_name = "SIZE", default_value = "4TiB")]
    pub disk_bytes: ByteSize,
    /// A disk fails for good (its AFR).
    #[arg(long, value_name = "RATE", default_value = "1.57%", value_parser = rate, help_heading = "Failures")]
    pub afr: f64,
    /// A fragment of a disk rots.
    #[arg(long, value_name = "RATE", default_value = "3.15%", value_parser = rate, help_heading = "Failures")]
    pub rot: f64,
    /// A node is away for a while.
    #[arg(long, value_name = "RATE", default_value = "4", value_parser = rate, help_heading = "Failures")]
    pub node_outage: f64,
    /// For how long, on average.
    #[arg(long, value_name = "TIME", default_value = "15min", value_parser = time, help_heading = "Failures")]
    pub node_outage_time: Duration,
    /// A node is lost with its disks.
    #[arg(long, value_name = "RATE", default_value = "0.1%", value_parser = rate, help_heading = "Failures")]
    pub node_lost: f64,
    /// A site is away for a while.
    #[arg(long, value_name = "RATE", default_value = "0.3", value_parser = rate, help_heading = "Failures")]
    pub site_outage: f64,
    /// For how long, on average.
    #[arg(long, value_name = "TIME", default_value = "4h", value_parser = time, help_heading = "Failures")]
    pub site_outage_time: Duration,
    /// A site is lost for good with its disks.
    #[arg(long, value_name = "RATE", default_value = "0.1%", value_parser = rate, help_heading = "Failures")]
    pub site_lost: f64,
    /// Until a lost disk's fragments are rebuilt on others of its site.
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = time, help_heading = "Repair")]
    pub heal_after: Duration,
    /// What a site rebuilds a second [default: 70MiB of rs, 163MiB of geo, as measured].
    #[arg(long, value_name = "SIZE", help_heading = "Repair")]
    pub repair_rate: Option<ByteSize>,
    /// Data a second that is written anew on the sites that are left, where one that is away left
    /// rows of rs with nothing to spare.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "128MiB",
        help_heading = "Repair"
    )]
    pub rewrite_rate: ByteSize,
    /// Until a lost disk or node is replaced.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = time, help_heading = "Repair")]
    pub replace_after: Duration,
    /// Until a lost site is founded anew.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = time, help_heading = "Repair")]
    pub replace_site_after: Duration,
    /// How often the scrub has read everything.
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = time, help_heading = "Repair")]
    pub scrub_every: Duration,
    /// Cycles for each figure: four times as many halve the intervals.
    #[arg(long, value_name = "N", default_value_t = Effort::default().cycles, help_heading = "Estimate")]
    pub cycles: u32,
    /// Decides what is drawn.
    #[arg(long, value_name = "S", default_value_t = Effort::default().seed, help_heading = "Estimate")]
    pub seed: u64,
    /// Do not force failures: what is rare is not seen.
    #[arg(long, help_heading = "Estimate")]
    pub by_chance: bool,
}

/// Events a year.
fn rate(text: &str) -> Result<f64, String> {
    let parsed = match text.trim().strip_suffix('%') {
        Some(number) => format!("{}e-2", number.trim_end()).parse::<f64>(),
        None => text.trim().parse::<f64>(),
    };
    let sound = parsed.ok().filter(|n| n.is_finite() && *n >= 0.0);
    sound.ok_or(format!(
        "'{text}' is no rate: write events a year, such as 0.3, or 1.5%"
    ))
}

/// As durations are written elsewhere, and days.
fn time(text: &str) -> Result<Duration, String> {
    let days = text.trim().strip_suffix('d');
    if let Some(days) = days.and_then(|days| days.trim_end().parse::<f64>().ok()) {
        let days = Duration::try_from_secs_f64(days * 86_400.0);
        return days.map_err(|_| format!("'{text}' is no time"));
    }
    parse_duration(text).map_err(|_| format!("'{text}' is no time: write 10min, 4h or 7d"))
}

impl DurabilityArgs {
    fn terms(&self) -> Terms {
        Terms {
            shape: Shape {
                sites: self.sites,
                nodes: self.nodes,
                disks: self.disks,
                rows: self.rows,
                disk_bytes: self.disk_bytes.0,
            },
            rates: Rates {
                disk_lost: self.afr,
                rot: self.rot,
                node_outage: self.node_outage,
                node_lost: self.node_lost,
                site_outage: self.site_outage,
                site_lost: self.site_lost,
            },
            times: Times {
                node_outage: self.node_outage_time,
                site_outage: self.site_outage_time,
                heal_after: self.heal_after,
                replace: self.replace_after,
                replace_site: self.replace_site_after,
                scrub: self.scrub_every,
                rebuild_bytes_per_s: self.repair_rate.map(|rate| rate.0),
                rewrite_bytes_per_s: self.rewrite_rate.0,
            },
        }
    }

    fn effort(&self) -> Effort {
        Effort {
            cycles: self.cycles,
            seed: self.seed,
            forced: !self.by_chance,
        }
    }

    fn codes(&self) -> Vec<Code> {
        if !self.codes.is_empty() {
            return self.codes.clone();
        }
        let geo = Code::Geo {
            k: 2,
            m: 1,
            sites: self.sites,
        };
        let copies = Code::Rs { k: 1, m: 2 };
        let (four, two) = (Code::Rs { k: 4, m: 2 }, Code::Rs { k: 2, m: 2 });
        let mut all = vec![four, two, geo, copies, Code::INDEX];
        // If none fits, the first one's refusal says why.
        let terms = self.terms();
        if all.iter().any(|code| fits(&terms, *code)) {
            all.retain(|code| fits(&terms, *code));
        }
        all
    }
}

pub(super) fn measure(args: &DurabilityArgs, as_json: bool) -> Result<bool, CliError> {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    let report = run(&args.terms(), &args.codes(), &args.effort(), &mut |doing| {
        bar.set_message(doing.to_owned())
    });
    bar.finish_and_clear();
    let report = report?;
    if as_json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: DurabilityArgs,
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let line = Line::try_parse_from(["durability"]).expect("nothing is needed");
        assert_eq!(line.args.terms(), Terms::default());
        assert_eq!(line.args.effort(), Effort::default());
    }

    #[test]
    fn rates_and_times_are_written_as_people_do() {
        assert_eq!(rate("1.5%"), Ok(0.015));
        assert_eq!(rate("4"), Ok(4.0));
        assert!(rate("-1").is_err() && rate("often").is_err() && rate("inf").is_err());
        assert_eq!(time("1.5d"), Ok(Duration::from_secs(129_600)));
        assert_eq!(time("10min"), Ok(Duration::from_secs(600)));
        assert!(time("soon").is_err() && time("-1d").is_err());
    }
}
