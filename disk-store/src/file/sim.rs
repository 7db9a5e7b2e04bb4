//! Simulated files: in memory, deterministic, with power loss and faults.
//!
//! What was written but not synced is tracked write by write. [`SimFiles::crash`] keeps any
//! subset of it, torn at 512-byte sectors; names that no `sync_dir` made durable are kept or
//! dropped one by one. Pages are shared by reference, so that a [`SimFiles::fork`] costs a
//! few pointers a file and a write of whole aligned pages copies nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::image::Image;
use super::{File, FileError, FileLayer, parent};
use disk::{Inode, NameOp, SimDisk, Unsynced, failed};

mod disk;

/// The unit that a power loss keeps or drops whole.
pub const SECTOR: u64 = 512;

/// A fault that the owner of the simulated disk switches on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reads that touch `[from, to)` of the files whose path starts with `path` fail.
    ReadError {
        /// Start of the paths.
        path: String,
        /// First byte.
        from: u64,
        /// One past the last byte.
        to: u64,
    },
    /// Writes to files whose path starts with this fail.
    WriteError(String),
    /// Syncs of files and directories whose path starts with this fail; what was written
    /// stays unsynced.
    SyncError(String),
    /// Syncs of files whose path starts with this report success, and do nothing.
    LoseSyncs(String),
    /// The next write to a file whose path starts with `path` goes `by` bytes further on.
    MisdirectNextWrite {
        /// Start of the path.
        path: String,
        /// How far.
        by: u64,
    },
    /// The next write to a file whose path starts with this reports success, and is lost.
    LoseNextWrite(String),
    /// Files whose path starts with this take no further space.
    Full(String),
}

/// A simulated disk's directory. A clone is the same disk; [`SimFiles::fork`] is another.
#[derive(Clone, Default)]
pub struct SimFiles {
    disk: Arc<Mutex<SimDisk>>,
}

/// An open simulated file.
#[derive(Clone)]
pub struct SimFile {
    disk: Arc<Mutex<SimDisk>>,
    inode: u64,
    life: u64,
}

fn lock(disk: &Mutex<SimDisk>) -> MutexGuard<'_, SimDisk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimFiles {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An independent copy of the disk as it is now, unsynced writes and faults included.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            disk: Arc::new(Mutex::new(lock(&self.disk).clone())),
        }
    }

    /// Power loss. Of what was not synced any subset lands, torn at sectors, as `seed` says.
    /// Files that are open stop working; power is back at once.
    pub fn crash(&mut self, seed: u64) {
        lock(&self.disk).crash(seed);
    }

    /// The process dies, the system lives: unsynced writes stay (and stay unsynced), files
    /// that are open stop working.
    pub fn kill(&mut self) {
        let mut disk = lock(&self.disk);
        disk.life += 1;
        disk.halt_at = None;
    }

    /// Mutating operations (writes, syncs, names) so far: the crash points of a run.
    #[must_use]
    pub fn ops(&self) -> u64 {
        lock(&self.disk).ops
    }

    /// Power goes off during the operation after `ops` more: that one and all later fail. A
    /// write that it hits is unsynced, and lands or not as [`SimFiles::crash`] says.
    pub fn halt_after(&self, ops: u64) {
        let mut disk = lock(&self.disk);
        disk.halt_at = Some(disk.ops + ops);
    }

    /// Switches a fault on.
    pub fn inject(&self, fault: Fault) {
        lock(&self.disk).faults.push(fault);
    }

    /// Switches one fault off.
    pub fn remove_fault(&self, fault: &Fault) {
        let mut disk = lock(&self.disk);
        if let Some(i) = disk.faults.iter().position(|f| f == fault) {
            disk.faults.remove(i);
        }
    }

    /// Switches every fault off.
    pub fn clear_faults(&self) {
        lock(&self.disk).faults.clear();
    }

    /// Whether a fault is switched on, or waits for a write.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        !lock(&self.disk).faults.is_empty()
    }

    /// Bounds the bytes that files may take; `None` is no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.disk).capacity = bytes;
    }

    /// Bytes that files take now (in whole pages, holes not counted).
    #[must_use]
    pub fn allocated(&self) -> u64 {
        lock(&self.disk).allocated
    }

    /// Flips one bit of a file, on the medium and in the cache. False if there is no such byte.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        let mut disk = lock(&self.disk);
        let Some(&inode) = disk.names.get(path) else {
            return false;
        };
        let Ok(file) = disk.inode_mut(inode) else {
            return false;
        };
        if offset >= file.current.len() {
            return false;
        }
        for image in [&mut file.current, &mut file.durable] {
            let byte = image.read(offset, 1)[0] ^ (1 << (bit % 8));
            image.write(offset, &[Bytes::copy_from_slice(&[byte])]);
        }
        drop(disk);
        true
    }

    /// Replaces a file's bytes, durably, whatever it held; makes it if there is none.
    pub fn put_file(&self, path: &str, bytes: &[u8]) {
        let mut disk = lock(&self.disk);
        let id = disk.next_inode;
        disk.next_inode += 1;
        let mut image = Image::default();
        image.write(0, &[Bytes::copy_from_slice(bytes)]);
        let inode = Inode {
            path: path.to_owned(),
            durable: image.clone(),
            current: image,
            unsynced: Vec::new(),
        };
        disk.inodes.insert(id, Arc::new(inode));
        disk.names.insert(path.to_owned(), id);
        disk.durable_names.insert(path.to_owned(), id);
        disk.recount();
    }

    /// The disk is emptied behind its users' back: every name is gone, durably; files that
    /// are open go on working (R2).
    pub fn wipe(&self) {
        let mut disk = lock(&self.disk);
        disk.names.clear();
        disk.durable_names.clear();
        disk.unsynced_names.clear();
    }

    /// Files whose path starts with this are gone, durably; those that are open go on working.
    pub fn lose(&self, path: &str) {
        let mut disk = lock(&self.disk);
        let is_kept = |name: &String, _: &mut u64| !name.starts_with(path);
        disk.names.retain(is_kept);
        disk.durable_names.retain(is_kept);
        disk.unsynced_names.clear();
    }

    /// Paths of all files, ascending.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        lock(&self.disk).names.keys().cloned().collect()
    }

    /// A file's length in bytes.
    #[must_use]
    pub fn len_of(&self, path: &str) -> Option<u64> {
        let disk = lock(&self.disk);
        let inode = disk.names.get(path)?;
        disk.inodes.get(inode).map(|file| file.current.len())
    }
}

impl FileLayer for SimFiles {
    type File = SimFile;

    fn open(&self, path: &str) -> Result<SimFile, FileError> {
        let disk = lock(&self.disk);
        let inode = *disk.names.get(path).ok_or(FileError::NotFound)?;
        Ok(SimFile {
            disk: Arc::clone(&self.disk),
            inode,
            life: disk.life,
        })
    }

    fn create(&self, path: &str) -> Result<SimFile, FileError> {
        let mut disk = lock(&self.disk);
        if disk.is_off() {
            return Err(failed("create"));
        }
        if disk.names.contains_key(path) {
            return Err(FileError::Exists);
        }
        let inode = disk.next_inode;
        disk.next_inode += 1;
        disk.inodes.insert(
            inode,
            Arc::new(Inode {
                path: path.to_owned(),
                ..Inode::default()
            }),
        );
        disk.name_op(NameOp::Link {
            path: path.to_owned(),
            inode,
        });
        disk.count()?;
        Ok(SimFile {
            disk: Arc::clone(&self.disk),
            inode,
            life: disk.life,
        })
    }

    fn create_dir(&self, _dir: &str) -> Result<(), FileError> {
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, FileError> {
        let disk = lock(&self.disk);
        let names = disk.names.keys().filter(|path| parent(path) == dir);
        Ok(names
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect())
    }

    fn remove(&self, path: &str) -> Result<(), FileError> {
        let mut disk = lock(&self.disk);
        if disk.is_off() {
            return Err(failed("remove"));
        }
        if !disk.names.contains_key(path) {
            return Err(FileError::NotFound);
        }
        disk.name_op(NameOp::Unlink {
            path: path.to_owned(),
        });
        disk.recount();
        disk.count()
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let mut disk = lock(&self.disk);
        if disk.is_off() {
            return Err(failed("rename"));
        }
        let inode = *disk.names.get(from).ok_or(FileError::NotFound)?;
        disk.name_op(NameOp::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            inode,
        });
        disk.inode_mut(inode)?.path = to.to_owned();
        disk.count()
    }

    fn sync_dir(&self, dir: &str) -> Result<(), FileError> {
        lock(&self.disk).sync_names(dir)
    }

    fn is_current(&self, path: &str, file: &SimFile) -> bool {
        let disk = lock(&self.disk);
        file.life == disk.life && disk.names.get(path) == Some(&file.inode)
    }
}

impl SimFile {
    fn live(&self) -> Result<MutexGuard<'_, SimDisk>, FileError> {
        let disk = lock(&self.disk);
        if disk.life == self.life {
            Ok(disk)
        } else {
            Err(FileError::Device {
                what: "file",
                detail: "opened before a crash".to_owned(),
            })
        }
    }
}

impl File for SimFile {
    fn size(&self) -> Result<u64, FileError> {
        Ok(self.live()?.inode(self.inode)?.current.len())
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, FileError> {
        let disk = self.live()?;
        let file = disk.inode(self.inode)?;
        let hit = |fault: &Fault| {
            matches!(fault, Fault::ReadError { path, from, to }
                if file.path.starts_with(path.as_str()) && offset < *to && *from < offset + len as u64)
        };
        if disk.faults.iter().any(hit) {
            return Err(failed("read"));
        }
        Ok(file.current.read(offset, len))
    }

    fn write_at(&self, offset: u64, chunks: &[Bytes]) -> Result<(), FileError> {
        self.live()?.write(self.inode, offset, chunks)
    }

    fn sync_data(&self) -> Result<(), FileError> {
        self.live()?.sync(self.inode)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<(), FileError> {
        self.live()?
            .change(self.inode, Unsynced::Punch { offset, len })
    }

    fn set_len(&self, len: u64) -> Result<(), FileError> {
        self.live()?.change(self.inode, Unsynced::SetLen(len))
    }

    fn allocate(&self, len: u64) -> Result<(), FileError> {
        // Zeros are as good as written: a page of them takes no memory here.
        let mut disk = self.live()?;
        disk.change(self.inode, Unsynced::SetLen(0))?;
        disk.change(self.inode, Unsynced::Allocate(len))
    }
}
