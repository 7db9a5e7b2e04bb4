//! Simulated files: in memory, deterministic, with power loss and faults.
//!
//! What was written but not synced is tracked write by write. [`SimFiles::crash`] keeps any
//! subset of it, torn at 512-byte sectors; names that no `sync_dir` made durable are kept or
//! dropped one by one. Pages are shared by reference, so that a [`SimFiles::fork`] costs a
//! few pointers a file and a write of whole aligned pages copies nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::image::Image;
use super::{File, FileError, FileLayer, parent};

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
    /// The next write to a file whose path starts with `path` goes `by` bytes further on.
    MisdirectNextWrite {
        /// Start of the path.
        path: String,
        /// How far.
        by: u64,
    },
    /// The next write to a file whose path starts with this reports success, and is lost.
    LoseNextWrite(String),
}

#[derive(Clone, Debug)]
enum Unsynced {
    Write { offset: u64, chunks: Vec<Bytes> },
    Punch { offset: u64, len: u64 },
    SetLen(u64),
}

#[derive(Clone, Debug)]
enum NameOp {
    Link { path: String, inode: u64 },
    Unlink { path: String },
    Rename { from: String, to: String, inode: u64 },
}

impl NameOp {
    fn dir(&self) -> &str {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } => parent(path),
            Self::Rename { to, .. } => parent(to),
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link { path, inode } => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

#[derive(Clone, Default)]
struct Inode {
    path: String,
    durable: Image,
    current: Image,
    unsynced: Vec<Unsynced>,
}

#[derive(Clone, Default)]
struct SimDisk {
    inodes: BTreeMap<u64, Arc<Inode>>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameOp>,
    next_inode: u64,
    /// Handles of an earlier life are dead.
    life: u64,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    allocated: u64,
    /// Mutating operations so far: the crash points.
    ops: u64,
    halt_at: Option<u64>,
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

/// A deterministic source for what a crash keeps.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn lock(disk: &Mutex<SimDisk>) -> MutexGuard<'_, SimDisk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &'static str) -> FileError {
    FileError::Device { what, detail: "simulated fault".to_owned() }
}

impl SimDisk {
    /// Counts a mutating operation; an error once the halt is reached.
    fn count(&mut self) -> Result<(), FileError> {
        self.ops += 1;
        match self.halt_at {
            Some(at) if self.ops > at => {
                Err(FileError::Device { what: "operation", detail: "power is off".to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn is_off(&self) -> bool {
        self.halt_at.is_some_and(|at| self.ops > at)
    }

    fn inode(&self, inode: u64) -> Result<&Arc<Inode>, FileError> {
        self.inodes.get(&inode).ok_or(FileError::NotFound)
    }

    fn inode_mut(&mut self, inode: u64) -> Result<&mut Inode, FileError> {
        self.inodes.get_mut(&inode).map(Arc::make_mut).ok_or(FileError::NotFound)
    }

    fn find_fault(&self, hit: impl Fn(&Fault) -> bool) -> Option<usize> {
        self.faults.iter().position(hit)
    }

    fn name_op(&mut self, op: NameOp) {
        op.apply(&mut self.names);
        self.unsynced_names.push(op);
    }

    fn recount(&mut self) {
        self.allocated = self.inodes.values().map(|inode| inode.current.allocated()).sum();
    }

    /// Forgets files that no name, durable or not, leads to.
    fn collect(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        let pending = &self.unsynced_names;
        self.inodes.retain(|id, _| {
            let is_pending = pending.iter().any(|op| match op {
                NameOp::Link { inode, .. } | NameOp::Rename { inode, .. } => inode == id,
                NameOp::Unlink { .. } => false,
            });
            is_pending || names.values().any(|n| n == id) || durable.values().any(|n| n == id)
        });
        self.recount();
    }

    fn write(&mut self, inode: u64, offset: u64, chunks: &[Bytes]) -> Result<(), FileError> {
        // The op that hits the halt was under way: it is unsynced, and may or may not land.
        let was_off = self.is_off();
        let counted = self.count();
        if was_off {
            return counted;
        }
        let mut at = offset;
        if !self.faults.is_empty() {
            let path = self.inode(inode)?.path.clone();
            if self.find_fault(|f| matches!(f, Fault::WriteError(p) if path.starts_with(p.as_str()))).is_some() {
                return Err(failed("write"));
            }
            let lose = |f: &Fault| matches!(f, Fault::LoseNextWrite(p) if path.starts_with(p.as_str()));
            if let Some(i) = self.find_fault(lose) {
                self.faults.remove(i);
                return counted;
            }
            let misdirect =
                |f: &Fault| matches!(f, Fault::MisdirectNextWrite { path: p, .. } if path.starts_with(p.as_str()));
            if let Some(i) = self.find_fault(misdirect)
                && let Fault::MisdirectNextWrite { by, .. } = self.faults.remove(i)
            {
                at += by;
            }
        }
        let len: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let capacity = self.capacity;
        let allocated = self.allocated;
        let file = self.inode_mut(inode)?;
        if let Some(capacity) = capacity
            && allocated + file.current.missing(at, len) > capacity
        {
            return Err(FileError::NoSpace);
        }
        let before = file.current.allocated();
        file.current.write(at, chunks);
        let grown = file.current.allocated() - before;
        file.unsynced.push(Unsynced::Write { offset: at, chunks: chunks.to_vec() });
        self.allocated += grown;
        counted
    }

    fn change(&mut self, inode: u64, op: Unsynced) -> Result<(), FileError> {
        let was_off = self.is_off();
        let counted = self.count();
        if was_off {
            return counted;
        }
        let file = self.inode_mut(inode)?;
        let before = file.current.allocated();
        apply(&op, &mut file.current);
        let after = file.current.allocated();
        file.unsynced.push(op);
        self.allocated = self.allocated + after - before;
        counted
    }

    fn sync(&mut self, inode: u64) -> Result<(), FileError> {
        self.count()?;
        if !self.faults.is_empty() {
            let path = self.inode(inode)?.path.clone();
            if self.find_fault(|f| matches!(f, Fault::SyncError(p) if path.starts_with(p.as_str()))).is_some() {
                return Err(failed("fdatasync"));
            }
        }
        if self.inode(inode)?.unsynced.is_empty() {
            return Ok(());
        }
        let file = self.inode_mut(inode)?;
        for op in std::mem::take(&mut file.unsynced) {
            apply(&op, &mut file.durable);
        }
        Ok(())
    }

    fn sync_names(&mut self, dir: &str) -> Result<(), FileError> {
        self.count()?;
        if self.find_fault(|f| matches!(f, Fault::SyncError(p) if dir.starts_with(p.as_str()))).is_some() {
            return Err(failed("fsync of a directory"));
        }
        let (settled, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced_names).into_iter().partition(|op| op.dir() == dir);
        for op in &settled {
            op.apply(&mut self.durable_names);
        }
        self.unsynced_names = left;
        Ok(())
    }

    fn crash(&mut self, seed: u64) {
        let mut rng = SplitMix(seed);
        // Nothing lands, everything lands, or anything.
        let mode = rng.below(6);
        for op in std::mem::take(&mut self.unsynced_names) {
            if keep(&mut rng, mode) {
                op.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        for (path, id) in &self.names {
            if let Some(inode) = self.inodes.get_mut(id)
                && inode.path != *path
            {
                Arc::make_mut(inode).path.clone_from(path);
            }
        }
        for inode in self.inodes.values_mut() {
            if inode.unsynced.is_empty() {
                continue;
            }
            let inode = Arc::make_mut(inode);
            for op in std::mem::take(&mut inode.unsynced) {
                land(&mut rng, mode, &op, &mut inode.durable);
            }
            inode.current = inode.durable.clone();
        }
        self.life += 1;
        self.halt_at = None;
        self.collect();
    }
}

fn keep(rng: &mut SplitMix, mode: u64) -> bool {
    match mode {
        0 => false,
        1 => true,
        _ => rng.below(2) == 0,
    }
}

fn apply(op: &Unsynced, image: &mut Image) {
    match op {
        Unsynced::Write { offset, chunks } => image.write(*offset, chunks),
        Unsynced::Punch { offset, len } => image.punch(*offset, *len),
        Unsynced::SetLen(len) => image.set_len(*len),
    }
}

/// Lets an unsynced operation reach the medium whole, in part, or not at all.
fn land(rng: &mut SplitMix, mode: u64, op: &Unsynced, image: &mut Image) {
    let torn = mode >= 2 && rng.below(2) == 0;
    let Unsynced::Write { offset, chunks } = op else {
        if keep(rng, mode) {
            apply(op, image);
        }
        return;
    };
    if !torn {
        if keep(rng, mode) {
            image.write(*offset, chunks);
        }
        return;
    }
    let all = crate::file::gather(chunks);
    let end = offset + all.len() as u64;
    let mut at = *offset;
    let mut keeps = rng.below(2) == 0;
    while at < end {
        let run = SECTOR * (1 + rng.below(12));
        let until = ((at / SECTOR * SECTOR) + run).min(end);
        if keeps {
            let (from, to) = ((at - offset) as usize, (until - offset) as usize);
            image.write(at, &[all.slice(from..to)]);
        }
        keeps = !keeps;
        at = until;
    }
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
        Self { disk: Arc::new(Mutex::new(lock(&self.disk).clone())) }
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

    /// Switches every fault off.
    pub fn clear_faults(&self) {
        lock(&self.disk).faults.clear();
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
        let Some(&inode) = disk.names.get(path) else { return false };
        let Ok(file) = disk.inode_mut(inode) else { return false };
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
        let inode =
            Inode { path: path.to_owned(), durable: image.clone(), current: image, unsynced: Vec::new() };
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
        Ok(SimFile { disk: Arc::clone(&self.disk), inode, life: disk.life })
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
        disk.inodes.insert(inode, Arc::new(Inode { path: path.to_owned(), ..Inode::default() }));
        disk.name_op(NameOp::Link { path: path.to_owned(), inode });
        disk.count()?;
        Ok(SimFile { disk: Arc::clone(&self.disk), inode, life: disk.life })
    }

    fn create_dir(&self, _dir: &str) -> Result<(), FileError> {
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, FileError> {
        let disk = lock(&self.disk);
        let names = disk.names.keys().filter(|path| parent(path) == dir);
        Ok(names.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect())
    }

    fn remove(&self, path: &str) -> Result<(), FileError> {
        let mut disk = lock(&self.disk);
        if disk.is_off() {
            return Err(failed("remove"));
        }
        if !disk.names.contains_key(path) {
            return Err(FileError::NotFound);
        }
        disk.name_op(NameOp::Unlink { path: path.to_owned() });
        disk.count()
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        let mut disk = lock(&self.disk);
        if disk.is_off() {
            return Err(failed("rename"));
        }
        let inode = *disk.names.get(from).ok_or(FileError::NotFound)?;
        disk.name_op(NameOp::Rename { from: from.to_owned(), to: to.to_owned(), inode });
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
            Err(FileError::Device { what: "file", detail: "opened before a crash".to_owned() })
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
        self.live()?.change(self.inode, Unsynced::Punch { offset, len })
    }

    fn set_len(&self, len: u64) -> Result<(), FileError> {
        self.live()?.change(self.inode, Unsynced::SetLen(len))
    }

    fn allocate(&self, len: u64) -> Result<(), FileError> {
        // Zeros are as good as written: a page of them takes no memory here.
        let mut disk = self.live()?;
        disk.change(self.inode, Unsynced::SetLen(0))?;
        disk.change(self.inode, Unsynced::SetLen(len))
    }
}
