//! A durable key-value store for the metadata groups' Raft logs, one keyspace a group. The
//! node adapts raft-meta's log trait to it.
//!
//! The store holds the life (R2) of the voter that promised what is in it: it is gone when the
//! logs are gone, so that nobody comes back with the name and without the promises.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use model::ids::Incarnation;
use rocksdb::{
    DB, DBRecoveryMode, Direction, ErrorKind, IteratorMode, Options, ReadOptions, WriteBatch,
    WriteOptions,
};
use thiserror::Error;

use crate::bytes_at::{is_sealed, seal, set_u64, u64_at};
use crate::file::real::{RealFile, RealFiles};
use crate::file::{File, FileError, FileLayer};

/// A group's keys and values.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A change of one group. Deletes come first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// The group.
    pub group: u8,
    /// Keys that go.
    pub deletes: Vec<Vec<u8>>,
    /// Pairs that come.
    pub puts: Pairs,
}

const DB_PATH: &str = "db";
const MARK_PATH: &str = "mark";
const MARK_BYTES: usize = 512;
/// RocksDB's file that names the newest description of a database.
const CURRENT: &str = "CURRENT";
/// The group `0xff` is reserved: the number of the last write, the life, and the format.
const NUMBER_KEY: &[u8] = &[0xff, 0];
const LIFE_KEY: &[u8] = &[0xff, 1];
const FORMAT_KEY: &[u8] = &[0xff, 2];

/// How groups' keys and values are to be read. It counts up with every change after which an older
/// version would take them for damaged, or a newer one those of before: else a voter would throw
/// away what it promised. A store that does not say is of the first.
const FORMAT: u64 = 4;

/// Damaged stores that are kept beside the one in use: the first ones, and the last.
const ASIDE_MAX: usize = 16;

/// How RocksDB words that a file is not there, of which it has no kind of its own.
const MISSING: &str = "IO error: No such file or directory";

/// Why the store can't be used. A voter that gets [`MetaStoreError::Damaged`] has lost what it
/// promised: it comes back as a new incarnation only (R8).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetaStoreError {
    /// What was synced is missing, or wrong.
    #[error("the metadata log is damaged: {0}")]
    Damaged(String),
    /// It may hold all that was synced, but this version can't tell: nothing was changed.
    #[error(
        "the metadata log is none that this version reads ({0}): run the version that wrote it; to give up what this \
         node promised and have it come back as another member, move the directory `meta` away"
    )]
    Foreign(String),
    /// A write or a sync failed: never try again (R8).
    #[error("the metadata log failed: {0}")]
    Failed(String),
    /// Group `0xff` is reserved.
    #[error("group 255 is reserved")]
    ReservedGroup,
}

impl From<FileError> for MetaStoreError {
    fn from(error: FileError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<io::Error> for MetaStoreError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<rocksdb::Error> for MetaStoreError {
    /// Damage is what was found wrong, or missing. What RocksDB does not support, such as another
    /// one's options or files, is none. A lock that another process holds, a device or a limit that
    /// refuses: they say nothing of what is there.
    fn from(error: rocksdb::Error) -> Self {
        let kind = error.kind();
        let is_missing = error.as_ref().starts_with(MISSING);
        let said = error.into_string();
        match kind {
            ErrorKind::Corruption | ErrorKind::NotFound => Self::Damaged(said),
            ErrorKind::IOError if is_missing => Self::Damaged(said),
            ErrorKind::NotSupported | ErrorKind::InvalidArgument => Self::Foreign(said),
            _ => Self::Failed(said),
        }
    }
}

/// The store. Every write is synced before it returns.
pub struct MetaStore {
    db: DB,
    life: Incarnation,
    /// The second place of the synced position (R8): the number of the last synced write,
    /// itself not synced.
    mark: RealFile,
    number: u64,
    failed: Option<MetaStoreError>,
}

fn options(create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.set_paranoid_checks(true);
    options.set_keep_log_file_num(2);
    // Only a torn tail is cut; a wrong record before it is damage.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

impl MetaStore {
    /// Opens the store in the directory `path`; `None` if nothing of one is there.
    ///
    /// # Errors
    /// [`MetaStoreError::Damaged`] if it does not hold all that was synced;
    /// [`MetaStoreError::Foreign`] if another version of this program wrote it.
    pub fn open(path: &Path) -> Result<Option<Self>, MetaStoreError> {
        let damaged = |what: &str| MetaStoreError::Damaged(what.to_owned());
        let has_db = path.join(DB_PATH).try_exists()?;
        let mark = match RealFiles::new(path).open(MARK_PATH) {
            Err(FileError::NotFound) if !has_db => return Ok(None),
            Err(FileError::NotFound) => return Err(damaged("its mark is missing")),
            mark => mark?,
        };
        if !has_db {
            return Err(damaged("its database is missing"));
        }
        // RocksDB takes it for no database then, as one might be that it can't read.
        if !path.join(DB_PATH).join(CURRENT).try_exists()? {
            return Err(damaged("its database names no state"));
        }
        let db = DB::open(&options(false), path.join(DB_PATH))?;
        let held = |key: &[u8]| -> Result<Option<u64>, MetaStoreError> {
            Ok(db.get(key)?.and_then(|bytes| u64_at(&bytes, 0)))
        };
        let format = held(FORMAT_KEY)?.unwrap_or(1);
        if format != FORMAT {
            let of = format!(
                "it is of format {format}, this build knows {FORMAT}: use the one that made it"
            );
            return Err(MetaStoreError::Foreign(of));
        }
        // The first write is of the life: without it nothing was ever promised here.
        let life = held(LIFE_KEY)?.ok_or_else(|| damaged("it names no life"))?;
        let number = held(NUMBER_KEY)?.unwrap_or(0);
        let bytes = mark.read_at(0, MARK_BYTES)?;
        let marked = if is_sealed(&bytes) {
            u64_at(&bytes, 8).unwrap_or(0)
        } else {
            0
        };
        if number < marked {
            return Err(MetaStoreError::Damaged(format!(
                "write {marked} was synced, the last one is {number}"
            )));
        }
        Ok(Some(Self {
            db,
            life: Incarnation(life),
            mark,
            number,
            failed: None,
        }))
    }

    /// Makes an empty store of a life in the directory `path`, where nothing of one is.
    ///
    /// # Errors
    /// The device's.
    pub fn create(path: &Path, life: Incarnation) -> Result<Self, MetaStoreError> {
        fs::create_dir_all(path)?;
        let mark = RealFiles::new(path).create(MARK_PATH)?;
        let db = DB::open(&options(true), path.join(DB_PATH))?;
        sync_directory(path)?;
        if let Some(parent) = path.parent() {
            sync_directory(parent)?;
        }
        let mut store = Self {
            db,
            life,
            mark,
            number: 0,
            failed: None,
        };
        let mut batch = WriteBatch::default();
        batch.put(LIFE_KEY, life.0.to_le_bytes());
        batch.put(FORMAT_KEY, FORMAT.to_le_bytes());
        store.commit(batch)?;
        Ok(store)
    }

    /// Moves what is there of a damaged store out of the way, for whoever wants to look, and
    /// says where it is now. Within the directory, since that may be a file system of its own.
    ///
    /// # Errors
    /// The device's.
    pub fn set_aside(path: &Path) -> Result<PathBuf, MetaStoreError> {
        let named = |n: usize| path.join(format!("damaged-{n}"));
        let free = (1..ASIDE_MAX).map(named).find(|aside| !aside.exists());
        let aside = free.unwrap_or_else(|| named(ASIDE_MAX));
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::create_dir(&aside)?;
        for name in [DB_PATH, MARK_PATH] {
            match fs::rename(path.join(name), aside.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => moved?,
            }
        }
        sync_directory(&aside)?;
        sync_directory(path)?;
        Ok(aside)
    }

    /// The life of the voter whose promises these are.
    #[must_use]
    pub fn life(&self) -> Incarnation {
        self.life
    }

    /// A group's pairs, ascending; `None` if there are none.
    ///
    /// # Errors
    /// [`MetaStoreError::Damaged`].
    pub fn load(&self, group: u8) -> Result<Option<Pairs>, MetaStoreError> {
        if group == u8::MAX {
            return Err(MetaStoreError::ReservedGroup);
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound([group + 1]);
        let mut pairs = Vec::new();
        for item in self
            .db
            .iterator_opt(IteratorMode::From(&[group], Direction::Forward), options)
        {
            let (key, value) = item?;
            pairs.push((key[1..].to_vec(), value.into_vec()));
        }
        Ok((!pairs.is_empty()).then_some(pairs))
    }

    /// Makes changes of any groups, in their order, atomically and durably: all of them or none.
    ///
    /// # Errors
    /// The device's: the store refuses everything from then on (R8).
    pub fn write(&mut self, changes: &[Change]) -> Result<(), MetaStoreError> {
        let mut batch = WriteBatch::default();
        for change in changes {
            if change.group == u8::MAX {
                return Err(MetaStoreError::ReservedGroup);
            }
            let named = |key: &[u8]| [&[change.group], key].concat();
            for key in &change.deletes {
                batch.delete(named(key));
            }
            for (key, value) in &change.puts {
                batch.put(named(key), value);
            }
        }
        self.commit(batch)
    }

    fn commit(&mut self, mut batch: WriteBatch) -> Result<(), MetaStoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.number += 1;
        batch.put(NUMBER_KEY, self.number.to_le_bytes());
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let mut mark = vec![0; MARK_BYTES];
        set_u64(&mut mark, 8, self.number);
        seal(&mut mark);
        let written = self
            .db
            .write_opt(batch, &options)
            .map_err(|error| MetaStoreError::Failed(error.into_string()));
        let written = written.and_then(|()| Ok(self.mark.write_at(0, &[Bytes::from(mark)])?));
        if let Err(error) = &written {
            self.failed = Some(error.clone());
        }
        written
    }
}
