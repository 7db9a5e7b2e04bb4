//! What may fail: of which kind, which ones, how often.

use super::layout::Layout;
use super::terms::{Rates, YEAR_H};
use super::world::{Place, World};

/// What fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Disk,
    Rot,
    Node,
    NodeOutage,
    Site,
    SiteOutage,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Disk,
        Self::Rot,
        Self::Node,
        Self::NodeOutage,
        Self::Site,
        Self::SiteOutage,
    ];

    /// Of each target, in events an hour.
    fn rate(self, rates: &Rates, layout: &Layout) -> f64 {
        let per_year = match self {
            Self::Disk => rates.disk_lost,
            // What rots on a disk, by the slots that lie on one.
            Self::Rot => rates.rot * layout.disks as f64 / layout.slots() as f64,
            Self::Node => rates.node_lost,
            Self::NodeOutage => rates.node_outage,
            Self::Site => rates.site_lost,
            Self::SiteOutage => rates.site_outage,
        };
        per_year / YEAR_H
    }

    /// What may fail so.
    pub(super) fn targets(self, world: &World<'_>) -> Vec<usize> {
        let layout = world.layout;
        let stands = |site: usize| world.site_founded[site].is_none();
        let nodes = (0..layout.nodes).filter(|node| stands(layout.site_of_node(*node)));
        let sites = (0..layout.sites).filter(|site| stands(*site));
        match self {
            Self::Disk => {
                let disks = 0..layout.disks;
                let disks = disks.filter(|disk| world.disk_back[*disk].is_none());
                disks.collect()
            }
            Self::Rot => {
                let rows = (0..world.at.len()).filter(|row| !world.elsewhere[*row]);
                let slots = rows.flat_map(|row| world.whole(row));
                slots.map(|(place, _)| slot_number(layout, place)).collect()
            }
            Self::Node => nodes.collect(),
            Self::NodeOutage => nodes
                .filter(|node| world.node_back[*node].is_none())
                .collect(),
            Self::Site => sites.collect(),
            Self::SiteOutage => sites
                .filter(|site| world.site_back[*site].is_none())
                .collect(),
        }
    }
}

/// A slot among all slots of all rows.
fn slot_number(layout: &Layout, (row, slot): Place) -> usize {
    row * layout.rows[row].len() + usize::from(slot)
}

/// How many slots may rot: those of rows whose data is here, but for what lacks.
fn slots_whole(world: &World<'_>) -> usize {
    let rows = world.elsewhere.iter().filter(|elsewhere| !**elsewhere);
    rows.count() * world.layout.rows[0].len() - world.rebuilds.len()
}

/// What is looked for, if failures are forced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aim {
    /// Nothing: all is as in reality.
    Nothing,
    /// Data that is lost.
    Loss,
    /// Data that can't be read for a while.
    Outage,
}

impl Aim {
    pub(super) fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Nothing => &[],
            Self::Loss => &[Kind::Disk, Kind::Rot, Kind::Node, Kind::Site],
            Self::Outage => &[
                Kind::Disk,
                Kind::Node,
                Kind::NodeOutage,
                Kind::Site,
                Kind::SiteOutage,
            ],
        }
    }
}

/// One kind of failure that may be next.
pub(super) struct Choice {
    pub(super) kind: Kind,
    /// How many.
    pub(super) targets: usize,
    /// Of all targets together, in events an hour.
    pub(super) rate: f64,
}

pub(super) fn choices(world: &World<'_>, rates: &Rates) -> Vec<Choice> {
    let choice = |kind: &Kind| {
        let rate = kind.rate(rates, world.layout);
        if rate <= 0.0 {
            return None;
        }
        // There are many slots: they are listed only when one is to rot.
        let targets = match kind {
            Kind::Rot => slots_whole(world),
            other => other.targets(world).len(),
        };
        (targets > 0).then_some(Choice {
            kind: *kind,
            targets,
            rate: rate * targets as f64,
        })
    };
    Kind::ALL.iter().filter_map(choice).collect()
}

/// The targets that the weakest rows need.
pub(super) fn needed(world: &World<'_>, choice: &Choice, weakest: &[(Place, usize)]) -> Vec<usize> {
    let layout = world.layout;
    let target = |(place, disk): &(Place, usize)| match choice.kind {
        Kind::Disk => *disk,
        Kind::Rot => slot_number(layout, *place),
        Kind::Node | Kind::NodeOutage => layout.node_of(*disk),
        Kind::Site | Kind::SiteOutage => layout.site_of(*disk),
    };
    let mut targets: Vec<usize> = weakest.iter().map(target).collect();
    targets.sort_unstable();
    targets.dedup();
    if choice.kind != Kind::Rot {
        let may_fail = choice.kind.targets(world);
        targets.retain(|target| may_fail.binary_search(target).is_ok());
    }
    targets
}

/// How likely a target is, once its kind is forced.
pub(super) fn chance(choice: &Choice, needed: &[usize], target: usize) -> f64 {
    let any = 1.0 / choice.targets as f64;
    match needed.is_empty() {
        true => any,
        false => {
            let is_needed = needed.binary_search(&target).is_ok();
            let of_needed = if is_needed {
                1.0 / needed.len() as f64
            } else {
                0.0
            };
            (any + of_needed) / 2.0
        }
    }
}
