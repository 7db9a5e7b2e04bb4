//! `atoll init`, `join` and `run`: making a node's directory and running it.

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::json;

use super::args::{JoinArgs, MakeArgs, RunArgs};
use super::print;
use crate::daemon::config::{DiskConfig, NodeConfig};
use crate::daemon::join;
use crate::daemon::run::{self, Overrides};
use crate::dev::child;

fn config(make: &MakeArgs) -> NodeConfig {
    let disk = |disk: &super::args::DiskArg| DiskConfig {
        name: disk.name.clone(),
        path: disk.path.clone(),
        size: make.disk_size,
    };
    NodeConfig {
        name: make.node.clone(),
        site: make.site.clone(),
        quic: make.quic,
        nbd: make.nbd,
        iscsi: make.iscsi,
        disks: make.disks.iter().map(disk).collect(),
        nbd_tls: make.tls.nbd_tls.unwrap_or_default(),
        nbd_tls_verify_peer: make.tls.nbd_tls_verify_peer,
        nbd_names: make.nbd_names.clone(),
        heal_after_s: None,
        scrub_every_s: None,
        scrub_rate: None,
    }
}

fn say_made(directory: &Path, make: &MakeArgs, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print(&json!({"node": make.node, "site": make.site, "dir": directory}).to_string());
    }
    print(&format!(
        "node {} of site {} is made; start it with: atoll --dir {} run",
        make.node,
        make.site,
        directory.display()
    ))
}

pub(super) fn init(directory: &Path, make: &MakeArgs, as_json: bool) -> anyhow::Result<()> {
    config(make).check()?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("can't make {}", directory.display()))?;
    join::init(directory, &config(make))?;
    say_made(directory, make, as_json)
}

pub(super) fn join(directory: &Path, args: &JoinArgs, as_json: bool) -> anyhow::Result<()> {
    config(&args.make).check()?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("can't make {}", directory.display()))?;
    let mut token = args.token.clone();
    if token == "-" {
        token.clear();
        io::stdin()
            .read_to_string(&mut token)
            .context("can't read the token")?;
    }
    if token.trim().is_empty() {
        bail!(
            "the token is empty: `atoll token` on a site's first node (it has a ca.key) gives one"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(join::join(directory, &config(&args.make), &token))
        .context("this node can't join")?;
    say_made(directory, &args.make, as_json)
}

pub(super) fn run(directory: &Path, args: &RunArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ATOLL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    if args.supervised {
        child::bind_to_parent().context("can't bind to the supervisor")?;
    }
    let overrides = Overrides {
        nbd_tls: args.tls.nbd_tls,
        nbd_tls_verify_peer: args.tls.nbd_tls_verify_peer,
        heal_after_s: args.heal_after,
    };
    run::run(directory, &overrides)
}
