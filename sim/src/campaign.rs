//! Many seeds, on some threads: until all are run, a time is over or one has failed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actors::planted::Bug;
use model::sometimes::Sometimes;

use crate::plan::topology::Topology;
use crate::plan::{Outage, Plan};
use crate::run::{Failure, Options, differs, run};

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// How many; without a number, until something else ends it.
    pub seeds: Option<u64>,
    /// Threads.
    pub jobs: usize,
    /// No new seed begins after so long.
    pub time: Option<Duration>,
    /// The first failure ends it.
    pub until_failure: bool,
    /// Every seed is run twice, and must come to the same.
    pub twice: bool,
    /// A bug to plant. A seed that fails without it is none of those that show it.
    pub bug: Option<Bug>,
    /// Which runs the seeds stand for.
    pub swarm: Swarm,
}

/// Which runs seeds stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Swarm {
    /// The default swarm's: half of the seeds have the default fabric.
    #[default]
    Drawn,
    /// The default fabric of three sites of three nodes, under each seed's load and faults.
    DefaultFabric,
    /// Each seed's fabric, with one thing that goes wrong instead of the seed's faults.
    Outage(Outage),
}

impl Swarm {
    /// A seed's plan, which a bug that is to be planted may need to be another one.
    #[must_use]
    pub fn plan(self, seed: u64, bug: Option<Bug>) -> Plan {
        match (self, bug) {
            (Self::Outage(outage), _) => outage.plan(seed),
            (Self::DefaultFabric, _) => Plan::draw_on(seed, Topology::default()),
            (Self::Drawn, Some(bug)) => Plan::for_bug(bug, seed),
            (Self::Drawn, None) => Plan::draw(seed),
        }
    }
}

impl std::fmt::Display for Swarm {
    /// As the command line says it, with a space before it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drawn => Ok(()),
            Self::DefaultFabric => f.write_str(" --default-fabric"),
            Self::Outage(outage) => write!(f, " --outage {outage:?}"),
        }
    }
}

/// A seed that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Its run did.
    Failed(Failure),
    /// It was another run the second time.
    Differs(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::Differs(at) => write!(f, "not deterministic: {at}"),
        }
    }
}

/// What came out, so far.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed, and how.
    pub failed: BTreeMap<u64, Fault>,
    /// Virtual time.
    pub simulated: Duration,
    /// Real time.
    pub wall: Duration,
    /// Events.
    pub events: u64,
    /// How often interesting states were reached.
    pub reached: BTreeMap<Sometimes, u64>,
}

impl Summary {
    /// Virtual seconds in a real one.
    #[must_use]
    pub fn speedup(&self) -> f64 {
        self.simulated.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// States that no run reached.
    pub fn unreached(&self) -> impl Iterator<Item = Sometimes> {
        let missed = |s: &&Sometimes| self.reached.get(*s).is_none_or(|n| *n == 0);
        Sometimes::ALL.iter().filter(missed).copied()
    }
}

impl Campaign {
    /// Runs it; `seen` is told after every seed, with the seed that just ended.
    #[allow(clippy::disallowed_methods)] // How long it took; no run sees it.
    pub fn go(&self, seen: impl Fn(u64, &Summary) + Sync) -> Summary {
        let started = Instant::now();
        let next = AtomicU64::new(self.from);
        let end = self.seeds.map_or(u64::MAX, |n| self.from.saturating_add(n));
        let stop = AtomicBool::new(false);
        let summary = Mutex::new(Summary::default());
        let work = || {
            loop {
                let late = self.time.is_some_and(|time| started.elapsed() >= time);
                if stop.load(Ordering::Acquire) || late {
                    return;
                }
                let seed = next.fetch_add(1, Ordering::AcqRel);
                if seed >= end {
                    return;
                }
                let one = self.one(seed);
                if self.until_failure && one.fault.is_some() {
                    stop.store(true, Ordering::Release);
                }
                let mut all = summary.lock().unwrap_or_else(PoisonError::into_inner);
                all.add(seed, one);
                all.wall = started.elapsed();
                seen(seed, &all);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.jobs {
                scope.spawn(work);
            }
            work();
        });
        summary.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self, seed: u64) -> One {
        let plan = self.swarm.plan(seed, self.bug);
        let options = Options {
            bug: self.bug,
            ..Options::default()
        };
        let outcome = run(&plan, options);
        let differs = self
            .twice
            .then(|| differs(&plan, options, &outcome))
            .flatten();
        let failed = outcome.failure;
        let failed = match self.bug {
            Some(_) => failed.filter(|_| passes(&plan)),
            None => failed,
        };
        let failed = failed.map(Fault::Failed);
        One {
            fault: differs.map(Fault::Differs).or(failed),
            simulated: outcome.simulated,
            events: outcome.events,
            reached: outcome.reached,
        }
    }
}

struct One {
    fault: Option<Fault>,
    simulated: Duration,
    events: u64,
    reached: Vec<(Sometimes, u64)>,
}

impl Summary {
    fn add(&mut self, seed: u64, one: One) {
        self.seeds += 1;
        self.simulated += one.simulated;
        self.events += one.events;
        for (state, count) in one.reached {
            *self.reached.entry(state).or_default() += count;
        }
        if let Some(fault) = one.fault {
            self.failed.insert(seed, fault);
        }
    }
}

/// How a planted bug shows in a plan's run; a plan that fails without it shows nothing.
#[must_use]
pub fn shown(plan: &Plan, bug: Bug) -> Option<Failure> {
    let options = Options {
        bug: Some(bug),
        ..Options::default()
    };
    run(plan, options).failure.filter(|_| passes(plan))
}

/// Whether a plan's run passes with nothing planted.
fn passes(plan: &Plan) -> bool {
    run(plan, Options::default()).failure.is_none()
}

/// How a planted bug fared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caught {
    /// The seed that showed it, and how.
    pub by: Option<(u64, Fault)>,
    /// Seeds that were run.
    pub seeds: u64,
}

/// Runs seeds with a bug until one fails.
#[must_use]
pub fn catch(bug: Bug, from: u64, seeds: u64, jobs: usize) -> Caught {
    let campaign = Campaign {
        from,
        seeds: Some(seeds),
        jobs,
        time: None,
        until_failure: true,
        twice: false,
        bug: Some(bug),
        swarm: Swarm::Drawn,
    };
    let summary = campaign.go(|_, _| {});
    let by = summary.failed.into_iter().next();
    let seeds = by.as_ref().map_or(seeds, |(seed, _)| seed - from + 1);
    Caught { by, seeds }
}
