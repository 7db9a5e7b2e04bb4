//! Disks that are emptied without an operator's word: that corrupt data again and again, or are
//! slow beside the others of their site.

use model::ids::{DiskRef, NodeId, SiteId};
use model::placement::{DiskFault, DiskHealth, Duty, Latency, Presence};
use model::planted::{Bug, planted};

use super::global::{Facts, SiteKnown};
use crate::global::{DiskWord, GlobalCommand};
use crate::site::SiteDisk;

/// So many doublings of the others' median make it slow. Classes of latency are as wide as one: it
/// takes eight times as long as they do at least, and 32 times at most.
const SLOWER_BY: u8 = 4;

/// With fewer others that are known, nobody is compared.
const OTHERS_MIN: usize = 2;

/// Of a site's disks, one in so many is given up so, or a single one.
const SHARE: usize = 4;

/// How many of a site's disks may be emptied for what was found of them.
pub(crate) fn share(disks: usize) -> usize {
    (disks / SHARE).max(1)
}

impl Facts<'_> {
    /// A disk that should be emptied. One at a time in a site, so that each next one is compared
    /// with those that are left.
    pub(super) fn faulty_disk(&self) -> Option<GlobalCommand> {
        let state = self.state;
        let all_up = state
            .settled_sites()
            .iter()
            .all(|site| self.presence_of(*site) == Presence::Up && state.unwritable != Some(*site));
        if planted(Bug::TrustedDisk) || !all_up {
            return None;
        }
        let up = self
            .sites
            .iter()
            .filter(|(site, _)| self.presence_of(**site) == Presence::Up);
        up.into_iter()
            .find_map(|(site, known)| self.faulty_disk_of(*site, known))
    }

    fn faulty_disk_of(&self, site: SiteId, known: &SiteKnown<'_>) -> Option<GlobalCommand> {
        let there = |d: &&SiteDisk| d.presence != Presence::Gone;
        let disks: Vec<&SiteDisk> = known.state.disks.values().filter(there).collect();
        let word = |at: DiskRef| {
            let entry = self.state.disks.get(&at.disk).filter(|e| e.at == at);
            entry.map(|entry| entry.word)
        };
        let faulty = disks
            .iter()
            .filter(|d| matches!(word(d.at), Some(DiskWord::Faulty(_))));
        if faulty.count() >= share(disks.len()) {
            return None;
        }
        let serving: Vec<&SiteDisk> = disks
            .into_iter()
            .filter(|d| d.presence == Presence::Up && d.duty == Duty::Serve)
            .collect();
        let health: Vec<(DiskRef, DiskHealth)> = serving
            .iter()
            .filter_map(|d| Some((d.at, self.health(site, d.node, d.at)?)))
            .collect();
        let fault = health.iter().find_map(|(at, told)| {
            let is_judged = word(*at) == Some(DiskWord::Serve);
            let fault = match told.rots {
                true => DiskFault::Rots,
                false if is_slow(self.slow_from, *at, told.latency, &health) => DiskFault::Slow,
                false => return None,
            };
            // Where would all of it go?
            let others = serving.iter().filter(|d| d.at != *at);
            let mut rooms = others.map(|d| self.has_room(d.node, d.at));
            let goes_elsewhere = serving.len() > 1 && rooms.all(|has_room| has_room);
            (is_judged && goes_elsewhere).then_some((*at, fault))
        });
        fault.map(|(at, fault)| GlobalCommand::FlagDisk { at, fault })
    }

    fn has_room(&self, node: NodeId, at: DiskRef) -> bool {
        let room = self.detector.room(self.now, node, at);
        room.is_some_and(|(has_room, _)| has_room)
    }

    fn health(&self, site: SiteId, node: NodeId, at: DiskRef) -> Option<DiskHealth> {
        let beat = self.detector.beat(self.now, node)?;
        let told = beat.disks.iter().find(|d| d.at == at);
        told.filter(|_| beat.site == site).map(|d| d.health)
    }
}

/// Whether a disk is slow beside all others that say how long they take.
fn is_slow(
    from: Latency,
    at: DiskRef,
    latency: Option<Latency>,
    all: &[(DiskRef, DiskHealth)],
) -> bool {
    let Some(own) = latency.filter(|own| *own >= from) else {
        return false;
    };
    let others = all.iter().filter(|(other, _)| *other != at);
    let mut others: Vec<Latency> = others.filter_map(|(_, told)| told.latency).collect();
    if others.len() < OTHERS_MIN {
        return false;
    }
    others.sort_unstable();
    let usual = others[others.len() / 2];
    own.0 >= usual.0.saturating_add(SLOWER_BY)
}

#[cfg(test)]
mod tests {
    use model::ids::{DiskId, Incarnation};

    use super::*;

    fn told(latencies: &[Option<u8>]) -> Vec<(DiskRef, DiskHealth)> {
        let of = |(n, latency): (u32, &Option<u8>)| {
            let at = DiskRef {
                disk: DiskId(n),
                incarnation: Incarnation(1),
            };
            let latency = latency.map(Latency);
            (
                at,
                DiskHealth {
                    rots: false,
                    latency,
                },
            )
        };
        (0..).zip(latencies).map(of).collect()
    }

    fn first_is_slow(latencies: &[Option<u8>]) -> bool {
        let all = told(latencies);
        is_slow(Latency(15), all[0].0, all[0].1.latency, &all)
    }

    #[test]
    fn slow_is_eight_times_the_others_and_long_in_itself() {
        assert!(first_is_slow(&[Some(18), Some(14), Some(9)]));
        assert!(
            !first_is_slow(&[Some(17), Some(14), Some(9)]),
            "four times, it may be"
        );
        assert!(first_is_slow(&[Some(15), Some(9), Some(9), None]));
        assert!(!first_is_slow(&[Some(14), Some(5), Some(5)]), "soon enough");
        assert!(!first_is_slow(&[Some(17), Some(15), Some(15)]), "all are");
        assert!(
            !first_is_slow(&[Some(20), Some(9), None]),
            "beside one other"
        );
        assert!(!first_is_slow(&[None, Some(9), Some(9)]), "nobody knows");
    }
}
