use std::collections::BTreeMap;

use model::ids::{Boot, DiskId, DiskRef, Epoch, Incarnation, NodeId, SiteId, Version, VolumeId};
use model::journal::Checkpoint;
use model::placement::{
    Disk, Duty, JournalConfig, Node, Owner, Presence, Site, SiteRole, View, VolumeRecord,
};

use super::{Heard, disks, nodes, sites, volume};
use crate::admin::protocol::{Condition, VolumeState, VolumeStats};
use crate::daemon::peers::{DiskUse, Figures, ScrubFigures, VolumeFigures};

const VOLUME: VolumeId = VolumeId(7);
const OWNER: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

pub(in crate::daemon::admin) fn record() -> VolumeRecord {
    VolumeRecord {
        id: VOLUME,
        name: "vol".into(),
        size_bytes: 1 << 30,
        resized: Version(1),
        cut: None,
        code: "rs:4+2".parse().expect("a code"),
        home: SiteId(1),
        epoch: Epoch(3),
        owner: Some(Owner {
            node: OWNER,
            boot: Some(Boot(1)),
        }),
        journal: JournalConfig {
            version: Version(1),
            replicas: Vec::new(),
            next: None,
        },
        checkpoint: Checkpoint {
            mapped_blocks: 2,
            stored_bytes: 12_288,
            ..Checkpoint::EMPTY
        },
        clean: false,
        founded: Epoch(0),
        published: None,
        recovered: None,
        deleted: false,
    }
}

pub(in crate::daemon::admin) fn view() -> View {
    let mut view = View::default();
    let site = Site {
        name: "a".into(),
        presence: Presence::Up,
        takes_segments: true,
        role: SiteRole::Data,
    };
    view.sites.insert(SiteId(1), site);
    for (id, name) in [(OWNER, "a1"), (OTHER, "a2")] {
        let address = "127.0.0.1:1".parse().expect("an address");
        let node = Node {
            name: name.into(),
            site: SiteId(1),
            address,
            nbd: address,
            presence: Presence::Up,
            duty: Duty::Serve,
        };
        view.nodes.insert(id, node);
        let disk = DiskId(id.0.into());
        let at = DiskRef {
            disk,
            incarnation: Incarnation(1),
        };
        let of = Disk {
            at,
            node: id,
            capacity_bytes: 1 << 30,
            presence: Presence::Up,
            duty: Duty::Serve,
            fault: None,
        };
        view.disks.insert(disk, of);
    }
    view.volumes.insert(VOLUME, record());
    view
}

fn told(volume: Option<VolumeFigures>) -> Figures {
    let disk = DiskUse {
        name: "d1".into(),
        path: "/d/a1/disks/d1".into(),
        used_bytes: 500,
        scrub: ScrubFigures::default(),
    };
    Figures {
        volumes: volume.map(|v| (VOLUME, v)).into_iter().collect(),
        disks: BTreeMap::from([(DiskId(1), disk)]),
        cache_bytes: 64,
        ..Figures::default()
    }
}

fn from_owner(volume: Option<VolumeFigures>) -> Heard {
    Heard::of(BTreeMap::from([(OWNER, told(volume))]), vec![OTHER])
}

#[test]
fn a_serving_owners_figures_are_the_volumes() {
    let figures = VolumeFigures {
        serving: true,
        logical_bytes: 1,
        stored_bytes: 2,
        untrimmed_bytes: 3,
        sessions: 4,
        replicas: 3,
        replicas_current: 3,
        replicas_in_step: 3,
        replicas_lost: 0,
        at_risk_bytes: 0,
        rewriting: None,
        leads: true,
    };
    let shown = volume(&view(), &record(), &from_owner(Some(figures)));
    assert_eq!(shown.state, VolumeState::Serving);
    let expected = VolumeStats {
        logical_bytes: 1,
        stored_bytes: 2,
        untrimmed_bytes: 3,
        sessions: 4,
        replicas_current: Some(3),
    };
    assert_eq!((shown.stats, shown.stats_missing), (Some(expected), None));
}

#[test]
fn figures_that_nobody_told_are_missing_for_a_reason() {
    let silent = Heard::of(BTreeMap::new(), vec![OWNER]);
    let starting = from_owner(Some(VolumeFigures::default()));
    let recovering = from_owner(Some(VolumeFigures {
        replicas: 3,
        replicas_current: 1,
        replicas_lost: 2,
        ..VolumeFigures::default()
    }));
    let orphan = VolumeRecord {
        owner: None,
        ..record()
    };
    for (record, heard, state, why) in [
        (
            record(),
            &silent,
            VolumeState::Unknown,
            "a1 does not answer",
        ),
        (
            record(),
            &recovering,
            VolumeState::Starting,
            "1 of 3 journal replicas are sealed, 2 lost what they had, 2 are needed",
        ),
        (record(), &starting, VolumeState::Starting, "a1 is starting"),
        (
            record(),
            &from_owner(None),
            VolumeState::Starting,
            "not started",
        ),
        (orphan, &silent, VolumeState::Starting, "no owner yet"),
    ] {
        let shown = volume(&view(), &record, heard);
        assert_eq!((shown.state, shown.stats), (state, None), "{why}");
        let told = shown.stats_missing.expect("a reason");
        assert!(told.contains(why), "{told}");
    }
}

#[test]
fn an_idle_volumes_checkpoint_is_all_there_is() {
    let idle = VolumeRecord {
        owner: None,
        clean: true,
        founded: Epoch(0),
        ..record()
    };
    let shown = volume(&view(), &idle, &Heard::default());
    assert_eq!((shown.state, shown.owner), (VolumeState::Idle, None));
    let stats = shown.stats.expect("its checkpoint's");
    assert_eq!((stats.logical_bytes, stats.stored_bytes), (8192, 12_288));
}

#[test]
fn what_a_silent_node_alone_knows_is_unknown_and_never_zero() {
    let (view, heard) = (view(), from_owner(None));
    let nodes = nodes(&view, &heard);
    assert_eq!(nodes.unreachable, ["a2"]);
    let figures = |n: usize| {
        let node = &nodes.nodes[n];
        (node.condition, node.used_bytes, node.cache_bytes)
    };
    assert_eq!(figures(0), (Condition::Up, Some(500), Some(64)));
    assert_eq!(figures(1), (Condition::Suspect, None, None));

    let disks = disks(&view, &heard);
    assert_eq!(disks.unreachable, ["a2"]);
    let names: Vec<_> = disks.disks.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["a1/1", "a2/2"]);
    for name in ["a1/1", "a1/d1", "/d/a1/disks/d1"] {
        assert!(disks.disks[0].is_called(name), "{name}");
    }
    assert!(!disks.disks[0].is_called("a2/d1"));
    assert_eq!(disks.disks[0].used_bytes, Some(500));
    assert_eq!(
        (disks.disks[1].used_bytes, &disks.disks[1].path),
        (None, &None)
    );

    let of_site = |heard: &Heard| sites(&view, heard).sites.remove(0);
    let some = of_site(&heard);
    assert_eq!(
        (some.condition, some.used_bytes),
        (Condition::Up, Some(500))
    );
    let none = of_site(&Heard::of(BTreeMap::new(), vec![OWNER, OTHER]));
    assert_eq!(
        (none.condition, none.used_bytes),
        (Condition::Suspect, None)
    );
}
