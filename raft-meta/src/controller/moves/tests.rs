//! Which moves are proposed, as a function of the site's state and of who is heard.

use model::geometry::Code;
use model::ids::{Boot, DiskId, Incarnation, NodeId, SiteId, Version};
use model::placement::{DiskHealth, Duty};

use super::*;
use crate::message::{Beat, LocalDisk, MemberId};
use crate::replica::StateMachine;

pub(super) const POOL: Pool = Pool::of(Code::Rs { k: 4, m: 2 });
const ROWS: usize = 64;
pub(super) const HEAL_AFTER: Duration = Duration::from_secs(600);

fn at(id: u32) -> DiskRef {
    DiskRef {
        disk: DiskId(id),
        incarnation: Incarnation(1),
    }
}

pub(super) fn node_of(at: DiskRef) -> NodeId {
    NodeId(u16::try_from(at.disk.0 / 10).expect("small"))
}

/// A site of so many nodes, each with two disks, that holds two slots of each row; and
/// what is heard of it: everybody's beats every second until `silent` says no more.
pub(super) struct Site {
    pub(super) state: SiteState,
    pub(super) detector: Detector,
    nodes: u16,
}

impl Site {
    pub(super) fn new(nodes: u16) -> Self {
        let second = Duration::from_secs(1);
        let mut site = Self {
            state: SiteState::new(SiteId(1), 0),
            detector: Detector::new(second * 2, second),
            nodes: 0,
        };
        (1..=nodes).for_each(|n| site.add_node(n));
        let rows = vec![vec![Slot(0), Slot(3)]; ROWS];
        site.state
            .apply(SiteCommand::AssignPool { pool: POOL, rows });
        site
    }

    pub(super) fn disks(node: u16) -> [DiskRef; 2] {
        [at(u32::from(node) * 10), at(u32::from(node) * 10 + 1)]
    }

    pub(super) fn add_node(&mut self, node: u16) {
        let address = "127.0.0.1:1".parse().expect("an address");
        self.nodes = self.nodes.max(node);
        self.state.apply(SiteCommand::RegisterNode {
            node: NodeId(node),
            boot: Boot(1),
            member: MemberId::new(NodeId(node), Incarnation(1)),
            name: "n".to_owned(),
            address,
            nbd: address,
        });
        for at in Self::disks(node) {
            self.state.apply(SiteCommand::RegisterDisk {
                at,
                node: NodeId(node),
                capacity_bytes: 1 << 40,
            });
        }
    }

    /// Beats from second `from` to `to`; these nodes and disks are not in them.
    pub(super) fn hear(&mut self, from: u64, to: u64, silent: &[u16], without: &[DiskRef]) {
        for second in from..to {
            for node in (1..=self.nodes).filter(|n| !silent.contains(n)) {
                let disks = Self::disks(node)
                    .into_iter()
                    .filter(|at| !without.contains(at));
                let beat = beat(node, disks.collect(), Vec::new());
                self.detector.heard(secs(second), NodeId(node), beat);
            }
        }
    }

    pub(super) fn node_presence(&mut self, node: u16, expected: Presence, to: Presence) {
        let (node, boot) = (NodeId(node), Boot(1));
        let command = SiteCommand::SetNodePresence {
            node,
            expected,
            boot,
            to,
        };
        self.state.apply(command);
    }

    pub(super) fn decide(&self, second: u64) -> Vec<SiteCommand> {
        decide(secs(second), &self.state, &self.detector, HEAL_AFTER, true)
    }

    /// Applies what is decided, ending each move at once, until nothing is.
    pub(super) fn settle(&mut self, second: u64) {
        self.settle_with(second, |_| {});
    }

    pub(super) fn settle_with(&mut self, second: u64, mut look: impl FnMut(&SiteCommand)) {
        for _ in 0..200 {
            let commands = self.decide(second);
            let Some(command) = commands.into_iter().next() else {
                return;
            };
            look(&command);
            let (SiteCommand::BeginMoves(moves) | SiteCommand::Rebalance(moves)) = &command else {
                panic!("nobody says that a move is over: {command:?}");
            };
            let ends = moves.iter().map(|begin| SlotMove {
                pool: begin.pool,
                row: begin.row,
                slot: begin.slot,
                version: begin.version.next(),
                to: begin.to,
            });
            let ends = ends.collect();
            self.state.apply(command);
            self.state.apply(SiteCommand::EndMoves(ends));
        }
        panic!("it never settles");
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &SlotAt> {
        self.state.slots[&POOL].iter().flat_map(BTreeMap::values)
    }

    pub(super) fn rows_on_one_node(&self) -> usize {
        let rows = self.state.slots[&POOL].iter();
        let nodes = rows.map(|row| row.values().map(|at| node_of(at.target())).collect());
        nodes
            .filter(|nodes: &BTreeSet<NodeId>| nodes.len() == 1)
            .count()
    }
}

pub(super) fn beat(node: u16, disks: Vec<DiskRef>, healed: Vec<SlotMove>) -> Beat {
    let address = "127.0.0.1:1".parse().expect("an address");
    let local = |at| LocalDisk {
        at,
        capacity_bytes: 1 << 40,
        has_room: true,
        health: DiskHealth::default(),
    };
    Beat {
        site: SiteId(1),
        boot: Boot(1),
        member: MemberId::new(NodeId(node), Incarnation(1)),
        name: "n".to_owned(),
        address,
        nbd: address,
        site_quorum: true,
        global_quorum: true,
        disks: disks.into_iter().map(local).collect(),
        healed,
    }
}

pub(super) fn secs(s: u64) -> Time {
    Time(s * 1_000_000_000)
}

#[test]
fn a_site_that_is_whole_moves_nothing() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    assert_eq!(site.decide(5), []);
}

#[test]
fn a_dead_node_is_waited_for_and_then_its_slots_leave_it() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    site.hear(5, 700, &[2], &[]);
    site.node_presence(2, Presence::Up, Presence::Down);
    assert_eq!(site.decide(500), [], "it may be back");
    let commands = site.decide(605);
    let [SiteCommand::BeginMoves(moves)] = &commands[..] else {
        panic!("moves: {commands:?}");
    };
    for begin in moves {
        let slot = site
            .state
            .slot(begin.pool, begin.row, begin.slot)
            .expect("a slot");
        assert_eq!(node_of(slot.disk), NodeId(2));
        assert_ne!(node_of(begin.to), NodeId(2));
    }
    site.settle(605);
    assert!(site.slots().all(|at| node_of(at.disk) != NodeId(2)));
    assert_eq!(
        site.rows_on_one_node(),
        0,
        "two nodes are enough for two slots"
    );
}

/// With two nodes every row counts on both: without the first rows' moves nothing could be
/// written until the other one is back, or given up.
#[test]
fn the_first_rows_of_a_pool_that_nobody_can_write_to_do_not_wait() {
    let mut site = Site::new(2);
    site.hear(0, 10, &[], &[]);
    assert!(site.decide(10).is_empty());
    site.hear(10, 14, &[2], &[]);
    site.node_presence(2, Presence::Up, Presence::Down);
    site.settle(14);
    let fits =
        |row: &BTreeMap<Slot, SlotAt>| row.values().all(|at| node_of(at.target()) == NodeId(1));
    let table = site.state.slots[&POOL].clone();
    assert!(
        table[..ROWS / FIT_SHARE].iter().all(fits),
        "the same rows at every site"
    );
    assert!(
        !table[ROWS / FIT_SHARE..].iter().any(fits),
        "the others wait"
    );

    // With a third node a share of the rows never counted on the dead one: nothing moves.
    let mut site = Site::new(3);
    site.hear(0, 10, &[], &[]);
    site.hear(10, 14, &[2], &[]);
    site.node_presence(2, Presence::Up, Presence::Down);
    assert!(site.decide(14).is_empty());
}

#[test]
fn a_disk_that_its_node_does_not_serve_any_more_is_left_too() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    site.hear(5, 700, &[], &[at(20)]);
    let (expected, to) = (Presence::Up, Presence::Down);
    let at = at(20);
    site.state
        .apply(SiteCommand::SetDiskPresence { at, expected, to });
    assert_eq!(site.decide(500), []);
    site.settle(650);
    assert!(site.slots().all(|slot| slot.disk != at));
    assert_eq!(site.rows_on_one_node(), 0);
}

#[test]
fn the_operators_word_and_another_life_count_at_once() {
    for gone in [true, false] {
        let mut site = Site::new(3);
        site.hear(0, 5, &[], &[]);
        if gone {
            site.node_presence(2, Presence::Up, Presence::Gone);
        } else {
            for old in Site::disks(2) {
                let at = DiskRef {
                    incarnation: Incarnation(2),
                    ..old
                };
                let (node, capacity_bytes) = (NodeId(2), 1 << 40);
                site.state.apply(SiteCommand::RegisterDisk {
                    at,
                    node,
                    capacity_bytes,
                });
            }
        }
        site.settle(6);
        let lost = |slot: &SlotAt| Site::disks(2).contains(&slot.disk);
        assert!(!site.slots().any(lost));
        assert_eq!(site.rows_on_one_node(), 0);
    }
}

#[test]
fn slots_that_had_to_share_a_node_part_when_there_is_another_one() {
    let mut site = Site::new(2);
    site.hear(0, 5, &[], &[]);
    site.node_presence(2, Presence::Up, Presence::Gone);
    site.settle(6);
    assert_eq!(site.rows_on_one_node(), ROWS, "one node is left");
    let apart = |row: &BTreeMap<Slot, SlotAt>| row[&Slot(0)].disk != row[&Slot(3)].disk;
    assert!(
        site.state.slots[&POOL].iter().all(apart),
        "on two disks of it"
    );
    site.add_node(3);
    site.hear(6, 10, &[], &[]);
    site.settle(10);
    assert_eq!(site.rows_on_one_node(), 0);
}

#[test]
fn moves_to_one_disk_are_few_at_a_time_and_the_weakest_rows_come_first() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    // Two of three nodes, one after the other: some rows lost both of their slots.
    site.node_presence(1, Presence::Up, Presence::Gone);
    site.node_presence(2, Presence::Up, Presence::Gone);
    let commands = site.decide(6);
    let [SiteCommand::BeginMoves(moves)] = &commands[..] else {
        panic!("moves: {commands:?}");
    };
    assert_eq!(moves.len(), 2 * MOVES_PER_DISK_MAX, "two disks are left");
    let lost = |row: Row| {
        let slots = site.state.slots[&POOL][usize::from(row.0)].values();
        slots.filter(|at| node_of(at.disk) != NodeId(3)).count()
    };
    let losses: Vec<usize> = moves.iter().map(|begin| lost(begin.row)).collect();
    assert!(losses.is_sorted_by(|a, b| a >= b), "{losses:?}");
    assert!(losses[0] == 2);
}

#[test]
fn a_move_is_over_by_the_word_of_its_new_disks_node_alone() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    site.node_presence(2, Presence::Up, Presence::Gone);
    let commands = site.decide(6);
    let SiteCommand::BeginMoves(moves) = commands[0].clone() else {
        panic!("moves: {commands:?}");
    };
    site.state.apply(commands[0].clone());
    let begin = moves[0];
    let ended = |version| SlotMove {
        pool: begin.pool,
        row: begin.row,
        slot: begin.slot,
        version,
        to: begin.to,
    };
    let over = ended(begin.version.next());
    let target = node_of(begin.to).0;
    let other = 4 - target;
    let decided = |site: &mut Site, node: u16, healed| {
        let beat = beat(node, Site::disks(node).to_vec(), vec![healed]);
        site.detector.heard(secs(6), NodeId(node), beat);
        let commands = site.decide(6);
        commands
            .into_iter()
            .find(|c| matches!(c, SiteCommand::EndMoves(_)))
    };
    assert_eq!(decided(&mut site, other, over), None);
    assert_eq!(
        decided(&mut site, target, ended(Version(7))),
        None,
        "another move's word"
    );
    let end = decided(&mut site, target, over).expect("it is over");
    site.state.apply(end);
    let slot = site
        .state
        .slot(begin.pool, begin.row, begin.slot)
        .expect("a slot");
    assert_eq!((slot.disk, slot.to), (begin.to, None));
}

#[test]
fn a_target_that_is_lost_is_replaced_and_where_it_came_from_is_the_best() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    site.hear(5, 700, &[2], &[]);
    site.node_presence(2, Presence::Up, Presence::Down);
    let commands = site.decide(650);
    site.state.apply(commands[0].clone());
    // The old node is back, and all that its slots were moved to goes.
    site.hear(700, 705, &[], &[]);
    site.node_presence(2, Presence::Down, Presence::Up);
    site.node_presence(1, Presence::Up, Presence::Gone);
    site.node_presence(3, Presence::Up, Presence::Gone);
    let commands = site.decide(705);
    let [SiteCommand::BeginMoves(moves)] = &commands[..] else {
        panic!("moves: {commands:?}");
    };
    assert!(moves.iter().all(|begin| node_of(begin.to) == NodeId(2)));
    let slot = |begin: &MoveBegin| site.state.slot(begin.pool, begin.row, begin.slot);
    let redirected = moves.iter().filter_map(slot).filter(|at| at.to.is_some());
    let redirected: Vec<SlotAt> = redirected.collect();
    assert!(!redirected.is_empty(), "to where they came from");
    assert!(redirected.iter().all(|at| node_of(at.disk) == NodeId(2)));
    site.settle(705);
    assert!(site.slots().all(|at| node_of(at.target()) == NodeId(2)));
}

pub(super) fn drain(site: &mut Site, node: u16, duty: Duty) {
    for at in Site::disks(node) {
        let done = site.state.apply(SiteCommand::SetDiskDuty { at, duty });
        assert_eq!(done, crate::site::SiteReply::Done);
    }
}

#[test]
fn a_disk_that_is_drained_is_emptied_and_given_nothing() {
    let mut site = Site::new(4);
    site.hear(0, 5, &[], &[]);
    drain(&mut site, 2, Duty::Drain);
    let commands = site.decide(5);
    let [SiteCommand::BeginMoves(moves)] = &commands[..] else {
        panic!("moves: {commands:?}");
    };
    site.state.apply(commands[0].clone());
    for begin in moves {
        let slot = site.state.slot(begin.pool, begin.row, begin.slot);
        let slot = slot.expect("a slot");
        assert_eq!(
            node_of(slot.disk),
            NodeId(2),
            "it serves until the move ends"
        );
        assert_ne!(node_of(begin.to), NodeId(2));
    }
    let mut site = Site::new(4);
    site.hear(0, 5, &[], &[]);
    drain(&mut site, 2, Duty::Drain);
    site.settle(5);
    assert!(site.slots().all(|at| node_of(at.target()) != NodeId(2)));
    assert_eq!(site.rows_on_one_node(), 0);
    // What is begun by somebody who did not know yet is refused.
    let begin = MoveBegin {
        pool: POOL,
        row: Row(0),
        slot: Slot(0),
        version: site
            .state
            .slot(POOL, Row(0), Slot(0))
            .expect("a slot")
            .version,
        to: at(20),
    };
    let refused = site.state.apply(SiteCommand::BeginMoves(vec![begin]));
    assert_eq!(refused, crate::site::SiteReply::Refused);
    // It serves again: a slot whose disk is lost may go there.
    drain(&mut site, 2, Duty::Serve);
    site.node_presence(1, Presence::Up, Presence::Gone);
    site.node_presence(3, Presence::Up, Presence::Gone);
    site.settle(5);
    assert!(site.slots().any(|at| node_of(at.target()) == NodeId(2)));
}

/// What was written since a move began is at its target alone.
#[test]
fn a_move_to_a_disk_that_is_drained_ends_before_the_slot_moves_on() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    site.node_presence(2, Presence::Up, Presence::Gone);
    let commands = site.decide(5);
    site.state.apply(commands[0].clone());
    drain(&mut site, 1, Duty::Drain);
    let begun: Vec<SlotAt> = site.slots().filter(|at| at.to.is_some()).copied().collect();
    assert!(begun.iter().any(|at| node_of(at.target()) == NodeId(1)));
    if let [SiteCommand::BeginMoves(moves)] = &site.decide(5)[..] {
        let redirected = |begin: &MoveBegin| {
            let slot = site.state.slot(begin.pool, begin.row, begin.slot);
            slot.is_some_and(|at| at.to.is_some())
        };
        assert!(!moves.iter().any(redirected));
    }
}

#[test]
fn a_site_whose_disks_are_all_drained_moves_nothing_but_what_is_lost() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    (1..=3).for_each(|node| drain(&mut site, node, Duty::Drain));
    assert_eq!(site.decide(5), []);
    site.node_presence(2, Presence::Up, Presence::Gone);
    site.settle(6);
    assert!(site.slots().all(|at| node_of(at.target()) != NodeId(2)));
}

#[test]
fn a_disk_goes_for_good_once_no_slot_is_on_it() {
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    let remove = |site: &mut Site, lost| {
        let at = at(20);
        site.state.apply(SiteCommand::RemoveDisk { at, lost })
    };
    assert_eq!(remove(&mut site, false), crate::site::SiteReply::Refused);
    drain(&mut site, 2, Duty::Drain);
    assert_eq!(remove(&mut site, false), crate::site::SiteReply::Refused);
    site.settle(5);
    assert_eq!(remove(&mut site, false), crate::site::SiteReply::Done);
    assert_eq!(site.state.disks[&DiskId(20)].presence, Presence::Gone);
    // A lost one goes at once, and its slots leave it.
    let mut site = Site::new(3);
    site.hear(0, 5, &[], &[]);
    assert_eq!(remove(&mut site, true), crate::site::SiteReply::Done);
    site.settle(5);
    assert!(site.slots().all(|slot| slot.disk != at(20)));
}
