//! Pages of the trees that are in memory: clean ones as many as the bound lets, least
//! recently used first out; dirty ones until they are stored.

use std::collections::BTreeMap;

use super::page::{Location, Node, NodeKey, PAGE_BYTES};

/// Memory that a page is counted with: about what the largest kind takes.
pub(super) const PAGE_MEMORY: usize = PAGE_BYTES + 128;

/// What an operation used that must wait for more, and what was loaded for it, stays for so
/// many further operations, at most so many pages above the bound: with a tiny cache,
/// operations that interleave would else take each other's pages away for ever.
const AWAITED_OPERATIONS: u64 = if cfg!(test) { 32 } else { 4096 };
const AWAITED_PAGES_MAX: usize = if cfg!(test) { 160 } else { 512 };

#[derive(Debug)]
struct Held {
    node: Node,
    /// Where the last stored version lies.
    at: Option<Location>,
    dirty: bool,
    /// Its place in `order`, unless dirty.
    stamp: u64,
    /// The operation that used it last.
    operation: u64,
    /// The operation during which it was last waited for.
    awaited: u64,
}

/// The pages in memory.
#[derive(Debug, Default)]
pub(super) struct Cache {
    pages: BTreeMap<NodeKey, Held>,
    /// Clean pages by when they were used.
    order: BTreeMap<u64, NodeKey>,
    stamp: u64,
    operation: u64,
    /// What the current operation used.
    used: Vec<NodeKey>,
}

impl Cache {
    /// Number of the operation that begins: what it uses stays until it ends.
    pub(super) fn begin(&mut self) {
        self.operation += 1;
        self.used.clear();
    }

    /// Whether the page is in memory; counts as a use.
    pub(super) fn touch(&mut self, key: NodeKey) -> bool {
        let Some(held) = self.pages.get_mut(&key) else {
            return false;
        };
        if !held.dirty && held.operation != self.operation {
            self.order.remove(&held.stamp);
            self.stamp += 1;
            held.stamp = self.stamp;
            self.order.insert(held.stamp, key);
            self.used.push(key);
        }
        held.operation = self.operation;
        true
    }

    pub(super) fn get(&self, key: NodeKey) -> Option<&Node> {
        self.pages.get(&key).map(|held| &held.node)
    }

    /// A dirty page.
    pub(super) fn dirty_mut(&mut self, key: NodeKey) -> &mut Node {
        let held = self
            .pages
            .get_mut(&key)
            .expect("a page to be changed is in memory");
        assert!(held.dirty, "a page to be changed is dirty");
        &mut held.node
    }

    pub(super) fn is_dirty(&self, key: NodeKey) -> bool {
        self.pages.get(&key).is_some_and(|held| held.dirty)
    }

    /// A page that was loaded.
    pub(super) fn insert_loaded(&mut self, key: NodeKey, node: Node, at: Location) {
        self.stamp += 1;
        let (stamp, operation, awaited) = (self.stamp, 0, self.operation);
        let held = Held {
            node,
            at: Some(at),
            dirty: false,
            stamp,
            operation,
            awaited,
        };
        assert!(
            self.pages.insert(key, held).is_none(),
            "a page is loaded once"
        );
        self.order.insert(stamp, key);
    }

    /// A page that was never stored.
    pub(super) fn insert_new(&mut self, key: NodeKey, node: Node) {
        let operation = self.operation;
        let held = Held {
            node,
            at: None,
            dirty: true,
            stamp: 0,
            operation,
            awaited: 0,
        };
        assert!(
            self.pages.insert(key, held).is_none(),
            "a page is made once"
        );
    }

    /// From now on the page in memory is newer than the stored one.
    pub(super) fn make_dirty(&mut self, key: NodeKey) {
        let held = self
            .pages
            .get_mut(&key)
            .expect("a page to be changed is in memory");
        if !held.dirty {
            held.dirty = true;
            self.order.remove(&held.stamp);
        }
    }

    /// The page was stored.
    pub(super) fn make_clean(&mut self, key: NodeKey, at: Location) {
        let held = self.pages.get_mut(&key).expect("a dirty page is in memory");
        assert!(held.dirty);
        held.dirty = false;
        held.at = Some(at);
        self.stamp += 1;
        held.stamp = self.stamp;
        self.order.insert(held.stamp, key);
    }

    /// Forgets a page.
    pub(super) fn remove(&mut self, key: NodeKey) {
        if let Some(held) = self.pages.remove(&key)
            && !held.dirty
        {
            self.order.remove(&held.stamp);
        }
    }

    /// Where the last stored version of a page in memory lies.
    pub(super) fn stored_at(&self, key: NodeKey) -> Option<Location> {
        self.pages.get(&key).and_then(|held| held.at)
    }

    /// The pages that lie somewhere as they are in memory.
    pub(super) fn clean(&self) -> impl Iterator<Item = (NodeKey, Location)> + '_ {
        let clean = self.pages.iter().filter(|(_, held)| !held.dirty);
        clean.filter_map(|(key, held)| Some((*key, held.at?)))
    }

    /// The dirty pages, children before their parents.
    pub(super) fn dirty(&self) -> Vec<NodeKey> {
        let dirty = self.pages.iter().filter(|(_, held)| held.dirty);
        let mut keys: Vec<NodeKey> = dirty.map(|(key, _)| *key).collect();
        keys.sort_by_key(|key| (key.level, key.space, key.index));
        keys
    }

    pub(super) fn dirty_len(&self) -> usize {
        self.pages.len() - self.order.len()
    }

    pub(super) fn clean_len(&self) -> usize {
        self.order.len()
    }

    /// At the end of an operation: drops what was used longest ago. An operation that must
    /// wait for pages (`waits`) finds what it used when it is tried again.
    pub(super) fn evict(&mut self, pages_max: usize, waits: bool) {
        if waits {
            for key in self.used.drain(..) {
                if let Some(held) = self.pages.get_mut(&key) {
                    held.awaited = self.operation;
                }
            }
        }
        if self.order.len() <= pages_max {
            return;
        }
        // A little more than needed, so that not every load looks through all.
        let over = self.order.len() - pages_max / 16 * 15;
        let mut kept = 0;
        let mut victims = Vec::new();
        for (stamp, key) in self.order.iter().rev() {
            let held = &self.pages[key];
            let in_use = waits && held.operation == self.operation;
            let awaited = held.awaited > 0 && held.awaited + AWAITED_OPERATIONS > self.operation;
            if in_use || (awaited && kept < AWAITED_PAGES_MAX) {
                kept += usize::from(!in_use);
            } else {
                victims.push((*stamp, *key));
            }
        }
        // Newest first: the oldest go.
        let spared = victims.len().saturating_sub(over);
        victims.drain(..spared);
        for (stamp, key) in victims {
            self.order.remove(&stamp);
            self.pages.remove(&key);
        }
    }
}
