//! Bounds and terms of an owner.

use std::time::Duration;

use model::time::WallTime;

use super::asking::SegmentRoom;
use super::bypass::BypassTerms;
use super::journal::JournalTerms;
use super::rewrite::RewriteTerms;
use super::sessions;

/// Bounds and terms of a Volume machine.
#[derive(Clone, Copy, Debug)]
pub struct VolumeConfig {
    /// The journal's.
    pub journal: JournalTerms,
    /// Untrimmed payload bytes at which writes wait (the journal window); after a failover, what
    /// was taken over comes on top until it is drained.
    pub window_bytes: u64,
    /// Untrimmed bytes that parts zeroed and that stay allocated, at which further ones wait: their
    /// leaves of the index are in memory at once when they are drained, with every next owner too.
    pub zeros_bytes: u64,
    /// Committed data bytes at which a drain starts.
    pub drain_bytes: u64,
    /// A drain starts when nothing was written for so long.
    pub drain_idle: Duration,
    /// A drain starts when the oldest undrained write is so old.
    pub drain_age: Duration,
    /// Untrimmed records at which a drain starts, whatever their size.
    pub drain_records: usize,
    /// At most one publication of a checkpoint in this time.
    pub publish_every: Duration,
    /// Requests that wait for the owner's start, or for the window.
    pub waiting_max: usize,
    /// Their payload; who brings more is told to come again.
    pub waiting_bytes_max: usize,
    /// Sessions that are open at a time; who would open one more is told to come again.
    pub sessions_max: usize,
    /// How often nodes are asked which of their clients ended (R10).
    pub roll_every: Duration,
    /// How long a drain waits for what partial writes are laid over (R28).
    pub base_wait: Duration,
    /// What the Segment machine has room for.
    pub segment_room: SegmentRoom,
    /// Blocks of the read cache.
    pub cache_blocks: usize,
    /// Bytes of clean index pages kept.
    pub index_cache_bytes: usize,
    /// Bytes of changes that an index holds before it takes them into its leaves.
    pub index_pending_bytes: usize,
    /// How long a replica of the journal may be away before it is replaced, as long as the
    /// others are enough.
    pub replace_after: Duration,
    /// How often what disks hold is audited against the index (R16).
    pub audit_every: Duration,
    /// Which writes go past the journal.
    pub bypass: BypassTerms,
    /// When segments are written anew.
    pub rewrite: RewriteTerms,
    /// How long an unanswered metadata request waits before it is asked again.
    pub meta_retry: Duration,
    /// What a clock on the wall showed at [`Time::ZERO`]: people are told when checkpoints were
    /// published.
    pub wall_at_zero: WallTime,
}

impl Default for VolumeConfig {
    fn default() -> Self {
        Self {
            journal: JournalTerms::default(),
            window_bytes: 64 << 20,
            zeros_bytes: 2 << 30,
            drain_bytes: 16 << 20,
            drain_idle: Duration::from_millis(500),
            drain_age: Duration::from_secs(10),
            drain_records: 16 << 10,
            publish_every: Duration::from_secs(1),
            waiting_max: 4096,
            waiting_bytes_max: 64 << 20,
            sessions_max: sessions::SESSIONS_MAX,
            roll_every: Duration::from_secs(20),
            base_wait: Duration::from_secs(5),
            segment_room: SegmentRoom::default(),
            cache_blocks: 16 << 10,
            index_cache_bytes: 16 << 20,
            index_pending_bytes: 1 << 20,
            replace_after: Duration::from_secs(10),
            audit_every: Duration::from_secs(600),
            bypass: BypassTerms::default(),
            rewrite: RewriteTerms::default(),
            meta_retry: Duration::from_millis(300),
            wall_at_zero: WallTime::default(),
        }
    }
}
