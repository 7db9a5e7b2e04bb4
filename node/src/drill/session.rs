//! A drill from its begin to its report: what is asked of the fabric before, the volume, its
//! clients, the steps, and the fabric as it was.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::error::{DrillError, at};
use super::fault;
use super::field::Field;
use super::figures::{self, Found};
use super::ground::Ground;
use super::homeward::Owners;
use super::judge::Course;
use super::live;
use super::outcome::Outcome;
use super::page;
use super::program::{self, Kind, Limits, Setup, Step, Wait};
use super::progress::Progress;
use super::signals::Stop;
use super::watch::Watch;
use super::{Script, Terms};
use crate::admin::protocol::{Request, Volume};
use crate::check::{self, Check, CheckError};
use crate::dev::layout::Layout;

/// Held while a drill runs on a fabric.
const LOCK: &str = "drill.lock";
/// Where reports are kept, in the fabric's directory.
pub(super) const REPORTS: &str = "drills";

/// A server that is away for longer is not waited for.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// A fabric that just started, or a volume just deleted, may need a moment to look healthy.
const SETTLE: Duration = Duration::from_secs(5);
/// Connections to each server.
const CONNECTIONS: usize = 3;

impl Script {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Named(named) => named.about().name,
            Self::File(plan) => &plan.name,
        }
    }

    pub(super) fn about(&self) -> &str {
        match self {
            Self::Named(named) => named.about().what,
            Self::File(plan) => &plan.about,
        }
    }

    fn check(&self, terms: &Terms, field: &Field) -> Result<(), DrillError> {
        match self {
            Self::Named(named) => named.check(&terms.order, field),
            Self::File(plan) => {
                check_shape(plan, &field.ground)?;
                fault::check(plan, field)
            }
        }
    }

    fn setup(&self, terms: &Terms, field: &Field) -> Result<Setup, DrillError> {
        match self {
            Self::Named(named) => named.setup(&terms.order, field),
            Self::File(plan) => Ok(program::planned(plan, &field.ground)),
        }
    }

    fn steps(
        &self,
        terms: &Terms,
        field: &Field,
        volume: &Volume,
    ) -> Result<Vec<Step>, DrillError> {
        match self {
            Self::Named(named) => named.steps(&terms.order, field, volume),
            Self::File(plan) => Ok(program::timeline(plan)),
        }
    }

    fn limits(&self) -> Limits {
        match self {
            Self::Named(named) => named.limits(),
            Self::File(plan) => Limits {
                rto: plan.expect.rto,
                pause: plan.expect.pause,
                reads: None,
                wan_bytes: plan.expect.wan_bytes,
            },
        }
    }
}

fn check_shape(plan: &sim::plan::Plan, ground: &Ground) -> Result<(), DrillError> {
    let (sites, nodes) = (plan.topology.sites, plan.topology.nodes);
    let fits = ground.sites.len() as u64 == sites
        && ground.sites.iter().all(|s| s.nodes.len() as u64 == nodes)
        && (0..sites).all(|s| ground.site(&sim::plan::topology::site_name(s)).is_ok());
    if fits {
        return Ok(());
    }
    let found = ground.sites.first().map_or(0, |s| s.nodes.len());
    Err(DrillError::Shape {
        wanted: format!("{sites} sites of {nodes} nodes"),
        found: format!("{} of {found}", ground.sites.len()),
    })
}

/// Refuses a fabric of which something is wrong already.
fn check_health(field: &Field) -> Result<(), DrillError> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let status = field.status()?;
        if status.healthy && status.repairs.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let degraded = status.degraded.iter();
            let lines = degraded.map(|d| format!("  {}: {}", d.what, d.why));
            let repairs = status.repairs.iter().map(|r| format!("  {}", r.what));
            let lines: Vec<String> = lines.chain(repairs).collect();
            return Err(DrillError::Unhealthy(lines.join("\n")));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// One drill at a time; the file's lock goes with it.
fn lock(directory: &Path) -> Result<File, DrillError> {
    let path = directory.join(LOCK);
    let file = File::create(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DrillError::Busy),
        Err(TryLockError::Error(source)) => Err(at(&path)(source)),
    }
}

/// The fabric in a directory.
fn field(directory: &Path, script: &Script, terms: &Terms) -> Result<Field, DrillError> {
    let layout = match Layout::find(directory)? {
        None if live::is_node(directory) => return live::field(directory, script, terms),
        None => Layout::load(directory)?,
        Some(_) if terms.live => return Err(DrillError::Dev(directory.to_owned())),
        Some(layout) => layout,
    };
    if terms.order.failback {
        return Err(DrillError::OtherKind {
            option: "--failback",
            kind: "dev",
            why: "the drill that moves its volume home is `failback`",
        });
    }
    Ok(Field::new(directory, Ground::from(&layout), None))
}

/// Carries a drill out on the fabric of `atoll dev` in a directory, or on the live one of the node
/// in it.
///
/// # Errors
/// See [`DrillError`]: nothing was done then, or all of it undone. What was wrong with the
/// fabric is in the outcome.
pub fn run(directory: &Path, script: &Script, terms: &Terms) -> Result<Outcome, DrillError> {
    let field = field(directory, script, terms)?;
    script.check(terms, &field)?;
    let _lock = lock(directory)?;
    if !terms.anyway && field.keeper.is_none() {
        check_health(&field)?;
    }
    let setup = script.setup(terms, &field)?;
    let stop = Stop::on_signals().map_err(DrillError::Signals)?;
    let volume = match &field.keeper {
        // Processes of two hosts may have one number.
        Some(keeper) => format!("drill-{:x}", keeper.drill().0),
        None => format!("drill-{}", std::process::id()),
    };
    field.create_volume(&volume, setup.bytes, setup.home.as_ref(), &setup.code)?;
    let session = Session {
        script,
        terms,
        setup,
        volume,
    };
    let drilled = session.drill(&field, stop);
    let mut outcome = match drilled {
        Ok(outcome) => outcome,
        Err(error) => {
            // The error is what matters; `volume list` has what is left.
            let _ = field.delete_volume(&session.volume);
            return Err(error);
        }
    };
    session.clean_up(&field, &mut outcome);
    session.write(directory, &mut outcome)?;
    Ok(outcome)
}

struct Session<'a> {
    script: &'a Script,
    terms: &'a Terms,
    setup: Setup,
    volume: String,
}

impl Session<'_> {
    fn check_terms(&self) -> check::Terms {
        check::Terms {
            export: self.volume.clone(),
            targets: self.setup.targets.clone(),
            connections: CONNECTIONS,
            bytes: self.setup.bytes,
            think: self.setup.think,
            patience: AWAY_MAX,
            seed: self.setup.seed,
            overwrite: false,
        }
    }

    /// The volume has an owner where the disaster is to be.
    fn settle_owner(&self, field: &Field) -> Result<Volume, DrillError> {
        let volume = field.volume(&self.volume)?;
        let (Script::Named(_), Some(node)) = (self.script, &self.terms.order.node) else {
            return Ok(volume);
        };
        if volume.owner.as_ref() != Some(node) {
            let (name, to) = (self.volume.clone(), node.clone());
            field.admin(&Request::VolumeMove { name, to })?;
        }
        field.volume(&self.volume)
    }

    fn drill(&self, field: &Field, stop: Stop) -> Result<Outcome, DrillError> {
        let wan_before = field.wan_bytes();
        let mut check = Check::prepare(self.check_terms())?;
        let history = Arc::clone(check.history());
        let mut engine = Engine {
            field: field.clone(),
            volume: self.volume.clone(),
            volume_bytes: self.setup.bytes,
            replicas: 0,
            targets: self.setup.targets.clone(),
            patience: self.terms.order.patience,
            plan: match self.script {
                Script::File(plan) => Some(plan),
                Script::Named(_) => None,
            },
            stop,
            progress: Progress::new(),
            watch: Watch::start(field.clone(), self.volume.clone(), Arc::clone(&history)),
            history,
            phases: Vec::new(),
            open: BTreeMap::new(),
            struck: BTreeMap::new(),
            kept: Vec::new(),
            whole: None,
            owners: Owners::new(),
            moved: Vec::new(),
        };
        let course = self.course(field, &mut engine, &mut check);
        // Whatever came of it, nothing that was stopped, cut or taken away stays so, but for
        // what is to be missing until all is judged.
        let mended = engine.mend_all(course != Course::Done);
        let oracle = judge(&mut engine, &mut check, &course);
        let restored = self.restore(&mut engine, mended);
        // A drill that ended early moves nothing home: the fabric may not be whole. Where nobody
        // can be asked there is nothing to tell.
        let _ = engine.homeward(false);
        engine.end_phase();
        engine.progress.end();
        let Engine {
            watch,
            history,
            phases,
            struck,
            kept,
            whole,
            moved,
            ..
        } = engine;
        let (looks, repair_wan_bytes) = watch.end();
        let wan_bytes = field.wan_bytes().zip(wan_before);
        Ok(figures::outcome(Found {
            script: self.script,
            setup: &self.setup,
            ground: &field.ground,
            terms: self.terms,
            limits: self.script.limits(),
            history: &history,
            course: &course,
            oracle,
            not_restored: restored.err(),
            phases,
            struck: struck.into_values().collect(),
            looks,
            repair_wan_bytes,
            wan_bytes: wan_bytes.map(|(after, before)| after.saturating_sub(before)),
            whole,
            kept,
            moved,
        }))
    }

    /// Fills the volume, sets clients to work, and goes through the steps.
    fn course(&self, field: &Field, engine: &mut Engine<'_>, check: &mut Check) -> Course {
        if self.setup.fill {
            let size = model::units::ByteSize(self.setup.bytes);
            engine.phase(Kind::Fill, format!("a volume of {size} is filled"));
            let (stop, progress) = (engine.stop.clone(), &mut engine.progress);
            let mut show = |done: u64, of: u64| {
                progress.tick(|| format!("{} %", done * 100 / of.max(1)));
                !stop.is_set()
            };
            if let Err(error) = check.fill(&mut show) {
                return Course::Failed(error.to_string());
            }
        }
        let settled = self.settle_owner(field);
        let steps = settled.and_then(|volume| {
            engine.replicas = volume.journal.len();
            self.script.steps(self.terms, field, &volume)
        });
        match steps {
            Ok(steps) => {
                check.start();
                let course = engine.go(check, steps);
                self.await_resumption(engine, check);
                course
            }
            Err(error) => Course::Failed(error.to_string()),
        }
    }

    /// Gives every site that must go on the time that it may take.
    fn await_resumption(&self, engine: &Engine<'_>, check: &Check) {
        let Some(bar) = self.script.limits().rto else {
            return;
        };
        let history = check.history();
        let latest = engine.struck.values().map(|s| s.at + bar).max();
        let until = latest.unwrap_or_default();
        let resumed = || {
            engine.struck.values().all(|s| {
                let on = |site: &String| history.resumed(s.number, site).is_some();
                s.asked.iter().all(|(site, _)| on(site))
            })
        };
        while history.now() < until && !resumed() && !engine.stop.is_set() {
            if check.wait(Duration::from_millis(50)) {
                return;
            }
        }
    }

    /// Brings back what was to be missing until all was judged; `Err` says what is not as it was.
    fn restore(
        &self,
        engine: &mut Engine<'_>,
        mended: Result<(), DrillError>,
    ) -> Result<(), String> {
        mended.map_err(|e| e.to_string())?;
        if engine.open.is_empty() {
            return Ok(());
        }
        engine.phase(Kind::Healing, "what was lost returns".to_owned());
        engine.mend_all(true).map_err(|e| e.to_string())?;
        let deadline = Instant::now() + self.terms.order.patience;
        let since = engine.history.now();
        // Clients have left: nobody need serve the volume any more.
        let is_whole = |l: &super::watch::Look| l.status.healthy && l.is_rebuilt();
        while !engine.watch.is_so(since, is_whole) {
            if engine.stop.is_set() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("waited in vain for {}", Wait::Whole.words()));
            }
            thread::sleep(Duration::from_millis(100));
            engine
                .progress
                .tick(|| "waiting for full protection".to_owned());
        }
        engine.whole = Some(engine.history.now());
        engine.history.tell("full protection".to_owned());
        Ok(())
    }

    /// The volume goes, unless it is evidence; lost disks that were replaced go with it.
    fn clean_up(&self, field: &Field, outcome: &mut Outcome) {
        let volume = &self.volume;
        if self.terms.keep {
            outcome.left.push(format!("volume {volume}, as was asked"));
        } else if outcome.report.bytes_lost > 0 {
            outcome.left.push(format!(
                "volume {volume}, as evidence: `atoll volume delete {volume}` once it was looked at"
            ));
        } else if let Err(error) = field.delete_volume(volume) {
            let left = format!(
                "volume {volume} ({error}): `atoll volume delete {volume}`, once that can be done"
            );
            outcome.left.push(left);
        }
        for kept in std::mem::take(&mut outcome.kept) {
            if outcome.passed() {
                if let Err(error) = fault::discard(&kept) {
                    outcome.left.push(error.to_string());
                }
            } else {
                let path = kept.display();
                outcome
                    .left
                    .push(format!("{path}: what the lost disk held"));
            }
        }
    }

    /// Writes the page, and beside it the same as JSON.
    fn write(&self, directory: &Path, outcome: &mut Outcome) -> Result<(), DrillError> {
        let path = match &self.terms.page {
            Some(path) => std::path::absolute(path).map_err(at(path))?,
            None => next_page(&directory.join(REPORTS), self.script.name())?,
        };
        outcome.page = Some(path.clone());
        fs::write(&path, page::render(outcome)).map_err(at(&path))?;
        let beside = path.with_extension("json");
        fs::write(&beside, outcome.to_json().to_string()).map_err(at(&beside))
    }
}

/// `NAME-N.html`, with the first number that is free.
fn next_page(reports: &Path, name: &str) -> Result<PathBuf, DrillError> {
    fs::create_dir_all(reports).map_err(at(reports))?;
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(safe).collect();
    let name = if name.is_empty() {
        "drill".to_owned()
    } else {
        name
    };
    let mut pages = (1_u64..).map(|n| reports.join(format!("{name}-{n}.html")));
    let free = pages.find(|page| !page.exists());
    Ok(free.expect("numbers don't end"))
}

/// Ends the clients, reads all back, and says what the oracle says.
fn judge(engine: &mut Engine<'_>, check: &mut Check, course: &Course) -> Result<(), String> {
    engine.phase(Kind::Judging, "all is read back".to_owned());
    check.halt();
    // Who ended the drill does not want to wait.
    if *course == Course::Interrupted {
        return match check.history().fault() {
            Some(fault) => Err(fault),
            None => Ok(()),
        };
    }
    let (stop, progress) = (engine.stop.clone(), &mut engine.progress);
    let mut show = |done: u64, of: u64| {
        progress.tick(|| format!("{} %", done * 100 / of.max(1)));
        !stop.is_set()
    };
    check.judge(&mut show).map_err(|e| match e {
        CheckError::Wrong(what) => what,
        error => format!("not all could be read back: {error}"),
    })
}
