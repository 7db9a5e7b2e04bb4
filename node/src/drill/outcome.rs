//! What a drill came to: the scenario's report, and what only a drill knows.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sim::report::Report;

use super::judge::Expectation;
use super::meter::{self, Span};
use super::program::Kind;
use super::watch::Look;
use crate::check::Sample;

/// A stretch of the drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) from: Duration,
    pub(super) to: Duration,
}

impl Phase {
    pub(super) fn span(&self) -> Span {
        (self.from, self.to)
    }

    pub(super) fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// A fault that struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Struck {
    /// In the history, from 1.
    pub(super) number: usize,
    pub(super) what: String,
    pub(super) at: Duration,
    /// When it was undone.
    pub(super) mended: Option<Duration>,
    /// Nodes that don't serve while it lasts.
    pub(super) gone: Vec<String>,
    /// Sites that must go on, and after how long each did.
    pub(super) asked: Vec<(String, Option<Duration>)>,
    /// After how long a write was acknowledged anywhere.
    pub(super) first: Option<Duration>,
}

/// Where clients were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) node: String,
    pub(super) site: String,
}

/// How many operations a second were answered to clients that no fault hit (to all, if it hit
/// all).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Throughput {
    /// Before anything was wrong.
    pub(super) before: Option<f64>,
    /// From the first write that went on until full protection, but for what was read back
    /// meanwhile.
    pub(super) healing: Option<f64>,
}

impl Throughput {
    pub(super) fn ratio(&self) -> Option<f64> {
        let (before, healing) = (self.before?, self.healing?);
        (before > 0.0).then(|| healing / before)
    }
}

/// The longest time that clients of a site had no write acknowledged, or no read answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) site: String,
    pub(super) lasted: Duration,
    pub(super) from: Duration,
}

/// What a drill came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// As a simulated run's.
    pub(super) report: Report,
    /// For people: what the drill is about.
    pub(super) about: String,
    /// The fabric and the load in words, by what.
    pub(super) terms: Vec<(&'static str, String)>,
    pub(super) bytes_stale: u64,
    pub(super) repair_wan_bytes: Option<u64>,
    pub(super) throughput: Throughput,
    pub(super) pause: Option<Pause>,
    pub(super) read_pause: Option<Pause>,
    /// Changes that were refused for lack of space.
    pub(super) refused: u64,
    /// From the first fault to full protection.
    pub(super) protected_after: Option<Duration>,
    pub(super) phases: Vec<Phase>,
    pub(super) struck: Vec<Struck>,
    pub(super) clients: Vec<Client>,
    pub(super) samples: Vec<Sample>,
    pub(super) looks: Vec<Look>,
    pub(super) expectations: Vec<Expectation>,
    /// Where lost disks are kept that others took the place of.
    pub(super) kept: Vec<PathBuf>,
    /// What was left behind, and why.
    pub(super) left: Vec<String>,
    /// The page, once it is written.
    pub(super) page: Option<PathBuf>,
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A ratio or a rate with three digits that say something.
fn rounded(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

impl Outcome {
    /// Whether it came out as it must.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.report.passed()
    }

    /// As JSON: the scenario's report and the drill's own figures; null is what was not
    /// measured.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = self.report.to_json();
        let verdict = if self.passed() { "pass" } else { "fail" };
        let phase = |p: &Phase| json!({ "name": p.name, "from_s": p.from.as_secs_f64(), "to_s": p.to.as_secs_f64() });
        let phases: Vec<Value> = self.phases.iter().map(phase).collect();
        let expectations: Vec<Value> = self.expectations.iter().map(Expectation::to_json).collect();
        let pause = self.pause.as_ref();
        let own = json!({
            "drill": self.report.name,
            "verdict": verdict,
            "rpo_bytes": self.bytes_stale,
            "rto_ms": self.report.rto.map(millis),
            "bytes_verified": self.report.checked_bytes,
            "wan_repair_bytes": self.repair_wan_bytes,
            "client_throughput_ratio": self.throughput.ratio().map(rounded),
            "client_ops_per_s_before": self.throughput.before.map(rounded),
            "client_ops_per_s_healing": self.throughput.healing.map(rounded),
            "longest_pause_ms": pause.map(|p| millis(p.lasted)),
            "longest_read_pause_ms": self.read_pause.as_ref().map(|p| millis(p.lasted)),
            "writes_refused": self.refused,
            "full_protection_ms": self.protected_after.map(millis),
            "expectations": expectations,
            "phases": phases,
            "left": self.left,
            "report": self.page,
        });
        if let (Some(value), Value::Object(own)) = (value.as_object_mut(), own) {
            value.extend(own);
        }
        value
    }

    /// When the last look or answer was.
    pub(super) fn end(&self) -> Duration {
        let phases = self.phases.last().map(|p| p.to);
        phases.unwrap_or_default().max(self.report.took)
    }

    /// Latency of all that was answered within some stretches.
    pub(super) fn latency(&self, spans: &[Span]) -> Option<meter::Latency> {
        let within = |s: &&Sample| spans.iter().any(|(a, b)| *a <= s.at && s.at < *b);
        meter::Latency::of(self.samples.iter().filter(within).map(|s| s.took))
    }

    /// The stretches of a kind.
    pub(super) fn spans(&self, kind: Kind) -> Vec<Span> {
        let of = self.phases.iter().filter(|p| p.kind == kind);
        of.map(Phase::span).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::judge::{self, Course, Facts};
    use super::super::meter;
    use super::super::program::{Kind, Limits};
    use super::*;
    use crate::admin::protocol::{Degraded, Status, UpOf};

    pub(in super::super) fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn phase(kind: Kind, from: f64, to: f64) -> Phase {
        Phase {
            kind,
            name: format!("{kind:?}"),
            from: s(from),
            to: s(to),
        }
    }

    fn look(at: f64, degraded: &[&str], at_risk_bytes: Option<u64>) -> Look {
        let all = UpOf { up: 9, of: 9 };
        let degraded: Vec<Degraded> = degraded
            .iter()
            .map(|what| Degraded {
                what: (*what).to_owned(),
                why: "it is <b>gone</b>".to_owned(),
                doing: "start it".to_owned(),
            })
            .collect();
        Look {
            asked: s(at - 0.1),
            at: s(at),
            status: Status {
                healthy: degraded.is_empty(),
                degraded,
                at_risk_bytes,
                repairs: Vec::new(),
                notes: Vec::new(),
                seen_by: "b1".to_owned(),
                sites: all,
                nodes: all,
                disks: all,
                volumes: all,
            },
            replicas: Some(3),
        }
    }

    /// A site is lost at 10 s, writes go on 2 s later, it is back at 20 s and whole at 25 s.
    pub(in super::super) fn sample() -> Outcome {
        let ticks = (0..300).map(|i| f64::from(i) / 10.0);
        let served = ticks.filter(|at| !(10.0..12.0).contains(at));
        let samples = served.map(|at| Sample {
            at: s(at),
            took: s(0.002),
            by: 1,
            mutates: true,
            writes: true,
        });
        let client = |node: &str, site: &str| Client {
            node: node.to_owned(),
            site: site.to_owned(),
        };
        Outcome {
            report: Report {
                name: "site-loss".to_owned(),
                rto: Some(s(2.0)),
                checked_bytes: 1 << 20,
                took: s(30.0),
                ..Report::default()
            },
            about: "a site is lost".to_owned(),
            terms: vec![("fabric", "3 sites".to_owned())],
            bytes_stale: 0,
            repair_wan_bytes: None,
            throughput: Throughput {
                before: Some(10.0),
                healing: Some(9.0),
            },
            pause: Some(Pause {
                site: "b".to_owned(),
                lasted: s(2.1),
                from: s(9.9),
            }),
            read_pause: None,
            refused: 0,
            protected_after: Some(s(15.0)),
            phases: vec![
                phase(Kind::Before, 0.0, 10.0),
                phase(Kind::Disaster, 10.0, 20.0),
                phase(Kind::Healing, 20.0, 25.0),
                phase(Kind::Judging, 25.0, 30.0),
            ],
            struck: vec![Struck {
                number: 1,
                what: "a1, a2 are killed".to_owned(),
                at: s(10.0),
                mended: Some(s(20.0)),
                gone: vec!["a1".to_owned()],
                asked: vec![
                    ("b".to_owned(), Some(s(2.0))),
                    ("c".to_owned(), Some(s(1.5))),
                ],
                first: Some(s(1.5)),
            }],
            clients: vec![client("a1", "a"), client("b1", "b")],
            samples: samples.collect(),
            looks: vec![
                look(1.0, &[], Some(0)),
                look(11.0, &["site a"], None),
                look(13.0, &["site a"], Some(5 << 20)),
                look(25.0, &[], Some(0)),
            ],
            expectations: Vec::new(),
            kept: Vec::new(),
            left: Vec::new(),
            page: Some(PathBuf::from("/f/drills/site-loss-1.html")),
        }
    }

    /// Its verdict, if its course and the oracle were so.
    fn verdict(outcome: &Outcome, course: &Course, oracle: Result<(), &str>) -> Option<String> {
        let limits = Limits {
            rto: Some(s(10.0)),
            pause: Some(s(3.0)),
            reads: Some(s(3.0)),
            wan_bytes: None,
        };
        let facts = Facts {
            course,
            oracle: oracle.map_err(ToOwned::to_owned),
            not_restored: None,
            limits,
        };
        judge::verdict(&judge::expectations(outcome, &facts))
    }

    #[test]
    fn what_must_come_out_decides_and_what_is_good_to_know_does_not() {
        let good = sample();
        assert_eq!(verdict(&good, &Course::Done, Ok(())), None);
        let slow = Outcome {
            throughput: Throughput {
                before: Some(10.0),
                healing: Some(1.0),
            },
            ..sample()
        };
        assert_eq!(verdict(&slow, &Course::Done, Ok(())), None, "not judged");

        let told = |outcome: &Outcome, course: &Course, oracle| {
            verdict(outcome, course, oracle).expect("it fails")
        };
        let lost = told(&good, &Course::Wrong, Err("sector 3 is stale"));
        assert!(lost.contains("sector 3 is stale"), "{lost}");
        let ended = told(&good, &Course::Interrupted, Ok(()));
        assert!(ended.contains("interrupted"), "{ended}");
        let late = Course::Late("full protection (site a)".to_owned(), s(300.0));
        let late = told(&good, &late, Ok(()));
        assert!(
            late.contains("300 s in vain for full protection (site a)"),
            "{late}"
        );

        let mut never = sample();
        never.struck[0].asked[1].1 = None;
        let never = told(&never, &Course::Done, Ok(()));
        assert!(never.contains("site c they never did"), "{never}");
        let mut late = sample();
        late.struck[0].asked[0].1 = Some(s(10.5));
        let late = told(&late, &Course::Done, Ok(()));
        assert!(
            late.contains("within 10 s") && late.contains("10.500 s"),
            "{late}"
        );
        let mut paused = sample();
        paused.pause.as_mut().expect("one").lasted = s(3.0);
        let paused = told(&paused, &Course::Done, Ok(()));
        assert!(paused.contains("waits 3 s"), "{paused}");
        let mut unread = sample();
        unread.read_pause.clone_from(&unread.pause);
        unread.read_pause.as_mut().expect("one").lasted = s(3.0);
        let unread = told(&unread, &Course::Done, Ok(()));
        assert!(unread.contains("answer to a read"), "{unread}");
    }

    #[test]
    fn the_json_is_the_contracts_and_what_is_not_measured_is_null() {
        let value = sample().to_json();
        let expected = json!({
            "drill": "site-loss", "verdict": "pass", "rpo_bytes": 0, "rto_ms": 2000,
            "bytes_verified": 1 << 20, "bytes_lost": 0, "wan_repair_bytes": null,
            "client_throughput_ratio": 0.9, "report": "/f/drills/site-loss-1.html",
        });
        for (key, expected) in expected.as_object().expect("an object") {
            assert_eq!(&value[key], expected, "{key}");
        }
        // A scenario's report has the same keys, whoever carried it out.
        for key in sim::report::Report::default()
            .to_json()
            .as_object()
            .expect("one")
            .keys()
        {
            assert!(value.get(key).is_some(), "{key}");
        }
        let mut failed = sample();
        failed.report.verdict = Some("it is late".to_owned());
        failed.throughput.healing = None;
        let value = failed.to_json();
        assert_eq!(value["verdict"], "fail");
        assert_eq!(value["client_throughput_ratio"], Value::Null);
    }

    #[test]
    fn the_figures_agree_with_the_samples() {
        let outcome = sample();
        let spans = outcome.spans(Kind::Before);
        assert_eq!(
            meter::rate(&outcome.samples, &spans, &[true, true]),
            Some(10.0)
        );
        assert_eq!(outcome.end(), s(30.0));
        assert_eq!(outcome.latency(&spans).map(|l| l.p99), Some(s(0.002)));
    }
}
