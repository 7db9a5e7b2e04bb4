//! One disaster: a site dies under load, and what was acknowledged is read back from a
//! survivor while the load goes on.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::fabric::Fabric;
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
    /// From the kill to the first write that was issued and acknowledged through another
    /// site's front end.
    pub(crate) first_write: Duration,
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

/// Kills `site` under load on `export`, whose history it is. `meanwhile` reads what else the
/// volume holds by a survivor, while writes go on.
pub(crate) fn kill_a_site(
    fabric: &Fabric,
    history: &History,
    export: &str,
    site: &str,
    seed: u64,
    meanwhile: impl FnOnce(SocketAddr) -> anyhow::Result<Verdict>,
) -> anyhow::Result<Outcome> {
    let front_ends = fabric.front_ends_from(site);
    let dying: Vec<SocketAddr> = fabric
        .site(site)?
        .nodes
        .iter()
        .map(|node| node.nbd)
        .collect();
    let survivors: Vec<SocketAddr> = front_ends
        .iter()
        .copied()
        .filter(|a| !dying.contains(a))
        .collect();
    let reader = *survivors.last().context("nobody survives")?;
    let before = history.total_acknowledged();
    let progress = Mutex::new(Progress::default());
    let signals = Signals::default();
    let outcome = thread::scope(|scope| {
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
            export,
            depth: DEPTH,
            seed,
            seen,
        };
        let signals = &signals;
        let writing = scope.spawn(move || writer.run(signals));
        let watch = || -> anyhow::Result<(Duration, Verdict)> {
            thread::sleep(WARM_UP);
            if history.total_acknowledged() == before {
                bail!(
                    "no write was acknowledged within {} s, before anything was killed",
                    WARM_UP.as_secs()
                );
            }
            let killed = fabric.kill_site(site)?;
            progress
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .killed_at = Some(killed);
            let first = wait_for_first(&progress, killed, || writing.is_finished())?;
            // Read everything from a survivor while writes go on.
            let mut verdict = history.verify(reader, export)?;
            verdict.add(meanwhile(reader)?);
            thread::sleep(AFTERMATH);
            Ok((first, verdict))
        };
        let watched = watch();
        signals.stop();
        let written = writing
            .join()
            .unwrap_or_else(|_| bail!("the writer panicked"));
        let (first_write, mut verdict) = match (watched, written) {
            (_, Err(fault)) => return Err(fault),
            (watched, Ok(())) => watched?,
        };
        // And once more, by everybody who is left, when nothing is in flight.
        for address in survivors.iter().take(2) {
            verdict.add(history.verify(*address, export)?);
        }
        let writes = history.total_acknowledged() - before;
        Ok(Outcome {
            first_write,
            writes,
            verdict,
        })
    })?;
    Ok(outcome)
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
                "no write was acknowledged for {:.1} s after the site was killed",
                killed.elapsed().as_secs_f64()
            );
        }
        thread::sleep(Duration::from_millis(2));
    }
}
