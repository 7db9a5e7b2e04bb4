//! Appending: what goes into which file, and how it becomes durable.

use bytes::Bytes;
use model::store::{DeviceError, EntryAt, JournalEntry};

use super::batch::{self, Head, Size};
use super::mark::Synced;
use super::{Journal, Tail};
use crate::BLOCK;
use crate::file::{File, FileLayer};

/// Of a file, what entries leave to batches without entries: a journal without space for another
/// file can still release, and be opened.
const CONTROL_SHARE: u64 = 64;

impl<L: FileLayer> Journal<L> {
    /// `None`: there is no space for the files that it takes, and nothing was written.
    pub(super) fn append(
        &mut self,
        entries: &[JournalEntry],
    ) -> Result<Option<Vec<EntryAt>>, DeviceError> {
        if entries.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let mut all = Size::default();
        for entry in entries {
            if !Size::default().with(entry).fits(self.config.file_bytes) {
                return Err(refused("the entry is longer than a journal file"));
            }
            all = all.with(entry);
        }
        // In one file, it is one fdatasync.
        let fits = all.total() <= self.entry_space(self.tail_space());
        let begins = !fits && all.total() <= self.entry_space(self.config.file_bytes);
        let files = self.files_for(entries, begins);
        if files > 0 {
            self.forget_deleted();
        }
        if !self.make_free(files)? {
            return Ok(None);
        }
        let mut places = Vec::with_capacity(entries.len());
        if begins {
            self.roll()?;
        }
        let mut rest = entries;
        let mut chunks = Vec::new();
        let mut start = self.tail;
        while !rest.is_empty() {
            let (count, _) = self.fitting(rest, self.tail_space());
            if count == 0 {
                self.write(start, &mut chunks)?;
                self.roll()?;
                start = self.tail;
                continue;
            }
            let (batch, left) = rest.split_at(count);
            places.extend(self.encode(0, batch, &mut chunks)?);
            rest = left;
        }
        self.write(start, &mut chunks)?;
        if !self.is_short {
            self.prepare()?;
        }
        Ok(Some(places))
    }

    /// How many files an append begins.
    fn files_for(&self, entries: &[JournalEntry], begins: bool) -> usize {
        let mut files = usize::from(begins);
        let mut rest = entries;
        let mut space = if begins {
            self.config.file_bytes
        } else {
            self.tail_space()
        };
        while !rest.is_empty() {
            let (count, bytes) = self.fitting(rest, space);
            if count == 0 {
                files += 1;
                space = self.config.file_bytes;
                continue;
            }
            rest = &rest[count..];
            space -= bytes;
        }
        files
    }

    /// Of so much left in a file, what entries may take.
    pub(super) fn entry_space(&self, space: u64) -> u64 {
        let kept = (self.config.file_bytes / CONTROL_SHARE / BLOCK * BLOCK).max(BLOCK);
        space.saturating_sub(kept)
    }

    /// How many of the entries one batch holds, with so much left in the file, and its bytes. In
    /// a whole file there is room for any one entry.
    fn fitting(&self, entries: &[JournalEntry], space: u64) -> (usize, u64) {
        let found = fitting(entries, self.entry_space(space));
        if found.0 == 0 && space == self.config.file_bytes {
            return fitting(&entries[..1], space);
        }
        found
    }

    /// Adds a batch at the tail to the chunks. **Invariant:** what opening would not believe is never
    /// written: it would be lost (R8).
    fn encode(
        &mut self,
        flags: u32,
        entries: &[JournalEntry],
        chunks: &mut Vec<Bytes>,
    ) -> Result<Vec<EntryAt>, DeviceError> {
        let tail = self.tail.expect("there is a current file");
        let (oldest, first) = self.live.iter().next().expect("the current file is live");
        self.seq += 1;
        let head = Head {
            file: tail.file,
            offset: tail.offset,
            term: self.term,
            term_start: self.term_start,
            seq: self.seq,
            synced: self.synced,
            oldest: *oldest,
            oldest_seq: first.first_seq,
            flags,
        };
        if !head.is_possible() {
            return Err(self.fail(refused("the journal's numbers have run out")));
        }
        let (bytes, places) = batch::encode(self.config.id, &head, entries, chunks);
        let offset = tail.offset + bytes;
        self.tail = Some(Tail { offset, ..tail });
        self.unsettled_bytes += bytes;
        assert!(
            offset <= self.config.file_bytes,
            "a batch never spans files"
        );
        Ok(places)
    }

    /// Writes the chunks from `start` on and syncs: the one place where entries become durable.
    fn write(&mut self, start: Option<Tail>, chunks: &mut Vec<Bytes>) -> Result<(), DeviceError> {
        let Some(start) = start else { return Ok(()) };
        if chunks.is_empty() {
            return Ok(());
        }
        let file = self.file(start.slot);
        let written = file
            .write_at(start.offset, chunks)
            .and_then(|()| file.sync_data());
        chunks.clear();
        written.map_err(|error| self.fail(error.during("journal append")))?;
        self.syncs += 1;
        self.synced = self.seq;
        let synced = Synced {
            term: self.term,
            seq: self.seq,
        };
        self.mark
            .write(synced)
            .map_err(|error| self.fail(error.during("journal mark")))
    }

    /// A batch without entries; false if there is no space for it.
    pub(super) fn control(&mut self, flags: u32) -> Result<bool, DeviceError> {
        if self.tail_space() < BLOCK {
            self.forget_deleted();
            if self.free.is_empty() && !self.add_free()? {
                return Ok(false);
            }
            self.roll()?;
        }
        let start = self.tail;
        let mut chunks = Vec::new();
        self.encode(flags, &[], &mut chunks)?;
        self.write(start, &mut chunks)?;
        Ok(true)
    }
}

pub(super) fn refused(detail: &str) -> DeviceError {
    DeviceError {
        what: "journal append",
        detail: detail.to_owned(),
    }
}

/// How many of the entries one batch of at most `space` bytes holds, and its bytes.
fn fitting(entries: &[JournalEntry], space: u64) -> (usize, u64) {
    let (mut size, mut count) = (Size::default(), 0);
    for entry in entries {
        let longer = size.with(entry);
        if !longer.fits(space) {
            break;
        }
        (size, count) = (longer, count + 1);
    }
    (count, size.total())
}
