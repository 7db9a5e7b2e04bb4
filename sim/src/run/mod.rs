//! One run: a fabric is founded, a volume made, clients work while things go wrong, all is
//! mended, and everything must be served and right.

mod clients;
mod ending;
mod found;
mod operator;
mod outage;
mod strike;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actors::client::Tag;
use actors::planted::{self, Bug};
use model::ids::{ClientId, NodeId, VolumeId};
use model::time::Time;
use raft_meta::node::AdminToken;

use crate::allocation::{AllocationModel, WrongAllocation};
use crate::faults::{Atlas, Plan, Struck};
use crate::invariants::{Broken, Guard};
use crate::oracle::{Oracle, Violation};
use crate::rng::Rng;
use crate::workload::{Op, Workload};
use crate::world::{Happening, World};
use clients::{Pending, Slot};
pub use outage::Outage;
use outage::Resumed;
use strike::Stage;

/// What a run is given.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig {
    /// Decides everything.
    pub seed: u64,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// The one thing that goes wrong, instead of the seed's faults.
    pub outage: Option<Outage>,
    /// Trace lines to keep for a report.
    pub keep: usize,
}

/// How a run failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// A promise was broken.
    #[error("{0}")]
    Wrong(#[from] Violation),
    /// `base:allocation` was answered wrongly.
    #[error("{0}")]
    Misallocated(#[from] WrongAllocation),
    /// A sector came back torn.
    #[error("sector {0} came back torn")]
    Torn(u64),
    /// A request failed though nothing that the fabric promises to survive was exceeded.
    #[error("{0:?} was answered with an error")]
    Refused(Op),
    /// Something did not happen in time after all was mended.
    #[error("{0}")]
    Stuck(String),
    /// So much happened that machines must be storming each other with messages.
    #[error("a storm: {0} events")]
    Storm(u64),
    /// A session ended that its client did not close (R10).
    #[error("the open session of {0:?} was lost")]
    SessionLost(ClientId),
    /// An invariant does not hold.
    #[error("{0}")]
    Broken(#[from] Broken),
    /// A machine's assertion failed.
    #[error("a machine panicked: {0}")]
    Panicked(String),
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its failure, if it failed.
    pub failure: Option<Failure>,
    /// Hash of all that happened.
    pub trace_hash: u64,
    /// Events carried out.
    pub events: u64,
    /// Virtual time that passed.
    pub simulated: Duration,
    /// The longest wait of a site for its first acknowledgement in the outage.
    pub waited: Duration,
    /// Operations answered.
    pub operations: u64,
    /// Sector reads checked.
    pub checked: u64,
    /// The last lines of the trace.
    pub tail: Vec<String>,
    /// What went wrong by plan, as it struck.
    pub faults: Vec<Struck>,
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
    /// The operator adds a disk to a node, in place of a lost one.
    AddDisk(usize),
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
            Self::AddDisk(i) => (6, i),
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
            6 => Self::AddDisk(i),
            _ => Self::Tick,
        }
    }
}

struct Run {
    world: World,
    rng: Rng,
    oracle: Oracle,
    allocation: AllocationModel,
    guard: Guard,
    workload: Workload,
    volume: VolumeId,
    sectors: u64,
    slots: Vec<Slot>,
    pending: BTreeMap<(ClientId, Tag), Pending>,
    next_client: u64,
    next_tag: u64,
    /// No operation begins any more.
    closing: bool,
    /// No client comes back.
    leaving: bool,
    /// Clients that were asked to leave.
    left: BTreeSet<ClientId>,
    /// The longest pause of a lane when nothing is about to happen.
    think_max: Duration,
    /// Lanes are busy from the first to the second.
    flurries: Vec<(Time, Time)>,
    answered: u64,
    plans: Vec<(Plan, Stage)>,
    struck: Vec<Struck>,
    outage: Option<Outage>,
    outage_since: Option<Time>,
    resumed: Resumed,
    waited: Duration,
    /// Where the clients of an outage's run are.
    pins: Vec<NodeId>,
    /// What may still be hurt.
    atlas: Atlas,
    /// Disks that are being added, by the command's token.
    adding: BTreeMap<AdminToken, NodeId>,
    /// Until then reads may be stale: a clock runs wrong beyond the lease's margin.
    stale_until: Time,
    dead: BTreeSet<NodeId>,
    lost: BTreeSet<NodeId>,
    deaf: bool,
}

/// Runs a seed.
#[must_use]
pub fn run(config: RunConfig) -> Outcome {
    planted::plant(config.bug);
    let mut run = Run::new(config);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.go()));
    planted::plant(None);
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
    let mut tail: Vec<String> = run.world.trace.lines().map(str::to_owned).collect();
    if let Some(Failure::Wrong(violation)) = &failure {
        tail.extend(run.oracle.history(violation.sector()));
    }
    Outcome {
        failure,
        trace_hash: run.world.trace.hash(),
        events: run.world.trace.events(),
        simulated: run.world.now().since(Time(1_000_000_000)),
        waited: run.waited,
        operations: run.answered,
        checked: run.oracle.checked(),
        tail,
        faults: run.struck.clone(),
    }
}

/// Runs a seed again, whose outcome is known. If it does not come to the same, says where it
/// goes another way.
#[must_use]
pub fn differs(config: RunConfig, first: &Outcome) -> Option<String> {
    let again = run(RunConfig { keep: 0, ..config });
    if (again.trace_hash, again.events) == (first.trace_hash, first.events) {
        return None;
    }
    let keep = usize::MAX;
    let (a, b) = (
        run(RunConfig { keep, ..config }),
        run(RunConfig { keep, ..config }),
    );
    let at = a.tail.iter().zip(&b.tail).position(|(a, b)| a != b);
    let line = at.map_or("the trace's end or its numbers", |at| &b.tail[at]);
    let number = at.unwrap_or(a.tail.len().min(b.tail.len()));
    Some(format!("event {number}: {line}"))
}

impl Run {
    fn go(&mut self) -> Result<(), Failure> {
        self.found()?;
        self.create_volume()?;
        match self.outage {
            Some(outage) => self.suffer(outage)?,
            None => self.work()?,
        }
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
                self.guard.look(&mut self.world)?;
            }
        }
        Ok(())
    }

    /// Lets so much time pass.
    fn pass(&mut self, span: Duration) -> Result<(), Failure> {
        let end = self.world.now() + span;
        self.world.plan(end, Own::Tick.number());
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
                Own::Mend(i) => self.mend(i),
                Own::Open(slot) => self.open(slot),
                Own::Lane(lane) => self.lane_due(lane),
                Own::AddDisk(node) => self.replace_disk(node),
            },
            Happening::Meta { .. } => {}
            Happening::Admin { token, reply, .. } => self.admin_replied(token, &reply),
            Happening::Complete {
                client, tag, reply, ..
            } => self.complete(client, tag, reply)?,
            Happening::ClientEnded { client, killed, .. } => self.client_ended(client, killed)?,
        }
        Ok(())
    }

    /// Clients work while things go wrong, and a little longer.
    fn work(&mut self) -> Result<(), Failure> {
        let span = Duration::from_secs(self.rng.within(4, 14));
        self.plan_faults(span);
        self.open_slots();
        let quiet = self.world.now() + span;
        self.world.plan(quiet, Own::Tick.number());
        self.until("the faults' end", Duration::from_secs(120), |run| {
            run.world.now() >= quiet && run.faults_are_over()
        })
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
            Own::AddDisk(4),
        ];
        for own in all {
            assert_eq!(Own::of(own.number()), own);
        }
    }
}
