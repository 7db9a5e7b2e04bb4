//! What the operator has emptied: he says what he wants until the global group knows it, and
//! takes a disk out once the fabric says that it is gone for good.

use std::time::Duration;

use model::ids::{DiskId, NodeId};
use model::placement::{Duty, Presence};
use raft_meta::GroupId;
use raft_meta::global::{DiskWord, GlobalState};
use raft_meta::node::{AdminCommand, AdminToken};

use super::{Own, Run};
use crate::world::World;

/// How often the operator looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// It is to be emptied, or to serve again.
    Duty(Duty),
    /// It is to be emptied, then to go for good.
    Removal,
}

impl Run {
    /// The operator begins to want something of a disk, or of a node with all its disks.
    pub(super) fn want(&mut self, node: NodeId, disk: Option<DiskId>, wish: Wish) {
        if self.wishes.is_empty() {
            let at = self.world.now() + LOOK_EVERY;
            self.world.schedule(at, Own::Operate.number());
        }
        self.wishes.insert((node, disk), wish);
        self.say(node, disk, wish);
    }

    /// Whether a disk, or a node, may be wanted something of: nobody has it removed.
    pub(super) fn may_want(&self, node: NodeId, disk: Option<DiskId>) -> bool {
        let is_removed = |wish: &Wish| *wish == Wish::Removal;
        let there = disk.is_none_or(|d| self.world.nodes[&node].disks.contains_key(&d));
        there && !self.wishes.get(&(node, disk)).is_some_and(is_removed)
    }

    /// Whether nobody wants a disk, or a node, emptied.
    pub(super) fn is_to_serve(&self, of: &(NodeId, Option<DiskId>)) -> bool {
        let wish = self.wishes.get(of);
        wish.is_none_or(|wish| *wish == Wish::Duty(Duty::Serve))
    }

    /// The operator looks, and says again what nobody knows yet.
    pub(super) fn operate(&mut self) {
        let at = self.world.now() + LOOK_EVERY;
        self.world.schedule(at, Own::Operate.number());
        for ((node, disk), wish) in self.wishes.clone() {
            self.say(node, disk, wish);
            let Some(disk) = disk.filter(|_| wish == Wish::Removal) else {
                continue;
            };
            let there = self.world.nodes[&node].disks.contains_key(&disk);
            if there && is_gone(&self.world, node, disk) {
                self.world.take_out(node, disk);
                self.tell(format!("{disk} is empty, and taken out"));
            }
        }
    }

    fn say(&mut self, node: NodeId, disk: Option<DiskId>, wish: Wish) {
        let Some(command) = newest(&self.world).and_then(|g| unsaid(g, node, disk, wish)) else {
            return;
        };
        let Some(by) = self.running().first().copied() else {
            return;
        };
        self.next_tag += 1;
        self.world.admin(by, AdminToken(self.next_tag), command);
    }

    /// How many disks are to be emptied for what was found of them.
    pub(super) fn found_bad(&self) -> usize {
        let disks = newest(&self.world)
            .into_iter()
            .flat_map(|g| g.disks.values());
        disks.filter(|disk| disk.fault().is_some()).count()
    }

    /// What the operator wants and is not so yet.
    pub(super) fn unwished(&self) -> Option<String> {
        let global = newest(&self.world)?;
        self.wishes.iter().find_map(|((node, disk), wish)| {
            let is_said = unsaid(global, *node, *disk, *wish).is_none();
            let there = disk.is_some_and(|d| self.world.nodes[node].disks.contains_key(&d));
            // A site that is lost for good decides nothing of its disks any more.
            let site = global.sites.get(&self.world.nodes[node].site);
            let decides = site.is_some_and(|s| s.presence == Presence::Up);
            // One that took another's place on a node that is lost for good: no process ever told
            // its site of it, and none will.
            let known = disk.is_some_and(|d| presence(&self.world, *node, d).is_some());
            let heard_of = known || !self.lost.contains(node);
            let waits = *wish == Wish::Removal && there && decides && heard_of;
            (!is_said || waits).then(|| format!("{wish:?} of {node}, {disk:?}"))
        })
    }
}

/// The newest state of the global group that a running node has.
pub(super) fn newest(world: &World) -> Option<&GlobalState> {
    let running = world.running();
    let newest = running.max_by_key(|p| p.meta.applied(GroupId::Global))?;
    newest.meta.global()
}

/// What is still to be said for a wish.
fn unsaid(
    global: &GlobalState,
    node: NodeId,
    disk: Option<DiskId>,
    wish: Wish,
) -> Option<AdminCommand> {
    let duty = match wish {
        Wish::Duty(duty) => duty,
        Wish::Removal => Duty::Drain,
    };
    let Some(disk) = disk else {
        let entry = global.nodes.get(&node)?;
        return (entry.duty != duty).then_some(AdminCommand::SetNodeDuty { node, duty });
    };
    match (global.disks.get(&disk)?.word, wish) {
        (DiskWord::Remove | DiskWord::Lost, _)
        | (DiskWord::Drain, Wish::Duty(Duty::Drain))
        | (DiskWord::Serve | DiskWord::Trusted, Wish::Duty(Duty::Serve)) => None,
        (DiskWord::Drain | DiskWord::Faulty(_), Wish::Removal) => {
            let lost = false;
            Some(AdminCommand::RemoveDisk { disk, lost })
        }
        (_, _) => Some(AdminCommand::SetDiskDuty { disk, duty }),
    }
}

/// Whether the disk's site says that it is gone for good.
fn is_gone(world: &World, node: NodeId, disk: DiskId) -> bool {
    presence(world, node, disk) == Some(Presence::Gone)
}

/// What the disk's site says of it, if it was told of it.
fn presence(world: &World, node: NodeId, disk: DiskId) -> Option<Presence> {
    let site = world.nodes[&node].site;
    let group = GroupId::Site(site);
    let newest = world.running().max_by_key(|p| p.meta.applied(group))?;
    let known = newest.meta.site(site)?.disks.get(&disk)?;
    Some(known.presence)
}
