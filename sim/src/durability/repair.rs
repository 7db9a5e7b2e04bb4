//! How it is made good: as the site groups' leaders and the Healers do it.
//!
//! What a lost disk held is rebuilt on other disks of its site, once `heal_after` has passed, at
//! the site's pace, the rows that lack most first; from whatever can be read then, and if that is
//! too little, later. A slot goes where it lay before, if there is a disk, else to a node that
//! holds none of its row, else to a disk that holds none, else to the least used; of these to
//! the one with the fewest slots (`raft_meta`'s rule, which decides by lot among those).

use std::collections::BTreeMap;

use model::ids::Slot;

use super::judge::Judge;
use super::world::{Place, World};

impl World<'_> {
    /// What each site works on now.
    pub(super) fn jobs(&mut self, judge: &mut Judge) -> Vec<Place> {
        if self.rebuilds.is_empty() {
            return Vec::new();
        }
        let ready = self.rebuilds.iter().filter(|(_, r)| r.ready_at <= self.now);
        let mut ready: Vec<Place> = ready.map(|(place, _)| *place).collect();
        ready.sort_unstable_by_key(|(row, slot)| {
            (usize::MAX - self.lacking[*row].len(), *row, *slot)
        });
        let mut jobs: Vec<Place> = Vec::new();
        let mut busy = vec![false; self.layout.sites];
        for place in ready {
            let site = self.home_site(place);
            if busy[site] || !self.has_site(site) || !judge.bears(self.unreadable(place.0)) {
                continue;
            }
            if self.has_target(place) {
                busy[site] = true;
                jobs.push(place);
            }
        }
        jobs
    }

    fn home_site(&self, (row, slot): Place) -> usize {
        self.layout
            .site_of(self.layout.rows[row][usize::from(slot)])
    }

    /// Whether it goes on: to the disk that it was begun on, if that serves; else it begins.
    fn has_target(&mut self, place: Place) -> bool {
        match self.rebuilds[&place].to {
            Some(to) => self.serves(to),
            None => {
                let to = self.refuge(place);
                if let Some(to) = to {
                    self.load[to] += 1;
                }
                let rebuild = self.rebuilds.get_mut(&place).expect("it is one of them");
                rebuild.to = to;
                to.is_some()
            }
        }
    }

    /// The disk that is to have a slot.
    pub(super) fn refuge(&self, place: Place) -> Option<usize> {
        let home = self.layout.rows[place.0][usize::from(place.1)];
        if self.serves(home) {
            return Some(home);
        }
        let others = self.others(place);
        let rank = |disk: &usize| {
            let on_disk = others.iter().filter(|at| *at == disk).count();
            let node = self.layout.node_of(*disk);
            let on_node = others.iter().filter(|at| self.layout.node_of(**at) == node);
            let lot = (place.0 as u64) << 32 | u64::from(place.1) << 24 | *disk as u64;
            (on_disk, on_node.count(), self.load[*disk], model::mix(lot))
        };
        let site = self.layout.site_of(home);
        let disks = self.layout.disks_of_site(site);
        disks.filter(|disk| self.serves(*disk)).min_by_key(rank)
    }

    /// Where the other slots of its row lie, or will.
    fn others(&self, (row, slot): Place) -> Vec<usize> {
        let slots = (0..).zip(&self.at[row]).filter(|(other, _)| *other != slot);
        let place = |(other, at): (u8, &usize)| match self.rebuilds.get(&(row, other)) {
            Some(rebuild) => rebuild.to,
            None => Some(*at),
        };
        slots.filter_map(place).collect()
    }

    /// A slot is whole again.
    pub(super) fn end_rebuild(&mut self, place: Place) {
        let rebuild = self.rebuilds.remove(&place).expect("it was worked on");
        let to = rebuild.to.expect("it was begun");
        self.at[place.0][usize::from(place.1)] = to;
        self.lacking[place.0].remove(Slot(place.1));
    }

    /// Once nothing lacks and every disk is replaced, slots are spread as before.
    pub(super) fn settle(&mut self) {
        let disks_serve = self.disk_back.iter().all(Option::is_none);
        if !self.rebuilds.is_empty() || !disks_serve {
            return;
        }
        assert!(self.lacking.iter().all(|lacking| lacking.is_empty()));
        if self.rots.is_empty() {
            self.at.clone_from(&self.layout.rows);
            self.load.fill(0);
            for at in self.at.iter().flatten() {
                self.load[*at] += 1;
            }
        }
    }

    /// About how long until nothing lacks or is about to, in hours; with `away`, until nobody is
    /// away either.
    pub(super) fn exposure(&self, away: bool) -> f64 {
        let mut until = self.now;
        let mut bytes = vec![0.0; self.layout.sites];
        let mut begun = vec![self.now; self.layout.sites];
        for (place, rebuild) in &self.rebuilds {
            let site = self.home_site(*place);
            bytes[site] += rebuild.left_bytes;
            begun[site] = f64::max(begun[site], rebuild.ready_at);
        }
        for site in 0..self.layout.sites {
            if bytes[site] > 0.0 {
                let founded = self.site_founded[site].unwrap_or(self.now);
                let over = begun[site].max(founded) + bytes[site] / self.paces.rebuild;
                let over = self.rewritten_at.map_or(over, |at| over.min(at));
                until = until.max(over);
            }
        }
        let rots = self.rots.iter().map(|rot| rot.found_at);
        until = rots.fold(until, f64::max);
        if away {
            let outages = self.node_back.iter().chain(&self.site_back).flatten();
            until = outages.copied().fold(until, f64::max);
        }
        until - self.now
    }

    /// What the rows need that lack most, and lack something; a rotten fragment counts.
    pub(super) fn weakest(&self) -> Vec<(Place, usize)> {
        let mut lacks: BTreeMap<usize, usize> = BTreeMap::new();
        let rotten = self.rots.iter().map(|rot| rot.place.0);
        for row in self.rebuilds.keys().map(|(row, _)| *row).chain(rotten) {
            *lacks.entry(row).or_default() += 1;
        }
        let most = lacks.values().max().copied();
        let rows = lacks.into_iter().filter(|(_, lack)| Some(*lack) == most);
        rows.flat_map(|(row, _)| self.whole(row)).collect()
    }

    /// The slots of a row that lack nothing, with their disks.
    pub(super) fn whole(&self, row: usize) -> impl Iterator<Item = (Place, usize)> + '_ {
        let slots = (0..).zip(&self.at[row]);
        let left = slots.filter(move |(slot, _)| !self.lacking[row].contains(Slot(*slot)));
        left.map(move |(slot, at)| ((row, slot), *at))
    }
}
