//! What soundings say of one way to a peer and back.

use std::time::Duration;

use model::time::Time;

/// Without an answer for so long, and a round trip, another way is sought.
const DOUBT_AFTER: Duration = Duration::from_millis(350);

/// Without an answer for so long, and a round trip, a way is broken: at least two soundings are
/// lost then. Short enough that beats which go another way from then on arrive before a node
/// is found dead.
const BROKEN_AFTER: Duration = Duration::from_millis(550);

/// The longest round trip that is waited for.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);

/// Older answers say nothing, and no peer can claim more.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(3);

/// A way to a peer and back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// When the youngest sounding that was answered left.
    answered: Option<Time>,
    /// Silence counts from here on, not from before.
    asked_since: Time,
    round_trip: Duration,
    /// Since when answers came without a gap.
    good_since: Option<Time>,
}

impl Line {
    /// A way that is sounded from now on.
    pub(super) fn new(now: Time) -> Self {
        Self {
            answered: None,
            asked_since: now,
            round_trip: Duration::ZERO,
            good_since: None,
        }
    }

    fn silence(&self, now: Time) -> Duration {
        let last = self
            .answered
            .map_or(self.asked_since, |at| at.max(self.asked_since));
        now.since(last)
    }

    fn patience(&self) -> Duration {
        BROKEN_AFTER + self.round_trip
    }

    /// Whether an answer is overdue.
    pub(super) fn is_doubtful(&self, now: Time) -> bool {
        self.silence(now) >= DOUBT_AFTER + self.round_trip
    }

    /// Whether answers are missing for too long.
    pub(super) fn is_broken(&self, now: Time) -> bool {
        self.silence(now) >= self.patience()
    }

    /// Whether a sounding that left lately was answered.
    pub(super) fn is_proven(&self, now: Time) -> bool {
        self.answered
            .is_some_and(|at| now.since(at) < self.patience())
    }

    /// Whether answers came for so long without a gap.
    pub(super) fn is_steady(&self, now: Time, span: Duration) -> bool {
        self.is_proven(now) && self.good_since.is_some_and(|at| now.since(at) >= span)
    }

    /// When it will be broken if nothing is answered.
    pub(super) fn breaks_at(&self, now: Time) -> Time {
        now + self.patience().saturating_sub(self.silence(now))
    }

    /// A sounding that left at `sent`, by the peer's word, was answered. Whether that is news.
    pub(super) fn answered(&mut self, now: Time, sent: Time) -> bool {
        let sound = sent <= now && now.since(sent) <= ANSWER_AGE_MAX;
        if !sound || self.answered.is_some_and(|at| sent <= at) {
            return false;
        }
        if !self.is_proven(now) || self.good_since.is_none() {
            self.good_since = Some(now);
        }
        let sample = now.since(sent).min(ROUND_TRIP_MAX);
        self.round_trip = sample.max((self.round_trip * 7 + sample) / 8);
        self.answered = Some(sent);
        true
    }

    /// This process stood still for so long: silence meanwhile says nothing.
    pub(super) fn forgive(&mut self, now: Time, pause: Duration) {
        let shifted = self.answered.map(|at| (at + pause).min(now));
        self.answered = shifted;
        self.asked_since = (self.asked_since + pause).min(now);
    }
}
