//! A fragment that is rebuilt from sums: where a site has several of the fragments that it takes,
//! that site's Healer adds them up, and one fragment's length crosses in place of all of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use coding::{Codec, SlotSet};
use model::ids::{DiskRef, NodeId, SiteId, Slot};

use super::listing::Out;
use super::sources::Source;
use crate::messages::Term;

/// What is asked of one site.
#[derive(Debug)]
pub(super) struct Part {
    /// The node whose Healer sums up: it has one of the fragments.
    pub(super) node: NodeId,
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
        holders: &BTreeMap<Slot, (DiskRef, Source)>,
    ) -> Option<Self> {
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
        for part in sites.values() {
            part.terms.iter().for_each(|term| {
                whole.remove(&term.slot);
            });
        }
        (!sites.is_empty()).then_some(Self { whole, sites })
    }

    /// The fragments that come as they are.
    pub(super) fn whole(&self) -> SlotSet {
        self.whole.keys().copied().collect()
    }

    /// A site's sum came, as long as it should be; whether it was awaited.
    pub(super) fn came(&mut self, site: SiteId, sum: &Bytes) -> bool {
        let awaited = self.sites.get_mut(&site).filter(|part| part.is_awaited());
        awaited.is_some_and(|part| part.got.replace(sum.clone()).is_none())
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
    use model::geometry::Code;
    use model::ids::{DiskId, Incarnation};
    use model::payload::Payload;

    use super::*;

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
                let holders: BTreeMap<Slot, _> =
                    others.map(|slot| (slot, holder(slot, per_site))).collect();
                let cost = |slot| u32::from(holders[&slot].1.site != own.site);
                let want = SlotSet::from_iter([lost]);
                let reads = codec.cheapest(want, holders.keys().copied().collect(), cost);
                let reads = reads.expect("one is lost");
                let mut parts = Parts::of(&codec, (lost, own.site), reads, &holders)
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
                    assert!(parts.came(*site, sum));
                    assert!(!parts.came(*site, sum), "a second one is not awaited");
                }
                assert!(
                    !parts.came(own.site, &Bytes::new()),
                    "nothing is asked here"
                );
                let fragment = parts.rebuilt(&got).expect("all came");
                assert_eq!(fragment, fragments[usize::from(lost.0)], "{code} {lost:?}");
                let alone = got.keys().filter(|s| holders[s].1.site != own.site).count();
                assert_eq!(sums.len() + alone, 2, "one length from each other site");
            }
        }
    }
}
