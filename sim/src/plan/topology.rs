//! What a run is made of: sites, nodes, disks, the network between them, the machines' terms.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use actors::client::ClientConfig;
use actors::disk::{DiskConfig, ScrubConfig, SlownessConfig};
use actors::heal::HealConfig;
use actors::segment::SegmentConfig;
use actors::volume::journal::JournalTerms;
use actors::volume::sessions::SESSIONS_MAX;
use actors::volume::{BypassTerms, RewriteTerms, SegmentRoom, VolumeConfig};
use model::BLOCK_BYTES;
use model::geometry::Code;
use model::placement::{Alone, Latency, SiteRole};
use raft_meta::node::Config as MetaConfig;
use serde::{Deserialize, Serialize};

use super::PlanError;
use super::text::{as_duration, as_size};
use crate::network::NetworkTerms;
use crate::node::MachineTerms;

/// The fabric's shape.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topology {
    /// Sites, named a, b, c and so on.
    pub sites: u64,
    /// Nodes of each: a1, a2 and so on.
    pub nodes: u64,
    /// Disks of each node.
    pub disks: u64,
    /// What each disk may hold.
    #[serde(with = "as_size")]
    pub disk: u64,
    /// The volume's erasure code.
    pub code: CodeName,
    /// The last site holds journals and votes alone, and says what becomes of writes with one
    /// other site left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witness: Option<WithOneLeft>,
}

/// What becomes of writes with one data site left (R22).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithOneLeft {
    /// They wait, once the journals are full.
    Stall,
    /// They go on.
    Write,
}

impl WithOneLeft {
    /// As the fabric has it.
    #[must_use]
    pub fn role(self) -> SiteRole {
        let alone = match self {
            Self::Stall => Alone::Stall,
            Self::Write => Alone::Write,
        };
        SiteRole::Witness { alone }
    }
}

/// Bounds of a topology: a journal has replicas in three sites, names have one letter.
const SITES: std::ops::RangeInclusive<u64> = 3..=9;
const NODES_MAX: u64 = 64;
const DISKS_MAX: u64 = 16;

impl Default for Topology {
    fn default() -> Self {
        Self {
            sites: 3,
            nodes: 3,
            disks: 2,
            disk: 64 << 20,
            code: CodeName(Code::Rs { k: 4, m: 2 }),
            witness: None,
        }
    }
}

impl Topology {
    pub(super) fn check(&self) -> Result<(), PlanError> {
        let fits = SITES.contains(&self.sites)
            && (1..=NODES_MAX).contains(&self.nodes)
            && (1..=DISKS_MAX).contains(&self.disks);
        if fits {
            Ok(())
        } else {
            Err(PlanError::Topology)
        }
    }

    /// The volume's erasure code, over all sites.
    #[must_use]
    pub fn volume_code(&self) -> Code {
        let sites = self.sites - u64::from(self.witness.is_some());
        let sites = u8::try_from(sites).unwrap_or(u8::MAX);
        self.code.0.over_sites(sites)
    }

    /// All nodes.
    #[must_use]
    pub fn names(&self) -> Vec<NodeName> {
        let of = |site| (1..=self.nodes).map(move |node| NodeName { site, node });
        (0..self.sites).flat_map(of).collect()
    }

    /// Whether there is such a node.
    #[must_use]
    pub fn has(&self, name: NodeName) -> bool {
        name.site < self.sites && name.node <= self.nodes
    }
}

/// A journal that answers nothing for so long hangs.
const HUNG_AFTER: Duration = Duration::from_secs(2);

/// A device that answers sooner than this is not slow: usual ones take some 600 us.
const SLOW_FROM: Latency = Latency(12);

/// How long devices take is measured over so many spans of so long.
const SLOWNESS: SlownessConfig = SlownessConfig {
    span: Duration::from_millis(1500),
    spans: 4,
};

/// A code as people write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CodeName(pub Code);

impl TryFrom<String> for CodeName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e| format!("'{text}': {e}"))
    }
}

impl From<CodeName> for String {
    fn from(code: CodeName) -> Self {
        code.0.to_string()
    }
}

/// A node by its place, whatever ids the fabric gives: `b2` is the second one of site b.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName {
    /// The site, counted from 0.
    pub site: u64,
    /// The node in it, counted from 1.
    pub node: u64,
}

/// A site's letter.
#[must_use]
pub fn site_name(site: u64) -> String {
    let letter = u8::try_from(site).map_or('?', |n| char::from(b'a'.saturating_add(n)));
    letter.to_string()
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}{}", site_name(self.site), self.node))
    }
}

impl FromStr for NodeName {
    type Err = PlanError;

    /// A site's letter alone is its first node.
    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::NodeName(text.to_owned());
        let letter = text.chars().next().ok_or_else(wrong)?;
        if !letter.is_ascii_lowercase() {
            return Err(wrong());
        }
        let site = u64::from(letter) - u64::from('a');
        let node = match &text[1..] {
            "" => 1,
            number => number.parse().map_err(|_| wrong())?,
        };
        if node == 0 {
            Err(wrong())
        } else {
            Ok(Self { site, node })
        }
    }
}

impl TryFrom<String> for NodeName {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.to_string()
    }
}

/// A network without faults, 5 ms one way between sites.
impl Default for NetworkTerms {
    fn default() -> Self {
        Self {
            lan: Duration::from_micros(50),
            wan_min: Duration::from_millis(5),
            wan_max: Duration::from_millis(5),
            wan_bytes_per_s: 0,
            jitter: Duration::from_micros(100),
            loss_one_in: 0,
            twice_one_in: 0,
            reorder: false,
        }
    }
}

/// The terms of the machines that a run varies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machines {
    /// The journal's window: so much waits at most to be drained.
    #[serde(with = "as_size")]
    pub window: u64,
    /// So much committed data starts a drain.
    #[serde(with = "as_size")]
    pub drain: u64,
    /// So long without a write starts a drain.
    #[serde(with = "as_duration")]
    pub drain_idle: Duration,
    /// A write that is so old starts a drain.
    #[serde(with = "as_duration")]
    pub drain_age: Duration,
    /// So many records start a drain.
    pub drain_records: usize,
    /// Blocks of an owner's read cache.
    pub cache_blocks: usize,
    /// Bytes of clean index pages that an owner keeps.
    #[serde(with = "as_size")]
    pub index_cache: u64,
    /// Bytes of changes that an index holds before it takes them into its leaves.
    #[serde(with = "as_size")]
    pub index_pending: u64,
    /// At most one publication of a checkpoint in this time.
    #[serde(with = "as_duration")]
    pub publish_every: Duration,
    /// A journal replica that is away for so long is replaced.
    #[serde(with = "as_duration")]
    pub replace_after: Duration,
    /// How often an owner audits what disks hold.
    #[serde(with = "as_duration")]
    pub audit_every: Duration,
    /// Sessions that may be open at a time.
    pub sessions: usize,
    /// How often nodes are asked which of their clients ended.
    #[serde(with = "as_duration")]
    pub roll_every: Duration,
    /// Writes of whole blocks that bring together so many bytes go past the journal; nothing does
    /// if it is 0.
    #[serde(with = "as_size")]
    pub bypass: u64,
    /// So many bytes that are under way make them a stream.
    #[serde(with = "as_size")]
    pub bypass_stream: u64,
    /// How long a segment of theirs may take.
    #[serde(with = "as_duration")]
    pub bypass_patience: Duration,
    /// So many records go with one append at most.
    pub append_records: usize,
    /// Size of a journal file.
    #[serde(with = "as_size")]
    pub journal_file: u64,
    /// A disk that is silent for so long has its slots moved.
    #[serde(with = "as_duration")]
    pub heal_after: Duration,
    /// So many slots are filled at a time by one node.
    pub heal_moves: usize,
    /// So many fragments are listed at a time.
    pub heal_page: u32,
    /// A pass of a disk's scrub begins so often.
    #[serde(with = "as_duration")]
    pub scrub_every: Duration,
    /// Rows of each code's table.
    pub pool_rows: u16,
}

impl Default for Machines {
    fn default() -> Self {
        Self {
            window: 4 << 20,
            drain: 256 << 10,
            drain_idle: Duration::from_millis(500),
            drain_age: Duration::from_secs(4),
            drain_records: 256,
            cache_blocks: 64,
            index_cache: 1 << 20,
            index_pending: 1 << 20,
            publish_every: Duration::from_secs(1),
            replace_after: Duration::from_secs(5),
            audit_every: Duration::from_secs(2),
            sessions: SESSIONS_MAX,
            roll_every: Duration::from_secs(2),
            bypass: 0,
            bypass_stream: 0,
            bypass_patience: Duration::from_secs(2),
            append_records: 512,
            journal_file: 1 << 20,
            heal_after: Duration::from_secs(6),
            heal_moves: 2,
            heal_page: 64,
            scrub_every: Duration::from_secs(3),
            pool_rows: 8,
        }
    }
}

impl Machines {
    /// Small volumes have few segments, so that little is worth the while. In half of the runs
    /// hardly anything is: what rots or goes missing there is not made good by compaction.
    fn rewrite_terms(&self) -> RewriteTerms {
        let (dead_blocks, small_segments) = match self.cache_blocks {
            0 => (8, 8),
            _ => (1 << 20, 1 << 20),
        };
        RewriteTerms {
            every: self.audit_every,
            dead_blocks,
            small_blocks: 8,
            small_segments,
            ..RewriteTerms::default()
        }
    }

    fn bypass_terms(&self) -> BypassTerms {
        let bytes = usize::try_from(self.bypass).unwrap_or(usize::MAX);
        let never = bytes == 0;
        BypassTerms {
            write_bytes: if never { usize::MAX } else { BLOCK_BYTES },
            segment_bytes: bytes,
            stream_bytes: usize::try_from(self.bypass_stream).unwrap_or(usize::MAX),
            segments: 2,
            bytes_max: 32 * BLOCK_BYTES,
            drain_bytes: self.drain,
            undrained_max: 4 * self.drain,
            patience: self.bypass_patience,
        }
    }

    /// As the machines take them.
    #[must_use]
    pub fn terms(&self) -> MachineTerms {
        // Where caches are none, reads queue too, so that a drain's or a copy's fill the room.
        let segment = match self.cache_blocks {
            0 => SegmentConfig {
                reads_max: 4,
                read_queue_max: 4,
                writes_max: 2,
                write_queue_max: 2,
                ..SegmentConfig::default()
            },
            _ => SegmentConfig::default(),
        };
        let room = SegmentRoom {
            reads: segment.reads_max + segment.read_queue_max,
            writes: segment.writes_max + segment.write_queue_max,
        };
        let volume = VolumeConfig {
            // Short, so that slow disks and far sites are enough for it (R28).
            base_wait: (self.drain_age / 16).max(Duration::from_millis(250)),
            segment_room: room,
            window_bytes: self.window,
            drain_bytes: self.drain,
            drain_idle: self.drain_idle,
            drain_age: self.drain_age,
            drain_records: self.drain_records,
            cache_blocks: self.cache_blocks,
            replace_after: self.replace_after,
            audit_every: self.audit_every,
            sessions_max: self.sessions,
            roll_every: self.roll_every,
            bypass: self.bypass_terms(),
            rewrite: self.rewrite_terms(),
            index_cache_bytes: usize::try_from(self.index_cache).unwrap_or(usize::MAX),
            index_pending_bytes: usize::try_from(self.index_pending).unwrap_or(usize::MAX),
            publish_every: self.publish_every,
            journal: JournalTerms {
                batch_records: self.append_records,
                ..JournalTerms::default()
            },
            ..VolumeConfig::default()
        };
        MachineTerms {
            volume,
            segment,
            client: ClientConfig::default(),
            disk: DiskConfig {
                move_cheap_bytes: self.journal_file / 64,
                scrub: ScrubConfig {
                    every: self.scrub_every,
                    journals_every: self.scrub_every,
                    pause: Duration::from_millis(20),
                    again: Duration::from_secs(1),
                    keep_every: self.scrub_every / 8,
                    page_keys: self.heal_page,
                    ..ScrubConfig::default()
                },
                slowness: SLOWNESS,
                hung_after: HUNG_AFTER,
                ..DiskConfig::default()
            },
            heal: HealConfig {
                moves_max: self.heal_moves,
                page_keys: self.heal_page,
                ask_timeout: Duration::from_millis(500),
                pass_pause: Duration::from_millis(200),
                ..HealConfig::default()
            },
            meta: MetaConfig {
                pool_rows: self.pool_rows,
                heal_after: self.heal_after,
                slow_from: SLOW_FROM,
                ..MetaConfig::default()
            },
            journal_file_bytes: self.journal_file,
        }
    }
}
