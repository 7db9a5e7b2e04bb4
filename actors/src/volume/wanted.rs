//! Which disks should hold a volume's journal: one in each of three sites (R6), where the
//! placement says that they serve.

use std::collections::BTreeSet;

use model::ids::{DiskId, DiskRef, SiteId, VolumeId};
use model::mix;
use model::placement::{Disk, Duty, Presence, View};

use crate::planted::{Bug, planted};

/// Replicas of a journal, in so many sites (R6).
const REPLICAS: usize = 3;

/// The fewest replicas that a change may leave: with one alone, the loss of its site would
/// lose acknowledged bytes (R22). A fabric with a single site can't have more.
const REPLICAS_MIN: usize = 2;

/// The set that should replace `members`, or `None` if they are right as they are, or if the
/// placement does not offer better ones. Members that serve stay; the others make room for
/// disks in the same site or another; a site that is away has none (R6).
#[must_use]
pub(super) fn wanted(view: &View, volume: VolumeId, members: &[DiskRef]) -> Option<Vec<DiskRef>> {
    let up: BTreeSet<SiteId> = with_presence(view, Presence::Up);
    let settled = view
        .sites
        .values()
        .filter(|s| s.presence != Presence::Gone)
        .count();
    let mut sites_used: BTreeSet<SiteId> = BTreeSet::new();
    let mut set: Vec<DiskRef> = Vec::new();
    // Every member keeps its place in the order, by itself or by one of its site.
    for at in members {
        let site = view.site_of(at.disk);
        if site.is_none() && !all_known(view, &up) {
            return None;
        }
        let here = match site.filter(|s| up.contains(s) && !sites_used.contains(s)) {
            Some(site) if serves(view, *at) && !leaves(view, *at, site) => Some(*at),
            Some(site) => choose(view, volume, site),
            None => None,
        };
        if let (Some(at), Some(site)) = (here, site) {
            sites_used.insert(site);
            set.push(at);
        }
    }
    if planted(Bug::TwoInOneSite) && set.len() == REPLICAS_MIN {
        let mut spare = view
            .disks
            .values()
            .filter(|d| d.presence == Presence::Up && !set.contains(&d.at));
        let beside = spare.find(|d| view.site_of(d.at.disk) == view.site_of(set[0].disk));
        set.extend(beside.map(|d| d.at));
    }
    let home = view.volumes.get(&volume).map(|v| v.home);
    let mut others: Vec<SiteId> = up.difference(&sites_used).copied().collect();
    others.sort_by_key(|site| (Some(*site) != home, weight(volume, site.0.into())));
    for site in others {
        if set.len() >= REPLICAS {
            break;
        }
        set.extend(choose(view, volume, site));
    }
    let enough = set.len() >= REPLICAS_MIN.min(settled);
    (enough && set != members).then_some(set)
}

/// Whether a change must not wait: as it is, one more loss stops the volume or a site's loss
/// is a committed decision (R6).
#[must_use]
pub(super) fn is_urgent(view: &View, members: &[DiskRef]) -> bool {
    let serving = members.iter().filter(|at| serves(view, **at)).count();
    let site_is_down = |at: &DiskRef| {
        let site = view.site_of(at.disk).and_then(|s| view.sites.get(&s));
        site.is_some_and(|s| s.presence != Presence::Up)
    };
    serving < REPLICAS_MIN || members.iter().any(site_is_down)
}

/// Whether a disk serves, in that life.
fn serves(view: &View, at: DiskRef) -> bool {
    view.disks
        .get(&at.disk)
        .is_some_and(|d| d.at == at && d.presence == Presence::Up)
}

/// Whether the operator has a disk emptied, or its node may stop soon, and its site has another one
/// for the replica.
fn leaves(view: &View, at: DiskRef, site: SiteId) -> bool {
    let rests = |d: &Disk| d.duty.is_to_rest();
    view.disks.get(&at.disk).is_some_and(rests) && takers(view, site).any(|d| !rests(d))
}

/// The disks of a site that serve.
fn takers(view: &View, site: SiteId) -> impl Iterator<Item = &Disk> {
    let of_site = move |id: DiskId| view.site_of(id) == Some(site);
    let disks = view.disks.iter();
    let serve = disks.filter(move |(id, d)| d.presence == Presence::Up && of_site(**id));
    serve.map(|(_, disk)| disk)
}

fn with_presence(view: &View, presence: Presence) -> BTreeSet<SiteId> {
    let sites = view.sites.iter().filter(|(_, s)| s.presence == presence);
    sites.map(|(id, _)| *id).collect()
}

/// Whether the disks of all these sites are known: a disk that is not, is then none of theirs.
fn all_known(view: &View, sites: &BTreeSet<SiteId>) -> bool {
    let known: BTreeSet<SiteId> = view
        .disks
        .keys()
        .filter_map(|id| view.site_of(*id))
        .collect();
    sites.is_subset(&known)
}

/// The disk of a site that takes a volume's journal: the highest of its weights, so that
/// volumes spread evenly and a site's other disks change nothing (rendezvous). One that is to
/// be emptied is better than none.
fn choose(view: &View, volume: VolumeId, site: SiteId) -> Option<DiskRef> {
    takers(view, site)
        .max_by_key(|d| (d.duty == Duty::Serve, weight(volume, d.at.disk.0.into())))
        .map(|disk| disk.at)
}

fn weight(volume: VolumeId, of: u64) -> u64 {
    mix((u64::from(volume.0) << 32) ^ of)
}

#[cfg(test)]
#[path = "tests/wanted.rs"]
mod tests;
