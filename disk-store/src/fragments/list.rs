//! Listing what is stored: a volume's fragments, or those of a row (R20).

use model::geometry::Pool;
use model::ids::{Epoch, FragmentKey, Row as RowNo, SegmentId, Slot, VolumeId};
use model::spread::{RowStamp, row_of};
use model::store::{DeviceError, FragmentDone};

use super::{Fragments, LIST_KEYS_MAX, adopted, catalog_failed};
use crate::catalog::{Catalog, CatalogError, Row};
use crate::file::{FileError, FileLayer};

/// Rows of the catalog that one `Scan` looks at, about.
const SCAN_ROWS_MAX: usize = 1 << 16;

/// Rows of the catalog that are read at once, at most; and how many for each that is asked for.
const ROWS_AT_ONCE: usize = 1024;
const ROWS_PER_KEY: usize = 16;

impl<L: FileLayer, C: Catalog> Fragments<L, C> {
    pub(super) fn list(
        &mut self,
        volume: VolumeId,
        after: Option<FragmentKey>,
        limit: u32,
    ) -> Result<FragmentDone, DeviceError> {
        self.commit()?;
        let first = first_key(volume);
        let limit = limit.min(LIST_KEYS_MAX) as usize;
        let after = after.filter(|after| *after >= first);
        let rows = match self.rows_of(first, after, limit) {
            Ok(rows) => rows,
            Err(_) => {
                self.rebuild()?;
                self.rows_of(first, after, limit).map_err(catalog_failed)?
            }
        };
        let of_volume = rows
            .into_iter()
            .take_while(|(key, _)| key.segment.volume == volume);
        Ok(FragmentDone::Keys(
            of_volume.map(|(key, row)| (key, row.meta)).collect(),
        ))
    }

    fn rows_of(
        &self,
        first: FragmentKey,
        after: Option<FragmentKey>,
        limit: usize,
    ) -> Result<Vec<(FragmentKey, Row)>, CatalogError> {
        if after.is_some() || limit == 0 {
            return self.catalog.scan(after, limit);
        }
        // The scan's start is exclusive.
        let mut rows: Vec<_> = self
            .catalog
            .get(first)?
            .map(|row| (first, row))
            .into_iter()
            .collect();
        rows.extend(self.catalog.scan(Some(first), limit - rows.len())?);
        Ok(rows)
    }

    /// Fragments of whole segments: a listing ends between two of them.
    pub(super) fn scan(
        &mut self,
        of: Option<(Pool, u16, RowNo)>,
        after: Option<SegmentId>,
        limit: u32,
    ) -> Result<FragmentDone, DeviceError> {
        self.commit()?;
        let limit = limit.clamp(1, LIST_KEYS_MAX) as usize;
        let mut at = after.map(|segment| FragmentKey {
            segment,
            slot: Slot(u8::MAX),
        });
        let at_once = (limit * ROWS_PER_KEY).min(ROWS_AT_ONCE);
        let (mut keys, mut seen, mut next) = (Vec::new(), 0, None::<SegmentId>);
        loop {
            let rows = match self.catalog.scan(at, at_once) {
                Ok(rows) => rows,
                Err(_) => {
                    self.rebuild()?;
                    self.catalog.scan(at, at_once).map_err(catalog_failed)?
                }
            };
            let is_last = rows.len() < at_once;
            for (key, row) in rows {
                let is_full = keys.len() >= limit || seen >= SCAN_ROWS_MAX;
                if is_full && next.is_some_and(|segment| segment != key.segment) {
                    return Ok(FragmentDone::Scanned { keys, next });
                }
                (at, next) = (Some(key), Some(key.segment));
                seen += 1;
                let is_of = of.is_none_or(|(pool, rows, number)| {
                    row.meta.pool == pool && row_of(key.segment, rows) == number
                });
                if is_of {
                    keys.push((key, row.meta));
                }
            }
            if is_last {
                return Ok(FragmentDone::Scanned { keys, next: None });
            }
        }
    }

    /// R20: remembers a row's moves before anything is answered that rests on it. On a device without
    /// space it remembers nothing of it, and goes on.
    pub(super) fn adopt(
        &mut self,
        pool: Pool,
        row: RowNo,
        stamp: &RowStamp,
    ) -> Result<FragmentDone, DeviceError> {
        let before = self.adopted.get(&(pool, row)).cloned();
        if before.as_ref().is_some_and(|known| known.covers(stamp)) {
            return Ok(FragmentDone::Adopted);
        }
        self.adopted.entry((pool, row)).or_default().merge(stamp);
        assert!(
            self.adopted.len() <= adopted::ROWS_MAX,
            "the machine minds the bound"
        );
        match adopted::store(&self.layer, self.config.id, &self.adopted) {
            Ok(()) => return Ok(FragmentDone::Adopted),
            Err(FileError::NoSpace) => {}
            Err(error) => return Err(error.during("writing the stamps")),
        }
        match before {
            Some(before) => self.adopted.insert((pool, row), before),
            None => self.adopted.remove(&(pool, row)),
        };
        Ok(FragmentDone::Full)
    }
}

/// The lowest key of a volume.
fn first_key(volume: VolumeId) -> FragmentKey {
    FragmentKey {
        segment: SegmentId {
            volume,
            epoch: Epoch(0),
            counter: 0,
        },
        slot: Slot(0),
    }
}
