//! Opening: the root page, the table of index segments and the delta pages are loaded before
//! anything is answered. Their number is bounded by the checkpoint's own policy, not by what
//! the volume maps.

use std::collections::BTreeMap;

use model::journal::{Checkpoint, PagePtr};

use super::page::{AnyGroup, Child, IndexSegment, Location, Page, Root};
use super::table::location;
use super::tree::{MISSING_PAGES_MAX, Tree};
use super::{Corrupt, Index, Stop};

/// A checkpoint that claims more of such pages is refused.
const LOAD_PAGES_MAX: usize = 1 << 17;

/// What a page is for. The order is that of the lists, so that deltas replay in order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Role {
    Root,
    /// The place in the lists: one number a level.
    Table(Vec<u16>),
    Delta(Vec<u16>),
}

#[derive(Debug)]
enum Loaded {
    /// A list of this level is expected; at the top any level, below one less, and below
    /// level 0 no list.
    Expected {
        list: Option<u8>,
        top: bool,
    },
    List,
    Rows(Vec<(u32, IndexSegment)>),
    Groups(Vec<AnyGroup>),
    Root(Root),
}

/// What was loaded so far.
#[derive(Debug)]
pub(super) struct Loading {
    pages: BTreeMap<Role, (PagePtr, Loaded)>,
    roles: BTreeMap<PagePtr, Role>,
    next_counter: u32,
}

impl Loading {
    /// `None` if there is nothing to load.
    pub(super) fn new(checkpoint: &Checkpoint) -> Option<Self> {
        let (pages, roles) = (BTreeMap::new(), BTreeMap::new());
        let mut loading = Self {
            pages,
            roles,
            next_counter: checkpoint.next_counter,
        };
        if let Some(root) = checkpoint.root {
            let expected = Loaded::Expected {
                list: None,
                top: false,
            };
            loading.expect(Role::Root, root, expected).ok()?;
        }
        if let Some(table) = checkpoint.table {
            let expected = Loaded::Expected {
                list: None,
                top: true,
            };
            loading
                .expect(Role::Table(Vec::new()), table, expected)
                .ok()?;
        }
        (!loading.pages.is_empty()).then_some(loading)
    }

    fn expect(&mut self, role: Role, page: PagePtr, expected: Loaded) -> Result<(), Corrupt> {
        if self.pages.len() >= LOAD_PAGES_MAX {
            return Err(Corrupt::TooLarge);
        }
        if self.roles.insert(page, role.clone()).is_some() {
            return Err(Corrupt::Body);
        }
        self.pages.insert(role, (page, expected));
        Ok(())
    }

    /// What is to be loaded next, at most a batch.
    pub(super) fn wanted(&self) -> Vec<PagePtr> {
        self.roles.keys().take(MISSING_PAGES_MAX).copied().collect()
    }

    /// Takes a page in; one that is not expected (any more) is ignored.
    fn arrived(&mut self, ptr: &PagePtr, page: Page) -> Result<(), Corrupt> {
        let Some(role) = self.roles.get(ptr).cloned() else {
            return Ok(());
        };
        let Some((_, Loaded::Expected { list, top })) = self.pages.get(&role) else {
            return Ok(());
        };
        let (list, top) = (*list, *top);
        let loaded = match (page, &role) {
            (Page::Root(root), Role::Root) => {
                if let Some(deltas) = root.deltas {
                    let expected = Loaded::Expected {
                        list: None,
                        top: true,
                    };
                    self.expect(Role::Delta(Vec::new()), deltas, expected)?;
                }
                Loaded::Root(root)
            }
            (Page::List { level, pages }, Role::Table(path) | Role::Delta(path)) => {
                if !top && list != Some(level) {
                    return Err(Corrupt::Misplaced);
                }
                for (i, page) in pages.into_iter().enumerate() {
                    let mut path = path.clone();
                    path.push(i as u16);
                    let below = match role {
                        Role::Table(_) => Role::Table(path),
                        Role::Root | Role::Delta(_) => Role::Delta(path),
                    };
                    let expected = Loaded::Expected {
                        list: level.checked_sub(1),
                        top: false,
                    };
                    self.expect(below, page, expected)?;
                }
                Loaded::List
            }
            (Page::Table(rows), Role::Table(_)) if !top && list.is_none() => Loaded::Rows(rows),
            (Page::Delta(groups), Role::Delta(_)) if !top && list.is_none() => {
                Loaded::Groups(groups)
            }
            _ => return Err(Corrupt::Misplaced),
        };
        self.roles.remove(ptr);
        self.pages.insert(role, (*ptr, loaded));
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.roles.is_empty()
    }
}

impl Index {
    /// # Errors
    /// What must be loaded before anything is answered.
    pub(super) fn ensure_loaded(&mut self) -> Result<(), Stop> {
        if let Some(damage) = &self.damage {
            return Err(Stop::Damaged(damage.clone()));
        }
        match &self.loading {
            None => Ok(()),
            Some(loading) => Err(Stop::Missing(loading.wanted())),
        }
    }

    /// A page arrived while opening.
    pub(super) fn load(&mut self, ptr: &PagePtr, page: Page) -> Result<(), Corrupt> {
        let loading = self.loading.as_mut().expect("the caller looked");
        loading.arrived(ptr, page)?;
        if loading.is_complete() {
            let loading = self.loading.take().expect("just used");
            return self.opened(loading);
        }
        Ok(())
    }

    fn opened(&mut self, loading: Loading) -> Result<(), Corrupt> {
        let next_counter = loading.next_counter;
        let mut root = None;
        let mut meta = Vec::new();
        // Roles are in order: the root, the table, then the deltas.
        for (role, (ptr, loaded)) in loading.pages {
            match loaded {
                Loaded::Root(page) => root = Some(page),
                Loaded::List => {}
                Loaded::Rows(rows) => {
                    for (counter, row) in rows {
                        if counter >= next_counter || !self.forest.table.insert(counter, row) {
                            return Err(Corrupt::Body);
                        }
                    }
                }
                Loaded::Groups(groups) => {
                    self.deltas.push(self.known(&ptr)?);
                    for group in groups {
                        match group {
                            AnyGroup::Blocks(group) => self.blocks.replay(&group),
                            AnyGroup::Segments(group) => self.segments.replay(&group),
                        }
                    }
                    continue;
                }
                Loaded::Expected { .. } => unreachable!("{role:?} is complete"),
            }
            meta.push(ptr);
        }
        self.meta = meta
            .iter()
            .map(|ptr| self.known(ptr))
            .collect::<Result<_, _>>()?;
        let root = root.ok_or(Corrupt::Body)?;
        let [blocks, segments] = root.trees;
        self.forest.blocks = self.tree_of(blocks)?;
        self.forest.segments = self.tree_of(segments)?;
        self.counts.mapped_blocks = root.mapped_blocks;
        self.counts.data_segments = root.data_segments;
        self.counts.data_stored = root.data_stored;
        Ok(())
    }

    fn tree_of(&self, tree: Option<(u8, PagePtr)>) -> Result<Tree, Corrupt> {
        match tree {
            None => Ok(Tree::default()),
            Some((height, ptr)) => Ok(Tree {
                height,
                root: Child::At(self.known(&ptr)?),
            }),
        }
    }

    /// The page's place, if its segment is in the table.
    fn known(&self, ptr: &PagePtr) -> Result<Location, Corrupt> {
        let at = location(ptr);
        let known = self.forest.table.pointer(at) == Some(*ptr);
        known
            .then_some(at)
            .ok_or(Corrupt::UnknownSegment(at.segment))
    }
}
