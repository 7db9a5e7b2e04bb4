//! The superblock: which disk, in which of its lives, a directory holds.

use bytes::Bytes;
use model::ids::{DiskId, Incarnation};
use model::store::DeviceError;
use thiserror::Error;

use crate::BLOCK;
use crate::bytes_at::{is_sealed, seal, set_u32, set_u64, u32_at, u64_at};
use crate::file::{File, FileError, FileLayer};
use crate::journal::{Journal, JournalConfig};

/// The file's name in the disk's directory.
pub const PATH: &str = "superblock";
const PATH_NEW: &str = "superblock.new";
const MAGIC: u32 = u32::from_le_bytes(*b"ATSB");
const VERSION: u32 = 1;
/// The same bytes in two blocks, so that rot in one of them costs nothing.
const COPIES: u64 = 2;

/// The fabric that a disk belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FabricId(pub u64);

/// What a superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its fabric.
    pub fabric: FabricId,
    /// Its name in the fabric.
    pub disk: DiskId,
    /// Its life: drawn at random by whoever formats (R2).
    pub incarnation: Incarnation,
    /// Bytes that fragments may take.
    pub capacity_bytes: u64,
}

/// Why a directory is not the disk that it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SuperblockError {
    /// There is no superblock: never formatted, or emptied since.
    #[error("no superblock: the directory was never formatted, or it was emptied")]
    Missing,
    /// Neither copy is intact.
    #[error("both copies of the superblock are damaged")]
    Damaged,
    /// Another disk, another life, or another fabric's.
    #[error("the directory holds {found:?}")]
    Foreign {
        /// What it holds.
        found: Identity,
    },
    /// Formatting was asked for where data lies.
    #[error("the directory holds data already")]
    InUse,
    /// The device failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The device failed while the journal was made.
    #[error(transparent)]
    Journal(#[from] DeviceError),
}

/// An open, verified disk directory.
pub struct Superblock<L: FileLayer> {
    layer: L,
    file: L::File,
    identity: Identity,
}

fn encode(identity: &Identity) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    set_u32(&mut block, 0, MAGIC);
    set_u32(&mut block, 8, VERSION);
    set_u64(&mut block, 16, identity.fabric.0);
    set_u32(&mut block, 24, identity.disk.0);
    set_u64(&mut block, 32, identity.incarnation.0);
    set_u64(&mut block, 40, identity.capacity_bytes);
    seal(&mut block);
    block
}

fn decode(block: &[u8]) -> Option<Identity> {
    if u32_at(block, 0)? != MAGIC || !is_sealed(block) || u32_at(block, 8)? != VERSION {
        return None;
    }
    Some(Identity {
        fabric: FabricId(u64_at(block, 16)?),
        disk: DiskId(u32_at(block, 24)?),
        incarnation: Incarnation(u64_at(block, 32)?),
        capacity_bytes: u64_at(block, 40)?,
    })
}

/// Whether a directory may be formatted: no superblock, and no extents.
///
/// # Errors
/// [`SuperblockError::InUse`], or the device's.
pub fn check_empty<L: FileLayer>(layer: &L) -> Result<(), SuperblockError> {
    let has_superblock = layer.list("")?.iter().any(|name| name == PATH);
    if has_superblock || !layer.list("extents")?.is_empty() {
        return Err(SuperblockError::InUse);
    }
    Ok(())
}

/// Makes a directory a disk: an empty journal, then the superblock, which makes it exist. What
/// an interrupted call left is no obstacle. The journal's id is the incarnation.
///
/// # Errors
/// [`SuperblockError::InUse`], or the device's.
pub fn format<L: FileLayer>(
    layer: &L,
    identity: &Identity,
    journal: JournalConfig,
) -> Result<(), SuperblockError> {
    check_empty(layer)?;
    Journal::create(
        layer,
        JournalConfig {
            id: identity.incarnation.0,
            ..journal
        },
    )?;
    match layer.remove(PATH_NEW) {
        Ok(()) | Err(FileError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let file = layer.create(PATH_NEW)?;
    let block = Bytes::from(encode(identity));
    file.write_at(0, &vec![block; COPIES as usize])?;
    file.sync_data()?;
    layer.rename(PATH_NEW, PATH)?;
    layer.sync_dir("")?;
    Ok(())
}

impl<L: FileLayer> Superblock<L> {
    /// Opens a disk's directory, whoever's it is.
    ///
    /// # Errors
    /// [`SuperblockError::Missing`], [`SuperblockError::Damaged`], or the device's.
    pub fn open(layer: &L) -> Result<Self, SuperblockError> {
        let file = layer.open(PATH).map_err(|error| match error {
            FileError::NotFound => SuperblockError::Missing,
            other => other.into(),
        })?;
        for copy in 0..COPIES {
            let Ok(block) = file.read_at(copy * BLOCK, BLOCK as usize) else {
                continue;
            };
            if let Some(identity) = decode(&block) {
                return Ok(Self {
                    layer: layer.clone(),
                    file,
                    identity,
                });
            }
        }
        Err(SuperblockError::Damaged)
    }

    /// Opens a disk's directory that is to hold this disk in this life.
    ///
    /// # Errors
    /// As [`Superblock::open`]; [`SuperblockError::Foreign`] if it is another (R2).
    pub fn open_as(
        layer: &L,
        fabric: FabricId,
        disk: DiskId,
        incarnation: Incarnation,
    ) -> Result<Self, SuperblockError> {
        let opened = Self::open(layer)?;
        let found = opened.identity;
        if (found.fabric, found.disk, found.incarnation) == (fabric, disk, incarnation) {
            Ok(opened)
        } else {
            Err(SuperblockError::Foreign { found })
        }
    }

    /// What the superblock says.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the path still leads to this disk (R2): asked every second; once false, the
    /// disk retires.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.layer.is_current(PATH, &self.file)
    }
}
