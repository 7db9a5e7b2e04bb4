//! The machine of the ways (R27), between three sites on a clock of our own: whatever is cut, in
//! one direction or both, messages take a way that works, once; and hostile frames are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use model::ids::{NodeId, SiteId};
use model::machine::Machine;
use model::time::Time;
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use transport::paths::{
    Arrival, Effect, Hop, Input, Leg, Mark, MarkError, Paths, Refusal, Sounding,
};

const MS: Duration = Duration::from_millis(1);

/// Nodes 1 and 2 are in site 1, 3 and 4 in site 2, 5 and 6 in site 3.
const NODES: u16 = 6;

fn site(node: NodeId) -> SiteId {
    SiteId(u8::try_from(node.0.div_ceil(2)).expect("few"))
}

fn sites() -> BTreeMap<NodeId, SiteId> {
    (1..=NODES).map(|n| (NodeId(n), site(NodeId(n)))).collect()
}

/// What is under way: (arrives, number, from, hop, what).
type Flight = (Time, u64, NodeId, Hop, What);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum What {
    Ask(u64),
    Answer(u64),
    Message(u64),
}

/// Nodes, and links that take a millisecond.
struct World {
    now: Time,
    paths: BTreeMap<NodeId, Paths>,
    flights: Vec<Flight>,
    cut: BTreeSet<(SiteId, SiteId)>,
    dead: BTreeSet<NodeId>,
    one_way: Duration,
    numbers: u64,
    /// (message, to, origin, when, by way of)
    got: Vec<(u64, NodeId, NodeId, Time, Option<NodeId>)>,
    turned: Vec<(NodeId, NodeId, Option<NodeId>)>,
    frames: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Time(1_000_000_000),
            paths: BTreeMap::new(),
            flights: Vec::new(),
            cut: BTreeSet::new(),
            dead: BTreeSet::new(),
            one_way: MS,
            numbers: 0,
            got: Vec::new(),
            turned: Vec::new(),
            frames: 0,
        };
        for node in (1..=NODES).map(NodeId) {
            let mut paths = Paths::new(node);
            paths.handle(world.now, Input::Sites(sites()), &mut Vec::new());
            world.paths.insert(node, paths);
        }
        world
    }

    fn cut(&mut self, from: u8, to: u8) {
        self.cut.insert((SiteId(from), SiteId(to)));
    }

    fn cut_both(&mut self, a: u8, b: u8) {
        self.cut(a, b);
        self.cut(b, a);
    }

    fn is_lost(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(site(from), site(to)))
            || self.dead.contains(&from)
            || self.dead.contains(&to)
    }

    fn transmit(&mut self, from: NodeId, hop: Hop, what: What) {
        self.frames += 1;
        self.numbers += 1;
        if !self.is_lost(from, hop.to) {
            let at = self.now + self.one_way;
            self.flights.push((at, self.numbers, from, hop, what));
        }
    }

    /// A message leaves; its number.
    fn send(&mut self, from: u16, to: u16) -> u64 {
        let (from, to) = (NodeId(from), NodeId(to));
        let now = self.now;
        let hop = self.paths.get_mut(&from).expect("a node").leave(now, to);
        self.numbers += 1;
        let number = self.numbers;
        self.transmit(from, hop, What::Message(number));
        number
    }

    fn carry_out(&mut self, node: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Sound { hop, sounding } => {
                    let what = match sounding {
                        Sounding::Ask { sent } => What::Ask(sent),
                        Sounding::Answer { sent } => What::Answer(sent),
                    };
                    self.transmit(node, hop, what);
                }
                Effect::Turned { peer, relay } => self.turned.push((node, peer, relay)),
            }
        }
    }

    fn arrive(&mut self, from: NodeId, hop: Hop, what: What) {
        let (node, now) = (hop.to, self.now);
        if self.is_lost(from, node) {
            return;
        }
        let mark = Mark {
            leg: hop.leg,
            sounding: !matches!(what, What::Message(_)),
        };
        let paths = self.paths.get_mut(&node).expect("a node");
        let arrival = paths.arrive(now, from, mark);
        match (arrival.expect("no breach among the sound"), what) {
            (Arrival::PassOn(next), what) => self.transmit(node, next, what),
            (Arrival::Here { origin }, What::Message(number)) => {
                let relay = (origin != from).then_some(from);
                self.got.push((number, node, origin, now, relay));
            }
            (Arrival::Here { .. }, What::Ask(sent) | What::Answer(sent)) => {
                let sounding = match what {
                    What::Ask(_) => Sounding::Ask { sent },
                    _ => Sounding::Answer { sent },
                };
                let leg = hop.leg;
                let mut out = Vec::new();
                let input = Input::Sounding {
                    from,
                    leg,
                    sounding,
                };
                paths.handle(now, input, &mut out);
                self.carry_out(node, out);
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = |p: &Paths| p.next_deadline();
            let timer = self.paths.iter().filter(|(n, _)| !self.dead.contains(n));
            let timer = timer.filter_map(|(n, p)| Some((due(p)?, *n))).min();
            let flight = self.flights.iter().min_by_key(|f| (f.0, f.1)).copied();
            let next = timer.map(|t| t.0).into_iter().chain(flight.map(|f| f.0));
            let Some(next) = next.min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if let Some(flight) = flight.filter(|f| f.0 <= next) {
                self.flights.retain(|f| *f != flight);
                self.arrive(flight.2, flight.3, flight.4);
            } else if let Some((_, node)) = timer {
                let mut out = Vec::new();
                let paths = self.paths.get_mut(&node).expect("a node");
                paths.tick(self.now, &mut out);
                assert!(paths.next_deadline().is_none_or(|due| due > self.now));
                self.carry_out(node, out);
            }
        }
        self.now = end;
    }

    /// Sends both ways every 50 ms for so long; whether all of the last ones arrived.
    fn talk(&mut self, a: u16, b: u16, span: Duration) -> bool {
        let mut sent = Vec::new();
        for _ in 0..span.as_millis() / 50 {
            sent = vec![self.send(a, b), self.send(b, a)];
            self.pass(50 * MS);
        }
        sent.iter().all(|n| self.got.iter().any(|g| g.0 == *n))
    }

    fn relay(&self, of: u16, to: u16) -> Option<NodeId> {
        let mut relayed = self.paths[&NodeId(of)].relayed();
        relayed.find(|(peer, _)| *peer == NodeId(to)).map(|r| r.1)
    }
}

/// Each message arrived at most once, and from whom it was sent.
fn assert_at_most_once(world: &World) {
    let mut seen = BTreeSet::new();
    for (number, ..) in &world.got {
        assert!(seen.insert(*number), "message {number} came twice");
    }
}

#[test]
fn what_works_is_left_alone() {
    let mut world = World::new();
    assert!(world.talk(1, 3, 2000 * MS));
    assert!(world.got.iter().all(|g| g.4.is_none()) && world.turned.is_empty());
    // Within a site nothing is sounded.
    let frames = world.frames;
    let mut lan = World::new();
    lan.send(1, 2);
    lan.pass(5000 * MS);
    assert_eq!(lan.frames, 1);
    // Idle peers are sounded no more.
    world.pass(70_000 * MS);
    let quiet = world.frames;
    world.pass(70_000 * MS);
    assert!(quiet > frames);
    assert_eq!(world.frames, quiet);
}

#[test]
fn a_cut_in_either_direction_or_both_is_got_around_and_healed() {
    for cuts in [&[(1, 2), (2, 1)][..], &[(1, 2)], &[(2, 1)]] {
        let mut world = World::new();
        assert!(world.talk(1, 3, 1000 * MS));
        for (from, to) in cuts {
            world.cut(*from, *to);
        }
        let cut = world.now;
        assert!(world.talk(1, 3, 800 * MS), "{cuts:?}: within 800 ms");
        let through = world.relay(1, 3).expect("relayed");
        assert_eq!(site(through), SiteId(3));
        assert_eq!(world.relay(3, 1), Some(through), "both ends share it");
        world.talk(1, 3, 5000 * MS);
        let late = world.got.iter().filter(|g| g.3 > cut + 1000 * MS);
        assert!(late.clone().count() > 100);
        assert!(late.clone().all(|g| g.4 == Some(through)), "{cuts:?}");
        // The third site is reached directly as ever.
        assert!(world.talk(1, 5, 1000 * MS) && world.relay(1, 5).is_none());

        world.cut.clear();
        assert!(world.talk(1, 3, 1500 * MS) && world.relay(1, 3).is_some());
        assert!(world.talk(1, 3, 1500 * MS));
        assert_eq!((world.relay(1, 3), world.relay(3, 1)), (None, None));
        assert_at_most_once(&world);
    }
}

#[test]
fn a_first_message_beyond_a_cut_finds_its_way_in_time() {
    let mut world = World::new();
    world.cut_both(1, 2);
    assert!(world.talk(1, 3, 800 * MS));
    // Who answers takes the way that the question came, at once.
    let mut world = World::new();
    world.cut_both(1, 2);
    for _ in 0..16 {
        world.send(1, 3);
        world.pass(50 * MS);
    }
    assert!(world.relay(3, 1).is_some());
    let answer = world.send(3, 1);
    world.pass(10 * MS);
    assert!(world.got.iter().any(|g| g.0 == answer));
}

#[test]
fn a_dead_node_is_reached_through_nobody() {
    let mut world = World::new();
    assert!(world.talk(1, 3, 1000 * MS));
    world.dead.insert(NodeId(3));
    let before = world.got.len();
    assert!(!world.talk(1, 3, 10_000 * MS));
    assert!(world.relay(1, 3).is_none() && world.got.len() == before);
}

#[test]
fn an_isolated_site_is_reached_through_nobody() {
    let mut world = World::new();
    world.cut_both(1, 2);
    // It hears the third site, which does not hear it.
    world.cut(2, 3);
    assert!(!world.talk(1, 3, 10_000 * MS));
    assert!(world.relay(1, 3).is_none() && world.turned.is_empty());
}

#[test]
fn a_relay_that_dies_is_replaced() {
    let mut world = World::new();
    world.cut_both(1, 2);
    assert!(world.talk(1, 3, 2000 * MS));
    let first = world.relay(1, 3).expect("relayed");
    world.dead.insert(first);
    assert!(world.talk(1, 3, 1000 * MS));
    assert_ne!(world.relay(1, 3), Some(first));
    assert!(world.relay(1, 3).is_some());
    assert_at_most_once(&world);
}

#[test]
fn a_way_that_is_silent_is_not_left_for_one_that_is_known_to_be_broken() {
    let mut world = World::new();
    world.cut_both(1, 2);
    assert!(world.talk(1, 3, 2000 * MS));
    let before = world.turned.len();
    world.cut(1, 3);
    assert!(!world.talk(1, 3, 5000 * MS) && world.relay(1, 3).is_some());
    world.cut.remove(&(SiteId(1), SiteId(3)));
    assert!(world.talk(1, 3, 500 * MS));
    assert_eq!(world.turned.len(), before, "{:?}", world.turned);
    // With the direct way mended and the third site lost, nobody waits for 2 s.
    world.cut.clear();
    world.dead.extend([NodeId(5), NodeId(6)]);
    assert!(world.talk(1, 3, 1000 * MS) && world.relay(1, 3).is_none());
}

#[test]
fn a_link_that_flaps_is_trusted_later_each_time() {
    let mut world = World::new();
    let mut turns = Vec::new();
    for _ in 0..20 {
        world.cut_both(1, 2);
        world.talk(1, 3, 2000 * MS);
        world.cut.clear();
        world.talk(1, 3, 3000 * MS);
        turns.push(world.turned.len());
    }
    // At first each flap turns both ends away and back; then they stay where it works.
    assert!(turns[0] == 4 && turns[19] < 20, "{turns:?}");
    assert!(world.talk(1, 3, 65_000 * MS) && world.relay(1, 3).is_none());
}

#[test]
fn who_stood_still_blames_nobody() {
    let mut world = World::new();
    assert!(world.talk(1, 3, 2000 * MS));
    // The process of node 1 stops for 5 s: its clock goes on, nothing is answered.
    let later = world.now + 5000 * MS;
    let mut out = Vec::new();
    let paths = world.paths.get_mut(&NodeId(1)).expect("a node");
    paths.tick(later, &mut out);
    let direct = |e: &Effect| matches!(e, Effect::Sound { hop, .. } if hop.leg == Leg::Direct);
    assert!(out.iter().all(direct), "{out:?}");
    assert_eq!(paths.relayed().count(), 0);
}

#[test]
fn distance_is_no_cut() {
    let mut world = World::new();
    world.one_way = 300 * MS;
    assert!(!world.talk(1, 3, 100 * MS), "on its way");
    world.talk(1, 3, 20_000 * MS);
    assert!(world.relay(1, 3).is_none());
    world.cut_both(1, 2);
    world.talk(1, 3, 4000 * MS);
    assert!(world.relay(1, 3).is_some());
}

#[test]
fn frames_that_no_sound_peer_sends_are_breaches() {
    let now = Time(5_000_000_000);
    let mut paths = Paths::new(NodeId(1));
    let mark = |leg| Mark {
        leg,
        sounding: false,
    };
    let foreign = paths.arrive(now, NodeId(5), mark(Leg::Of(NodeId(3))));
    assert_eq!(foreign, Err(Refusal::NotThird), "before it knows the sites");
    paths.handle(now, Input::Sites(sites()), &mut Vec::new());
    let mut refused = |from: u16, leg| {
        let refusal = paths.arrive(now, NodeId(from), mark(leg)).err();
        let refusal = refusal.expect("refused");
        (refusal, refusal.is_breach())
    };
    assert_eq!(refused(3, Leg::For(NodeId(1))), (Refusal::ToRelay, true));
    assert_eq!(refused(3, Leg::For(NodeId(3))), (Refusal::ToSender, true));
    assert_eq!(refused(5, Leg::Of(NodeId(1))), (Refusal::ToOrigin, true));
    assert_eq!(refused(5, Leg::Of(NodeId(5))), (Refusal::ByOrigin, true));
    // In our own site, in the relay's, unknown: it may know another placement.
    for (from, leg) in [
        (5, Leg::Of(NodeId(2))),
        (5, Leg::Of(NodeId(6))),
        (2, Leg::Of(NodeId(5))),
        (5, Leg::Of(NodeId(77))),
        (3, Leg::For(NodeId(4))),
        (3, Leg::For(NodeId(2))),
        (3, Leg::For(NodeId(77))),
        (77, Leg::For(NodeId(3))),
    ] {
        assert_eq!(
            refused(from, leg),
            (Refusal::NotThird, false),
            "{from} {leg:?}"
        );
    }
}

#[test]
fn two_sites_have_no_third() {
    let mut paths = Paths::new(NodeId(1));
    let two = sites().into_iter().filter(|(n, _)| n.0 <= 4).collect();
    paths.handle(Time(1), Input::Sites(two), &mut Vec::new());
    let hop = paths.leave(Time(1), NodeId(3));
    assert_eq!((hop.to, hop.leg), (NodeId(3), Leg::Direct));
    assert_eq!(paths.next_deadline(), None);
}

fn leg() -> impl Strategy<Value = Leg> {
    let node = || (0..=NODES + 1).prop_map(NodeId);
    prop_oneof![
        Just(Leg::Direct),
        node().prop_map(Leg::For),
        node().prop_map(Leg::Of)
    ]
}

proptest! {
    /// Whatever a peer sends: no panic; a frame is passed on once at most, never back, never
    /// within a site; and nobody speaks for a node of its own site or of ours.
    #[test]
    fn hostile_frames_go_nowhere_they_should_not(
        frames in vec((2..=NODES, leg(), any::<bool>(), any::<bool>(), any::<u64>(), 0_u64..400), 0..200),
    ) {
        let me = NodeId(1);
        let mut paths = Paths::new(me);
        let mut now = Time(1_000_000_000);
        let mut out = Vec::new();
        paths.handle(now, Input::Sites(sites()), &mut out);
        for (from, leg, is_sounding, is_ask, sent, pause) in frames {
            let from = NodeId(from);
            now += Duration::from_millis(pause);
            let mark = Mark { leg, sounding: is_sounding };
            match paths.arrive(now, from, mark) {
                Ok(Arrival::PassOn(hop)) => {
                    prop_assert_eq!(leg, Leg::For(hop.to));
                    prop_assert_eq!(hop.leg, Leg::Of(from));
                    let three = BTreeSet::from([site(from), site(me), site(hop.to)]);
                    prop_assert_eq!(three.len(), 3);
                }
                Ok(Arrival::Here { origin }) => {
                    prop_assert!(!matches!(leg, Leg::For(_)));
                    if origin != from {
                        let three = BTreeSet::from([site(from), site(me), site(origin)]);
                        prop_assert_eq!(three.len(), 3);
                    }
                    if is_sounding {
                        let sounding = if is_ask { Sounding::Ask { sent } } else { Sounding::Answer { sent } };
                        paths.handle(now, Input::Sounding { from, leg, sounding }, &mut out);
                    }
                }
                Err(_) => {}
            }
            let hop = paths.leave(now, NodeId(3));
            if hop.to != NodeId(3) {
                prop_assert_eq!((site(hop.to), hop.leg), (SiteId(3), Leg::For(NodeId(3))));
            }
            if paths.next_deadline().is_some_and(|due| due <= now) {
                paths.tick(now, &mut out);
            }
        }
    }

    /// Whatever is cut and mended, in whichever order: while two sites are joined by some way, there
    /// and back, messages arrive; and none arrives twice.
    #[test]
    fn whatever_is_cut_messages_find_a_way_if_there_is_one(
        steps in vec((1_u8..=3, 1_u8..=3, any::<bool>()), 1..12),
    ) {
        let mut world = World::new();
        for (from, to, mend) in steps {
            match (from == to, mend) {
                (true, _) => {}
                (_, true) => { world.cut.remove(&(SiteId(from), SiteId(to))); }
                (_, false) => world.cut(from, to),
            }
            let open = |world: &World, a, b| {
                !world.cut.contains(&(SiteId(a), SiteId(b))) && !world.cut.contains(&(SiteId(b), SiteId(a)))
            };
            let joined = open(&world, 1, 2) || open(&world, 1, 3) && open(&world, 3, 2);
            let arrived = world.talk(1, 3, 2500 * MS);
            prop_assert!(arrived || !joined, "cut: {:?}", world.cut);
        }
        assert_at_most_once(&world);
    }

    #[test]
    fn marks_are_read_as_they_were_written(leg in leg(), sounding in any::<bool>(), header in vec(any::<u8>(), 0..20)) {
        let mark = Mark { leg, sounding };
        let mut bytes = mark.node().map(Vec::from).unwrap_or_default();
        prop_assert_eq!(bytes.len(), mark.len());
        bytes.extend(&header);
        let mut bytes = Bytes::from(bytes);
        prop_assert_eq!(Mark::take(mark.bits(), &mut bytes), Ok(mark));
        prop_assert_eq!(&bytes[..], &header[..]);
    }
}

#[test]
fn marks_that_mean_nothing_are_errors() {
    for bits in [3, 7, 8, 9, 15, 255] {
        let mut header = Bytes::from_static(b"header");
        let taken = Mark::take(bits, &mut header);
        assert_eq!(taken, Err(MarkError::Unknown(bits)));
        assert_eq!(&header[..], b"header");
    }
    let mut short = Bytes::from_static(b"h");
    assert_eq!(Mark::take(1, &mut short), Err(MarkError::NoNode));
}
