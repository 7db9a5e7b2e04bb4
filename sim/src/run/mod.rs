//! One run: a fabric is founded, a volume made, clients work while things go wrong, all is
//! mended, and everything must be served and right.

mod answers;
mod clients;
mod drains;
mod ending;
mod found;
mod growth;
mod maintenance;
mod operator;
mod outcome;
mod recover;
mod resume;
mod shutdown;
mod sizes;
mod strike;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actors::client::Tag;
use actors::planted::Bug;
use model::ids::{ClientId, DiskId, NodeId, SiteId, VolumeId};
use model::time::Time;
use raft_meta::node::AdminToken;

use crate::allocation::AllocationModel;
use crate::faults::{Atlas, FaultPlan, Struck};
use crate::invariants::Guard;
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::plan::load::Scripted;
use crate::plan::topology::NodeName;
use crate::report::Entry;
use crate::rng::Rng;
use crate::workload::Workload;
use crate::world::{Happening, World};
use clients::{Pending, Slot};
use growth::Adding;
pub use outcome::{Failure, Outcome};
use resume::Resumed;
use sizes::Sizes;
use strike::Stage;

/// How a plan is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Trace lines to keep for a report.
    pub keep: usize,
    /// Count what travels between sites, header by header: it costs time.
    pub count_wan: bool,
}

/// A run has some ten thousand events, rarely a hundred thousand.
const EVENTS_MAX: u64 = 1_000_000;

/// The run's own events: kind in the upper half, number in the lower one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Own {
    /// Nothing but time.
    Tick,
    /// A fault is armed.
    Arm(usize),
    /// A fault strikes.
    Strike(usize),
    /// A fault is mended.
    Mend(usize),
    /// A client is opened in a slot.
    Open(usize),
    /// A lane of a slot asks again.
    Lane(usize),
    /// A scripted operation is due.
    Scripted(usize),
    /// The operator adds a disk.
    AddDisk(usize),
    /// A slot's client moves to where its volume is.
    Follow(usize),
    /// The operator looks whether what he wants is so.
    Operate,
    /// The operator looks whether the volume has the size that he wants.
    Resize,
    /// A node joins.
    Join(usize),
    /// A site is added.
    Build(usize),
    /// The operator looks whether the volume must be recovered.
    Recover,
    /// It is looked whether a process that was asked to has ended.
    End(NodeId),
}

impl Own {
    fn number(self) -> u64 {
        let (kind, i) = match self {
            Self::Tick => (0, 0),
            Self::Arm(i) => (1, i),
            Self::Strike(i) => (2, i),
            Self::Mend(i) => (3, i),
            Self::Open(i) => (4, i),
            Self::Lane(i) => (5, i),
            Self::Scripted(i) => (6, i),
            Self::AddDisk(i) => (7, i),
            Self::Follow(i) => (8, i),
            Self::Operate => (9, 0),
            Self::Resize => (10, 0),
            Self::Join(i) => (11, i),
            Self::Build(i) => (14, i),
            Self::Recover => (12, 0),
            Self::End(node) => (13, usize::from(node.0)),
        };
        kind << 32 | i as u64
    }

    fn of(number: u64) -> Self {
        let i = (number & 0xffff_ffff) as usize;
        match number >> 32 {
            1 => Self::Arm(i),
            2 => Self::Strike(i),
            3 => Self::Mend(i),
            4 => Self::Open(i),
            5 => Self::Lane(i),
            6 => Self::Scripted(i),
            14 => Self::Build(i),
            7 => Self::AddDisk(i),
            8 => Self::Follow(i),
            9 => Self::Operate,
            10 => Self::Resize,
            11 => Self::Join(i),
            12 => Self::Recover,
            13 => Self::End(NodeId(i as u16)),
            _ => Self::Tick,
        }
    }
}

struct Run {
    plan: Plan,
    world: World,
    /// For the founding, and what is drawn anew at a node's start.
    rng: Rng,
    /// Where clients go.
    placing: Rng,
    /// How long lanes pause.
    thinking: Rng,
    /// Whom the operator asks for another size.
    rng_of_sizes: Rng,
    oracle: Oracle,
    allocation: AllocationModel,
    guard: Guard,
    workload: Workload,
    volume: VolumeId,
    by_name: BTreeMap<NodeName, NodeId>,
    slots: Vec<Slot>,
    pending: BTreeMap<(ClientId, Tag), Pending>,
    next_client: u64,
    next_tag: u64,
    /// When clients began.
    begun: Time,
    /// No operation begins any more.
    closing: bool,
    /// No client comes back.
    leaving: bool,
    /// Clients that were asked to leave.
    left: BTreeSet<ClientId>,
    /// Lanes are busy from the first to the second.
    flurries: Vec<(Time, Time)>,
    /// What was asked, for a script.
    asked: Vec<Scripted>,
    answered: u64,
    faults: Vec<(FaultPlan, Stage)>,
    struck: Vec<Struck>,
    resumed: Resumed,
    timeline: Vec<Entry>,
    bytes_lost: u64,
    healed_after: Option<Duration>,
    /// What may still be hurt.
    atlas: Atlas,
    /// What is being added, by the command's token.
    adding: BTreeMap<AdminToken, Adding>,
    /// Disks that were, or are, given to nodes, and how large they are.
    given: Vec<(NodeId, u64)>,
    /// Nodes that join, or joined, and how large their disks are.
    joining: Vec<(NodeName, u64)>,
    /// Sites that come, by their numbers, and those that the fabric knows.
    building: Vec<u64>,
    built: BTreeMap<u64, SiteId>,
    /// What the operator wants of nodes and disks.
    wishes: BTreeMap<(NodeId, Option<DiskId>), drains::Wish>,
    /// What the operator wants of the volume's size.
    sizes: Sizes,
    /// What he holds for lost.
    recovery: recover::Recovery,
    /// When a write was refused last for want of room.
    refused: Option<Time>,
    /// When the last one was called that was acknowledged.
    taken: Option<Time>,
    /// Until then reads may be stale: a clock runs wrong beyond the lease's margin.
    stale_until: Time,
    dead: BTreeSet<NodeId>,
    /// Nodes whose processes were asked to end: in which life, and until when they may take.
    ending: BTreeMap<NodeId, (u64, Time)>,
    /// Nodes in maintenance, and how many slots lay on their disks before.
    resting: BTreeMap<NodeId, usize>,
    lost: BTreeSet<NodeId>,
    deaf: bool,
}

#[cfg(feature = "planted")]
fn plant(bug: Option<Bug>) {
    actors::planted::plant(bug);
}

#[cfg(not(feature = "planted"))]
fn plant(bug: Option<Bug>) {
    assert!(bug.is_none(), "there are no planted bugs in this build");
}

/// Runs a plan.
#[must_use]
pub fn run(plan: &Plan, options: Options) -> Outcome {
    plant(options.bug);
    // What an earlier run of this thread reached is not this one's.
    drop(model::sometimes::take());
    let mut run = Run::new(plan.clone(), options);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.go()));
    plant(None);
    let failure = match caught {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(Failure::Panicked(
                text.unwrap_or_else(|| "without a word".to_owned()),
            ))
        }
    };
    run.outcome(failure)
}

/// Runs a plan again, whose outcome is known. If it does not come to the same, says where it
/// goes another way.
#[must_use]
pub fn differs(plan: &Plan, options: Options, first: &Outcome) -> Option<String> {
    let again = run(plan, Options { keep: 0, ..options });
    if (again.trace_hash, again.events) == (first.trace_hash, first.events) {
        return None;
    }
    let keep = Options {
        keep: usize::MAX,
        ..options
    };
    let (a, b) = (run(plan, keep), run(plan, keep));
    let at = a.tail.iter().zip(&b.tail).position(|(a, b)| a != b);
    let number = at.unwrap_or(a.tail.len().min(b.tail.len()));
    let line = |of: &Outcome| {
        of.tail
            .get(number)
            .cloned()
            .unwrap_or_else(|| "the end".to_owned())
    };
    Some(format!(
        "event {number}:\n  once  {}\n  twice {}",
        line(&a),
        line(&b)
    ))
}

impl Run {
    fn go(&mut self) -> Result<(), Failure> {
        self.found()?;
        self.create_volume()?;
        self.work()?;
        self.end()
    }

    /// Steps until `done`, at most `span` of virtual time.
    fn until(
        &mut self,
        what: &str,
        span: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Failure> {
        let end = self.world.now() + span;
        while !done(self) {
            if self.world.now() > end || !self.world.step() {
                let state = self.world.describe(self.volume);
                return Err(Failure::Stuck(format!(
                    "{what}: not within {span:?} ({state})"
                )));
            }
            if self.world.trace.events() > EVENTS_MAX {
                return Err(Failure::Storm(EVENTS_MAX));
            }
            self.look_around()?;
            if self.world.has_notes() {
                let clocks = self.world.now() >= self.stale_until;
                self.guard.look(&mut self.world, clocks)?;
            }
        }
        Ok(())
    }

    /// Lets so much time pass.
    fn pass(&mut self, span: Duration) -> Result<(), Failure> {
        let end = self.world.now() + span;
        self.world.schedule(end, Own::Tick.number());
        self.until("time", span * 2, |run| run.world.now() >= end)
    }

    fn look_around(&mut self) -> Result<(), Failure> {
        while self.world.has_happenings() {
            for happening in self.world.take_happenings() {
                self.look(happening)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, happening: Happening) -> Result<(), Failure> {
        match happening {
            Happening::Run(number) => match Own::of(number) {
                Own::Tick => {}
                Own::Arm(i) => self.arm(i),
                Own::Strike(i) => self.strike(i),
                Own::Mend(i) => self.mend(i)?,
                Own::Open(slot) => self.open(slot),
                Own::Lane(lane) => self.lane_due(lane),
                Own::Scripted(i) => self.scripted(i),
                Own::AddDisk(i) => self.give(i),
                Own::Join(i) => self.join(i),
                Own::Build(i) => self.add_site(i),
                Own::Follow(slot) => self.follow(slot),
                Own::Operate => self.operate(),
                Own::Resize => self.resize(),
                Own::Recover => self.recover(),
                Own::End(node) => self.look_at_end(node),
            },
            Happening::Meta { .. } => {}
            Happening::Admin { token, reply, .. } => self.admin_replied(token, &reply),
            Happening::Complete {
                client, tag, reply, ..
            } => self.complete(client, tag, reply)?,
            Happening::ClientEnded { client, killed, .. } => self.client_ended(client, killed)?,
            Happening::Serving { node, epoch } => {
                let name = self.name(node);
                self.tell(format!("{name} serves the volume, epoch {}", epoch.0));
                self.note_recovery(epoch);
                self.owner_changed();
            }
        }
        Ok(())
    }

    /// Clients work while things go wrong, and a little longer.
    fn work(&mut self) -> Result<(), Failure> {
        self.begun = self.world.now();
        let script = std::mem::take(&mut self.plan.workload.operations);
        for (i, op) in script.iter().enumerate() {
            self.world
                .schedule(self.begun + op.at, Own::Scripted(i).number());
        }
        self.plan.workload.operations = script;
        self.plan_faults();
        self.open_slots();
        let quiet = self.begun + self.plan.workload.span;
        self.world.schedule(quiet, Own::Tick.number());
        let bound = self.plan.workload.span + self.last_fault_by();
        self.until("the faults' end", bound, |run| {
            run.world.now() >= quiet && run.faults_are_over()
        })?;
        self.await_resumption()
    }

    /// What happened now, for the report.
    fn tell(&mut self, what: String) {
        let at = self.world.now().since(self.begun);
        self.timeline.push(Entry { at, what });
    }

    /// A node's name.
    fn name(&self, node: NodeId) -> String {
        let of = self.world.nodes.get(&node);
        of.map_or_else(|| node.to_string(), |n| n.identity.name.clone())
    }

    fn running(&self) -> Vec<NodeId> {
        self.world
            .nodes
            .values()
            .filter(|n| n.process.is_some())
            .map(|n| n.id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_events_are_told_apart() {
        let all = [
            Own::Tick,
            Own::Arm(3),
            Own::Strike(0),
            Own::Mend(7),
            Own::Open(2),
            Own::Lane(9),
            Own::Scripted(4),
            Own::AddDisk(4),
            Own::Follow(1),
            Own::Operate,
            Own::Resize,
            Own::Join(1),
            Own::Build(2),
            Own::Recover,
            Own::End(NodeId(7)),
        ];
        for own in all {
            assert_eq!(Own::of(own.number()), own);
        }
    }
}
