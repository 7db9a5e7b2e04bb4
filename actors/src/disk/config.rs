//! A disk's bounds and terms.

use std::time::Duration;

pub use super::slowness::SlownessConfig;

/// Bounds of one Disk machine. All queues are bounded by these; beyond, it answers `Busy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskConfig {
    /// How long a granted lease runs (R7); the owner counts the same from before it asked.
    pub lease_term: Duration,
    /// Added to the term on this side: the stated drift of two clocks over one term (R7).
    pub lease_margin: Duration,
    /// How long a Join waits for the record to be read.
    pub join_wait_max: Duration,
    /// Bytes of one append to the journal (a single larger entry goes alone).
    pub batch_bytes_max: usize,
    /// Entries of one append to the journal.
    pub batch_entries_max: usize,
    /// Bytes queued for the journal before appends are refused. A journal that finds no space for
    /// another file tells so when half a file is left: what is queued by then takes half of that at
    /// most, and so does an append that comes alone.
    pub queue_bytes_max: usize,
    /// Appends and resets under way.
    pub appends_max: usize,
    /// Seals, joins and fetches under way.
    pub controls_max: usize,
    /// Untrimmed bytes of one volume, its records' heads with them, before its writes are refused
    /// (R18). Far above an owner's windows, which must leave room for the checkpoint that lets it trim.
    pub volume_bytes_max: u64,
    /// Journal files in use before the oldest one's live entries are copied forward, whatever
    /// that costs. Soft: copying never writes more than everyone else does.
    pub files_max: u64,
    /// Live bytes of the oldest file, about, up to which they are copied forward as soon as more
    /// than two files are in use: what idle volumes leave there. A 64th of a file, so that this
    /// adds at most a 64th to what others write.
    pub move_cheap_bytes: u64,
    /// Bytes that one round of copying forward reads.
    pub move_bytes_max: u64,
    /// How much of others' writing copying forward may save up. It starts with none, so that
    /// a disk at rest stays at rest, however much is live on it.
    pub move_credit_bytes_max: u64,
    /// Fragment requests under way.
    pub fragments_max: usize,
    /// Their bytes.
    pub fragment_bytes_max: usize,
    /// A journal that answers nothing for so long hangs, and fragments' store that does for three
    /// times as long.
    pub hung_after: Duration,
    /// How it is told how long the device takes.
    pub slowness: SlownessConfig,
    /// The scrub's pace.
    pub scrub: ScrubConfig,
}

/// How a disk reads all that it holds in the background, to see whether it is as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubConfig {
    /// From the begin of a pass to that of the next one. A pass that takes longer is followed
    /// by the next at once.
    pub every: Duration,
    /// The same of journals, which hold little for long.
    pub journals_every: Duration,
    /// Bytes read a second: a token bucket that holds one second's worth.
    pub bytes_per_s: u64,
    /// With so many requests for fragments under way, clients go first.
    pub busy_at: usize,
    /// Then it waits so long, but not more than ten times in a row: it never stands still.
    pub pause: Duration,
    /// What is rotten and was not repaired is looked at, and told of, again after this.
    pub again: Duration,
    /// How often it is kept durably how far a pass has come.
    pub keep_every: Duration,
    /// A disk of which so many fragments rotted is flagged.
    pub flagged_at: u64,
    /// And of which so many were repaired is emptied: what can't be repaired is found again and again.
    pub emptied_at: u64,
    /// Fragments looked up at a time, about.
    pub page_keys: u32,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(14 * 24 * 3600),
            journals_every: Duration::from_secs(24 * 3600),
            bytes_per_s: 32 << 20,
            busy_at: 8,
            pause: Duration::from_millis(100),
            again: Duration::from_secs(60),
            keep_every: Duration::from_secs(300),
            flagged_at: 8,
            emptied_at: 64,
            page_keys: 256,
        }
    }
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            lease_term: Duration::from_secs(1),
            lease_margin: Duration::from_millis(20),
            join_wait_max: Duration::from_secs(5),
            batch_bytes_max: 4 << 20,
            batch_entries_max: 1024,
            queue_bytes_max: 16 << 20,
            appends_max: 4096,
            controls_max: 4096,
            volume_bytes_max: 1 << 30,
            files_max: 16,
            move_cheap_bytes: 1 << 20,
            move_bytes_max: 2 << 20,
            move_credit_bytes_max: 8 << 20,
            fragments_max: 256,
            fragment_bytes_max: 128 << 20,
            hung_after: Duration::from_secs(10),
            slowness: SlownessConfig::default(),
            scrub: ScrubConfig::default(),
        }
    }
}

/// Records of one append or fetch.
pub const RECORDS_MAX: usize = 4096;

/// Payload bytes of one append; a fetch's are bound to less.
pub const APPEND_BYTES_MAX: usize = 16 << 20;

/// Payload bytes of one fetch, about.
pub const FETCH_BYTES_MAX: u32 = 4 << 20;

/// Bytes of a checkpoint's session table, and of any one record's payload.
pub const TABLE_BYTES_MAX: usize = 4 << 20;

/// Ranges of one `Get`.
pub const RANGES_MAX: usize = 1024;

/// Keys of one `Delete` or `Keys`.
pub const KEYS_MAX: usize = 4096;
