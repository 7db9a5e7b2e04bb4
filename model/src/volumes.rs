//! Volumes' records by id, in pages that copies share: a view of a million volumes costs what
//! changed since the last one, and who reads one after the other reads what changed.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

use crate::ids::VolumeId;
use crate::placement::VolumeRecord;

/// Ids a page. The first change of a page that a copy shares counts each of its records once more,
/// and the first of all each page: both are cheap here.
const PAGE_IDS: u32 = 64;

/// Sorted by id.
type Page = Vec<Arc<VolumeRecord>>;

/// A map from ids to records, as [`BTreeMap`] is one. **Invariant:** no page is empty, and each
/// record lies in its id's page.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeMap {
    pages: Arc<BTreeMap<u32, Arc<Page>>>,
    len: usize,
}

fn place(page: &Page, id: VolumeId) -> Result<usize, usize> {
    page.binary_search_by_key(&id, |record| record.id)
}

fn records(page: &Page) -> impl Iterator<Item = &VolumeRecord> {
    page.iter().map(|record| &**record)
}

impl VolumeMap {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A volume's record.
    #[must_use]
    pub fn get(&self, id: &VolumeId) -> Option<&VolumeRecord> {
        let page = self.pages.get(&(id.0 / PAGE_IDS))?;
        place(page, *id).ok().map(|at| &*page[at])
    }

    /// A volume's record, to be changed: it is no longer shared then.
    pub fn get_mut(&mut self, id: &VolumeId) -> Option<&mut VolumeRecord> {
        let page = Arc::make_mut(&mut self.pages).get_mut(&(id.0 / PAGE_IDS))?;
        let at = place(page, *id).ok()?;
        Arc::make_mut(page).get_mut(at).map(Arc::make_mut)
    }

    /// Whether there is such a volume.
    #[must_use]
    pub fn contains_key(&self, id: &VolumeId) -> bool {
        self.get(id).is_some()
    }

    /// Adds a volume, or replaces its record.
    ///
    /// # Panics
    /// If it is the record of another volume.
    pub fn insert(&mut self, id: VolumeId, record: VolumeRecord) {
        assert_eq!(id, record.id, "a record is found by its own id");
        let pages = Arc::make_mut(&mut self.pages);
        let page = Arc::make_mut(pages.entry(id.0 / PAGE_IDS).or_default());
        match place(page, id) {
            Ok(at) => page[at] = Arc::new(record),
            Err(at) => {
                page.insert(at, Arc::new(record));
                self.len += 1;
            }
        }
    }

    /// The records, by id.
    pub fn values(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.pages.values().flat_map(|page| records(page))
    }

    /// The records of all pages that an older map does not share: those that differ are among
    /// them.
    pub fn unlike<'a>(&'a self, older: &'a Self) -> impl Iterator<Item = &'a VolumeRecord> {
        let is_same = |(at, page): &(&u32, &Arc<Page>)| {
            let before = older.pages.get(at);
            before.is_some_and(|before| Arc::ptr_eq(before, page))
        };
        let same_map = Arc::ptr_eq(&self.pages, &older.pages);
        let pages = self
            .pages
            .iter()
            .filter(move |page| !same_map && !is_same(page));
        pages.flat_map(|(_, page)| records(page))
    }

    /// The ids, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &VolumeId> {
        self.values().map(|record| &record.id)
    }

    /// The records with their ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&VolumeId, &VolumeRecord)> {
        self.values().map(|record| (&record.id, record))
    }
}

impl Index<&VolumeId> for VolumeMap {
    type Output = VolumeRecord;

    fn index(&self, id: &VolumeId) -> &VolumeRecord {
        self.get(id).expect("there is such a volume")
    }
}

impl FromIterator<(VolumeId, VolumeRecord)> for VolumeMap {
    fn from_iter<I: IntoIterator<Item = (VolumeId, VolumeRecord)>>(all: I) -> Self {
        let mut map = Self::new();
        for (id, record) in all {
            map.insert(id, record);
        }
        map
    }
}

impl<const N: usize> From<[(VolumeId, VolumeRecord); N]> for VolumeMap {
    fn from(all: [(VolumeId, VolumeRecord); N]) -> Self {
        all.into_iter().collect()
    }
}

/// As a map of ids and records.
impl Encode for VolumeMap {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.len as u64).encode(encoder)?;
        self.iter().try_for_each(|pair| pair.encode(encoder))
    }
}

impl<Context> Decode<Context> for VolumeMap {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let len = u64::decode(decoder)?;
        let len = usize::try_from(len).map_err(|_| DecodeError::LimitExceeded)?;
        decoder.claim_container_read::<(VolumeId, VolumeRecord)>(len)?;
        let mut map = Self::new();
        for _ in 0..len {
            decoder.unclaim_bytes_read(size_of::<(VolumeId, VolumeRecord)>());
            let (id, record) = <(VolumeId, VolumeRecord)>::decode(decoder)?;
            if id != record.id || map.contains_key(&id) {
                return Err(DecodeError::Other("a record under another volume's id"));
            }
            map.insert(id, record);
        }
        Ok(map)
    }
}

bincode::impl_borrow_decode!(VolumeMap);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::VolumeMap;
    use crate::geometry::Code;
    use crate::ids::{DiskId, DiskRef, Epoch, Incarnation, SiteId, Version, VolumeId};
    use crate::journal::Checkpoint;
    use crate::placement::{JournalConfig, VolumeRecord};
    use crate::wire;

    fn record(id: u32) -> VolumeRecord {
        let at = DiskRef {
            disk: DiskId(id),
            incarnation: Incarnation(u64::from(id)),
        };
        VolumeRecord {
            id: VolumeId(id),
            name: format!("v{id}"),
            size_bytes: 4096,
            resized: Version(1),
            cut: None,
            code: Code::INDEX,
            home: SiteId(1),
            epoch: Epoch(0),
            owner: None,
            journal: JournalConfig {
                version: Version(1),
                replicas: vec![at],
                next: None,
            },
            checkpoint: Checkpoint::EMPTY,
            clean: true,
            founded: Epoch(0),
            published: None,
            recovered: None,
            deleted: false,
        }
    }

    fn map(ids: impl Iterator<Item = u32>) -> VolumeMap {
        ids.map(|id| (VolumeId(id), record(id))).collect()
    }

    #[test]
    fn it_is_a_map_in_the_order_of_ids() {
        let ids = [900, 3, 31, 32, u32::MAX, 0, 3];
        let mut all = map(ids.into_iter());
        let keys: Vec<u32> = all.keys().map(|id| id.0).collect();
        assert_eq!(keys, [0, 3, 31, 32, 900, u32::MAX]);
        assert_eq!(all.len(), 6);
        assert!(all.get(&VolumeId(4)).is_none() && all.get_mut(&VolumeId(64)).is_none());
        all.get_mut(&VolumeId(32)).expect("it is there").clean = false;
        assert!(!all[&VolumeId(32)].clean && all[&VolumeId(31)].clean);
    }

    #[test]
    fn a_copy_shares_all_but_what_changed() {
        let old = map(0..1000);
        let mut new = old.clone();
        new.get_mut(&VolumeId(500)).expect("it is there").deleted = true;
        new.insert(VolumeId(2000), record(2000));
        assert!(!old[&VolumeId(500)].deleted && old.len() == 1000);
        let pages = old.pages.iter();
        let shared = pages.filter(|(at, page)| Arc::ptr_eq(page, &new.pages[at]));
        assert_eq!(shared.count(), old.pages.len() - 1);
        let unlike: Vec<u32> = new.unlike(&old).map(|record| record.id.0).collect();
        assert!(unlike.len() <= 65 && unlike.contains(&500) && unlike.contains(&2000));
        assert_eq!(new.unlike(&new.clone()).count(), 0);
        assert_eq!(
            new.unlike(&map(0..1000)).count(),
            new.len(),
            "another one's pages"
        );
    }

    #[test]
    fn its_bytes_are_those_of_a_map_and_are_judged() {
        let pairs = |ids: &[(u32, u32)]| -> Vec<(VolumeId, VolumeRecord)> {
            let pair = |(id, of): &(u32, u32)| (VolumeId(*id), record(*of));
            ids.iter().map(pair).collect()
        };
        let right = wire::encode(&pairs(&[(1, 1), (2, 2), (40, 40)]));
        let all = map([40, 1, 2].into_iter());
        assert_eq!(wire::encode(&all), right);
        assert_eq!(wire::decode::<VolumeMap>(&right), Ok(all));
        for wrong in [&[(1, 2)][..], &[(1, 1), (1, 1)]] {
            assert!(wire::decode::<VolumeMap>(&wire::encode(&pairs(wrong))).is_err());
        }
        let claims = wire::encode(&(u64::MAX >> 8));
        assert!(wire::decode::<VolumeMap>(&claims).is_err());
    }
}
