//! Which slots a site group's leader has moved, and which moves are over (R20). Slots leave a
//! disk that is lost: gone by somebody's word, in another life, or found dead for longer than a
//! restart takes; and a disk that the operator has emptied, which serves meanwhile. Slots of one row that share a node or a disk part once there is another one.
//! If nothing of that is to be done, slots are spread by weight (`rebalance`).
//!
//! A new segment needs a row all of whose disks serve. If a node's death leaves hardly any in a
//! pool, the first rows do not wait: else nothing would drain, and writes would stop, for as
//! long as a restart may take. All sites begin with the same rows, so that those are whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::geometry::Pool;
use model::ids::{DiskRef, Row, Slot};
use model::placement::Presence;
use model::planted::{Bug, planted};
use model::spread::SlotMove;
use model::time::Time;

use crate::detector::Detector;
use crate::loads::Loads;
use crate::rendezvous::{Candidate, RowUse};
use crate::site::{MOVES_PER_COMMAND_MAX, MoveBegin, PoolSlots, SiteCommand, SiteState, SlotAt};

mod rebalance;

/// Slots that are being moved to one disk at a time.
const MOVES_PER_DISK_MAX: usize = 16;

/// Rows that a site keeps fit for new segments, whoever is away: one of so many, and at least
/// so many.
const FIT_SHARE: usize = 16;
const FIT_MIN: usize = 2;

/// What is to be proposed about moves now. While a site of the fabric is away (`all_sites` is
/// false) nothing is moved only to spread it better: what is left is needed for what matters.
pub(crate) fn decide(
    now: Time,
    state: &SiteState,
    detector: &Detector,
    heal_after: Duration,
    all_sites: bool,
) -> Vec<SiteCommand> {
    let mut out = Vec::new();
    let ended = ended(now, state, detector);
    if !ended.is_empty() {
        out.push(SiteCommand::EndMoves(ended));
    }
    // Where all slots lie well none is lost, and none urgent: they may be parted, no more.
    let is_well = rebalance::is_well(state);
    let begun = match is_well {
        true => Planner::new(state, BTreeSet::new(), BTreeSet::new()).part_all(),
        false => {
            let lost = lost(now, state, detector, heal_after);
            Planner::new(state, lost, urgent_rows(state)).plan()
        }
    };
    if !begun.is_empty() {
        out.push(SiteCommand::BeginMoves(begun));
    } else if all_sites && is_well && !planted(Bug::NeverSpread) {
        let has_room = |c: &Candidate| {
            let room = detector.room(now, c.node, c.at);
            room.is_some_and(|(has_room, _)| has_room)
        };
        let moves = rebalance::plan(state, has_room);
        if !moves.is_empty() {
            out.push(SiteCommand::Rebalance(moves));
        }
    }
    out
}

/// The moves under way whose new disk's node says that all is there.
fn ended(now: Time, state: &SiteState, detector: &Detector) -> Vec<SlotMove> {
    let beats = state
        .nodes
        .keys()
        .filter_map(|n| Some((n, detector.beat(now, *n)?)));
    let is_over = |node: &model::ids::NodeId, end: &SlotMove| {
        let is_its_own = state
            .disks
            .get(&end.to.disk)
            .is_some_and(|d| d.node == *node);
        let slot = state.slot(end.pool, end.row, end.slot);
        is_its_own && slot.is_some_and(|at| at.to == Some(end.to) && at.version == end.version)
    };
    let ended = beats.flat_map(|(n, beat)| beat.healed.iter().filter(move |m| is_over(n, m)));
    ended.copied().take(MOVES_PER_COMMAND_MAX).collect()
}

/// The disks, in the lives that slots may name, that are not waited for.
fn lost(
    now: Time,
    state: &SiteState,
    detector: &Detector,
    heal_after: Duration,
) -> BTreeSet<DiskRef> {
    let slots = state.slots.values().flatten().flat_map(BTreeMap::values);
    let mut named: Vec<DiskRef> = slots
        .flat_map(|at| [Some(at.disk), at.to])
        .flatten()
        .collect();
    named.sort_unstable();
    named.dedup();
    let is_lost = |at: &DiskRef| {
        let Some(disk) = state.disks.get(&at.disk).filter(|d| d.at == *at) else {
            return true;
        };
        let node = state
            .nodes
            .get(&disk.node)
            .map_or(Presence::Gone, |n| n.presence);
        let presences = [disk.presence, node];
        if presences.contains(&Presence::Gone) {
            return true;
        }
        let silent = detector.disk_silence(now, disk.node, *at);
        // A disk that fails under a node that runs is lost as any other.
        let stopped = node == Presence::Down && !planted(Bug::HealedInMaintenance);
        let patience = match stopped {
            true => disk.duty.patience(),
            false => Duration::ZERO,
        };
        presences.contains(&Presence::Down) && silent.is_some_and(|s| s >= heal_after + patience)
    };
    named.into_iter().filter(is_lost).collect()
}

/// The rows of a pool that do not wait.
fn urgent(state: &SiteState, table: &[BTreeMap<Slot, SlotAt>]) -> BTreeSet<usize> {
    let fits = |row: &BTreeMap<Slot, SlotAt>| row.values().all(|at| state.has(at.target()));
    let need = (table.len() / FIT_SHARE).max(FIT_MIN);
    let missing = need.saturating_sub(table.iter().filter(|row| fits(row)).count());
    let unfit = table.iter().enumerate().filter(|(_, row)| !fits(row));
    unfit.map(|(number, _)| number).take(missing).collect()
}

/// The rows of all pools that do not wait.
fn urgent_rows(state: &SiteState) -> BTreeSet<(Pool, Row)> {
    let of_pool = |(pool, table): (&Pool, &PoolSlots)| {
        let rows = urgent(state, table).into_iter();
        let rows = rows.filter_map(|number| Some(Row(u16::try_from(number).ok()?)));
        rows.map(|row| (*pool, row)).collect::<Vec<_>>()
    };
    state.slots.iter().flat_map(of_pool).collect()
}

struct Planner<'a> {
    state: &'a SiteState,
    lost: BTreeSet<DiskRef>,
    /// Rows whose slots leave every disk that does not serve.
    urgent: BTreeSet<(Pool, Row)>,
    candidates: Vec<Candidate>,
    /// Slots under way to each disk.
    coming: BTreeMap<DiskRef, usize>,
    /// How full the disks are of each pool of which something is to be placed.
    loads: BTreeMap<Pool, Loads>,
}

impl<'a> Planner<'a> {
    fn new(state: &'a SiteState, lost: BTreeSet<DiskRef>, urgent: BTreeSet<(Pool, Row)>) -> Self {
        let mut coming = BTreeMap::new();
        for at in state.slots.values().flatten().flat_map(BTreeMap::values) {
            if let Some(to) = at.to {
                *coming.entry(to).or_default() += 1;
            }
        }
        Self {
            state,
            lost,
            urgent,
            candidates: state.candidates(),
            coming,
            loads: BTreeMap::new(),
        }
    }

    /// Counts how full the disks are of a pool, before something of it is placed.
    fn weigh(&mut self, pool: Pool) {
        if !self.loads.contains_key(&pool) {
            let loads = self.loads_of(pool);
            self.loads.insert(pool, loads);
        }
    }

    /// What stays counts where it lies, and what is to go is yet to be placed.
    fn loads_of(&self, pool: Pool) -> Loads {
        let mut stays = Vec::new();
        let mut unplaced = 0;
        for (number, slots) in (0..).zip(&self.state.slots[&pool]) {
            for at in slots.values() {
                match self.is_to_go(pool, Row(number), at) {
                    true => unplaced += 1,
                    false => stays.push(at.target()),
                }
            }
        }
        Loads::new(&self.candidates, stays.into_iter(), unplaced)
    }

    /// Whether a row's slots are to leave a disk that does not serve.
    fn leaves(&self, pool: Pool, row: Row, at: DiskRef) -> bool {
        let is_urgent = self.urgent.contains(&(pool, row)) && !self.state.has(at);
        is_urgent || self.lost.contains(&at)
    }

    /// Whether a slot is to leave its disk: one that does not serve, or one that is to be
    /// emptied. A move to one of these is first brought to its end: what was written since it
    /// began is there alone.
    fn is_to_go(&self, pool: Pool, row: Row, at: &SlotAt) -> bool {
        let drains = at.to.is_none() && self.state.drains(at.disk);
        drains || self.leaves(pool, row, at.target())
    }

    fn plan(&mut self) -> Vec<MoveBegin> {
        if self.candidates.is_empty() {
            return Vec::new();
        }
        let state = self.state;
        let mut rows: Vec<((usize, usize), Pool, Row)> = Vec::new();
        for (pool, table) in &state.slots {
            for (number, slots) in (0..).zip(table) {
                let row = Row(number);
                let lost = slots
                    .values()
                    .filter(|at| self.leaves(*pool, row, at.target()));
                let to_go = slots.values().filter(|at| self.is_to_go(*pool, row, at));
                rows.push(((lost.count(), to_go.count()), *pool, row));
            }
        }
        // What has lost most comes first.
        rows.sort_by_key(|(weak, pool, row)| (std::cmp::Reverse(*weak), *pool, *row));
        let mut moves = Vec::new();
        for ((_, to_go), pool, row) in rows {
            let slots = &state.slots[&pool][usize::from(row.0)];
            if moves.len() >= MOVES_PER_COMMAND_MAX {
                break;
            }
            if to_go > 0 {
                self.rescue(pool, row, slots, &mut moves);
            } else if slots.values().all(|at| at.to.is_none()) {
                moves.extend(self.part(pool, row, slots));
            }
        }
        moves.truncate(MOVES_PER_COMMAND_MAX);
        moves
    }

    /// What is to be moved if every slot lies well.
    fn part_all(&mut self) -> Vec<MoveBegin> {
        if self.candidates.is_empty() {
            return Vec::new();
        }
        let state = self.state;
        let mut moves = Vec::new();
        for (pool, table) in &state.slots {
            for (number, slots) in (0..).zip(table) {
                if moves.len() >= MOVES_PER_COMMAND_MAX {
                    return moves;
                }
                if slots.values().all(|at| at.to.is_none()) {
                    moves.extend(self.part(*pool, Row(number), slots));
                }
            }
        }
        moves
    }

    fn used(
        &self,
        (pool, row): (Pool, Row),
        slots: &BTreeMap<Slot, SlotAt>,
        without: Option<Slot>,
    ) -> RowUse {
        let mut used = RowUse::default();
        for (slot, at) in slots {
            let target = at.target();
            if Some(*slot) == without || self.is_to_go(pool, row, at) {
                continue;
            }
            if let Some(disk) = self.state.disks.get(&target.disk) {
                used.add(target, disk.node);
            }
        }
        used
    }

    /// Slots whose disk is lost, or to be emptied, get another one.
    fn rescue(
        &mut self,
        pool: Pool,
        row: Row,
        slots: &BTreeMap<Slot, SlotAt>,
        moves: &mut Vec<MoveBegin>,
    ) {
        self.weigh(pool);
        let mut used = self.used((pool, row), slots, None);
        for (slot, at) in slots {
            if !self.is_to_go(pool, row, at) {
                continue;
            }
            // Where it lay before is the best place, if that is back.
            let before = self.candidates.iter().find(|c| c.at == at.disk);
            let chosen = before.copied();
            let place = (pool, row, *slot);
            let loads = self.loads.get_mut(&pool).expect("it was weighed");
            let chosen = chosen.or_else(|| used.choose(place, &self.candidates, loads));
            let chosen = chosen.expect("there are candidates");
            used.add(chosen.at, chosen.node);
            loads.add(chosen.at);
            moves.extend(self.begin((pool, row, *slot), at, chosen.at));
        }
    }

    /// Whether each slot of a row lies, or will, on a node of its own.
    fn is_apart(&self, slots: &BTreeMap<Slot, SlotAt>) -> bool {
        let node = |at: &SlotAt| self.state.disks.get(&at.target().disk).map(|d| d.node);
        let mut rest = slots.values();
        while let Some(at) = rest.next() {
            let mine = node(at);
            if mine.is_none() || rest.clone().any(|other| node(other) == mine) {
                return false;
            }
        }
        true
    }

    /// One slot that shares its disk or node with another one of the row, if it need not.
    fn part(&mut self, pool: Pool, row: Row, slots: &BTreeMap<Slot, SlotAt>) -> Option<MoveBegin> {
        if self.is_apart(slots) {
            return None;
        }
        self.weigh(pool);
        for (slot, at) in slots {
            let node = self.state.disks.get(&at.disk.disk)?.node;
            let used = self.used((pool, row), slots, Some(*slot));
            let now = used.of(at.disk, node);
            if now == (0, 0) {
                continue;
            }
            let loads = self.loads.get_mut(&pool).expect("it was weighed");
            let chosen = used.choose((pool, row, *slot), &self.candidates, loads)?;
            if used.of(chosen.at, chosen.node) < now {
                loads.take(at.disk);
                loads.add(chosen.at);
                return self.begin((pool, row, *slot), at, chosen.at);
            }
        }
        None
    }

    /// Begins a move, unless as many are under way to that disk as may be.
    fn begin(
        &mut self,
        (pool, row, slot): (Pool, Row, Slot),
        at: &SlotAt,
        to: DiskRef,
    ) -> Option<MoveBegin> {
        let coming = self.coming.entry(to).or_default();
        if *coming >= MOVES_PER_DISK_MAX {
            return None;
        }
        *coming += 1;
        let version = at.version;
        Some(MoveBegin {
            pool,
            row,
            slot,
            version,
            to,
        })
    }
}

#[cfg(test)]
mod tests;
