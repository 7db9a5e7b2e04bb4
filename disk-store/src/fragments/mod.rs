//! The fragments: self-describing, in large sparse extent files.
//!
//! A batch of operations is durable with one fdatasync an extent that it changed. The
//! catalog is written after that, and not synced: the extents' headers are the truth, and the
//! ledger says which of them to read again after a crash. See `docs/disk-format.md`.

mod adopted;
pub mod header;
mod ledger;
mod list;
mod open;
mod put;
mod scan;
mod scrub;
pub mod space;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::ids::FragmentKey;
use model::planted::{Bug, planted};
use model::store::{DeviceError, FragmentDone, FragmentOp, ScrubMark};

use crate::BLOCK;
use crate::catalog::{Catalog, CatalogError, Row, Stamp};
use crate::file::{File, FileLayer};
use header::Header;
use ledger::Ledger;
use space::FreeMap;

pub use adopted::{Adopted, ROWS_MAX};
pub use header::FRAGMENT_BYTES_MAX;
pub use ledger::EXTENTS_MAX;
pub use open::Recovery;

/// The catalog is settled before an operation could make more extents than this change since:
/// bounds what is read again after a crash.
pub const CHANGED_EXTENTS_MAX: usize = 16;
/// The catalog is settled after this many puts at the latest.
pub const UNSETTLED_PUTS_MAX: u64 = 4096;
/// A `Get` returns at most this many bytes; ranges beyond read as damaged.
pub const GET_BYTES_MAX: u64 = 64 << 20;
/// A `List` returns at most this many keys.
pub const LIST_KEYS_MAX: u32 = 4096;

/// What is kept in reserve at least, but for disks of which that is more than a quarter.
const RESERVE_BYTES_MIN: u64 = 8 << 20;

/// A store's shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentsConfig {
    /// The disk's incarnation: another life's headers do not pass.
    pub id: u64,
    /// Bytes of an extent file at most; a multiple of the block size.
    pub extent_bytes: u64,
    /// Bytes that fragments may take, headers included.
    pub capacity_bytes: u64,
    /// Of the capacity, kept from clients' new data: who else has how much of it, [`Claim`] says (R18).
    pub reserve_bytes: u64,
}

impl FragmentsConfig {
    /// 1 GiB an extent, a twentieth in reserve: on small disks more, so that whoever has a share of
    /// it finds room for fragments of full segments.
    #[must_use]
    pub fn new(id: u64, capacity_bytes: u64) -> Self {
        Self {
            id,
            extent_bytes: 1 << 30,
            capacity_bytes,
            reserve_bytes: (capacity_bytes / 20)
                .max(RESERVE_BYTES_MIN)
                .min(capacity_bytes / 4),
        }
    }
}

/// Counters and sizes, for `debug fragments`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FragmentsStats {
    /// Fragments stored.
    pub fragments: u64,
    /// Bytes that they take, headers included.
    pub used_bytes: u64,
    /// Bytes that they may take.
    pub capacity_bytes: u64,
    /// Extent files.
    pub extents: u32,
    /// fdatasyncs of extents and ledger.
    pub syncs: u64,
    /// How often the catalog was rebuilt since the store was opened.
    pub rebuilds: u64,
}

/// What a batch has written, and not yet synced.
#[derive(Default)]
struct Staged {
    rows: BTreeMap<FragmentKey, Option<Row>>,
    touched: BTreeSet<u32>,
    frees: Vec<Row>,
    /// Places of fragments that were stored anew elsewhere.
    given_up: Vec<Row>,
}

impl Staged {
    /// Whether there is nothing to make durable.
    fn is_empty(&self) -> bool {
        let changed = !self.rows.is_empty() || !self.touched.is_empty();
        !changed && self.frees.is_empty() && self.given_up.is_empty()
    }
}

/// An open store of fragments.
pub struct Fragments<L: FileLayer, C: Catalog> {
    layer: L,
    catalog: C,
    config: FragmentsConfig,
    extents: BTreeMap<u32, L::File>,
    space: FreeMap,
    ledger: Ledger<L::File>,
    state: ledger::State,
    staged: Staged,
    next_put: u64,
    stats: FragmentsStats,
    adopted: Adopted,
    scrubbed: ScrubMark,
    /// Reading the headers may have missed something that was stored, and nobody was told yet.
    may_lack: bool,
    failed: Option<DeviceError>,
}

fn extent_path(extent: u32) -> String {
    format!("extents/{extent:08}")
}

impl<L: FileLayer, C: Catalog> Fragments<L, C> {
    /// Carries out one operation; see [`Fragments::execute_batch`].
    ///
    /// # Errors
    /// The device's.
    pub fn execute(&mut self, op: FragmentOp) -> Result<FragmentDone, DeviceError> {
        let mut done = self.execute_batch(vec![op])?;
        Ok(done.pop().expect("an operation has a result"))
    }

    /// Carries out operations in order; when it returns, all of it is durable, with one
    /// fdatasync an extent that was changed. A `Put` whose lengths or sums don't match its
    /// data fails as `Conflict`. One of a fragment that is there with the same sums is a
    /// success, and repairs what is damaged of it.
    ///
    /// # Errors
    /// The device's: nothing is known about the batch, and the store refuses everything from
    /// then on (R8).
    pub fn execute_batch(
        &mut self,
        ops: Vec<FragmentOp>,
    ) -> Result<Vec<FragmentDone>, DeviceError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let done = self.run(ops);
        if let Err(error) = &done {
            self.failed = Some(error.clone());
        }
        done
    }

    /// Makes the catalog durable, so that opening reads no extent again. For idle moments and
    /// for stopping: nobody waits for it.
    ///
    /// # Errors
    /// The device's: the store refuses everything from then on.
    pub fn settle(&mut self) -> Result<(), DeviceError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if self.state.changed.is_empty() {
            return Ok(());
        }
        // Without room it stays as it is: opening reads what changed since again.
        let settled = self.settle_catalog();
        if let Err(error) = &settled {
            self.failed = Some(error.clone());
        }
        settled.map(drop)
    }

    /// Counters and sizes.
    #[must_use]
    pub fn stats(&self) -> FragmentsStats {
        FragmentsStats {
            extents: self.extents.len() as u32,
            capacity_bytes: self.config.capacity_bytes,
            ..self.stats
        }
    }

    /// What is known of rows' moves, durably.
    #[must_use]
    pub fn adopted(&self) -> &Adopted {
        &self.adopted
    }

    /// How far the disk's scrub had come when that was last kept.
    #[must_use]
    pub fn scrubbed(&self) -> ScrubMark {
        self.scrubbed
    }

    /// Whether something that was stored may be missing, since this was asked last: a catalog was
    /// rebuilt from headers, or headers were dropped. Others know what there should be.
    pub fn take_lack(&mut self) -> bool {
        std::mem::take(&mut self.may_lack)
    }

    /// Whether a device error made it refuse everything.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    fn run(&mut self, ops: Vec<FragmentOp>) -> Result<Vec<FragmentDone>, DeviceError> {
        let mut done = Vec::with_capacity(ops.len());
        for op in ops {
            done.push(match op {
                FragmentOp::Put {
                    key,
                    meta,
                    claim,
                    sums,
                    data,
                } => self.put((key, meta), claim, sums, &data)?,
                FragmentOp::Get { key, ranges } => self.get(key, &ranges)?,
                FragmentOp::Delete { keys } => self.delete(&keys)?,
                FragmentOp::List {
                    volume,
                    after,
                    limit,
                } => self.list(volume, after, limit)?,
                FragmentOp::Adopt { pool, row, stamp } => self.adopt(pool, row, &stamp)?,
                FragmentOp::Scan { of, after, limit } => self.scan(of, after, limit)?,
                FragmentOp::Verify { key } => self.verify(key)?,
                FragmentOp::KeepScrub(mark) => self.keep_scrub(mark)?,
                FragmentOp::Try { fragment_bytes } => self.try_room(fragment_bytes)?,
            });
        }
        self.commit()?;
        Ok(done)
    }

    fn lookup(&mut self, key: FragmentKey) -> Result<Option<Row>, DeviceError> {
        if let Some(row) = self.staged.rows.get(&key) {
            return Ok(*row);
        }
        match self.catalog.get(key) {
            Ok(row) => Ok(row.filter(|row| self.is_sane(row))),
            Err(_) => {
                self.rebuild()?;
                self.catalog.get(key).map_err(catalog_failed)
            }
        }
    }

    /// A row never makes a read longer than a fragment, or lead out of its extent.
    fn is_sane(&self, row: &Row) -> bool {
        header::is_possible(&row.meta)
            && u64::from(row.header_bytes) == header::area_bytes(row.meta.fragment_bytes)
            && row.offset.checked_add(row.bytes()).is_some()
            && self.extents.contains_key(&row.extent)
    }

    /// Before an operation looks anything up: the ledger can list so many more extents, and is not
    /// too many puts behind; false if it can't, because the catalog has no room to be settled. **Invariant:**
    /// from the last lookup of an operation to its end nothing asks the catalog, so that no rebuild
    /// takes away the row that it goes by, or the range that it was given.
    fn make_listable(&mut self, extents: usize) -> Result<bool, DeviceError> {
        let unsettled = self.next_put - 1 - self.state.settled_put;
        if self.state.changed.len() + extents > CHANGED_EXTENTS_MAX
            || unsettled >= UNSETTLED_PUTS_MAX
        {
            self.commit()?;
            return self.settle_catalog();
        }
        Ok(true)
    }

    /// Before an extent changes: the ledger says so, durably.
    fn touch(&mut self, extent: u32) -> Result<(), DeviceError> {
        if self.state.changed.contains(&extent) {
            return Ok(());
        }
        assert!(
            self.state.changed.len() < CHANGED_EXTENTS_MAX,
            "the operation made the ledger listable first"
        );
        self.state.changed.insert(extent);
        if planted(Bug::SilentLedger) {
            return Ok(());
        }
        self.write_ledger()
    }

    fn write_ledger(&mut self) -> Result<(), DeviceError> {
        self.stats.syncs += 1;
        self.ledger
            .write(&self.state)
            .map_err(|error| error.during("writing the ledger"))
    }

    fn delete(&mut self, keys: &[FragmentKey]) -> Result<FragmentDone, DeviceError> {
        for &key in keys {
            if !self.make_listable(1)? {
                // Deleting works on a full disk: as the last resort a catalog makes room for its successor.
                self.rebuild()?;
            }
            let Some(row) = self.lookup(key)? else {
                continue;
            };
            self.touch(row.extent)?;
            scan::invalidate(&self.extents[&row.extent], row.offset)
                .map_err(|error| error.during("fragment delete"))?;
            self.staged.touched.insert(row.extent);
            self.staged.rows.insert(key, None);
            self.staged.frees.push(row);
        }
        Ok(FragmentDone::Deleted)
    }

    /// Makes what the batch wrote durable, then has the catalog reflect it, then returns the
    /// space of what was deleted.
    fn commit(&mut self) -> Result<(), DeviceError> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let staged = std::mem::take(&mut self.staged);
        for extent in staged
            .touched
            .iter()
            .filter(|_| !planted(Bug::UnsyncedExtent))
        {
            self.extents[extent]
                .sync_data()
                .map_err(|error| error.during("fdatasync of an extent"))?;
            self.stats.syncs += 1;
        }
        self.invalidate_given_up(&staged.given_up)?;
        if !staged.rows.is_empty() {
            let rows: Vec<_> = staged.rows.into_iter().collect();
            if self.catalog.write(&rows).is_err() {
                // The headers are durable: the rebuild finds them as they are now.
                return self.rebuild();
            }
        }
        for row in staged.frees.into_iter().chain(staged.given_up) {
            // A device that can't punch keeps the blocks: the range is reused all the same.
            let _ = self.extents[&row.extent].punch_hole(row.offset, row.bytes());
            let freed = self.space.free((row.extent, row.offset), row.bytes());
            assert!(freed, "a stored fragment's range is not free");
            self.stats.used_bytes -= row.bytes();
            self.stats.fragments -= 1;
        }
        Ok(())
    }

    /// The new places are durable: the old ones' headers go, for good.
    fn invalidate_given_up(&mut self, rows: &[Row]) -> Result<(), DeviceError> {
        for row in rows {
            scan::invalidate(&self.extents[&row.extent], row.offset)
                .map_err(|error| error.during("fragment repair"))?;
        }
        for extent in rows.iter().map(|row| row.extent).collect::<BTreeSet<_>>() {
            self.extents[&extent]
                .sync_data()
                .map_err(|error| error.during("fdatasync of an extent"))?;
            self.stats.syncs += 1;
        }
        Ok(())
    }

    /// The catalog first, then the ledger: in between, the ledger lists too much. False if the catalog
    /// has no room for it: both are as they were.
    fn settle_catalog(&mut self) -> Result<bool, DeviceError> {
        let generation = self.state.generation + 1;
        let stamp = Stamp {
            id: self.config.id,
            generation,
        };
        match self.catalog.settle(stamp) {
            Ok(()) => {}
            Err(CatalogError::NoSpace(_)) => return Ok(false),
            Err(_) => return self.rebuild().map(|()| true),
        }
        self.state = ledger::State {
            generation,
            settled_put: self.next_put - 1,
            changed: BTreeSet::new(),
        };
        self.write_ledger().map(|()| true)
    }

    fn get(
        &mut self,
        key: FragmentKey,
        ranges: &[(u32, u32)],
    ) -> Result<FragmentDone, DeviceError> {
        let Some(row) = self.lookup(key)? else {
            return Ok(FragmentDone::NotFound);
        };
        let file = &self.extents[&row.extent];
        let header = scan::header_at(self.config.id, file, (row.extent, row.offset));
        let header = header.filter(|header| header.key == key && header.meta == row.meta);
        let mut left = GET_BYTES_MAX;
        let mut out = Vec::with_capacity(ranges.len());
        for &(offset, len) in ranges {
            let is_granted = u64::from(len) <= left;
            left = left.saturating_sub(u64::from(len));
            // Without its sums nothing of the fragment can be vouched for.
            let header = header.as_ref().filter(|_| is_granted);
            out.push(header.and_then(|header| read_range(file, &row, header, offset, len)));
        }
        Ok(FragmentDone::Data {
            meta: row.meta,
            ranges: out,
        })
    }
}

fn catalog_failed(error: CatalogError) -> DeviceError {
    DeviceError {
        what: "catalog",
        detail: error.to_string(),
    }
}

fn read_range<F: File>(
    file: &F,
    row: &Row,
    header: &Header,
    offset: u32,
    len: u32,
) -> Option<Bytes> {
    let end = offset.checked_add(len)?;
    let (offset, len) = (u64::from(offset), u64::from(len));
    if !offset.is_multiple_of(BLOCK) || !len.is_multiple_of(BLOCK) || end > row.meta.fragment_bytes
    {
        return None;
    }
    let data = file
        .read_at(row.data_offset() + offset, len as usize)
        .ok()?;
    let first = (offset / BLOCK) as usize;
    let sums = header.sums.get(first..first + (len / BLOCK) as usize)?;
    scan::are_sums(header.key, first as u32, sums, &data).then_some(data)
}
