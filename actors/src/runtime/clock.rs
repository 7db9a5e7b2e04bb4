//! The one clock of the shells.

use model::time::Time;
use rustix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME: goes on while the host sleeps, so that a lease never outlives a suspend
/// (R7).
#[must_use]
pub fn boottime() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time(seconds * 1_000_000_000 + nanos)
}
