//! What a run or a drill came to, for people and as JSON: the same kind of report for both.

use std::fmt::Write;
use std::time::Duration;

use model::units::ByteSize;
use serde_json::{Value, json};

/// Something that happened, told from the moment at which clients began to work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When.
    pub at: Duration,
    /// What.
    pub what: String,
}

/// What a run or a drill came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The scenario.
    pub name: String,
    /// The seed of a simulated run.
    pub seed: Option<u64>,
    /// What was wrong; nothing if all was right.
    pub verdict: Option<String>,
    /// Acknowledged writes of so long before a disaster were lost.
    pub rpo: Duration,
    /// The longest wait of a site that a fault left alone for its first acknowledged new write;
    /// nothing if no fault left a writing client alone.
    pub rto: Option<Duration>,
    /// Acknowledged bytes that were missed.
    pub bytes_lost: u64,
    /// Bytes between sites, if they were counted.
    pub wan_bytes: Option<u64>,
    /// Operations answered.
    pub operations: u64,
    /// Bytes that were read and compared.
    pub checked_bytes: u64,
    /// How long it took, in the time that clients saw.
    pub took: Duration,
    /// How long after the last reads everything was as it must be.
    pub healed_after: Option<Duration>,
    /// What happened.
    pub timeline: Vec<Entry>,
    /// The hash of a simulated run's trace.
    pub trace_hash: Option<u64>,
}

impl Report {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict.is_none()
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let entry = |e: &Entry| json!({ "at_s": e.at.as_secs_f64(), "what": e.what });
        let timeline: Vec<Value> = self.timeline.iter().map(entry).collect();
        json!({
            "name": self.name,
            "seed": self.seed,
            "passed": self.passed(),
            "failure": self.verdict,
            "rpo_s": self.rpo.as_secs_f64(),
            "rto_s": self.rto.map(|d| d.as_secs_f64()),
            "bytes_lost": self.bytes_lost,
            "wan_bytes": self.wan_bytes,
            "operations": self.operations,
            "checked_bytes": self.checked_bytes,
            "took_s": self.took.as_secs_f64(),
            "healed_after_s": self.healed_after.map(|d| d.as_secs_f64()),
            "trace_hash": self.trace_hash.map(|h| format!("{h:016x}")),
            "timeline": timeline,
        })
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let seed = self.seed.map(|s| format!(", seed {s}")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}{seed}\n", self.name);
        for entry in &self.timeline {
            let _ = writeln!(text, "  {:>9}  {}", seconds(entry.at), entry.what);
        }
        let unknown = || "not measured".to_owned();
        let lines = [
            ("recovery point (RPO)", seconds(self.rpo)),
            (
                "recovery time (RTO)",
                self.rto.map_or_else(
                    || "no fault left a writing client alone".to_owned(),
                    seconds,
                ),
            ),
            ("acknowledged bytes lost", self.bytes_lost.to_string()),
            (
                "bytes between sites",
                self.wan_bytes
                    .map_or_else(unknown, |b| ByteSize(b).to_string()),
            ),
            ("operations answered", self.operations.to_string()),
            (
                "read and compared",
                ByteSize(self.checked_bytes).to_string(),
            ),
        ];
        let _ = writeln!(text);
        for (what, value) in lines {
            let _ = writeln!(text, "  {what:<24} {value}");
        }
        if let Some(hash) = self.trace_hash {
            let _ = writeln!(text, "  {:<24} {hash:016x}", "trace");
        }
        let verdict = match &self.verdict {
            None => "passed: nothing was wrong".to_owned(),
            Some(wrong) => format!("FAILED: {wrong}"),
        };
        let _ = write!(text, "\n{verdict}");
        text
    }
}

/// A duration in seconds, for people.
#[must_use]
pub fn seconds(of: Duration) -> String {
    format!("{:.3} s", of.as_secs_f64())
}

/// Names in a row.
#[must_use]
pub fn listed(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Directions between sites; both of a link as one.
#[must_use]
pub fn between(links: impl Iterator<Item = (String, String)>) -> String {
    let links: Vec<(String, String)> = links.collect();
    let told = links.iter().filter_map(|(a, b)| {
        let both = links.contains(&(b.clone(), a.clone()));
        match (both, a < b) {
            (true, true) => Some(format!("between {a} and {b}")),
            (true, false) => None,
            (false, _) => Some(format!("from {a} to {b}")),
        }
    });
    listed(told)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Entry, Report, between};

    #[test]
    fn links_are_told_once() {
        let link = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let links = [link("a", "b"), link("b", "a"), link("c", "a")];
        assert_eq!(between(links.into_iter()), "between a and b, from c to a");
    }

    #[test]
    fn the_verdict_is_the_last_line_and_decides() {
        let mut report = Report {
            name: "x".to_owned(),
            timeline: vec![Entry {
                at: Duration::from_millis(1500),
                what: "a1 is killed".to_owned(),
            }],
            ..Report::default()
        };
        assert!(report.passed() && report.to_text().ends_with("passed: nothing was wrong"));
        assert!(report.to_text().contains("1.500 s  a1 is killed"));
        report.verdict = Some("sector 3 is stale".to_owned());
        assert!(!report.passed() && report.to_text().ends_with("FAILED: sector 3 is stale"));
        assert_eq!(report.to_json()["passed"], false);
    }
}
