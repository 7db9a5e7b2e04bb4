//! The scale mode: metadata and placement alone, payload elided, at the size of a hundred sites'
//! disks. The machines are those that production runs: the groups' states behind their logs'
//! bytes, [`raft_meta::MetaNode`]s on virtual time, the controllers in them, the tables that they
//! make. What a fragment would hold is counted from where its slot lies.
//!
//! **Invariant:** nothing here is an estimate of what a machine would do. What is assumed of
//! hardware is in [`Size`], and told with what follows from it.

mod beside;
mod crowd;
mod fabric;
mod failover;
mod gauge;
mod growth;
mod log;
mod loss;
mod placement;
mod report;
mod requests;
mod site;
mod voters;

use std::time::Duration;

use thiserror::Error;

pub use report::{Figure, Report, Section, Value};

use fabric::Fabric;

/// How large the fabric is, and what is assumed of its hardware.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Size {
    /// Sites.
    pub sites: u8,
    /// Nodes of all sites.
    pub nodes: u16,
    /// Disks of all nodes.
    pub disks: u32,
    /// Volumes.
    pub volumes: u32,
    /// Rows of each pool's table (R23).
    pub rows: u16,
    /// A disk's capacity.
    pub disk_bytes: u64,
    /// How much of the fullest disk fragments take, in percent.
    pub fill_percent: u8,
    /// What a node's repair takes at most, in bytes a second.
    pub repair_bytes_per_s: u64,
    /// What a site's link to the others carries, in bytes a second.
    pub link_bytes_per_s: u64,
    /// How long a message takes between two sites.
    pub wan_one_way: Duration,
    /// Decides what is drawn.
    pub seed: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            sites: 10,
            nodes: 1000,
            disks: 10_000,
            volumes: 1_000_000,
            rows: 4096,
            disk_bytes: 10_000_000_000_000,
            fill_percent: 60,
            repair_bytes_per_s: 64 << 20,
            link_bytes_per_s: 1_250_000_000,
            wan_one_way: Duration::from_millis(10),
            seed: 1,
        }
    }
}

/// Why such a fabric can't be made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SizeError {
    /// Too few to lose one, or more than the global placement group takes.
    #[error("a fabric has 3 to {max} sites here", max = SITES_MAX)]
    Sites,
    /// Sites of one size, of which each row finds nodes enough.
    #[error("nodes are a multiple of the sites, 3 a site at least, and one less than a disk each")]
    Nodes,
    /// Nodes of one size, within what a site's group takes.
    #[error("disks are a multiple of the nodes; a site has {nodes} nodes and {disks} disks at most", nodes = NODES_MAX, disks = DISKS_MAX)]
    Disks,
    /// A table of more is refused.
    #[error("a pool has {max} rows at most", max = raft_meta::site::ROWS_MAX)]
    Rows,
    /// Elections, and the patience of whoever waits for one, are counted from this.
    #[error("a message takes less than 100 ms between two sites here")]
    Wan,
    /// Nothing to fail over, or no slots.
    #[error("volumes, rows, capacity, paces and fill (in percent) are above zero")]
    Nothing,
}

/// One is left for what is added.
const NODES_MAX: u32 = raft_meta::site::NODES_MAX as u32 - 1;
const DISKS_MAX: u32 = raft_meta::site::DISKS_MAX as u32 / 2;

/// Longer ways do without the terms of a fabric's groups.
const WAN_MAX: Duration = Duration::from_millis(100);

/// One is left for the site that is added.
const SITES_MAX: usize = raft_meta::global::SITES_MAX - 1;

impl Size {
    /// Nodes of one site.
    fn nodes_per_site(&self) -> u16 {
        self.nodes / u16::from(self.sites)
    }

    /// Disks of one node.
    fn disks_per_node(&self) -> u32 {
        self.disks / u32::from(self.nodes)
    }

    fn check(&self) -> Result<(), SizeError> {
        if self.sites < 3 || usize::from(self.sites) > SITES_MAX {
            return Err(SizeError::Sites);
        }
        let even = self.nodes.is_multiple_of(u16::from(self.sites));
        if !even || self.nodes_per_site() < 3 {
            return Err(SizeError::Nodes);
        }
        if self.disks == 0 || !self.disks.is_multiple_of(u32::from(self.nodes)) {
            return Err(SizeError::Disks);
        }
        let disks = self.disks_per_node() * u32::from(self.nodes_per_site());
        if u32::from(self.nodes_per_site()) > NODES_MAX || disks > DISKS_MAX {
            return Err(SizeError::Disks);
        }
        if usize::from(self.rows) > raft_meta::site::ROWS_MAX {
            return Err(SizeError::Rows);
        }
        if self.wan_one_way >= WAN_MAX {
            return Err(SizeError::Wan);
        }
        let paces = self.repair_bytes_per_s.min(self.link_bytes_per_s);
        let some = self.volumes.min(u32::from(self.rows)) > 0 && self.disk_bytes.min(paces) > 0;
        if !some || !(1..=100).contains(&self.fill_percent) {
            return Err(SizeError::Nothing);
        }
        Ok(())
    }
}

/// Measures it all; `tell` hears what is being done.
///
/// # Errors
/// [`SizeError`]: there is no such fabric.
pub fn run(size: &Size, tell: &mut dyn FnMut(&str)) -> Result<Report, SizeError> {
    size.check()?;
    let mut report = Report::new(size.clone());
    tell("founding the fabric: sites, nodes, disks, slots");
    let mut fabric = Fabric::found(size, &mut report);
    tell("losing and adding disks, nodes, a site: what moves");
    report.add(placement::section(&fabric));
    site::measure(&fabric, &mut report, tell);
    report.add(growth::site(&fabric));
    report.add(loss::site(&fabric));
    tell("creating and claiming all volumes");
    requests::measure(&mut fabric, &mut report);
    tell("snapshots, views, hosts");
    beside::measure(&fabric, &mut report);
    tell("a site dies: its volumes get owners");
    failover::measure(fabric, &mut report, tell);
    Ok(report)
}
