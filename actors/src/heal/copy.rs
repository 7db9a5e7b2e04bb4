//! One fragment on its way to its new disk: read from where it lay, or rebuilt from the cheapest
//! others, and stored.

use std::collections::BTreeMap;

use bytes::Bytes;
use coding::{Codec, SlotSet};
use model::BLOCK_BYTES;
use model::ids::{FragmentKey, RequestId, SiteId, Slot};
use model::payload::Payload;
use model::store::block_sum;

use super::listing::{Missing, Out};
use crate::messages::DiskReply;
use crate::planted::{Bug, planted};

/// A fragment over the WAN costs more than all local ones together.
const LOCAL_COST: u32 = 1;
const WAN_COST: u32 = 1 << 10;

/// A fragment that is being brought.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) missing: Missing,
    /// Slots whose disk has no good fragment after all.
    bad: SlotSet,
    /// Slots whose disk did not answer, or did not want to.
    silent: SlotSet,
    got: BTreeMap<Slot, Bytes>,
    pub(super) fetches: BTreeMap<Slot, Out>,
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
    /// Read these slots' fragments.
    Fetch(Vec<Slot>),
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
            silent: SlotSet::EMPTY,
            got: BTreeMap::new(),
            fetches: BTreeMap::new(),
            put: None,
        }
    }

    /// Plans, or plans anew after a source turned out to be none.
    pub(super) fn next(&mut self, codec: &Codec, slot: Slot, here: SiteId) -> Next {
        if self.put.is_some() {
            return Next::Put;
        }
        let holders = self.missing.holders.keys().copied();
        let available: SlotSet = holders.collect();
        let available = available.without(self.bad).without(self.silent);
        let at_hand: SlotSet = self.got.keys().copied().collect();
        let cost = |s: Slot| match self.missing.holders[&s].1.site == here {
            _ if at_hand.contains(s) => 0,
            true => LOCAL_COST,
            false => WAN_COST,
        };
        let want = SlotSet::from_iter([slot]);
        let Some(reads) = codec.cheapest(want, available, cost) else {
            return Next::Stuck;
        };
        let lacking = reads.without(at_hand);
        if lacking.is_empty() {
            self.rebuild(codec, slot, reads);
            return Next::Put;
        }
        let asked = self.fetches.keys().copied().collect();
        let ask: Vec<Slot> = lacking.without(asked).iter().collect();
        if ask.is_empty() {
            Next::Wait
        } else {
            Next::Fetch(ask)
        }
    }

    fn rebuild(&mut self, codec: &Codec, slot: Slot, reads: SlotSet) {
        let have = self.got.iter().filter(|(s, _)| reads.contains(**s));
        let have: Vec<(Slot, Bytes)> = have.map(|(s, bytes)| (*s, bytes.clone())).collect();
        let rebuilt = codec.reconstruct(&[slot], &have);
        let mut fragment = rebuilt.expect("a plan's sources suffice").remove(0);
        if planted(Bug::WrongSlot) {
            fragment = have[0].1.clone();
        }
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
        self.put = Some(Put {
            fragment,
            sums,
            out: None,
        });
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
        let DiskReply::Data { meta, good } = reply else {
            // It was listed a moment ago: it is being deleted, or it was moved on.
            self.bad.insert(slot);
            return None;
        };
        let whole = good.len() == 1 && good[0];
        let length = meta.fragment_bytes as usize;
        if whole && *meta == self.missing.meta && payload.len() == length {
            self.got.insert(slot, payload.clone());
            return Some(meta.fragment_bytes);
        }
        self.bad.insert(slot);
        None
    }

    /// A source is done without.
    pub(super) fn gave_up(&mut self, slot: Slot) {
        self.fetches.remove(&slot);
        self.silent.insert(slot);
    }

    /// Whether another pass may bring it, or see that it is gone: some fragment may yet be had
    /// of a disk that does not serve (`unsure`), that did not answer, or that no longer had
    /// what it had listed.
    pub(super) fn may_come(&self, unsure: SlotSet) -> bool {
        !(self.bad.is_empty() && self.silent.is_empty() && unsure.is_empty())
    }

    /// The payload of its `Put`.
    pub(super) fn payload(&self) -> Payload {
        let put = self.put.as_ref().expect("it is ready");
        Payload::from(put.fragment.clone())
    }
}
