//! The disks that this node serves: opened, handed to its actors, and told to the groups with each
//! change; one whose machine broke is opened again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use actix::Addr;
use actors::runtime::{AttachDisk, Closing, Switchboard};
use anyhow::{Result, ensure};
use model::ids::{DiskId, NodeId};
use raft_meta::message::LocalDisk;
use tokio::sync::mpsc;

use super::config::DiskConfig;
use super::disks::{self, OpenedDisk};
use super::meta::MetaHandle;
use super::peers::DiskNames;

/// What the groups are told of this node's disks.
#[derive(Clone)]
pub struct Served {
    meta: MetaHandle,
    disks: Arc<Mutex<Vec<LocalDisk>>>,
}

impl Served {
    /// None is, and nothing is told yet.
    #[must_use]
    pub fn new(meta: MetaHandle) -> Self {
        Self {
            meta,
            disks: Arc::default(),
        }
    }

    /// A disk is not served any more.
    pub fn remove(&self, disk: DiskId) {
        self.change(|disks| disks.retain(|d| d.at.disk != disk));
    }

    /// Whether a disk has room changed.
    pub fn room(&self, disk: DiskId, has_room: bool) {
        self.change(|disks| {
            let of = disks.iter_mut().filter(|d| d.at.disk == disk);
            of.for_each(|d| d.has_room = has_room);
        });
    }

    fn add(&self, opened: Vec<LocalDisk>) {
        self.change(|disks| disks.extend(opened));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<LocalDisk>)) {
        let mut disks = locked(&self.disks);
        change(&mut disks);
        self.meta.disks(disks.clone());
    }
}

fn local(disk: &OpenedDisk) -> LocalDisk {
    LocalDisk {
        at: disk.at,
        capacity_bytes: disk.capacity_bytes,
        has_room: true,
    }
}

/// A disk that was opened, by its configuration.
pub type Opened = (DiskConfig, OpenedDisk);

/// Opens disks, and has them served.
pub struct Opener {
    /// The node's.
    pub directory: PathBuf,
    /// The fabric's id.
    pub fabric: u64,
    /// This node.
    pub node: NodeId,
    /// The metadata.
    pub meta: MetaHandle,
    /// Where it is told.
    pub served: Served,
    /// Where names and paths of those that were opened are known.
    pub names: Arc<Mutex<DiskNames>>,
    /// What the configuration says of each of those.
    pub configs: Mutex<BTreeMap<DiskId, DiskConfig>>,
}

impl Opener {
    /// Opens disks, and returns those that could be.
    pub async fn open_all(self: &Arc<Self>, disks: Vec<DiskConfig>) -> Vec<Opened> {
        let (mut opening, mut opened) = (self.open_each(disks), Vec::new());
        while let Some(disk) = opening.recv().await {
            opened.push(disk);
        }
        opened
    }

    /// Opens disks, and has each served once it is open.
    pub async fn attach_each(self: Arc<Self>, disks: Vec<DiskConfig>, to: Addr<Switchboard>) {
        let mut opening = self.open_each(disks);
        while let Some(disk) = opening.recv().await {
            self.attach(vec![disk], &to);
        }
    }

    /// Opens disks side by side, each on a thread of its own: recovery reads its journal, and one that
    /// is new waits until the fabric takes it. Nobody waits for such a thread when the process ends.
    fn open_each(self: &Arc<Self>, disks: Vec<DiskConfig>) -> mpsc::Receiver<Opened> {
        let (tell, opened) = mpsc::channel(disks.len().max(1));
        for config in disks {
            let (opener, tell, name) = (Arc::clone(self), tell.clone(), config.name.clone());
            let opening = move || match opener.open(&config) {
                // The node may stop meanwhile.
                Ok(disk) => drop(tell.blocking_send((config, disk))),
                // One bad disk does not keep the node's others from serving.
                Err(error) => tracing::error!("{error:#}: this disk is not served"),
            };
            let named = thread::Builder::new().name(format!("open-{name}"));
            if let Err(error) = named.spawn(opening) {
                tracing::error!(disk = %name, %error, "no thread to open the disk: it is not served");
            }
        }
        opened
    }

    /// Has disks served.
    pub fn attach(&self, opened: Vec<Opened>, switchboard: &Addr<Switchboard>) {
        let mut served = Vec::new();
        for (config, disk) in opened {
            let path = self.directory.join(&config.path).display().to_string();
            let id = disk.at.disk;
            locked(&self.names).insert(id, (config.name.clone(), path));
            locked(&self.configs).insert(id, config);
            served.push(local(&disk));
            switchboard.do_send(AttachDisk::from(disk));
        }
        self.served.add(served);
    }

    /// Opens a disk whose machine broke, on a thread of its own, once its old threads have ended.
    /// One that can't be opened stays away until the process starts again, as at its start.
    pub fn reopen(self: Arc<Self>, disk: DiskId, closing: Closing, switchboard: Addr<Switchboard>) {
        let again = thread::Builder::new().name(format!("reopen-{}", disk.0));
        let opening = again.spawn(move || {
            closing.wait();
            match self.open_again(disk) {
                Ok(opened) => {
                    tracing::info!(%disk, "the disk is served again");
                    self.attach(vec![opened], &switchboard);
                }
                Err(error) => tracing::error!(%disk, "{error:#}: the disk is not served again"),
            }
        });
        if let Err(error) = opening {
            tracing::error!(%disk, %error, "no thread to open the disk again: it is not served");
        }
    }

    fn open(&self, config: &DiskConfig) -> Result<OpenedDisk> {
        disks::open(&self.directory, config, self.fabric, self.node, &self.meta)
    }

    fn open_again(&self, disk: DiskId) -> Result<Opened> {
        let config = locked(&self.configs)[&disk].clone();
        let opened = self.open(&config)?;
        ensure!(
            opened.at.disk == disk,
            "there is another disk in its directory"
        );
        Ok((config, opened))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
