//! What the tests of healing share: a site of four nodes with a disk each.

use model::geometry::{Code, Pool};
use model::ids::{DiskId, DiskRef, Incarnation, NodeId, SiteId};
use model::placement::{Disk, Duty, Node, Presence, Site, SiteRole, SlotPlace, View};

pub(super) const POOL: Pool = Pool::of(Code::Rs { k: 2, m: 1 });

pub(super) fn at(id: u32) -> DiskRef {
    DiskRef {
        disk: DiskId(id),
        incarnation: Incarnation(1),
    }
}

/// A slot that lies on a disk.
pub(super) fn place(id: u32) -> SlotPlace {
    SlotPlace {
        disk: Some(at(id)),
        ..SlotPlace::default()
    }
}

/// Node n has disk n, in one site.
pub(super) fn site_of_four() -> View {
    let mut view = View::default();
    let site = Site {
        name: "a".to_owned(),
        presence: Presence::Up,
        takes_segments: true,
        role: SiteRole::Data,
    };
    view.sites.insert(SiteId(1), site);
    let address = "127.0.0.1:1".parse().expect("an address");
    for n in 1..=4_u16 {
        let node = Node {
            name: format!("a{n}"),
            site: SiteId(1),
            address,
            nbd: address,
            presence: Presence::Up,
            duty: Duty::Serve,
        };
        view.nodes.insert(NodeId(n), node);
        let disk = Disk {
            at: at(n.into()),
            node: NodeId(n),
            capacity_bytes: 1 << 30,
            presence: Presence::Up,
            duty: Duty::Serve,
            fault: None,
        };
        view.disks.insert(disk.at.disk, disk);
    }
    view
}
