//! What is assumed: the fabric, how often hardware fails, how fast it is made good.
//!
//! A rate is a mean number of events a year for each disk, node or site; the time to the next one
//! is exponential. Each default names its source, or says that it has none.

use std::time::Duration;

use model::geometry::Code;

use super::DurabilityError;

/// Hours of a year.
pub(super) const YEAR_H: f64 = 365.25 * 24.0;

const MIB: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What `rs` rebuilt a second of a lost disk, and what `geo` did, which reads nothing over the
/// WAN for it: measured with nine nodes on two cores (docs/limits.md), so that a fabric with a
/// machine for each node is faster, and one whose clients want the disks may be slower.
const RS_REBUILD: u64 = 70 * MIB;
const GEO_REBUILD: u64 = 163 * MIB;

/// How large the fabric is; all sites are alike, and so are nodes and disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Sites.
    pub sites: u8,
    /// Nodes of each site.
    pub nodes: u16,
    /// Disks of each node.
    pub disks: u16,
    /// Rows of the pool (R23).
    pub rows: u16,
    /// What fragments take on a disk, on average.
    pub disk_bytes: u64,
}

impl Default for Shape {
    /// Three sites of three nodes, as the tests have them, with 64 rows as every fabric has
    /// (`pool_rows`).
    fn default() -> Self {
        Self {
            sites: 3,
            nodes: 3,
            disks: 4,
            rows: 64,
            disk_bytes: 4 << 40,
        }
    }
}

/// How often things fail, in events a year for each.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// A disk fails for good. 1.57 %: all disks of Backblaze's Drive Stats for 2024.
    pub disk_lost: f64,
    /// A sector of a disk can't be read any more, which nobody knows before the scrub comes by.
    /// 3.15 %: nearline disks with such an error in their first year (Bairavasundaram et al., "An
    /// Analysis of Latent Sector Errors in Disk Drives", SIGMETRICS 2007).
    pub rot: f64,
    /// A node is away for a while: a restart, an update, a power supply. No source: an assumption.
    pub node_outage: f64,
    /// A node is lost with all its disks. No source: an assumption.
    pub node_lost: f64,
    /// A site is away for a while. About what follows from the 53 to 60 % of operators that had
    /// an outage in three years (Uptime Institute's outage analyses of 2022 and 2024/25).
    pub site_outage: f64,
    /// A site is lost for good with all its disks, as by a fire or a flood: once in a thousand
    /// years. No source: an assumption.
    pub site_lost: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            disk_lost: 0.0157,
            rot: 0.0315,
            node_outage: 4.0,
            node_lost: 0.001,
            site_outage: 0.3,
            site_lost: 0.001,
        }
    }
}

/// How long things take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// A node's outage, on average; exponential.
    pub node_outage: Duration,
    /// A site's outage, on average; exponential.
    pub site_outage: Duration,
    /// Until a lost disk's fragments are rebuilt on others (`heal_after_s`).
    pub heal_after: Duration,
    /// Until a lost disk or node is replaced, and slots lie as before.
    pub replace: Duration,
    /// Until a lost site is founded anew, empty.
    pub replace_site: Duration,
    /// A disk's fragments are all read so often (`scrub_every_s`).
    pub scrub: Duration,
    /// Bytes a second that a site rebuilds; by the code if not said.
    pub rebuild_bytes_per_s: Option<u64>,
    /// Bytes of data a second that owners write anew when a site that is away has left rows with
    /// nothing to spare (R26). A volume's bound is 64 MiB/s: by default two are at it.
    pub rewrite_bytes_per_s: u64,
}

impl Default for Times {
    /// The product's own where it has them; the others are assumptions.
    fn default() -> Self {
        Self {
            node_outage: Duration::from_secs(15 * 60),
            site_outage: 4 * HOUR,
            heal_after: Duration::from_secs(10 * 60),
            replace: 7 * DAY,
            replace_site: 30 * DAY,
            scrub: 14 * DAY,
            rebuild_bytes_per_s: None,
            rewrite_bytes_per_s: 128 * MIB,
        }
    }
}

/// All that is assumed.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Terms {
    /// The fabric.
    pub shape: Shape,
    /// How often things fail.
    pub rates: Rates,
    /// How long things take.
    pub times: Times,
}

impl Terms {
    /// Bytes a second that a site rebuilds of that code.
    #[must_use]
    pub fn rebuild_bytes_per_s(&self, code: Code) -> u64 {
        self.times.rebuild_bytes_per_s.unwrap_or(match code {
            Code::Rs { .. } => RS_REBUILD,
            Code::Geo { .. } => GEO_REBUILD,
        })
    }

    pub(super) fn check(&self) -> Result<(), DurabilityError> {
        let Shape {
            sites,
            nodes,
            disks,
            rows,
            disk_bytes,
        } = self.shape;
        let sites_max = raft_meta::global::SITES_MAX;
        if sites == 0 || usize::from(sites) > sites_max || nodes == 0 || disks == 0 {
            return Err(DurabilityError::Shape);
        }
        let all = u32::from(sites) * u32::from(nodes);
        if all > u32::from(u16::MAX) || all * u32::from(disks) > DISKS_MAX {
            return Err(DurabilityError::Shape);
        }
        if rows == 0 || usize::from(rows) > raft_meta::site::ROWS_MAX || disk_bytes == 0 {
            return Err(DurabilityError::Shape);
        }
        let r = &self.rates;
        let rates = [
            r.disk_lost,
            r.rot,
            r.node_outage,
            r.node_lost,
            r.site_outage,
            r.site_lost,
        ];
        let sound = rates.iter().all(|rate| (0.0..=RATE_MAX).contains(rate));
        if !sound || rates.iter().sum::<f64>() <= 0.0 {
            return Err(DurabilityError::Rates);
        }
        let paces = self.times.rebuild_bytes_per_s.unwrap_or(1);
        if paces == 0 || self.times.rewrite_bytes_per_s == 0 {
            return Err(DurabilityError::Pace);
        }
        Ok(())
    }
}

/// Every step looks at every disk: more would take too long.
const DISKS_MAX: u32 = 4096;

/// An event a minute: beyond that nothing is ever whole.
const RATE_MAX: f64 = 525_960.0;

/// In hours.
pub(super) fn hours(of: Duration) -> f64 {
    of.as_secs_f64() / 3600.0
}
