//! The network between the sites of a development fabric: the WAN emulator's relay, by names.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use model::ids::{NodeId, SiteId};
use thiserror::Error;
use transport::net::relay::{self, Relay, Shape};

use super::control::{Link, LinkChange};
use super::layout::Layout;
use crate::daemon::config::Routes;

/// A link command makes no sense.
#[derive(Debug, Error)]
pub enum WanError {
    /// No such site.
    #[error("there is no site '{name}': sites are {}", .known.join(", "))]
    Unknown {
        /// What was asked.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// One site.
    #[error("a link joins two sites, not {0} and itself")]
    Same(String),
}

/// A node in the layout.
#[derive(Debug)]
struct Place {
    name: String,
    /// Where it really listens.
    quic: SocketAddr,
}

/// The relay with the names of sites and nodes. Its ids are places in the layout: they mean
/// nothing to the fabric.
#[derive(Debug)]
pub struct Wan {
    relay: Relay,
    sites: Vec<String>,
    nodes: BTreeMap<NodeId, Place>,
}

impl Wan {
    /// Starts relays between every two nodes of different sites, with that round trip.
    ///
    /// # Errors
    /// From the operating system.
    pub fn start(layout: &Layout, round_trip: Duration, seed: u64) -> io::Result<Self> {
        let sites: Vec<String> = layout.sites.iter().map(|site| site.name.clone()).collect();
        let mut nodes = BTreeMap::new();
        let mut targets = Vec::new();
        let places = (0_u8..).zip(&layout.sites);
        let places =
            places.flat_map(|(site, s)| s.nodes.iter().map(move |node| (SiteId(site), node)));
        for (id, (site, node)) in (0..).map(NodeId).zip(places) {
            let (name, quic) = (node.name.clone(), node.quic);
            nodes.insert(id, Place { name, quic });
            targets.push((id, site, quic));
        }
        let mut links = Vec::new();
        for (from, from_site, _) in &targets {
            for (to, to_site, target) in targets.iter().filter(|(_, site, _)| site != from_site) {
                let (from, from_site, to, to_site) = (*from, *from_site, *to, *to_site);
                links.push(relay::Link {
                    from,
                    from_site,
                    to,
                    to_site,
                    target: *target,
                });
            }
        }
        let wan = Self {
            relay: Relay::start(&links, seed)?,
            sites,
            nodes,
        };
        for (from, to) in wan.directions() {
            wan.relay.set(from, to, Shape::half_of(round_trip));
        }
        Ok(wan)
    }

    /// Where that node dials the nodes of other sites.
    #[must_use]
    pub fn routes(&self, node: &str) -> Routes {
        let named = |(id, place): (&NodeId, &Place)| (place.name == node).then_some(*id);
        let Some(from) = self.nodes.iter().find_map(named) else {
            return Routes::default();
        };
        let route = |(to, place): (&NodeId, &Place)| {
            let relay = self.relay.address(from, *to)?;
            Some((place.quic, relay))
        };
        Routes(self.nodes.iter().filter_map(route).collect())
    }

    /// Cuts between two sites, in one direction or both.
    ///
    /// # Errors
    /// Any [`WanError`].
    pub fn cut(&self, from: &str, to: &str, one_way: bool) -> Result<(), WanError> {
        let (from, to) = self.pair(from, to)?;
        self.relay.cut(from, to, true);
        if !one_way {
            self.relay.cut(to, from, true);
        }
        Ok(())
    }

    /// Undoes cuts, between two sites or all.
    ///
    /// # Errors
    /// Any [`WanError`].
    pub fn heal(&self, between: Option<&(String, String)>) -> Result<(), WanError> {
        let pairs = match between {
            Some((a, b)) => {
                let (a, b) = self.pair(a, b)?;
                vec![(a, b), (b, a)]
            }
            None => self.directions(),
        };
        for (from, to) in pairs {
            self.relay.cut(from, to, false);
        }
        Ok(())
    }

    /// Changes the shape of both directions.
    ///
    /// # Errors
    /// Any [`WanError`].
    pub fn set(&self, a: &str, b: &str, change: LinkChange) -> Result<(), WanError> {
        let (a, b) = self.pair(a, b)?;
        for (from, to) in [(a, b), (b, a)] {
            let before = self.relay.shape(from, to);
            let shape = Shape {
                delay: change
                    .rtt_us
                    .map_or(before.delay, |us| Duration::from_micros(us) / 2),
                jitter: change
                    .jitter_us
                    .map_or(before.jitter, Duration::from_micros),
                loss_per_million: change.loss_ppm.unwrap_or(before.loss_per_million),
                bytes_per_second: match change.bytes_per_second {
                    None => before.bytes_per_second,
                    Some(0) => None,
                    limit => limit,
                },
                cut: before.cut,
            };
            self.relay.set(from, to, shape);
        }
        Ok(())
    }

    /// Every direction of every link, as it is.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let link = |(from, to): (SiteId, SiteId)| {
            let shape = self.relay.shape(from, to);
            Link {
                from: self.sites[usize::from(from.0)].clone(),
                to: self.sites[usize::from(to.0)].clone(),
                cut: shape.cut,
                delay_us: micros(shape.delay),
                jitter_us: micros(shape.jitter),
                loss_ppm: shape.loss_per_million,
                bytes_per_second: shape.bytes_per_second.unwrap_or(0),
                bytes_passed: self.relay.passed(from, to).bytes,
            }
        };
        self.directions().into_iter().map(link).collect()
    }

    fn directions(&self) -> Vec<(SiteId, SiteId)> {
        let all = (0_u8..)
            .zip(&self.sites)
            .map(|(n, _)| SiteId(n))
            .collect::<Vec<_>>();
        let pairs = all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| a != b).collect()
    }

    fn pair(&self, a: &str, b: &str) -> Result<(SiteId, SiteId), WanError> {
        let find = |name: &str| {
            let found = (0_u8..).zip(&self.sites).find(|(_, site)| *site == name);
            let unknown = || WanError::Unknown {
                name: name.to_owned(),
                known: self.sites.clone(),
            };
            found.map(|(n, _)| SiteId(n)).ok_or_else(unknown)
        };
        match (find(a)?, find(b)?) {
            (a_site, b_site) if a_site == b_site => Err(WanError::Same(a.to_owned())),
            pair => Ok(pair),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::UdpSocket;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::{Layout, LinkChange, Wan, WanError};
    use crate::dev::layout::Shape;

    fn layout() -> Layout {
        let shape = Shape {
            sites: 3,
            nodes: 2,
            ..Shape::default()
        };
        Layout::new(shape, Path::new("/wan")).expect("a layout")
    }

    #[test]
    fn routes_lead_to_the_nodes_of_other_sites_only() {
        let layout = layout();
        let wan = Wan::start(&layout, Duration::ZERO, 1).expect("relays");
        let routes = wan.routes("a2").0;
        let quic = |node| layout.node(node).expect("it is there").1.quic;
        let others: BTreeSet<_> = ["b1", "b2", "c1", "c2"].map(quic).into();
        assert_eq!(routes.keys().copied().collect::<BTreeSet<_>>(), others);
        let ports: BTreeSet<_> = routes.values().collect();
        assert_eq!(ports.len(), 4, "a port a link");
        assert!(wan.routes("nobody").0.is_empty());
    }

    #[test]
    fn a_datagram_arrives_late_and_not_at_all_when_cut() {
        let layout = layout();
        let (_, b1) = layout.node("b1").expect("b1");
        let target = UdpSocket::bind(b1.quic).expect("bind");
        target
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        let wan = Wan::start(&layout, Duration::from_millis(60), 1).expect("relays");
        let route = wan.routes("a1").0[&b1.quic];
        let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let mut bytes = [0; 16];

        let start = Instant::now();
        client.send_to(b"late", route).expect("send");
        target.recv_from(&mut bytes).expect("it arrives");
        assert!(
            start.elapsed() >= Duration::from_millis(30),
            "half of the round trip"
        );

        wan.cut("a", "b", true).expect("cut");
        client.send_to(b"lost", route).expect("send");
        wan.set(
            "a",
            "b",
            LinkChange {
                rtt_us: Some(0),
                ..LinkChange::default()
            },
        )
        .expect("set");
        target
            .set_read_timeout(Some(Duration::from_millis(150)))
            .expect("timeout");
        assert!(
            target.recv_from(&mut bytes).is_err(),
            "a shape must not mend a cut"
        );

        wan.heal(None).expect("heal");
        target
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        client.send_to(b"open", route).expect("send");
        let (length, _) = target.recv_from(&mut bytes).expect("it arrives");
        assert_eq!(&bytes[..length], b"open");
    }

    #[test]
    fn one_way_cuts_one_direction() {
        let wan = Wan::start(&layout(), Duration::from_millis(20), 1).expect("relays");
        wan.cut("a", "b", true).expect("cut");
        let cut: Vec<String> = wan
            .links()
            .iter()
            .filter(|l| l.cut)
            .map(|l| format!("{}{}", l.from, l.to))
            .collect();
        assert_eq!(cut, ["ab"]);
        assert!(
            wan.links().iter().all(|l| l.delay_us == 10_000),
            "the delay stays"
        );
        wan.heal(Some(&("b".into(), "a".into()))).expect("heal");
        assert!(wan.links().iter().all(|l| !l.cut));
        assert!(matches!(wan.cut("a", "a", false), Err(WanError::Same(_))));
        assert!(matches!(
            wan.cut("a", "z", false),
            Err(WanError::Unknown { .. })
        ));
    }
}
