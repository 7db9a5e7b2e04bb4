use model::cut::Cut;
use model::geometry::{Code, Pool};
use model::ids::{
    Actor, Boot, ClientId, DiskId, DiskRef, Endpoint, Incarnation, Position, RequestId, SegmentId,
    SiteId, Version,
};
use model::journal::{Checkpoint, PagePtr};
use model::placement::{
    Disk, Duty, JournalConfig, Node, Owner, Recovered, RecoveredFrom, Site, SiteRole,
};
use model::time::WallTime;

use super::*;

const SITES: [SiteId; 3] = [SiteId(1), SiteId(2), SiteId(3)];

fn root() -> PagePtr {
    let segment = SegmentId {
        volume: VolumeId(0),
        epoch: Epoch(1),
        counter: 1,
    };
    let pool = Pool::of(Code::INDEX);
    PagePtr {
        segment,
        pool,
        segment_bytes: 4096,
        offset: 0,
        length: 4096,
        sum: 0,
    }
}

/// Two nodes a site, a disk each; volumes that ended cleanly, at home in the first site.
fn view(volumes: u32) -> View {
    let mut view = View {
        version: Version(1),
        ..View::default()
    };
    let address = "127.0.0.1:1".parse().expect("an address");
    for site in SITES {
        let name = site.to_string();
        let presence = Presence::Up;
        view.sites.insert(
            site,
            Site {
                name,
                presence,
                takes_segments: true,
                role: SiteRole::Data,
            },
        );
        for n in [0, 1] {
            let id = NodeId(u16::from(site.0) * 10 + n);
            let node = Node {
                name: id.to_string(),
                site,
                address,
                nbd: address,
                presence,
                duty: Duty::Serve,
            };
            view.nodes.insert(id, node);
            let at = disk(id);
            let disk = Disk {
                at,
                node: id,
                capacity_bytes: 1 << 30,
                presence,
                duty: Duty::Serve,
                fault: None,
            };
            view.disks.insert(at.disk, disk);
        }
    }
    for id in (0..volumes).map(VolumeId) {
        view.volumes.insert(id, record(id));
    }
    view
}

fn disk(node: NodeId) -> DiskRef {
    DiskRef {
        disk: DiskId(node.0.into()),
        incarnation: Incarnation(1),
    }
}

fn record(id: VolumeId) -> VolumeRecord {
    VolumeRecord {
        id,
        name: id.to_string(),
        size_bytes: 1 << 30,
        resized: Version(0),
        cut: None,
        code: Code::Rs { k: 4, m: 2 },
        home: SITES[0],
        epoch: Epoch(3),
        owner: None,
        journal: JournalConfig {
            version: Version(1),
            replicas: SITES.map(|s| disk(NodeId(u16::from(s.0) * 10))).to_vec(),
            next: None,
        },
        checkpoint: Checkpoint {
            covers: Position::ZERO,
            root: Some(root()),
            ..Checkpoint::EMPTY
        },
        clean: true,
        founded: Epoch(1),
        published: None,
        recovered: None,
        deleted: false,
    }
}

/// What each node starts when it learns this view, and in the two seconds after that.
fn started(view: &View) -> BTreeMap<NodeId, Vec<VolumeId>> {
    let view = Arc::new(view.clone());
    let mut all = BTreeMap::new();
    for node in view.nodes.keys() {
        let mut host = Host::new(*node, Arc::new(View::default()));
        let (mut now, mut start) = (Time::ZERO, Vec::new());
        host.view(now, Arc::clone(&view), &mut start);
        assert!(start.len() <= 1, "one after the other");
        while let Some(due) = host.next_deadline().filter(|due| due.0 < 2_000_000_000) {
            now = now.max(due);
            host.due(now, &mut start);
        }
        if !start.is_empty() {
            all.insert(*node, start);
        }
    }
    all
}

#[test]
fn idle_volumes_sleep_while_nothing_is_wrong() {
    assert_eq!(started(&view(5)), BTreeMap::new());
}

#[test]
fn a_lost_site_wakes_each_volume_once_at_home() {
    let mut view = view(8);
    view.sites.get_mut(&SITES[2]).expect("it is there").presence = Presence::Down;
    // One without data needs nobody, one was given to somebody, one is gone.
    view.volumes.get_mut(&VolumeId(0)).expect("it").checkpoint = Checkpoint::EMPTY;
    given(&mut view, VolumeId(1), NodeId(99));
    view.volumes.get_mut(&VolumeId(2)).expect("it").deleted = true;
    let woken = started(&view);
    let nodes: Vec<NodeId> = woken.keys().copied().collect();
    assert_eq!(nodes, [NodeId(10), NodeId(11)], "of its home site, both");
    let mut all: Vec<VolumeId> = woken.into_values().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, [3, 4, 5, 6, 7].map(VolumeId));
}

fn given(view: &mut View, volume: VolumeId, node: NodeId) {
    let record = view.volumes.get_mut(&volume).expect("it is there");
    record.owner = Some(Owner { node, boot: None });
}

/// Nobody else may claim it, and that it was moved protects none of its bytes.
#[test]
fn who_was_given_a_volume_wakes_it() {
    let mut view = view(3);
    view.sites.get_mut(&SITES[2]).expect("it is there").presence = Presence::Down;
    for volume in [0, 1, 2].map(VolumeId) {
        given(&mut view, volume, NodeId(21));
    }
    let woken = started(&view);
    assert_eq!(
        woken,
        BTreeMap::from([(NodeId(21), vec![VolumeId(0), VolumeId(1), VolumeId(2)])])
    );
}

#[test]
fn with_its_home_away_a_volume_is_woken_elsewhere() {
    let mut view = view(4);
    view.sites.get_mut(&SITES[0]).expect("it is there").presence = Presence::Down;
    for (_, node) in view.nodes.iter_mut().filter(|(_, n)| n.site == SITES[0]) {
        node.presence = Presence::Down;
    }
    let woken: usize = started(&view).values().map(Vec::len).sum();
    assert_eq!(woken, 4);
}

#[test]
fn a_recovery_without_an_owner_is_founded_by_itself() {
    let mut view = view(5);
    let record = view.volumes.get_mut(&VolumeId(3)).expect("it is there");
    record.recovered = Some(Recovered {
        epoch: record.epoch,
        from: RecoveredFrom::Checkpoint,
        covered: Position::ZERO,
        at: WallTime(0),
        pending: true,
    });
    let all: Vec<VolumeId> = started(&view).into_values().flatten().collect();
    assert_eq!(all, [VolumeId(3)]);
}

#[test]
fn what_was_cut_off_is_freed_though_nobody_attaches() {
    let mut view = view(5);
    let cut = Cut {
        from: 4096,
        to: 8192,
    };
    for volume in [2, 3].map(VolumeId) {
        view.volumes.get_mut(&volume).expect("it is there").cut = Some(cut);
    }
    // Nothing is in it.
    view.volumes.get_mut(&VolumeId(2)).expect("it").checkpoint = Checkpoint::EMPTY;
    let all: Vec<VolumeId> = started(&view).into_values().flatten().collect();
    assert_eq!(all, [VolumeId(3)]);
}

#[test]
fn a_drained_disk_wakes_those_whose_journal_is_there() {
    let mut view = view(2);
    let drained = NodeId(20);
    let disk = view.disks.get_mut(&disk(drained).disk).expect("a disk");
    disk.duty = Duty::Drain;
    let elsewhere = view.volumes.get_mut(&VolumeId(1)).expect("it");
    elsewhere.journal.replicas.remove(1);
    let woken: Vec<VolumeId> = started(&view).into_values().flatten().collect();
    assert_eq!(woken, [VolumeId(0)]);
}

/// Who asks a node for a volume is told `NotOwner` where it is another node's, or nobody's; a
/// volume without an owner is started by whom a client asks.
#[test]
fn a_client_is_served_or_told_that_nobody_serves_it_here() {
    let mut view = view(2);
    view.volumes.get_mut(&VolumeId(1)).expect("it").owner = Some(Owner {
        node: NodeId(11),
        boot: None,
    });
    let mut host = Host::new(NodeId(10), Arc::new(view));
    let client = Endpoint {
        node: NodeId(20),
        actor: Actor::Client(ClientId(7)),
    };
    let mut route = |volume| {
        let to = Endpoint {
            node: NodeId(10),
            actor: Actor::Volume(volume),
        };
        let question = VolumeRequest::Open {
            volume,
            boot: Boot(1),
        };
        let asked = Asked {
            from: client,
            to,
            id: RequestId(5),
            question,
        };
        let refused = |epoch| {
            let answer = Message::VolumeReply(VolumeReply::NotOwner { epoch });
            Route::Elsewhere(Box::new(Envelope::new(to, client, RequestId(5), answer)))
        };
        let route = host.route(Time::ZERO, volume, &asked);
        (route, refused(Epoch(3)), refused(Epoch(0)))
    };
    assert_eq!(route(VolumeId(0)).0, Route::Start);
    assert_eq!(route(VolumeId(0)).0, Route::Running, "it was started");
    let (elsewhere, refused, _) = route(VolumeId(1));
    assert_eq!(elsewhere, refused, "another node's");
    let (unknown, _, refused) = route(VolumeId(9));
    assert_eq!(unknown, refused, "nobody's");
}
