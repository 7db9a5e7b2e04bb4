//! One fragment on its way to its new disk: read from where it lay, or rebuilt from the cheapest
//! others, and stored.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use coding::{Codec, SlotSet};
use model::BLOCK_BYTES;
use model::ids::{FragmentKey, RequestId, SiteId, Slot};
use model::payload::Payload;
use model::store::block_sum;

use super::listing::{Missing, Out};
use super::parts::Parts;
use crate::messages::{DiskReply, HealerReply};
use crate::planted::{Bug, planted};

/// A fragment over the WAN costs more than all local ones together.
const LOCAL_COST: u32 = 1;
const WAN_COST: u32 = 1 << 10;
/// What tells one other site from the next is never as much as another fragment.
const RANK_MAX: u32 = 7;

/// A fragment that is being brought.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) missing: Missing,
    /// Slots whose disk has no good fragment after all.
    bad: SlotSet,
    /// Slots whose disk has one that is damaged somewhere.
    damaged: SlotSet,
    /// Slots whose disk did not answer, or did not want to.
    silent: SlotSet,
    got: BTreeMap<Slot, Bytes>,
    /// Whole fragments do not suffice: they are read, and rebuilt, block by block.
    by_block: bool,
    /// The good blocks of those that are damaged.
    partial: BTreeMap<Slot, Vec<Option<Bytes>>>,
    pub(super) fetches: BTreeMap<Slot, Out>,
    /// What other sites' Healers add up for it.
    pub(super) parts: Option<Parts>,
    /// From these fragments nothing is added up elsewhere.
    plain: SlotSet,
    /// A sum was not to be had: what it takes comes fragment by fragment.
    apart: bool,
    pub(super) put: Option<Put>,
}

/// The fragment, ready to be stored.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) fragment: Bytes,
    pub(super) sums: Vec<u32>,
    pub(super) out: Option<Out>,
}

/// What is next for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Read these slots' fragments, and have these sites' Healers add up theirs.
    Fetch(Vec<Slot>, Vec<SiteId>),
    /// All that is needed was asked for.
    Wait,
    /// It can be stored.
    Put,
    /// It can't be had now.
    Stuck,
}

impl Copy {
    pub(super) fn new(missing: Missing) -> Self {
        Self {
            missing,
            bad: SlotSet::EMPTY,
            damaged: SlotSet::EMPTY,
            silent: SlotSet::EMPTY,
            got: BTreeMap::new(),
            by_block: false,
            partial: BTreeMap::new(),
            fetches: BTreeMap::new(),
            parts: None,
            plain: SlotSet::EMPTY,
            apart: false,
            put: None,
        }
    }

    /// Plans, or plans anew after a source turned out to be none.
    pub(super) fn next(&mut self, codec: &Codec, slot: Slot, here: SiteId) -> Next {
        if self.put.is_some() {
            return Next::Put;
        }
        if self.by_block {
            return self.next_by_block(codec, slot);
        }
        let available = self.holders().without(self.damaged);
        let at_hand: SlotSet = self.got.keys().copied().collect();
        if let Some(parts) = &self.parts {
            let Some(fragment) = parts.rebuilt(&self.got) else {
                return self.ask(parts.whole().without(at_hand));
            };
            self.ready(slot, fragment);
            return Next::Put;
        }
        let ranks = match self.apart {
            true => BTreeMap::new(),
            false => self.ranks(available),
        };
        let cost = |s: Slot| match self.missing.holders[&s].1.site {
            _ if at_hand.contains(s) => 0,
            site if site == here => LOCAL_COST,
            site => WAN_COST + ranks.get(&site).copied().unwrap_or(0),
        };
        let want = SlotSet::from_iter([slot]);
        let Some(reads) = codec.cheapest(want, available, cost) else {
            if self.damaged.is_empty() {
                return Next::Stuck;
            }
            self.by_block = true;
            return self.next_by_block(codec, slot);
        };
        if !self.apart && self.plain != reads {
            self.parts = Parts::of(codec, (slot, here), reads, &self.missing);
            self.plain = match &self.parts {
                Some(_) => SlotSet::EMPTY,
                None => reads,
            };
        }
        let whole = self.parts.as_ref().map_or(reads, Parts::whole);
        let lacking = whole.without(at_hand);
        if lacking.is_empty() && self.parts.is_none() {
            self.rebuild(codec, slot, reads);
            return Next::Put;
        }
        self.ask(lacking)
    }

    /// Asks for what was not asked for yet.
    fn ask(&self, lacking: SlotSet) -> Next {
        let asked = self.fetches.keys().copied().collect();
        let slots: Vec<Slot> = lacking.without(asked).iter().collect();
        let parts = self.parts.iter().flat_map(|parts| &parts.sites);
        let sites = parts.filter(|(_, part)| part.out.is_none());
        let sites: Vec<SiteId> = sites.map(|(site, _)| *site).collect();
        if slots.is_empty() && sites.is_empty() {
            Next::Wait
        } else {
            Next::Fetch(slots, sites)
        }
    }

    /// Sites with more fragments come first: what one of them adds up crosses as one.
    fn ranks(&self, available: SlotSet) -> BTreeMap<SiteId, u32> {
        let mut held: BTreeMap<SiteId, usize> = BTreeMap::new();
        for (slot, (_, source)) in &self.missing.holders {
            *held.entry(source.site).or_default() += usize::from(available.contains(*slot));
        }
        let mut order: Vec<(Reverse<usize>, SiteId)> = held
            .into_iter()
            .map(|(site, n)| (Reverse(n), site))
            .collect();
        order.sort_unstable();
        let ranked = (0..).zip(order);
        ranked
            .map(|(rank, (_, site))| (site, rank.min(RANK_MAX)))
            .collect()
    }

    /// A sum is not to be had: fragment by fragment, then.
    pub(super) fn part_ways(&mut self) {
        self.parts = None;
        self.apart = true;
    }

    /// The question that is out for a site's sum, if it is that one.
    pub(super) fn awaited_sum(&self, site: SiteId, id: RequestId) -> Option<Out> {
        self.parts.as_ref()?.awaited(site, id)
    }

    /// A site's Healer answered what was awaited; how many bytes came.
    pub(super) fn summed(&mut self, site: SiteId, reply: &HealerReply, sum: &Bytes) -> Option<u32> {
        let bytes = self.missing.meta.fragment_bytes;
        let parts = self.parts.as_mut()?;
        match reply {
            HealerReply::Sum { .. } if sum.len() == bytes as usize => {
                parts.came(site, sum);
                Some(bytes)
            }
            _ => {
                self.part_ways();
                None
            }
        }
    }

    /// Slots that may have something good.
    fn holders(&self) -> SlotSet {
        let holders: SlotSet = self.missing.holders.keys().copied().collect();
        holders.without(self.bad).without(self.silent)
    }

    /// All that there is is read; each block is rebuilt from those that have it.
    fn next_by_block(&mut self, codec: &Codec, slot: Slot) -> Next {
        let at_hand = self.got.keys().chain(self.partial.keys()).copied();
        let lacking = self.holders().without(at_hand.collect());
        let asked = self.fetches.keys().copied().collect();
        let ask: Vec<Slot> = lacking.without(asked).iter().collect();
        if !ask.is_empty() {
            return Next::Fetch(ask, Vec::new());
        }
        if !self.fetches.is_empty() {
            return Next::Wait;
        }
        match self.rebuild_by_block(codec, slot) {
            Some(fragment) => {
                self.ready(slot, fragment);
                Next::Put
            }
            None => Next::Stuck,
        }
    }

    fn rebuild_by_block(&self, codec: &Codec, slot: Slot) -> Option<Bytes> {
        let mut fragment = Vec::with_capacity(self.missing.meta.fragment_bytes as usize);
        for block in 0..self.blocks() {
            let at = block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES;
            let whole = self.got.iter();
            let whole = whole.map(|(s, bytes)| (*s, bytes.slice(at.clone())));
            let partial = self.partial.iter();
            let partial = partial.filter_map(|(s, blocks)| Some((*s, blocks[block].clone()?)));
            let mut have: Vec<(Slot, Bytes)> = whole.chain(partial).collect();
            let available = have.iter().map(|(s, _)| *s).collect();
            let want = SlotSet::from_iter([slot]);
            let reads = codec.cheapest(want, available, |_| LOCAL_COST)?;
            have.retain(|(s, _)| reads.contains(*s));
            let rebuilt = codec.reconstruct(&[slot], &have);
            let rebuilt = rebuilt.expect("a plan's sources suffice");
            fragment.extend_from_slice(&rebuilt[0]);
        }
        Some(Bytes::from(fragment))
    }

    fn blocks(&self) -> usize {
        self.missing.meta.fragment_bytes as usize / BLOCK_BYTES
    }

    /// What is asked of a source.
    pub(super) fn ranges(&self) -> Vec<(u32, u32)> {
        let bytes = self.missing.meta.fragment_bytes;
        if !self.by_block {
            return vec![(0, bytes)];
        }
        let block = u32::try_from(BLOCK_BYTES).expect("small");
        (0..bytes / block).map(|b| (b * block, block)).collect()
    }

    fn rebuild(&mut self, codec: &Codec, slot: Slot, reads: SlotSet) {
        let have = self.got.iter().filter(|(s, _)| reads.contains(**s));
        let have: Vec<(Slot, Bytes)> = have.map(|(s, bytes)| (*s, bytes.clone())).collect();
        let rebuilt = codec.reconstruct(&[slot], &have);
        let mut fragment = rebuilt.expect("a plan's sources suffice").remove(0);
        if planted(Bug::WrongSlot) {
            fragment = have[0].1.clone();
        }
        self.ready(slot, fragment);
    }

    fn ready(&mut self, slot: Slot, fragment: Bytes) {
        let key = FragmentKey {
            segment: self.missing.segment,
            slot,
        };
        let blocks = fragment.chunks_exact(BLOCK_BYTES);
        let sums = (0..).zip(blocks);
        let sums = sums
            .map(|(block, bytes)| block_sum(key, block, bytes))
            .collect();
        self.got.clear();
        self.partial.clear();
        self.parts = None;
        self.put = Some(Put {
            fragment,
            sums,
            out: None,
        });
    }

    /// All questions that are out for it.
    pub(super) fn questions(&self) -> impl Iterator<Item = Out> + '_ {
        let put = self.put.as_ref().and_then(|put| put.out);
        let parts = self.parts.iter().flat_map(|parts| parts.sites.values());
        let sums = parts.filter(|part| part.is_awaited());
        let sums = sums.filter_map(|part| part.out);
        self.fetches.values().copied().chain(sums).chain(put)
    }

    /// The slot that a question was about.
    pub(super) fn slot_of(&self, id: RequestId) -> Option<Slot> {
        let mut fetches = self.fetches.iter();
        fetches.find(|(_, out)| out.id == id).map(|(slot, _)| *slot)
    }

    /// A source answered; how many bytes came.
    pub(super) fn fetched(
        &mut self,
        slot: Slot,
        reply: &DiskReply,
        payload: &Bytes,
    ) -> Option<u32> {
        let DiskReply::Data { meta, good, .. } = reply else {
            // It was listed a moment ago: it is being deleted, or it was moved on.
            self.bad.insert(slot);
            self.parts = None;
            return None;
        };
        let length = self.missing.meta.fragment_bytes as usize;
        let is_same = *meta == self.missing.meta;
        if is_same && good[..] == [true] && payload.len() == length {
            self.got.insert(slot, payload.clone());
            return Some(meta.fragment_bytes);
        }
        if is_same && good[..] == [false] && (!self.by_block || self.blocks() > 1) {
            self.damaged.insert(slot);
            self.parts = None;
            return None;
        }
        let read = good.iter().filter(|good| **good).count() * BLOCK_BYTES;
        if is_same && good.len() == self.blocks() && payload.len() == read {
            let left = payload.chunks(BLOCK_BYTES).map(|b| payload.slice_ref(b));
            let mut left = left.peekable();
            let blocks = good.iter().map(|good| left.next_if(|_| *good));
            self.partial.insert(slot, blocks.collect());
            return u32::try_from(read).ok();
        }
        self.bad.insert(slot);
        self.parts = None;
        None
    }

    /// A source is done without.
    pub(super) fn gave_up(&mut self, slot: Slot) {
        self.fetches.remove(&slot);
        self.silent.insert(slot);
        self.parts = None;
    }

    /// Whether another pass may bring it, or see that it is gone: some fragment may yet be had
    /// of a disk that does not serve (`unsure`), that did not answer, or that no longer had
    /// what it had listed.
    pub(super) fn may_come(&self, unsure: SlotSet) -> bool {
        let sound = self.bad.is_empty() && self.damaged.is_empty() && self.silent.is_empty();
        !(sound && unsure.is_empty())
    }

    /// The payload of its `Put`.
    pub(super) fn payload(&self) -> Payload {
        let put = self.put.as_ref().expect("it is ready");
        Payload::from(put.fragment.clone())
    }
}

#[cfg(test)]
mod tests {
    use model::geometry::{Code, Pool};
    use model::ids::{DiskId, DiskRef, Epoch, Incarnation, NodeId, SegmentId, VolumeId};
    use model::store::{FragmentMeta, SegmentKind};

    use super::*;
    use crate::heal::sources::Source;

    const CODE: Code = Code::Rs { k: 4, m: 2 };
    const BLOCKS: usize = 3;
    const HERE: SiteId = SiteId(1);
    const WANTED: Slot = Slot(0);

    fn missing() -> Missing {
        let holder = |slot: u8| {
            let at = DiskRef {
                disk: DiskId(u32::from(slot)),
                incarnation: Incarnation(1),
            };
            let source = Source {
                node: NodeId(1),
                site: HERE,
                slots: SlotSet::from_iter([Slot(slot)]),
            };
            (Slot(slot), (at, source))
        };
        Missing {
            segment: SegmentId {
                volume: VolumeId(1),
                epoch: Epoch(1),
                counter: 1,
            },
            meta: FragmentMeta {
                pool: Pool::of(CODE),
                segment_bytes: (4 * BLOCKS * BLOCK_BYTES) as u32,
                fragment_bytes: (BLOCKS * BLOCK_BYTES) as u32,
                kind: SegmentKind::Data,
            },
            holders: (1..6).map(holder).collect(),
        }
    }

    fn fragments(codec: &Codec) -> Vec<Bytes> {
        let data: Vec<u8> = (0..4 * BLOCKS * BLOCK_BYTES)
            .map(|i| (i * 31 / 7) as u8)
            .collect();
        let coded = codec.encode(&Payload::from(Bytes::from(data)));
        let coded = coded.expect("whole blocks").into_iter();
        coded.map(Payload::into_bytes).collect()
    }

    /// A disk that has a fragment whose blocks `rotten` are not good.
    fn answer(copy: &mut Copy, slot: Slot, fragment: &Bytes, rotten: &[usize]) {
        let (mut good, mut payload) = (Vec::new(), Payload::empty());
        for (offset, len) in copy.ranges() {
            let (first, blocks) = (offset as usize / BLOCK_BYTES, len as usize / BLOCK_BYTES);
            let is_good = !rotten.iter().any(|b| (first..first + blocks).contains(b));
            good.push(is_good);
            if is_good {
                payload.push(fragment.slice(offset as usize..(offset + len) as usize));
            }
        }
        let meta = copy.missing.meta;
        copy.fetches.remove(&slot);
        let reply = DiskReply::Data {
            meta,
            good,
            is_pressed: false,
        };
        copy.fetched(slot, &reply, &payload.into_bytes());
    }

    fn bring(rotten: &[&[usize]; 6]) -> (Codec, Option<Bytes>) {
        let codec = Codec::new(CODE).expect("a sound code");
        let fragments = fragments(&codec);
        let mut copy = Copy::new(missing());
        loop {
            match copy.next(&codec, WANTED, HERE) {
                Next::Fetch(slots, sites) => {
                    assert!(sites.is_empty(), "all is in one site");
                    for slot in slots {
                        let at = usize::from(slot.0);
                        answer(&mut copy, slot, &fragments[at], rotten[at]);
                    }
                }
                Next::Put => return (codec, Some(copy.put.expect("it is ready").fragment)),
                Next::Stuck => return (codec, None),
                Next::Wait => panic!("all was answered"),
            }
        }
    }

    #[test]
    fn damage_everywhere_is_no_loss_while_each_block_is_left_often_enough() {
        let none: &[usize] = &[];
        for rotten in [
            [none; 6],
            [none, &[0], none, none, none, none],
            // Three of five sources have damage, in different blocks.
            [none, &[0], &[1], &[2], none, none],
            // Two of them in the same one.
            [none, &[0], &[1], &[2], &[1], none],
        ] {
            let (codec, brought) = bring(&rotten);
            let worst = (0..BLOCKS).map(|b| rotten[1..].iter().filter(|r| r.contains(&b)).count());
            let can_be = worst.max() <= Some(1);
            assert_eq!(brought.is_some(), can_be, "{rotten:?}");
            if let Some(brought) = brought {
                assert_eq!(brought, fragments(&codec)[0], "{rotten:?}");
            }
        }
    }
}
