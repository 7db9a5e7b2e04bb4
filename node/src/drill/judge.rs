//! What must come out of a drill, and whether it did.

use std::time::Duration;

use serde_json::{Value, json};
use sim::report::seconds;

use super::outcome::{Outcome, Pause, Struck};
use super::program::Limits;

/// Something that must come out, or that is good to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expectation {
    /// What is expected.
    pub(super) what: String,
    /// What was found.
    pub(super) found: String,
    /// Whether it came out; nothing if it was not measured.
    pub(super) met: Option<bool>,
    /// Whether the verdict rests on it.
    pub(super) judged: bool,
}

impl Expectation {
    fn judged(what: impl Into<String>, found: impl Into<String>, met: bool) -> Self {
        Self {
            what: what.into(),
            found: found.into(),
            met: Some(met),
            judged: true,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "what": self.what, "found": self.found, "met": self.met, "judged": self.judged })
    }
}

/// How a drill's course ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// All was done.
    Done,
    /// The oracle found something wrong: it is in the history.
    Wrong,
    /// Somebody ended it.
    Interrupted,
    /// Something did not come in time: what, and how long it was waited for.
    Late(String, Duration),
    /// Something could not be done.
    Failed(String),
}

/// Clients keep at least this of their throughput while the fabric mends.
pub(super) const RATIO_MIN: f64 = 0.8;

/// What is known at the end.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) course: &'a Course,
    /// What the oracle said at last.
    pub(super) oracle: Result<(), String>,
    /// What could not be put right again.
    pub(super) not_restored: Option<String>,
    pub(super) limits: Limits,
}

/// All that was expected; the verdict is the first that is judged and did not come out.
pub(super) fn expectations(outcome: &Outcome, facts: &Facts<'_>) -> Vec<Expectation> {
    let mut all = vec![course(facts.course)];
    all.push(match &facts.oracle {
        Ok(()) => Expectation::judged(
            "no acknowledged byte is lost, stale or torn",
            format!("{} bytes verified", outcome.report.checked_bytes),
            true,
        ),
        Err(why) => {
            let what = "no acknowledged byte is lost, stale or torn";
            Expectation::judged(what, why.clone(), false)
        }
    });
    for struck in &outcome.struck {
        all.extend(resumed(struck, facts.limits.rto));
    }
    if let Some(max) = facts.limits.pause {
        all.push(pause(outcome.pause.as_ref(), max));
    }
    if let Some(max) = facts.limits.reads {
        all.push(reads(outcome.read_pause.as_ref(), max));
    }
    if let Some(max) = facts.limits.wan_bytes {
        let found = outcome.report.wan_bytes;
        all.push(Expectation {
            what: format!("at most {max} bytes between sites"),
            found: found.map_or_else(|| "not measured".to_owned(), |b| b.to_string()),
            met: found.map(|bytes| bytes <= max),
            judged: true,
        });
    }
    let ratio = outcome.throughput.ratio();
    all.push(Expectation {
        what: format!(
            "clients keep {:.0} % of their throughput while it heals",
            RATIO_MIN * 100.0
        ),
        found: ratio.map_or_else(
            || "not measured".to_owned(),
            |r| format!("{:.0} %", r * 100.0),
        ),
        met: ratio.map(|r| r >= RATIO_MIN),
        judged: false,
    });
    all.push(match &facts.not_restored {
        None => Expectation::judged("the fabric is left as it was", "it is", true),
        Some(why) => Expectation::judged("the fabric is left as it was", why.clone(), false),
    });
    all
}

/// Why it failed, if it did.
pub(super) fn verdict(expectations: &[Expectation]) -> Option<String> {
    let failed = |e: &&Expectation| e.judged && e.met == Some(false);
    let failed = expectations.iter().find(failed)?;
    Some(format!(
        "expected: {}; found: {}",
        failed.what, failed.found
    ))
}

fn course(course: &Course) -> Expectation {
    let what = "the drill runs to its end, back to full protection";
    let (found, met) = match course {
        Course::Done => ("it did".to_owned(), true),
        Course::Wrong => (
            "it ended at the first thing that was wrong".to_owned(),
            true,
        ),
        Course::Interrupted => ("it was interrupted".to_owned(), false),
        Course::Late(what, after) => {
            let found = format!("waited {:.0} s in vain for {what}", after.as_secs_f64());
            (found, false)
        }
        Course::Failed(why) => (why.clone(), false),
    };
    Expectation::judged(what, found, met)
}

/// Service after a fault, at each site that must go on.
fn resumed(struck: &Struck, max: Option<Duration>) -> Option<Expectation> {
    let (number, max) = (struck.number, max?);
    if struck.asked.is_empty() {
        return None;
    }
    let slowest = struck
        .asked
        .iter()
        .max_by_key(|(_, took)| took.unwrap_or(Duration::MAX));
    let (site, took) = slowest?;
    let what = format!(
        "writes go on within {:.0} s after fault {number} ({})",
        max.as_secs_f64(),
        struck.what
    );
    Some(match took {
        Some(took) => {
            let found = format!("{} at site {site}, the slowest", seconds(*took));
            Expectation::judged(what, found, *took <= max)
        }
        None => Expectation::judged(what, format!("at site {site} they never did"), false),
    })
}

fn pause(longest: Option<&Pause>, max: Duration) -> Expectation {
    let what = format!(
        "no site that is left alone waits {:.0} s for an acknowledgement",
        max.as_secs_f64()
    );
    short(what, longest, max)
}

fn reads(longest: Option<&Pause>, max: Duration) -> Expectation {
    let max_s = max.as_secs_f64();
    let what = format!("no site waits {max_s:.0} s for the answer to a read");
    short(what, longest, max)
}

fn short(what: String, longest: Option<&Pause>, max: Duration) -> Expectation {
    let Some(pause) = longest else {
        return Expectation {
            what,
            found: "not measured".to_owned(),
            met: None,
            judged: true,
        };
    };
    let found = format!(
        "{} at site {}, the longest",
        seconds(pause.lasted),
        pause.site
    );
    Expectation::judged(what, found, pause.lasted < max)
}
