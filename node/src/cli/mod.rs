//! The command line: what is asked, of whom, and how the answer looks.

pub mod args;
pub mod render;
pub mod style;

mod dev;
#[cfg(feature = "sim")]
pub mod drill;
mod iscsi;
mod maintenance;
mod nbd;
mod node;
mod recovery;
mod scrub;
#[cfg(feature = "sim")]
pub mod sim;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::json;

use self::args::{
    CacheCommand, Cli, Command, DebugCommand, DiskCommand, LinkCommand, NodeCommand, ScrubCommand,
    SiteCommand, VolumeCommand,
};
use self::style::{Style, Tone};
use crate::admin::client;
use crate::admin::protocol::{Failure, FailureKind, Reply, Request, Scope};
use crate::dev::control::{self, Answer, LinkChange};

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match carry_out(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        // What was wrong has been reported.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let head = Style::of(&io::stderr()).paint(Tone::Bad, "error:");
            eprintln!("{head} {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is to be shown of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// All that was answered.
    All,
    /// The item of that name.
    One(String),
}

/// Whom a command concerns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    /// A node's admin socket.
    Admin(Request, Pick),
    /// The supervisor's control socket.
    Control(control::Request),
}

/// Does it; false if it was done, and found something wrong.
fn carry_out(cli: &Cli) -> anyhow::Result<bool> {
    match &cli.command {
        #[cfg(feature = "sim")]
        Command::Sim(args) => sim::simulate(args, cli.json),
        #[cfg(feature = "sim")]
        Command::Check(args) => sim::check(args, cli.json),
        #[cfg(feature = "sim")]
        Command::Drill(command) => drill_command(cli, command),
        command => talk(cli, command),
    }
}

/// What drills there are is no fabric's affair.
#[cfg(feature = "sim")]
fn drill_command(cli: &Cli, command: &drill::DrillCommand) -> anyhow::Result<bool> {
    let directory = match command {
        drill::DrillCommand::List => PathBuf::new(),
        _ => directory(cli)?,
    };
    drill::run(&directory, command, cli.json)
}

/// Asks a node or the supervisor; false if the answer is a no.
fn talk(cli: &Cli, command: &Command) -> anyhow::Result<bool> {
    let mut is_yes = true;
    match command {
        Command::Dev(dev) => dev::run(&directory(cli)?, dev, cli.json),
        Command::Init(make) => node::init(&directory(cli)?, make, cli.json),
        Command::Join(join) => node::join(&directory(cli)?, join, cli.json),
        Command::Run(run) => node::run(&directory(cli)?, run),
        Command::Nbd(command) => nbd::run(&directory(cli)?, command, cli.json),
        Command::Node(NodeCommand::Maintenance { name, wait, end }) => {
            let wait = (!end).then_some(*wait);
            is_yes = maintenance::run(&directory(cli)?, name, wait, cli.json)?;
            Ok(())
        }
        command => {
            let directory = directory(cli)?;
            let text = match plan(command) {
                Some(Plan::Admin(request, pick)) => {
                    let told = client::ask(&directory, &request)?;
                    is_yes = !matches!(&told.reply, Reply::Safety(safety) if !safety.safe);
                    admin(told, &request, &pick, cli.json)?
                }
                Some(Plan::Control(request)) => control(&directory, &request, cli.json)?,
                None => unreachable!("commands without a plan were carried out above"),
            };
            print(&text)
        }
    }?;
    Ok(is_yes)
}

fn directory(cli: &Cli) -> anyhow::Result<PathBuf> {
    let Some(directory) = &cli.dir else {
        bail!("which fabric? give --dir DIR, or set ATOLL_DIR");
    };
    std::path::absolute(directory)
        .with_context(|| format!("{} can't be a directory", directory.display()))
}

/// Prints to standard output; a reader that has enough is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}").and_then(|()| io::stdout().flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't print"),
    }
}

fn admin(
    mut told: client::Told,
    request: &Request,
    pick: &Pick,
    as_json: bool,
) -> anyhow::Result<String> {
    if let Pick::One(name) = pick {
        told.reply = pick_one(told.reply, name)?;
    }
    if !as_json {
        return Ok(render::human(&told, Style::of(&io::stdout())));
    }
    let every_node = request.scope() == Scope::EveryNode;
    let mut body = render::json(&told, every_node);
    if matches!(pick, Pick::One(_)) {
        body = only_item(body);
    }
    Ok(body.to_string())
}

/// Leaves only the item of that name in a list.
fn pick_one(reply: Reply, name: &str) -> Result<Reply, Failure> {
    let (what, reply, known, left) = match reply {
        Reply::Sites(mut list) => {
            let known = names(&list.sites, |site| &site.name);
            list.sites.retain(|site| site.name == name);
            let left = list.sites.len();
            ("site", Reply::Sites(list), known, left)
        }
        Reply::Nodes(mut list) => {
            let known = names(&list.nodes, |node| &node.name);
            list.nodes.retain(|node| node.name == name);
            let left = list.nodes.len();
            ("node", Reply::Nodes(list), known, left)
        }
        Reply::Disks(mut list) => {
            let known = names(&list.disks, |disk| &disk.name);
            list.disks.retain(|disk| disk.is_called(name));
            let left = list.disks.len();
            ("disk", Reply::Disks(list), known, left)
        }
        other => return Ok(other),
    };
    if left == 0 {
        return Err(Failure {
            kind: FailureKind::NotFound,
            message: format!("there is no {what} '{name}': {what}s are {known}"),
        });
    }
    Ok(reply)
}

fn names<T>(list: &[T], name: impl Fn(&T) -> &String) -> String {
    let names: Vec<&str> = list.iter().map(|item| name(item).as_str()).collect();
    names.join(", ")
}

/// The one item of a list's JSON.
fn only_item(body: serde_json::Value) -> serde_json::Value {
    let lists = ["sites", "nodes", "disks"];
    let item = lists
        .iter()
        .find_map(|name| body.get(name)?.get(0))
        .cloned();
    item.unwrap_or(body)
}

fn control(directory: &Path, request: &control::Request, as_json: bool) -> anyhow::Result<String> {
    let answer = control::ask(directory, request)?;
    Ok(match (answer, as_json) {
        (Answer::Nodes(nodes), true) => json!({ "nodes": nodes }).to_string(),
        (Answer::Nodes(nodes), false) => render::processes(&nodes),
        (Answer::Links(links), true) => json!({ "links": links }).to_string(),
        (Answer::Links(links), false) => render::links(&links, Style::of(&io::stdout())),
        (Answer::Error(why), _) => bail!(why),
    })
}

/// What a command asks, and of whom; `None` for those that ask nobody.
pub(crate) fn plan(command: &Command) -> Option<Plan> {
    let all = |request| Plan::Admin(request, Pick::All);
    let one = |request, name: &String| Plan::Admin(request, Pick::One(name.clone()));
    Some(match command {
        Command::Init(_)
        | Command::Join(_)
        | Command::Run(_)
        | Command::Dev(_)
        | Command::Nbd(_)
        | Command::Node(NodeCommand::Maintenance { .. }) => return None,
        #[cfg(feature = "sim")]
        Command::Sim(_) | Command::Check(_) | Command::Drill(_) => return None,
        Command::Token(token) => all(Request::Token {
            node: token.node.clone(),
            site: token.site.clone(),
        }),
        Command::Volume(command) => all(volume(command)),
        Command::Iscsi(command) => all(iscsi::request(command)),
        Command::Status => all(Request::Status),
        Command::Cache(CacheCommand::Drop) => all(Request::CacheDrop),
        Command::Debug(DebugCommand::Syncs) => all(Request::DebugSyncs),
        Command::Debug(DebugCommand::Journal) => all(Request::DebugJournal),
        Command::Disk(DiskCommand::List) => all(Request::DiskList),
        Command::Disk(DiskCommand::Show { name }) => one(Request::DiskList, name),
        Command::Scrub(ScrubCommand::Start { disk, node }) => all(Request::ScrubStart {
            disk: disk.clone(),
            node: node.clone(),
        }),
        Command::Scrub(ScrubCommand::Status) => all(Request::ScrubStatus),
        Command::Site(SiteCommand::List) => all(Request::SiteList),
        Command::Site(SiteCommand::Show { name }) => one(Request::SiteList, name),
        Command::Site(SiteCommand::Witness {
            name,
            one_left,
            end,
        }) => all(Request::SiteWitness {
            name: name.clone(),
            one_left: (!end).then_some(*one_left),
        }),
        Command::Site(SiteCommand::Start { name }) => {
            Plan::Control(control::Request::SiteStart { name: name.clone() })
        }
        Command::Site(SiteCommand::Stop { name }) => {
            Plan::Control(control::Request::SiteStop { name: name.clone() })
        }
        Command::Node(NodeCommand::List) => all(Request::NodeList),
        Command::Node(NodeCommand::Show { name }) => one(Request::NodeList, name),
        Command::Node(NodeCommand::Start { name }) => {
            Plan::Control(control::Request::NodeStart { name: name.clone() })
        }
        Command::Node(NodeCommand::Stop { name }) => {
            Plan::Control(control::Request::NodeStop { name: name.clone() })
        }
        Command::Node(NodeCommand::Remove { name }) => {
            all(Request::NodeRemove { name: name.clone() })
        }
        Command::Node(NodeCommand::Drain { name }) => all(node_drain(name, false)),
        Command::Node(NodeCommand::Undrain { name }) => all(node_drain(name, true)),
        Command::Node(NodeCommand::SafeToStop { name }) => {
            all(Request::NodeSafeToStop { name: name.clone() })
        }
        Command::Disk(DiskCommand::Drain { name }) => all(disk_drain(name, false)),
        Command::Disk(DiskCommand::Undrain { name }) => all(disk_drain(name, true)),
        Command::Disk(DiskCommand::Remove { name, force }) => all(Request::DiskRemove {
            name: name.clone(),
            lost: *force,
        }),
        Command::Link(command) => Plan::Control(link(command)),
    })
}

fn node_drain(name: &str, undo: bool) -> Request {
    let name = name.to_owned();
    Request::NodeDrain { name, undo }
}

fn disk_drain(name: &str, undo: bool) -> Request {
    let name = name.to_owned();
    Request::DiskDrain { name, undo }
}

fn volume(command: &VolumeCommand) -> Request {
    match command.clone() {
        VolumeCommand::Create {
            name,
            size,
            home,
            code,
        } => Request::VolumeCreate {
            name,
            size_bytes: size.0,
            home,
            code: code.to_string(),
        },
        VolumeCommand::List => Request::VolumeList,
        VolumeCommand::Show { name } => Request::VolumeShow { name },
        VolumeCommand::Resize { name, size } => Request::VolumeResize {
            name,
            size_bytes: size.0,
        },
        VolumeCommand::Delete { name } => Request::VolumeDelete { name },
        VolumeCommand::Move { name, to } => Request::VolumeMove { name, to },
        VolumeCommand::Recover { name, accept_loss } => {
            Request::VolumeRecover { name, accept_loss }
        }
    }
}

fn link(command: &LinkCommand) -> control::Request {
    match command.clone() {
        LinkCommand::List => control::Request::LinkList,
        LinkCommand::Cut { a, b, one_way } => control::Request::LinkCut {
            from: a,
            to: b,
            one_way,
        },
        LinkCommand::Heal { a, b } => control::Request::LinkHeal { between: a.zip(b) },
        LinkCommand::Set {
            a,
            b,
            rtt,
            jitter,
            loss,
            bandwidth,
        } => {
            let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
            let change = LinkChange {
                rtt_us: rtt.map(micros),
                jitter_us: jitter.map(micros),
                loss_ppm: loss,
                bytes_per_second: bandwidth.map(|size| size.0),
            };
            control::Request::LinkSet { a, b, change }
        }
    }
}

#[cfg(test)]
mod tests;
