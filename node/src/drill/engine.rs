//! Carries a drill's steps out, one after the other, while clients work; and undoes them,
//! whatever comes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sim::plan::Plan;

use super::error::DrillError;
use super::fault::{Fault, LostDisk};
use super::field::Field;
use super::homeward::Owners;
use super::judge::Course;
use super::outcome::{Phase, Struck};
use super::program::{Aim, Kind, Step, Wait};
use super::progress::Progress;
use super::rot::Rot;
use super::signals::Stop;
use super::watch::Watch;
use crate::admin::protocol::{Condition, Disk, Reply, Request};
use crate::check::{Check, CheckError, History, Target};

/// Between two looks at whether something is over.
const SLICE: Duration = Duration::from_millis(100);
/// Between two questions of a wait.
const ASK_EVERY: Duration = Duration::from_millis(400);
/// How long the operator's word is given again to a fabric that can't take it yet.
const WORD_MAX: Duration = Duration::from_secs(30);

/// A drill under way.
pub(super) struct Engine<'a> {
    pub(super) field: Field,
    pub(super) volume: String,
    pub(super) volume_bytes: u64,
    /// Journal replicas before anything was wrong.
    pub(super) replicas: usize,
    pub(super) targets: Vec<Target>,
    pub(super) patience: Duration,
    /// The scenario, if it is one.
    pub(super) plan: Option<&'a Plan>,
    pub(super) stop: Stop,
    pub(super) progress: Progress,
    pub(super) watch: Watch,
    pub(super) history: Arc<History>,
    pub(super) phases: Vec<Phase>,
    /// Faults that struck and are not over.
    pub(super) open: BTreeMap<usize, Fault>,
    pub(super) struck: BTreeMap<usize, Struck>,
    /// Where lost disks are kept until the end.
    pub(super) kept: Vec<PathBuf>,
    /// When all was whole again after the last fault.
    pub(super) whole: Option<Duration>,
    /// Who owned which volume before a site was fenced.
    pub(super) owners: Owners,
    /// Clients' volumes that moved, in words.
    pub(super) moved: Vec<String>,
}

/// The fragments of the disk that was asked for, or of the fullest of those of which least ever
/// rotted: one that corrupts again and again is flagged.
fn aim_rot(field: &Field, disk: Option<&str>) -> Result<Rot, DrillError> {
    let aim = |d: &Disk| Rot::aim(&d.name, Path::new(d.path.as_deref().unwrap_or_default()));
    if let Some(name) = disk {
        return aim(&field.disk(name)?);
    }
    let mut disks = field.disks()?.disks;
    disks.retain(|d| d.path.is_some());
    let found = |d: &Disk| d.scrub.as_ref().map_or(u64::MAX, |s| s.found);
    disks.sort_by_key(|d| (found(d), std::cmp::Reverse(d.used_bytes)));
    match disks.first() {
        Some(disk) => aim(disk),
        None => Err(DrillError::NothingToRot("of any node".to_owned())),
    }
}

/// So long after the last refusal there is room again.
const UNREFUSED: Duration = Duration::from_secs(2);

/// What a step came to: nothing if the next one may begin.
pub(super) type Stepped = Result<Option<Course>, DrillError>;

impl Engine<'_> {
    /// All steps, or until something ends them.
    pub(super) fn go(&mut self, check: &Check, steps: Vec<Step>) -> Course {
        for step in steps {
            match self.step(check, step) {
                Ok(None) => {}
                Ok(Some(course)) => return course,
                Err(error) => return Course::Failed(error.to_string()),
            }
        }
        Course::Done
    }

    fn step(&mut self, check: &Check, step: Step) -> Stepped {
        match step {
            Step::Phase(kind, name) => self.phase(kind, name),
            Step::Work(span) => return Ok(self.work(check, self.history.now() + span)),
            Step::Until(at) => return Ok(self.work(check, at)),
            Step::Strike(i, aim) => self.strike(i, aim)?,
            Step::Mend(i) => self.mend(i)?,
            Step::GiveUp(i) => return self.give_up(check, i),
            Step::Replace(i) => self.replace(i),
            Step::FillUp(i) => return self.fill_up(check, i),
            Step::NoSpaceNoMore => self.history.allow_refusals(false),
            Step::Await(wait) => return self.await_it(check, &wait),
            Step::NoteOwners => self.note_owners()?,
            Step::Homeward(go) => self.homeward(go)?,
            Step::ReadBack => return Ok(self.read_back(check)),
        }
        Ok(self.ended(check))
    }

    /// A stretch begins; the one before ends.
    pub(super) fn phase(&mut self, kind: Kind, name: String) {
        self.end_phase();
        self.progress.phase(&name);
        let from = self.history.now();
        let to = from;
        self.phases.push(Phase {
            kind,
            name,
            from,
            to,
        });
    }

    pub(super) fn end_phase(&mut self) {
        let now = self.history.now();
        if let Some(last) = self.phases.last_mut() {
            last.to = now;
        }
    }

    pub(super) fn ended(&self, check: &Check) -> Option<Course> {
        if self.stop.is_set() {
            return Some(Course::Interrupted);
        }
        if let Some(why) = self.field.fence_broken() {
            return Some(Course::Failed(format!("the fence ended early: {why}")));
        }
        check.wait(Duration::ZERO).then_some(Course::Wrong)
    }

    /// How clients fare, and what `status` says, in a few words.
    fn vitals(&self) -> String {
        let second = Duration::from_secs(1);
        let mut words = format!("{} ops/s", self.history.answered_within(second));
        if let Some(look) = self.watch.latest() {
            if let Some(first) = look.status.degraded.first() {
                let more = look.status.degraded.len() - 1;
                let more = if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                };
                words.push_str(&format!(" · degraded: {}{more}", first.what));
            }
            if let Some(bytes) = look.status.at_risk_bytes.filter(|bytes| *bytes > 0) {
                let size = model::units::ByteSize(bytes);
                words.push_str(&format!(" · {size} at risk"));
            }
            if let Some(eta) = look.eta_s() {
                words.push_str(&format!(" · {eta} s to go"));
            }
        }
        words
    }

    /// Waits a moment, and tells; something if the drill ends.
    fn slice(&mut self, check: &Check, doing: &str) -> Option<Course> {
        let ended = self.ended(check);
        if ended.is_some() {
            return ended;
        }
        if check.wait(SLICE) {
            return Some(Course::Wrong);
        }
        let vitals = self.vitals();
        self.progress.tick(|| format!("{doing} · {vitals}"));
        None
    }

    fn work(&mut self, check: &Check, until: Duration) -> Option<Course> {
        loop {
            let left = until.saturating_sub(self.history.now());
            if left.is_zero() {
                return self.ended(check);
            }
            if left < SLICE {
                thread::sleep(left);
                continue;
            }
            let doing = format!("{:.0} s left", left.as_secs_f64());
            let ended = self.slice(check, &doing);
            if ended.is_some() {
                return ended;
            }
        }
    }

    fn strike(&mut self, i: usize, aim: Aim) -> Result<(), DrillError> {
        let fault = match aim {
            Aim::At(fault) => fault,
            Aim::Planned(i) => {
                let plan = self.plan.expect("only a scenario plans");
                let owner = self.field.volume(&self.volume).ok().and_then(|v| v.owner);
                Fault::resolve(&plan.faults[i], owner.as_deref(), &self.field)
            }
            Aim::Rot(disk) => Fault::Rotten(aim_rot(&self.field, disk.as_deref())?),
        };
        // The clock runs from before it: a kill is not over before it began.
        let what = fault.to_string();
        let number = self.history.strike(&what);
        let asked = fault.asked(&self.field, &self.targets);
        self.progress.tell(&what);
        self.whole = None;
        self.struck.insert(
            i,
            Struck {
                number,
                what,
                at: self.history.now(),
                mended: None,
                gone: fault.gone().to_vec(),
                asked: asked.into_iter().map(|site| (site, None)).collect(),
                first: None,
            },
        );
        // Even half a strike is undone.
        let struck = fault.strike(&self.field);
        self.open.insert(i, fault);
        struck?;
        self.history.in_effect(number);
        Ok(())
    }

    pub(super) fn mend(&mut self, i: usize) -> Result<(), DrillError> {
        let Some(fault) = self.open.get(&i).cloned() else {
            return Ok(());
        };
        if matches!(fault, Fault::Killed { .. } | Fault::Stopped(_)) {
            self.watch.restarted(fault.gone());
        }
        if let Fault::DiskLost { disk, .. } = &fault {
            self.watch.restarted(std::slice::from_ref(&disk.node));
        }
        fault.mend(&self.field)?;
        // Rot that a scrub was asked to repair is watched until it is.
        if !matches!(fault, Fault::Rotten(_)) {
            self.open.remove(&i);
        }
        self.history.tell(fault.mended());
        self.progress.tell(&fault.mended());
        if let Some(struck) = self.struck.get_mut(&i) {
            struck.mended = Some(self.history.now());
        }
        Ok(())
    }

    /// Undoes what is not undone yet, the last first; with `for_good`, what was to stay until
    /// it was judged, too.
    pub(super) fn mend_all(&mut self, for_good: bool) -> Result<(), DrillError> {
        let open = self.open.iter().rev();
        let due = open.filter(|(_, fault)| {
            let stays = matches!(fault, Fault::Killed { for_good: true, .. });
            for_good || !stays
        });
        let due: Vec<usize> = due.map(|(i, _)| *i).collect();
        let mut result = Ok(());
        for i in due {
            let mended = self.mend(i);
            if mended.is_ok() {
                self.open.remove(&i);
            }
            result = result.and(mended);
        }
        result
    }

    /// Asks again until it is done: a fabric that lost something can't take every word at once.
    fn word(&mut self, check: &Check, request: &Request) -> Stepped {
        let deadline = Instant::now() + WORD_MAX;
        loop {
            match self.field.admin(request) {
                Ok(_) => return Ok(None),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
            let ended = self.slice(check, "the fabric can't take it yet");
            if ended.is_some() {
                return Ok(ended);
            }
        }
    }

    fn give_up(&mut self, check: &Check, i: usize) -> Stepped {
        let Some(Fault::DiskLost { disk, .. }) = self.open.get(&i) else {
            return Ok(None);
        };
        let LostDisk { name, .. } = disk.clone();
        let lost = true;
        let stepped = self.word(
            check,
            &Request::DiskRemove {
                name: name.clone(),
                lost,
            },
        )?;
        if stepped.is_none() {
            // It can't come back any more, whatever comes.
            self.replace(i);
            self.history
                .tell(format!("the operator gives disk {name} up"));
        }
        Ok(stepped)
    }

    /// From now on a new disk takes the place of a lost one.
    fn replace(&mut self, i: usize) {
        if let Some(Fault::DiskLost { disk, replaced }) = self.open.get_mut(&i)
            && !std::mem::replace(replaced, true)
        {
            self.kept.push(disk.kept());
        }
    }

    fn await_it(&mut self, check: &Check, wait: &Wait) -> Stepped {
        let since = self.history.now();
        let begun = Instant::now();
        let mut asked: Option<Instant> = None;
        let doing = format!("waiting for {}", wait.words());
        loop {
            let due = asked.is_none_or(|at| at.elapsed() >= ASK_EVERY);
            if due {
                if self.is_over(wait, since) {
                    self.reached(wait);
                    return Ok(self.ended(check));
                }
                asked = Some(Instant::now());
            }
            if begun.elapsed() > self.patience {
                let why = self.why_not(wait);
                return Ok(Some(Course::Late(
                    format!("{}{why}", wait.words()),
                    self.patience,
                )));
            }
            let ended = self.slice(check, &doing);
            if ended.is_some() {
                return Ok(ended);
            }
        }
    }

    /// Whether something is as it is waited for. What can't be asked is not.
    fn is_over(&self, wait: &Wait, since: Duration) -> bool {
        match wait {
            Wait::Whole => self.watch.is_so(since, |l| l.is_whole(self.replicas)),
            Wait::Rebuilt => self.watch.is_so(since, super::watch::Look::is_rebuilt),
            Wait::Safe(node) => self.field.safety(node).is_ok_and(|told| told.safe),
            Wait::Fenceable(site) => {
                let keeper = self.field.keeper.as_ref();
                keeper.is_some_and(|k| k.may_fence(site).is_ok_and(|told| told.safe))
            }
            Wait::Empty(node) => matches!(
                self.field.drain(node, false),
                Ok(Reply::Emptying(told)) if told.left.slots == 0
                    && told.left.journals.is_empty()
                    && told.left.volumes_owned.is_empty()
            ),
            Wait::Down(disk) => self.field.disks().is_ok_and(|told| {
                let found = told.disks.iter().find(|d| d.name == *disk);
                found.is_none_or(|d| d.condition != Condition::Up)
            }),
            Wait::Stored => self.field.volume(&self.volume).is_ok_and(|told| {
                let stored = told.stats.map_or(0, |s| s.stored_bytes);
                stored >= self.volume_bytes
            }),
            Wait::Repaired(i) => match self.open.get(i) {
                Some(Fault::Rotten(rot)) => self.is_repaired(rot),
                _ => true,
            },
            Wait::Unrefused => {
                let last = self.history.refusals().1;
                last.is_none_or(|last| self.history.now() >= last + UNREFUSED)
            }
            Wait::Served(i) => self.struck.get(i).is_some_and(|struck| {
                let on = |site: &String| self.history.resumed(struck.number, site).is_some();
                struck.asked.iter().all(|(site, _)| on(site))
            }),
        }
    }

    /// A pass that had gone by before the damage was done begins anew.
    fn is_repaired(&self, rot: &Rot) -> bool {
        if rot.left().is_ok_and(|left| left == 0) {
            return true;
        }
        let disk = self.field.disk(&rot.disk);
        let running = disk.is_ok_and(|d| d.scrub.is_some_and(|s| s.running));
        if !running {
            let start = Request::ScrubStart {
                disk: Some(rot.disk.clone()),
                node: None,
            };
            // It is asked again.
            let _ = self.field.admin(&start);
        }
        false
    }

    fn reached(&mut self, wait: &Wait) {
        if let Wait::Repaired(i) = wait
            && let Some(Fault::Rotten(rot)) = self.open.remove(i)
        {
            let n = rot.fragments();
            self.history
                .tell(format!("{n} rotten fragments are repaired"));
        }
        if *wait == Wait::Whole {
            self.whole = Some(self.history.now());
            self.history.tell("full protection".to_owned());
        }
    }

    /// What stands in the way of what was waited for in vain.
    fn why_not(&self, wait: &Wait) -> String {
        if let Wait::Safe(node) = wait {
            let told = self.field.safety(node);
            return told.map_or_else(
                |e| format!(" ({e})"),
                |told| format!(" ({})", told.reasons.join("; ")),
            );
        }
        if let (Wait::Fenceable(site), Some(keeper)) = (wait, &self.field.keeper) {
            let told = keeper.may_fence(site);
            return told.map_or_else(
                |e| format!(" ({e})"),
                |told| format!(" ({})", told.reasons.join("; ")),
            );
        }
        let Some(look) = self.watch.latest() else {
            return String::new();
        };
        let mut words: Vec<String> = look
            .status
            .degraded
            .iter()
            .map(|d| format!("{}: {}", d.what, d.why))
            .collect();
        words.extend(look.status.repairs.iter().map(|r| r.what.clone()));
        if words.is_empty() {
            return format!(" (journal replicas: {:?})", look.replicas);
        }
        format!(" ({})", words.join("; "))
    }

    fn read_back(&mut self, check: &Check) -> Option<Course> {
        let (stop, progress) = (self.stop.clone(), &mut self.progress);
        let mut show = |done: u64, of: u64| {
            progress.tick(|| format!("{} %", done * 100 / of.max(1)));
            !stop.is_set()
        };
        let without: BTreeSet<String> = self
            .open
            .values()
            .filter_map(Fault::fenced)
            .map(ToOwned::to_owned)
            .collect();
        match check.read_back(&without, &mut show) {
            Ok(()) => self.ended(check),
            Err(CheckError::Wrong(_)) => Some(Course::Wrong),
            Err(error) => Some(Course::Failed(error.to_string())),
        }
    }
}
