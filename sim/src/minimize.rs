//! The smallest plan that still fails the same way: delta debugging over faults, clients,
//! nodes, operations and time.
//!
//! A plan is made smaller in rounds. Each round tries simpler values of everything, then turns
//! what clients asked into a script and drops operations from it (Zeller and Hildebrandt's
//! ddmin). A smaller plan is another run, whose chance events fall elsewhere; so a candidate is
//! tried on a few seeds before it is given up.

mod ddmin;
mod simpler;

use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::run::{Failure, Options, Outcome, run};

pub use ddmin::ddmin;

/// How much a minimization may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Runs at most.
    pub runs: u64,
    /// Real time at most.
    pub time: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            runs: 20_000,
            time: Duration::from_secs(300),
        }
    }
}

/// How large a plan is, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Nodes of the fabric.
    pub nodes: u64,
    /// Clients.
    pub clients: usize,
    /// Faults.
    pub faults: usize,
    /// Operations that were asked.
    pub operations: usize,
    /// How long clients work.
    pub span: Duration,
}

impl Size {
    fn of(plan: &Plan, outcome: &Outcome) -> Self {
        Self {
            nodes: plan.topology.sites * plan.topology.nodes,
            clients: plan.workload.clients.len(),
            faults: plan.faults.len(),
            operations: match plan.workload.operations.len() {
                0 => outcome.script.len(),
                scripted => scripted,
            },
            span: plan.workload.span,
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} nodes, {} clients, {} faults, {} operations in {}",
            self.nodes,
            self.clients,
            self.faults,
            self.operations,
            crate::plan::text::duration(self.span)
        )
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Minimized {
    /// The smallest plan that was found.
    pub plan: Plan,
    /// How it fails.
    pub failure: Failure,
    /// How large the first plan was.
    pub before: Size,
    /// How large this one is.
    pub after: Size,
    /// Runs that it took.
    pub runs: u64,
}

/// Rounds at most: each makes the next ones cheaper, few are ever needed.
const ROUNDS_MAX: u32 = 6;

/// Seeds that a candidate is tried on.
const SEEDS: u64 = 4;

/// Makes a failing plan smaller; nothing if it does not fail. `seen` is told of every smaller
/// plan: its size, and the runs so far.
pub fn minimize(
    plan: &Plan,
    options: Options,
    budget: Budget,
    seen: impl FnMut(Size, u64),
) -> Option<Minimized> {
    let outcome = run(plan, options);
    let failure = outcome.failure.clone()?;
    let before = Size::of(plan, &outcome);
    let mut search = Search::new(plan.clone(), outcome, failure.kind(), options, budget, seen);
    for _ in 0..ROUNDS_MAX {
        let runs_before = search.best_at;
        search.simplify();
        search.shorten();
        if search.best_at == runs_before || search.is_over() {
            break;
        }
    }
    let failure = search.outcome.failure.clone().unwrap_or(failure);
    let after = Size::of(&search.best, &search.outcome);
    Some(Minimized {
        failure,
        before,
        after,
        runs: search.runs,
        plan: search.best,
    })
}

/// A minimization under way.
struct Search<S> {
    best: Plan,
    /// What `best` comes to.
    outcome: Outcome,
    /// Runs when `best` was found.
    best_at: u64,
    kind: String,
    options: Options,
    budget: Budget,
    runs: u64,
    started: Instant,
    seen: S,
}

#[allow(clippy::disallowed_methods)] // A budget of real time; no run sees it.
fn now() -> Instant {
    Instant::now()
}

impl<S: FnMut(Size, u64)> Search<S> {
    fn new(
        best: Plan,
        outcome: Outcome,
        kind: String,
        options: Options,
        budget: Budget,
        seen: S,
    ) -> Self {
        Self {
            best,
            outcome,
            best_at: 0,
            kind,
            options,
            budget,
            runs: 1,
            started: now(),
            seen,
        }
    }

    fn is_over(&self) -> bool {
        self.runs >= self.budget.runs || now().duration_since(self.started) >= self.budget.time
    }

    /// Runs a plan; what it came to if it fails the same way.
    fn fails(&mut self, candidate: &Plan) -> Option<Outcome> {
        if self.is_over() || candidate.check().is_err() {
            return None;
        }
        self.runs += 1;
        let outcome = run(candidate, self.options);
        let alike = outcome
            .failure
            .as_ref()
            .is_some_and(|f| f.kind() == self.kind);
        alike.then_some(outcome)
    }

    /// Takes a candidate for the best if it fails, on its seed or on another.
    fn try_plan(&mut self, mut candidate: Plan) -> bool {
        if candidate == self.best {
            return false;
        }
        let seed = candidate.seed;
        for more in 0..SEEDS {
            candidate.seed = seed.wrapping_add(more);
            if let Some(outcome) = self.fails(&candidate) {
                self.best = candidate;
                self.outcome = outcome;
                self.best_at = self.runs;
                (self.seen)(Size::of(&self.best, &self.outcome), self.runs);
                return true;
            }
        }
        false
    }

    /// Turns what clients asked into a script, and drops what is not needed of it.
    fn shorten(&mut self) {
        if self.best.workload.operations.is_empty() {
            let mut scripted = self.best.clone();
            scripted
                .workload
                .operations
                .clone_from(&self.outcome.script);
            if scripted.workload.operations.is_empty() || !self.try_plan(scripted) {
                return;
            }
        }
        let plan = self.best.clone();
        let operations = plan.workload.operations.clone();
        ddmin(&operations, |kept| {
            let mut candidate = self.best.clone();
            candidate.workload.operations = kept.to_vec();
            !kept.is_empty() && self.try_plan(candidate)
        });
    }
}
