//! Which journal files are still needed, and by whom.

use std::collections::BTreeMap;

use model::ids::VolumeId;
use model::store::{EntryAt, FileNo, OpId};

use super::config::DiskConfig;

/// Bytes that an entry costs beside its payload, about.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// Bytes that an entry costs, about: what copying forward is counted by.
pub(super) fn entry_bytes(at: EntryAt) -> u64 {
    payload_cost(u64::from(at.payload_len))
}

/// Bytes that an entry with so long a payload costs, about.
pub(super) const fn payload_cost(bytes: u64) -> u64 {
    bytes + ENTRY_OVERHEAD_BYTES
}

/// Files that may be in use for ever without anything being copied: the one that is written, and
/// the one before, whose entries were current just now.
const FILES_AT_REST: u64 = 2;

/// The oldest file with a needed entry, and why what pins it is to be copied forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pinned {
    pub(super) file: FileNo,
    /// So many files are in use that it is worth whatever it costs; else it costs little.
    pub(super) is_pressing: bool,
}

/// The needed entries by file.
#[derive(Debug)]
pub(super) struct Files {
    /// How many needed entries a volume has in a file.
    needed: BTreeMap<(FileNo, VolumeId), u32>,
    /// What copying those of a file would write, about.
    needed_bytes: BTreeMap<FileNo, u64>,
    newest: Option<FileNo>,
    /// Files before this one are released.
    released: FileNo,
    /// The release under way, and `released` before it.
    releasing: Option<(OpId, FileNo)>,
    /// What copying forward may still write: it earns what others write, so that it never
    /// writes more than they do.
    credit_bytes: u64,
    credit_bytes_max: u64,
}

impl Files {
    pub(super) fn new(oldest: FileNo, newest: Option<FileNo>, credit_bytes_max: u64) -> Self {
        Self {
            needed: BTreeMap::new(),
            needed_bytes: BTreeMap::new(),
            newest,
            released: oldest,
            releasing: None,
            credit_bytes: 0,
            credit_bytes_max,
        }
    }

    /// One more needed entry.
    pub(super) fn need(&mut self, at: EntryAt, volume: VolumeId) {
        let file = at.file;
        assert!(file >= self.released, "nothing lands in a released file");
        self.newest = self.newest.max(Some(file));
        *self.needed.entry((file, volume)).or_insert(0) += 1;
        *self.needed_bytes.entry(file).or_insert(0) += entry_bytes(at);
    }

    /// One needed entry fewer.
    pub(super) fn free(&mut self, at: EntryAt, volume: VolumeId) {
        let key = (at.file, volume);
        let count = self
            .needed
            .get_mut(&key)
            .expect("what is freed was needed once");
        *count -= 1;
        if *count == 0 {
            self.needed.remove(&key);
        }
        let bytes = self.needed_bytes.get_mut(&at.file);
        let bytes = bytes.expect("what is freed was counted once");
        *bytes -= entry_bytes(at);
        if *bytes == 0 {
            self.needed_bytes.remove(&at.file);
        }
    }

    /// Files from the oldest unreleased to the newest.
    pub(super) fn in_use(&self) -> u64 {
        let newest = self.newest.map_or(0, |n| n.0 + 1);
        newest.saturating_sub(self.released.0)
    }

    /// The oldest file with a needed entry, if those are to be copied forward: there are few of
    /// them, and more files are in use from there on than rest, or there are too many of those.
    pub(super) fn oldest_pinned(&self, terms: &DiskConfig) -> Option<Pinned> {
        let (file, bytes) = self.needed_bytes.first_key_value()?;
        let newest = self.newest.expect("a needed entry lies somewhere");
        let later = newest.0 - file.0;
        let is_pressing = later >= terms.files_max.max(1);
        let is_cheap = later >= FILES_AT_REST && *bytes <= terms.move_cheap_bytes;
        (is_pressing || is_cheap).then_some(Pinned {
            file: *file,
            is_pressing,
        })
    }

    /// Who needs entries of `file`.
    pub(super) fn pins(&self, file: FileNo) -> impl Iterator<Item = VolumeId> {
        let range = (file, VolumeId(0))..=(file, VolumeId(u32::MAX));
        self.needed.range(range).map(|((_, volume), _)| *volume)
    }

    /// Up to where files can be released now, if that is news. `reading` is the oldest file
    /// that a running read needs.
    pub(super) fn releasable(&self, reading: Option<FileNo>) -> Option<FileNo> {
        if self.releasing.is_some() {
            return None;
        }
        let needed = self.needed.keys().next().map(|(file, _)| *file);
        let mut to = needed.or(self.newest)?;
        if let Some(reading) = reading {
            to = to.min(reading);
        }
        (to > self.released).then_some(to)
    }

    /// A release begins.
    pub(super) fn release(&mut self, op: OpId, to: FileNo) {
        assert!(
            self.needed
                .keys()
                .next()
                .is_none_or(|(file, _)| *file >= to),
            "a needed file is never released"
        );
        // From now on nothing may rest on those files, whether or not the store got to it.
        let before = std::mem::replace(&mut self.released, to);
        self.releasing = Some((op, before));
    }

    /// A release is done.
    pub(super) fn released(&mut self, op: OpId) -> bool {
        let mine = self.releasing.is_some_and(|(o, _)| o == op);
        if mine {
            self.releasing = None;
        }
        mine
    }

    /// The store had no space to release: if that is the one under way, it is to be asked again.
    pub(super) fn release_refused(&mut self, op: OpId) -> bool {
        let Some((_, before)) = self.releasing.take_if(|(o, _)| *o == op) else {
            return false;
        };
        self.released = before;
        true
    }

    /// Others wrote so much.
    pub(super) fn earn(&mut self, bytes: u64) {
        self.credit_bytes = (self.credit_bytes + bytes).min(self.credit_bytes_max);
    }

    /// Copying forward wrote so much.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.credit_bytes = self.credit_bytes.saturating_sub(bytes);
    }

    /// What copying forward may write now.
    pub(super) fn credit_bytes(&self) -> u64 {
        self.credit_bytes
    }
}
