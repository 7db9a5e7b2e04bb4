//! The checker of histories over NBD: the simulator's oracle, fed by real connections to any
//! server, ours or another.
//!
//! Every sector that is written gets a value of its own; what was asked and not answered stays
//! unknown until it is seen. So a stale, torn, misplaced or lost sector is noticed, whoever lost
//! it. Connections that break are opened again, for as long as patience lasts: a server may die
//! and come back, and must still have what it acknowledged.

mod history;
mod worker;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sim::report::Report;
use sim::workload::Mix;
use thiserror::Error;

pub use history::{Ack, History, Sample};
pub use worker::ENOSPC;
use worker::{Connection, Worker};

/// Where to check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// Its site, in a drill.
    pub site: Option<String>,
}

/// What to check.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The export.
    pub export: String,
    /// The servers; each connection keeps to one.
    pub targets: Vec<Target>,
    /// Connections to each server, each with one operation after the other.
    pub connections: usize,
    /// So many bytes from the export's begin are used, at most.
    pub bytes: u64,
    /// The longest pause between two operations of a connection.
    pub think: Duration,
    /// How long a server may be away.
    pub patience: Duration,
    /// Decides what is asked.
    pub seed: u64,
    /// Whether anything may be overwritten.
    pub overwrite: bool,
}

/// A check can't be made, or found something wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CheckError {
    /// No server.
    #[error("{address} does not serve '{export}': {why}")]
    Unreachable {
        /// The server.
        address: SocketAddr,
        /// The export.
        export: String,
        /// Why.
        why: String,
    },
    /// It can't be written.
    #[error("the export '{0}' is read-only")]
    ReadOnly(String),
    /// It is smaller than a block.
    #[error("the export '{0}' is smaller than 4 KiB")]
    Small(String),
    /// It has somebody's data.
    #[error(
        "the export '{export}' has data at byte {offset} that no check wrote: give --overwrite to \
         lose it"
    )]
    Precious {
        /// The export.
        export: String,
        /// Where.
        offset: u64,
    },
    /// What was promised was not kept.
    #[error("{0}")]
    Wrong(String),
}

/// A check under way: workers run until it is ended.
#[derive(Debug)]
pub struct Check {
    terms: Arc<Terms>,
    history: Arc<History>,
    /// To each server.
    connections: usize,
    stop: Arc<AtomicBool>,
    workers: Vec<thread::JoinHandle<()>>,
}

/// Told of bytes that were done of all, and asked whether to go on.
pub type Show<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

impl Check {
    /// Looks at the export, clears what will be used of it, and begins.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn begin(terms: Terms) -> Result<Self, CheckError> {
        let mut check = Self::prepare(terms)?;
        check.start();
        Ok(check)
    }

    /// Looks at the export, and clears what will be used of it: nobody works yet.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn prepare(terms: Terms) -> Result<Self, CheckError> {
        let first = terms.targets.first().expect("somebody is to be checked");
        let patience = terms.patience;
        let mut connection = Connection::open(first.address, &terms.export, patience, patience)?;
        let bytes = terms.bytes.min(connection.size()) / worker::BLOCK * worker::BLOCK;
        if bytes == 0 {
            return Err(CheckError::Small(terms.export));
        }
        connection.prepare(bytes, terms.overwrite)?;
        // Without MULTI_CONN, what one connection wrote another one need not see.
        let connections = match connection.can_multi_conn() || terms.targets.len() > 1 {
            true => terms.connections.max(1),
            false => 1,
        };
        Ok(Self {
            history: Arc::new(History::new(bytes, terms.seed)),
            terms: Arc::new(terms),
            connections,
            stop: Arc::new(AtomicBool::new(false)),
            workers: Vec::new(),
        })
    }

    /// Writes all that is used, by the first server, so that there is something to lose.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn fill(&self, show: Show<'_>) -> Result<(), CheckError> {
        let patience = self.terms.patience;
        let first = &self.terms.targets[0];
        let export = &self.terms.export;
        let mut connection = Connection::open(first.address, export, patience, patience)?;
        connection.fill(&self.history, show)
    }

    /// Writes over what is used by the first server, until that is refused for lack of space; at
    /// most so many bytes. False if it was not.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn press(&self, bytes_max: u64, show: Show<'_>) -> Result<bool, CheckError> {
        let patience = self.terms.patience;
        let first = &self.terms.targets[0];
        let export = &self.terms.export;
        let mut connection = Connection::open(first.address, export, patience, patience)?;
        connection.press(&self.history, bytes_max, show)
    }

    /// Sets the clients to work.
    pub fn start(&mut self) {
        let mixes = [Mix::All, Mix::Writes, Mix::Reads];
        for (by, target) in self.terms.targets.iter().enumerate() {
            for i in 0..self.connections {
                let worker = Worker {
                    terms: Arc::clone(&self.terms),
                    target: target.clone(),
                    by,
                    history: Arc::clone(&self.history),
                    tells: i == 0,
                    stop: Arc::clone(&self.stop),
                    mix: match self.connections {
                        1 => Mix::All,
                        _ => mixes[i % mixes.len()],
                    },
                };
                self.workers.push(thread::spawn(move || worker.run()));
            }
        }
    }

    /// What has been asked and answered so far.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Waits, but not beyond the first fault; true if there was one.
    #[must_use]
    pub fn wait(&self, span: Duration) -> bool {
        self.history.wait(span)
    }

    /// Ends the operations, reads all by every server that is reachable, and judges.
    ///
    /// # Errors
    /// See [`CheckError`]: what could not be read back, too.
    pub fn end(mut self) -> Result<(), CheckError> {
        self.halt();
        self.judge(&mut |_, _| true)
    }

    /// Ends the operations.
    pub fn halt(&mut self) {
        self.stop.store(true, Ordering::Release);
        for worker in std::mem::take(&mut self.workers) {
            // A worker's panic is a fault of the checker, and must not pass for a good end.
            if worker.join().is_err() {
                self.history.fail("the checker itself panicked".to_owned());
            }
        }
    }

    /// Reads all by every server that is reachable, and judges; to be called once operations
    /// have ended.
    ///
    /// # Errors
    /// See [`CheckError`]: what could not be read back, too.
    pub fn judge(&self, show: Show<'_>) -> Result<(), CheckError> {
        self.read_by_all(&BTreeSet::new(), true, show)?;
        self.history.finish().map_err(CheckError::Wrong)
    }

    /// Reads all by a server of each site but those, while operations go on.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn read_back(&self, without: &BTreeSet<String>, show: Show<'_>) -> Result<(), CheckError> {
        self.read_by_all(without, false, show)
    }

    /// Reads all by the first server of each site that is reachable; by every server whose site
    /// is not known.
    fn read_by_all(
        &self,
        without: &BTreeSet<String>,
        at_rest: bool,
        show: Show<'_>,
    ) -> Result<(), CheckError> {
        if let Some(fault) = self.history.fault() {
            return Err(CheckError::Wrong(fault));
        }
        let targets = &self.terms.targets;
        let sites: BTreeSet<_> = targets.iter().filter_map(|t| t.site.as_ref()).collect();
        let readers = match sites.len() {
            0 => targets.len(),
            sites => sites,
        };
        let of = self.history.bytes() * readers as u64;
        let (mut read, mut last, mut before) = (BTreeSet::new(), None, 0);
        let is_without = |site: &String| without.contains(site);
        for target in targets {
            if target.site.as_ref().is_some_and(is_without) {
                continue;
            }
            if target.site.is_some() && read.contains(&target.site) {
                continue;
            }
            // In a drill, a lost site's servers are not there any more.
            let patience = self.terms.patience;
            let wait = match targets.len() {
                1 => patience,
                _ => Duration::from_secs(2),
            };
            match Connection::open(target.address, &self.terms.export, wait, patience) {
                Ok(mut connection) => {
                    let mut show = |done, _| show(before + done, of);
                    connection.verify(&self.history, at_rest, &mut show)?;
                    before += self.history.bytes();
                    read.insert(target.site.clone());
                }
                Err(error) => last = Some(error),
            }
        }
        match (read.is_empty(), last) {
            (true, Some(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Its report, without what only a drill knows.
    #[must_use]
    pub fn report(history: &History, name: String, verdict: &Result<(), CheckError>) -> Report {
        Report {
            name,
            verdict: verdict.as_ref().err().map(ToString::to_string),
            ..history.report()
        }
    }
}
