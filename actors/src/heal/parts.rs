//! A fragment that is rebuilt from sums: where a site has several of the fragments that it takes,
//! that site's Healer adds them up, and one fragment's length crosses in place of all of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use coding::{Codec, SlotSet};
use model::ids::{DiskRef, NodeId, RequestId, SiteId, Slot};

use super::listing::{Missing, Out};
use crate::messages::Term;

/// What is asked of one site.
#[derive(Debug)]
pub(super) struct Part {
    /// The node whose Healer sums up, and the disk there that has one of the fragments.
    pub(super) node: NodeId,
    pub(super) near: DiskRef,
    pub(super) terms: Vec<Term>,
    pub(super) out: Option<Out>,
    got: Option<Bytes>,
}

impl Part {
    pub(super) fn is_awaited(&self) -> bool {
        self.got.is_none()
    }
}

/// From what the fragment is made.
#[derive(Debug)]
pub(super) struct Parts {
    /// Fragments that come as they are, each with its factor.
    whole: BTreeMap<Slot, u8>,
    pub(super) sites: BTreeMap<SiteId, Part>,
}

impl Parts {
    /// A way to make `wanted` at site `here` from those `reads` of its holders; `None` if no other
    /// site would have anything to add up.
    pub(super) fn of(
        codec: &Codec,
        (wanted, here): (Slot, SiteId),
        reads: SlotSet,
        missing: &Missing,
    ) -> Option<Self> {
        let holders = &missing.holders;
        let recipe = codec.recipe(&[wanted], reads).ok()?;
        let factors = recipe.factors(0).iter().copied();
        let mut whole: BTreeMap<Slot, u8> = recipe.sources().iter().copied().zip(factors).collect();
        let mut sites: BTreeMap<SiteId, Part> = BTreeMap::new();
        for (slot, factor) in &whole {
            let (at, source) = holders[slot];
            if source.site == here {
                continue;
            }
            let part = sites.entry(source.site).or_insert_with(|| Part {
                node: source.node,
                near: at,
                terms: Vec::new(),
                out: None,
                got: None,
            });
            part.terms.push(Term {
                slot: *slot,
                at,
                factor: *factor,
            });
        }
        sites.retain(|_, part| part.terms.len() > 1);
        for part in sites.values_mut() {
            part.terms.iter().for_each(|term| {
                whole.remove(&term.slot);
            });
            // One node of the site after the other, from segment to segment.
            let turn = missing.segment.counter as usize % part.terms.len();
            let (at, source) = holders[&part.terms[turn].slot];
            (part.near, part.node) = (at, source.node);
        }
        (!sites.is_empty()).then_some(Self { whole, sites })
    }

    /// The fragments that come as they are.
    pub(super) fn whole(&self) -> SlotSet {
        self.whole.keys().copied().collect()
    }

    /// The question that is out for a site's sum, if it is that one. An earlier one had other factors.
    pub(super) fn awaited(&self, site: SiteId, id: RequestId) -> Option<Out> {
        let part = self.sites.get(&site).filter(|part| part.is_awaited())?;
        part.out.filter(|out| out.id == id)
    }

    /// A site's sum came that was awaited, as long as it should be.
    pub(super) fn came(&mut self, site: SiteId, sum: &Bytes) {
        let part = self.sites.get_mut(&site).expect("it was awaited");
        assert!(part.is_awaited(), "one answer a question");
        part.got = Some(sum.clone());
    }

    /// The fragment, once all of it is at hand.
    pub(super) fn rebuilt(&self, got: &BTreeMap<Slot, Bytes>) -> Option<Bytes> {
        let whole = self.whole.iter();
        let whole = whole.map(|(slot, factor)| Some((*factor, got.get(slot)?.clone())));
        // The factors are in the sums.
        let sums = self.sites.values().map(|part| Some((1, part.got.clone()?)));
        let terms: Option<Vec<(u8, Bytes)>> = whole.chain(sums).collect();
        coding::sum(&terms?).ok()
    }
}

#[cfg(test)]
mod tests {
    use model::geometry::{Code, Pool};
    use model::ids::{DiskId, Epoch, Incarnation, SegmentId, VolumeId};
    use model::payload::Payload;
    use model::store::{FragmentMeta, SegmentKind};
    use model::time::Time;

    use super::*;
    use crate::heal::sources::Source;

    const BYTES: usize = 8192;

    /// `per_site` slots at each of three sites.
    fn holder(slot: Slot, per_site: u8) -> (DiskRef, Source) {
        let at = DiskRef {
            disk: DiskId(slot.0.into()),
            incarnation: Incarnation(1),
        };
        let source = Source {
            node: NodeId(slot.0.into()),
            site: SiteId(1 + slot.0 / per_site),
            slots: SlotSet::from_iter([slot]),
        };
        (at, source)
    }

    fn missing(code: Code, holders: BTreeMap<Slot, (DiskRef, Source)>) -> Missing {
        let bytes = u32::try_from(BYTES).expect("small");
        Missing {
            segment: SegmentId {
                volume: VolumeId(1),
                epoch: Epoch(1),
                counter: 7,
            },
            meta: FragmentMeta {
                pool: Pool::of(code),
                segment_bytes: bytes * u32::from(code.data_fragments()),
                fragment_bytes: bytes,
                kind: SegmentKind::Data,
            },
            holders,
        }
    }

    /// Whichever slot is lost: what sites send is added up to it, and each sends one length.
    #[test]
    fn sums_of_sites_make_the_fragment() {
        for (code, per_site) in [(Code::Rs { k: 4, m: 2 }, 2), (Code::Rs { k: 8, m: 4 }, 4)] {
            let codec = Codec::new(code).expect("a sound code");
            let data = (0..usize::from(code.data_fragments()) * BYTES).map(|i| (i * 31 / 7) as u8);
            let data = Payload::from(Bytes::from_iter(data));
            let fragments = codec.encode(&data).expect("whole blocks").into_iter();
            let fragments: Vec<Bytes> = fragments.map(Payload::into_bytes).collect();
            for lost in (0..code.slots()).map(Slot) {
                let (_, own) = holder(lost, per_site);
                let others = (0..code.slots()).map(Slot).filter(|slot| *slot != lost);
                let holders = others.map(|slot| (slot, holder(slot, per_site)));
                let missing = missing(code, holders.collect());
                let holders = &missing.holders;
                let cost = |slot| u32::from(holders[&slot].1.site != own.site);
                let want = SlotSet::from_iter([lost]);
                let reads = codec.cheapest(want, holders.keys().copied().collect(), cost);
                let reads = reads.expect("one is lost");
                let mut parts = Parts::of(&codec, (lost, own.site), reads, &missing)
                    .expect("some site has several");
                let whole = parts.whole().iter();
                let got = whole.map(|slot| (slot, fragments[usize::from(slot.0)].clone()));
                let got: BTreeMap<Slot, Bytes> = got.collect();
                assert_eq!(parts.rebuilt(&got), None, "no sum came");
                let sums: Vec<(SiteId, Bytes)> = parts
                    .sites
                    .iter()
                    .map(|(site, part)| {
                        let terms = part.terms.iter();
                        let of = |t: &Term| (t.factor, fragments[usize::from(t.slot.0)].clone());
                        let terms: Vec<_> = terms.map(of).collect();
                        (*site, coding::sum(&terms).expect("of one length"))
                    })
                    .collect();
                for (site, sum) in &sums {
                    let (old, id) = (RequestId(1), RequestId(2));
                    let part = parts.sites.get_mut(site).expect("it is asked");
                    part.out = Some(Out::new(id, Time(1)));
                    assert_eq!(parts.awaited(*site, old), None, "an earlier question's");
                    assert!(parts.awaited(*site, id).is_some());
                    parts.came(*site, sum);
                    assert_eq!(parts.awaited(*site, id), None, "a second answer");
                }
                let nobody = parts.awaited(own.site, RequestId(2));
                assert_eq!(nobody, None, "nothing is asked here");
                let fragment = parts.rebuilt(&got).expect("all came");
                assert_eq!(fragment, fragments[usize::from(lost.0)], "{code} {lost:?}");
                let alone = got.keys().filter(|s| holders[s].1.site != own.site).count();
                assert_eq!(sums.len() + alone, 2, "one length from each other site");
            }
        }
    }
}
