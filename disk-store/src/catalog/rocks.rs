//! The catalog in RocksDB.
//!
//! Rows are written without a sync: the extents' headers can rebuild them. RocksDB checks
//! every block that it reads; whatever it finds wrong is a [`CatalogError`], upon which the
//! catalog is thrown away and rebuilt. On a full file system RocksDB takes no rows until there is
//! room again, which it looks for by itself: until then they are kept here.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use model::ids::{Epoch, FragmentKey, SegmentId, Slot, VolumeId};
use model::wire;
use rocksdb::{DB, Direction, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions};

use super::{Catalog, CatalogError, Row, Stamp};

/// Greater than every fragment's key, which has [`KEY_BYTES`].
const STAMP_KEY: &[u8] =
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffstamp";
const KEY_BYTES: usize = 17;

/// How RocksDB, or the system, words that there is no room, for which there is no kind of its own.
const NO_SPACE: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// A catalog in a directory of its own.
pub struct RocksCatalog {
    path: PathBuf,
    db: Result<DB, CatalogError>,
    /// Rows that RocksDB had no room for, over those that it has.
    late: BTreeMap<FragmentKey, Option<Row>>,
}

impl RocksCatalog {
    /// Opens the catalog in the directory `path`, or makes it. One that can't be opened is
    /// reported by its first use, and rebuilt by the store.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            db: open(path),
            late: BTreeMap::new(),
        }
    }

    fn db(&self) -> Result<&DB, CatalogError> {
        self.db.as_ref().map_err(Clone::clone)
    }

    /// Has RocksDB take what it had no room for.
    fn catch_up(&mut self) -> Result<(), CatalogError> {
        if !self.late.is_empty() {
            self.put(self.late.iter().map(|(key, row)| (*key, *row)))?;
            self.late.clear();
        }
        Ok(())
    }

    fn put(
        &self,
        rows: impl Iterator<Item = (FragmentKey, Option<Row>)>,
    ) -> Result<(), CatalogError> {
        let mut batch = WriteBatch::default();
        for (key, row) in rows {
            match row {
                Some(row) => batch.put(key_bytes(key), wire::encode(&row)),
                None => batch.delete(key_bytes(key)),
            }
        }
        self.db()?.write(batch).map_err(failed)
    }
}

fn open(path: &Path) -> Result<DB, CatalogError> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    options.set_keep_log_file_num(2);
    options.set_max_open_files(256);
    options.set_write_buffer_size(16 << 20);
    DB::open(&options, path).map_err(failed)
}

fn failed(error: rocksdb::Error) -> CatalogError {
    let said = error.into_string();
    if NO_SPACE.iter().any(|words| said.contains(words)) {
        CatalogError::NoSpace(said)
    } else {
        CatalogError::Corrupt(said)
    }
}

fn key_bytes(key: FragmentKey) -> [u8; KEY_BYTES] {
    let mut out = [0; KEY_BYTES];
    out[..4].copy_from_slice(&key.segment.volume.0.to_be_bytes());
    out[4..12].copy_from_slice(&key.segment.epoch.0.to_be_bytes());
    out[12..16].copy_from_slice(&key.segment.counter.to_be_bytes());
    out[16] = key.slot.0;
    out
}

fn key_of(bytes: &[u8]) -> Option<FragmentKey> {
    let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
    let segment = SegmentId {
        volume: VolumeId(u32::from_be_bytes(bytes[..4].try_into().ok()?)),
        epoch: Epoch(u64::from_be_bytes(bytes[4..12].try_into().ok()?)),
        counter: u32::from_be_bytes(bytes[12..16].try_into().ok()?),
    };
    Some(FragmentKey {
        segment,
        slot: Slot(bytes[16]),
    })
}

fn row_of(bytes: &[u8]) -> Result<Row, CatalogError> {
    wire::decode(bytes).map_err(|_| CatalogError::Corrupt("a row does not decode".to_owned()))
}

impl Catalog for RocksCatalog {
    fn get(&self, key: FragmentKey) -> Result<Option<Row>, CatalogError> {
        if let Some(late) = self.late.get(&key) {
            return Ok(*late);
        }
        let row = self.db()?.get_pinned(key_bytes(key)).map_err(failed)?;
        row.map(|bytes| row_of(&bytes)).transpose()
    }

    fn scan(
        &self,
        after: Option<FragmentKey>,
        limit: usize,
    ) -> Result<Vec<(FragmentKey, Row)>, CatalogError> {
        let start = after.map(|key| {
            let mut start = key_bytes(key).to_vec();
            start.push(0);
            start
        });
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(STAMP_KEY);
        let start = start.unwrap_or_default();
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut late = self.late.range((after, Bound::Unbounded)).peekable();
        let mut rows = Vec::new();
        for item in self
            .db()?
            .iterator_opt(IteratorMode::From(&start, Direction::Forward), options)
        {
            if rows.len() >= limit {
                break;
            }
            let (key, row) = item.map_err(failed)?;
            let key = key_of(&key)
                .ok_or_else(|| CatalogError::Corrupt("a key has a wrong length".to_owned()))?;
            while let Some((key, row)) = late.next_if(|(late, _)| **late < key) {
                rows.extend(row.map(|row| (*key, row)));
            }
            match late.next_if(|(late, _)| **late == key) {
                Some((_, row)) => rows.extend(row.map(|row| (key, row))),
                None => rows.push((key, row_of(&row)?)),
            }
        }
        let left = limit.saturating_sub(rows.len());
        let late = late.filter_map(|(key, row)| row.map(|row| (*key, row)));
        rows.extend(late.take(left));
        rows.truncate(limit);
        Ok(rows)
    }

    fn write(&mut self, rows: &[(FragmentKey, Option<Row>)]) -> Result<(), CatalogError> {
        // In their order: what is late is tried again when it is settled.
        if self.late.is_empty() {
            match self.put(rows.iter().copied()) {
                Err(CatalogError::NoSpace(_)) => {}
                done => return done,
            }
        }
        self.late.extend(rows.iter().copied());
        Ok(())
    }

    fn stamp(&self) -> Result<Option<Stamp>, CatalogError> {
        let Some(bytes) = self.db()?.get(STAMP_KEY).map_err(failed)? else {
            return Ok(None);
        };
        let stamp = wire::decode(&bytes);
        stamp
            .map(Some)
            .map_err(|_| CatalogError::Corrupt("the stamp does not decode".to_owned()))
    }

    fn settle(&mut self, stamp: Stamp) -> Result<(), CatalogError> {
        self.catch_up()?;
        // The log is written in order: once the stamp is synced, so is every row before it.
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db()?
            .put_opt(STAMP_KEY, wire::encode(&stamp), &options)
            .map_err(failed)
    }

    fn reset(&mut self) -> Result<(), CatalogError> {
        let cleared = |error: std::io::Error| CatalogError::Failed(error.to_string());
        self.late.clear();
        self.db = Err(CatalogError::Failed("closed".to_owned()));
        if self.path.exists() {
            fs::remove_dir_all(&self.path).map_err(cleared)?;
        }
        let db = open(&self.path)?;
        self.db = Ok(db);
        Ok(())
    }
}
