use std::collections::BTreeMap;

use model::geometry::{Code, Pool};
use model::ids::{Boot, DiskId, DiskRef, Epoch, Incarnation, NodeId, SiteId, Version, VolumeId};
use model::placement::{
    Disk, DiskFault, Duty, JournalConfig, Node, Owner, Presence, Site, SiteRole, SlotPlace,
    SpreadTable, View, VolumeRecord,
};
use raft_meta::GroupId;
use raft_meta::message::{MemberId, Members};

use super::status;
use crate::admin::protocol::{RepairKind, Status, UpOf};
use crate::daemon::admin::show::Heard;
use crate::daemon::peers::VolumeFigures;

/// Three sites of two nodes of one disk: node n of site s has id 10 s + n, and so has its disk.
pub(in crate::daemon::admin) fn view() -> View {
    let mut view = View::default();
    let at = |disk| DiskRef {
        disk: DiskId(disk),
        incarnation: Incarnation(1),
    };
    for (site, name) in [(1_u8, "a"), (2, "b"), (3, "c")] {
        let of = Site {
            name: name.into(),
            presence: Presence::Up,
            takes_segments: true,
            role: SiteRole::Data,
        };
        view.sites.insert(SiteId(site), of);
        for n in 1..=2_u16 {
            let id = u16::from(site) * 10 + n;
            let address = "127.0.0.1:1".parse().expect("an address");
            let node = Node {
                name: format!("{name}{n}"),
                site: SiteId(site),
                address,
                nbd: address,
                presence: Presence::Up,
                duty: Duty::Serve,
            };
            view.nodes.insert(NodeId(id), node);
            add_disk(&mut view, id.into(), id);
        }
    }
    let pool = Pool::of("rs:4+2".parse::<Code>().expect("a code"));
    let places = [11, 12, 21, 22, 31, 32].map(|disk| SlotPlace {
        disk: Some(at(disk)),
        ..SlotPlace::default()
    });
    let table = SpreadTable {
        rows: 1,
        places: places.to_vec(),
        slots: 6,
    };
    view.pools.insert(pool, table);
    let record = VolumeRecord {
        id: VolumeId(1),
        name: "vol".into(),
        size_bytes: 1 << 30,
        resized: Version(1),
        cut: None,
        code: pool.code,
        home: SiteId(1),
        epoch: Epoch(1),
        owner: Some(Owner {
            node: NodeId(11),
            boot: Some(Boot(1)),
        }),
        journal: JournalConfig {
            version: Version(1),
            replicas: [11, 21, 31].map(at).to_vec(),
            next: None,
        },
        checkpoint: model::journal::Checkpoint::EMPTY,
        clean: false,
        founded: Epoch(0),
        published: None,
        recovered: None,
        deleted: false,
    };
    view.volumes.insert(record.id, record);
    view
}

fn add_disk(view: &mut View, id: u32, node: u16) {
    let disk = Disk {
        at: DiskRef {
            disk: DiskId(id),
            incarnation: Incarnation(1),
        },
        node: NodeId(node),
        capacity_bytes: 1 << 30,
        presence: Presence::Up,
        duty: Duty::Serve,
        fault: None,
    };
    view.disks.insert(DiskId(id), disk);
}

/// As if all but these answered.
fn heard(view: &View, silent: &[u16]) -> Heard {
    let silent: Vec<NodeId> = silent.iter().map(|id| NodeId(*id)).collect();
    let members = view.nodes.keys().copied();
    let (silent, told): (Vec<NodeId>, Vec<NodeId>) = members.partition(|id| silent.contains(id));
    let figures: BTreeMap<_, _> = told
        .into_iter()
        .map(|id| (id, Default::default()))
        .collect();
    Heard::of(figures, silent)
}

fn whats(status: &Status) -> Vec<&str> {
    status.degraded.iter().map(|d| d.what.as_str()).collect()
}

fn set(view: &mut View, node: u16, presence: Presence) {
    let of = view.nodes.get_mut(&NodeId(node)).expect("a node");
    of.presence = presence;
    for disk in view.disks.values_mut().filter(|d| d.node == NodeId(node)) {
        disk.presence = presence;
    }
}

#[test]
fn nothing_is_degraded_when_all_is_well() {
    let view = view();
    let status = status(&view, &heard(&view, &[]), &BTreeMap::new(), "a1");
    assert!(status.healthy && status.degraded.is_empty());
    assert_eq!(status.nodes, UpOf { up: 6, of: 6 });
}

#[test]
fn a_group_that_hangs_on_one_site_or_node_is_told() {
    let mut view = view();
    let of = |nodes: &[u16]| {
        let member = |node: &u16| MemberId::new(NodeId(*node), Incarnation(1));
        Members::of_voters(nodes.iter().map(member).collect())
    };
    let told = |view: &View, global: &[u16], site: &[u16]| {
        let groups = [
            (GroupId::Global, of(global)),
            (GroupId::Site(SiteId(1)), of(site)),
        ];
        let status = status(view, &heard(view, &[]), &BTreeMap::from(groups), "a1");
        whats(&status).join(", ")
    };
    assert_eq!(
        told(&view, &[11, 21, 31], &[11]),
        "",
        "two nodes a site: one votes"
    );
    assert_eq!(told(&view, &[11], &[11]), "global placement group");
    assert_eq!(told(&view, &[11, 12, 21], &[11]), "global placement group");
    // No votes are given where there is nobody to take them.
    for node in [21, 22] {
        view.nodes.get_mut(&NodeId(node)).expect("there").duty = Duty::Drain;
    }
    assert_eq!(told(&view, &[11], &[11]), "");
}

/// It is as it was made, and still it is said: a site with one node, and another one whose row is
/// on a single disk.
#[test]
fn fragments_that_share_a_node_or_a_disk_are_noted() {
    let mut view = view();
    assert_eq!(
        status(&view, &heard(&view, &[]), &BTreeMap::new(), "a1").notes,
        [""; 0]
    );
    view.disks.get_mut(&DiskId(12)).expect("a disk").node = NodeId(11);
    let pool = *view.pools.keys().next().expect("a pool");
    let table = view.pools.get_mut(&pool).expect("it is there");
    table.places[5] = table.places[4];
    let status = status(&view, &heard(&view, &[]), &BTreeMap::new(), "a1");
    assert!(status.healthy);
    let [a, c] = &status.notes[..] else {
        panic!("of two sites: {:?}", status.notes)
    };
    assert!(
        a.contains("site a: in 1 of 1 rows of rs:4+2") && a.contains("on one node"),
        "{a}"
    );
    assert!(
        c.contains("site c: in 1 of 1") && c.contains("on one disk"),
        "{c}"
    );
}

#[test]
fn a_node_that_is_down_says_what_counts_on_it() {
    let mut view = view();
    set(&mut view, 21, Presence::Down);
    let status = status(&view, &heard(&view, &[21]), &BTreeMap::new(), "a1");
    assert_eq!(whats(&status), ["node b1"]);
    let doing = &status.degraded[0].doing;
    assert!(
        doing.contains("1 slot of spreads and 1 journal count"),
        "{doing}"
    );
    assert_eq!(status.nodes, UpOf { up: 5, of: 6 });
    assert_eq!(status.disks, UpOf { up: 5, of: 6 });
}

/// Until others have its slots and journals, they are short of one.
#[test]
fn a_disk_that_is_gone_is_told_while_something_counts_on_it() {
    let mut view = view();
    view.disks.get_mut(&DiskId(21)).expect("there").presence = Presence::Gone;
    let told = |view: &View| status(view, &heard(view, &[]), &BTreeMap::new(), "a1");
    let now = told(&view);
    assert_eq!(whats(&now), ["disk b1/21"]);
    assert!(
        now.degraded[0]
            .doing
            .contains("1 slot of spreads and 1 journal"),
        "{:?}",
        now.degraded
    );
    for table in view.pools.values_mut() {
        let other = table
            .places
            .iter()
            .find_map(|p| p.disk.filter(|at| at.disk == DiskId(22)));
        for place in &mut table.places {
            if place.disk.is_some_and(|at| at.disk == DiskId(21)) {
                place.disk = other;
            }
        }
    }
    assert_eq!(whats(&told(&view)), ["disk b1/21"]);
    let ids: Vec<_> = view.volumes.keys().copied().collect();
    for id in ids {
        let volume = view.volumes.get_mut(&id).expect("just listed");
        volume.journal.replicas.retain(|at| at.disk != DiskId(21));
    }
    assert_eq!(whats(&told(&view)), [""; 0]);
}

#[test]
fn a_site_that_is_down_is_one_entry() {
    let mut view = view();
    for node in [31, 32] {
        set(&mut view, node, Presence::Down);
    }
    view.sites.get_mut(&SiteId(3)).expect("c").presence = Presence::Down;
    let status = status(&view, &heard(&view, &[31, 32]), &BTreeMap::new(), "a1");
    assert_eq!(whats(&status), ["site c"]);
}

#[test]
fn who_is_silent_is_named_before_anything_is_decided() {
    let view = view();
    let one = status(&view, &heard(&view, &[21]), &BTreeMap::new(), "a1");
    assert_eq!(whats(&one), ["node b1"]);
    assert!(one.degraded[0].why.contains("nothing is decided yet"));
    assert!(!one.healthy);
    let site = status(&view, &heard(&view, &[21, 22]), &BTreeMap::new(), "a1");
    assert_eq!(whats(&site), ["site b"]);
    // The node that answers is cut off: its view says that all are up.
    let cut = status(
        &view,
        &heard(&view, &[21, 22, 31, 32]),
        &BTreeMap::new(),
        "a1",
    );
    assert_eq!(whats(&cut), ["fabric", "site b", "site c"]);
    assert_eq!(cut.sites, UpOf { up: 1, of: 3 });
}

#[test]
fn a_volume_says_what_its_journal_lacks() {
    let view = view();
    let with = |figures: VolumeFigures, silent: &[u16]| {
        let mut told = heard(&view, silent);
        let of_owner = told.figures.get_mut(&NodeId(11)).expect("it answers");
        of_owner.volumes.insert(VolumeId(1), figures);
        status(&view, &told, &BTreeMap::new(), "a1")
    };
    let serving = VolumeFigures {
        serving: true,
        replicas: 3,
        replicas_current: 2,
        replicas_in_step: 2,
        ..VolumeFigures::default()
    };
    let refilled = with(serving, &[]);
    assert_eq!(whats(&refilled), ["volume vol"]);
    assert!(refilled.degraded[0].why.contains("2 of its 3"));
    // A replica whose node is silent is no news beside the node's.
    assert_eq!(whats(&with(serving, &[21])), ["node b1"]);
    let recovering = VolumeFigures {
        replicas: 3,
        replicas_current: 1,
        ..VolumeFigures::default()
    };
    let waits = with(recovering, &[]);
    assert_eq!(whats(&waits), ["volume vol"]);
    assert!(waits.degraded[0].why.contains("2 are needed"));
}

#[test]
fn a_lost_disk_is_trouble_until_nothing_counts_on_it_and_noted_then() {
    let mut view = view();
    let lost = DiskId(32);
    view.disks.get_mut(&lost).expect("a disk").presence = Presence::Down;
    let why = |view: &View| status(view, &heard(view, &[]), &BTreeMap::new(), "a1");
    let alone = why(&view);
    assert_eq!(whats(&alone), ["disk c2/32"]);
    assert!(alone.degraded[0].doing.contains("empty directory"));

    add_disk(&mut view, 40, 32);
    let replaced = why(&view);
    assert_eq!(whats(&replaced), ["disk c2/32"], "a slot counts on it");
    assert!(
        replaced.degraded[0]
            .doing
            .contains("disk c2/40 took its place")
    );

    let new = view.disks[&DiskId(40)].at;
    for table in view.pools.values_mut() {
        for place in &mut table.places {
            if place.disk.is_some_and(|at| at.disk == lost) {
                place.to = Some(new);
            }
        }
    }
    let moving = why(&view);
    assert_eq!(whats(&moving), ["disk c2/32", "move off disk c2/32"]);
    assert!(moving.degraded[1].doing.contains("rebuilt on c2/40"));

    for table in view.pools.values_mut() {
        for place in &mut table.places {
            place.disk = place.to.take().or(place.disk);
        }
    }
    let healed = why(&view);
    assert!(healed.healthy, "{:?}", healed.degraded);
    assert_eq!(healed.disks, UpOf { up: 6, of: 6 });
    let [note] = &healed.notes[..] else {
        panic!("one disk is not served: {:?}", healed.notes)
    };
    assert!(note.contains("disk c2/32 is not served"), "{note}");
    // Without another one in its place, it is counted.
    view.disks.remove(&DiskId(40));
    for table in view.pools.values_mut() {
        table.places.retain(|place| place.disk != Some(new));
    }
    let left = why(&view);
    assert!(left.healthy, "{:?}", left.degraded);
    assert_eq!(left.disks, UpOf { up: 5, of: 6 });
    // A set of replicas that is being changed to counts too.
    let volume = view.volumes.get_mut(&VolumeId(1)).expect("a volume");
    volume.journal.next = Some(vec![view.disks[&lost].at]);
    assert_eq!(whats(&why(&view))[0], "disk c2/32");
}

/// Why a slot leaves a disk that serves is told by what else its row has there; nothing is
/// degraded by it.
#[test]
fn what_is_moved_off_a_disk_that_serves_says_why() {
    let mut view = view();
    add_disk(&mut view, 13, 11);
    let new = view.disks[&DiskId(13)].at;
    let told = |view: &View| {
        let status = status(view, &heard(view, &[]), &BTreeMap::new(), "a1");
        assert!(status.healthy && status.at_risk_bytes == Some(0));
        let repairs = status.repairs.into_iter();
        repairs.map(|r| (r.kind, r.what)).collect::<Vec<_>>()
    };
    let slot = |view: &mut View, slot: usize, disk: Option<DiskRef>, to| {
        let table = view.pools.values_mut().next().expect("a pool");
        let place = &mut table.places[slot];
        (place.disk, place.to) = (disk.or(place.disk), to);
    };
    slot(&mut view, 0, None, Some(new));
    let what = "rebalancing disk a1/11".to_owned();
    assert_eq!(told(&view), [(RepairKind::Rebalance, what)]);
    // Two of a row on one node, of which one goes.
    slot(&mut view, 0, None, None);
    let other = view.disks[&DiskId(12)].at;
    slot(&mut view, 1, Some(new), Some(other));
    let what = "spreading what disk a1/13 holds".to_owned();
    assert_eq!(told(&view), [(RepairKind::Spread, what)]);
    let disk = view.disks.get_mut(&DiskId(13)).expect("a disk");
    disk.duty = Duty::Drain;
    let what = "draining disk a1/13".to_owned();
    assert_eq!(told(&view), [(RepairKind::Drain, what)]);
}

#[test]
fn a_disk_that_is_emptied_for_what_was_found_is_told_until_it_is_gone() {
    let mut view = view();
    add_disk(&mut view, 13, 11);
    let told = |view: &View| {
        let mut degraded = Vec::new();
        super::faulty(view, &mut degraded);
        degraded
    };
    assert!(told(&view).is_empty());
    let disk = view.disks.get_mut(&DiskId(13)).expect("a disk");
    disk.fault = Some(DiskFault::Slow);
    let [is] = &told(&view)[..] else {
        panic!("one disk is slow");
    };
    assert_eq!(is.what, "disk a1/13");
    assert!(
        is.why.contains("slow") && is.doing.contains("atoll disk remove a1/13"),
        "{is:?}"
    );
    let disk = view.disks.get_mut(&DiskId(13)).expect("a disk");
    disk.presence = Presence::Gone;
    assert!(told(&view).is_empty());
}
