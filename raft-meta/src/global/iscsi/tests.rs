//! What is a target, on which terms, and who may change what initiators set of it.

use model::geometry::Code;
use model::ids::{Boot, Epoch, NodeId, SiteId, Version, VolumeId};
use model::iscsi::{
    MAPPINGS_MAX, NAMES_MAX, Nexus, REGISTRATIONS_MAX, Registration, Secret, UnitState,
};
use model::journal::Checkpoint;
use model::meta::MetaRequest;
use model::placement::{Duty, JournalConfig, VolumeRecord};
use model::wire;

use super::GlobalState;
use crate::global::{GlobalCommand, NodeEntry};
use crate::node::{AdminCommand, AdminRefusal, AdminReply};
use crate::replica::StateMachine;

fn volume(id: VolumeId, name: String) -> VolumeRecord {
    VolumeRecord {
        id,
        name,
        size_bytes: 4096,
        resized: Version(1),
        cut: None,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(1),
        epoch: Epoch(0),
        owner: None,
        journal: JournalConfig {
            version: Version(1),
            replicas: Vec::new(),
            next: None,
        },
        checkpoint: Checkpoint::EMPTY,
        clean: true,
        founded: Epoch(0),
        published: None,
        recovered: None,
        deleted: false,
    }
}

/// A fabric with volumes of these names, numbered from 1 on.
fn fabric(names: &[&str]) -> GlobalState {
    let address = "10.0.0.1:7400".parse().expect("an address");
    let entry = NodeEntry {
        name: "a1".into(),
        site: SiteId(1),
        address,
        nbd: address,
        gone: false,
        duty: Duty::Serve,
    };
    let mut state = GlobalState::new(4, "a".into(), (NodeId(1), Boot(1)), entry);
    for (id, name) in (1..).map(VolumeId).zip(names) {
        assert!(state.volumes.add(volume(id, (*name).to_owned())));
    }
    state
}

const VOLUME: VolumeId = VolumeId(1);

fn map(state: &mut GlobalState, volume: VolumeId, initiators: &[&str]) -> AdminReply {
    state.apply_admin(AdminCommand::MapIscsi {
        volume,
        initiators: initiators.iter().map(|name| (*name).to_owned()).collect(),
        chap: None,
        mutual: None,
    })
}

fn version(state: &GlobalState) -> Version {
    state.iscsi[&VOLUME].version
}

fn registered(count: usize) -> UnitState {
    let registration = |n: usize| Registration {
        nexus: Nexus {
            initiator: format!("iqn.host{n},i,0x800000000001"),
            port: 1,
        },
        key: 1,
    };
    UnitState {
        registrations: (0..count).map(registration).collect(),
        ..UnitState::default()
    }
}

fn set(state: &mut GlobalState, expected: Version, next: UnitState) -> AdminReply {
    state.apply_admin(AdminCommand::SetUnitState {
        volume: VOLUME,
        expected,
        state: Box::new(next),
    })
}

#[test]
fn what_initiators_set_is_compared_and_set() {
    let mut state = fabric(&["v"]);
    assert_eq!(map(&mut state, VOLUME, &[]), AdminReply::Done);
    let first = version(&state);
    assert_eq!(set(&mut state, first, registered(1)), AdminReply::Done);
    let stale = AdminReply::Refused(AdminRefusal::Stale);
    assert_eq!(set(&mut state, first, registered(2)), stale);
    assert_eq!(state.iscsi[&VOLUME].state, registered(1));
    // Other terms leave it as it is.
    assert_eq!(map(&mut state, VOLUME, &["iqn.host"]), AdminReply::Done);
    assert_eq!(state.iscsi[&VOLUME].state, registered(1));
}

#[test]
fn a_mapping_that_is_made_anew_is_not_the_one_before() {
    let mut state = fabric(&["v"]);
    map(&mut state, VOLUME, &[]);
    let first = version(&state);
    let created = |state: &GlobalState| state.iscsi[&VOLUME].created;
    // On other terms it is the same one.
    map(&mut state, VOLUME, &["iqn.host"]);
    assert!(created(&state) == first && version(&state) > first);
    let unmap = AdminCommand::UnmapIscsi { volume: VOLUME };
    assert_eq!(state.apply_admin(unmap.clone()), AdminReply::Done);
    let not_mapped = AdminReply::Refused(AdminRefusal::NotMapped);
    assert_eq!(state.apply_admin(unmap), not_mapped);
    assert_eq!(set(&mut state, first, registered(1)), not_mapped);
    map(&mut state, VOLUME, &[]);
    assert!(created(&state) > first, "sessions of the one before end");
    let stale = AdminReply::Refused(AdminRefusal::Stale);
    assert_eq!(set(&mut state, first, registered(1)), stale);
}

#[test]
fn a_deleted_volume_is_no_target() {
    let mut state = fabric(&["v"]);
    map(&mut state, VOLUME, &[]);
    state.apply(GlobalCommand::Meta {
        by: NodeId(1),
        boot: Boot(1),
        request: MetaRequest::DeleteVolume { volume: VOLUME },
    });
    assert!(state.iscsi.is_empty());
    let no_volume = AdminReply::Refused(AdminRefusal::NoVolume);
    assert_eq!(map(&mut state, VOLUME, &[]), no_volume);
}

#[test]
fn names_and_secrets_are_what_iscsi_takes() {
    let mut state = fabric(&["v", "two words"]);
    let bad = AdminReply::Refused(AdminRefusal::BadIscsiName);
    assert_eq!(map(&mut state, VolumeId(2), &[]), bad);
    assert_eq!(map(&mut state, VOLUME, &["iqn.a,b"]), bad);
    assert_eq!(map(&mut state, VOLUME, &[""]), bad);
    let secret = |secret: &str| Secret {
        user: "host".into(),
        secret: secret.into(),
    };
    let mut with = |chap, mutual| {
        let initiators = Vec::new();
        state.apply_admin(AdminCommand::MapIscsi {
            volume: VOLUME,
            initiators,
            chap,
            mutual,
        })
    };
    assert_eq!(with(Some(secret("short")), None), bad);
    assert_eq!(with(None, Some(secret("long enough now"))), bad);
    assert_eq!(
        with(Some(secret("long enough now")), None),
        AdminReply::Done
    );
}

#[test]
fn everything_has_a_bound_and_what_fills_it_travels() {
    let names: Vec<String> = (0..=MAPPINGS_MAX).map(|n| format!("v{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut state = fabric(&names);
    let full = AdminReply::Refused(AdminRefusal::Full);
    for n in 1..=MAPPINGS_MAX {
        let id = VolumeId(u32::try_from(n).expect("few"));
        assert_eq!(map(&mut state, id, &["iqn.host"]), AdminReply::Done);
    }
    let last = VolumeId(u32::try_from(MAPPINGS_MAX).expect("few") + 1);
    assert_eq!(map(&mut state, last, &[]), full);
    let now = version(&state);
    assert_eq!(
        set(&mut state, now, registered(REGISTRATIONS_MAX + 1)),
        full
    );
    assert_eq!(
        set(&mut state, now, registered(REGISTRATIONS_MAX)),
        AdminReply::Done
    );
    let held = |state: &GlobalState| state.iscsi.values().map(|m| m.names()).sum::<usize>();
    for n in 2..=MAPPINGS_MAX {
        let volume = VolumeId(u32::try_from(n).expect("few"));
        let expected = state.iscsi[&volume].version;
        let before = held(&state);
        let reply = state.apply_admin(AdminCommand::SetUnitState {
            volume,
            expected,
            state: Box::new(registered(REGISTRATIONS_MAX)),
        });
        assert_eq!(reply == full, before + REGISTRATIONS_MAX > NAMES_MAX);
    }
    assert!(held(&state) <= NAMES_MAX);
    let bytes = wire::encode(&state);
    let read: GlobalState = wire::decode(&bytes).expect("it travels");
    assert_eq!(read, state);
}
