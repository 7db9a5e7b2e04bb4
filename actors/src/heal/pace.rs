//! How fast a node brings fragments: within a token bucket beside clients, and as fast as disks and
//! links give them while clients leave its sources alone.
//!
//! The sources tell which it is, with each fragment that they send: it is they that clients wait
//! for.

use std::time::Duration;

use model::time::Time;

use super::HealConfig;
use crate::bucket::Bucket;

/// One pressed source, and all are spared for so long. Without an answer for so long, nothing is
/// known of them.
const SPARED_FOR: Duration = Duration::from_secs(1);

/// The pace of one Healer.
#[derive(Debug)]
pub(super) struct Pace {
    bucket: Bucket,
    copies_beside: usize,
    copies_alone: usize,
    /// When a source was read last that clients leave alone.
    calm: Option<Time>,
    /// When one was that they do not.
    pressed: Option<Time>,
}

impl Pace {
    pub(super) fn new(config: &HealConfig) -> Self {
        Self {
            bucket: Bucket::new(config.bytes_per_s),
            copies_beside: config.copies_max,
            copies_alone: config.copies_alone_max.max(config.copies_max),
            calm: None,
            pressed: None,
        }
    }

    /// A source sent a fragment.
    pub(super) fn told(&mut self, now: Time, is_pressed: bool) {
        match is_pressed {
            true => self.pressed = Some(now),
            false => self.calm = Some(now),
        }
    }

    /// Whether clients leave the sources alone, as far as is known.
    fn is_alone(&self, now: Time) -> bool {
        let within = |at: Option<Time>| at.is_some_and(|at| now.since(at) < SPARED_FOR);
        within(self.calm) && !within(self.pressed)
    }

    /// Segments of which a fragment may be brought at a time.
    pub(super) fn copies_max(&self, now: Time) -> usize {
        match self.is_alone(now) {
            true => self.copies_alone,
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

    /// When it is not too early any more, with so many under way: an answer of theirs may come
    /// sooner.
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
    fn nothing_is_known_before_a_source_answered() {
        let mut pace = pace();
        assert_eq!(pace.copies_max(at(5000)), 2);
        assert_eq!(burst(&mut pace, at(5000)), 11, "a second's worth");
        assert_eq!(pace.ready_at(1), Some(pace.bucket.ready_at()));
        assert_eq!(pace.ready_at(2), None, "an answer comes before");
    }

    #[test]
    fn it_goes_all_out_while_clients_rest_and_has_saved_up_nothing_when_they_come() {
        let mut pace = pace();
        pace.told(at(5000), false);
        assert_eq!(pace.copies_max(at(5000)), 9);
        assert_eq!(burst(&mut pace, at(5000)), 100);
        // One of its sources has clients: all are spared.
        pace.told(at(5010), true);
        pace.told(at(5020), false);
        assert_eq!(pace.copies_max(at(5020)), 2);
        assert!(burst(&mut pace, at(5020)) <= 1);
        // A second later they are gone.
        pace.told(at(6020), false);
        assert_eq!(pace.copies_max(at(6020)), 9);
        // Nobody answered for a second: who knows.
        assert_eq!(pace.copies_max(at(7020)), 2);
    }
}
