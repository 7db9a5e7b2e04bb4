//! Storing a fragment.

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::ids::FragmentKey;
use model::payload::Payload;
use model::store::{Claim, DeviceError, FragmentDone, FragmentMeta};

use super::header::{self, Header};
use super::ledger::EXTENTS_MAX;
use super::{FRAGMENT_BYTES_MAX, Fragments, extent_path, scan};
use crate::catalog::{Catalog, Row};
use crate::file::{File, FileError, FileLayer};

/// Why a put found no place.
enum NoPlace {
    Full,
    Device(DeviceError),
}

impl From<DeviceError> for NoPlace {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl<L: FileLayer, C: Catalog> Fragments<L, C> {
    pub(super) fn put(
        &mut self,
        (key, meta): (FragmentKey, FragmentMeta),
        claim: Claim,
        sums: Vec<u32>,
        data: &Payload,
    ) -> Result<FragmentDone, DeviceError> {
        let is_sound = header::is_possible(&meta)
            && data.len() == meta.fragment_bytes as usize
            && sums.len() == data.len() / BLOCK_BYTES
            && are_payload_sums(key, &sums, data);
        if !is_sound {
            return Ok(FragmentDone::Conflict);
        }
        // Its own place, and the one that a repair gives up.
        if !self.make_listable(2)? {
            return Ok(FragmentDone::Full);
        }
        if let Some(row) = self.lookup(key)? {
            return self.put_again(row, key, meta, sums, data);
        }
        let bytes = header::area_bytes(meta.fragment_bytes) + u64::from(meta.fragment_bytes);
        let place = match self.allocate(bytes, self.capacity_for(claim)) {
            Ok(place) => place,
            Err(NoPlace::Full) => return Ok(FragmentDone::Full),
            Err(NoPlace::Device(error)) => return Err(error),
        };
        let header_bytes = header::area_bytes(meta.fragment_bytes) as u32;
        let row = Row {
            extent: place.0,
            offset: place.1,
            header_bytes,
            meta,
        };
        match self.write(&row, key, sums, data) {
            Ok(()) => {}
            Err(FileError::NoSpace) => return self.undo(&row),
            Err(error) => return Err(error.during("fragment write")),
        }
        self.staged.rows.insert(key, Some(row));
        self.stats.used_bytes += row.bytes();
        self.stats.fragments += 1;
        Ok(FragmentDone::Stored)
    }

    /// Bytes that fragments may fill up, by who wants the space (R18).
    fn capacity_for(&self, claim: Claim) -> u64 {
        let reserve = match claim {
            Claim::Client => self.config.reserve_bytes,
            Claim::Overwrite => self.config.reserve_bytes / 2,
            Claim::Upkeep => self.config.reserve_bytes / 4,
            Claim::Index => self.config.reserve_bytes / 8,
        };
        self.config.capacity_bytes.saturating_sub(reserve)
    }

    /// Whether a fragment of data of so many bytes would find room. The device is asked too: it
    /// may be full of something else.
    pub(super) fn try_room(&mut self, fragment_bytes: u32) -> Result<FragmentDone, DeviceError> {
        let fragment_bytes = fragment_bytes.min(FRAGMENT_BYTES_MAX);
        let bytes = header::area_bytes(fragment_bytes) + u64::from(fragment_bytes);
        // As a put's.
        if !self.make_listable(2)? {
            return Ok(FragmentDone::Full);
        }
        let place = match self.allocate(bytes, self.capacity_for(Claim::Client)) {
            Ok(place) => place,
            Err(NoPlace::Full) => return Ok(FragmentDone::Full),
            Err(NoPlace::Device(error)) => return Err(error),
        };
        let file = &self.extents[&place.0];
        let zeros = Bytes::from(vec![0; usize::try_from(bytes).expect("a fragment's")]);
        let done = match file.write_at(place.1, &[zeros]) {
            Ok(()) => FragmentDone::HasRoom,
            Err(FileError::NoSpace) => FragmentDone::Full,
            Err(error) => return Err(error.during("trying for room")),
        };
        file.punch_hole(place.1, bytes)
            .map_err(|error| error.during("trying for room"))?;
        let freed = self.space.free(place, bytes);
        assert!(freed, "what was allocated was not free");
        Ok(done)
    }

    /// The same fragment again: a retry, a repair, or a contradiction.
    fn put_again(
        &mut self,
        row: Row,
        key: FragmentKey,
        meta: FragmentMeta,
        sums: Vec<u32>,
        data: &Payload,
    ) -> Result<FragmentDone, DeviceError> {
        if row.meta != meta {
            return Ok(FragmentDone::Conflict);
        }
        let file = self.extents[&row.extent].clone();
        let old = scan::header_at(self.config.id, &file, (row.extent, row.offset))
            .filter(|old| old.key == key);
        if let Some(old) = old {
            if old.sums != sums {
                return Ok(FragmentDone::Conflict);
            }
            if scan::is_whole(&file, &row, &old) {
                return Ok(FragmentDone::Stored);
            }
        }
        self.store_anew(&row, key, sums, data)
    }

    /// Damaged: the same bytes at another place, so that a crash on the way loses nothing that a
    /// reader could have had. The old place is given up once the new one is durable: of two
    /// headers of one fragment the later written stands.
    fn store_anew(
        &mut self,
        old: &Row,
        key: FragmentKey,
        sums: Vec<u32>,
        data: &Payload,
    ) -> Result<FragmentDone, DeviceError> {
        self.touch(old.extent)?;
        // It gives back what it takes.
        let capacity = self.config.capacity_bytes + old.bytes();
        let place = match self.allocate(old.bytes(), capacity) {
            Ok(place) => place,
            Err(NoPlace::Full) => return Ok(FragmentDone::Full),
            Err(NoPlace::Device(error)) => return Err(error),
        };
        let row = Row {
            extent: place.0,
            offset: place.1,
            ..*old
        };
        match self.write(&row, key, sums, data) {
            Ok(()) => {}
            Err(FileError::NoSpace) => return self.undo(&row),
            Err(error) => return Err(error.during("fragment repair")),
        }
        self.staged.rows.insert(key, Some(row));
        self.staged.given_up.push(*old);
        self.stats.used_bytes += row.bytes();
        self.stats.fragments += 1;
        Ok(FragmentDone::Stored)
    }

    fn write(
        &mut self,
        row: &Row,
        key: FragmentKey,
        sums: Vec<u32>,
        data: &Payload,
    ) -> Result<(), FileError> {
        if self.next_put > header::PUT_NO_MAX {
            // What a scan would not believe is not written: it would be lost (R8).
            return Err(FileError::Device {
                what: "extent",
                detail: "the disk's write numbers have run out".to_owned(),
            });
        }
        let header = Header {
            key,
            meta: row.meta,
            sums,
            put_no: self.next_put,
        };
        self.next_put += 1;
        let area = header::encode(self.config.id, (row.extent, row.offset), &header);
        let mut chunks = Vec::with_capacity(1 + data.chunks().len());
        chunks.push(Bytes::from(area));
        chunks.extend(data.chunks().iter().cloned());
        self.staged.touched.insert(row.extent);
        self.extents[&row.extent].write_at(row.offset, &chunks)
    }

    /// The device was full in the middle of a put: nothing of it may look like a fragment.
    fn undo(&mut self, row: &Row) -> Result<FragmentDone, DeviceError> {
        let file = &self.extents[&row.extent];
        file.punch_hole(row.offset, row.bytes())
            .map_err(|error| error.during("undoing a put"))?;
        let freed = self.space.free((row.extent, row.offset), row.bytes());
        assert!(freed, "what was allocated was not free");
        Ok(FragmentDone::Full)
    }

    fn allocate(&mut self, bytes: u64, capacity: u64) -> Result<(u32, u64), NoPlace> {
        if self.stats.used_bytes + bytes > capacity {
            return Err(NoPlace::Full);
        }
        if let Some(place) = self.space.alloc(bytes) {
            self.touch(place.0)?;
            return Ok(place);
        }
        let extent = self
            .extents
            .last_key_value()
            .map_or(0, |(extent, _)| extent + 1);
        if extent >= EXTENTS_MAX || bytes > self.config.extent_bytes {
            return Err(NoPlace::Full);
        }
        self.touch(extent)?;
        let file = match self.layer.create(&extent_path(extent)) {
            Ok(file) => file,
            Err(FileError::NoSpace) => return Err(NoPlace::Full),
            Err(error) => return Err(NoPlace::Device(error.during("making an extent"))),
        };
        self.layer
            .sync_dir("extents")
            .map_err(|error| error.during("making an extent"))?;
        self.extents.insert(extent, file);
        let added = self.space.free((extent, 0), self.config.extent_bytes);
        assert!(added, "a new extent has no free ranges yet");
        self.space.alloc(bytes).ok_or(NoPlace::Full)
    }
}

fn are_payload_sums(key: FragmentKey, sums: &[u32], data: &Payload) -> bool {
    let whole = data
        .chunks()
        .iter()
        .all(|chunk| chunk.len().is_multiple_of(BLOCK_BYTES));
    if !whole {
        return scan::are_sums(key, 0, sums, &data.clone().into_bytes());
    }
    let mut first = 0;
    data.chunks().iter().all(|chunk| {
        let blocks = chunk.len() / BLOCK_BYTES;
        let is_sum = scan::are_sums(key, first as u32, &sums[first..first + blocks], chunk);
        first += blocks;
        is_sum
    })
}
