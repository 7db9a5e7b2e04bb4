//! Changes that the trees do not have yet. A checkpoint writes them, sorted, as delta pages;
//! leaves are rewritten only once enough of their entries changed (merged lazily), so that a
//! random write costs some twenty bytes of a delta page and not a page of its own.
//!
//! What the stored delta pages say, read in order, is exactly what was pending at the
//! checkpoint: a leaf that was merged or unmapped since is voided by a group that forgets.

use std::collections::{BTreeMap, BTreeSet};

use super::page::Group;
use crate::planted::{Bug, planted};

/// Bytes that a pending entry and a pending leaf are counted with, in memory and in deltas.
const ENTRY_BYTES: usize = 24;
const LEAF_BYTES: usize = 64;

#[derive(Debug)]
struct Pending<V> {
    slot: u8,
    value: V,
    /// No stored delta page says so yet.
    fresh: bool,
}

#[derive(Debug)]
struct Leaf<V> {
    /// By slot.
    entries: Vec<Pending<V>>,
    /// Stored delta pages have entries of this leaf.
    stored: bool,
    /// Has a fresh entry.
    fresh: bool,
}

/// Pending changes of one key space.
#[derive(Debug)]
pub(super) struct Overlay<V> {
    bits: u32,
    leaves: BTreeMap<u64, Leaf<V>>,
    entries: usize,
    /// Leaves of which stored delta pages say what is no longer so.
    void: BTreeSet<u64>,
}

impl<V: Copy + PartialEq> Overlay<V> {
    pub(super) fn new(bits: u32) -> Self {
        Self {
            bits,
            leaves: BTreeMap::new(),
            entries: 0,
            void: BTreeSet::new(),
        }
    }

    fn split(&self, key: u64) -> (u64, u8) {
        (key >> self.bits, (key & ((1 << self.bits) - 1)) as u8)
    }

    pub(super) fn get(&self, key: u64) -> Option<V> {
        let (leaf, slot) = self.split(key);
        let entries = &self.leaves.get(&leaf)?.entries;
        let at = entries.binary_search_by_key(&slot, |e| e.slot).ok()?;
        Some(entries[at].value)
    }

    pub(super) fn put(&mut self, key: u64, value: V) {
        let (leaf, slot) = self.split(key);
        self.insert(leaf, slot, value, true);
    }

    fn insert(&mut self, leaf: u64, slot: u8, value: V, fresh: bool) {
        let leaf = self.leaves.entry(leaf).or_insert_with(|| Leaf {
            entries: Vec::new(),
            stored: false,
            fresh: false,
        });
        leaf.fresh |= fresh;
        leaf.stored |= !fresh;
        match leaf.entries.binary_search_by_key(&slot, |e| e.slot) {
            Ok(at) => leaf.entries[at] = Pending { slot, value, fresh },
            Err(at) => {
                leaf.entries.insert(at, Pending { slot, value, fresh });
                self.entries += 1;
            }
        }
    }

    /// Entries of a leaf by slot.
    pub(super) fn leaf(&self, leaf: u64) -> impl Iterator<Item = (u8, V)> + '_ {
        self.leaves
            .get(&leaf)
            .into_iter()
            .flat_map(|l| l.entries.iter().map(|e| (e.slot, e.value)))
    }

    /// All entries by key.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, V)> + '_ {
        let bits = self.bits;
        self.leaves.iter().flat_map(move |(leaf, pending)| {
            let key = move |slot: u8| leaf << bits | u64::from(slot);
            pending.entries.iter().map(move |e| (key(e.slot), e.value))
        })
    }

    /// The first leaf from `from` on.
    pub(super) fn next_leaf(&self, from: u64) -> Option<u64> {
        self.leaves.range(from..).next().map(|(leaf, _)| *leaf)
    }

    /// Leaves with the number of their entries.
    pub(super) fn leaves(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        self.leaves.iter().map(|(leaf, l)| (*leaf, l.entries.len()))
    }

    /// A leaf is no longer pending: its tree has it, or it is unmapped.
    pub(super) fn remove_leaf(&mut self, leaf: u64) {
        if let Some(removed) = self.leaves.remove(&leaf) {
            self.entries -= removed.entries.len();
            if removed.stored {
                self.void.insert(leaf);
            }
        }
    }

    /// Memory taken, about.
    pub(super) fn bytes(&self) -> usize {
        Self::cost(self.leaves.len(), self.entries)
    }

    /// Memory that leaves and entries take, about.
    pub(super) const fn cost(leaves: usize, entries: usize) -> usize {
        leaves * LEAF_BYTES + entries * ENTRY_BYTES
    }

    /// What delta pages must say: since the last checkpoint, or (`whole`) altogether.
    pub(super) fn groups(&self, whole: bool) -> Vec<Group<V>> {
        let mut groups = Vec::new();
        for (leaf, pending) in &self.leaves {
            if !whole && !pending.fresh {
                continue;
            }
            let said = pending.entries.iter().filter(|e| whole || e.fresh);
            let entries = said.map(|e| (e.slot, e.value)).collect();
            let forget = !whole && self.void.contains(leaf);
            groups.push(Group {
                leaf: *leaf,
                forget,
                entries,
            });
        }
        if !whole {
            let gone = self
                .void
                .iter()
                .filter(|leaf| !self.leaves.contains_key(leaf));
            groups.extend(gone.map(|leaf| Group {
                leaf: *leaf,
                forget: true,
                entries: vec![],
            }));
        }
        groups
    }

    /// Nothing is mapped and nothing is stored any more.
    pub(super) fn clear(&mut self) {
        self.leaves.clear();
        self.entries = 0;
    }

    /// The groups of [`Self::groups`] are durable.
    pub(super) fn stored(&mut self) {
        self.void.clear();
        for leaf in self.leaves.values_mut() {
            leaf.stored = true;
            if leaf.fresh {
                leaf.fresh = false;
                leaf.entries.iter_mut().for_each(|e| e.fresh = false);
            }
        }
    }

    /// Replays a group of a stored delta page.
    pub(super) fn replay(&mut self, group: &Group<V>) {
        if group.forget
            && let Some(removed) = self.leaves.remove(&group.leaf)
        {
            self.entries -= removed.entries.len();
        }
        for (slot, value) in &group.entries {
            if planted(Bug::DeltaOrder) && self.leaf(group.leaf).any(|(held, _)| held == *slot) {
                continue;
            }
            self.insert(group.leaf, *slot, *value, false);
        }
    }
}
