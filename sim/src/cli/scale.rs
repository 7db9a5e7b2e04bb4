//! `sim scale`: metadata and placement alone, at a size.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use model::units::ByteSize;

use super::CliError;
use crate::scale::{Size, run};

/// How large a fabric.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct ScaleArgs {
    /// Sites.
    #[arg(long, value_name = "N", default_value_t = Size::default().sites)]
    pub sites: u8,
    /// Nodes of all sites.
    #[arg(long, value_name = "N", default_value_t = Size::default().nodes)]
    pub nodes: u16,
    /// Disks of all nodes.
    #[arg(long, value_name = "N", default_value_t = Size::default().disks)]
    pub disks: u32,
    /// Volumes.
    #[arg(long, value_name = "N", default_value_t = Size::default().volumes)]
    pub volumes: u32,
    /// Rows of each pool's table.
    #[arg(long, value_name = "N", default_value_t = Size::default().rows)]
    pub rows: u16,
    /// A disk's capacity.
    #[arg(long, value_name = "SIZE", default_value = "10TB")]
    pub disk_size: ByteSize,
    /// How much of the fullest disk fragments take, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = Size::default().fill_percent)]
    pub fill: u8,
    /// What a node's repair takes at most, a second.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub repair_rate: ByteSize,
    /// What a site's link to the others carries, a second.
    #[arg(long, value_name = "SIZE", default_value = "1250MB")]
    pub link_rate: ByteSize,
    /// Milliseconds that a message takes between two sites.
    #[arg(long, value_name = "MS", default_value_t = 10)]
    pub wan_ms: u64,
    /// Decides what is drawn.
    #[arg(long, value_name = "S", default_value_t = Size::default().seed)]
    pub seed: u64,
}

impl ScaleArgs {
    fn size(&self) -> Size {
        Size {
            sites: self.sites,
            nodes: self.nodes,
            disks: self.disks,
            volumes: self.volumes,
            rows: self.rows,
            disk_bytes: self.disk_size.0,
            fill_percent: self.fill,
            repair_bytes_per_s: self.repair_rate.0,
            link_bytes_per_s: self.link_rate.0,
            wan_one_way: Duration::from_millis(self.wan_ms),
            seed: self.seed,
        }
    }
}

pub(super) fn measure(args: &ScaleArgs, as_json: bool) -> Result<bool, CliError> {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    let report = run(&args.size(), &mut |doing| {
        bar.set_message(doing.to_owned());
        if bar.is_hidden() {
            eprintln!("{doing}");
        }
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

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ScaleArgs,
    }

    #[test]
    fn what_is_not_said_is_the_default_size() {
        let line = Line::try_parse_from(["scale"]).expect("nothing is needed");
        assert_eq!(line.args.size(), Size::default());
    }
}
