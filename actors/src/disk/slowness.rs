//! How long the device takes, even at its best: what tells a slow disk from its peers.
//!
//! Only fragments that are stored, read and verified count: each disk of a site has as much to do
//! with those. (A journal is on some disks alone, and syncs much oftener.)
//! Whoever is asked much answers late, for a while. So it is the best of many spans' medians that
//! is told: one that is slow in each of them is slow whatever is asked of it.

use std::collections::VecDeque;
use std::time::Duration;

use model::placement::Latency;
use model::store::FragmentOp;
use model::time::Time;

/// Answers that a span's median is taken of, at most: the first ones.
const SAMPLES_MAX: usize = 64;

/// With fewer, a span says nothing.
const SAMPLES_MIN: usize = 4;

/// How it is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlownessConfig {
    /// A span.
    pub span: Duration,
    /// The best of so many is told, of which at least half must say something.
    pub spans: usize,
}

impl Default for SlownessConfig {
    fn default() -> Self {
        Self {
            span: Duration::from_secs(10),
            spans: 60,
        }
    }
}

/// What was measured lately.
#[derive(Debug)]
pub(super) struct Slowness {
    config: SlownessConfig,
    began: Option<Time>,
    /// As it is told since the last span ended.
    latency: Option<Latency>,
    samples: Vec<Duration>,
    /// The medians of spans that are over, the newest last.
    medians: VecDeque<Option<Duration>>,
}

impl Slowness {
    pub(super) fn new(config: SlownessConfig) -> Self {
        Self {
            config,
            began: None,
            latency: None,
            samples: Vec::new(),
            medians: VecDeque::new(),
        }
    }

    /// Whether how long it takes says how slow the device is.
    pub(super) fn counts(request: &FragmentOp) -> bool {
        matches!(
            request,
            FragmentOp::Put { .. } | FragmentOp::Get { .. } | FragmentOp::Verify { .. }
        )
    }

    /// Something that counts took so long.
    pub(super) fn note(&mut self, now: Time, took: Duration) {
        self.end_spans(now);
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(took);
        }
    }

    fn end_spans(&mut self, now: Time) {
        let Some(began) = self.began else {
            self.began = Some(now);
            return;
        };
        let span = self.config.span.max(Duration::from_nanos(1));
        let over = now.since(began).as_nanos() / span.as_nanos();
        let over = usize::try_from(over).unwrap_or(usize::MAX);
        if over == 0 {
            return;
        }
        // In all but the first of them nothing was answered.
        let median = self.median();
        self.samples.clear();
        let silent = (over - 1).min(self.config.spans);
        self.medians.push_back(median);
        self.medians.extend(std::iter::repeat_n(None, silent));
        while self.medians.len() > self.config.spans {
            self.medians.pop_front();
        }
        self.began = Some(now);
        self.latency = self.best();
    }

    fn median(&mut self) -> Option<Duration> {
        if self.samples.len() < SAMPLES_MIN {
            return None;
        }
        self.samples.sort_unstable();
        Some(self.samples[self.samples.len() / 2])
    }

    /// How long an answer takes at its best; nothing if too little was asked to know.
    pub(super) fn latency(&self) -> Option<Latency> {
        self.latency
    }

    fn best(&self) -> Option<Latency> {
        let known = self.medians.iter().flatten();
        let is_enough = self.medians.len() >= self.config.spans
            && known.clone().count() * 2 >= self.config.spans;
        let best = known.min().filter(|_| is_enough)?;
        Some(Latency::of(*best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(spans: &[Option<u32>]) -> Option<Latency> {
        let config = SlownessConfig {
            span: MS * 100,
            spans: 4,
        };
        let mut slowness = Slowness::new(config);
        let mut now = Time(1 << 40);
        slowness.note(now, MS);
        for span in spans {
            for _ in 0..SAMPLES_MIN {
                now += MS * 100 / SAMPLES_MIN as u32;
                if let Some(took) = span {
                    slowness.note(now, MS * *took);
                }
            }
        }
        now += MS * 100;
        slowness.note(now, MS);
        slowness.latency()
    }

    #[test]
    fn the_best_span_counts_and_enough_must_say_something() {
        let slow = Some(100);
        assert_eq!(after(&[slow; 5]), Some(Latency::of(MS * 100)));
        assert_eq!(
            after(&[slow, slow, Some(3), slow, slow]),
            Some(Latency::of(MS * 3))
        );
        assert_eq!(after(&[slow, slow]), None, "not for long enough");
        assert_eq!(after(&[slow, None, None, None, slow]), None, "hardly asked");
        // What was once is forgotten.
        assert_eq!(
            after(&[Some(1), slow, slow, slow, slow, slow]),
            Some(Latency::of(MS * 100))
        );
    }
}
