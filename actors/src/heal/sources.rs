//! Who may have fragments of a row, by the view.

use std::collections::BTreeMap;

use coding::SlotSet;
use model::ids::{DiskRef, NodeId, SiteId, Slot};
use model::placement::{Presence, View};
use model::spread::{RowStamp, SlotMove};

/// A disk that is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) node: NodeId,
    pub(super) site: SiteId,
    /// The slots that it may hold.
    pub(super) slots: SlotSet,
}

/// A row, as one of its slots' move sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) rows: u16,
    pub(super) stamp: RowStamp,
    /// Disks that serve, the move's own target among them.
    pub(super) disks: BTreeMap<DiskRef, Source>,
    /// Whether the target does: it is among them whatever is said of it.
    pub(super) target_serves: bool,
    /// Other slots of which every fragment that was ever stored for good is on disks that
    /// serve.
    pub(super) complete: SlotSet,
    /// Slots of which a disk that does not serve now may have fragments.
    pub(super) unsure: SlotSet,
}

/// What may be hoped of a disk.
enum Hope {
    Serves(Source),
    Away,
    Lost,
}

fn hope(view: &View, at: DiskRef) -> Hope {
    let Some(disk) = view.disks.get(&at.disk) else {
        return Hope::Away;
    };
    let Some(node) = view.nodes.get(&disk.node) else {
        return Hope::Away;
    };
    let of_site = view.sites.get(&node.site);
    let of_site = of_site.map_or(Presence::Down, |site| site.presence);
    let presences = [disk.presence, node.presence, of_site];
    if disk.at != at || presences.contains(&Presence::Gone) {
        return Hope::Lost;
    }
    if presences.contains(&Presence::Down) {
        return Hope::Away;
    }
    Hope::Serves(Source {
        node: disk.node,
        site: node.site,
        slots: SlotSet::EMPTY,
    })
}

/// Whether a disk serves, in that life.
pub(super) fn serves(view: &View, at: DiskRef) -> bool {
    matches!(hope(view, at), Hope::Serves(_))
}

impl Row {
    /// The row of a move that is under way by this view, or of a slot that lies at its target
    /// for good; `None` if it is neither.
    pub(super) fn of(view: &View, healing: &SlotMove) -> Option<Self> {
        let table = view.pools.get(&healing.pool);
        let table = table.filter(|t| t.slots == healing.pool.code.slots())?;
        let own = table.place(healing.row, healing.slot);
        if own.to.or(own.disk) != Some(healing.to) || own.version != healing.version {
            return None;
        }
        let mut row = Self {
            rows: table.rows,
            stamp: table.stamp(healing.row),
            disks: BTreeMap::new(),
            target_serves: serves(view, healing.to),
            complete: SlotSet::EMPTY,
            unsure: SlotSet::EMPTY,
        };
        let node = view.disks.get(&healing.to.disk)?.node;
        let source = Source {
            node,
            site: view.nodes.get(&node)?.site,
            slots: SlotSet::EMPTY,
        };
        // The target is asked whatever is said of it: it is this node's.
        row.add(healing.to, healing.slot, source);
        for slot in (0..table.slots).map(Slot) {
            let place = table.place(healing.row, slot);
            let mut complete = place.disk.is_some();
            if !complete {
                row.unsure.insert(slot);
            }
            let places = [place.disk, place.to].into_iter().flatten();
            for at in places.filter(|at| *at != healing.to || slot != healing.slot) {
                match hope(view, at) {
                    Hope::Serves(source) => {
                        row.add(at, slot, source);
                        continue;
                    }
                    Hope::Away => row.unsure.insert(slot),
                    Hope::Lost => {}
                }
                complete = false;
            }
            if complete && slot != healing.slot {
                row.complete.insert(slot);
            }
        }
        Some(row)
    }

    fn add(&mut self, at: DiskRef, slot: Slot, source: Source) {
        self.disks.entry(at).or_insert(source).slots.insert(slot);
    }

    /// How many other slots could be lost, or are: the higher, the sooner it is its turn.
    pub(super) fn weakness(&self, slots: u8) -> usize {
        usize::from(slots).saturating_sub(1 + self.complete.len())
    }
}
