//! From cycles to probabilities, with what is not known about them.

/// Two-sided, of the normal distribution: 95 %.
const SIGMAS: f64 = 1.96;

/// Sums of independent draws.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Sums {
    pub(super) fn add(&mut self, x: f64) {
        self.count += 1.0;
        self.sum += x;
        self.squares += x * x;
    }

    pub(super) fn mean(&self) -> f64 {
        self.sum / self.count
    }

    /// Of the mean, squared, relative to it.
    fn relative_variance(&self) -> f64 {
        let mean = self.mean();
        let variance = self.squares / self.count - mean * mean;
        variance.max(0.0) / (self.count - 1.0).max(1.0) / (mean * mean)
    }

    /// How often in so long, if this is how often in a cycle, and those how long cycles are.
    pub(super) fn per(&self, lengths: &Self, hours: f64) -> Estimate {
        let value = self.mean() / lengths.mean() * hours;
        if value <= 0.0 {
            return Estimate::default();
        }
        let variance = self.relative_variance() + lengths.relative_variance();
        let relative_error = variance.sqrt();
        let reach = value * SIGMAS * relative_error;
        Estimate {
            value,
            low: (value - reach).max(0.0),
            high: value + reach,
            relative_error,
        }
    }
}

/// An estimate with its interval of 95 %.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The standard error by the estimate.
    pub relative_error: f64,
}

impl Estimate {
    /// The probability of at least one event, of which that many are expected.
    pub(super) fn at_least_one(self) -> Self {
        let p = |expected: f64| -(-expected).exp_m1();
        Self {
            value: p(self.value),
            low: p(self.low),
            high: p(self.high),
            relative_error: self.relative_error,
        }
    }

    pub(super) fn times(self, factor: f64) -> Self {
        Self {
            value: self.value * factor,
            low: self.low * factor,
            high: self.high * factor,
            relative_error: self.relative_error,
        }
    }
}
