//! How fast it goes: bytes of the last seconds.

use std::collections::VecDeque;

use model::time::Time;

const NS_PER_S: u64 = 1_000_000_000;

/// Seconds that are looked back.
const SECONDS: u64 = 10;

/// Bytes by second.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    seconds: VecDeque<(u64, u64)>,
}

impl Meter {
    pub(crate) fn add(&mut self, now: Time, bytes: u64) {
        let second = now.0 / NS_PER_S;
        match self.seconds.back_mut() {
            Some((last, sum)) if *last == second => *sum += bytes,
            _ => self.seconds.push_back((second, bytes)),
        }
        while self.seconds.len() > SECONDS as usize {
            self.seconds.pop_front();
        }
    }

    /// Bytes a second, over the last seconds, or over those since the first byte of them.
    pub(crate) fn per_s(&self, now: Time) -> u64 {
        let second = now.0 / NS_PER_S;
        let recent = |(at, _): &&(u64, u64)| *at + SECONDS > second;
        let recent = || self.seconds.iter().filter(recent);
        let Some((first, _)) = recent().next() else {
            return 0;
        };
        let span = (second - first + 1).min(SECONDS);
        recent().map(|(_, bytes)| bytes).sum::<u64>() / span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_seconds() {
        let mut meter = Meter::default();
        let at = |s: u64| Time(s * NS_PER_S + 1);
        assert_eq!(meter.per_s(at(5)), 0);
        meter.add(at(5), 1000);
        assert_eq!(meter.per_s(at(5)), 1000);
        meter.add(at(6), 3000);
        assert_eq!((meter.per_s(at(6)), meter.per_s(at(8))), (2000, 1000));
        assert_eq!(meter.per_s(at(15)), 300, "the first is forgotten");
        assert_eq!(meter.per_s(at(16)), 0);
        for s in 20..60 {
            meter.add(at(s), 7);
        }
        assert_eq!(meter.per_s(at(59)), 7);
    }
}
