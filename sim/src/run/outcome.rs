//! What a run came to.

use std::time::Duration;

use model::ids::ClientId;
use model::sometimes::{self, Sometimes};
use model::time::Time;

use super::Run;
use crate::allocation::WrongAllocation;
use crate::faults::Struck;
use crate::invariants::Broken;
use crate::oracle::Violation;
use crate::plan::load::Scripted;
use crate::report::Report;
use crate::workload::Op;

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
    /// A request was answered with what answers another kind of them.
    #[error("{0:?} was answered as something else")]
    Misanswered(Op),
    /// A request was answered for another length than was asked for.
    #[error("{op:?} was answered for {answered} bytes")]
    Incomplete {
        /// What was asked.
        op: Op,
        /// For so many bytes there is an answer.
        answered: u64,
    },
    /// Something did not happen in time after all was mended.
    #[error("{0}")]
    Stuck(String),
    /// It came to something else than was expected.
    #[error("expected {0}")]
    Unexpected(String),
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

impl Failure {
    /// What it is, whatever its numbers: two runs that fail alike have the same.
    #[must_use]
    pub fn kind(&self) -> String {
        let begin = |text: &str| {
            let end = text
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(text.len());
            text[..end].trim().to_owned()
        };
        match self {
            Self::Wrong(Violation::Invented { .. }) => "a value that nobody wrote".to_owned(),
            Self::Wrong(Violation::Stale { .. }) => "a stale value".to_owned(),
            Self::Wrong(Violation::TookTurns { .. }) => "values took turns".to_owned(),
            Self::Misallocated(_) => "a wrong allocation".to_owned(),
            Self::SessionLost(_) => "an open session was lost".to_owned(),
            Self::Broken(what) => begin(&what.to_string()),
            Self::Torn(_) => "a torn sector".to_owned(),
            Self::Refused(_) => "an error was answered".to_owned(),
            Self::Misanswered(_) => "an answer to something else".to_owned(),
            Self::Incomplete { .. } => "an incomplete answer".to_owned(),
            Self::Stuck(what) => begin(what),
            Self::Unexpected(what) => begin(what),
            Self::Storm(_) => "a storm".to_owned(),
            Self::Panicked(what) => begin(what),
        }
    }
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
    /// The longest wait of a site for its first acknowledgement after a fault that leaves it
    /// alone.
    pub waited: Option<Duration>,
    /// Operations answered.
    pub operations: u64,
    /// Sector reads checked.
    pub checked: u64,
    /// The last lines of the trace.
    pub tail: Vec<String>,
    /// What went wrong by plan, as it struck.
    pub faults: Vec<Struck>,
    /// What clients asked, as a script.
    pub script: Vec<Scripted>,
    /// How often interesting states were reached.
    pub reached: Vec<(Sometimes, u64)>,
    /// For people.
    pub report: Report,
}

impl Run {
    pub(super) fn outcome(self, failure: Option<Failure>) -> Outcome {
        let mut tail: Vec<String> = self.world.trace.lines().map(str::to_owned).collect();
        if let Some(Failure::Wrong(violation)) = &failure {
            tail.extend(self.oracle.history(violation.sector()));
        }
        let waited = self.longest_wait();
        let report = Report {
            name: self.plan.name.clone(),
            seed: Some(self.plan.seed),
            verdict: failure.as_ref().map(ToString::to_string),
            rpo: self.rpo(failure.as_ref()),
            rto: waited,
            bytes_lost: self.bytes_lost,
            wan_bytes: self.world.wan_bytes,
            operations: self.answered,
            checked_bytes: self.oracle.checked() * crate::oracle::SECTOR as u64,
            took: self.world.now().since(self.begun),
            healed_after: self.healed_after,
            timeline: self.timeline,
            trace_hash: Some(self.world.trace.hash()),
        };
        Outcome {
            failure,
            trace_hash: self.world.trace.hash(),
            events: self.world.trace.events(),
            simulated: self.world.now().since(Time(1_000_000_000)),
            waited,
            operations: self.answered,
            checked: self.oracle.checked(),
            tail,
            faults: self.struck,
            script: self.asked,
            reached: sometimes::take(),
            report,
        }
    }

    /// How old the lost acknowledgement was when the disaster struck that came before it was
    /// missed; nothing without a loss.
    fn rpo(&self, failure: Option<&Failure>) -> Duration {
        match failure {
            Some(Failure::Wrong(Violation::Stale { called, since, .. })) => {
                let before = self.struck.iter().filter(|s| s.at <= *called);
                let struck = before.map(|s| s.at).max().unwrap_or(*called);
                struck.since(*since)
            }
            _ => Duration::ZERO,
        }
    }
}
