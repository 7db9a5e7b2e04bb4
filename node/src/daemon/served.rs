//! The disks that this node serves: the groups are told with each change, and one whose machine
//! broke is opened again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use actix::Addr;
use actors::runtime::{AttachDisk, Closing, Switchboard};
use anyhow::{Result, ensure};
use model::ids::{DiskId, NodeId};
use raft_meta::message::LocalDisk;

use super::config::DiskConfig;
use super::disks::{self, OpenedDisk};
use super::meta::MetaHandle;

/// What the groups are told of this node's disks.
#[derive(Clone)]
pub struct Served {
    meta: MetaHandle,
    disks: Arc<Mutex<Vec<LocalDisk>>>,
}

impl Served {
    /// Tells that these disks are served.
    #[must_use]
    pub fn new<'a>(meta: MetaHandle, opened: impl Iterator<Item = &'a OpenedDisk>) -> Self {
        let disks: Vec<LocalDisk> = opened.map(local).collect();
        meta.disks(disks.clone());
        Self {
            meta,
            disks: Arc::new(Mutex::new(disks)),
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

    fn add(&self, disk: LocalDisk) {
        self.change(|disks| disks.push(disk));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<LocalDisk>)) {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Opens disks again.
pub struct Reopener {
    /// The node's.
    pub directory: PathBuf,
    /// What the configuration says of each disk that was opened.
    pub disks: BTreeMap<DiskId, DiskConfig>,
    /// The fabric's id.
    pub fabric: u64,
    /// This node.
    pub node: NodeId,
    /// The metadata.
    pub meta: MetaHandle,
    /// Where it is told.
    pub served: Served,
}

impl Reopener {
    /// Opens a disk whose machine broke, on a thread of its own, once its old threads have ended.
    /// One that can't be opened stays away until the process starts again, as at its start.
    pub fn reopen(self: Arc<Self>, disk: DiskId, closing: Closing, switchboard: Addr<Switchboard>) {
        let again = thread::Builder::new().name(format!("reopen-{}", disk.0));
        let opening = again.spawn(move || {
            closing.wait();
            match self.open(disk) {
                Ok(opened) => {
                    tracing::info!(%disk, "the disk is served again");
                    let served = local(&opened);
                    switchboard.do_send(AttachDisk::from(opened));
                    self.served.add(served);
                }
                Err(error) => tracing::error!(%disk, "{error:#}: the disk is not served again"),
            }
        });
        if let Err(error) = opening {
            tracing::error!(%disk, %error, "no thread to open the disk again: it is not served");
        }
    }

    fn open(&self, disk: DiskId) -> Result<OpenedDisk> {
        let config = &self.disks[&disk];
        let opened = disks::open(&self.directory, config, self.fabric, self.node, &self.meta)?;
        ensure!(
            opened.at.disk == disk,
            "there is another disk in its directory"
        );
        Ok(opened)
    }
}
