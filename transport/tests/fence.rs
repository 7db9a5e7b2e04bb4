//! The machine of a drill's fence: what an operator may rely on, whatever is lost, late, repeated
//! or ordered by somebody else.

use std::collections::BTreeMap;
use std::time::Duration;

use model::ids::{NodeId, SiteId};
use model::machine::Machine;
use model::time::Time;
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use transport::fence::{
    DrillId, Effect, Fence, Input, LASTS_MAX, Order, Refusal, Standing, UNRENEWED_MAX,
};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const BEGAN: Time = Time(1_000_000_000_000);

/// Node n is in site n; the machine is of node 1.
const NODES: u16 = 3;

fn site(n: u8) -> SiteId {
    SiteId(n)
}

fn sites() -> BTreeMap<NodeId, SiteId> {
    let of = |n: u16| (NodeId(n), site(u8::try_from(n).expect("few")));
    (1..=NODES).map(of).collect()
}

/// At node 1, with its own clock.
struct Scene {
    fence: Fence,
    now: Time,
    told: Vec<Effect>,
}

impl Scene {
    fn new() -> Self {
        let mut scene = Self {
            fence: Fence::new(NodeId(1)),
            now: BEGAN,
            told: Vec::new(),
        };
        scene.handle(Input::Sites(sites()));
        scene
    }

    fn handle(&mut self, input: Input) {
        self.fence.handle(self.now, input, &mut self.told);
    }

    fn order(&mut self, drill: u64, number: u64) -> Result<Standing, Refusal> {
        self.order_for(drill, number, 2, 60_000)
    }

    fn order_for(
        &mut self,
        drill: u64,
        number: u64,
        at: u8,
        left_ms: u64,
    ) -> Result<Standing, Refusal> {
        let order = Order {
            drill: DrillId(drill),
            site: site(at),
            number,
            left_ms,
        };
        self.fence.order(self.now, order, &mut self.told)
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
    }

    fn bars(&self, node: u16) -> bool {
        self.fence.bars(self.now, NodeId(node))
    }
}

#[test]
fn a_fence_is_around_its_site_alone_and_ends_unless_it_is_renewed() {
    let mut scene = Scene::new();
    assert!(!scene.bars(2));
    let stands = scene.order(7, 0).expect("raised");
    assert_eq!((stands.ends_in_ms, stands.left_ms), (3000, 60_000));
    assert!(scene.bars(2) && !scene.bars(1) && !scene.bars(3));
    for number in 1..=20 {
        scene.pass(S);
        let stands = scene.order(7, number).expect("renewed");
        assert_eq!(stands.ends_in_ms, 3000);
        assert!(scene.bars(2));
    }
    // Nobody ticks: it is over all the same, and neither sooner nor later.
    scene.pass(UNRENEWED_MAX - MS);
    assert!(scene.bars(2));
    scene.pass(MS);
    assert!(!scene.bars(2) && scene.fence.standing(scene.now).is_none());
    assert_eq!(scene.fence.next_deadline(), Some(scene.now));
    scene.fence.tick(scene.now, &mut scene.told);
    let ended = Effect::Ended {
        site: site(2),
        lifted: false,
    };
    assert_eq!(scene.told, [Effect::Raised { site: site(2) }, ended]);
    assert_eq!(scene.fence.next_deadline(), None);
}

#[test]
fn what_is_over_stays_over() {
    let mut scene = Scene::new();
    // It ran out: the drill may not know, and must not take it up again behind its back.
    scene.order(7, 0).expect("raised");
    scene.pass(UNRENEWED_MAX);
    assert_eq!(scene.order(7, 1), Err(Refusal::Over));
    assert_eq!(scene.order(7, 0), Err(Refusal::Over));
    // It was lifted, and a renewal of it comes late, while another drill's fence stands or not.
    scene.order(8, 0).expect("another drill");
    scene.handle(Input::Lift(DrillId(8)));
    assert!(!scene.bars(2));
    assert_eq!(scene.order(8, 1), Err(Refusal::Over));
    scene.order(9, 0).expect("a third one");
    assert_eq!(scene.order(7, 5), Err(Refusal::Over));
    assert_eq!(scene.order(8, 5), Err(Refusal::Over));
    scene.handle(Input::Lift(DrillId(8)));
    assert!(
        scene.bars(2),
        "who lifts one drill's fence lifts no other's"
    );
    // It was lifted before it was heard of at all.
    scene.handle(Input::Lift(DrillId(10)));
    scene.handle(Input::Lift(DrillId(9)));
    assert_eq!(scene.order(10, 0), Err(Refusal::Over));
    assert!(!scene.bars(2));
}

#[test]
fn an_order_that_is_not_the_next_one_of_the_same_drill_changes_nothing() {
    let mut scene = Scene::new();
    assert_eq!(
        scene.order(7, 1),
        Err(Refusal::Unknown),
        "this process never heard it begin"
    );
    scene.order(7, 0).expect("raised");
    scene.pass(S);
    scene.order(7, 2).expect("one may be lost");
    scene.pass(S);
    for late in [0, 1, 2] {
        assert_eq!(scene.order(7, late), Err(Refusal::Stale));
    }
    assert_eq!(scene.order(8, 0), Err(Refusal::Busy), "another drill");
    assert_eq!(
        scene.order_for(7, 3, 3, 60_000),
        Err(Refusal::Busy),
        "another site"
    );
    scene.pass(UNRENEWED_MAX - S);
    assert!(!scene.bars(2), "none of them renewed it");
}

#[test]
fn no_node_fences_its_own_site_or_one_that_it_does_not_know() {
    let mut scene = Scene::new();
    assert_eq!(scene.order_for(7, 0, 1, 60_000), Err(Refusal::OwnSite));
    assert_eq!(scene.order_for(7, 0, 9, 60_000), Err(Refusal::NoSite));
    let mut stranger = Scene::new();
    stranger.handle(Input::Sites(BTreeMap::new()));
    assert_eq!(stranger.order(7, 0), Err(Refusal::NoSite));
    // It is told of its own site only later: it stays in touch with that.
    scene.order(7, 0).expect("raised");
    let mut moved = sites();
    moved.insert(NodeId(1), site(2));
    scene.handle(Input::Sites(moved));
    assert!(!scene.bars(2));
}

#[test]
fn it_ends_when_the_drill_wanted_it_to_and_no_drill_makes_it_last() {
    let mut scene = Scene::new();
    scene.order_for(7, 0, 2, 1500).expect("raised");
    scene.pass(S);
    // A drill that changes its mind upwards is not heeded.
    scene.order_for(7, 1, 2, 60_000).expect("renewed");
    scene.pass(Duration::from_millis(499));
    assert!(scene.bars(2));
    scene.pass(MS);
    assert!(!scene.bars(2), "its time is over");

    let mut endless = Scene::new();
    let mut number = 0;
    while endless.order_for(7, number, 2, u64::MAX).is_ok() {
        number += 1;
        endless.pass(S);
    }
    assert_eq!(endless.now.since(BEGAN), LASTS_MAX);
    assert!(!endless.bars(2));
    assert_eq!(
        endless.order_for(8, 0, 2, 0),
        Err(Refusal::Over),
        "nothing is left"
    );
}

/// What may come to a node, in any order.
#[derive(Clone, Debug)]
enum Event {
    Order {
        drill: u64,
        number: u64,
        site: u8,
        left_ms: u64,
    },
    Lift(u64),
    Pass(u64),
    Tick,
}

fn event() -> impl Strategy<Value = Event> {
    let left = prop_oneof![Just(0_u64), 1..5000_u64, any::<u64>()];
    prop_oneof![
        4 => (1..4_u64, 0..6_u64, 1..5_u8, left).prop_map(|(drill, number, site, left_ms)| {
            Event::Order { drill, number, site, left_ms }
        }),
        1 => (1..4_u64).prop_map(Event::Lift),
        3 => (0..2500_u64).prop_map(Event::Pass),
        1 => Just(Event::Tick),
    ]
}

proptest! {
    /// By a model that remembers every order that was taken: what stands was taken less than 3 s
    /// ago, began with a drill's first order, was never lifted, and is not of this node's site.
    #[test]
    fn whatever_comes_a_fence_is_somebodys_fresh_wish(events in vec(event(), 1..80)) {
        let mut scene = Scene::new();
        let mut lifted: Vec<u64> = Vec::new();
        // (drill, site, number, taken, first taken)
        let mut last: Option<(u64, u8, u64, Time, Time)> = None;
        let mut ended: Vec<u64> = Vec::new();
        for event in events {
            match event {
                Event::Order { drill, number, site, left_ms } => {
                    let stood = last.filter(|_| scene.fence.standing(scene.now).is_some());
                    if scene.order_for(drill, number, site, left_ms).is_ok() {
                        prop_assert!(site != 1, "its own site");
                        prop_assert!(!lifted.contains(&drill) && !ended.contains(&drill));
                        let first = match stood {
                            Some((d, s, n, _, first)) => {
                                prop_assert_eq!((d, s), (drill, site));
                                prop_assert!(number > n, "an older renewal");
                                first
                            }
                            None => {
                                prop_assert_eq!(number, 0, "it never began here");
                                scene.now
                            }
                        };
                        last = Some((drill, site, number, scene.now, first));
                    }
                }
                Event::Lift(drill) => {
                    scene.handle(Input::Lift(DrillId(drill)));
                    lifted.push(drill);
                }
                Event::Pass(ms) => scene.pass(Duration::from_millis(ms)),
                Event::Tick => scene.fence.tick(scene.now, &mut scene.told),
            }
            let stands = scene.fence.standing(scene.now);
            if let (None, Some((drill, ..))) = (stands, last) {
                ended.push(drill);
            }
            prop_assert!(!scene.bars(1), "a node hears its own site");
            let barred: Vec<NodeId> = scene.fence.barred(scene.now).collect();
            prop_assert_eq!(barred.is_empty(), stands.is_none());
            if let Some(stands) = stands {
                let (drill, of, _, taken, first) = last.expect("somebody wished it");
                prop_assert_eq!((stands.drill, stands.site), (DrillId(drill), site(of)));
                prop_assert!(!lifted.contains(&drill));
                prop_assert!(scene.now.since(taken) < UNRENEWED_MAX);
                prop_assert!(scene.now.since(first) < LASTS_MAX);
                prop_assert!(stands.ends_in_ms <= stands.left_ms);
                prop_assert_eq!(barred, vec![NodeId(of.into())]);
            }
        }
    }
}
