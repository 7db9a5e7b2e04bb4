//! The state of a simulated disk: what is durable, what is not yet, and what a crash keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Fault, SECTOR};
use crate::file::image::Image;
use crate::file::{FileError, parent};

#[derive(Clone, Debug)]
pub(super) enum Unsynced {
    Write { offset: u64, chunks: Vec<Bytes> },
    Punch { offset: u64, len: u64 },
    SetLen(u64),
    Allocate(u64),
}

#[derive(Clone, Debug)]
pub(super) enum NameOp {
    Link {
        path: String,
        inode: u64,
    },
    Unlink {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        inode: u64,
    },
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
pub(super) struct Inode {
    pub(super) path: String,
    pub(super) durable: Image,
    pub(super) current: Image,
    pub(super) unsynced: Vec<Unsynced>,
}

#[derive(Clone, Default)]
pub(super) struct SimDisk {
    pub(super) inodes: BTreeMap<u64, Arc<Inode>>,
    pub(super) names: BTreeMap<String, u64>,
    pub(super) durable_names: BTreeMap<String, u64>,
    pub(super) unsynced_names: Vec<NameOp>,
    pub(super) next_inode: u64,
    /// Handles of an earlier life are dead.
    pub(super) life: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) capacity: Option<u64>,
    pub(super) allocated: u64,
    /// Mutating operations so far: the crash points.
    pub(super) ops: u64,
    pub(super) halt_at: Option<u64>,
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

pub(super) fn failed(what: &'static str) -> FileError {
    FileError::Device {
        what,
        detail: "simulated fault".to_owned(),
    }
}

impl SimDisk {
    /// Counts a mutating operation; an error once the halt is reached.
    pub(super) fn count(&mut self) -> Result<(), FileError> {
        self.ops += 1;
        match self.halt_at {
            Some(at) if self.ops > at => Err(FileError::Device {
                what: "operation",
                detail: "power is off".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.halt_at.is_some_and(|at| self.ops > at)
    }

    pub(super) fn inode(&self, inode: u64) -> Result<&Arc<Inode>, FileError> {
        self.inodes.get(&inode).ok_or(FileError::NotFound)
    }

    pub(super) fn inode_mut(&mut self, inode: u64) -> Result<&mut Inode, FileError> {
        self.inodes
            .get_mut(&inode)
            .map(Arc::make_mut)
            .ok_or(FileError::NotFound)
    }

    fn find_fault(&self, hit: impl Fn(&Fault) -> bool) -> Option<usize> {
        self.faults.iter().position(hit)
    }

    pub(super) fn name_op(&mut self, op: NameOp) {
        op.apply(&mut self.names);
        self.unsynced_names.push(op);
    }

    pub(super) fn recount(&mut self) {
        let named = self.names.values().filter_map(|id| self.inodes.get(id));
        self.allocated = named.map(|inode| inode.current.allocated()).sum();
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

    pub(super) fn write(
        &mut self,
        inode: u64,
        offset: u64,
        chunks: &[Bytes],
    ) -> Result<(), FileError> {
        // The op that hits the halt was under way: it is unsynced, and may or may not land.
        let was_off = self.is_off();
        let counted = self.count();
        if was_off {
            return counted;
        }
        let mut at = offset;
        if !self.faults.is_empty() {
            let path = self.inode(inode)?.path.clone();
            if self
                .find_fault(|f| matches!(f, Fault::WriteError(p) if path.starts_with(p.as_str())))
                .is_some()
            {
                return Err(failed("write"));
            }
            let lose =
                |f: &Fault| matches!(f, Fault::LoseNextWrite(p) if path.starts_with(p.as_str()));
            if let Some(i) = self.find_fault(lose) {
                self.faults.remove(i);
                return counted;
            }
            let misdirect = |f: &Fault| matches!(f, Fault::MisdirectNextWrite { path: p, .. } if path.starts_with(p.as_str()));
            if let Some(i) = self.find_fault(misdirect)
                && let Fault::MisdirectNextWrite { by, .. } = self.faults.remove(i)
            {
                at += by;
            }
        }
        let len: u64 = chunks.iter().map(|c| c.len() as u64).sum();
        let missing = self.inode(inode)?.current.missing(at, len);
        self.take(inode, missing)?;
        let file = self.inode_mut(inode)?;
        let before = file.current.allocated();
        file.current.write(at, chunks);
        let grown = file.current.allocated() - before;
        file.unsynced.push(Unsynced::Write {
            offset: at,
            chunks: chunks.to_vec(),
        });
        self.allocated += grown;
        counted
    }

    /// Whether there is space for so many bytes more in a file.
    fn take(&self, inode: u64, bytes: u64) -> Result<(), FileError> {
        let path = self.inode(inode)?.path.as_str();
        let is_full = self
            .find_fault(|f| matches!(f, Fault::Full(p) if path.starts_with(p.as_str())))
            .is_some();
        let capacity = if is_full { Some(0) } else { self.capacity };
        match capacity {
            Some(capacity) if bytes > 0 && self.allocated + bytes > capacity => {
                Err(FileError::NoSpace)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn change(&mut self, inode: u64, op: Unsynced) -> Result<(), FileError> {
        let was_off = self.is_off();
        let counted = self.count();
        if was_off {
            return counted;
        }
        if let Unsynced::Allocate(len) = op {
            self.take(inode, len)?;
        }
        let file = self.inode_mut(inode)?;
        let before = file.current.allocated();
        apply(&op, &mut file.current);
        let after = file.current.allocated();
        file.unsynced.push(op);
        self.allocated = self.allocated + after - before;
        counted
    }

    pub(super) fn sync(&mut self, inode: u64) -> Result<(), FileError> {
        self.count()?;
        if !self.faults.is_empty() {
            let path = self.inode(inode)?.path.clone();
            if self
                .find_fault(|f| matches!(f, Fault::SyncError(p) if path.starts_with(p.as_str())))
                .is_some()
            {
                return Err(failed("fdatasync"));
            }
            if self
                .find_fault(|f| matches!(f, Fault::LoseSyncs(p) if path.starts_with(p.as_str())))
                .is_some()
            {
                return Ok(());
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

    pub(super) fn sync_names(&mut self, dir: &str) -> Result<(), FileError> {
        self.count()?;
        if self
            .find_fault(|f| matches!(f, Fault::SyncError(p) if dir.starts_with(p.as_str())))
            .is_some()
        {
            return Err(failed("fsync of a directory"));
        }
        let (settled, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsynced_names)
            .into_iter()
            .partition(|op| op.dir() == dir);
        for op in &settled {
            op.apply(&mut self.durable_names);
        }
        self.unsynced_names = left;
        Ok(())
    }

    pub(super) fn crash(&mut self, seed: u64) {
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
        Unsynced::Allocate(len) => image.allocate(*len),
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
