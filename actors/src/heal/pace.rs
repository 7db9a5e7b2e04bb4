//! How fast a node brings fragments: within a token bucket beside clients, and as fast as disks and
//! links give them while clients leave alone the disks that answer.
//!
//! The disks tell which it is, with each fragment that they send or store: it is they that clients
//! wait for. Alone, the Healer goes by its own answers, as a congestion window does: one more segment
//! at a time for each that is brought, half as many once answers come late. What waits in a queue
//! for longer helps nobody, is asked for again in the end, and is what a client that comes just then
//! stands behind.

use std::time::Duration;

use model::time::Time;

use super::HealConfig;
use crate::bucket::Bucket;

/// One disk that clients want something of, and all are spared for so long. Without an answer for so
/// long, nothing is known of them.
const SPARED_FOR: Duration = Duration::from_secs(1);

/// An answer is late that takes so much longer than so many times the quickest one.
const LATE: Duration = Duration::from_millis(50);
const LATE_TIMES: u32 = 4;

/// How long the quickest answer is remembered, at least: ways change.
const QUICKEST_FOR: Duration = Duration::from_secs(10);

/// What is late at the same time is late for one reason.
const EASED_FOR: Duration = Duration::from_millis(250);

/// The pace of one Healer.
#[derive(Debug)]
pub(super) struct Pace {
    bucket: Bucket,
    copies_beside: usize,
    copies_alone: usize,
    /// Segments under way at a time while clients leave the disks alone.
    ///
    /// **Invariant:** never fewer than beside clients, never more than `copies_alone`.
    window: usize,
    quickest: Quickest,
    /// When the window was halved last.
    eased: Option<Time>,
    /// When a disk answered last that clients leave alone.
    calm: Option<Time>,
    /// When one did that they do not.
    pressed: Option<Time>,
}

/// The quickest answer of the last seconds.
#[derive(Debug, Default)]
struct Quickest {
    since: Time,
    took: Option<Duration>,
    before: Option<Duration>,
}

impl Quickest {
    fn note(&mut self, now: Time, took: Duration) {
        if now.since(self.since) >= QUICKEST_FOR {
            self.since = now;
            self.before = self.took.take();
        }
        self.took = Some(self.took.map_or(took, |quickest| quickest.min(took)));
    }

    fn get(&self) -> Duration {
        let known = self.took.into_iter().chain(self.before);
        known.min().unwrap_or_default()
    }
}

impl Pace {
    pub(super) fn new(config: &HealConfig) -> Self {
        Self {
            bucket: Bucket::new(config.bytes_per_s),
            copies_beside: config.copies_max,
            copies_alone: config.copies_alone_max.max(config.copies_max),
            window: config.copies_max,
            quickest: Quickest::default(),
            eased: None,
            calm: None,
            pressed: None,
        }
    }

    /// A disk sent a fragment, or stored one.
    pub(super) fn told(&mut self, now: Time, is_pressed: bool) {
        if is_pressed {
            self.pressed = Some(now);
            self.window = self.copies_beside;
        } else {
            self.calm = Some(now);
        }
    }

    /// What was asked for once was answered, after so long.
    pub(super) fn answered(&mut self, now: Time, took: Duration) {
        self.quickest.note(now, took);
        if took > LATE + self.quickest.get() * LATE_TIMES {
            self.late(now);
        }
    }

    /// An answer is late, or was that there is too much to do.
    pub(super) fn late(&mut self, now: Time) {
        if self.eased.is_some_and(|at| now.since(at) < EASED_FOR) {
            return;
        }
        self.eased = Some(now);
        self.window = (self.window / 2).max(self.copies_beside);
    }

    /// A fragment is where it belongs.
    pub(super) fn brought(&mut self, now: Time) {
        if self.is_alone(now) {
            self.window = (self.window + 1).min(self.copies_alone);
        }
    }

    /// Whether clients leave the disks alone, as far as is known.
    fn is_alone(&self, now: Time) -> bool {
        let within = |at: Option<Time>| at.is_some_and(|at| now.since(at) < SPARED_FOR);
        within(self.calm) && !within(self.pressed)
    }

    /// Segments of which a fragment may be brought at a time.
    pub(super) fn copies_max(&self, now: Time) -> usize {
        let bounds = self.copies_beside..=self.copies_alone;
        assert!(bounds.contains(&self.window), "a window within its bounds");
        match self.is_alone(now) {
            true => self.window,
            false => self.copies_beside,
        }
    }

    /// Takes so much, if it is not too early. What is taken alone counts too, so that there is
    /// nothing saved up when clients come.
    pub(super) fn take(&mut self, now: Time, bytes: u64) -> bool {
        if self.is_alone(now) {
            self.bucket.drain(now, bytes);
            return true;
        }
        self.bucket.take(now, bytes)
    }

    /// When it is not too early any more, with so many under way: with more, an answer comes first.
    pub(super) fn ready_at(&self, running: usize) -> Option<Time> {
        (running < self.copies_beside).then(|| self.bucket.ready_at())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn pace() -> Pace {
        Pace::new(&HealConfig {
            bytes_per_s: MIB,
            copies_max: 2,
            copies_alone_max: 9,
            ..HealConfig::default()
        })
    }

    /// How much it takes at once, in pieces of a tenth of a second's worth.
    fn burst(pace: &mut Pace, now: Time) -> usize {
        (0..100).take_while(|_| pace.take(now, MIB / 10)).count()
    }

    #[test]
    fn nothing_is_known_before_a_disk_answered() {
        let mut pace = pace();
        pace.brought(at(5000));
        assert_eq!(pace.copies_max(at(5000)), 2);
        assert_eq!(burst(&mut pace, at(5000)), 11, "a second's worth");
        assert_eq!(pace.ready_at(1), Some(pace.bucket.ready_at()));
        assert_eq!(pace.ready_at(2), None, "an answer comes before");
    }

    #[test]
    fn it_goes_all_out_while_clients_rest_and_has_saved_up_nothing_when_they_come() {
        let mut pace = pace();
        pace.told(at(5000), false);
        (0..20).for_each(|_| pace.brought(at(5000)));
        assert_eq!(pace.copies_max(at(5000)), 9);
        assert_eq!(burst(&mut pace, at(5000)), 100);
        // Clients want something of one of the disks: all are spared.
        pace.told(at(5010), true);
        pace.told(at(5020), false);
        assert_eq!(pace.copies_max(at(5020)), 2);
        assert!(burst(&mut pace, at(5020)) <= 1);
        // A second later they are gone, and it begins slowly.
        pace.told(at(6020), false);
        assert_eq!(pace.copies_max(at(6020)), 2);
        pace.brought(at(6020));
        assert_eq!(pace.copies_max(at(6020)), 3);
        // Nobody answered for a second: who knows.
        assert_eq!(pace.copies_max(at(7020)), 2);
    }

    #[test]
    fn late_answers_halve_what_is_under_way_once_for_each_reason() {
        let mut pace = pace();
        pace.told(at(5000), false);
        (0..20).for_each(|_| pace.brought(at(5000)));
        pace.answered(at(5001), ms(10));
        pace.answered(at(5002), ms(90));
        assert_eq!(
            pace.copies_max(at(5002)),
            9,
            "four times the quickest, and a little"
        );
        pace.answered(at(5003), ms(91));
        pace.answered(at(5004), ms(500));
        assert_eq!(pace.copies_max(at(5004)), 4);
        pace.late(at(5253));
        assert_eq!(pace.copies_max(at(5253)), 2);
        pace.late(at(5600));
        assert_eq!(pace.copies_max(at(5600)), 2, "no fewer than beside clients");
    }

    #[test]
    fn a_way_that_is_longer_now_is_no_queue_for_ever() {
        let mut pace = pace();
        pace.answered(at(0), ms(1));
        for second in 1..40 {
            pace.told(at(second * 1000), false);
            pace.brought(at(second * 1000));
            pace.answered(at(second * 1000), ms(200));
        }
        assert_eq!(pace.copies_max(at(39_000)), 9);
    }
}
