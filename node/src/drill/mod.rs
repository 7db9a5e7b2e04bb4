//! Drills: a scenario file of the simulator, carried out on the real processes of `atoll dev`,
//! with the same oracle over NBD and the same kind of report.
//!
//! Processes are killed, stopped and started; links are cut where the WAN emulator is on them.
//! What only a simulator can do (lose unsynced writes, hit an owner at a chosen message) is
//! refused before anything is touched.

mod fault;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use model::time::Time;
use sim::plan::Plan;
use sim::plan::load::Place;
use sim::plan::topology::site_name;
use sim::report::Report;
use thiserror::Error;

use self::fault::{Fault, Field};
use crate::admin::client;
use crate::admin::protocol::{Reply, Request};
use crate::check::{Check, CheckError, History, Target, Terms};
use crate::dev::control::{self, Answer};
use crate::dev::layout::{Layout, LayoutError};
use crate::units::ByteSize;

/// A server that is away for longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A drill can't be carried out.
#[derive(Debug, Error)]
pub enum DrillError {
    /// There is no fabric of `atoll dev` in the directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The supervisor does not answer.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// The supervisor would not.
    #[error("{0}")]
    Refused(String),
    /// No node answers.
    #[error(transparent)]
    Admin(#[from] client::ClientError),
    /// The check can't begin.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The scenario is of another fabric.
    #[error(
        "the scenario has {wanted}, this fabric {found}: start `atoll dev --sites S --nodes N`"
    )]
    Shape {
        /// Sites and nodes a site.
        wanted: String,
        /// Those that there are.
        found: String,
    },
    /// A fault that processes can't be made to have.
    #[error("fault {number} ({what}) can't be drilled: {why}")]
    Impossible {
        /// Which, counted from 1.
        number: usize,
        /// What it is.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// A signal.
    #[error("can't signal the process of node {node}: {error}")]
    Signal {
        /// Whose.
        node: String,
        /// Why.
        error: std::io::Error,
    },
}

/// What a fault that struck asks of service.
struct Struck {
    number: usize,
    at: Duration,
    /// Sites that must go on.
    asked: Vec<String>,
}

/// Carries a scenario out.
///
/// # Errors
/// See [`DrillError`]. What was wrong with the fabric is in the report.
pub fn run(directory: &Path, plan: &Plan) -> Result<Report, DrillError> {
    let field = Field::new(directory, Layout::load(directory)?);
    check_shape(plan, &field.layout)?;
    fault::check(plan, &field)?;
    let volume = format!("drill-{}", std::process::id());
    create(directory, plan, &volume)?;
    let wan_before = field.wan_bytes();
    let mut check = Check::begin(Terms {
        export: volume.clone(),
        targets: targets(plan, &field.layout),
        connections: 3,
        bytes: plan.workload.volume,
        think: plan.workload.think,
        patience: PATIENCE,
        seed: plan.seed,
        overwrite: false,
    })?;
    let mut drill = Drill {
        plan,
        field,
        volume,
        open: BTreeMap::new(),
        struck: Vec::new(),
    };
    let carried_out = drill.go(&mut check);
    // Whatever came of it, nothing that was stopped or cut stays so, but for what is lost.
    let mended = drill.mend_all(check.history());
    let history = std::sync::Arc::clone(check.history());
    let verdict = check.end();
    carried_out?;
    mended?;
    let mut report = Check::report(&history, plan.name.clone(), &verdict);
    report.rto = drill.longest_wait(&history);
    report.wan_bytes = drill.field.wan_bytes().zip(wan_before).map(|(a, b)| a - b);
    if report.passed() {
        report.verdict = drill.unexpected(&history, &report);
    }
    if report.passed() {
        let name = drill.volume.clone();
        client::ask(directory, &Request::VolumeDelete { name })?;
    }
    Ok(report)
}

fn check_shape(plan: &Plan, layout: &Layout) -> Result<(), DrillError> {
    let (sites, nodes) = (plan.topology.sites, plan.topology.nodes);
    let fits = layout.sites.len() as u64 == sites
        && layout.sites.iter().all(|s| s.nodes.len() as u64 == nodes)
        && (0..sites).all(|s| layout.site(&site_name(s)).is_ok());
    if fits {
        return Ok(());
    }
    let found = layout.sites.first().map_or(0, |s| s.nodes.len());
    Err(DrillError::Shape {
        wanted: format!("{sites} sites of {nodes} nodes"),
        found: format!("{} of {found}", layout.sites.len()),
    })
}

fn create(directory: &Path, plan: &Plan, name: &str) -> Result<(), DrillError> {
    let request = Request::VolumeCreate {
        name: name.to_owned(),
        size_bytes: ByteSize(plan.workload.volume).0,
        home: None,
        code: plan.topology.code.0.to_string(),
    };
    // Its first client makes it served.
    client::ask(directory, &request)?;
    Ok(())
}

fn owner(directory: &Path, name: &str) -> Result<Option<String>, DrillError> {
    let name = name.to_owned();
    let told = client::ask(directory, &Request::VolumeShow { name })?;
    match told.reply {
        Reply::Volume(volume) => Ok(volume.owner),
        _ => Ok(None),
    }
}

/// A client's node; one that is placed by its distance from the owner is in each site once.
fn targets(plan: &Plan, layout: &Layout) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for (i, client) in plan.workload.clients.iter().enumerate() {
        let name = match client.place {
            Place::At(name) => name.to_string(),
            Place::NearOwner | Place::FarFromOwner => {
                let site = &layout.sites[i % layout.sites.len()];
                site.nodes[0].name.clone()
            }
        };
        if let Ok((site, node)) = layout.node(&name) {
            let target = Target {
                address: node.nbd,
                site: Some(site.name.clone()),
            };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    targets
}

struct Drill<'a> {
    plan: &'a Plan,
    field: Field,
    volume: String,
    /// Faults that struck and are not over.
    open: BTreeMap<usize, Fault>,
    struck: Vec<Struck>,
}

impl Drill<'_> {
    /// Lets the timeline happen; ends early at the first thing that is wrong.
    fn go(&mut self, check: &mut Check) -> Result<(), DrillError> {
        let after = |t: Time| t.since(Time::ZERO);
        let mut steps: Vec<(Duration, usize, bool)> = Vec::new();
        for (i, fault) in self.plan.faults.iter().enumerate() {
            steps.push((after(fault.armed), i, true));
            steps.push((after(fault.armed) + fault.lasts, i, false));
        }
        steps.sort_unstable();
        for (at, i, strikes) in steps {
            let wait = at.saturating_sub(check.history().now());
            if check.wait(wait) {
                return Ok(());
            }
            if strikes {
                self.strike(i, check.history())?;
            } else if let Some(fault) = self.open.remove(&i) {
                self.mend(i, &fault, check.history())?;
            }
        }
        let rest = self
            .plan
            .workload
            .span
            .saturating_sub(check.history().now());
        if !check.wait(rest) {
            self.await_resumption(check);
        }
        Ok(())
    }

    fn strike(&mut self, i: usize, history: &History) -> Result<(), DrillError> {
        let owner = owner(&self.field.directory, &self.volume)?;
        let fault = Fault::resolve(&self.plan.faults[i], owner.as_deref(), &self.field);
        // The clock runs from before it: a kill is not over before it began.
        let number = history.strike(&fault.to_string());
        self.struck.push(Struck {
            number,
            at: history.now(),
            asked: fault.asked(&self.field, &targets(self.plan, &self.field.layout)),
        });
        fault.strike(&mut self.field)?;
        history.in_effect(number);
        self.open.insert(i, fault);
        Ok(())
    }

    fn mend(&mut self, i: usize, fault: &Fault, history: &History) -> Result<(), DrillError> {
        if fault.mend(&mut self.field)? {
            history.tell(format!("fault {} is over", i + 1));
        }
        Ok(())
    }

    fn mend_all(&mut self, history: &History) -> Result<(), DrillError> {
        let mut result = Ok(());
        for (i, fault) in std::mem::take(&mut self.open) {
            result = result.and(self.mend(i, &fault, history));
        }
        result
    }

    /// Gives every site that must go on the time that it may take.
    fn await_resumption(&self, check: &Check) {
        let Some(bar) = self.plan.expect.rto else {
            return;
        };
        let latest = self.struck.iter().map(|s| s.at + bar).max();
        let until = latest.unwrap_or_default();
        let resumed = |s: &Struck| {
            let first = |site: &String| check.history().resumed(s.number, site);
            s.asked.iter().all(|site| first(site).is_some())
        };
        while check.history().now() < until && !self.struck.iter().all(resumed) {
            if check.wait(Duration::from_millis(50)) {
                return;
            }
        }
    }

    fn longest_wait(&self, history: &History) -> Option<Duration> {
        let waits = self.struck.iter().flat_map(|s| {
            s.asked.iter().map(|site| {
                let first = history.resumed(s.number, site);
                first.unwrap_or_else(|| history.now().saturating_sub(s.at))
            })
        });
        waits.max()
    }

    /// What was expected and did not come out.
    fn unexpected(&self, history: &History, report: &Report) -> Option<String> {
        if let Some(bar) = self.plan.expect.rto {
            for struck in &self.struck {
                for site in &struck.asked {
                    let number = struck.number;
                    match history.resumed(number, site) {
                        Some(took) if took <= bar => {}
                        Some(took) => {
                            return Some(format!(
                                "expected service at site {site} to go on within {bar:?} after fault {number}: it took {took:?}"
                            ));
                        }
                        None => {
                            return Some(format!(
                                "expected service at site {site} to go on after fault {number}: it never did"
                            ));
                        }
                    }
                }
            }
        }
        let (most, bytes) = (self.plan.expect.wan_bytes?, report.wan_bytes?);
        (bytes > most)
            .then(|| format!("expected at most {most} bytes between sites, there were {bytes}"))
    }
}

/// The processes that the supervisor answers with.
fn processes(answer: Answer) -> Result<Vec<control::Process>, DrillError> {
    match answer {
        Answer::Nodes(nodes) => Ok(nodes),
        Answer::Error(why) => Err(DrillError::Refused(why)),
        Answer::Links(_) => Ok(Vec::new()),
    }
}
