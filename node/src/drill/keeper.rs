//! Keeps a site fenced on a live fabric: renews the fence every second, for as long as the drill
//! wants it. Once this stops, for whatever reason, the fence is over within 3 s.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use transport::fence::{LASTS_MAX, UNRENEWED_MAX};

use super::error::DrillError;
use crate::admin::client::{self, ClientError};
use crate::admin::protocol::{Drill, Fenced, Reply, Request, SiteSafety};

/// Between the begins of two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at whether the fence is lifted.
const SLICE: Duration = Duration::from_millis(50);

const _: () = assert!(RENEW_EVERY.as_millis() * 3 <= UNRENEWED_MAX.as_millis());

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is no fence, or not any more.
    #[default]
    Down,
    /// It is renewed.
    Up,
    /// It could not be kept up, and ends by itself: why.
    Broken(String),
}

/// The fence of one drill.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    /// Of the node that is asked.
    directory: PathBuf,
    drill: Drill,
    /// How long a fence may stand.
    span: Duration,
    state: Arc<Mutex<State>>,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn wrong() -> DrillError {
    ClientError::WrongReply("that was asked".to_owned()).into()
}

impl Keeper {
    pub(super) fn new(directory: PathBuf, drill: Drill, span: Duration) -> Self {
        assert!(span <= LASTS_MAX, "no fence stands for longer");
        Self {
            directory,
            drill,
            span,
            state: Arc::default(),
        }
    }

    pub(super) fn drill(&self) -> Drill {
        self.drill
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, request: &Request) -> Result<Reply, DrillError> {
        Ok(client::ask(&self.directory, request)?.reply)
    }

    /// Whether a site may be fenced now.
    pub(super) fn may_fence(&self, site: &str) -> Result<SiteSafety, DrillError> {
        let name = site.to_owned();
        match self.ask(&Request::SiteSafeToFence { name })? {
            Reply::SiteSafety(told) => Ok(told),
            _ => Err(wrong()),
        }
    }

    /// Why the fence that was raised can't be kept up, if so.
    pub(super) fn broken(&self) -> Option<String> {
        match &*self.state() {
            State::Broken(why) => Some(why.clone()),
            State::Down | State::Up => None,
        }
    }

    /// Fences a site, and keeps it fenced.
    pub(super) fn raise(&self, site: &str) -> Result<(), DrillError> {
        let begun = Instant::now();
        self.ask(&Request::SiteFence {
            name: site.to_owned(),
            drill: self.drill,
            left_ms: millis(self.span),
        })?;
        *self.state() = State::Up;
        let (keeper, site, ends) = (self.clone(), site.to_owned(), begun + self.span);
        thread::spawn(move || keeper.renew(&site, ends));
        Ok(())
    }

    fn is_up(&self) -> bool {
        *self.state() == State::Up
    }

    fn renew(&self, site: &str, ends: Instant) {
        let mut kept = Instant::now();
        let mut numbers = 1..;
        while self.is_up() {
            let begun = Instant::now();
            let left = ends.saturating_duration_since(begun);
            let number = numbers.next().unwrap_or(u64::MAX);
            let renewed = match left.is_zero() {
                true => Err("its time is over".to_owned()),
                false => self.renew_once(site, number, left, &mut kept),
            };
            if let Err(why) = renewed {
                let mut state = self.state();
                if *state == State::Up {
                    *state = State::Broken(why);
                }
                return;
            }
            while self.is_up() && begun.elapsed() < RENEW_EVERY {
                thread::sleep(SLICE);
            }
        }
    }

    fn renew_once(
        &self,
        site: &str,
        number: u64,
        left: Duration,
        kept: &mut Instant,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let renewal = Request::SiteFenceRenew {
            name: site.to_owned(),
            drill: self.drill,
            number,
            left_ms: millis(left).max(1),
        };
        match self.ask(&renewal) {
            Ok(Reply::Fenced(Fenced { refused, .. })) if !refused.is_empty() => {
                return Err(refused.join("; "));
            }
            Ok(Reply::Fenced(Fenced { silent, .. })) if silent.is_empty() => *kept = begun,
            // Who heard nothing for so long keeps no fence any more. Or worse, another site is lost in
            // earnest: with one that is fenced beside it, nobody would have a majority.
            Ok(Reply::Fenced(Fenced { silent, .. })) if kept.elapsed() >= UNRENEWED_MAX => {
                return Err(format!(
                    "no answer from {}: the fence is kept by others alone",
                    silent.join(", ")
                ));
            }
            Ok(Reply::Fenced(_)) => {}
            Ok(_) => return Err(wrong().to_string()),
            // The next one may get through in time.
            Err(error) if kept.elapsed() >= UNRENEWED_MAX => return Err(error.to_string()),
            Err(_) => {}
        }
        Ok(())
    }

    /// Ends the fence: at once where that is heard, and within 3 s elsewhere. Returns when it is
    /// over everywhere.
    pub(super) fn lift(&self) {
        let before = std::mem::take(&mut *self.state());
        if before == State::Down {
            return;
        }
        let lifted = self.ask(&Request::SiteFenceLift {
            drill: Some(self.drill),
        });
        if !matches!(lifted, Ok(Reply::Lifted(told)) if told.silent.is_empty()) {
            // Nobody renews it any more.
            thread::sleep(UNRENEWED_MAX);
        }
    }
}
