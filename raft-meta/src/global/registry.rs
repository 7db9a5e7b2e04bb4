//! Volumes' records with what follows from them: names, who owns which, and what they take of a
//! snapshot. All of that is kept with each change, since no command and no look of a leader may
//! cost as much as there are volumes; none of it travels.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use model::ids::{NodeId, VolumeId};
use model::placement::VolumeRecord;
use model::volumes::VolumeMap;

use super::room;

/// All volumes, deleted ones too (R16). It reads as a [`VolumeMap`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registry {
    records: VolumeMap,
    /// The names of those that are not deleted.
    names: BTreeMap<String, VolumeId>,
    /// What each node owns of those that are not deleted; no node owns nothing here.
    owned: BTreeMap<NodeId, BTreeSet<VolumeId>>,
    /// What a decoder claims for them ([`room`]).
    claim: usize,
}

impl Registry {
    /// The records.
    #[must_use]
    pub fn records(&self) -> &VolumeMap {
        &self.records
    }

    /// The volume of that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<VolumeId> {
        self.names.get(name).copied()
    }

    /// What a node owns, deleted volumes not counted.
    pub fn owned_by(&self, node: NodeId) -> impl ExactSizeIterator<Item = VolumeId> {
        let owned = self.owned.get(&node);
        owned.map(BTreeSet::iter).unwrap_or_default().copied()
    }

    pub(super) fn claim(&self) -> usize {
        self.claim
    }

    /// Adds a new volume, if neither its id nor its name is taken.
    pub(super) fn add(&mut self, record: VolumeRecord) -> bool {
        let is_named = !record.deleted && self.names.contains_key(&record.name);
        if is_named || self.records.contains_key(&record.id) {
            return false;
        }
        self.note(&record);
        self.records.insert(record.id, record);
        true
    }

    /// What follows from one more record.
    fn note(&mut self, record: &VolumeRecord) {
        self.claim += room::claim(&record.name);
        if !record.deleted {
            self.names.insert(record.name.clone(), record.id);
        }
        if let Some(node) = owner(record) {
            self.owned.entry(node).or_default().insert(record.id);
        }
    }

    /// A volume's record, to be changed.
    pub(super) fn edit(&mut self, id: VolumeId) -> Option<RecordMut<'_>> {
        let record = self.records.get_mut(&id)?;
        Some(RecordMut {
            owner: owner(record),
            is_named: !record.deleted,
            record,
            names: &mut self.names,
            owned: &mut self.owned,
        })
    }
}

/// Who owns a volume that is not deleted.
fn owner(record: &VolumeRecord) -> Option<NodeId> {
    let owner = record.owner.filter(|_| !record.deleted)?;
    Some(owner.node)
}

/// A record that is being changed. When it is let go, all that follows from it is true again.
pub(super) struct RecordMut<'a> {
    record: &'a mut VolumeRecord,
    names: &'a mut BTreeMap<String, VolumeId>,
    owned: &'a mut BTreeMap<NodeId, BTreeSet<VolumeId>>,
    /// As they were before.
    owner: Option<NodeId>,
    is_named: bool,
}

impl Deref for RecordMut<'_> {
    type Target = VolumeRecord;

    fn deref(&self) -> &VolumeRecord {
        self.record
    }
}

impl DerefMut for RecordMut<'_> {
    fn deref_mut(&mut self) -> &mut VolumeRecord {
        self.record
    }
}

impl Drop for RecordMut<'_> {
    fn drop(&mut self) {
        let id = self.record.id;
        if self.is_named && self.record.deleted {
            self.names.remove(&self.record.name);
        }
        let now = owner(self.record);
        if now == self.owner {
            return;
        }
        if let Some(node) = self.owner
            && let Some(of_node) = self.owned.get_mut(&node)
        {
            of_node.remove(&id);
            if of_node.is_empty() {
                self.owned.remove(&node);
            }
        }
        if let Some(node) = now {
            self.owned.entry(node).or_default().insert(id);
        }
    }
}

impl Deref for Registry {
    type Target = VolumeMap;

    fn deref(&self) -> &VolumeMap {
        &self.records
    }
}

impl Encode for Registry {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.records.encode(encoder)
    }
}

impl<Context> Decode<Context> for Registry {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let records = VolumeMap::decode(decoder)?;
        let mut all = Self::default();
        for record in records.values() {
            if !record.deleted && all.names.contains_key(&record.name) {
                return Err(DecodeError::Other("two volumes of one name"));
            }
            all.note(record);
        }
        all.records = records;
        Ok(all)
    }
}

bincode::impl_borrow_decode!(Registry);
