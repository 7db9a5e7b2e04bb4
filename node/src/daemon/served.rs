//! The disks that this node serves: opened, handed to its actors, and told to the groups with each
//! change; one that could not be opened is tried again, and so is one whose machine broke.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use actix::Addr;
use actors::disk::Reopening;
use actors::runtime::{AttachDisk, Closing, Device, Switchboard, boottime};
use anyhow::{Error, Result, ensure};
use model::ids::{DiskId, Incarnation, NodeId};
use model::placement::DiskHealth;
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

    /// A disk says something else of itself.
    pub fn health(&self, disk: DiskId, health: DiskHealth) {
        self.change(|disks| {
            let of = disks.iter_mut().filter(|d| d.at.disk == disk);
            of.for_each(|d| d.health = health);
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
        health: DiskHealth::default(),
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
    /// The lives of disks that are new, by their paths: one each, however often they are tried, so
    /// that the fabric is told of one disk.
    pub lives: Mutex<BTreeMap<PathBuf, Incarnation>>,
}

/// A disk that could not be opened, by its configuration.
#[derive(Debug)]
pub struct Unopened {
    config: DiskConfig,
    error: Error,
    /// Whether it was there: then an empty directory in its place is none to be formatted.
    was_known: bool,
}

impl Opener {
    /// Opens disks, and returns those that could be, and those that could not.
    pub async fn open_all(
        self: &Arc<Self>,
        disks: Vec<DiskConfig>,
    ) -> (Vec<Opened>, Vec<Unopened>) {
        let (mut opening, mut opened, mut failed) = (self.open_each(disks), Vec::new(), Vec::new());
        while let Some(tried) = opening.recv().await {
            match tried {
                Ok(disk) => opened.push(disk),
                Err(disk) => failed.push(disk),
            }
        }
        (opened, failed)
    }

    /// Opens disks, and has each served once it is open. Returns when each was tried once.
    pub async fn attach_each(self: Arc<Self>, disks: Vec<DiskConfig>, to: Addr<Switchboard>) {
        let mut opening = self.open_each(disks);
        while let Some(tried) = opening.recv().await {
            match tried {
                Ok(disk) => self.attach(vec![disk], &to),
                Err(disk) => self.keep_trying(vec![disk], &to),
            }
        }
    }

    /// Opens disks side by side, each on a thread of its own: recovery reads its journal, and one that
    /// is new waits until the fabric takes it. Nobody waits for such a thread when the process ends.
    fn open_each(
        self: &Arc<Self>,
        disks: Vec<DiskConfig>,
    ) -> mpsc::Receiver<Result<Opened, Unopened>> {
        let (tell, tried) = mpsc::channel(disks.len().max(1));
        for config in disks {
            let (opener, tell, name) = (Arc::clone(self), tell.clone(), config.name.clone());
            let opening = move || {
                let was_known = !disks::is_new(&opener.directory, &config);
                let opened = match was_known {
                    true => opener.open_known(&config),
                    false => opener.open_new(&config),
                };
                let tried = match opened {
                    Ok(disk) => Ok((config, disk)),
                    Err(error) => Err(Unopened {
                        config,
                        error,
                        was_known,
                    }),
                };
                // The node may stop meanwhile.
                drop(tell.blocking_send(tried));
            };
            let named = thread::Builder::new().name(format!("open-{name}"));
            if let Err(error) = named.spawn(opening) {
                tracing::error!(disk = %name, %error, "no thread to open the disk: it is not served");
            }
        }
        tried
    }

    /// Tries disks again that could not be opened, each on a thread of its own: one bad disk does
    /// not keep the node's others from serving.
    pub fn keep_trying(self: &Arc<Self>, disks: Vec<Unopened>, switchboard: &Addr<Switchboard>) {
        for Unopened {
            config,
            error,
            was_known,
        } in disks
        {
            let (opener, to, name) = (Arc::clone(self), switchboard.clone(), config.name.clone());
            let again = thread::Builder::new().name(format!("reopen-{name}"));
            let trying = again.spawn(move || {
                let open = |opener: &Self| {
                    let opened = match was_known {
                        true => opener.open_known(&config),
                        false => opener.open_new(&config),
                    };
                    Ok((config.clone(), opened?))
                };
                opener.try_until_open(&config.name, error, open, &to);
            });
            if let Err(error) = trying {
                tracing::error!(disk = %name, %error, "no thread to open the disk again: it is not served");
            }
        }
    }

    /// Opens a disk again and again, with growing pauses, until it can be served.
    fn try_until_open(
        &self,
        name: &str,
        mut failed: Error,
        open: impl Fn(&Self) -> Result<Opened>,
        switchboard: &Addr<Switchboard>,
    ) {
        let mut reopening = Reopening::default();
        loop {
            let pause = reopening.pause(boottime());
            tracing::error!(
                "{failed:#}: disk {name} is not served, and tried again in {} s",
                pause.as_secs()
            );
            thread::sleep(pause);
            match open(self) {
                Ok(opened) => {
                    tracing::info!(disk = %name, "the disk is served again");
                    return self.attach(vec![opened], switchboard);
                }
                Err(error) => failed = error,
            }
        }
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
    pub fn reopen(self: Arc<Self>, disk: DiskId, closing: Closing, switchboard: Addr<Switchboard>) {
        let again = thread::Builder::new().name(format!("reopen-{}", disk.0));
        let opening = again.spawn(move || {
            if closing.wait() == Device::Failed {
                // As after any other error of its device (R8).
                tracing::error!(%disk, "its device failed meanwhile: the disk is not served again");
                return;
            }
            match self.open_again(disk) {
                Ok(opened) => {
                    tracing::info!(%disk, "the disk is served again");
                    self.attach(vec![opened], &switchboard);
                }
                Err(error) => {
                    let name = disk.to_string();
                    self.try_until_open(&name, error, |me| me.open_again(disk), &switchboard);
                }
            }
        });
        if let Err(error) = opening {
            tracing::error!(%disk, %error, "no thread to open the disk again: it is not served");
        }
    }

    fn open(&self, config: &DiskConfig, new: Option<Incarnation>) -> Result<OpenedDisk> {
        let (directory, meta) = (&self.directory, &self.meta);
        disks::open(directory, config, self.fabric, self.node, meta, new)
    }

    /// Opens a disk that may have to be formatted first.
    fn open_new(&self, config: &DiskConfig) -> Result<OpenedDisk> {
        let drawn = Incarnation(disks::random()?);
        let mut lives = locked(&self.lives);
        let life = *lives.entry(config.path.clone()).or_insert(drawn);
        drop(lives);
        self.open(config, Some(life))
    }

    /// Opens a disk that was there when the node started.
    fn open_known(&self, config: &DiskConfig) -> Result<OpenedDisk> {
        self.open(config, None)
    }

    fn open_again(&self, disk: DiskId) -> Result<Opened> {
        let config = locked(&self.configs)[&disk].clone();
        let opened = self.open_known(&config)?;
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
