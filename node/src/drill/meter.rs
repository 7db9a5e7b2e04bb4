//! Figures from clients' answers: how many a second, how long they took, how long nobody got one.

use std::time::Duration;

use crate::check::Sample;

/// A stretch of time.
pub(super) type Span = (Duration, Duration);

/// Answers a second within some stretches, of the targets that count; nothing if they have no
/// length.
pub(super) fn rate(samples: &[Sample], spans: &[Span], counts: &[bool]) -> Option<f64> {
    let length: f64 = spans
        .iter()
        .map(|(a, b)| b.saturating_sub(*a).as_secs_f64())
        .sum();
    let within = |s: &&Sample| spans.iter().any(|(a, b)| *a <= s.at && s.at < *b);
    let counted = |s: &&Sample| counts.get(s.by).copied().unwrap_or(false);
    let answers = samples.iter().filter(within).filter(counted).count();
    (length > 0.0).then(|| answers as f64 / length)
}

/// Parts of `spans` that lie outside of `without`.
pub(super) fn outside(spans: &[Span], without: &[Span]) -> Vec<Span> {
    let mut left = spans.to_vec();
    for (from, to) in without {
        left = left
            .into_iter()
            .flat_map(|(a, b)| [(a, b.min(*from)), (a.max(*to), b)])
            .filter(|(a, b)| a < b)
            .collect();
    }
    left
}

/// The longest time within a span without an answer that counts, and when it began.
pub(super) fn longest_pause(
    samples: &[Sample],
    span: Span,
    counts: impl Fn(&Sample) -> bool,
) -> Option<(Duration, Duration)> {
    let mut last = span.0;
    let mut longest: Option<(Duration, Duration)> = None;
    let answers = samples.iter().filter(|s| counts(s));
    let inside = answers.filter(|s| span.0 <= s.at && s.at <= span.1);
    let ends = inside.map(|s| s.at).chain([span.1]);
    for at in ends {
        let gap = at.saturating_sub(last);
        if longest.is_none_or(|(so_far, _)| gap > so_far) {
            longest = Some((gap, last));
        }
        last = last.max(at);
    }
    longest
}

/// Latencies' quantiles: half of all, 99 of 100, and the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

impl Latency {
    /// Of what was answered; nothing of nothing.
    pub(super) fn of(took: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut all: Vec<Duration> = took.collect();
        all.sort_unstable();
        let at = |percent: usize| {
            let i = (all.len() * percent).div_ceil(100).max(1) - 1;
            all.get(i).copied()
        };
        Some(Self {
            p50: at(50)?,
            p99: at(99)?,
            max: at(100)?,
        })
    }
}

/// A stretch of a chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) from: Duration,
    /// Answers a second.
    pub(super) rate: f64,
    /// Of what was answered in it.
    pub(super) latency: Option<Latency>,
}

/// All answers in stretches of the same length.
pub(super) fn buckets(samples: &[Sample], end: Duration, length: Duration) -> Vec<Bucket> {
    let ns = length.as_nanos().max(1);
    let count = usize::try_from(end.as_nanos().div_ceil(ns)).unwrap_or(0);
    let mut took: Vec<Vec<Duration>> = vec![Vec::new(); count];
    for sample in samples {
        let i = usize::try_from(sample.at.as_nanos() / ns).unwrap_or(usize::MAX);
        if let Some(bucket) = took.get_mut(i) {
            bucket.push(sample.took);
        }
    }
    let bucket = |(i, took): (u32, Vec<Duration>)| Bucket {
        from: length * i,
        rate: took.len() as f64 / length.as_secs_f64(),
        latency: Latency::of(took.into_iter()),
    };
    (0..).zip(took).map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn sample(at: f64, by: usize, mutates: bool) -> Sample {
        Sample {
            at: s(at),
            took: s(0.001),
            by,
            mutates,
            writes: mutates,
        }
    }

    #[test]
    fn rates_are_of_their_spans_and_targets() {
        let samples: Vec<Sample> = (0..100)
            .map(|i| sample(f64::from(i) / 10.0, i as usize % 2, true))
            .collect();
        let spans = [(s(1.0), s(2.0)), (s(4.0), s(5.0))];
        assert_eq!(rate(&samples, &spans, &[true, true]), Some(10.0));
        assert_eq!(rate(&samples, &spans, &[true, false]), Some(5.0));
        assert_eq!(rate(&samples, &[], &[true]), None);
    }

    #[test]
    fn spans_are_cut_by_others() {
        let cut = outside(&[(s(0.0), s(10.0))], &[(s(2.0), s(3.0)), (s(9.0), s(12.0))]);
        assert_eq!(cut, [(s(0.0), s(2.0)), (s(3.0), s(9.0))]);
        assert_eq!(outside(&[(s(1.0), s(2.0))], &[(s(0.0), s(5.0))]), []);
    }

    #[test]
    fn the_longest_pause_counts_what_is_asked_and_both_ends() {
        let samples = [
            sample(1.0, 0, true),
            sample(2.0, 0, false),
            sample(4.0, 0, true),
            sample(4.5, 1, true),
        ];
        let of = |to: f64, by| longest_pause(&samples, (s(0.5), s(to)), |s| s.writes && s.by == by);
        assert_eq!(of(5.0, 0), Some((s(3.0), s(1.0))), "a read is no change");
        assert_eq!(of(9.0, 0), Some((s(5.0), s(4.0))), "it lasts until the end");
        assert_eq!(of(5.0, 7), Some((s(4.5), s(0.5))), "nobody answered");
    }

    #[test]
    fn quantiles_are_of_what_there_is() {
        assert_eq!(Latency::of(std::iter::empty()), None);
        let of = Latency::of((1..=200).map(Duration::from_millis)).expect("some");
        let ms = |d: Duration| d.as_millis();
        assert_eq!((ms(of.p50), ms(of.p99), ms(of.max)), (100, 198, 200));
    }

    #[test]
    fn buckets_hold_every_answer_once() {
        let samples = [
            sample(0.1, 0, true),
            sample(0.2, 0, true),
            sample(1.0, 0, true),
        ];
        let all = buckets(&samples, s(1.5), s(0.5));
        let rates: Vec<f64> = all.iter().map(|b| b.rate).collect();
        assert_eq!(rates, [4.0, 0.0, 2.0]);
        assert!(all[1].latency.is_none());
    }
}
