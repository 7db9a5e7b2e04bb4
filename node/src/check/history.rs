//! What was asked and answered, by all connections: the oracle behind a lock, on real time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::time::Time;
use sim::oracle::{Oracle, SECTOR, Value, Violation, WriteId};
use sim::report::{Entry, Report, seconds};
use sim::rng::Rng;
use sim::workload::{Layout, Mix, Op, Workload};

/// An acknowledged write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ack {
    /// When it was sent.
    pub called: Duration,
    /// When its answer came.
    pub answered: Duration,
    /// By which site.
    pub site: Option<String>,
}

/// An operation that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// When its answer came.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// By which target, counted from 0.
    pub by: usize,
    /// Whether it changed anything.
    pub mutates: bool,
    /// Whether it brought data: zeros and trims need no room, and go on where writes are refused.
    pub writes: bool,
}

/// All of it.
#[derive(Debug)]
pub struct History {
    begun: Instant,
    bytes: u64,
    inner: Mutex<Inner>,
    failed: Condvar,
}

#[derive(Debug)]
struct Inner {
    oracle: Oracle,
    workload: Workload,
    /// When what is not answered was called.
    open: BTreeMap<u64, Time>,
    next: u64,
    answered: u64,
    fault: Option<String>,
    bytes_lost: u64,
    /// Those of them that read as they were before an acknowledged write.
    bytes_stale: u64,
    rpo: Duration,
    timeline: Vec<Entry>,
    samples: Vec<Sample>,
    refusals: Refusals,
    /// A drill's faults.
    awaited: Vec<Awaited>,
}

/// From each site the first acknowledgement is awaited of a write that was sent while a fault
/// was in effect.
#[derive(Debug)]
struct Awaited {
    /// When the fault began: waits are counted from here.
    struck: Duration,
    /// When it was surely in effect: a write that was sent before says nothing.
    in_effect: Option<Duration>,
    /// How long each site waited.
    sites: BTreeMap<String, Duration>,
}

/// Changes that were refused for lack of space.
#[derive(Debug, Default)]
struct Refusals {
    /// Whether the fabric may do so now.
    allowed: bool,
    /// When the last one of clients was answered, and how many there were.
    last: Option<Duration>,
    count: u64,
    /// Sites whose clients met one.
    sites: BTreeSet<String>,
}

/// An operation that was called.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) op: Op,
    number: u64,
    called: Time,
    write: Option<WriteId>,
    /// The target of clients' operations; none of what the check itself asks.
    by: Option<usize>,
}

impl History {
    /// Of so many bytes that read as zeros.
    #[allow(clippy::disallowed_methods)] // Real servers are checked on real time.
    pub(super) fn new(bytes: u64, seed: u64) -> Self {
        let inner = Inner {
            oracle: Oracle::default(),
            workload: Workload::new(
                Rng::new(seed, 1),
                Layout::small(bytes / model::BLOCK_BYTES as u64),
            ),
            open: BTreeMap::new(),
            next: 0,
            answered: 0,
            fault: None,
            bytes_lost: 0,
            bytes_stale: 0,
            rpo: Duration::ZERO,
            timeline: Vec::new(),
            samples: Vec::new(),
            refusals: Refusals::default(),
            awaited: Vec::new(),
        };
        Self {
            begun: Instant::now(),
            bytes,
            inner: Mutex::new(inner),
            failed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are used.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long it has gone on.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn time(&self) -> Time {
        Time::ZERO + self.now()
    }

    /// The next operation of a mix for a client of target `by`; it counts as called now.
    pub(super) fn call(&self, mix: Mix, by: usize) -> Call {
        let mut inner = self.lock();
        let op = match inner.workload.next(mix) {
            // The client asks no server for `base:allocation`.
            Op::Status { first, count } => Op::Read { first, count },
            op => op,
        };
        self.called(&mut inner, op, Some(by))
    }

    /// A read of all sectors from `first` on.
    pub(super) fn call_read(&self, first: u64, count: u64) -> Call {
        self.called(&mut self.lock(), Op::Read { first, count }, None)
    }

    /// A write of all sectors from `first` on.
    pub(super) fn call_write(&self, first: u64, count: u64) -> Call {
        let mut inner = self.lock();
        let value = inner.workload.values(count);
        let op = Op::Write {
            first,
            count,
            value,
        };
        self.called(&mut inner, op, None)
    }

    fn called(&self, inner: &mut Inner, op: Op, by: Option<usize>) -> Call {
        let called = self.time();
        inner.next += 1;
        let number = inner.next;
        inner.open.insert(number, called);
        let write = op
            .mutates()
            .then(|| inner.oracle.write_called(called, op.changes()));
        Call {
            op,
            number,
            called,
            write,
            by,
        }
    }

    /// It was never answered: whether it happened is unknown.
    pub(super) fn lost(&self, call: &Call) {
        self.lock().open.remove(&call.number);
    }

    /// From now on, changes may be refused for lack of space, or may not.
    pub fn allow_refusals(&self, allowed: bool) {
        self.lock().refusals.allowed = allowed;
    }

    /// A change was refused for lack of space; false if that may not be. Some of its sectors may
    /// have been changed before there was no more room, as a disk's may that fails in the middle:
    /// each stays unknown until it is seen.
    pub(super) fn refused(&self, call: &Call, site: Option<&String>) -> bool {
        let mut inner = self.lock();
        if !inner.refusals.allowed || !call.op.mutates() {
            return false;
        }
        let at = self.now();
        inner.open.remove(&call.number);
        if call.by.is_some() {
            inner.refusals.count += 1;
            inner.refusals.last = Some(at);
        }
        if let Some(site) = site
            && inner.refusals.sites.insert(site.clone())
        {
            let what = format!("site {site} is refused a write: no space left");
            inner.timeline.push(Entry { at, what });
        }
        true
    }

    /// How many changes of clients were refused for lack of space, and when the last one was.
    #[must_use]
    pub fn refusals(&self) -> (u64, Option<Duration>) {
        let inner = self.lock();
        (inner.refusals.count, inner.refusals.last)
    }

    /// A trim was acknowledged. NBD promises nothing of what is read afterwards; servers leave
    /// sectors as they were, or as zeros. What is written afterwards it leaves alone.
    pub(super) fn trimmed(&self, call: &Call) {
        let mut inner = self.lock();
        let now = self.time();
        inner.answered(call, now);
        if let Some(write) = call.write {
            inner.oracle.optional_answered(now, write);
        }
    }

    /// A mutation was acknowledged.
    pub(super) fn acknowledged(&self, call: &Call, site: Option<&String>) {
        let mut inner = self.lock();
        let now = self.time();
        inner.answered(call, now);
        if let Some(write) = call.write {
            inner.oracle.write_answered(now, write);
        }
        let (called, answered) = (call.called.since(Time::ZERO), now.since(Time::ZERO));
        // Zeros need no room: that they are taken says nothing of writes.
        let writes = matches!(call.op, Op::Write { .. });
        if let Some(site) = site.filter(|_| writes) {
            inner.note(&Ack {
                called,
                answered,
                site: Some(site.clone()),
            });
        }
    }

    /// A read was answered.
    pub(super) fn read(&self, call: &Call, values: impl Iterator<Item = Option<Value>>) {
        let Op::Read { first, .. } = call.op else {
            return;
        };
        let mut inner = self.lock();
        let now = self.time();
        inner.answered(call, now);
        let earliest = inner.open.values().min().copied().unwrap_or(now);
        let times = (call.called, now, earliest.min(call.called));
        for (sector, value) in (first..).zip(values) {
            let fault = match value {
                None => Some(format!("sector {sector} came back torn")),
                Some(value) => match inner.oracle.read(times, sector, value) {
                    Ok(()) => None,
                    Err(violation) => {
                        inner.measure(&violation);
                        let stale = matches!(violation, Violation::Stale { .. });
                        inner.bytes_stale += if stale { SECTOR as u64 } else { 0 };
                        Some(violation.to_string())
                    }
                },
            };
            if let Some(fault) = fault {
                inner.bytes_lost += SECTOR as u64;
                inner.fault.get_or_insert(fault);
            }
        }
        let failed = inner.fault.is_some();
        drop(inner);
        if failed {
            self.failed.notify_all();
        }
    }

    /// Something is wrong; the first such thing is told.
    pub(super) fn fail(&self, fault: String) {
        self.lock().fault.get_or_insert(fault);
        self.failed.notify_all();
    }

    /// What is wrong.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.lock().fault.clone()
    }

    pub(super) fn wait(&self, span: Duration) -> bool {
        let inner = self.lock();
        let (inner, _) = self
            .failed
            .wait_timeout_while(inner, span, |inner| inner.fault.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        inner.fault.is_some()
    }

    /// Something that happened, for the report.
    pub fn tell(&self, what: String) {
        let at = self.now();
        self.lock().timeline.push(Entry { at, what });
    }

    /// A fault begins to strike. Its number.
    pub fn strike(&self, what: &str) -> usize {
        let at = self.now();
        let mut inner = self.lock();
        inner.awaited.push(Awaited {
            struck: at,
            in_effect: None,
            sites: BTreeMap::new(),
        });
        let number = inner.awaited.len();
        let what = format!("fault {number}: {what}");
        inner.timeline.push(Entry { at, what });
        number
    }

    /// A fault (by its number) has struck: what is sent from now on is sent under it.
    pub fn in_effect(&self, fault: usize) {
        let now = self.now();
        let mut inner = self.lock();
        if let Some(awaited) = inner.awaited.get_mut(fault.wrapping_sub(1)) {
            awaited.in_effect = Some(now);
        }
    }

    /// How long after a fault (by its number) a site first went on.
    #[must_use]
    pub fn resumed(&self, fault: usize, site: &str) -> Option<Duration> {
        let inner = self.lock();
        let awaited = inner.awaited.get(fault.checked_sub(1)?)?;
        awaited.sites.get(site).copied()
    }

    /// All answers to clients so far.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.lock().samples.clone()
    }

    /// How many operations of clients were answered within `span` before now.
    #[must_use]
    pub fn answered_within(&self, span: Duration) -> usize {
        let since = self.now().saturating_sub(span);
        let inner = self.lock();
        let recent = inner.samples.iter().rev();
        recent.take_while(|s| s.at >= since).count()
    }

    /// Acknowledged bytes that were read as they had been before.
    #[must_use]
    pub fn bytes_stale(&self) -> u64 {
        self.lock().bytes_stale
    }

    pub(super) fn finish(&self) -> Result<(), String> {
        self.lock().oracle.finish().map_err(|v| v.to_string())
    }

    pub(super) fn report(&self) -> Report {
        let took = self.now();
        let inner = self.lock();
        Report {
            rpo: inner.rpo,
            bytes_lost: inner.bytes_lost,
            operations: inner.answered,
            checked_bytes: inner.oracle.checked() * SECTOR as u64,
            took,
            timeline: inner.timeline.clone(),
            ..Report::default()
        }
    }
}

impl Inner {
    fn answered(&mut self, call: &Call, now: Time) {
        self.open.remove(&call.number);
        self.answered += 1;
        if let Some(by) = call.by {
            self.samples.push(Sample {
                at: now.since(Time::ZERO),
                took: now.since(call.called),
                by,
                mutates: call.op.mutates(),
                writes: matches!(call.op, Op::Write { .. }),
            });
        }
    }

    fn note(&mut self, ack: &Ack) {
        let Some(site) = &ack.site else { return };
        let mut told = Vec::new();
        for (number, awaited) in (1..).zip(&mut self.awaited) {
            let under_it = awaited.in_effect.is_some_and(|from| ack.called >= from);
            if under_it && !awaited.sites.contains_key(site) {
                let after = ack.answered.saturating_sub(awaited.struck);
                awaited.sites.insert(site.clone(), after);
                told.push(format!(
                    "site {site} has a new write acknowledged, {} after fault {number}",
                    seconds(after)
                ));
            }
        }
        let at = ack.answered;
        let entries = told.into_iter().map(|what| Entry { at, what });
        self.timeline.extend(entries);
    }

    /// How old a lost acknowledgement was when the last fault before its loss struck.
    fn measure(&mut self, violation: &Violation) {
        if let Violation::Stale { called, since, .. } = violation {
            let called = called.since(Time::ZERO);
            let struck = self.awaited.iter().map(|a| a.struck);
            let struck = struck.filter(|at| *at <= called).max().unwrap_or(called);
            let age = struck.saturating_sub(since.since(Time::ZERO));
            self.rpo = self.rpo.max(age);
        }
    }
}

#[cfg(test)]
mod tests;
