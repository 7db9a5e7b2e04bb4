//! What this computer is asked: how long something took, and the resident memory of this process.
//!
//! **Invariant:** nothing that a machine does follows from it.

use std::fs;
use std::time::{Duration, Instant};

/// What Linux counts resident memory in.
const PAGE_BYTES: u64 = 4096;

/// A state is copied until so much memory came of it: less is lost among what the allocator keeps.
const ENOUGH_BYTES: u64 = 64 << 20;
const COPIES_MAX: u64 = 4096;

/// Does it; how long that took.
#[expect(clippy::disallowed_methods, reason = "it is what is measured")]
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = work();
    (done, begun.elapsed())
}

/// Resident memory now; zero where the system does not tell.
pub(super) fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

/// What one more of it takes, by what copies take.
pub(super) fn of_a_copy<T>(copy: impl Fn() -> T) -> u64 {
    let before = resident();
    let mut copies = Vec::new();
    loop {
        copies.push(copy());
        let more = resident().saturating_sub(before);
        let count = copies.len() as u64;
        if more >= ENOUGH_BYTES || count >= COPIES_MAX {
            return more / count;
        }
    }
}
