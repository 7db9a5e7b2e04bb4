//! What is being moved or rebuilt, how far that is, and what could be lost meanwhile: from the
//! placement, and from what each node's Healer counted in the catalogs of its disks.

use std::collections::{BTreeMap, BTreeSet};

use actors::heal::{Count, SlotKey};
use coding::{Codec, SlotSet};
use model::geometry::Pool;
use model::ids::{DiskRef, NodeId, Row, Slot};
use model::placement::{Disk, Duty, Presence, SlotPlace, View};

use super::show::{Heard, disk_name};
use crate::admin::protocol::{Repair, RepairKind};
use crate::daemon::peers::{RewritingFigures, Why};

/// Counts of all nodes together.
struct Counts<'a> {
    view: &'a View,
    /// Of rows of which a slot is weak: what a slot that is whole holds, and what those hold
    /// that are being filled.
    of: BTreeMap<SlotKey, Count>,
}

/// A slot that is weak, with the row's counts as far as they are known.
struct Weak {
    key: SlotKey,
    place: SlotPlace,
    /// What it should hold.
    total: Option<Count>,
    /// What its new disk holds.
    done: Option<Count>,
}

pub(super) fn serves(view: &View, at: DiskRef) -> bool {
    let known = view.disks.get(&at.disk).filter(|d| d.at == at);
    known.is_some_and(|d| d.presence == Presence::Up)
}

impl Counts<'_> {
    fn weak(&self) -> Vec<Weak> {
        let mut weak = Vec::new();
        for (pool, table) in &self.view.pools {
            for (row, slot, place) in table.iter() {
                let is_whole =
                    place.to.is_none() && place.disk.is_some_and(|at| serves(self.view, at));
                if is_whole {
                    continue;
                }
                let key = (*pool, row, slot);
                // A slot that is whole holds as many as each should.
                let of_row = self.of.range((*pool, row, Slot(0))..);
                let of_row = of_row.take_while(|((p, r, _), _)| (*p, *r) == (*pool, row));
                let whole = of_row.filter(|((.., s), _)| table.place(row, *s).to.is_none());
                weak.push(Weak {
                    key,
                    place,
                    total: whole.map(|(_, count)| *count).max_by_key(|c| c.bytes),
                    done: self.of.get(&key).copied(),
                });
            }
        }
        weak
    }
}

impl Weak {
    /// Whether its segments have fewer fragments than they should: what it held is not where
    /// it lay any more. One that leaves a disk that serves lacks nothing.
    fn lacks(&self, view: &View) -> bool {
        self.place.disk.is_none_or(|at| !serves(view, at))
    }

    /// Why it is moved.
    fn kind(&self, view: &View) -> RepairKind {
        let Some(from) = self.place.disk.filter(|at| serves(view, *at)) else {
            return RepairKind::Rebuild;
        };
        let drains = |d: &Disk| d.duty == Duty::Drain;
        let (pool, row, slot) = self.key;
        let node = view.node_of(from);
        let shares = view.pools.get(&pool).is_some_and(|table| {
            let others = (0..table.slots).map(Slot).filter(|s| *s != slot);
            let nodes = others.filter_map(|s| view.node_of(table.disk(row, s)?));
            nodes.into_iter().any(|other| Some(other) == node)
        });
        match view.disks.get(&from.disk).is_some_and(drains) {
            true => RepairKind::Drain,
            false if shares => RepairKind::Spread,
            false => RepairKind::Rebalance,
        }
    }

    fn left(&self) -> Option<Count> {
        let total = self.total?;
        let done = self.done.unwrap_or_default();
        Some(Count {
            fragments: total.fragments.saturating_sub(done.fragments),
            bytes: total.bytes.saturating_sub(done.bytes),
        })
    }
}

fn counts<'a>(view: &'a View, heard: &Heard) -> Counts<'a> {
    let mut of = BTreeMap::new();
    for figures in heard.figures.values() {
        for (key, count) in &figures.counts {
            of.insert(
                *key,
                Count {
                    fragments: count.0,
                    bytes: count.1,
                },
            );
        }
    }
    Counts { view, of }
}

/// Bytes of segments that would not survive what a fabric promises to: the loss of any one
/// site, or while one is away, of any one node. What volumes know of themselves is known at
/// once, of those that are served; what disks hold, once it was counted. `None` while nothing is
/// known.
pub(super) fn at_risk_bytes(view: &View, heard: &Heard) -> Option<u64> {
    let told = heard.figures.values().flat_map(|f| f.volumes.values());
    let of_volumes: u64 = told.map(|volume| volume.at_risk_bytes).sum();
    match of_rows(view, heard) {
        Some(of_rows) => Some(of_rows.max(of_volumes)),
        None => (of_volumes > 0).then_some(of_volumes),
    }
}

/// By rows of which slots are on no disk that serves, as far as they are not filled elsewhere.
/// `None` while some such row is not counted.
fn of_rows(view: &View, heard: &Heard) -> Option<u64> {
    let mut rows: BTreeMap<(Pool, Row), (SlotSet, Option<u64>)> = BTreeMap::new();
    for weak in counts(view, heard).weak() {
        if !weak.lacks(view) {
            continue;
        }
        let (pool, row, slot) = weak.key;
        let left = weak.left().map(|left| left.bytes);
        if left == Some(0) {
            continue;
        }
        let (lacking, bytes) = rows.entry((pool, row)).or_insert((SlotSet::EMPTY, Some(0)));
        lacking.insert(slot);
        *bytes = bytes.zip(left).map(|(most, left)| most.max(left));
    }
    let exposed = rows
        .into_iter()
        .filter(|((pool, row), (lacking, _))| !survives(view, *pool, *row, *lacking));
    let data = |((pool, _), (_, bytes)): ((Pool, Row), (SlotSet, Option<u64>))| {
        bytes.map(|bytes| bytes * u64::from(pool.code.data_fragments()))
    };
    exposed.map(data).sum()
}

/// Whether what a row has, without these slots, can be read after the next loss too.
fn survives(view: &View, pool: Pool, row: Row, lacking: SlotSet) -> bool {
    let (Some(table), Ok(codec)) = (view.pools.get(&pool), Codec::new(pool.code)) else {
        return false;
    };
    let mut by_loss: BTreeMap<Option<u64>, SlotSet> = BTreeMap::new();
    let have = codec.all().without(lacking);
    for slot in have.iter() {
        let disk = table.place(row, slot).disk;
        let node = disk.and_then(|at| Some(view.disks.get(&at.disk)?.node));
        let lost_with = match view.away() {
            Some(_) => node.map(|n| u64::from(n.0)),
            None => node.and_then(|n| Some(u64::from(view.nodes.get(&n)?.site.0))),
        };
        by_loss
            .entry(lost_with)
            .or_insert(SlotSet::EMPTY)
            .insert(slot);
    }
    codec.decodable(have)
        && by_loss
            .values()
            .all(|lost| codec.decodable(have.without(*lost)))
}

/// Moves under way, by the disk that slots leave and by why they do.
pub(super) fn repairs(view: &View, heard: &Heard) -> Vec<Repair> {
    let mut by_from: BTreeMap<(Option<DiskRef>, RepairKind), Vec<Weak>> = BTreeMap::new();
    let known = |at: &DiskRef| view.disks.contains_key(&at.disk);
    for weak in counts(view, heard).weak() {
        if weak.place.to.is_some() {
            let from = weak.place.disk.filter(known);
            let kind = weak.kind(view);
            by_from.entry((from, kind)).or_default().push(weak);
        }
    }
    let left_at = left_at(view, heard);
    let by_from = by_from.into_iter();
    by_from
        .map(|(of, slots)| repair(view, heard, &left_at, of, slots))
        .chain(rewriting(view, heard))
        .collect()
}

/// Volumes of which segments are being written anew, other than to free space.
fn rewriting<'a>(view: &'a View, heard: &'a Heard) -> impl Iterator<Item = Repair> + 'a {
    let told = heard.figures.values().flat_map(|figures| &figures.volumes);
    told.filter_map(|(id, figures)| {
        let name = &view.volumes.get(id)?.name;
        rewritten(view, name, figures.rewriting?)
    })
}

fn rewritten(view: &View, volume: &str, figures: RewritingFigures) -> Option<Repair> {
    let RewritingFigures {
        why,
        done_bytes,
        left_bytes,
        bytes_per_s,
    } = figures;
    let site = |id| view.sites.get(&id).map_or("?", |site| site.name.as_str());
    let (what, from) = match why {
        Why::AtRisk => (
            format!("protecting volume {volume} against the next loss"),
            format!("site {}", view.away().map_or("?", site)),
        ),
        Why::Misplaced => (
            format!("spreading volume {volume} over all sites"),
            "the sites that it lay in".to_owned(),
        ),
        Why::Sparse => return None,
    };
    Some(Repair {
        kind: RepairKind::Rewrite,
        what,
        from,
        to: vec!["new segments".to_owned()],
        slots: 0,
        done_fragments: 0,
        total_fragments: None,
        done_bytes,
        total_bytes: Some(done_bytes + left_bytes),
        bytes_per_s,
        eta_s: (bytes_per_s > 0).then(|| left_bytes.div_ceil(bytes_per_s)),
    })
}

/// What each node has still to bring.
fn left_at(view: &View, heard: &Heard) -> BTreeMap<NodeId, Option<u64>> {
    let mut left: BTreeMap<NodeId, Option<u64>> = BTreeMap::new();
    for weak in counts(view, heard).weak() {
        let Some(node) = weak.place.to.and_then(|to| view.node_of(to)) else {
            continue;
        };
        let of_node = left.entry(node).or_insert(Some(0));
        *of_node = of_node.zip(weak.left()).map(|(sum, c)| sum + c.bytes);
    }
    left
}

fn repair(
    view: &View,
    heard: &Heard,
    left_at: &BTreeMap<NodeId, Option<u64>>,
    (from, kind): (Option<DiskRef>, RepairKind),
    slots: Vec<Weak>,
) -> Repair {
    let name = |at: DiskRef| disk_name(view, at.disk);
    let from_name = from.map_or_else(|| "disks of a lost site".to_owned(), name);
    let what = match kind {
        RepairKind::Drain => format!("draining disk {from_name}"),
        RepairKind::Spread => format!("spreading what disk {from_name} holds"),
        RepairKind::Rebalance => format!("rebalancing disk {from_name}"),
        RepairKind::Rebuild | RepairKind::Rewrite => format!(
            "rebuilding {}{from_name}",
            if from.is_some() { "disk " } else { "" }
        ),
    };
    let to: BTreeSet<DiskRef> = slots.iter().filter_map(|s| s.place.to).collect();
    let nodes: BTreeSet<NodeId> = to.iter().filter_map(|to| view.node_of(*to)).collect();
    let rate = |n: &NodeId| heard.figures.get(n).map(|f| f.heal_bytes_per_s);
    let totals: Option<Vec<Count>> = slots.iter().map(|s| s.total).collect();
    let done = slots.iter().map(|s| {
        let (done, total) = (s.done.unwrap_or_default(), s.total.unwrap_or_default());
        (
            done.fragments.min(total.fragments),
            done.bytes.min(total.bytes),
        )
    });
    let (done_fragments, done_bytes) = done.fold((0, 0), |sum, d| (sum.0 + d.0, sum.1 + d.1));
    // All that a node has to bring shares its pace.
    let eta = |n: &NodeId| {
        let left = (*left_at.get(n)?)?;
        match (left, rate(n)?) {
            (0, _) => Some(0),
            (_, 0) => None,
            (left, rate) => Some(left.div_ceil(rate)),
        }
    };
    let etas: Option<Vec<u64>> = nodes.iter().map(eta).collect();
    let sum = |of: fn(&Count) -> u64| totals.as_ref().map(|t| t.iter().map(of).sum::<u64>());
    Repair {
        kind,
        what,
        from: from_name,
        to: to.into_iter().map(name).collect(),
        slots: slots.len() as u64,
        done_fragments,
        total_fragments: sum(|c| c.fragments),
        done_bytes,
        total_bytes: sum(|c| c.bytes),
        bytes_per_s: nodes.iter().filter_map(rate).sum(),
        eta_s: etas.and_then(|etas| etas.into_iter().max()),
    }
}
