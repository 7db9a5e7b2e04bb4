//! The sites, nodes and disks that a drill is about: of `atoll dev` by its layout, of a live
//! fabric by what it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use model::units::ByteSize;

use super::error::DrillError;
use crate::admin::protocol::{Disks, Nodes};
use crate::dev::layout::{Layout, LayoutError};

/// All of it, site by site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ground {
    pub(super) sites: Vec<Site>,
    /// What each disk may hold, if they are all alike.
    pub(super) disk_size: ByteSize,
}

/// A site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) name: String,
    pub(super) nodes: Vec<Node>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// Where clients reach it.
    pub(super) nbd: SocketAddr,
    pub(super) disks: usize,
}

impl From<&Layout> for Ground {
    fn from(layout: &Layout) -> Self {
        let node = |n: &crate::dev::layout::NodeLayout| Node {
            name: n.name.clone(),
            nbd: n.nbd,
            disks: n.disks.len(),
        };
        let sites = layout.sites.iter().map(|s| Site {
            name: s.name.clone(),
            nodes: s.nodes.iter().map(node).collect(),
        });
        Self {
            sites: sites.collect(),
            disk_size: layout.disk_size,
        }
    }
}

/// Where clients reach a node. One that listens on all addresses of its host is reached where
/// other nodes reach it.
fn reached(nbd: &str, quic: &str) -> Option<SocketAddr> {
    let mut nbd: SocketAddr = nbd.parse().ok()?;
    if nbd.ip().is_unspecified() {
        let quic: SocketAddr = quic.parse().ok()?;
        nbd.set_ip(quic.ip());
    }
    Some(nbd)
}

impl Ground {
    /// Of a live fabric.
    pub(super) fn told(nodes: &Nodes, disks: &Disks) -> Result<Self, DrillError> {
        let mut sites: BTreeMap<&str, Vec<Node>> = BTreeMap::new();
        let mut taken: BTreeMap<SocketAddr, &str> = BTreeMap::new();
        let hosts: BTreeSet<Option<IpAddr>> = nodes.nodes.iter().map(host).collect();
        for node in &nodes.nodes {
            let unreached = |why: String| DrillError::Unreached {
                node: node.name.clone(),
                why,
            };
            let nbd = reached(&node.nbd, &node.quic)
                .ok_or_else(|| unreached(format!("'{}' is no address", node.nbd)))?;
            // On another host than the drill's it would be the drill's own host that answers.
            if nbd.ip().is_loopback() && hosts.len() > 1 {
                return Err(unreached(format!("{nbd} is of its own host alone")));
            }
            if let Some(other) = taken.insert(nbd, &node.name) {
                return Err(unreached(format!("{nbd} is node {other}'s, too")));
            }
            let own = format!("{}/", node.name);
            let disks = disks.disks.iter().filter(|d| d.name.starts_with(&own));
            sites.entry(&node.site).or_default().push(Node {
                name: node.name.clone(),
                nbd,
                disks: disks.count(),
            });
        }
        let sites = sites.into_iter().map(|(name, mut nodes)| {
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
            let name = name.to_owned();
            Site { name, nodes }
        });
        Ok(Self {
            sites: sites.collect(),
            disk_size: ByteSize(0),
        })
    }

    /// Every node with its site, site by site.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&Site, &Node)> {
        let sites = self.sites.iter();
        sites.flat_map(|site| site.nodes.iter().map(move |node| (site, node)))
    }

    /// The same, first one of each site.
    pub(super) fn nodes_across_sites(&self) -> Vec<(&Site, &Node)> {
        let widest = self.sites.iter().map(|s| s.nodes.len()).max().unwrap_or(0);
        let row = |n: usize| {
            let sites = self.sites.iter();
            sites.filter_map(move |s| Some((s, s.nodes.get(n)?)))
        };
        (0..widest).flat_map(row).collect()
    }

    pub(super) fn node(&self, name: &str) -> Result<(&Site, &Node), LayoutError> {
        let found = self.nodes().find(|(_, n)| n.name == name);
        found.ok_or_else(|| LayoutError::Unknown {
            what: "node",
            name: name.to_owned(),
            known: self.nodes().map(|(_, n)| n.name.clone()).collect(),
        })
    }

    pub(super) fn site(&self, name: &str) -> Result<&Site, LayoutError> {
        let found = self.sites.iter().find(|s| s.name == name);
        found.ok_or_else(|| LayoutError::Unknown {
            what: "site",
            name: name.to_owned(),
            known: self.sites.iter().map(|s| s.name.clone()).collect(),
        })
    }
}

fn host(node: &crate::admin::protocol::Node) -> Option<IpAddr> {
    let quic: SocketAddr = node.quic.parse().ok()?;
    Some(quic.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::protocol::{Condition, Node as Told};

    fn told(nodes: &[(&str, &str, &str, &str)]) -> Nodes {
        let node = |(name, site, quic, nbd): &(&str, &str, &str, &str)| Told {
            name: (*name).to_owned(),
            site: (*site).to_owned(),
            condition: Condition::Up,
            draining: false,
            maintenance_s: None,
            quic: (*quic).to_owned(),
            nbd: (*nbd).to_owned(),
            volumes_owned: 0,
            capacity_bytes: 0,
            used_bytes: None,
            cache_bytes: None,
            repair_wan_bytes: None,
        };
        Nodes {
            nodes: nodes.iter().map(node).collect(),
            unreachable: Vec::new(),
        }
    }

    fn none() -> Disks {
        Disks {
            disks: Vec::new(),
            unreachable: Vec::new(),
        }
    }

    #[test]
    fn nodes_are_reached_where_they_say_and_never_on_another_host() {
        let open = told(&[
            ("b1", "b", "10.0.0.2:7000", "0.0.0.0:10809"),
            ("a1", "a", "10.0.0.1:7000", "10.0.0.1:10809"),
        ]);
        let ground = Ground::told(&open, &none()).expect("all are reached");
        let names: Vec<&str> = ground.sites.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let (_, b1) = ground.node("b1").expect("it is there");
        assert_eq!(b1.nbd, "10.0.0.2:10809".parse().expect("an address"));

        let alone = told(&[
            ("a1", "a", "10.0.0.1:7000", "10.0.0.1:10809"),
            ("b1", "b", "10.0.0.2:7000", "127.0.0.1:10809"),
        ]);
        let error = Ground::told(&alone, &none()).expect_err("the wrong host would answer");
        assert!(error.to_string().contains("b1"), "{error}");
        let shared = told(&[
            ("a1", "a", "127.0.0.1:7000", "127.0.0.1:10809"),
            ("b1", "b", "127.0.0.1:7001", "127.0.0.1:10809"),
        ]);
        let error = Ground::told(&shared, &none()).expect_err("one of them answers for both");
        assert!(error.to_string().contains("a1"), "{error}");
    }
}
