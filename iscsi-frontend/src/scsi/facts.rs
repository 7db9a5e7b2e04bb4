//! What is to be known of a unit before a command can be carried out.

use std::sync::Arc;

use model::ids::Version;
use model::iscsi::UnitState;

/// Bytes in a logical block: what every hypervisor takes.
pub const SECTOR_BYTES: u32 = 512;
/// Logical blocks in a block of the fabric: at which access is efficient, and space is freed. It is
/// no physical block: what is smaller is journaled as it came, and never read first (R12).
pub const GRANULE_SECTORS: u32 = model::BLOCK_BYTES as u32 / SECTOR_BYTES;
/// Logical blocks that one command may transfer.
pub const TRANSFER_SECTORS_MAX: u32 = (8 << 20) / SECTOR_BYTES;

/// A unit as a command finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its size.
    pub size_bytes: u64,
    /// Whether it can't be written at all.
    pub read_only: bool,
    /// What tells it from all others.
    pub identity: Identity,
    /// The port through which it is asked: the node's number.
    pub port: u16,
    /// All target port groups: one a site.
    pub groups: Vec<PortGroup>,
    /// Which state of it this is.
    pub version: Version,
    /// What initiators set of it.
    pub state: Arc<UnitState>,
}

impl Facts {
    /// Its logical blocks.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.size_bytes / u64::from(SECTOR_BYTES)
    }

    /// The group of the port that is asked.
    #[must_use]
    pub fn group(&self) -> Option<&PortGroup> {
        self.groups.iter().find(|g| g.ports.contains(&self.port))
    }
}

/// What tells a unit from all others; the same through all nodes, for as long as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A locally assigned NAA: its upper four bits are 3 (SPC-4, 7.8.6.6.4).
    pub naa: u64,
    /// The serial number.
    pub serial: String,
    /// The target's name.
    pub target: String,
}

/// A target port group: a site's nodes (SPC-4, 5.15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGroup {
    /// Its number, not 0.
    pub id: u16,
    /// How well the unit is reached through it.
    pub access: AccessState,
    /// Its ports.
    pub ports: Vec<u16>,
}

/// A group's asymmetric access state (SPC-4, 6.37).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessState {
    /// The owner is there.
    Optimized = 0x0,
    /// Requests are passed on to another site.
    NonOptimized = 0x1,
}
