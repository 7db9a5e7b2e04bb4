//! What stands and what does not: disks, nodes, sites, the slots on them.
//!
//! **Invariant:** a slot that lacks has a [`Rebuild`], and no other one has.

use std::collections::BTreeMap;

use coding::SlotSet;
use model::geometry::Code;
use model::ids::Slot;

use super::judge::Judge;
use super::layout::Layout;
use super::terms::{Terms, hours};

/// A slot by its row's number and its own.
pub(super) type Place = (usize, u8);

/// A slot that is to be rebuilt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rebuild {
    /// When its disk is given up, in hours.
    pub(super) ready_at: f64,
    pub(super) left_bytes: f64,
    /// The disk that is to have it, once it was begun.
    pub(super) to: Option<usize>,
}

/// A fragment that can't be read, which the scrub has not come by yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rot {
    pub(super) place: Place,
    pub(super) found_at: f64,
}

/// Why data is lost, and how much.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// A site was lost for good, and what was left of rows was not enough, or did not stay so.
    Site,
    /// Disks and nodes were lost, and with them rows.
    Disks,
    /// Rows were left with nothing to spare, and a fragment of one had rotted, or did before
    /// it was made good: a segment of at most 4 MiB is lost.
    Rot,
}

/// How long things take, in hours and bytes an hour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paces {
    pub(super) heal_after: f64,
    pub(super) replace: f64,
    pub(super) replace_site: f64,
    pub(super) rebuild: f64,
    pub(super) rewrite: f64,
}

impl Paces {
    pub(super) fn of(terms: &Terms, code: Code) -> Self {
        Self {
            heal_after: hours(terms.times.heal_after),
            replace: hours(terms.times.replace),
            replace_site: hours(terms.times.replace_site),
            rebuild: terms.rebuild_bytes_per_s(code) as f64 * 3600.0,
            rewrite: terms.times.rewrite_bytes_per_s as f64 * 3600.0,
        }
    }
}

/// A fabric at a time.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) layout: &'a Layout,
    pub(super) paces: Paces,
    /// Hours since all was whole.
    pub(super) now: f64,
    /// Of each disk that is lost: when another one takes its place.
    pub(super) disk_back: Vec<Option<f64>>,
    /// Of each node that is away.
    pub(super) node_back: Vec<Option<f64>>,
    /// Of each site that is away.
    pub(super) site_back: Vec<Option<f64>>,
    /// Of each site that is lost: when it is founded anew.
    pub(super) site_founded: Vec<Option<f64>>,
    /// Row by row: where each slot lies, or lay.
    pub(super) at: Vec<Vec<usize>>,
    /// Slots on each disk, those under way to it included.
    pub(super) load: Vec<usize>,
    /// Row by row: the slots that are nowhere.
    pub(super) lacking: Vec<SlotSet>,
    pub(super) rebuilds: BTreeMap<Place, Rebuild>,
    pub(super) rots: Vec<Rot>,
    /// When rows with nothing to spare are written anew.
    pub(super) rewritten_at: Option<f64>,
    /// Rows whose data was written anew, elsewhere: nothing of it is here any more.
    pub(super) elsewhere: Vec<bool>,
    /// Whether a site was lost for good since all was whole.
    pub(super) lost_site: bool,
}

impl<'a> World<'a> {
    /// All whole.
    pub(super) fn new(layout: &'a Layout, paces: Paces) -> Self {
        let mut load = vec![0; layout.disks];
        layout.rows.iter().flatten().for_each(|at| load[*at] += 1);
        Self {
            layout,
            paces,
            now: 0.0,
            disk_back: vec![None; layout.disks],
            node_back: vec![None; layout.nodes],
            site_back: vec![None; layout.sites],
            site_founded: vec![None; layout.sites],
            at: layout.rows.clone(),
            load,
            lacking: vec![SlotSet::EMPTY; layout.rows.len()],
            rebuilds: BTreeMap::new(),
            rots: Vec::new(),
            rewritten_at: None,
            elsewhere: vec![false; layout.rows.len()],
            lost_site: false,
        }
    }

    /// Whether all is as it was founded, so that the future is as it was then.
    pub(super) fn is_whole(&self) -> bool {
        self.rebuilds.is_empty()
            && self.rots.is_empty()
            && self.is_quiet()
            && self.disk_back.iter().all(Option::is_none)
    }

    /// Whether no node and no site is away or lost.
    fn is_quiet(&self) -> bool {
        let mut away = self.node_back.iter().chain(&self.site_back);
        away.all(Option::is_none) && self.site_founded.iter().all(Option::is_none)
    }

    /// Whether a site takes part.
    pub(super) fn has_site(&self, site: usize) -> bool {
        self.site_back[site].is_none() && self.site_founded[site].is_none()
    }

    /// Whether a disk serves.
    pub(super) fn serves(&self, disk: usize) -> bool {
        self.disk_back[disk].is_none()
            && self.node_back[self.layout.node_of(disk)].is_none()
            && self.has_site(self.layout.site_of(disk))
    }

    /// What can't be read of a row now: what lacks, and what is away.
    pub(super) fn unreadable(&self, row: usize) -> SlotSet {
        let slots = (0..).map(Slot).zip(&self.at[row]);
        let away = slots.filter(|(_, at)| !self.serves(**at));
        let away: SlotSet = away.map(|(slot, _)| slot).collect();
        away.union(self.lacking[row])
    }

    /// Rows that lack a slot, and still hold their data.
    pub(super) fn hurt(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = self.rebuilds.keys().map(|(row, _)| *row).collect();
        rows.dedup();
        rows
    }

    /// Whether data is lost for good.
    pub(super) fn loss(&self, judge: &mut Judge) -> Option<Cause> {
        // What was written anew lies on two sites at least, and bears the loss of one.
        let lost_sites = self.site_founded.iter().flatten().count();
        if lost_sites >= 3 && self.elsewhere.contains(&true) {
            return Some(Cause::Site);
        }
        let mut hurt = self.hurt().into_iter();
        if hurt.any(|row| !judge.bears(self.lacking[row])) {
            return Some(match self.lost_site {
                true => Cause::Site,
                false => Cause::Disks,
            });
        }
        let mut rots = self.rots.iter();
        let is_lost = rots.any(|rot| {
            // One segment's fragment: another one that rotted in that row is another segment's.
            let mut without = self.lacking[rot.place.0];
            without.insert(Slot(rot.place.1));
            !judge.bears(without)
        });
        is_lost.then_some(Cause::Rot)
    }

    /// Whether some data can't be read now: a row lacks too many of its slots, or a majority of
    /// sites is away, so that no journal and no placement group decides anything.
    pub(super) fn is_unavailable(&self, judge: &mut Judge) -> bool {
        if self.is_quiet() {
            return false;
        }
        let sites = (0..self.layout.sites).filter(|site| self.has_site(*site));
        if sites.count() * 2 <= self.layout.sites {
            return true;
        }
        let mut rows = (0..self.at.len()).filter(|row| !self.elsewhere[*row]);
        rows.any(|row| !judge.bears(self.unreadable(row)))
    }

    /// A disk is lost, until another one takes its place.
    pub(super) fn lose_disk(&mut self, disk: usize, back_at: f64) {
        self.disk_back[disk] = Some(back_at);
        for rebuild in self.rebuilds.values_mut() {
            if rebuild.to == Some(disk) {
                rebuild.to = None;
                rebuild.left_bytes = self.layout.slot_bytes;
                self.load[disk] -= 1;
            }
        }
        let ready_at = self.now + self.paces.heal_after;
        for row in 0..self.at.len() {
            for slot in 0..self.at[row].len() {
                let place = (row, u8::try_from(slot).expect("at most 64 slots"));
                if self.at[row][slot] == disk && !self.elsewhere[row] {
                    self.lose_slot(place, ready_at);
                }
            }
        }
    }

    fn lose_slot(&mut self, place: Place, ready_at: f64) {
        let slot = Slot(place.1);
        if self.lacking[place.0].contains(slot) {
            return;
        }
        self.lacking[place.0].insert(slot);
        self.load[self.at[place.0][usize::from(place.1)]] -= 1;
        self.rots.retain(|rot| rot.place != place);
        let rebuild = Rebuild {
            ready_at,
            left_bytes: self.layout.slot_bytes,
            to: None,
        };
        self.rebuilds.insert(place, rebuild);
    }

    pub(super) fn lose_node(&mut self, node: usize) {
        let back_at = self.now + self.paces.replace;
        for disk in self.layout.disks_of_node(node) {
            if self.disk_back[disk].is_none() {
                self.lose_disk(disk, back_at);
            }
        }
    }

    pub(super) fn lose_site(&mut self, site: usize) {
        let back_at = self.now + self.paces.replace_site;
        self.lost_site = true;
        self.site_back[site] = None;
        self.site_founded[site] = Some(back_at);
        for disk in self.layout.disks_of_site(site) {
            self.lose_disk(disk, back_at);
        }
        self.begin_rewriting();
    }

    /// R26: rows of a flat code of which the site that is away held all that may be lost are
    /// written anew, if there are two other sites; a `geo` code's never are.
    pub(super) fn begin_rewriting(&mut self) {
        let away = (0..self.layout.sites).filter(|site| !self.has_site(*site));
        let away: Vec<usize> = away.collect();
        self.rewritten_at = match away[..] {
            [site] if self.layout.sites >= 3 => {
                let rows = self.rows_at_risk(site).count() as f64;
                let data = f64::from(self.layout.codec.code().data_fragments());
                let bytes = rows * data * self.layout.slot_bytes;
                (rows > 0.0).then(|| self.now + bytes / self.paces.rewrite)
            }
            _ => None,
        };
    }

    fn rows_at_risk(&self, site: usize) -> impl Iterator<Item = usize> {
        let spare = match self.layout.codec.code() {
            Code::Rs { m, .. } => usize::from(m),
            Code::Geo { .. } => usize::MAX,
        };
        let rows = (0..self.at.len()).filter(|row| !self.elsewhere[*row]);
        rows.filter(move |row| self.layout.held(*row, site) >= spare)
    }

    /// The data of the rows at risk is elsewhere now.
    pub(super) fn end_rewriting(&mut self) {
        self.rewritten_at = None;
        let Some(site) = (0..self.layout.sites).find(|site| !self.has_site(*site)) else {
            return;
        };
        let rows: Vec<usize> = self.rows_at_risk(site).collect();
        for row in rows {
            self.elsewhere[row] = true;
            self.lacking[row] = SlotSet::EMPTY;
            self.rots.retain(|rot| rot.place.0 != row);
            self.rebuilds.retain(|place, _| place.0 != row);
        }
    }
}
