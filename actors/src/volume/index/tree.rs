//! The two radix trees: over blocks, and over counters of data segments. A tree grows and
//! never shrinks, other than to nothing; an empty page is never kept.

use std::collections::{BTreeMap, BTreeSet};

use model::journal::PagePtr;

use super::Corrupt;
use super::cache::Cache;
use super::page::{
    Child, Entry, FANOUT, LEAF_BLOCKS, LEAF_SEGMENTS, Location, Node, NodeKey, Space,
};
use super::table::{IndexSegments, location};

/// Pages that one attempt asks for at most.
pub(super) const MISSING_PAGES_MAX: usize = 64;

/// Pages that an operation needs before it can go on.
#[derive(Debug, Default)]
pub(super) struct Wants {
    pages: BTreeSet<PagePtr>,
}

impl Wants {
    pub(super) fn push(&mut self, page: PagePtr) {
        if !self.is_full() {
            self.pages.insert(page);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.pages.len() >= MISSING_PAGES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    pub(super) fn into_pages(self) -> Vec<PagePtr> {
        self.pages.into_iter().collect()
    }
}

/// Where a page of a tree was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// In memory, with all above it.
    Resident,
    /// There is none.
    Absent,
    /// This page, itself or above it, must be loaded first.
    Wanted(PagePtr),
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tree {
    /// Levels; 0 is an empty tree.
    pub(super) height: u8,
    pub(super) root: Child,
}

/// Both trees, their pages in memory, and the table that locates stored ones.
#[derive(Debug, Default)]
pub(super) struct Forest {
    pub(super) blocks: Tree,
    pub(super) segments: Tree,
    pub(super) cache: Cache,
    pub(super) table: IndexSegments,
    /// Stored pages that were removed since the last commit, by index segment.
    pub(super) freed: BTreeMap<u32, u32>,
    /// Which page was asked for where; forgotten when there are too many, and noted again when
    /// it is asked for again.
    asked: BTreeMap<Location, NodeKey>,
}

/// Pages that are noted as asked for, at most.
const ASKED_MAX: usize = 4096;

impl Forest {
    pub(super) fn tree(&self, space: Space) -> &Tree {
        match space {
            Space::Blocks => &self.blocks,
            Space::Segments => &self.segments,
        }
    }

    fn tree_mut(&mut self, space: Space) -> &mut Tree {
        match space {
            Space::Blocks => &mut self.blocks,
            Space::Segments => &mut self.segments,
        }
    }

    /// The root's key of a tree that is not empty.
    fn root_key(&self, space: Space) -> NodeKey {
        NodeKey {
            space,
            level: self.tree(space).height - 1,
            index: 0,
        }
    }

    /// Whether the tree is high enough to have this page.
    fn reaches(&self, key: NodeKey) -> bool {
        let height = self.tree(key.space).height;
        key.level < height && key.at(height - 1).index == 0
    }

    /// What the page above says of this page, if that is in memory; the root, the tree itself.
    pub(super) fn link(&self, key: NodeKey) -> Option<Child> {
        if !self.reaches(key) {
            return None;
        }
        if key == self.root_key(key.space) {
            return Some(self.tree(key.space).root);
        }
        match self.cache.get(key.at(key.level + 1)) {
            Some(Node::Inner(children)) => Some(children[key.slot()]),
            Some(_) | None => None,
        }
    }

    /// Changes what the page above says, which is dirty.
    pub(super) fn set_link(&mut self, key: NodeKey, child: Child) {
        assert!(self.reaches(key));
        if key == self.root_key(key.space) {
            self.tree_mut(key.space).root = child;
            return;
        }
        match self.cache.dirty_mut(key.at(key.level + 1)) {
            Node::Inner(children) => children[key.slot()] = child,
            Node::Blocks(_) | Node::Segments(_) => unreachable!("a parent is an inner page"),
        }
    }

    /// Walks down to a page.
    pub(super) fn find(&mut self, key: NodeKey) -> Result<Found, Corrupt> {
        if !self.reaches(key) {
            return Ok(Found::Absent);
        }
        for level in (key.level..self.tree(key.space).height).rev() {
            let at = key.at(level);
            if self.cache.touch(at) {
                continue;
            }
            match self.link(at).expect("the page above was just found") {
                Child::Absent => return Ok(Found::Absent),
                Child::New => unreachable!("a page that was never stored is in memory"),
                Child::At(place) => {
                    let page = self
                        .table
                        .pointer(place)
                        .ok_or(Corrupt::UnknownSegment(place.segment))?;
                    if self.asked.len() >= ASKED_MAX {
                        self.asked.clear();
                    }
                    self.asked.insert(place, at);
                    return Ok(Found::Wanted(page));
                }
            }
        }
        Ok(Found::Resident)
    }

    /// The first page of a level from `from` on that exists, `Ok(None)` if there is none.
    ///
    /// # Errors
    /// In `Ok(Some(Err(page)))` the page to be loaded first.
    pub(super) fn next(
        &mut self,
        space: Space,
        level: u8,
        from: u64,
    ) -> Result<Option<Result<u64, PagePtr>>, Corrupt> {
        let mut index = from;
        loop {
            let key = NodeKey {
                space,
                level,
                index,
            };
            if !self.reaches(key) {
                return Ok(None);
            }
            let root = self.root_key(space);
            match self.find(root)? {
                Found::Resident => {}
                Found::Absent => return Ok(None),
                Found::Wanted(page) => return Ok(Some(Err(page))),
            }
            match self.descend(key, root)? {
                Step::At(index) => return Ok(Some(Ok(index))),
                Step::Wanted(page) => return Ok(Some(Err(page))),
                Step::Beyond(Some(next)) => index = next,
                Step::Beyond(None) => return Ok(None),
            }
        }
    }

    /// From the root, which is in memory, towards `key` or the first page after it.
    fn descend(&mut self, mut key: NodeKey, root: NodeKey) -> Result<Step, Corrupt> {
        for level in (key.level + 1..=root.level).rev() {
            let parent = key.at(level);
            match self.find(parent)? {
                Found::Resident => {}
                Found::Wanted(page) => return Ok(Step::Wanted(page)),
                Found::Absent => unreachable!("chosen because it exists"),
            }
            let Some(Node::Inner(children)) = self.cache.get(parent) else {
                unreachable!("inner levels have inner pages")
            };
            let wanted = key.at(level - 1);
            let slot = (wanted.slot()..FANOUT).find(|slot| children[*slot] != Child::Absent);
            // Leaf indexes have at most 56 bits: what is after the last fits.
            let shift = 8 * u32::from(level - 1 - key.level);
            match slot {
                None => {
                    let after = (parent.index + 1) << (shift + 8);
                    return Ok(Step::Beyond(Some(after)));
                }
                Some(slot) if slot != wanted.slot() => {
                    key.index = parent.child(slot as u8).index << shift;
                }
                Some(_) => {}
            }
        }
        Ok(Step::At(key.index))
    }

    /// Makes a page that was found, and all above it, dirty.
    pub(super) fn make_dirty(&mut self, key: NodeKey) {
        for level in key.level..self.tree(key.space).height {
            self.cache.make_dirty(key.at(level));
        }
    }

    /// The leaf, to be changed; made if it was found absent.
    pub(super) fn leaf_mut(&mut self, space: Space, index: u64) -> &mut Node {
        let leaf = NodeKey::leaf(space, index);
        self.grow(leaf);
        for level in (0..self.tree(space).height).rev() {
            let key = leaf.at(level);
            if self.link(key) == Some(Child::Absent) {
                self.cache.insert_new(key, empty(key));
                self.set_link(key, Child::New);
            } else {
                self.cache.make_dirty(key);
            }
        }
        self.cache.dirty_mut(leaf)
    }

    /// Makes the tree high enough.
    fn grow(&mut self, leaf: NodeKey) {
        let space = leaf.space;
        if self.tree(space).height == 0 {
            let height = (1..=space.height_max()).find(|h| leaf.at(h - 1).index == 0);
            let tree = self.tree_mut(space);
            tree.height = height.expect("the highest tree holds every key");
            return;
        }
        while !self.reaches(leaf) {
            let tree = self.tree_mut(space);
            let old = tree.root;
            tree.height += 1;
            tree.root = Child::New;
            assert!(tree.height <= space.height_max());
            let root = self.root_key(space);
            let mut node = empty(root);
            if let Node::Inner(children) = &mut node {
                children[0] = old;
            }
            self.cache.insert_new(root, node);
        }
    }

    /// Removes a page that was found, and what is empty above it then.
    pub(super) fn remove(&mut self, key: NodeKey) {
        self.free(key);
        self.cache.remove(key);
        if key == self.root_key(key.space) {
            *self.tree_mut(key.space) = Tree::default();
            return;
        }
        let parent = key.at(key.level + 1);
        self.make_dirty(parent);
        self.set_link(key, Child::Absent);
        let empty = match self.cache.get(parent) {
            Some(Node::Inner(children)) => children.iter().all(|c| *c == Child::Absent),
            Some(_) | None => unreachable!("a parent is an inner page in memory"),
        };
        if empty {
            self.remove(parent);
        }
    }

    /// The stored version of a page in memory is not needed by the next checkpoint.
    fn free(&mut self, key: NodeKey) {
        if let Some(at) = self.cache.stored_at(key) {
            *self.freed.entry(at.segment).or_insert(0) += 1;
        }
    }

    /// Which page is to be at this place, if it was asked for and is still needed. **Invariant:** what
    /// lies there instead is damage: else it would be asked for without end.
    pub(super) fn awaited(&mut self, ptr: &PagePtr) -> Option<NodeKey> {
        let at = location(ptr);
        let key = self.asked.remove(&at)?;
        let is_needed = self.link(key) == Some(Child::At(at)) && self.cache.get(key).is_none();
        (is_needed && self.table.pointer(at) == Some(*ptr)).then_some(key)
    }

    /// Takes a loaded page in, if it is still the current one and not in memory yet.
    pub(super) fn arrived(
        &mut self,
        ptr: &PagePtr,
        key: NodeKey,
        node: Node,
    ) -> Result<(), Corrupt> {
        let at = location(ptr);
        let current = self.link(key) == Some(Child::At(at));
        if !current || self.cache.get(key).is_some() || self.table.pointer(at) != Some(*ptr) {
            return Ok(());
        }
        if let Node::Inner(children) = &node {
            for child in children.iter() {
                if let Child::At(at) = child
                    && self.table.pointer(*at).is_none()
                {
                    return Err(Corrupt::UnknownSegment(at.segment));
                }
            }
        }
        self.cache.insert_loaded(key, node, at);
        Ok(())
    }

    /// The pages of an inner page that was found, which lie in index segments of `victims`
    /// and are not newer in memory.
    pub(super) fn children_in(&self, key: NodeKey, victims: &BTreeSet<u32>) -> Vec<NodeKey> {
        let Some(Node::Inner(children)) = self.cache.get(key) else {
            return Vec::new();
        };
        let stale = |at: &Location| victims.contains(&at.segment);
        let slots = children
            .iter()
            .enumerate()
            .filter_map(|(slot, child)| match child {
                Child::At(at) if stale(at) => Some(key.child(slot as u8)),
                Child::At(_) | Child::New | Child::Absent => None,
            });
        slots.filter(|child| !self.cache.is_dirty(*child)).collect()
    }
}

/// Where a descent ended.
enum Step {
    At(u64),
    Wanted(PagePtr),
    /// There is nothing below; go on from this index.
    Beyond(Option<u64>),
}

fn empty(key: NodeKey) -> Node {
    match (key.level, key.space) {
        (0, Space::Blocks) => Node::Blocks(Box::new([Entry::Hole; LEAF_BLOCKS])),
        (0, Space::Segments) => Node::Segments(Box::new([None; LEAF_SEGMENTS])),
        _ => Node::Inner(Box::new([Child::Absent; FANOUT])),
    }
}
