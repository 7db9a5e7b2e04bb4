//! A token bucket: what repair and scrub read is bounded, so that they do not starve clients.

use std::time::Duration;

use model::time::Time;

const NS_PER_S: u128 = 1_000_000_000;

/// Bytes that may be read now; what was taken on credit is paid back first.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_s: u64,
    level: i128,
    filled: Time,
}

impl Bucket {
    pub(crate) fn new(per_s: u64) -> Self {
        assert!(per_s > 0, "a pace that comes to an end");
        Self {
            per_s,
            level: i128::from(per_s),
            filled: Time::ZERO,
        }
    }

    fn fill(&mut self, now: Time) {
        let passed = now.since(self.filled).as_nanos();
        let more = passed * u128::from(self.per_s) / NS_PER_S;
        if more > 0 {
            let more = i128::try_from(more).unwrap_or(i128::MAX / 2);
            self.level = (self.level + more).min(i128::from(self.per_s));
            self.filled = now;
        }
    }

    /// Takes so much, if anything is left.
    pub(crate) fn take(&mut self, now: Time, bytes: u64) -> bool {
        self.fill(now);
        if self.level <= 0 {
            return false;
        }
        self.level -= i128::from(bytes);
        true
    }

    /// Takes what is left of so much, whether or not that suffices.
    pub(crate) fn drain(&mut self, now: Time, bytes: u64) {
        self.fill(now);
        self.level -= i128::from(bytes).min(self.level.max(0));
    }

    /// When something is left again.
    pub(crate) fn ready_at(&self) -> Time {
        let lacking = u128::try_from(1 - self.level).unwrap_or(0);
        let ns = (lacking * NS_PER_S).div_ceil(u128::from(self.per_s));
        self.filled + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_on_credit_is_waited_for() {
        let mut bucket = Bucket::new(1000);
        let at = |ms: u64| Time(ms * 1_000_000);
        assert!(
            bucket.take(at(5000), 3000),
            "a second's worth is there, and some credit"
        );
        assert!(!bucket.take(at(5000), 1));
        let ready = bucket.ready_at();
        assert_eq!(ready, at(7001));
        assert!(!bucket.take(at(7000), 1));
        assert!(bucket.take(ready, 1));
        // It holds no more than a second's worth.
        assert!(bucket.take(at(90_000), 1000) && !bucket.take(at(90_000), 1));
    }
}
