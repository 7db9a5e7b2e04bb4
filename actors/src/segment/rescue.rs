//! Reading what the direct path did not bring: a row at a time (block `r` of all fragments,
//! one code word), from the cheapest fragments that determine it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coding::{Codec, Recipe, SlotSet};
use model::BLOCK_BYTES;
use model::ids::{SiteId, Slot};
use model::sometimes::{Sometimes, reached};

use super::core::{Core, OnDisk, Place};
use super::read::{Asker, BLOCK, Get, Job, push_range};

/// So many blocks at hand may be silently wrong at once: combinations leave out no more.
const LIARS_MAX: usize = 3;

/// Combinations looked at in one search, tried or not, for each that may be tried.
const LOOKS_PER_TRY: usize = 4;

/// A row of which blocks are looked for.
#[derive(Debug)]
pub(super) struct Row {
    /// Data slots whose blocks are asked for and not there yet.
    wanted: SlotSet,
    /// Slots whose block is at hand.
    good: SlotSet,
    /// Of them, those that have the index's checksum.
    verified: SlotSet,
    /// Slots with an open request for this row.
    pub(super) asked: SlotSet,
    /// Slots whose disk has a damaged or wrong block here.
    pub(super) bad: SlotSet,
    blocks: BTreeMap<Slot, Bytes>,
    /// A block was rebuilt to something wrong: some source lies. From then on all sources are
    /// read, and combinations of them tried.
    suspicious: bool,
    /// The combinations that were tried in vain.
    tried: BTreeSet<(Slot, SlotSet)>,
    /// What was at hand when all its combinations had been tried.
    searched: SlotSet,
}

/// The slots of a segment by what may be hoped of their disks.
struct Sources {
    /// Answers are to be expected soon.
    prompt: SlotSet,
    /// Late or busy; still awaited.
    slow: SlotSet,
    /// Of the slow ones, those that were asked more than once.
    stuck: SlotSet,
    /// Down by a committed decision: the last resort.
    down: SlotSet,
    /// Gone for good, or without the fragment.
    lost: SlotSet,
    places: BTreeMap<Slot, OnDisk>,
    site: Option<SiteId>,
}

/// What is next for a row.
#[derive(Clone, Copy)]
enum Step {
    /// These sources are at hand and suffice.
    Rebuild(SlotSet),
    /// Ask for these (or, if none, wait for what is under way).
    Ask(SlotSet),
    /// Some source lies: try combinations of what is at hand.
    Search,
    /// Nothing can bring it any more.
    Hopeless,
}

/// Costs of a source. One over the WAN costs more than all local ones together, a late one
/// more than all prompt ones, one that is down more than all others.
const UNDER_WAY: u32 = 1;
const LOCAL: u32 = 2;
const WAN: u32 = 1 << 8;
const SLOW: u32 = 1 << 15;
const DOWN: u32 = 1 << 22;

impl Sources {
    fn cost(&self, row: &Row, slot: Slot) -> u32 {
        if row.good.contains(slot) {
            return 0;
        }
        let near = self.places.get(&slot).map(|on| on.site) == self.site;
        let base = match (row.asked.contains(slot), near) {
            (true, _) => UNDER_WAY,
            (false, true) => LOCAL,
            (false, false) => WAN,
        };
        let slow = if self.slow.contains(slot) { SLOW } else { 0 };
        let down = if self.down.contains(slot) { DOWN } else { 0 };
        base + slow + down
    }
}

/// What rows of one pass share: neighbours mostly need the same.
#[derive(Default)]
struct Kitchen {
    step: Option<([SlotSet; 4], Step)>,
    recipe: Option<(SlotSet, SlotSet, Recipe)>,
    rebuilt: Vec<u8>,
}

impl Kitchen {
    /// The wanted blocks, one after the other, from blocks at hand that suffice.
    fn cook(&mut self, codec: &Codec, row: &Row, wanted: SlotSet, reads: SlotSet) -> &[u8] {
        reached(Sometimes::DegradedRead);
        let ready = matches!(&self.recipe, Some((w, r, _)) if (*w, *r) == (wanted, reads));
        if !ready {
            let slots: Vec<Slot> = wanted.iter().collect();
            let recipe = codec
                .recipe(&slots, reads)
                .expect("a plan's sources suffice");
            self.recipe = Some((wanted, reads, recipe));
        }
        let (_, _, recipe) = self.recipe.as_ref().expect("it is ready");
        let sources: Vec<&[u8]> = recipe
            .sources()
            .iter()
            .map(|slot| &row.blocks[slot][..])
            .collect();
        self.rebuilt.resize(wanted.len() * BLOCK_BYTES, 0);
        let mut outputs: Vec<&mut [u8]> = self.rebuilt.chunks_exact_mut(BLOCK_BYTES).collect();
        recipe.apply(&sources, &mut outputs);
        &self.rebuilt
    }
}

impl Job {
    /// A block that the direct path does not bring (soon) is looked for elsewhere, if it is
    /// asked for and not there.
    pub(super) fn want(&mut self, slot: Slot, row: u32) {
        let at = self
            .position(slot, row)
            .and_then(|position| self.runs.find(position));
        if at.is_some_and(|at| !self.runs.has(at)) {
            self.open(row).wanted.insert(slot);
        }
        if self.rows.contains_key(&row) {
            self.stirred.insert(row);
        }
    }

    /// The row, with what is known of it.
    fn open(&mut self, number: u32) -> &mut Row {
        if !self.rows.contains_key(&number) {
            let mut row = Row {
                wanted: SlotSet::EMPTY,
                good: SlotSet::EMPTY,
                verified: SlotSet::EMPTY,
                asked: SlotSet::EMPTY,
                bad: SlotSet::EMPTY,
                blocks: BTreeMap::new(),
                suspicious: false,
                tried: BTreeSet::new(),
                searched: SlotSet::EMPTY,
            };
            for slot in self.codec.all().iter() {
                let at = self.position(slot, number).and_then(|p| self.runs.find(p));
                if let Some(block) = at.and_then(|at| self.runs.get(at)) {
                    row.good.insert(slot);
                    row.verified.insert(slot);
                    row.blocks.insert(slot, block);
                }
            }
            let asked = self.gets.values().filter(|get| get.covers(number));
            row.asked = asked.map(|get| get.slot).collect();
            self.rows.insert(number, row);
        }
        self.rows.get_mut(&number).expect("it is open")
    }

    /// A disk has no good block here, for certain.
    pub(super) fn bad(&mut self, asker: &mut Asker<'_, '_>, get: &Get, number: u32) {
        asker.counters().wrong_blocks += 1;
        self.verdicts.insert(get.slot, get.at);
        self.want(get.slot, number);
        if self.rows.contains_key(&number) {
            self.open(number).bad.insert(get.slot);
        }
    }

    /// Takes one block that a disk sent.
    pub(super) fn take_block(
        &mut self,
        asker: &mut Asker<'_, '_>,
        get: &Get,
        number: u32,
        block: Bytes,
    ) {
        let slot = get.slot;
        let asked_for = self.position(slot, number).and_then(|p| self.runs.find(p));
        if let Some(at) = asked_for {
            if !self.runs.verify(at, &block) {
                return self.bad(asker, get, number);
            }
            self.runs.put(at, &block);
        }
        let Some(row) = self.rows.get_mut(&number) else {
            return;
        };
        row.good.insert(slot);
        row.blocks.insert(slot, block);
        if asked_for.is_some() {
            row.verified.insert(slot);
            row.wanted.remove(slot);
        }
        self.stirred.insert(number);
    }

    /// Lets every row that something happened to go on: rebuilds what can be rebuilt, asks
    /// for what lacks. `false` if a wanted block can't be had any more.
    pub(super) fn rescue(&mut self, asker: &mut Asker<'_, '_>) -> bool {
        if self.stirred.is_empty() {
            return true;
        }
        let sources = self.sources(asker.core());
        let mut asks: BTreeMap<Slot, Vec<(u32, u32)>> = BTreeMap::new();
        let mut kitchen = Kitchen::default();
        while let Some(number) = self.stirred.pop_first() {
            while let Some(row) = self.rows.get(&number) {
                if row.wanted.is_empty() {
                    self.rows.remove(&number);
                    break;
                }
                match self.next_step(row, &sources, &mut kitchen) {
                    Step::Hopeless => return false,
                    Step::Rebuild(reads) => self.rebuild(asker, number, reads, &mut kitchen),
                    Step::Search => self.search(asker, number),
                    Step::Ask(slots) => {
                        for slot in slots.iter() {
                            let fine = self.fine.contains(slot);
                            push_range(asks.entry(slot).or_default(), number * BLOCK, BLOCK, fine);
                        }
                        break;
                    }
                }
            }
        }
        for (slot, ranges) in asks {
            self.ask(asker, slot, sources.places[&slot], ranges);
        }
        true
    }

    fn sources(&self, core: &Core) -> Sources {
        let late: SlotSet = self
            .gets
            .values()
            .filter(|g| g.slow)
            .map(|g| g.slot)
            .collect();
        let mut sources = Sources {
            prompt: SlotSet::EMPTY,
            slow: SlotSet::EMPTY,
            stuck: SlotSet::EMPTY,
            down: SlotSet::EMPTY,
            lost: self.absent,
            places: BTreeMap::new(),
            site: core.site(),
        };
        for slot in self.codec.all().without(self.absent).iter() {
            let on = match self.place(core, slot) {
                Place::Disk(on) => on,
                Place::Lost => {
                    sources.lost.insert(slot);
                    continue;
                }
                Place::Unassigned => continue,
            };
            sources.places.insert(slot, on);
            let class = match (on.up, late.contains(slot)) {
                (false, _) => &mut sources.down,
                (true, true) => &mut sources.slow,
                (true, false) => &mut sources.prompt,
            };
            class.insert(slot);
        }
        let stuck = self
            .gets
            .values()
            .filter(|get| get.slow && get.tries.in_vain());
        sources.stuck = stuck.map(|get| get.slot).collect();
        sources
    }

    fn next_step(&self, row: &Row, sources: &Sources, kitchen: &mut Kitchen) -> Step {
        if row.suspicious {
            return self.next_step_of_suspicious(row, sources);
        }
        let key = [row.wanted, row.good, row.asked, row.bad];
        if let Some((_, step)) = kitchen.step.filter(|(known, _)| *known == key) {
            return step;
        }
        let step = self.plan(row, sources);
        kitchen.step = Some((key, step));
        step
    }

    fn plan(&self, row: &Row, sources: &Sources) -> Step {
        let bad = row.bad.union(sources.lost);
        let reachable = sources.prompt.union(sources.slow);
        let all = reachable.union(sources.down);
        // A wanted slot counts as its own source: hence the better classes alone first.
        for class in [sources.prompt, reachable, all] {
            let available = class.without(bad).union(row.good);
            let cost = |slot| sources.cost(row, slot);
            if let Some(reads) = self.codec.cheapest(row.wanted, available, cost) {
                let lacking = reads.without(row.good);
                if !lacking.intersection(sources.stuck).is_empty() {
                    break;
                }
                return match lacking.is_empty() {
                    true => Step::Rebuild(reads),
                    false => Step::Ask(lacking.without(row.asked)),
                };
            }
        }
        // Nothing does, or only with one that may never answer.
        self.ask_all(row, sources)
    }

    fn next_step_of_suspicious(&self, row: &Row, sources: &Sources) -> Step {
        if row.searched != row.good && row.tried.len() < self.combinations_max {
            return Step::Search;
        }
        self.ask_all(row, sources)
    }

    /// What is at hand does not do: everything else, until every slot's disk gave a definite
    /// answer.
    fn ask_all(&self, row: &Row, sources: &Sources) -> Step {
        let settled = row.bad.union(sources.lost).union(row.good);
        if settled == self.codec.all() {
            return Step::Hopeless;
        }
        let all = sources.prompt.union(sources.slow).union(sources.down);
        Step::Ask(all.without(settled).without(row.asked))
    }

    /// Rebuilds all wanted blocks of a row from sources at hand.
    fn rebuild(
        &mut self,
        asker: &mut Asker<'_, '_>,
        number: u32,
        reads: SlotSet,
        kitchen: &mut Kitchen,
    ) {
        let row = &self.rows[&number];
        let wanted = row.wanted;
        let rebuilt = kitchen.cook(&self.codec, row, wanted, reads);
        for (slot, block) in wanted.iter().zip(rebuilt.chunks_exact(BLOCK_BYTES)) {
            if !self.take_rebuilt(number, slot, block) {
                asker.counters().wrong_blocks += 1;
                self.open(number).suspicious = true;
            }
        }
    }

    /// Takes a rebuilt block if it has the checksum that the index demands (R19).
    fn take_rebuilt(&mut self, number: u32, slot: Slot, block: &[u8]) -> bool {
        let position = self
            .position(slot, number)
            .expect("a wanted slot holds data");
        let at = self
            .runs
            .find(position)
            .expect("a wanted block is asked for");
        if !self.runs.verify(at, block) {
            return false;
        }
        self.runs.put(at, block);
        self.degraded = true;
        let row = self.rows.get_mut(&number).expect("it is open");
        row.wanted.remove(slot);
        if !row.wanted.is_empty() {
            row.good.insert(slot);
            row.verified.insert(slot);
            row.blocks.insert(slot, Bytes::copy_from_slice(block));
        }
        true
    }

    /// Tries combinations of a suspicious row's blocks, leaving out none, then any one, then
    /// any two and three, until a wanted block has its checksum.
    fn search(&mut self, asker: &mut Asker<'_, '_>, number: u32) {
        let mut kitchen = Kitchen::default();
        let mut row = self.rows.remove(&number).expect("it is open");
        let suspects: Vec<Slot> = row.good.without(row.verified).iter().collect();
        let left_out = (0..=suspects.len().min(LIARS_MAX)).flat_map(|n| subsets(&suspects, n));
        let looks = self.combinations_max.saturating_mul(LOOKS_PER_TRY);
        let mut found = None;
        'search: for out in left_out.take(looks) {
            for slot in row.wanted.iter() {
                let want = SlotSet::from_iter([slot]);
                let cost = |s| u32::from(!row.verified.contains(s));
                let reads = self.codec.cheapest(want, row.good.without(out), cost);
                let Some(reads) = reads.filter(|reads| row.tried.insert((slot, *reads))) else {
                    continue;
                };
                let rebuilt = kitchen.cook(&self.codec, &row, want, reads);
                let at = self.position(slot, number).and_then(|p| self.runs.find(p));
                if at.is_some_and(|at| self.runs.verify(at, rebuilt)) {
                    found = Some((slot, rebuilt.to_vec()));
                    break 'search;
                }
                asker.counters().wrong_blocks += 1;
                if row.tried.len() >= self.combinations_max {
                    break 'search;
                }
            }
        }
        if found.is_none() {
            row.searched = row.good;
        }
        self.rows.insert(number, row);
        if let Some((slot, block)) = found {
            assert!(
                self.take_rebuilt(number, slot, &block),
                "verified a moment ago"
            );
        }
    }
}

/// All subsets of a given size.
fn subsets(of: &[Slot], size: usize) -> impl Iterator<Item = SlotSet> {
    let end = 1_u128 << of.len();
    let mut next = Some((1_u128 << size) - 1).filter(|first| *first < end);
    std::iter::from_fn(move || {
        let now = next?;
        // The next larger number with as many bits.
        let lowest = now & now.wrapping_neg();
        next = (now != 0)
            .then(|| {
                let carried = now + lowest;
                (((carried ^ now) >> 2) / lowest) | carried
            })
            .filter(|following| *following < end);
        let chosen = of.iter().enumerate().filter(|(i, _)| now >> i & 1 == 1);
        Some(chosen.map(|(_, slot)| *slot).collect())
    })
}
