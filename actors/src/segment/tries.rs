//! How often one request was sent, and how long it waits before it is sent again.

use std::time::Duration;

use super::SegmentConfig;

/// The tries of one request. A disk that answers is there: what is sent to it next is waited for as
/// the first time, however often it had no time for it before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    /// Sent so often since it was answered last.
    silent: u32,
    /// Answers that put it off.
    put_off: u32,
}

impl Tries {
    /// It is sent now: how long an answer is waited for.
    pub(super) fn sent(&mut self, timeout: Duration) -> Duration {
        let patience = SegmentConfig::patience(timeout, self.silent);
        self.silent = self.silent.saturating_add(1);
        patience
    }

    /// An answer put it off: the pause before it is sent again.
    pub(super) fn put_off(&mut self, config: &SegmentConfig) -> Duration {
        let pause = config.backoff(self.put_off);
        self.put_off = self.put_off.saturating_add(1);
        self.silent = 0;
        pause
    }

    /// Whether it was sent in vain.
    pub(super) fn in_vain(&self) -> bool {
        self.silent > 1 || self.put_off > 0
    }
}
