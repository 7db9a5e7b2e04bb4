//! A Healer's bounds and paces.

use std::time::Duration;

/// Bounds and paces. The defaults leave a disk to its clients most of the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealConfig {
    /// Bytes that are read to fill slots, a second and node, while clients want something of the
    /// disks that answer: a token bucket that holds one second's worth.
    pub bytes_per_s: u64,
    /// Moves that are worked on at a time; the others wait, the weakest row foremost.
    pub moves_max: usize,
    /// Segments of which a fragment is brought at a time, beside clients.
    pub copies_max: usize,
    /// The same while clients leave them alone, at most: answers that come late make it fewer.
    pub copies_alone_max: usize,
    /// Sums of fragments that are made at a time for Healers of other sites.
    pub sums_max: usize,
    /// Fragments asked for with one listing, about.
    pub page_keys: u32,
    /// Without an answer, a question is asked again after this.
    pub ask_timeout: Duration,
    /// So many silences, and a source is done without, until the next pass.
    pub attempts_max: u32,
    /// Between two passes over a row, if the first did not bring everything.
    pub pass_pause: Duration,
}

impl Default for HealConfig {
    fn default() -> Self {
        Self {
            bytes_per_s: 64 << 20,
            moves_max: 6,
            copies_max: 4,
            copies_alone_max: 32,
            sums_max: 32,
            page_keys: 512,
            ask_timeout: Duration::from_secs(2),
            attempts_max: 5,
            pass_pause: Duration::from_secs(1),
        }
    }
}
