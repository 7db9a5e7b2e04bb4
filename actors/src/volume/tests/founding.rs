//! A clean volume starts wherever a journal can be (R3): nothing that its last one's disks have is
//! needed.

use std::time::Duration;

use model::ids::{DiskId, DiskRef, Incarnation, NodeId, SiteId};
use model::placement::{Disk, Duty, Presence};

use super::VolumeConfig;
use super::bench::{Bench, VOLUME, view};

/// A replica's disk was lost while nobody served the volume, then a site went away: of its journal's
/// old set one of three is left, which is no quorum to change it with.
#[test]
fn a_disk_and_then_a_site_are_lost_while_nobody_serves_it() {
    let mut view = view();
    let spare = DiskRef {
        disk: DiskId(10),
        incarnation: Incarnation(1),
    };
    let disk = Disk {
        at: spare,
        node: NodeId(1),
        capacity_bytes: 1 << 30,
        presence: Presence::Up,
        duty: Duty::Serve,
        fault: None,
    };
    view.disks.insert(spare.disk, disk);
    view.sites.get_mut(&SiteId(3)).expect("a site").presence = Presence::Down;
    view.nodes.get_mut(&NodeId(3)).expect("a node").presence = Presence::Down;
    for lost in [1, 3] {
        view.disks.get_mut(&DiskId(lost)).expect("a disk").presence = Presence::Down;
    }
    let old = view.volumes[&VOLUME].journal.clone();
    let mut b = Bench::starting(VolumeConfig::default(), view);
    b.silent.extend([DiskId(1), DiskId(3)]);
    b.pass(Duration::from_secs(2));
    assert!(b.volume.stats().serving);
    let now = &b.view.volumes[&VOLUME].journal;
    assert_eq!(now.replicas, [spare, old.replicas[1]]);
    assert!(now.version > old.version);
}
