//! A catalog in memory, for the simulator: loses unsynced puts and deletes at a crash.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::ids::FragmentKey;

use super::{Catalog, CatalogError, Row, Stamp};

#[derive(Clone, Default)]
struct State {
    rows: BTreeMap<FragmentKey, Row>,
    stamp: Option<Stamp>,
    /// What each row was when it was last durable, for rows changed since.
    unsynced: BTreeMap<FragmentKey, Option<Row>>,
    /// It is corrupt after so many more accesses.
    sound_for: Option<u64>,
    /// It has no room to be opened or settled.
    is_full: bool,
}

/// An in-memory catalog. A clone is the same catalog, so that its owner can crash it.
#[derive(Clone, Default)]
pub struct MemCatalog {
    state: Arc<Mutex<State>>,
}

impl MemCatalog {
    /// An empty catalog.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An independent copy.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            state: Arc::new(Mutex::new(self.lock().clone())),
        }
    }

    /// Power loss: any subset of what was not settled is undone, as `seed` says.
    pub fn crash(&self, seed: u64) {
        let mut state = self.lock();
        let mut random = seed | 1;
        for (key, old) in std::mem::take(&mut state.unsynced) {
            random = random
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            if (random >> 40) & 1 == 0 {
                continue;
            }
            match old {
                Some(row) => state.rows.insert(key, row),
                None => state.rows.remove(&key),
            };
        }
    }

    /// From now on every access finds it corrupt, until it is reset.
    pub fn corrupt(&self) {
        self.corrupt_after(0);
    }

    /// As [`MemCatalog::corrupt`], after so many more accesses.
    pub fn corrupt_after(&self, accesses: u64) {
        self.lock().sound_for = Some(accesses);
    }

    /// From now on there is no room to open or settle it, until there is, or it is reset.
    pub fn fill(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sound(&self) -> Result<MutexGuard<'_, State>, CatalogError> {
        let mut state = self.lock();
        match &mut state.sound_for {
            Some(0) => return Err(CatalogError::Corrupt("as asked".to_owned())),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(state)
    }

    fn roomy(&self) -> Result<MutexGuard<'_, State>, CatalogError> {
        let state = self.sound()?;
        match state.is_full {
            true => Err(CatalogError::NoSpace("as asked".to_owned())),
            false => Ok(state),
        }
    }
}

impl Catalog for MemCatalog {
    fn get(&self, key: FragmentKey) -> Result<Option<Row>, CatalogError> {
        Ok(self.sound()?.rows.get(&key).copied())
    }

    fn scan(
        &self,
        after: Option<FragmentKey>,
        limit: usize,
    ) -> Result<Vec<(FragmentKey, Row)>, CatalogError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.sound()?;
        let rows = state.rows.range((start, Bound::Unbounded));
        Ok(rows.take(limit).map(|(key, row)| (*key, *row)).collect())
    }

    fn write(&mut self, rows: &[(FragmentKey, Option<Row>)]) -> Result<(), CatalogError> {
        let mut state = self.sound()?;
        for (key, row) in rows {
            let old = match row {
                Some(row) => state.rows.insert(*key, *row),
                None => state.rows.remove(key),
            };
            state.unsynced.entry(*key).or_insert(old);
        }
        Ok(())
    }

    fn stamp(&self) -> Result<Option<Stamp>, CatalogError> {
        Ok(self.roomy()?.stamp)
    }

    fn settle(&mut self, stamp: Stamp) -> Result<(), CatalogError> {
        let mut state = self.roomy()?;
        state.unsynced.clear();
        state.stamp = Some(stamp);
        Ok(())
    }

    fn reset(&mut self) -> Result<(), CatalogError> {
        *self.lock() = State::default();
        Ok(())
    }
}
