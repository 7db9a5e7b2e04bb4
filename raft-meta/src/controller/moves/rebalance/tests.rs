//! What is moved so that disks are full by their weights, and that it comes to an end.

use std::net::SocketAddr;
use std::time::Duration;

use model::ids::{Boot, DiskId, Incarnation, NodeId, SiteId, Slot};
use model::placement::{DiskHealth, Duty, Presence};
use model::spread::SlotMove;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::super::decide;
use super::super::tests::{HEAL_AFTER, POOL, Site, drain, node_of, secs};
use super::*;
use crate::detector::Detector;
use crate::message::{Beat, LocalDisk, MemberId};
use crate::replica::StateMachine;
use crate::site::{SiteCommand, SiteReply, SlotAt};

/// How many slots each disk has, or will have.
fn held(state: &SiteState) -> BTreeMap<DiskRef, u64> {
    let mut held: BTreeMap<DiskRef, u64> = state.disks.values().map(|d| (d.at, 0)).collect();
    for at in state.slots.values().flatten().flat_map(BTreeMap::values) {
        *held.entry(at.target()).or_default() += 1;
    }
    held
}

fn begun(commands: &[SiteCommand]) -> Vec<MoveBegin> {
    match commands {
        [] => Vec::new(),
        [SiteCommand::Rebalance(moves)] => moves.clone(),
        other => panic!("nothing but rebalancing: {other:?}"),
    }
}

/// So many slots can't be spread over so many disks more evenly than this.
fn is_even(site: &Site) -> bool {
    let held = held(&site.state);
    let most = held.values().max().expect("disks");
    let least = held.values().min().expect("disks");
    most - least <= 1
}

#[test]
fn a_node_that_joins_gets_its_share_and_then_nothing_moves() {
    let mut site = Site::new(3);
    assert!(
        is_even(&site),
        "as they are given out: {:?}",
        held(&site.state)
    );
    let before: Vec<_> = site.slots().copied().collect();
    site.add_node(4);
    site.hear(0, 5, &[], &[]);
    site.settle(5);
    assert!(is_even(&site), "{:?}", held(&site.state));
    assert_eq!(site.rows_on_one_node(), 0);
    // Nothing went anywhere else.
    for (was, is) in before.iter().zip(site.slots()) {
        assert!(was.disk == is.disk || node_of(is.disk).0 == 4);
    }
    assert_eq!(site.decide(5), []);
}

#[test]
fn a_node_that_serves_again_gets_its_slots_back() {
    let mut site = Site::new(4);
    site.hear(0, 5, &[], &[]);
    drain(&mut site, 2, Duty::Drain);
    site.settle(5);
    assert!(site.slots().all(|at| node_of(at.disk).0 != 2));
    drain(&mut site, 2, Duty::Serve);
    site.settle(5);
    assert!(is_even(&site), "{:?}", held(&site.state));
    // Another life of its disks, empty.
    for old in Site::disks(3) {
        let at = DiskRef {
            incarnation: Incarnation(2),
            ..old
        };
        let (node, capacity_bytes) = (NodeId(3), 1 << 40);
        site.state.apply(SiteCommand::RegisterDisk {
            at,
            node,
            capacity_bytes,
        });
    }
    let commands = site.decide(5);
    assert!(matches!(&commands[..], [SiteCommand::BeginMoves(_)]));
}

#[test]
fn what_is_rebuilt_elsewhere_lies_evenly_at_once() {
    let mut site = Site::new(4);
    site.hear(0, 5, &[], &[]);
    site.node_presence(2, Presence::Up, Presence::Gone);
    let mut moves = 0;
    site.settle_with(5, |command| match command {
        SiteCommand::BeginMoves(begun) => moves += begun.len(),
        other => panic!("brought to a wrong disk: {other:?}"),
    });
    let lost = Site::disks(2);
    let held = held(&site.state);
    let left = held.iter().filter(|(at, _)| !lost.contains(at));
    let left: Vec<u64> = left.map(|(_, n)| *n).collect();
    assert!(
        left.iter().max() <= left.iter().min().map(|n| n + 1).as_ref(),
        "{left:?}"
    );
    assert_eq!(moves, 2 * 64 / 4, "what was lost, once");
}

#[test]
fn few_moves_at_a_time_leave_a_disk_and_come_to_one() {
    let mut site = Site::new(3);
    site.add_node(4);
    site.hear(0, 5, &[], &[]);
    let moves = begun(&site.decide(5));
    let mut per_disk: BTreeMap<DiskRef, usize> = BTreeMap::new();
    let rows: BTreeSet<Row> = moves.iter().map(|m| m.row).collect();
    assert_eq!(rows.len(), moves.len(), "one of a row");
    for begin in &moves {
        let from = site
            .state
            .slot(POOL, begin.row, begin.slot)
            .expect("a slot");
        *per_disk.entry(from.disk).or_default() += 1;
        *per_disk.entry(begin.to).or_default() += 1;
    }
    assert_eq!(moves.len(), 2 * PER_DISK_MAX, "two disks are new");
    assert!(
        per_disk.values().all(|n| *n <= PER_DISK_MAX),
        "{per_disk:?}"
    );
    site.state.apply(SiteCommand::Rebalance(moves));
    assert_eq!(site.decide(5), [], "as long as these are under way");
}

#[test]
fn what_is_lost_or_drained_goes_first_and_a_site_that_is_away_is_waited_for() {
    let fresh = || {
        let mut site = Site::new(3);
        site.add_node(4);
        site.hear(0, 5, &[], &[]);
        site
    };
    let mut site = fresh();
    assert!(!begun(&site.decide(5)).is_empty());
    let away = decide(secs(5), &site.state, &site.detector, HEAL_AFTER, false);
    assert_eq!(away, [], "a site is away");
    // A node is down, and may be back: nothing is moved for less.
    site.hear(5, 10, &[2], &[]);
    site.node_presence(2, Presence::Up, Presence::Down);
    assert_eq!(site.decide(10), []);
    let mut site = fresh();
    drain(&mut site, 1, Duty::Drain);
    let commands = site.decide(5);
    assert!(matches!(&commands[..], [SiteCommand::BeginMoves(_)]));
    for command in commands {
        site.state.apply(command);
    }
    let more = site.decide(5);
    assert!(!more.iter().any(|c| matches!(c, SiteCommand::Rebalance(_))));
}

#[test]
fn a_disk_without_room_is_given_nothing() {
    let mut site = Site::new(3);
    site.add_node(4);
    site.hear(0, 5, &[], &[]);
    let moves = begun(&site.decide(5));
    assert!(moves.iter().all(|m| node_of(m.to).0 == 4));
    let full = moves[0].to;
    let disks = Site::disks(4).map(|at| LocalDisk {
        at,
        capacity_bytes: 1 << 40,
        has_room: at != full,
        health: DiskHealth::default(),
    });
    let beat = super::super::tests::beat(4, Vec::new(), Vec::new());
    let disks = disks.to_vec();
    site.detector
        .heard(secs(5), NodeId(4), Beat { disks, ..beat });
    let moves = begun(&site.decide(5));
    assert!(!moves.is_empty() && moves.iter().all(|m| m.to != full));
}

/// By the state alone, whoever decided it: two leaders may know less of each other.
#[test]
fn what_pays_no_more_is_refused() {
    let mut site = Site::new(3);
    site.add_node(4);
    site.hear(0, 5, &[], &[]);
    let moves = begun(&site.decide(5));
    let again = SiteCommand::Rebalance(moves.clone());
    site.settle(5);
    assert_eq!(site.state.apply(again), SiteReply::Refused, "old versions");
    let now = |m: &MoveBegin| {
        let slot = site.state.slot(m.pool, m.row, m.slot).expect("a slot");
        let elsewhere = Site::disks(1).into_iter().find(|at| *at != slot.disk);
        MoveBegin {
            version: slot.version,
            to: elsewhere.expect("another disk"),
            ..*m
        }
    };
    let moves = SiteCommand::Rebalance(moves.iter().map(now).collect());
    assert_eq!(site.state.apply(moves), SiteReply::Refused, "all is even");
}

/// A site drawn at random: a node's disks by their weights, rows of slots by their disks' numbers.
#[derive(Clone, Debug)]
struct Drawn {
    nodes: Vec<Vec<u64>>,
    rows: Vec<Vec<usize>>,
    drained: usize,
    /// What happens next, again and again.
    chance: Vec<u64>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let nodes = vec(vec(1u64..=4, 1..4), 1..6);
    let rows = vec(vec(any::<usize>(), 0..4), 1..40);
    let parts = (nodes, rows, 0usize..12, vec(any::<u64>(), 64));
    parts.prop_map(|(nodes, rows, drained, chance)| Drawn {
        nodes,
        rows,
        drained,
        chance,
    })
}

fn address() -> SocketAddr {
    "127.0.0.1:1".parse().expect("an address")
}

impl Drawn {
    fn site(&self) -> (SiteState, Detector) {
        let mut state = SiteState::new(SiteId(1), 0);
        let second = Duration::from_secs(1);
        let mut detector = Detector::new(second * 2, second);
        let mut all = Vec::new();
        for (node, weights) in (1..).map(NodeId).zip(&self.nodes) {
            state.apply(SiteCommand::RegisterNode {
                node,
                boot: Boot(1),
                member: MemberId::new(node, Incarnation(1)),
                name: "n".to_owned(),
                address: address(),
                nbd: address(),
            });
            let mut disks = Vec::new();
            for weight in weights {
                let at = DiskRef {
                    disk: DiskId(u32::try_from(all.len()).expect("few")),
                    incarnation: Incarnation(1),
                };
                let capacity_bytes = weight << 30;
                state.apply(SiteCommand::RegisterDisk {
                    at,
                    node,
                    capacity_bytes,
                });
                all.push(at);
                disks.push(LocalDisk {
                    at,
                    capacity_bytes,
                    has_room: true,
                    health: DiskHealth::default(),
                });
            }
            let beat = super::super::tests::beat(node.0, Vec::new(), Vec::new());
            for second in 0..5 {
                let disks = disks.clone();
                detector.heard(
                    secs(second),
                    node,
                    Beat {
                        disks,
                        ..beat.clone()
                    },
                );
            }
        }
        let slot = |(slot, at): (u8, &usize)| (Slot(slot), SlotAt::new(all[at % all.len()]));
        let row = |row: &Vec<usize>| (0..).zip(row).map(slot).collect();
        state
            .slots
            .insert(POOL, self.rows.iter().map(row).collect());
        if let Some(at) = all.get(self.drained).copied() {
            let duty = Duty::Drain;
            state.apply(SiteCommand::SetDiskDuty { at, duty });
        }
        (state, detector)
    }
}

/// How often slots of a row share a disk, and how often a node.
fn crowding(state: &SiteState) -> Vec<(u64, u64)> {
    let pairs = |counts: BTreeMap<u32, u64>| counts.values().map(|n| n * n).sum::<u64>();
    let row = |row: &BTreeMap<Slot, SlotAt>| {
        let (mut disks, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for at in row.values().map(SlotAt::target) {
            *disks.entry(at.disk.0).or_default() += 1;
            let node = state.disks[&at.disk].node;
            *nodes.entry(u32::from(node.0)).or_default() += 1;
        }
        (pairs(disks), pairs(nodes))
    };
    state.slots[&POOL].iter().map(row).collect()
}

/// The sum of `slots^2 / weight` over disks that take slots, times what all weights divide.
fn imbalance(state: &SiteState) -> u64 {
    let held = held(state);
    let candidates = state.candidates();
    let of = |c: &Candidate| held[&c.at].pow(2) * 12 / (c.weight >> 10);
    candidates.iter().map(of).sum()
}

/// Some move that would pay by a thirty-second or more, by trying all.
fn paying(state: &SiteState) -> Option<(Row, Slot, DiskRef)> {
    let candidates = state.candidates();
    let held = held(state);
    let before = crowding(state);
    for (number, row) in (0..).zip(&state.slots[&POOL]) {
        for (slot, at) in row {
            let Some(from) = candidates.iter().find(|c| c.at == at.disk) else {
                continue;
            };
            for to in candidates.iter().filter(|c| c.at != at.disk) {
                let next = (2 * held[&to.at] + 1) * from.weight * 32;
                let last = (2 * held[&from.at] - 1) * to.weight * 31;
                let mut moved = state.clone();
                let table = moved.slots.get_mut(&POOL).expect("the pool");
                table[usize::from(number)].insert(*slot, SlotAt::new(to.at));
                if next < last
                    && crowding(&moved)[usize::from(number)] <= before[usize::from(number)]
                {
                    return Some((Row(number), *slot, to.at));
                }
            }
        }
    }
    None
}

/// One move under way ends.
fn end_one(state: &mut SiteState, chance: u64) {
    let mut moving = Vec::new();
    for (row, slots) in (0..).map(Row).zip(&state.slots[&POOL]) {
        for (slot, at) in slots {
            moving.extend(at.to.map(|to| SlotMove {
                pool: POOL,
                row,
                slot: *slot,
                version: at.version,
                to,
            }));
        }
    }
    if !moving.is_empty() {
        let nth = usize::try_from(chance % moving.len() as u64).expect("small");
        state.apply(SiteCommand::EndMoves(vec![moving[nth]]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// From any state the plan ends; each of its moves lowers the imbalance and spreads no row
    /// worse, in whatever order moves end, and though old decisions are committed late.
    #[test]
    fn rebalancing_ends_where_no_move_pays(drawn in drawn()) {
        let (mut state, detector) = drawn.site();
        let mut chance = drawn.chance.iter().cycle().copied();
        let mut old: Option<SiteCommand> = None;
        for step in 0.. {
            prop_assert!(step < 2000, "it never ends");
            let mut commands = decide(secs(5), &state, &detector, HEAL_AFTER, true);
            let is_over = commands.is_empty();
            let late = chance.next().expect("it cycles").is_multiple_of(4);
            if late {
                commands.extend(old.take());
            }
            for command in commands {
                let before = state.clone();
                state.apply(command.clone());
                if let SiteCommand::Rebalance(_) = &command {
                    let worse = crowding(&state).into_iter().zip(crowding(&before));
                    prop_assert!(worse.into_iter().all(|(is, was)| is <= was));
                    prop_assert!(imbalance(&state) < imbalance(&before) || state == before);
                    old = Some(command);
                }
            }
            let at_rest = |at: &SlotAt| at.to.is_none();
            if is_over && state.slots[&POOL].iter().flat_map(BTreeMap::values).all(at_rest) {
                break;
            }
            end_one(&mut state, chance.next().expect("it cycles"));
        }
        prop_assert_eq!(paying(&state), None);
    }

    /// Nothing needs to move of a pool that was just made.
    #[test]
    fn slots_are_given_out_so_that_no_move_pays(drawn in drawn()) {
        let (mut state, _) = drawn.site();
        let slots = |row: &Vec<usize>| (0..).zip(row).map(|(slot, _)| Slot(slot)).collect();
        let rows = drawn.rows.iter().map(slots).collect();
        state.slots.clear();
        let assigned = state.apply(SiteCommand::AssignPool { pool: POOL, rows });
        prop_assert_eq!(assigned, SiteReply::Done);
        prop_assert_eq!(paying(&state), None);
    }

    /// Where rows bear every move, as many slots move as some disk has too many.
    #[test]
    fn no_slot_moves_for_nothing(drawn in drawn()) {
        let mut drawn = drawn;
        drawn.drained = usize::MAX;
        drawn.rows.iter_mut().for_each(|row| row.truncate(1));
        let (mut state, detector) = drawn.site();
        let before = held(&state);
        let mut moves = 0;
        loop {
            let commands = decide(secs(5), &state, &detector, HEAL_AFTER, true);
            let begun = begun(&commands);
            if begun.is_empty() {
                break;
            }
            moves += begun.len() as u64;
            prop_assert!(moves < 1000);
            for command in commands {
                state.apply(command);
            }
            while state.slots[&POOL].iter().flatten().any(|(_, at)| at.to.is_some()) {
                end_one(&mut state, 0);
            }
        }
        let after = held(&state);
        let came: u64 = after.iter().map(|(at, n)| n.saturating_sub(before[at])).sum();
        prop_assert_eq!(moves, came);
        prop_assert_eq!(paying(&state), None);
    }
}
