//! The figures of a drill, from what clients saw and the fabric said.

use std::path::PathBuf;
use std::time::Duration;

use model::units::ByteSize;
use sim::report::seconds;

use super::ground::Ground;
use super::judge::{self, Course, Facts};
use super::live;
use super::meter::{self, Span};
use super::outcome::{Client, Outcome, Pause, Phase, Struck, Throughput};
use super::program::{Kind, Limits, Setup};
use super::watch::Look;
use super::{Script, Terms};
use crate::check::{Check, CheckError, History, Sample};

/// All that is known when a drill is over.
pub(super) struct Found<'a> {
    pub(super) script: &'a Script,
    pub(super) setup: &'a Setup,
    pub(super) ground: &'a Ground,
    pub(super) terms: &'a Terms,
    pub(super) limits: Limits,
    pub(super) history: &'a History,
    pub(super) course: &'a Course,
    pub(super) oracle: Result<(), String>,
    pub(super) not_restored: Option<String>,
    pub(super) phases: Vec<Phase>,
    pub(super) struck: Vec<Struck>,
    pub(super) looks: Vec<Look>,
    pub(super) repair_wan_bytes: Option<u64>,
    pub(super) wan_bytes: Option<u64>,
    pub(super) whole: Option<Duration>,
    pub(super) kept: Vec<PathBuf>,
    /// Clients' volumes that are elsewhere now, in words.
    pub(super) moved: Vec<String>,
}

/// What it came to.
pub(super) fn outcome(found: Found<'_>) -> Outcome {
    let facts = Facts {
        course: found.course,
        oracle: found.oracle.clone(),
        not_restored: found.not_restored.clone(),
        limits: found.limits,
    };
    let name = found.script.name().to_owned();
    let oracle = found.oracle.clone().map_err(CheckError::Wrong);
    let mut report = Check::report(found.history, name, &oracle);
    let mut struck = found.struck;
    for struck in &mut struck {
        let resumed = |site: &str| found.history.resumed(struck.number, site);
        let sites = found.ground.sites.iter();
        struck.first = sites.filter_map(|s| resumed(&s.name)).min();
        for (site, took) in &mut struck.asked {
            *took = resumed(site);
        }
    }
    report.rto = recovery_time(found.script, &struck, found.history.now());
    report.wan_bytes = found.wan_bytes;
    for entry in &mut report.timeline {
        entry.what = by_name(&entry.what, found.ground);
    }
    let last_mended = struck.iter().filter_map(|s| s.mended).max();
    let healed = found.whole.zip(last_mended);
    report.healed_after = healed.map(|(whole, mended)| whole.saturating_sub(mended));
    let first_struck = struck.iter().map(|s| s.at).min();
    let protected = found.whole.zip(first_struck);
    let clients = clients(found.setup, found.ground);
    let mut samples = found.history.samples();
    samples.sort_by_key(|s| s.at);
    let counts = untouched(&clients, &struck);
    let mut outcome = Outcome {
        about: match found.terms.live {
            true => live::ABOUT.to_owned(),
            false => found.script.about().to_owned(),
        },
        terms: terms(found.script, found.setup, found.ground, found.terms),
        bytes_stale: found.history.bytes_stale(),
        repair_wan_bytes: found.repair_wan_bytes,
        throughput: throughput(&samples, &found.phases, &struck, found.whole, &counts),
        pause: longest_pause(&samples, &clients, &struck, &found.phases, &counts, |s| {
            s.writes
        }),
        read_pause: longest_pause(&samples, &clients, &struck, &found.phases, &counts, |s| {
            !s.mutates
        }),
        refused: found.history.refusals().0,
        protected_after: protected.map(|(whole, struck)| whole.saturating_sub(struck)),
        report,
        phases: found.phases,
        struck,
        clients,
        samples,
        looks: found.looks,
        expectations: Vec::new(),
        kept: found.kept,
        left: found.moved,
        page: None,
    };
    outcome.expectations = judge::expectations(&outcome, &facts);
    outcome.report.verdict = judge::verdict(&outcome.expectations);
    outcome
}

/// Nodes by their names, not by where they listen.
fn by_name(what: &str, ground: &Ground) -> String {
    let mut what = what.to_owned();
    for (_, node) in ground.nodes() {
        what = what.replace(&node.nbd.to_string(), &format!("node {}", node.name));
    }
    what
}

/// The longest wait of a site that a fault left alone. Of a drill that leaves nobody alone, the
/// wait for the first write anywhere.
fn recovery_time(script: &Script, struck: &[Struck], now: Duration) -> Option<Duration> {
    let waits = struck.iter().flat_map(|s| {
        let never = now.saturating_sub(s.at);
        s.asked.iter().map(move |(_, took)| took.unwrap_or(never))
    });
    let anywhere = || match script {
        Script::Named(_) => struck.iter().filter_map(|s| s.first).max(),
        Script::File(_) => None,
    };
    waits.max().or_else(anywhere)
}

fn clients(setup: &Setup, ground: &Ground) -> Vec<Client> {
    let targets = setup.targets.iter();
    let client = |t: &crate::check::Target| {
        let node = ground.nodes().find(|(_, n)| n.nbd == t.address);
        Client {
            node: node.map_or_else(|| t.address.to_string(), |(_, n)| n.name.clone()),
            site: t.site.clone().unwrap_or_default(),
        }
    };
    targets.map(client).collect()
}

/// Which clients no fault hit; all, if it hit all.
fn untouched(clients: &[Client], struck: &[Struck]) -> Vec<bool> {
    let hit = |c: &Client| struck.iter().any(|s| s.gone.contains(&c.node));
    let all_hit = clients.iter().all(hit);
    clients.iter().map(|c| all_hit || !hit(c)).collect()
}

fn throughput(
    samples: &[Sample],
    phases: &[Phase],
    struck: &[Struck],
    whole: Option<Duration>,
    counts: &[bool],
) -> Throughput {
    let spans = |kind: Kind| -> Vec<Span> {
        let of = phases.iter().filter(|p| p.kind == kind);
        of.map(Phase::span).collect()
    };
    let first = struck.iter().min_by_key(|s| s.at);
    let healing = first.zip(whole).map(|(struck, whole)| {
        let from = struck.at + struck.first.unwrap_or_default();
        let not = [spans(Kind::Reading), spans(Kind::Judging)].concat();
        meter::outside(&[(from, whole.max(from))], &not)
    });
    Throughput {
        before: meter::rate(samples, &spans(Kind::Before), counts),
        healing: healing.and_then(|spans| meter::rate(samples, &spans, counts)),
    }
}

/// Of writes, or of reads: over sites with clients that no fault hit, from the first fault until
/// clients ended.
fn longest_pause(
    samples: &[Sample],
    clients: &[Client],
    struck: &[Struck],
    phases: &[Phase],
    counts: &[bool],
    is_asked: impl Fn(&Sample) -> bool,
) -> Option<Pause> {
    let from = struck.iter().map(|s| s.at).min()?;
    let judging = phases.iter().find(|p| p.kind == Kind::Judging)?;
    let mut sites: Vec<&String> = clients.iter().map(|c| &c.site).collect();
    sites.sort();
    sites.dedup();
    let of_site = |site: &String| {
        let is_of = |by: usize| {
            let client = clients.get(by).is_some_and(|c| c.site == *site);
            client && counts.get(by).copied().unwrap_or(false)
        };
        let counted = (0..clients.len()).any(is_of);
        let counts = |s: &Sample| is_asked(s) && is_of(s.by);
        let (lasted, from) = meter::longest_pause(samples, (from, judging.from), counts)?;
        let site = site.clone();
        counted.then_some(Pause { site, lasted, from })
    };
    let pauses = sites.into_iter().filter_map(of_site);
    pauses.max_by_key(|p| p.lasted)
}

fn terms(
    script: &Script,
    setup: &Setup,
    ground: &Ground,
    terms: &Terms,
) -> Vec<(&'static str, String)> {
    let sites = &ground.sites;
    let nodes = ground.nodes().count();
    let disks: usize = ground.nodes().map(|(_, n)| n.disks).sum();
    let place = match terms.live {
        true => "a live fabric".to_owned(),
        false => format!("all on one machine of {}", thread_count()),
    };
    let mut lines = vec![
        (
            "fabric",
            format!(
                "{} sites, {nodes} nodes, {disks} disks, {place}",
                sites.len()
            ),
        ),
        (
            "volume",
            format!("{}, {}", ByteSize(setup.bytes), setup.code),
        ),
        (
            "clients",
            format!(
                "3 connections to each of {} nodes, pauses of up to {}",
                setup.targets.len(),
                seconds(setup.think)
            ),
        ),
    ];
    if matches!(script, Script::Named(_)) {
        lines.push(("under the disaster", seconds(terms.order.span)));
    }
    lines
}

fn thread_count() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    match cores {
        0 => "unknown cores".to_owned(),
        1 => "1 core".to_owned(),
        n => format!("{n} cores"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn struck(at: u64, gone: &[&str], asked: &[(&str, Option<u64>)]) -> Struck {
        Struck {
            number: 1,
            what: "x".to_owned(),
            at: s(at),
            mended: None,
            gone: gone.iter().map(|n| (*n).to_owned()).collect(),
            asked: asked
                .iter()
                .map(|(site, took)| ((*site).to_owned(), took.map(s)))
                .collect(),
            first: Some(s(1)),
        }
    }

    fn all_clients() -> Vec<Client> {
        [("a1", "a"), ("b1", "b")]
            .map(|(node, site)| Client {
                node: node.to_owned(),
                site: site.to_owned(),
            })
            .to_vec()
    }

    fn phase(kind: Kind, from: u64, to: u64) -> Phase {
        Phase {
            kind,
            name: String::new(),
            from: s(from),
            to: s(to),
        }
    }

    fn named() -> Script {
        Script::Named(super::super::Named::SiteLoss)
    }

    #[test]
    fn the_slowest_site_is_the_recovery_time_and_one_that_never_went_on_counts() {
        let slow = [struck(10, &[], &[("b", Some(2)), ("c", Some(3))])];
        assert_eq!(recovery_time(&named(), &slow, s(60)), Some(s(3)));
        let never = [struck(10, &[], &[("b", Some(2)), ("c", None)])];
        assert_eq!(recovery_time(&named(), &never, s(60)), Some(s(50)));
        let nobody = [struck(10, &["a1", "b1"], &[])];
        assert_eq!(recovery_time(&named(), &nobody, s(60)), Some(s(1)));
    }

    #[test]
    fn clients_that_are_hit_are_left_out_unless_all_are() {
        let clients = all_clients();
        assert_eq!(
            untouched(&clients, &[struck(1, &["a1"], &[])]),
            [false, true]
        );
        let both = [struck(1, &["a1"], &[]), struck(2, &["b1"], &[])];
        assert_eq!(untouched(&clients, &both), [true, true]);
    }

    #[test]
    fn throughput_compares_before_with_healing_and_leaves_reading_out() {
        // One answer a second of b1 until 10 s, one in two seconds afterwards, none at 20 to 30.
        let at = (0..10)
            .chain((10..20).step_by(2))
            .chain((30..40).step_by(2));
        let samples: Vec<Sample> = at
            .map(|at| Sample {
                at: s(at),
                took: s(0),
                by: 1,
                mutates: true,
                writes: true,
            })
            .collect();
        let phases = [
            phase(Kind::Before, 0, 10),
            phase(Kind::Disaster, 10, 20),
            phase(Kind::Reading, 20, 30),
            phase(Kind::Healing, 30, 40),
            phase(Kind::Judging, 40, 41),
        ];
        let hit = [struck(10, &["a1"], &[])];
        let counts = [false, true];
        let rates = throughput(&samples, &phases, &hit, Some(s(40)), &counts);
        let ratio = rates.ratio().expect("measured");
        assert_eq!(rates.before, Some(1.0));
        assert!((0.45..0.55).contains(&ratio), "{ratio}");
        let never = throughput(&samples, &phases, &hit, None, &counts);
        assert_eq!(never.ratio(), None, "it never healed");
        let pause = longest_pause(&samples, &all_clients(), &hit, &phases, &counts, |s| {
            s.writes
        });
        let pause = pause.expect("measured");
        assert_eq!((pause.site.as_str(), pause.lasted), ("b", s(12)));
        let reads = longest_pause(&samples, &all_clients(), &hit, &phases, &counts, |s| {
            !s.mutates
        });
        let reads = reads.expect("measured").lasted;
        assert_eq!(reads, s(30), "nobody read from the fault to the end");
    }
}
