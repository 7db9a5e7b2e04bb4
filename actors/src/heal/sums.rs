//! What a Healer adds up for those of other sites: fragments of its own site's disks, of which one
//! sum crosses in place of all.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::ids::{DiskId, FragmentKey, NodeId, RequestId, SegmentId};
use model::payload::Payload;
use model::placement::View;
use model::sometimes::{Sometimes, reached};
use model::store::FragmentMeta;
use model::time::Time;

use super::listing::is_possible;
use super::{Effect, HealConfig};
use crate::messages::{DiskReply, DiskRequest, HealerReply, HealerRequest, Message, Term};
use crate::planted::{Bug, planted};

/// Who asked for a sum.
type Asker = (NodeId, RequestId);

/// A sum whose fragments are being read.
#[derive(Debug)]
struct Adding {
    meta: FragmentMeta,
    terms: Vec<(Term, Option<Bytes>)>,
    is_pressed: bool,
    /// Nobody waits for it any longer.
    until: Time,
}

/// All sums that are being made here.
#[derive(Debug, Default)]
pub(super) struct Sums {
    adding: BTreeMap<Asker, Adding>,
    /// Questions to disks: the sum, and which of its terms.
    asked: BTreeMap<RequestId, (Asker, usize)>,
}

impl Sums {
    /// Another Healer asks.
    pub(super) fn asked(
        &mut self,
        now: Time,
        (config, view, here): (&HealConfig, &View, NodeId),
        asker: Asker,
        request: HealerRequest,
        next_id: &mut RequestId,
        out: &mut Vec<Effect>,
    ) {
        let HealerRequest::Sum {
            segment,
            meta,
            terms,
        } = request;
        if self.adding.contains_key(&asker) {
            return;
        }
        let has_room = self.adding.len() < config.sums_max;
        let nodes = nodes_of(view, here, &meta, &terms).filter(|_| has_room);
        let Some(nodes) = nodes else {
            return out.push(lacking(asker));
        };
        for (i, (term, node)) in terms.iter().zip(nodes).enumerate() {
            let id = *next_id;
            *next_id = RequestId(id.0 + 1);
            self.asked.insert(id, (asker, i));
            out.push(ask(node, id, segment, &meta, term));
        }
        let terms = terms.into_iter().map(|term| (term, None));
        let adding = Adding {
            meta,
            terms: terms.collect(),
            is_pressed: false,
            until: now + config.ask_timeout,
        };
        self.adding.insert(asker, adding);
    }

    /// A disk answered; whether that was for a sum.
    pub(super) fn answered(
        &mut self,
        disk: DiskId,
        id: RequestId,
        reply: &DiskReply,
        payload: &Bytes,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some((asker, i)) = self.asked.get(&id).copied() else {
            return false;
        };
        let adding = self.adding.get_mut(&asker);
        let adding = adding.expect("questions go with their sum");
        if adding.terms[i].0.at.disk != disk {
            return true;
        }
        self.asked.remove(&id);
        let length = adding.meta.fragment_bytes as usize;
        match reply {
            DiskReply::Data {
                meta,
                good,
                is_pressed,
            } if *meta == adding.meta && good[..] == [true] && payload.len() == length => {
                adding.terms[i].1 = Some(payload.clone());
                adding.is_pressed |= is_pressed;
            }
            _ => {
                self.forget(asker);
                out.push(lacking(asker));
                return true;
            }
        }
        if let Some(sum) = adding.sum() {
            assert!(sum.len() == length, "a sum is as long as a fragment");
            reached(Sometimes::FragmentsSummed);
            let is_pressed = adding.is_pressed;
            self.forget(asker);
            let reply = HealerReply::Sum { is_pressed };
            out.push(answer(asker, reply, Payload::from(sum)));
        }
        true
    }

    /// Whoever asked has given up by now.
    pub(super) fn expire(&mut self, now: Time, out: &mut Vec<Effect>) {
        let over = self.adding.iter().filter(|(_, adding)| adding.until <= now);
        for asker in over.map(|(asker, _)| *asker).collect::<Vec<_>>() {
            self.forget(asker);
            out.push(lacking(asker));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.adding.values().map(|adding| adding.until).min()
    }

    fn forget(&mut self, asker: Asker) {
        self.adding.remove(&asker);
        self.asked.retain(|_, (of, _)| *of != asker);
    }
}

impl Adding {
    /// Once all are there.
    fn sum(&self) -> Option<Bytes> {
        let terms = self.terms.iter();
        let terms = terms.map(|(term, got)| {
            let factor = match planted(Bug::UnscaledSum) {
                true => 1,
                false => term.factor,
            };
            Some((factor, got.clone()?))
        });
        let terms: Option<Vec<_>> = terms.collect();
        coding::sum(&terms?).ok()
    }
}

/// The node of each term's disk, if the question makes sense: a peer asks what it likes.
fn nodes_of(view: &View, here: NodeId, meta: &FragmentMeta, terms: &[Term]) -> Option<Vec<NodeId>> {
    let code = meta.pool.code;
    if !code.is_sound() || !is_possible(meta) {
        return None;
    }
    let slots = BTreeSet::from_iter(terms.iter().map(|term| term.slot));
    let are_slots = slots.iter().all(|slot| slot.0 < code.slots());
    if terms.is_empty() || slots.len() < terms.len() || !are_slots {
        return None;
    }
    let own = view.nodes.get(&here)?.site;
    let node = |term: &Term| {
        let node = view.node_of(term.at)?;
        (view.nodes.get(&node)?.site == own).then_some(node)
    };
    terms.iter().map(node).collect()
}

fn ask(
    node: NodeId,
    id: RequestId,
    segment: SegmentId,
    meta: &FragmentMeta,
    term: &Term,
) -> Effect {
    let slot = term.slot;
    Effect::ToDisk {
        node,
        disk: term.at.disk,
        id,
        request: DiskRequest::Get {
            incarnation: term.at.incarnation,
            key: FragmentKey { segment, slot },
            pool: meta.pool,
            ranges: vec![(0, meta.fragment_bytes)],
        },
        payload: Payload::empty(),
    }
}

fn answer((node, id): Asker, reply: HealerReply, payload: Payload) -> Effect {
    Effect::ToHealer {
        node,
        id,
        message: Message::HealerReply(reply),
        payload,
    }
}

fn lacking(asker: Asker) -> Effect {
    answer(asker, HealerReply::Lacking, Payload::empty())
}

#[cfg(test)]
mod tests {
    use model::geometry::Code;
    use model::ids::{Epoch, SiteId, Slot, VolumeId};
    use model::store::SegmentKind;

    use super::*;
    use crate::heal::fixture::{POOL, at, site_of_four};

    const ASKER: Asker = (NodeId(9), RequestId(70));
    const FRAGMENT: u32 = 4096;
    const SEGMENT: SegmentId = SegmentId {
        volume: VolumeId(1),
        epoch: Epoch(1),
        counter: 1,
    };

    fn meta() -> FragmentMeta {
        FragmentMeta {
            pool: POOL,
            segment_bytes: 2 * FRAGMENT,
            fragment_bytes: FRAGMENT,
            kind: SegmentKind::Data,
        }
    }

    /// Slot n lies on disk n + 1.
    fn term(slot: u8, factor: u8) -> Term {
        Term {
            slot: Slot(slot),
            at: at(u32::from(slot) + 1),
            factor,
        }
    }

    struct World {
        sums: Sums,
        view: View,
        next_id: RequestId,
    }

    impl World {
        fn new() -> Self {
            Self {
                sums: Sums::default(),
                view: site_of_four(),
                next_id: RequestId(1),
            }
        }

        fn ask(&mut self, asker: Asker, meta: FragmentMeta, terms: Vec<Term>) -> Vec<Effect> {
            let mut out = Vec::new();
            let config = HealConfig::default();
            let request = HealerRequest::Sum {
                segment: SEGMENT,
                meta,
                terms,
            };
            let about = (&config, &self.view, NodeId(1));
            self.sums
                .asked(Time(5), about, asker, request, &mut self.next_id, &mut out);
            out
        }

        fn data(&mut self, id: u64, disk: u32, good: bool, bytes: &Bytes) -> Vec<Effect> {
            let mut out = Vec::new();
            let reply = DiskReply::Data {
                meta: meta(),
                good: vec![good],
                is_pressed: false,
            };
            let (disk, id) = (DiskId(disk), RequestId(id));
            assert!(self.sums.answered(disk, id, &reply, bytes, &mut out));
            out
        }
    }

    fn is_lacking(out: &[Effect]) -> bool {
        let lacks = |message: &Message| *message == Message::HealerReply(HealerReply::Lacking);
        matches!(out, [Effect::ToHealer { node, id, message, .. }]
            if (*node, *id) == ASKER && lacks(message))
    }

    #[test]
    fn fragments_are_scaled_and_added_up() {
        let mut world = World::new();
        let asks = world.ask(ASKER, meta(), vec![term(1, 3), term(2, 1)]);
        assert_eq!(asks.len(), 2, "a question a disk");
        let (first, second) = (vec![2; FRAGMENT as usize], vec![5; FRAGMENT as usize]);
        assert!(world.data(1, 2, true, &Bytes::from(first)).is_empty());
        let told = world.data(2, 3, true, &Bytes::from(second));
        let [Effect::ToHealer { payload, .. }] = &told[..] else {
            panic!("an answer: {told:?}");
        };
        // 3 x 2 is 6 over GF(2^8), and adding is exclusive or.
        let sum = payload.clone().into_bytes();
        assert!(sum.len() == FRAGMENT as usize && sum.iter().all(|b| *b == 6 ^ 5));
        assert!(world.sums.next_deadline().is_none() && world.sums.asked.is_empty());
    }

    #[test]
    fn what_is_damaged_or_silent_is_told_as_lacking() {
        let mut world = World::new();
        world.ask(ASKER, meta(), vec![term(1, 3), term(2, 1)]);
        assert!(is_lacking(&world.data(1, 2, false, &Bytes::new())));
        // Its other fragment comes too late for anything.
        let late = Bytes::from(vec![5; FRAGMENT as usize]);
        let reply = DiskReply::NotFound;
        let mut out = Vec::new();
        assert!(
            !world
                .sums
                .answered(DiskId(3), RequestId(2), &reply, &late, &mut out)
        );
        world.ask(ASKER, meta(), vec![term(1, 3), term(2, 1)]);
        let due = world.sums.next_deadline().expect("it is awaited");
        world.sums.expire(due, &mut out);
        assert!(is_lacking(&out) && world.sums.asked.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let unsound = Code::Rs { k: 200, m: 100 };
        let odd = [
            (meta(), vec![]),
            (meta(), vec![term(1, 1), term(1, 1)]),
            (meta(), vec![term(1, 1), term(3, 1)]),
            (
                meta(),
                vec![Term {
                    at: at(77),
                    ..term(1, 1)
                }],
            ),
            (
                meta(),
                vec![Term {
                    slot: Slot(200),
                    ..term(1, 1)
                }],
            ),
            (
                FragmentMeta {
                    fragment_bytes: 7,
                    ..meta()
                },
                vec![term(1, 1)],
            ),
            (
                FragmentMeta {
                    segment_bytes: u32::MAX,
                    ..meta()
                },
                vec![term(1, 1)],
            ),
        ];
        for (meta, terms) in odd {
            let what = format!("{meta:?} {terms:?}");
            assert!(is_lacking(&World::new().ask(ASKER, meta, terms)), "{what}");
        }
        let mut pool = meta();
        pool.pool.code = unsound;
        assert!(is_lacking(&World::new().ask(ASKER, pool, vec![term(1, 1)])));
        // A disk of another site is that one's to read.
        let mut world = World::new();
        world.view.nodes.get_mut(&NodeId(3)).expect("there").site = SiteId(2);
        assert!(is_lacking(&world.ask(
            ASKER,
            meta(),
            vec![term(1, 1), term(2, 1)]
        )));
    }

    #[test]
    fn so_many_at_a_time() {
        let mut world = World::new();
        for n in 0..HealConfig::default().sums_max as u64 {
            let asks = world.ask((NodeId(8), RequestId(n)), meta(), vec![term(1, 1)]);
            assert!(matches!(asks[..], [Effect::ToDisk { .. }]), "{n}");
        }
        assert!(is_lacking(&world.ask(ASKER, meta(), vec![term(1, 1)])));
    }
}
