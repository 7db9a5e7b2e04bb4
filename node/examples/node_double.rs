//! A node with a life but without a fabric, for the supervisor's tests: it is made, runs,
//! answers pings, and ends as a node does. Every other command is the real one, so that
//! `node_double dev` supervises doubles.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use clap::Parser;
use node::admin::ping::{Pong, WaitingFor};
use node::admin::protocol::{
    Answer, Degraded, Failure, FailureKind, Reply, Request, Status, Token, UpOf,
};
use node::admin::server::{self, Handler};
use node::cli::args::{Cli, Command, MakeArgs};
use node::daemon::config::{DiskConfig, NodeConfig};

/// Present in a node's directory: its process ends at once.
const BROKEN: &str = "broken";
/// Present in a node's directory: it runs, and says that it lacks others.
const ALONE: &str = "alone";
/// Present in a node's directory: it runs, and says nothing.
const MUTE: &str = "mute";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(directory) = cli.dir.clone() else {
        return node::cli::main();
    };
    match &cli.command {
        Command::Init(args) => make(&directory, args),
        Command::Join(args) => {
            let mut token = String::new();
            std::io::Read::read_to_string(&mut std::io::stdin(), &mut token).expect("a token");
            assert_eq!(
                token,
                format!("for {} in {}", args.make.node, args.make.site)
            );
            make(&directory, &args.make)
        }
        Command::Run(args) => run(&directory, args.supervised),
        _ => node::cli::main(),
    }
}

fn make(directory: &Path, args: &MakeArgs) -> ExitCode {
    let disk = |d: &node::cli::args::DiskArg| DiskConfig {
        name: d.name.clone(),
        path: d.path.clone(),
        size: args.disk_size,
    };
    let config = NodeConfig {
        name: args.node.clone(),
        site: args.site.clone(),
        quic: args.quic,
        nbd: args.nbd,
        iscsi: None,
        disks: args.disks.iter().map(disk).collect(),
        nbd_tls: args.tls.nbd_tls.unwrap_or_default(),
        nbd_tls_verify_peer: args.tls.nbd_tls_verify_peer,
        nbd_names: args.nbd_names.clone(),
        heal_after_s: None,
        scrub_every_s: None,
        scrub_rate: None,
    };
    config.save(directory).expect("the configuration");
    ExitCode::SUCCESS
}

struct Double {
    config: NodeConfig,
    directory: PathBuf,
    /// Whether somebody asked how the fabric is.
    asked: AtomicBool,
}

impl Handler for Double {
    fn handle(&self, request: Request) -> Answer {
        match request {
            Request::Ping => {
                let is_alone = self.directory.join(ALONE).exists();
                Answer::Ok(Reply::Pong(Pong {
                    node: self.config.name.clone(),
                    ready: !is_alone,
                    hears_quorum: !is_alone,
                    waiting_for: is_alone.then_some(WaitingFor::SiteGroup),
                }))
            }
            Request::Token { node, site } => Answer::Ok(Reply::Token(Token {
                token: format!("for {node} in {site}"),
            })),
            Request::Status => Answer::Ok(Reply::Status(self.status())),
            // No fabric knows it.
            Request::NodeRemove { name } => Answer::Error(Failure {
                kind: FailureKind::NotFound,
                message: format!("there is no node '{name}'"),
            }),
            _ => {
                let message = format!("{} is a double", self.directory.display());
                Answer::Error(Failure {
                    kind: FailureKind::Refused,
                    message,
                })
            }
        }
    }
}

impl Double {
    /// Of a fabric that is degraded when it is asked first.
    fn status(&self) -> Status {
        let degraded = Degraded {
            what: "double".to_owned(),
            why: "nobody asked yet".to_owned(),
            doing: "waiting".to_owned(),
        };
        let asked_before = self.asked.swap(true, Ordering::Relaxed);
        let nothing = UpOf { up: 0, of: 0 };
        Status {
            healthy: asked_before,
            degraded: if asked_before {
                Vec::new()
            } else {
                vec![degraded]
            },
            at_risk_bytes: None,
            repairs: Vec::new(),
            notes: Vec::new(),
            seen_by: self.config.name.clone(),
            sites: nothing,
            nodes: nothing,
            disks: nothing,
            volumes: nothing,
        }
    }
}

fn run(directory: &Path, supervised: bool) -> ExitCode {
    if supervised {
        node::dev::child::bind_to_parent().expect("bound");
    }
    if fs::exists(directory.join(BROKEN)).expect("a directory") {
        eprintln!("this node is broken");
        return ExitCode::FAILURE;
    }
    let config = NodeConfig::load(directory).expect("a configuration");
    let routes: BTreeMap<_, _> = node::daemon::config::Routes::load(directory)
        .expect("routes")
        .0;
    println!("{} routes", routes.len());
    let double = Double {
        config,
        directory: directory.to_owned(),
        asked: AtomicBool::default(),
    };
    if !fs::exists(directory.join(MUTE)).expect("a directory") {
        server::serve(directory, Arc::new(double)).expect("the admin socket");
    }
    loop {
        thread::park();
    }
}
