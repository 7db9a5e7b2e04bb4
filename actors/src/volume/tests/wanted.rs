use model::geometry::Code;
use model::ids::{DiskId, Epoch, Incarnation, NodeId, Version};
use model::journal::Checkpoint;
use model::placement::{Disk, Duty, JournalConfig, Node, Site, SiteRole, VolumeRecord};
use proptest::prelude::{any, prop, proptest};

use super::*;

const VOLUME: VolumeId = VolumeId(9);
const NODES: u8 = 3;

/// Disk d of a site of three nodes with one disk each.
fn disk(site: u8, d: u8) -> DiskRef {
    DiskRef {
        disk: DiskId((site * NODES + d).into()),
        incarnation: Incarnation(1),
    }
}

fn view(sites: u8) -> View {
    let mut view = View::default();
    let address = "127.0.0.1:1".parse().expect("an address");
    for s in 0..sites {
        let site = Site {
            name: format!("s{s}"),
            presence: Presence::Up,
            takes_segments: true,
            role: SiteRole::Data,
        };
        view.sites.insert(SiteId(s), site);
        for d in 0..NODES {
            let node = NodeId((s * NODES + d).into());
            view.nodes.insert(
                node,
                Node {
                    name: format!("n{}", node.0),
                    site: SiteId(s),
                    address,
                    nbd: address,
                    presence: Presence::Up,
                    duty: Duty::Serve,
                },
            );
            view.disks.insert(
                disk(s, d).disk,
                Disk {
                    at: disk(s, d),
                    node,
                    capacity_bytes: 1 << 30,
                    presence: Presence::Up,
                    duty: Duty::Serve,
                    fault: None,
                },
            );
        }
    }
    let record = VolumeRecord {
        id: VOLUME,
        name: "v".to_owned(),
        size_bytes: 1 << 30,
        resized: Version(1),
        cut: None,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(0),
        epoch: Epoch(1),
        owner: None,
        journal: JournalConfig {
            version: Version(1),
            replicas: Vec::new(),
            next: None,
        },
        checkpoint: Checkpoint::EMPTY,
        clean: false,
        founded: Epoch(0),
        published: None,
        recovered: None,
        deleted: false,
    };
    view.volumes = [(VOLUME, record)].into();
    view
}

fn set_site(view: &mut View, site: u8, presence: Presence) {
    view.sites.get_mut(&SiteId(site)).expect("there").presence = presence;
    for (id, d) in &mut view.disks {
        if id.0 / u32::from(NODES) == u32::from(site) {
            d.presence = presence;
        }
    }
}

fn members() -> Vec<DiskRef> {
    vec![disk(0, 0), disk(1, 0), disk(2, 0)]
}

#[test]
fn a_set_that_serves_stays() {
    assert_eq!(wanted(&view(3), VOLUME, &members()), None);
    assert_eq!(wanted(&view(5), VOLUME, &members()), None);
}

#[test]
fn a_lost_disk_is_replaced_within_its_site() {
    let mut view = view(3);
    view.disks
        .get_mut(&disk(1, 0).disk)
        .expect("there")
        .presence = Presence::Down;
    let set = wanted(&view, VOLUME, &members()).expect("a better one");
    assert_eq!((set[0], set[2]), (disk(0, 0), disk(2, 0)));
    assert_ne!(set[1], disk(1, 0));
    assert_eq!(view.site_of(set[1].disk), Some(SiteId(1)));
    assert!(!is_urgent(&view, &members()));
    // Another life of the disk is another disk.
    let d = view.disks.get_mut(&disk(1, 0).disk).expect("there");
    (d.presence, d.at.incarnation) = (Presence::Up, Incarnation(2));
    assert!(wanted(&view, VOLUME, &members()).is_some());
}

/// R6: the set shrinks with a committed site loss, and grows when the site is back; with more
/// sites than replicas, another one takes its place.
#[test]
fn a_lost_site_has_no_replica() {
    let mut view = view(3);
    set_site(&mut view, 2, Presence::Down);
    assert!(is_urgent(&view, &members()));
    let two = wanted(&view, VOLUME, &members()).expect("a smaller one");
    assert_eq!(two, [disk(0, 0), disk(1, 0)]);
    assert_eq!(wanted(&view, VOLUME, &two), None);
    // One of the two dies: never one alone, but another of its site (R6).
    view.disks
        .get_mut(&disk(0, 0).disk)
        .expect("there")
        .presence = Presence::Down;
    assert!(is_urgent(&view, &two));
    let again = wanted(&view, VOLUME, &two).expect("another two");
    assert_eq!(again.len(), 2);
    assert_eq!(view.site_of(again[0].disk), Some(SiteId(0)));
    set_site(&mut view, 2, Presence::Up);
    assert_eq!(wanted(&view, VOLUME, &two).expect("three").len(), 3);

    let mut view = super::tests::view(5);
    set_site(&mut view, 2, Presence::Down);
    let three = wanted(&view, VOLUME, &members()).expect("another site");
    assert_eq!(three.len(), 3);
}

#[test]
fn one_replica_alone_is_never_wanted() {
    let mut view = view(3);
    set_site(&mut view, 1, Presence::Down);
    set_site(&mut view, 2, Presence::Down);
    assert_eq!(wanted(&view, VOLUME, &members()), None);
}

fn drain(view: &mut View, at: DiskRef) {
    view.disks.get_mut(&at.disk).expect("there").duty = Duty::Drain;
}

#[test]
fn a_drained_disk_is_left_and_not_chosen_unless_there_is_no_other() {
    let mut view = view(3);
    drain(&mut view, disk(1, 0));
    let set = wanted(&view, VOLUME, &members()).expect("a better one");
    assert_eq!((set[0], set[2]), (disk(0, 0), disk(2, 0)));
    assert_ne!(set[1], disk(1, 0));
    assert_eq!(view.site_of(set[1].disk), Some(SiteId(1)));
    assert!(!is_urgent(&view, &members()), "it serves");
    assert_eq!(wanted(&view, VOLUME, &set), None);
    // Where all of a site are drained, the replica stays; a lost one is replaced all the same.
    (0..NODES).for_each(|n| drain(&mut view, disk(1, n)));
    assert_eq!(wanted(&view, VOLUME, &members()), None);
    let lost = view.disks.get_mut(&disk(1, 0).disk).expect("there");
    lost.presence = Presence::Down;
    let set = wanted(&view, VOLUME, &members()).expect("a better one");
    assert_eq!(view.site_of(set[1].disk), Some(SiteId(1)));
}

/// What a view does not show yet is not lost.
#[test]
fn an_unknown_disk_is_waited_for_until_its_site_is_known() {
    let mut view = view(3);
    let unknown: Vec<DiskId> = (0..NODES).map(|d| disk(2, d).disk).collect();
    view.disks.retain(|id, _| !unknown.contains(id));
    assert_eq!(wanted(&view, VOLUME, &members()), None);
    // The site is away, and nobody is left who knows its disks.
    view.sites.get_mut(&SiteId(2)).expect("there").presence = Presence::Down;
    let two = wanted(&view, VOLUME, &members()).expect("a smaller one");
    assert_eq!(two, [disk(0, 0), disk(1, 0)]);
}

proptest! {
    /// Whatever is lost: a wanted set serves as a whole, has at most one replica a site (R6),
    /// two at least, and wants nothing better itself.
    #[test]
    fn wanted_sets_are_sound(
        sites in 3_u8..6,
        down_sites in prop::collection::vec(any::<bool>(), 5),
        down_disks in prop::collection::vec(any::<bool>(), 15),
    ) {
        let mut view = view(sites);
        for (i, down) in down_disks.iter().enumerate() {
            let id = DiskId(u32::try_from(i).expect("small"));
            if let Some(d) = view.disks.get_mut(&id).filter(|_| *down) {
                d.presence = Presence::Down;
            }
        }
        for s in 0..sites {
            if down_sites[usize::from(s)] {
                set_site(&mut view, s, Presence::Down);
            }
        }
        if let Some(set) = wanted(&view, VOLUME, &members()) {
            let of: BTreeSet<_> = set.iter().map(|at| view.site_of(at.disk)).collect();
            assert_eq!(of.len(), set.len());
            assert!((2..=3).contains(&set.len()));
            assert!(set.iter().all(|at| serves(&view, *at)));
            assert_eq!(wanted(&view, VOLUME, &set), None);
        }
    }
}
