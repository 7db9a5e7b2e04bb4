//! One disaster: a site or a node dies under load, and what was acknowledged is read back from a
//! survivor while the load goes on.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::fabric::{Fabric, Victim};
use crate::history::{Ack, History, Signals, Verdict, Writer};

/// Load before the kill.
const WARM_UP: Duration = Duration::from_secs(2);

/// Load after the first acknowledged write by a survivor, at least.
const AFTERMATH: Duration = Duration::from_secs(1);

/// When nothing was acknowledged for so long after a kill, the round has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes in flight, as the contract judges it.
const DEPTH: usize = 16;

/// What a round showed.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// From the kill to the first write that was issued and acknowledged through a survivor's
    /// front end.
    pub(crate) first_write: Duration,
    /// Who owned the volume just before the kill.
    pub(crate) owner: Option<String>,
    /// Whether the kill hit the owner.
    pub(crate) has_hit: bool,
    /// Writes acknowledged before and after the kill.
    pub(crate) writes: u64,
    /// Read back while writes went on, and once more after they ended.
    pub(crate) verdict: Verdict,
}

/// What the writer's thread tells the round's.
#[derive(Debug, Default)]
struct Progress {
    killed_at: Option<Instant>,
    first_after: Option<Ack>,
}

/// A disaster that is to come.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    pub(crate) fabric: &'a Fabric,
    /// Of the volume.
    pub(crate) history: &'a History,
    /// The volume.
    pub(crate) export: &'a str,
    /// Who is killed.
    pub(crate) victim: Victim<'a>,
    /// The node that owns the volume by then; none if that is left to the fabric.
    pub(crate) owner: Option<&'a str>,
    /// Decides which blocks are written when.
    pub(crate) seed: u64,
}

impl Round<'_> {
    /// Kills the victim under load. `meanwhile` reads what else the volume holds by a survivor,
    /// while writes go on.
    pub(crate) fn run(
        &self,
        meanwhile: impl FnOnce(SocketAddr) -> anyhow::Result<Verdict>,
    ) -> anyhow::Result<Outcome> {
        let (fabric, history) = (self.fabric, self.history);
        let front_ends = fabric.front_ends_from(self.victim)?;
        let dying = fabric.nodes_of(self.victim)?;
        let dying: Vec<SocketAddr> = dying.iter().map(|node| node.nbd).collect();
        let survivors = front_ends.iter().copied().filter(|a| !dying.contains(a));
        let survivors: Vec<SocketAddr> = survivors.collect();
        let before = history.total_acknowledged();
        let progress = Mutex::new(Progress::default());
        let signals = Signals::default();
        thread::scope(|scope| {
            let seen = |ack: Ack| {
                let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                let is_after = progress
                    .killed_at
                    .is_some_and(|killed| ack.issued_at > killed);
                if is_after && progress.first_after.is_none() && !dying.contains(&ack.by) {
                    progress.first_after = Some(ack);
                }
            };
            let mut writer = Writer {
                history,
                front_ends,
                export: self.export,
                depth: DEPTH,
                seed: self.seed,
                seen,
            };
            let signals = &signals;
            let writing = scope.spawn(move || writer.run(signals));
            let watched = self.strike(&progress, &survivors, meanwhile, || writing.is_finished());
            signals.stop();
            let written = writing
                .join()
                .unwrap_or_else(|_| bail!("the writer panicked"));
            let mut outcome = match (watched, written) {
                (_, Err(fault)) => return Err(fault),
                (watched, Ok(())) => watched?,
            };
            // And once more, by everybody who is left, when nothing is in flight.
            for address in survivors.iter().take(2) {
                outcome.verdict.add(history.verify(*address, self.export)?);
            }
            outcome.writes = history.total_acknowledged() - before;
            Ok(outcome)
        })
    }

    /// Moves the volume, once it is served: its record changes until then.
    fn give_to(&self, owner: &str) -> anyhow::Result<()> {
        let (before, began) = (self.history.total_acknowledged(), Instant::now());
        while self.history.total_acknowledged() == before {
            if began.elapsed() > PATIENCE {
                bail!("no write was acknowledged, before anything was killed");
            }
            thread::sleep(Duration::from_millis(10));
        }
        let line = format!("volume move {} --to {owner}", self.export);
        self.fabric.atoll(&line).map(drop)
    }

    /// What happens while the writer writes.
    fn strike(
        &self,
        progress: &Mutex<Progress>,
        survivors: &[SocketAddr],
        meanwhile: impl FnOnce(SocketAddr) -> anyhow::Result<Verdict>,
        is_over: impl Fn() -> bool,
    ) -> anyhow::Result<Outcome> {
        let (fabric, history) = (self.fabric, self.history);
        let reader = *survivors.last().context("nobody survives")?;
        if let Some(owner) = self.owner {
            self.give_to(owner)?;
        }
        let before = history.total_acknowledged();
        thread::sleep(WARM_UP);
        if history.total_acknowledged() == before {
            bail!(
                "no write was acknowledged within {} s, before anything was killed",
                WARM_UP.as_secs()
            );
        }
        let owner = fabric.owner(self.export)?;
        let killed = fabric.kill(self.victim)?;
        progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .killed_at = Some(killed);
        let first_write = wait_for_first(progress, killed, is_over)?;
        // Read everything from a survivor while writes go on.
        let mut verdict = history.verify(reader, self.export)?;
        verdict.add(meanwhile(reader)?);
        thread::sleep(AFTERMATH);
        let of_victim = fabric.nodes_of(self.victim)?;
        Ok(Outcome {
            first_write,
            has_hit: of_victim
                .iter()
                .any(|node| Some(&node.name) == owner.as_ref()),
            owner,
            writes: 0,
            verdict,
        })
    }
}

fn wait_for_first(
    progress: &Mutex<Progress>,
    killed: Instant,
    is_over: impl Fn() -> bool,
) -> anyhow::Result<Duration> {
    loop {
        let first = progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .first_after;
        if let Some(ack) = first {
            return Ok(ack.at - killed);
        }
        if is_over() || killed.elapsed() > PATIENCE {
            bail!(
                "no write was acknowledged for {:.1} s after the kill",
                killed.elapsed().as_secs_f64()
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
}
