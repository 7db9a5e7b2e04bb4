//! A journal's files: begun, released, recycled.

use model::store::{DeviceError, FileNo};

use super::append::refused;
use super::{DIR, FILE_PREFIX, FILES_LIMIT, Journal, LiveFile, Slot, Tail};
use crate::file::{File, FileError, FileLayer};

impl<L: FileLayer> Journal<L> {
    /// Begins the next file: one that was made free before.
    pub(super) fn roll(&mut self) -> Result<(), DeviceError> {
        let Some(slot) = self.free.pop_front() else {
            return Err(refused("no file is prepared"));
        };
        self.last_file = FileNo(self.last_file.0 + 1);
        self.live.insert(
            self.last_file,
            LiveFile {
                slot,
                first_seq: self.seq + 1,
            },
        );
        self.tail = Some(Tail {
            file: self.last_file,
            slot,
            offset: 0,
        });
        Ok(())
    }

    /// Has so many files ready to be begun by entries; false if there is no space for them, or
    /// the journal is full. Only a batch without entries may exceed the bound: releasing works on a
    /// full journal.
    pub(super) fn make_free(&mut self, files: usize) -> Result<bool, DeviceError> {
        if files > 0 && (self.live.len() + files) as u64 > u64::from(self.config.files_max) {
            return Ok(false);
        }
        while self.free.len() < files {
            if !self.add_free()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// R2: a free file that somebody deleted under it is still open, and what is written to it would
    /// end with the process. Looked at before one is begun.
    pub(super) fn forget_deleted(&mut self) {
        let (layer, slots) = (&self.layer, &mut self.slots);
        self.free.retain(|slot| {
            let is_current = slots[*slot]
                .as_ref()
                .is_some_and(|of| layer.is_current(&of.path, &of.file));
            if !is_current {
                slots[*slot] = None;
            }
            is_current
        });
    }

    /// Makes a file; false if there is no space for it.
    pub(super) fn add_free(&mut self) -> Result<bool, DeviceError> {
        match self.add_slot() {
            Ok(slot) => self.free.push_back(slot),
            Err(FileError::NoSpace) => return Ok(false),
            Err(error) => return Err(self.fail(error.during("making a journal file"))),
        }
        Ok(true)
    }

    /// Whether so little is left of the current file that another one is to be there: what is left
    /// is twice what a Disk machine may have queued, so that if there is none, what is queued has its
    /// place, and what frees files has as much again.
    pub(super) fn needs_follower(&self) -> bool {
        self.tail_space() <= self.config.file_bytes / 2
    }

    /// Sees to it that there is a file to go on with, or tells that there is no space for one.
    pub(super) fn prepare(&mut self) -> Result<(), DeviceError> {
        let is_there = !self.needs_follower() || self.make_free(1)?;
        self.is_short = !is_there;
        Ok(())
    }

    /// False if there is no space to write it down.
    pub(super) fn release_before(&mut self, file: FileNo) -> Result<bool, DeviceError> {
        let before = file.min(self.current_file());
        let kept = self.live.split_off(&before);
        let released = std::mem::replace(&mut self.live, kept);
        if released.is_empty() {
            return Ok(true);
        }
        // Durable before any of them is written again: a lost release would miss batches.
        let written = self.control(0);
        if written != Ok(true) {
            self.live.extend(released);
            return written;
        }
        self.free.extend(released.values().map(|live| live.slot));
        self.is_short = false;
        self.drop_spares((self.config.spare_files_max as usize).max(1))?;
        Ok(true)
    }

    /// Gives free files back to the file system, but for `keep`.
    pub(super) fn drop_spares(&mut self, keep: usize) -> Result<(), DeviceError> {
        while self.free.len() > keep {
            let Some(slot) = self
                .free
                .pop_back()
                .and_then(|slot| self.slots[slot].take())
            else {
                continue;
            };
            // Not synced: if the name comes back, the file's laps say that it is free.
            match self.layer.remove(&slot.path) {
                Ok(()) | Err(FileError::NotFound) => {}
                Err(error) => return Err(self.fail(error.during("removing a journal file"))),
            }
        }
        Ok(())
    }

    /// After a scan: every file without a live batch is free; one of another length is made
    /// anew.
    pub(super) fn sort_free(&mut self) -> Result<(), DeviceError> {
        let during = |error: FileError| error.during("opening the journal");
        for slot in 0..self.slots.len() {
            if self.live.values().any(|live| live.slot == slot) {
                continue;
            }
            if self.file(slot).size().map_err(during)? != self.config.file_bytes {
                let file = self.file(slot).clone();
                match file
                    .allocate(self.config.file_bytes)
                    .and_then(|()| file.sync_data())
                {
                    Ok(()) => {}
                    Err(FileError::NoSpace) => {
                        if let Some(slot) = self.slots[slot].take() {
                            self.layer.remove(&slot.path).map_err(during)?;
                        }
                        continue;
                    }
                    Err(error) => return Err(during(error)),
                }
            }
            self.free.push_back(slot);
        }
        Ok(())
    }

    pub(super) fn add_slot(&mut self) -> Result<usize, FileError> {
        let index = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len());
        let is_taken = |path: &String| self.slots.iter().flatten().any(|slot| slot.path == *path);
        let path = (0_u32..)
            .map(|n| format!("{DIR}/{FILE_PREFIX}{n:05}"))
            .find(|path| !is_taken(path));
        let path = path.expect("there are more numbers than files");
        let file = self.layer.create(&path)?;
        let made = file
            .allocate(self.config.file_bytes)
            .and_then(|()| file.sync_data());
        if let Err(error) = made.and_then(|()| self.layer.sync_dir(DIR)) {
            // Best effort: an empty file that stays is free at the next opening.
            let _ = self.layer.remove(&path);
            return Err(error);
        }
        self.syncs += 1;
        let slot = Some(Slot { path, file });
        if index == self.slots.len() {
            self.slots.push(slot);
        } else {
            self.slots[index] = slot;
        }
        Ok(index)
    }
}

/// Opens all files; slot i is not always file i, since numbers may be missing.
pub(super) fn open_slots<L: FileLayer>(layer: &L) -> Result<Vec<Slot<L::File>>, FileError> {
    let mut slots = Vec::new();
    for name in layer.list(DIR)? {
        if name.starts_with(FILE_PREFIX) && slots.len() < FILES_LIMIT {
            let path = format!("{DIR}/{name}");
            slots.push(Slot {
                file: layer.open(&path)?,
                path,
            });
        }
    }
    Ok(slots)
}
