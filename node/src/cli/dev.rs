//! `atoll dev` for people and, with `--json`, for programs.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;

use super::args::DevArgs;
use super::print;
use super::render::table;
use super::style::{Style, Tone};
use crate::daemon::config::{ConfigError, NbdTls};
use crate::daemon::footing::EXIT_GONE;
use crate::dev::layout::{Layout, LayoutError, Shape};
use crate::dev::node::Program;
use crate::dev::ready::Ready;
use crate::dev::supervisor::{self, Event};

/// Runs a fabric until it is told to end. With `--json` the ready line is all that standard
/// output ever gets; what happens goes to standard error.
pub(super) fn run(directory: &Path, args: &DevArgs, as_json: bool) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("can't find this program's own file")?;
    if args.tls.nbd_tls_verify_peer && args.tls.nbd_tls.unwrap_or_default() == NbdTls::Off {
        return Err(ConfigError::VerifyWithoutTls.into());
    }
    let program = Program {
        path: program,
        run: run_arguments(args),
    };
    let layout = |found: Option<Layout>| -> Result<Layout, LayoutError> {
        match found {
            Some(layout) => {
                layout.agrees(args.sites, args.nodes, args.disks, args.disk_size)?;
                Ok(layout)
            }
            None => Layout::new(shape(args), directory),
        }
    };
    let wan_rtt = args.wan_rtt.or_else(|| args.wan.then_some(Duration::ZERO));
    let mut show = Show {
        directory,
        style: Style::of(&io::stderr()),
        started: Instant::now(),
        wan_rtt,
        tls: args.tls.nbd_tls.unwrap_or_default(),
        as_json,
    };
    supervisor::run(directory, program, layout, wan_rtt, |event| {
        show.event(&event)
    })?;
    Ok(())
}

/// What every node's process is started with, so that the fabric is as this command says.
fn run_arguments(args: &DevArgs) -> Vec<String> {
    let tls = args.tls;
    let mode = tls.nbd_tls.unwrap_or_default().to_possible_value();
    let mode = mode.map_or_else(String::new, |v| v.get_name().to_owned());
    let mut arguments = vec!["--nbd-tls".to_owned(), mode];
    if tls.nbd_tls_verify_peer {
        arguments.push("--nbd-tls-verify-peer".to_owned());
    }
    if let Some(seconds) = args.heal_after {
        arguments.extend(["--heal-after".to_owned(), seconds.to_string()]);
    }
    arguments
}

fn shape(args: &DevArgs) -> Shape {
    let default = Shape::default();
    Shape {
        sites: args.sites.unwrap_or(default.sites),
        nodes: args.nodes.unwrap_or(default.nodes),
        disks: args.disks.unwrap_or(default.disks),
        disk_size: args.disk_size.unwrap_or(default.disk_size),
    }
}

struct Show<'a> {
    directory: &'a Path,
    style: Style,
    started: Instant,
    wan_rtt: Option<Duration>,
    tls: NbdTls,
    as_json: bool,
}

impl Show<'_> {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Making(layout) => self.begin("making a fabric", layout),
            Event::Found(layout) => self.begin("starting the fabric", layout),
            Event::Serves { node, pid } => {
                let mark = self.style.paint(Tone::Good, "✔");
                let pid = self.style.paint(Tone::Quiet, format!("(pid {pid})"));
                self.say(&format!("{mark} node {node} serves {pid}"));
            }
            Event::Failed { node, error } => {
                let mark = self.style.paint(Tone::Bad, "✘");
                self.say(&format!("{mark} node {node} does not serve: {error}"));
            }
            Event::Degraded(degraded) => {
                let mark = self.style.paint(Tone::Bad, "!");
                for one in *degraded {
                    self.say(&format!("{mark} {}: {}; {}", one.what, one.why, one.doing));
                }
            }
            Event::Ready(ready) => self.ready(ready),
            Event::Died(exit) => {
                let mark = self.style.paint(Tone::Bad, "✘");
                let how = self
                    .style
                    .paint(Tone::Quiet, format!("(pid {}, {})", exit.pid, exit.status));
                let why = match exit.status.code() {
                    Some(EXIT_GONE) => ": its directory was deleted or replaced under it",
                    _ => "",
                };
                let again = format!(
                    "atoll --dir {} node start {}",
                    self.directory.display(),
                    exit.node
                );
                self.say(&format!(
                    "{mark} node {} is gone {how}{why}; start it again: {again}",
                    exit.node
                ));
            }
            Event::Stopping => self.say(&self.style.paint(Tone::Quiet, "stopping all nodes ...")),
        }
    }

    fn begin(&self, verb: &str, layout: &Layout) {
        let nodes = layout.nodes().count();
        let wan = match self.wan_rtt {
            None => String::new(),
            Some(rtt) => format!(", {} ms round trip between sites", rtt.as_secs_f64() * 1e3),
        };
        let what = format!("{verb} in {}", self.directory.display());
        let what = self.style.paint(Tone::Strong, what);
        self.say(&format!(
            "{what}: {} sites, {nodes} nodes{wan}",
            layout.sites.len()
        ));
    }

    fn ready(&self, ready: &Ready) {
        if self.as_json {
            // A reader that went away wants no line; the fabric runs on.
            drop(serde_json::to_string(ready).map(|line| print(&line)));
            return;
        }
        let scheme = match self.tls {
            NbdTls::Require => "nbds",
            NbdTls::Off | NbdTls::On => "nbd",
        };
        let row = |site: &crate::dev::ready::ReadySite| {
            let name = site.name.clone();
            let row = move |n: &crate::dev::ready::ReadyNode| {
                [
                    name.clone(),
                    n.name.clone(),
                    n.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                    format!("{scheme}://{}", n.nbd),
                    n.disks.len().to_string(),
                ]
            };
            site.nodes.iter().map(row).collect::<Vec<_>>()
        };
        let rows = ready.sites.iter().flat_map(row).collect();
        let nodes = table(["site", "node", "pid", "nbd", "disks"], &[2, 4], rows);
        let took = format!("ready after {:.1} s", self.started.elapsed().as_secs_f64());
        let took = self.style.paint(Tone::Good, took);
        let create = format!(
            "atoll --dir {} volume create vol --size 1GiB",
            self.directory.display()
        );
        self.say(&format!(
            "\n{nodes}\n\n{took}; Ctrl-C stops it. A volume, on every node's address:\n  {create}"
        ));
        if self.tls != NbdTls::Off {
            let directory = self.directory.display();
            self.say(&format!(
                "What NBD clients need for TLS:\n  atoll --dir {directory} nbd client-cert --out {directory}/client"
            ));
        }
    }

    fn say(&self, line: &str) {
        // Nobody may be reading; that stops nothing.
        drop(writeln!(io::stderr().lock(), "{line}"));
    }
}
