//! The journal: one sequential log of all volumes' entries, in recycled files.
//!
//! An append is one vectored write and one fdatasync, whatever it holds. Files are never
//! renamed: a batch's header names the file's lap, so that what an earlier lap left in it is
//! told apart. What opening proves about the tail is in `docs/disk-format.md` (R8).

mod append;
mod batch;
mod mark;
mod recycle;
mod scan;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use model::store::{
    DeviceError, EntryAt, FileNo, JournalDone, JournalOp, JournalRoom, ScanVerdict, ScannedEntry,
};

use crate::BLOCK;
use crate::file::{File, FileError, FileLayer};
use append::refused;
use batch::{FLAG_DAMAGED, FLAG_OPEN};
use mark::Mark;

pub use batch::{BATCH_ENTRIES_MAX, HEADER_AREA_MAX};

const DIR: &str = "journal";
const FILE_PREFIX: &str = "file-";
/// No journal has more files: bounds what opening believes of a directory.
const FILES_LIMIT: usize = 1 << 16;

/// A journal at rest has so many files, free ones included, if it can: as many as a new one.
const RESTING_FILES: usize = 2;

/// What a busy journal appends between two pauses, as a share of a file, at least.
const BUSY_SHARE: u64 = 16;

/// A journal's shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalConfig {
    /// Whose batches these are: the disk's incarnation. Another life's batches do not pass.
    pub id: u64,
    /// Bytes of a file; a multiple of the block size.
    pub file_bytes: u64,
    /// At most this many files; an append that would need more is [`JournalDone::Full`].
    pub files_max: u32,
    /// At most this many free files are kept for reuse.
    pub spare_files_max: u32,
}

impl JournalConfig {
    /// 64 MiB a file, at most 256 GiB.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self {
            id,
            file_bytes: 64 << 20,
            files_max: 4096,
            spare_files_max: 8,
        }
    }
}

/// One file of the journal, for `debug journal`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalFile {
    /// Its path in the disk's directory.
    pub path: String,
    /// Its lap; `None` if it is free.
    pub file: Option<FileNo>,
    /// Its length in bytes.
    pub bytes: u64,
}

struct Slot<F> {
    path: String,
    file: F,
}

#[derive(Clone, Copy)]
struct LiveFile {
    slot: usize,
    /// Number of its first batch.
    first_seq: u64,
}

#[derive(Clone, Copy)]
struct Tail {
    file: FileNo,
    slot: usize,
    offset: u64,
}

/// An open journal.
pub struct Journal<L: FileLayer> {
    layer: L,
    config: JournalConfig,
    slots: Vec<Option<Slot<L::File>>>,
    live: BTreeMap<FileNo, LiveFile>,
    free: VecDeque<usize>,
    tail: Option<Tail>,
    last_file: FileNo,
    mark: Mark<L::File>,
    term: u64,
    term_start: u64,
    /// The last batch written.
    seq: u64,
    /// The last batch synced.
    synced: u64,
    syncs: u64,
    settles: u64,
    /// Bytes appended since it settled.
    unsettled_bytes: u64,
    /// There was no space for the next file.
    is_short: bool,
    failed: Option<DeviceError>,
    damage_before: Option<usize>,
}

impl<L: FileLayer> Journal<L> {
    /// Makes an empty journal when a disk is formatted, whatever its directory held.
    ///
    /// # Errors
    /// The device's.
    pub fn create(layer: &L, config: JournalConfig) -> Result<Self, DeviceError> {
        layer
            .create_dir(DIR)
            .map_err(|e| e.during("journal directory"))?;
        for name in layer.list(DIR).map_err(|e| e.during("journal directory"))? {
            layer
                .remove(&format!("{DIR}/{name}"))
                .map_err(|e| e.during("journal directory"))?;
        }
        let (journal, _, _) = Self::open_or_create(layer, config, true)?;
        Ok(journal)
    }

    /// Opens a journal that was created: its live entries in the order of appending, and
    /// whether anything that may have been synced is missing (R8). What is handed out is
    /// durable, the torn tail is cut for good.
    ///
    /// # Errors
    /// The device's.
    pub fn open(
        layer: &L,
        config: JournalConfig,
    ) -> Result<(Self, Vec<ScannedEntry>, ScanVerdict), DeviceError> {
        Self::open_or_create(layer, config, false)
    }

    fn open_or_create(
        layer: &L,
        config: JournalConfig,
        is_new: bool,
    ) -> Result<(Self, Vec<ScannedEntry>, ScanVerdict), DeviceError> {
        assert!(config.file_bytes.is_multiple_of(BLOCK) && config.file_bytes >= 4 * BLOCK);
        assert!(
            config.file_bytes <= u64::from(u32::MAX),
            "offsets within a batch are 32 bits wide"
        );
        let during = |error: FileError| error.during("opening the journal");
        let (mark, marked) = Mark::open(layer, config.id).map_err(during)?;
        let slots = recycle::open_slots(layer).map_err(during)?;
        let files: Vec<L::File> = slots.iter().map(|slot| slot.file.clone()).collect();
        for file in &files {
            // What an earlier process left in the system's cache counts only once synced.
            file.sync_data().map_err(during)?;
        }
        layer.sync_dir(DIR).map_err(during)?;
        let found = scan::scan_files(config.id, &files).map_err(during)?;
        let mut scan = scan::judge(found, marked, |slot| files[slot].clone());
        if is_new {
            scan.damage_before = None;
            scan.is_end_missing = false;
        }
        let term = scan.term + 1;
        let mut journal = Self {
            layer: layer.clone(),
            config,
            slots: slots.into_iter().map(Some).collect(),
            live: BTreeMap::new(),
            free: VecDeque::new(),
            tail: None,
            last_file: scan.last_file,
            mark,
            term,
            term_start: scan.seq + 1,
            seq: scan.seq,
            synced: scan.seq,
            syncs: 0,
            settles: 0,
            unsettled_bytes: 0,
            is_short: false,
            failed: None,
            damage_before: scan.damage_before,
        };
        for &(file, slot, first_seq) in &scan.files {
            journal.live.insert(file, LiveFile { slot, first_seq });
        }
        if let Some((file, offset)) = scan.tail {
            journal.tail = journal.live.get(&file).map(|live| Tail {
                file,
                slot: live.slot,
                offset,
            });
        }
        journal.sort_free()?;
        let damaged = if scan.is_end_missing { FLAG_DAMAGED } else { 0 };
        // The durable cut: from now on, only what this term writes follows the last batch.
        if !journal.control(FLAG_OPEN | damaged)? {
            return Err(refused("no space to open it"));
        }
        journal.settle()?;
        // What is queued first is bounded by what is left, too.
        journal.prepare()?;
        journal.syncs = 0;
        let verdict = if scan.damage_before.is_some() {
            ScanVerdict::Damaged
        } else {
            ScanVerdict::Whole
        };
        Ok((journal, scan.entries, verdict))
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// The device's. After a failed write or fdatasync the journal refuses everything: the
    /// disk retires (R8). An entry that no file can hold fails before anything is written, and
    /// [`Journal::has_failed`] stays false. No space is no error: [`JournalDone::Full`].
    pub fn execute(&mut self, op: JournalOp) -> Result<JournalDone, DeviceError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        match op {
            JournalOp::Append(entries) => Ok(match self.append(&entries)? {
                Some(places) => JournalDone::Appended {
                    places,
                    room: self.room(),
                },
                None => JournalDone::Full(entries),
            }),
            JournalOp::Read(places) => Ok(JournalDone::Read(
                places.iter().map(|at| self.read(at)).collect(),
            )),
            JournalOp::ReleaseBefore(file) => Ok(match self.release_before(file)? {
                true => JournalDone::Released,
                false => JournalDone::Full(Vec::new()),
            }),
            JournalOp::Prepare => {
                self.is_short = false;
                self.prepare()?;
                Ok(JournalDone::Prepared(self.room()))
            }
        }
    }

    /// Makes the mark durable, so that even the last batch is provably synced after a power
    /// loss, and prepares a spare file. For when nothing was appended for some milliseconds:
    /// nobody waits for it.
    ///
    /// # Errors
    /// The device's: the disk retires.
    pub fn settle(&mut self) -> Result<(), DeviceError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        match self.mark.settle() {
            Ok(synced) => self.settles += u64::from(synced),
            Err(error) => return Err(self.fail(error.during("settling the mark"))),
        }
        // One that is written slowly makes a file when it needs one: it would give a spare
        // back at once.
        let appended = std::mem::take(&mut self.unsettled_bytes);
        let is_busy = appended >= self.config.file_bytes / BUSY_SHARE;
        if is_busy || self.live.len() < RESTING_FILES {
            // No space for a spare is not yet a shortage.
            self.make_free(1)?;
        }
        Ok(())
    }

    /// Gives space that a burst needed back to the file system. For when nothing was appended
    /// for some tenths of a second: the next burst pays for making files again.
    ///
    /// # Errors
    /// The device's: the disk retires.
    pub fn rest(&mut self) -> Result<(), DeviceError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        // Giving back what is to be made again at the next append would help nobody.
        let follows = usize::from(self.needs_follower());
        self.drop_spares(RESTING_FILES.saturating_sub(self.live.len()).max(follows))
    }

    /// fdatasyncs of its files since it was opened: one of each append and release, but for appends
    /// that span files, and one of each file that was made.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// fdatasyncs of the mark since it was opened; nobody waited for them.
    #[must_use]
    pub fn settles(&self) -> u64 {
        self.settles
    }

    /// Whether a device error made it refuse everything.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// When opening found damage: how many of the entries that it handed out come before the
    /// last damaged place. What was appended after is sound.
    #[must_use]
    pub fn damage_before(&self) -> Option<usize> {
        self.damage_before
    }

    /// What is left to go on with.
    #[must_use]
    pub fn room(&self) -> JournalRoom {
        match self.is_short {
            true => JournalRoom::Left(self.entry_space(self.tail_space())),
            false => JournalRoom::Ample,
        }
    }

    /// The file that appends go to.
    #[must_use]
    pub fn current_file(&self) -> FileNo {
        self.tail.map_or(self.last_file, |tail| tail.file)
    }

    /// All files, live ones first.
    #[must_use]
    pub fn files(&self) -> Vec<JournalFile> {
        let live = self
            .live
            .iter()
            .map(|(file, live)| (Some(*file), live.slot));
        let free = self.free.iter().map(|slot| (None, *slot));
        let mut out = Vec::new();
        for (file, slot) in live.chain(free) {
            if let Some(slot) = &self.slots[slot] {
                out.push(JournalFile {
                    path: slot.path.clone(),
                    file,
                    bytes: self.config.file_bytes,
                });
            }
        }
        out
    }

    /// Whether every file that entries are in is still at its path (R2).
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.live.values().all(|live| {
            let slot = self.slots[live.slot].as_ref();
            slot.is_some_and(|slot| self.layer.is_current(&slot.path, &slot.file))
        })
    }

    /// Bytes that appends may still take before the journal is full, all files counted.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        let files = u64::from(self.config.files_max).saturating_sub(self.live.len() as u64);
        files * self.config.file_bytes + self.tail_space()
    }

    fn fail(&mut self, error: DeviceError) -> DeviceError {
        self.failed = Some(error.clone());
        error
    }

    fn file(&self, slot: usize) -> &L::File {
        &self.slots[slot]
            .as_ref()
            .expect("a live or free slot is open")
            .file
    }

    fn tail_space(&self) -> u64 {
        self.tail
            .map_or(0, |tail| self.config.file_bytes.saturating_sub(tail.offset))
    }

    fn read(&self, at: &EntryAt) -> Option<Bytes> {
        let live = self.live.get(&at.file)?;
        let end = at.offset.checked_add(u64::from(at.payload_len))?;
        if end
            > self
                .config
                .file_bytes
                .max(self.file(live.slot).size().ok()?)
        {
            return None;
        }
        scan::read_payload(self.file(live.slot), at)
    }
}
