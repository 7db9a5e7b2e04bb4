//! A node's disks: formatting new ones, opening known ones, and their stores for the actors.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use actors::disk::{Found, ScrubStats};
use actors::runtime::{AttachDisk, DiskFigures, DiskStores, FragmentStore, JournalStore};
use anyhow::{Context, Result, bail};
use disk_store::catalog::RocksCatalog;
use disk_store::file::real::RealFiles;
use disk_store::fragments::{Fragments, FragmentsConfig};
use disk_store::journal::{Journal, JournalConfig};
use disk_store::superblock::{self, FabricId, Superblock, SuperblockError};
use model::ids::{DiskRef, Incarnation, NodeId};
use model::store::{
    DeviceError, FileNo, FragmentDone, FragmentOp, JournalDone, JournalOp, JournalRoom,
};
use raft_meta::node::{AdminCommand, AdminReply};

use super::config::DiskConfig;
use super::meta::MetaHandle;

/// A disk that was opened.
pub struct OpenedDisk {
    /// The disk in its life.
    pub at: DiskRef,
    /// Its capacity.
    pub capacity_bytes: u64,
    /// Its stores.
    pub stores: DiskStores,
    /// What opening them found.
    pub found: Found,
}

impl From<OpenedDisk> for AttachDisk {
    fn from(disk: OpenedDisk) -> Self {
        let OpenedDisk {
            at,
            capacity_bytes: _,
            stores,
            found,
        } = disk;
        Self { at, stores, found }
    }
}

struct RealJournal {
    journal: Journal<RealFiles>,
    superblock: Superblock<RealFiles>,
}

struct RealFragments(Fragments<RealFiles, RocksCatalog>);

impl JournalStore for RealJournal {
    fn execute(&mut self, op: JournalOp) -> Result<JournalDone, DeviceError> {
        self.journal.execute(op)
    }

    fn settle(&mut self) -> Result<(), DeviceError> {
        self.journal.settle()
    }

    fn rest(&mut self) -> Result<(), DeviceError> {
        self.journal.rest()
    }

    fn room(&self) -> JournalRoom {
        self.journal.room()
    }

    fn figures(&self) -> DiskFigures {
        let files = self.journal.files().into_iter();
        DiskFigures {
            syncs: self.journal.syncs(),
            files: files
                .map(|f| (f.file.unwrap_or(FileNo(0)), f.path, f.file.is_none()))
                .collect(),
            journal_file_bytes: JournalConfig::new(0).file_bytes,
            fragment_bytes: 0,
            // The machine's.
            scrub: ScrubStats::default(),
        }
    }

    fn is_current(&self) -> bool {
        self.superblock.is_current() && self.journal.is_current()
    }
}

impl FragmentStore for RealFragments {
    fn execute(&mut self, ops: Vec<FragmentOp>) -> Result<Vec<FragmentDone>, DeviceError> {
        self.0.execute_batch(ops)
    }

    fn settle(&mut self) -> Result<(), DeviceError> {
        self.0.settle()
    }

    fn take_lack(&mut self) -> bool {
        self.0.take_lack()
    }

    fn bytes(&self) -> u64 {
        self.0.stats().used_bytes
    }
}

/// Random bits of the system, for ids that must never repeat.
///
/// # Errors
/// If the system has none.
pub fn random() -> Result<u64> {
    let mut bytes = [0_u8; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut bytes))
        .context("no random bytes to be had")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Whether a disk is yet to be formatted, so that opening it waits for the fabric.
#[must_use]
pub fn is_new(node_directory: &Path, config: &DiskConfig) -> bool {
    let layer = RealFiles::new(&node_directory.join(&config.path));
    matches!(Superblock::open(&layer), Err(SuperblockError::Missing))
}

/// Opens a disk; one without a superblock is new, is made known to the fabric and formatted:
/// an emptied or swapped directory is never taken for the old disk (R2). Where there was a disk
/// (`new` is none) nothing is formatted: its file system may not be mounted.
///
/// # Errors
/// The directory is damaged or another disk's, or the fabric can't be asked.
pub fn open(
    node_directory: &Path,
    config: &DiskConfig,
    fabric: u64,
    node: NodeId,
    meta: &MetaHandle,
    new: Option<Incarnation>,
) -> Result<OpenedDisk> {
    let path: PathBuf = node_directory.join(&config.path);
    fs::create_dir_all(&path)
        .with_context(|| format!("disk {}: {}", config.name, path.display()))?;
    let layer = RealFiles::new(&path);
    let superblock = match Superblock::open(&layer) {
        Ok(superblock) => superblock,
        Err(SuperblockError::Missing) => {
            let incarnation = new.with_context(|| {
                let at = path.display();
                format!("no disk is at {at} any more: is its file system mounted?")
            })?;
            format(&layer, config, fabric, node, meta, incarnation)?
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("disk {} at {}", config.name, path.display()));
        }
    };
    let identity = superblock.identity();
    if identity.fabric != FabricId(fabric) {
        bail!(
            "disk {} at {} belongs to another fabric: give an empty directory",
            config.name,
            path.display()
        );
    }
    let id = identity.incarnation.0;
    let (journal, scan, verdict) = Journal::open(&layer, JournalConfig::new(id))?;
    let catalog = RocksCatalog::open(&path.join("catalog"));
    let fragments = FragmentsConfig::new(id, identity.capacity_bytes);
    let (fragments, recovery) = Fragments::open(&layer, catalog, fragments)?;
    tracing::info!(disk = %config.name, entries = scan.len(), ?verdict, ?recovery, "disk opened");
    let found = Found {
        scan,
        damage_before: journal.damage_before(),
        room: journal.room(),
        moves: fragments.adopted().clone(),
        scrubbed: fragments.scrubbed(),
    };
    let stores = DiskStores {
        journal: Box::new(RealJournal {
            journal,
            superblock,
        }),
        fragments: Box::new(RealFragments(fragments)),
    };
    let at = DiskRef {
        disk: identity.disk,
        incarnation: identity.incarnation,
    };
    Ok(OpenedDisk {
        at,
        capacity_bytes: identity.capacity_bytes,
        stores,
        found,
    })
}

fn format(
    layer: &RealFiles,
    config: &DiskConfig,
    fabric: u64,
    node: NodeId,
    meta: &MetaHandle,
    incarnation: Incarnation,
) -> Result<Superblock<RealFiles>> {
    superblock::check_empty(layer)
        .with_context(|| format!("disk {}: its directory is not empty", config.name))?;
    let at = loop {
        let command = AdminCommand::AddDisk { node, incarnation };
        match meta
            .admin(command)
            .blocking_recv()
            .context("the metadata thread ended")?
        {
            AdminReply::Disk(at) => break at,
            // Exactly once by the incarnation: asking again is harmless.
            AdminReply::Unavailable => {}
            other => bail!("the fabric does not take disk {}: {other:?}", config.name),
        }
    };
    let identity = superblock::Identity {
        fabric: FabricId(fabric),
        disk: at.disk,
        incarnation,
        capacity_bytes: config.size.0,
    };
    superblock::format(layer, &identity, JournalConfig::new(incarnation.0))?;
    tracing::info!(disk = %config.name, id = %at.disk, "disk formatted");
    Ok(Superblock::open(layer)?)
}
