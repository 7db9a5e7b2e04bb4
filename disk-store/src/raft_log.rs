//! A durable key-value store for the metadata groups' Raft logs, one keyspace a group. The
//! node adapts raft-meta's log trait to it.

use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    DB, DBRecoveryMode, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};
use thiserror::Error;

use crate::bytes_at::{is_sealed, seal, set_u64, u64_at};
use crate::file::real::{RealFile, RealFiles};
use crate::file::{File, FileError, FileLayer};

/// A group's keys and values.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

const MARK_PATH: &str = "mark";
const MARK_BYTES: usize = 512;
/// Its value is the number of the last write; the group `0xff` is reserved for it.
const NUMBER_KEY: &[u8] = &[0xff, 0];

/// Why the store can't be used. A voter that gets [`MetaStoreError::Damaged`] has lost what it
/// promised: it comes back as a new incarnation only (R8).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetaStoreError {
    /// What was synced is missing, or wrong.
    #[error("the metadata log is damaged: {0}")]
    Damaged(String),
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

fn damaged(error: rocksdb::Error) -> MetaStoreError {
    MetaStoreError::Damaged(error.into_string())
}

/// The store. Every write is synced before it returns.
pub struct MetaStore {
    db: DB,
    /// The second place of the synced position (R8): the number of the last synced write,
    /// itself not synced.
    mark: RealFile,
    number: u64,
    failed: Option<MetaStoreError>,
}

impl MetaStore {
    /// Opens the store in the directory `path`, or makes it.
    ///
    /// # Errors
    /// [`MetaStoreError::Damaged`] if it does not hold all that was synced.
    pub fn open(path: &Path) -> Result<Self, MetaStoreError> {
        std::fs::create_dir_all(path).map_err(|error| MetaStoreError::Failed(error.to_string()))?;
        let files = RealFiles::new(path);
        let mark = match files.open(MARK_PATH) {
            Err(FileError::NotFound) => files.create(MARK_PATH)?,
            mark => mark?,
        };
        files.sync_dir("")?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_keep_log_file_num(2);
        // Only a torn tail is cut; a wrong record before it is damage.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        let db = DB::open(&options, path.join("db")).map_err(damaged)?;
        let number = db
            .get(NUMBER_KEY)
            .map_err(damaged)?
            .and_then(|bytes| u64_at(&bytes, 0))
            .unwrap_or(0);
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
        Ok(Self {
            db,
            mark,
            number,
            failed: None,
        })
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
            let (key, value) = item.map_err(damaged)?;
            pairs.push((key[1..].to_vec(), value.into_vec()));
        }
        Ok((!pairs.is_empty()).then_some(pairs))
    }

    /// Puts and deletes pairs of a group, atomically and durably. Deletes come first.
    ///
    /// # Errors
    /// The device's: the store refuses everything from then on (R8).
    pub fn write(
        &mut self,
        group: u8,
        puts: &[(Vec<u8>, Vec<u8>)],
        deletes: &[Vec<u8>],
    ) -> Result<(), MetaStoreError> {
        if group == u8::MAX {
            return Err(MetaStoreError::ReservedGroup);
        }
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let named = |key: &[u8]| [&[group], key].concat();
        let mut batch = WriteBatch::default();
        for key in deletes {
            batch.delete(named(key));
        }
        for (key, value) in puts {
            batch.put(named(key), value);
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
