//! Which sites, nodes and disks a development fabric has, and on which ports: decided once,
//! kept in `fabric.json`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::daemon::config::{self, ConfigError};
use crate::units::ByteSize;

/// The layout's name in the fabric's directory.
pub const FABRIC: &str = "fabric.json";

/// The layout's format.
const VERSION: u32 = 4;

/// Below the kernel's ephemeral ports (from 32768), so that no client's connection takes a
/// port away while its node is dead.
const PORTS: Range<u16> = 20_000..32_000;

/// Sites are named by letters.
pub const SITES_MAX: u8 = 9;
/// Nodes a site.
pub const NODES_MAX: u8 = 16;
/// Disks a node.
pub const DISKS_MAX: u8 = 16;
/// A smaller disk has no room for its journal and its reserve.
pub const DISK_BYTES_MIN: u64 = 256 << 20;

/// How many of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sites.
    pub sites: u8,
    /// Nodes a site.
    pub nodes: u8,
    /// Disks a node.
    pub disks: u8,
    /// How much each disk may hold.
    pub disk_size: ByteSize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            sites: 3,
            nodes: 3,
            disks: 2,
            disk_size: ByteSize(8 << 30),
        }
    }
}

/// A development fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The format of this file.
    pub version: u32,
    /// How much each disk may hold.
    pub disk_size: ByteSize,
    /// Sites, in order.
    pub sites: Vec<SiteLayout>,
}

/// A site of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteLayout {
    /// `a`, `b`, ...
    pub name: String,
    /// Nodes, in order.
    pub nodes: Vec<NodeLayout>,
}

/// A node of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeLayout {
    /// `a1`, `a2`, ...
    pub name: String,
    /// Where it listens for nodes (UDP).
    pub quic: SocketAddr,
    /// Where it listens for NBD clients (TCP).
    pub nbd: SocketAddr,
    /// Where it listens for iSCSI initiators (TCP).
    pub iscsi: SocketAddr,
    /// Names of its disks.
    pub disks: Vec<String>,
}

/// A layout could not be made, read or written.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// Its file.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// There is none.
    #[error("{} holds no fabric: `atoll dev --dir {}` makes one", .0.display(), .0.display())]
    Missing(PathBuf),
    /// Another version wrote it.
    #[error(
        "{FABRIC} is of format {0}, this atoll knows {VERSION}: use the atoll that made it, or another directory"
    )]
    Version(u32),
    /// A number is out of range.
    #[error("{what} must be 1 to {max}, not {given}")]
    Shape {
        /// Of what.
        what: &'static str,
        /// The most.
        max: u8,
        /// What was asked.
        given: u8,
    },
    /// Disks are too small.
    #[error("a disk of {0} is too small: give --disk-size at least {min}", min = ByteSize(DISK_BYTES_MIN))]
    DiskSize(ByteSize),
    /// The fabric that is there has another shape.
    #[error(
        "the fabric in this directory has {has}, not {asked}: leave the option out, or use another directory"
    )]
    Differs {
        /// What it has.
        has: String,
        /// What was asked.
        asked: String,
    },
    /// No free ports.
    #[error("found no {0} free ports between {start} and {end}: end other fabrics", start = PORTS.start, end = PORTS.end)]
    Ports(usize),
    /// No such site or node.
    #[error("there is no {what} '{name}': {what}s are {}", .known.join(", "))]
    Unknown {
        /// `site` or `node`.
        what: &'static str,
        /// What was asked.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

impl Shape {
    /// # Errors
    /// [`LayoutError::Shape`], [`LayoutError::DiskSize`].
    pub fn check(self) -> Result<(), LayoutError> {
        let numbers = [
            ("--sites", self.sites, SITES_MAX),
            ("--nodes", self.nodes, NODES_MAX),
            ("--disks", self.disks, DISKS_MAX),
        ];
        for (what, given, max) in numbers {
            if given == 0 || given > max {
                return Err(LayoutError::Shape { what, max, given });
            }
        }
        if self.disk_size.0 < DISK_BYTES_MIN {
            return Err(LayoutError::DiskSize(self.disk_size));
        }
        Ok(())
    }
}

impl Layout {
    /// A new layout of that shape, on ports that are free now. `directory` only decides where
    /// the search for ports begins, so that fabrics side by side do not meet.
    ///
    /// # Errors
    /// [`LayoutError::Shape`], [`LayoutError::DiskSize`], [`LayoutError::Ports`].
    pub fn new(shape: Shape, directory: &Path) -> Result<Self, LayoutError> {
        shape.check()?;
        // Nodes and NBD share a number, being UDP and TCP; iSCSI takes another.
        let count = 2 * usize::from(shape.sites) * usize::from(shape.nodes);
        let mut ports = free_ports(count, directory)?.into_iter();
        let mut node = |site: &str, number: u8| -> Result<NodeLayout, LayoutError> {
            let mut next = || {
                let port = ports.next()?;
                Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            };
            let both = next().zip(next());
            let (address, iscsi) = both.ok_or(LayoutError::Ports(count))?;
            Ok(NodeLayout {
                name: format!("{site}{number}"),
                quic: address,
                nbd: address,
                iscsi,
                disks: (1..=shape.disks).map(|d| format!("d{d}")).collect(),
            })
        };
        let mut sites = Vec::new();
        for index in 0..shape.sites {
            let name = char::from(b'a' + index).to_string();
            let nodes = (1..=shape.nodes)
                .map(|n| node(&name, n))
                .collect::<Result<_, _>>()?;
            sites.push(SiteLayout { name, nodes });
        }
        Ok(Self {
            version: VERSION,
            disk_size: shape.disk_size,
            sites,
        })
    }

    /// Reads the layout of the fabric in `directory`.
    ///
    /// # Errors
    /// [`LayoutError::Missing`], [`LayoutError::Version`], [`LayoutError::File`].
    pub fn load(directory: &Path) -> Result<Self, LayoutError> {
        Self::find(directory)?.ok_or_else(|| LayoutError::Missing(directory.to_owned()))
    }

    /// As [`Layout::load`]; `None` when there is none.
    ///
    /// # Errors
    /// [`LayoutError::Version`], [`LayoutError::File`].
    pub fn find(directory: &Path) -> Result<Option<Self>, LayoutError> {
        let layout: Option<Self> = config::load(&directory.join(FABRIC))?;
        match layout {
            Some(layout) if layout.version != VERSION => Err(LayoutError::Version(layout.version)),
            layout => Ok(layout),
        }
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// [`LayoutError::File`].
    pub fn save(&self, directory: &Path) -> Result<(), LayoutError> {
        Ok(config::save(&directory.join(FABRIC), self)?)
    }

    /// Every node with its site, site by site.
    pub fn nodes(&self) -> impl Iterator<Item = (&SiteLayout, &NodeLayout)> {
        self.sites
            .iter()
            .flat_map(|site| site.nodes.iter().map(move |node| (site, node)))
    }

    /// Every node with its site in the order in which a new fabric is put together: first one
    /// of each site, so that no site holds a majority for longer than it must (R21).
    #[must_use]
    pub fn nodes_across_sites(&self) -> Vec<(&SiteLayout, &NodeLayout)> {
        let widest = self
            .sites
            .iter()
            .map(|site| site.nodes.len())
            .max()
            .unwrap_or(0);
        let row = |n: usize| {
            self.sites
                .iter()
                .filter_map(move |s| s.nodes.get(n).map(|node| (s, node)))
        };
        (0..widest).flat_map(row).collect()
    }

    /// A node by name.
    ///
    /// # Errors
    /// [`LayoutError::Unknown`].
    pub fn node(&self, name: &str) -> Result<(&SiteLayout, &NodeLayout), LayoutError> {
        let known = || self.nodes().map(|(_, n)| n.name.clone()).collect();
        self.nodes()
            .find(|(_, node)| node.name == name)
            .ok_or_else(|| LayoutError::Unknown {
                what: "node",
                name: name.to_owned(),
                known: known(),
            })
    }

    /// A site by name.
    ///
    /// # Errors
    /// [`LayoutError::Unknown`].
    pub fn site(&self, name: &str) -> Result<&SiteLayout, LayoutError> {
        let known = || self.sites.iter().map(|s| s.name.clone()).collect();
        self.sites
            .iter()
            .find(|site| site.name == name)
            .ok_or_else(|| LayoutError::Unknown {
                what: "site",
                name: name.to_owned(),
                known: known(),
            })
    }

    /// Refuses options that contradict this layout; `None` contradicts nothing.
    ///
    /// # Errors
    /// [`LayoutError::Differs`].
    pub fn agrees(
        &self,
        sites: Option<u8>,
        nodes: Option<u8>,
        disks: Option<u8>,
        disk_size: Option<ByteSize>,
    ) -> Result<(), LayoutError> {
        let nodes_each = self.sites.first().map_or(0, |site| site.nodes.len());
        let disks_each = self.nodes().next().map_or(0, |(_, node)| node.disks.len());
        let numbers = [
            ("sites", self.sites.len(), sites),
            ("nodes a site", nodes_each, nodes),
            ("disks a node", disks_each, disks),
        ];
        for (what, has, asked) in numbers {
            if let Some(asked) = asked.filter(|asked| usize::from(*asked) != has) {
                return Err(LayoutError::Differs {
                    has: format!("{has} {what}"),
                    asked: asked.to_string(),
                });
            }
        }
        match disk_size.filter(|size| *size != self.disk_size) {
            Some(size) => {
                let has = format!("disks of {}", self.disk_size);
                Err(LayoutError::Differs {
                    has,
                    asked: size.to_string(),
                })
            }
            None => Ok(()),
        }
    }
}

/// Ports free for TCP and UDP on loopback, ascending from a place that the directory decides.
fn free_ports(count: usize, directory: &Path) -> Result<Vec<u16>, LayoutError> {
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    let span = PORTS.end - PORTS.start;
    let offset = u16::try_from(hasher.finish() % u64::from(span)).expect("below the span");
    let ports = (0..span).map(|i| PORTS.start + (offset + i) % span);
    let found: Vec<u16> = ports.filter(|port| is_free(*port)).take(count).collect();
    if found.len() == count {
        Ok(found)
    } else {
        Err(LayoutError::Ports(count))
    }
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests;
