//! A fabric as any client sees it: `atoll dev` as a process, by the contract of its ready
//! line and its command line.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::iter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;

use crate::command::root;

/// What `atoll dev --json` prints once all nodes serve.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Ready {
    ready: bool,
    pub(crate) sites: Vec<Site>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) pid: i32,
    pub(crate) nbd: SocketAddr,
}

/// Whose processes are killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Victim<'a> {
    /// A site, by its name.
    Site(&'a str),
    /// One node, by its name.
    Node(&'a str),
}

impl Victim<'_> {
    fn includes(self, site: &Site, node: &Node) -> bool {
        match self {
            Self::Site(name) => site.name == name,
            Self::Node(name) => node.name == name,
        }
    }
}

impl fmt::Display for Victim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(name) => write!(f, "site {name}"),
            Self::Node(name) => write!(f, "node {name}"),
        }
    }
}

/// A running fabric; dropping it stops it, and removes its directory unless it is kept.
#[derive(Debug)]
pub(crate) struct Fabric {
    process: Child,
    _stdin: Option<ChildStdin>,
    pub(crate) directory: PathBuf,
    pub(crate) sites: Vec<Site>,
    is_kept: bool,
}

/// Names another build of the product than that of this tree.
const PROGRAM: &str = "ATOLL_PROGRAM";

/// Another build of the product, if one is to be run.
pub(crate) fn given_program() -> Option<PathBuf> {
    env::var_os(PROGRAM).map(PathBuf::from)
}

/// The product: as `cargo xtask` builds it, or the one that is given.
pub(crate) fn program() -> PathBuf {
    given_program().unwrap_or_else(|| root().join("target/release/atoll"))
}

impl Fabric {
    /// Starts a new fabric in a directory that is not there yet.
    pub(crate) fn start(directory: PathBuf, more: &[&str]) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("can't make {}", directory.display()))?;
        let said = directory.join("dev.log");
        let mut process = Command::new(program())
            .args(["dev", "--json", "--dir"])
            .arg(&directory)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&said)?)
            .spawn()
            .with_context(|| format!("can't start {}", program().display()))?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().context("no pipe")?;
        // From here on it is stopped whatever happens.
        let mut fabric = Self {
            process,
            _stdin: stdin,
            directory,
            sites: Vec::new(),
            is_kept: false,
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match serde_json::from_str::<Ready>(&line) {
            Ok(ready) if ready.ready => fabric.sites = ready.sites,
            _ => {
                fabric.is_kept = true;
                let text = fs::read_to_string(&said).unwrap_or_default();
                bail!(
                    "the fabric did not get ready; it said:\n{}",
                    text.trim_end()
                );
            }
        }
        Ok(fabric)
    }

    /// Leaves the directory for whoever looks for the cause of a failure.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }

    pub(crate) fn site(&self, name: &str) -> anyhow::Result<&Site> {
        self.sites
            .iter()
            .find(|site| site.name == name)
            .with_context(|| format!("no site {name}"))
    }

    /// Runs `atoll --dir D ... --json`.
    pub(crate) fn atoll(&self, line: &str) -> anyhow::Result<Value> {
        let output = Command::new(program())
            .arg("--dir")
            .arg(&self.directory)
            .args(line.split(' '))
            .arg("--json")
            .output()
            .context("can't start target/release/atoll")?;
        if !output.status.success() {
            bail!(
                "atoll {line}: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("atoll {line} printed no JSON"))
    }

    /// The nodes of a victim; at least one.
    pub(crate) fn nodes_of(&self, victim: Victim<'_>) -> anyhow::Result<Vec<&Node>> {
        let mut nodes = Vec::new();
        for site in &self.sites {
            nodes.extend(site.nodes.iter().filter(|n| victim.includes(site, n)));
        }
        if nodes.is_empty() {
            bail!("there is no {victim}");
        }
        Ok(nodes)
    }

    /// SIGKILL for every process of a victim, one after the other without a pause.
    pub(crate) fn kill(&self, victim: Victim<'_>) -> anyhow::Result<Instant> {
        let nodes = self.nodes_of(victim)?.into_iter();
        let pids: Vec<Pid> = nodes.filter_map(|node| Pid::from_raw(node.pid)).collect();
        let at = Instant::now();
        for pid in pids {
            kill_process(pid, Signal::KILL)
                .context("can't kill a node that this fabric started")?;
        }
        Ok(at)
    }

    /// Starts a victim's processes again, and takes note of them.
    pub(crate) fn start_again(&mut self, victim: Victim<'_>) -> anyhow::Result<()> {
        let started = self.atoll(&match victim {
            Victim::Site(name) => format!("site start {name}"),
            Victim::Node(name) => format!("node start {name}"),
        })?;
        let pid_of = |node: &str| {
            let nodes = started["nodes"].as_array()?;
            nodes.iter().find(|n| n["name"] == node)?["pid"].as_i64()
        };
        for site in &mut self.sites {
            for i in 0..site.nodes.len() {
                if victim.includes(site, &site.nodes[i]) {
                    let node = &mut site.nodes[i];
                    let pid = pid_of(&node.name)
                        .with_context(|| format!("node {} did not start", node.name))?;
                    node.pid = i32::try_from(pid)?;
                }
            }
        }
        Ok(())
    }

    /// The node that owns a volume, by the volume's record.
    pub(crate) fn owner(&self, volume: &str) -> anyhow::Result<Option<String>> {
        let shown = self.atoll(&format!("volume show {volume}"))?;
        Ok(shown["owner"].as_str().map(ToOwned::to_owned))
    }

    /// Waits until `status` calls the fabric healthy.
    pub(crate) fn wait_until_healthy(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.atoll("status")?;
            if status["healthy"] == true {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "still degraded after {} s: {}",
                    patience.as_secs(),
                    status["degraded"]
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Front ends: the victim's first node, then the others of its site that go on, then across
    /// the other sites.
    pub(crate) fn front_ends_from(&self, victim: Victim<'_>) -> anyhow::Result<Vec<SocketAddr>> {
        let first = self.nodes_of(victim)?[0];
        let is_home = |site: &&Site| site.nodes.iter().any(|node| node.name == first.name);
        let (home, others): (Vec<&Site>, Vec<&Site>) = self.sites.iter().partition(is_home);
        let beside = home.iter().flat_map(|site| {
            let nodes = site.nodes.iter();
            nodes.filter(move |node| !victim.includes(site, node))
        });
        // Across the other sites before along them: the second try is never the site just lost.
        let widest = others.iter().map(|site| site.nodes.len()).max();
        let across = (0..widest.unwrap_or(0))
            .flat_map(|n| others.iter().filter_map(move |site| site.nodes.get(n)));
        let nodes = iter::once(first).chain(beside).chain(across);
        Ok(nodes.map(|node| node.nbd).collect())
    }

    /// Resident memory of each node's process, bytes.
    pub(crate) fn memory(&self) -> Vec<(String, u64)> {
        let nodes = self.sites.iter().flat_map(|site| &site.nodes);
        nodes
            .filter_map(|node| Some((node.name.clone(), resident_bytes(node.pid)?)))
            .collect()
    }
}

/// VmRSS of a process.
fn resident_bytes(pid: i32) -> Option<u64> {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/status"))
        .ok()?
        .read_to_string(&mut text)
        .ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        // It stops its nodes first, and kills those that don't listen.
        drop(self.process.wait());
        if self.is_kept {
            eprintln!(
                "the fabric's directory is kept: {}",
                self.directory.display()
            );
        } else {
            drop(fs::remove_dir_all(&self.directory));
        }
    }
}

/// A fresh directory for a fabric, under the target directory: on a real disk, where a
/// temporary directory may be memory.
pub(crate) fn fresh_directory(task: &str) -> PathBuf {
    let base: &Path = &root().join("target/fabrics");
    base.join(format!("{task}-{}", std::process::id()))
}
