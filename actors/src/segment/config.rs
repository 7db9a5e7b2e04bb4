//! Limits and timeouts of a Segment machine.

use std::time::Duration;

/// Named bounds and timeouts. The defaults suit sites some tens of milliseconds apart.
#[derive(Clone, Copy, Debug)]
pub struct SegmentConfig {
    /// Segments being encoded and spread at a time. Each holds its parity, about half of its
    /// data for the usual codes, beside the data itself.
    pub writes_max: usize,
    /// Writes that wait; see [`super::Segments::write_room`].
    pub write_queue_max: usize,
    /// Reads at a time.
    pub reads_max: usize,
    /// Reads that wait; see [`super::Segments::read_room`].
    pub read_queue_max: usize,
    /// Segments whose deletion is remembered; more are left to the owner's audit (R16).
    pub deletes_max: usize,
    /// Fragments in one Delete request.
    pub delete_batch_max: usize,
    /// Without an answer, a Put is sent again after this; see [`SegmentConfig::patience`].
    pub put_timeout: Duration,
    /// Without an answer, a Get is sent again after this; see [`SegmentConfig::patience`].
    pub get_timeout: Duration,
    /// Without an answer, a Delete is sent again after this.
    pub delete_timeout: Duration,
    /// First pause after `Busy`, a refusal or a timeout; doubles each time.
    pub backoff_min: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// Pause between attempts to delete on a disk that is down.
    pub slow_retry: Duration,
    /// So many refusals (`Full`, `Conflict`, another life) of one slot abandon the write.
    pub refusals_max: u32,
    /// After so many writes abandoned in a row the next ones are paced, so that an owner
    /// which tries counter after counter does not spin (R18).
    pub abandoned_in_a_row_max: u32,
    /// The hedge's first value: after so long without an answer, others are asked. Then it
    /// follows the 95th percentile of each site's answers.
    pub hedge_start: Duration,
    /// The hedge's lower bound.
    pub hedge_min: Duration,
    /// The hedge's upper bound.
    pub hedge_max: Duration,
    /// Combinations of sources tried for one row when a source is silently wrong.
    pub combinations_max: usize,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            writes_max: 4,
            write_queue_max: 64,
            reads_max: 1024,
            read_queue_max: 1024,
            deletes_max: 1 << 18,
            delete_batch_max: 256,
            put_timeout: Duration::from_secs(2),
            get_timeout: Duration::from_secs(1),
            delete_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            slow_retry: Duration::from_secs(10),
            refusals_max: 3,
            abandoned_in_a_row_max: 8,
            hedge_start: Duration::from_millis(50),
            hedge_min: Duration::from_millis(5),
            hedge_max: Duration::from_millis(500),
            combinations_max: 256,
        }
    }
}

impl SegmentConfig {
    /// How long an answer is waited for by who has asked `attempts` times in vain: twice as long
    /// each time, up to 8 times. What is late on a slow way comes no sooner for being asked for
    /// again, and all that is asked for twice makes the others late.
    pub(super) fn patience(timeout: Duration, attempts: u32) -> Duration {
        timeout.saturating_mul(1 << attempts.min(3))
    }

    /// The pause before attempt `attempt` (from 0) is repeated.
    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        let doubled = self.backoff_min.saturating_mul(1 << attempt.min(16));
        doubled.min(self.backoff_max)
    }
}
