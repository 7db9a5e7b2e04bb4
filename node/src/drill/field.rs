//! The fabric as a drill takes hold of it: its processes, its links, its disks, its nodes' words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::error::DrillError;
use super::ground::{Ground, Site};
use super::keeper::Keeper;
use crate::admin::client;
use crate::admin::protocol::{Disk, Disks, Nodes, Reply, Request, Safety, Status, Volume, Volumes};
use crate::dev::control::{self, Answer, Link};

/// A volume is made by then, or the drill does not begin.
const CREATE_MAX: Duration = Duration::from_secs(10);
/// A volume is deleted by then, or told as left.
const DELETE_MAX: Duration = Duration::from_secs(20);
/// The kernel needs a moment to end a process that was killed.
const DEATH_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Where a drill takes place.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) directory: PathBuf,
    pub(super) ground: Ground,
    /// Of a live fabric: it has no supervisor, and nothing of it is killed or cut.
    pub(super) keeper: Option<Keeper>,
}

impl Field {
    pub(super) fn new(directory: &Path, ground: Ground, keeper: Option<Keeper>) -> Self {
        Self {
            directory: directory.to_owned(),
            ground,
            keeper,
        }
    }

    /// Fences a site of a live fabric.
    pub(super) fn fence(&self, site: &str) -> Result<(), DrillError> {
        let keeper = self.keeper.as_ref();
        keeper.expect("only a live fabric is fenced").raise(site)
    }

    /// Lifts the fence, if one stands.
    pub(super) fn lift(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.lift();
        }
    }

    /// Why the fence can't be kept up, if there is one and it can't.
    pub(super) fn fence_broken(&self) -> Option<String> {
        self.keeper.as_ref()?.broken()
    }

    pub(super) fn volumes(&self) -> Result<Volumes, DrillError> {
        match self.admin(&Request::VolumeList)? {
            Reply::Volumes(volumes) => Ok(volumes),
            _ => Err(wrong()),
        }
    }

    /// Asks the supervisor.
    pub(super) fn control(&self, request: &control::Request) -> Result<Answer, DrillError> {
        Ok(control::ask(&self.directory, request)?)
    }

    /// Asks a node, whichever answers.
    pub(super) fn admin(&self, request: &Request) -> Result<Reply, DrillError> {
        Ok(client::ask(&self.directory, request)?.reply)
    }

    pub(super) fn status(&self) -> Result<Status, DrillError> {
        match self.admin(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            _ => Err(wrong()),
        }
    }

    pub(super) fn volume(&self, name: &str) -> Result<Volume, DrillError> {
        let name = name.to_owned();
        match self.admin(&Request::VolumeShow { name })? {
            Reply::Volume(volume) => Ok(volume),
            _ => Err(wrong()),
        }
    }

    /// Makes a volume: a fabric that was started just now may need a moment for it.
    pub(super) fn create_volume(
        &self,
        name: &str,
        size_bytes: u64,
        home: Option<&String>,
        code: &str,
    ) -> Result<(), DrillError> {
        let deadline = Instant::now() + CREATE_MAX;
        let request = Request::VolumeCreate {
            name: name.to_owned(),
            size_bytes,
            home: home.cloned(),
            code: code.to_owned(),
        };
        loop {
            let Err(error) = self.admin(&request) else {
                return Ok(());
            };
            // The answer alone may have been lost.
            if self.volume(name).is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Deletes a volume; one that is not there is deleted.
    pub(super) fn delete_volume(&self, name: &str) -> Result<(), DrillError> {
        let deadline = Instant::now() + DELETE_MAX;
        let request = Request::VolumeDelete {
            name: name.to_owned(),
        };
        loop {
            let Err(error) = self.admin(&request) else {
                return Ok(());
            };
            // An answer may have been lost.
            if self.status().is_ok() && self.volume(name).is_err() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    pub(super) fn nodes(&self) -> Result<Nodes, DrillError> {
        match self.admin(&Request::NodeList)? {
            Reply::Nodes(nodes) => Ok(nodes),
            _ => Err(wrong()),
        }
    }

    pub(super) fn disks(&self) -> Result<Disks, DrillError> {
        match self.admin(&Request::DiskList)? {
            Reply::Disks(disks) => Ok(disks),
            _ => Err(wrong()),
        }
    }

    pub(super) fn safety(&self, node: &str) -> Result<Safety, DrillError> {
        let name = node.to_owned();
        match self.admin(&Request::NodeSafeToStop { name })? {
            Reply::Safety(safety) => Ok(safety),
            _ => Err(wrong()),
        }
    }

    /// A disk that serves.
    pub(super) fn disk(&self, name: &str) -> Result<Disk, DrillError> {
        let disks = self.disks()?.disks;
        let serves = |d: &&Disk| d.path.is_some();
        let found = disks.iter().filter(serves).find(|d| d.is_called(name));
        found.cloned().ok_or_else(|| {
            let known = disks.iter().filter(serves).map(|d| d.name.as_str());
            DrillError::Disk {
                name: name.to_owned(),
                known: known.collect::<Vec<_>>().join(", "),
            }
        })
    }

    fn processes(&self) -> Result<BTreeMap<String, Pid>, DrillError> {
        let Answer::Nodes(nodes) = self.control(&control::Request::Processes)? else {
            return Err(wrong());
        };
        let pid = |p: control::Process| {
            let raw = i32::try_from(p.pid?).ok()?;
            Some((p.name, Pid::from_raw(raw)?))
        };
        Ok(nodes.into_iter().filter_map(pid).collect())
    }

    /// Sends a signal to the processes of those nodes that run.
    pub(super) fn signal(&self, nodes: &[String], signal: Signal) -> Result<(), DrillError> {
        // All of them are known before the first one is hit.
        let running = self.processes()?;
        for node in nodes {
            let Some(pid) = running.get(node) else {
                continue;
            };
            kill_process(*pid, signal).map_err(|error| DrillError::Signal {
                node: node.clone(),
                error: error.into(),
            })?;
        }
        Ok(())
    }

    /// Kills processes, and waits until they are gone.
    pub(super) fn kill(&self, nodes: &[String]) -> Result<(), DrillError> {
        self.signal(nodes, Signal::KILL)?;
        let deadline = Instant::now() + DEATH_MAX;
        loop {
            let running = self.processes()?;
            match nodes.iter().find(|n| running.contains_key(*n)) {
                None => return Ok(()),
                Some(node) if Instant::now() > deadline => {
                    return Err(DrillError::Undead(node.clone()));
                }
                Some(_) => thread::sleep(POLL),
            }
        }
    }

    /// Starts nodes that do not run, all at once; returns when they serve.
    pub(super) fn start(&self, nodes: &[String]) -> Result<(), DrillError> {
        let names = nodes.to_vec();
        self.control(&control::Request::NodesStart { names })
            .map(drop)
    }

    /// Stops a node cleanly.
    pub(super) fn stop(&self, node: &str) -> Result<(), DrillError> {
        let name = node.to_owned();
        self.control(&control::Request::NodeStop { name }).map(drop)
    }

    /// Has a node emptied, or serve again; what is left on it.
    pub(super) fn drain(&self, node: &str, undo: bool) -> Result<Reply, DrillError> {
        let name = node.to_owned();
        self.admin(&Request::NodeDrain { name, undo })
    }

    /// Each direction between sites, if the WAN emulator runs.
    pub(super) fn links(&self) -> Option<Vec<Link>> {
        match control::ask(&self.directory, &control::Request::LinkList) {
            Ok(Answer::Links(links)) => Some(links),
            _ => None,
        }
    }

    /// Bytes that passed between sites, if the WAN emulator counts them.
    pub(super) fn wan_bytes(&self) -> Option<u64> {
        let links = self.links()?;
        Some(links.iter().map(|l| l.bytes_passed).sum())
    }

    pub(super) fn nodes_of(&self, site: &str) -> Vec<String> {
        let site = self.ground.sites.iter().find(|s| s.name == site);
        let nodes = site.into_iter().flat_map(|s| &s.nodes);
        nodes.map(|n| n.name.clone()).collect()
    }

    pub(super) fn all_nodes(&self) -> Vec<String> {
        let nodes = self.ground.nodes();
        nodes.map(|(_, n)| n.name.clone()).collect()
    }

    /// Sites with their nodes.
    pub(super) fn sites(&self) -> BTreeMap<String, Vec<String>> {
        let name = |s: &Site| s.name.clone();
        let sites = self.ground.sites.iter().map(name);
        sites.map(|s| (s.clone(), self.nodes_of(&s))).collect()
    }

    /// The site of a node; the first one if there is no such node.
    pub(super) fn site_of(&self, node: &str) -> String {
        match self.ground.node(node) {
            Ok((site, _)) => site.name.clone(),
            Err(_) => self.ground.sites[0].name.clone(),
        }
    }
}

/// An answer to another question.
fn wrong() -> DrillError {
    client::ClientError::WrongReply("that was asked".to_owned()).into()
}
