//! Opening the store: the catalog is reconciled with the extents' headers.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::FragmentKey;
use model::store::DeviceError;

use super::adopted;
use super::ledger::{self, EXTENTS_MAX, Ledger};
use super::scan::{self, Found};
use super::scrub;
use super::space::FreeMap;
use super::{
    Fragments, FragmentsConfig, FragmentsStats, Staged, UNSETTLED_PUTS_MAX, catalog_failed,
    extent_path,
};
use crate::BLOCK;
use crate::catalog::{Catalog, CatalogError, Row, Stamp};
use crate::file::{File, FileError, FileLayer};

/// Rows are read from and written to the catalog in groups of this many.
const ROWS_AT_ONCE: usize = 4096;

/// What opening had to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Why the catalog was rebuilt from all headers, if it was.
    pub rebuilt: Option<String>,
    /// Extents whose headers were read.
    pub extents_read: u32,
    /// Headers that were dropped: puts that a crash tore, or doubles.
    pub dropped: u64,
}

impl<L: FileLayer, C: Catalog> Fragments<L, C> {
    /// Opens the store of a formatted disk; an empty directory is an empty store. Fragments
    /// that were stored are found whatever the catalog lost, deleted ones stay deleted.
    ///
    /// # Errors
    /// The device's.
    pub fn open(
        layer: &L,
        catalog: C,
        config: FragmentsConfig,
    ) -> Result<(Self, Recovery), DeviceError> {
        assert!(config.extent_bytes.is_multiple_of(BLOCK) && config.extent_bytes > 0);
        let during = |error: FileError| error.during("opening the extents");
        layer.create_dir("extents").map_err(during)?;
        let mut extents = BTreeMap::new();
        for name in layer.list("extents").map_err(during)? {
            let number = name
                .parse::<u32>()
                .ok()
                .filter(|n| *n < EXTENTS_MAX && name != ledger::NAME);
            if let Some(extent) = number
                && extent_path(extent).ends_with(&name)
            {
                extents.insert(extent, layer.open(&extent_path(extent)).map_err(during)?);
            }
        }
        layer.sync_dir("extents").map_err(during)?;
        let (ledger, state) = Ledger::open(layer, config.id).map_err(during)?;
        let adopted = adopted::load(layer, config.id)?;
        let scrubbed = scrub::load(layer, config.id);
        let distrust = distrust(&catalog, state.as_ref(), config.id)?;
        let mut store = Self {
            layer: layer.clone(),
            catalog,
            config,
            extents,
            space: FreeMap::new(),
            ledger,
            next_put: 1,
            state: ledger::State::default(),
            staged: Staged::default(),
            stats: FragmentsStats::default(),
            adopted,
            scrubbed,
            may_lack: false,
            failed: None,
        };
        store.state = match state {
            Some(state) => state,
            None => store.state_without_ledger().map_err(during)?,
        };
        let recovery = store.recover(distrust)?;
        store.may_lack = recovery.rebuilt.is_some() || recovery.dropped > 0;
        store.stats.syncs = 0;
        Ok((store, recovery))
    }

    /// What a lost ledger said at least: it is never more puts behind than that. So only what may be
    /// torn is taken for torn; what is older and wrong has rotted, and keeps its other blocks.
    fn state_without_ledger(&self) -> Result<ledger::State, FileError> {
        let mut newest = 0;
        for (extent, file) in &self.extents {
            newest = newest.max(scan::newest_put(self.config.id, *extent, file)?);
        }
        Ok(ledger::State {
            settled_put: newest.saturating_sub(UNSETTLED_PUTS_MAX),
            ..ledger::State::default()
        })
    }

    fn recover(&mut self, distrust: Option<String>) -> Result<Recovery, DeviceError> {
        self.next_put = self.state.settled_put + 1;
        let mut recovery = Recovery::default();
        let reason = match distrust {
            Some(reason) => Some(reason),
            None => match self.reconcile(&mut recovery)? {
                Ok(()) => None,
                Err(error @ CatalogError::NoSpace(_)) => return Err(catalog_failed(error)),
                Err(error) => Some(error.to_string()),
            },
        };
        if let Some(reason) = reason {
            recovery = self.rebuild_all()?;
            recovery.rebuilt = Some(reason);
        } else if !self.state.changed.is_empty() {
            // Without room, what changed is read again at the next opening.
            let _ = self.settle_catalog()?;
        }
        Ok(recovery)
    }

    /// The catalog is resettled from the headers of the extents that the ledger lists. The
    /// outer error is the device's, the inner one the catalog's.
    fn reconcile(
        &mut self,
        recovery: &mut Recovery,
    ) -> Result<Result<(), CatalogError>, DeviceError> {
        let changed: BTreeSet<u32> = self.state.changed.clone();
        let mut found = self.read_headers(&changed, recovery)?;
        self.space = self.empty_space();
        self.stats.used_bytes = 0;
        self.stats.fragments = 0;
        let mut after = None;
        loop {
            let rows = match self.catalog.scan(after, ROWS_AT_ONCE) {
                Ok(rows) => rows,
                Err(error) => return Ok(Err(error)),
            };
            let Some((last, _)) = rows.last() else { break };
            after = Some(*last);
            let mut changes = Vec::new();
            for (key, row) in rows {
                let truth = found.remove(&key).map(|found| found.row);
                if truth.is_none() && !changed.contains(&row.extent) {
                    if !self.is_sane(&row) || !self.occupy(&row) {
                        return Ok(Err(CatalogError::Corrupt(
                            "rows contradict each other".to_owned(),
                        )));
                    }
                } else if truth != Some(row) {
                    changes.push((key, truth));
                }
                if let Some(row) = truth
                    && !self.occupy(&row)
                {
                    return Ok(Err(CatalogError::Corrupt(
                        "rows contradict the headers".to_owned(),
                    )));
                }
            }
            if let Err(error) = self.catalog.write(&changes) {
                return Ok(Err(error));
            }
        }
        Ok(self.add_rows(found))
    }

    fn add_rows(&mut self, found: BTreeMap<FragmentKey, Found>) -> Result<(), CatalogError> {
        let rows: Vec<_> = found
            .into_iter()
            .map(|(key, found)| (key, Some(found.row)))
            .collect();
        for row in rows.iter().filter_map(|(_, row)| row.as_ref()) {
            if !self.occupy(row) {
                return Err(CatalogError::Corrupt(
                    "rows contradict the headers".to_owned(),
                ));
            }
        }
        for rows in rows.chunks(ROWS_AT_ONCE) {
            self.catalog.write(rows)?;
        }
        Ok(())
    }

    /// Rebuilds a catalog that failed while it was in use. What the running batch has deleted
    /// is free afterwards.
    pub(super) fn rebuild(&mut self) -> Result<(), DeviceError> {
        // The staged rows are in the headers already, and durable before anyone hears of it.
        let staged = std::mem::take(&mut self.staged);
        for extent in &staged.touched {
            self.extents[extent]
                .sync_data()
                .map_err(|error| error.during("fdatasync of an extent"))?;
        }
        self.rebuild_all()?;
        self.may_lack = true;
        self.stats.rebuilds += 1;
        Ok(())
    }

    fn rebuild_all(&mut self) -> Result<Recovery, DeviceError> {
        let mut recovery = Recovery::default();
        self.catalog.reset().map_err(catalog_failed)?;
        let all: BTreeSet<u32> = self.extents.keys().copied().collect();
        let found = self.read_headers(&all, &mut recovery)?;
        self.space = self.empty_space();
        self.stats.used_bytes = 0;
        self.stats.fragments = 0;
        self.add_rows(found).map_err(catalog_failed)?;
        let generation = self.state.generation + 1;
        self.catalog
            .settle(Stamp {
                id: self.config.id,
                generation,
            })
            .map_err(catalog_failed)?;
        self.state = ledger::State {
            generation,
            settled_put: self.next_put - 1,
            changed: BTreeSet::new(),
        };
        self.write_ledger()?;
        Ok(recovery)
    }

    /// The fragments in some extents; what was torn before it was synced is taken away, and
    /// what is left is durable when this returns.
    fn read_headers(
        &mut self,
        extents: &BTreeSet<u32>,
        recovery: &mut Recovery,
    ) -> Result<BTreeMap<FragmentKey, Found>, DeviceError> {
        let during = |error: FileError| error.during("reading the extents' headers");
        let mut found = BTreeMap::new();
        let mut stale = Vec::new();
        for extent in extents {
            let Some(file) = self.extents.get(extent) else {
                continue;
            };
            scan::scan_extent(
                self.config.id,
                *extent,
                file,
                self.state.settled_put,
                &mut found,
                &mut stale,
            )
            .map_err(during)?;
            recovery.extents_read += 1;
        }
        for (extent, offset) in &stale {
            scan::invalidate(&self.extents[extent], *offset).map_err(during)?;
            recovery.dropped += 1;
        }
        for file in extents.iter().filter_map(|extent| self.extents.get(extent)) {
            file.sync_data().map_err(during)?;
            self.stats.syncs += 1;
        }
        let last = found.values().map(|found| found.put_no).max().unwrap_or(0);
        self.next_put = self.next_put.max(last.saturating_add(1));
        Ok(found)
    }

    fn empty_space(&self) -> FreeMap {
        let mut space = FreeMap::new();
        for (extent, file) in &self.extents {
            // An extent that was made under a larger bound keeps what it holds.
            let size = file.size().unwrap_or(0) / BLOCK * BLOCK;
            let added = space.free((*extent, 0), self.config.extent_bytes.max(size));
            assert!(added, "an extent is listed once");
        }
        space
    }

    fn occupy(&mut self, row: &Row) -> bool {
        let is_free = self.space.claim((row.extent, row.offset), row.bytes());
        if is_free {
            self.stats.used_bytes += row.bytes();
            self.stats.fragments += 1;
        }
        is_free
    }
}

/// Why the catalog can't be trusted at all, if it can't. One that can't be opened for lack of space is
/// neither: it is left alone.
fn distrust<C: Catalog>(
    catalog: &C,
    state: Option<&ledger::State>,
    id: u64,
) -> Result<Option<String>, DeviceError> {
    let stamp = match catalog.stamp() {
        Err(error @ CatalogError::NoSpace(_)) => return Err(catalog_failed(error)),
        stamp => stamp,
    };
    let Some(state) = state else {
        return Ok(Some("the ledger is missing or damaged".to_owned()));
    };
    Ok(match stamp {
        Err(error) => Some(error.to_string()),
        Ok(None) => Some("the catalog was never settled".to_owned()),
        Ok(Some(stamp)) if stamp.id != id => Some("the catalog is another disk's".to_owned()),
        Ok(Some(stamp)) if stamp.generation < state.generation => {
            Some("the catalog lost settled rows".to_owned())
        }
        Ok(Some(_)) => None,
    })
}
