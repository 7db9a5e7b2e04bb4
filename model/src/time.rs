//! Time as the machines see it: monotonic nanoseconds that a shell passes in.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use bincode::{Decode, Encode};

/// Nanoseconds on the node's own CLOCK_BOOTTIME (R7), or the simulator's virtual clock.
/// Two nodes' times are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970 (UTC) by somebody's wall clock. It is told to people; nothing is
/// decided by it, and two of them are never compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct WallTime(pub u64);

impl WallTime {
    /// The wall's time at `now`, if this is what it was at the clock's origin.
    #[must_use]
    pub fn at(self, now: Time) -> Self {
        Self(self.0.saturating_add(now.0 / 1_000_000))
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(nanos(d)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub<Duration> for Time {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(d)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06}s",
            self.0 / 1_000_000_000,
            self.0 / 1_000 % 1_000_000
        )
    }
}
