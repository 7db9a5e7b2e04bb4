//! Properties of the state machines: no command panics, the rules hold whatever is asked, and
//! a restored copy goes on like the original.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use model::cut::Cut;
use model::geometry::{Code, Pool};
use model::ids::{
    Boot, DiskId, DiskRef, Epoch, Incarnation, NodeId, Position, Row, Seq, SiteId, Slot, Version,
    VolumeId,
};
use model::iscsi::{Nexus, Registration, UnitState};
use model::journal::Checkpoint;
use model::meta::{MetaReply, MetaRequest, Refusal};
use model::placement::{Duty, Presence, RecoveredFrom, VolumeRecord};
use model::spread::SlotMove;
use model::time::WallTime;
use model::wire;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{
    BoxedStrategy, Just, ProptestConfig, Strategy, TestCaseError, any, prop_assert, prop_assert_eq,
    prop_assert_ne, prop_oneof, proptest,
};
use raft_meta::global::{GlobalCommand, GlobalReply, GlobalState, NodeEntry};
use raft_meta::message::{EntryBody, LogEntry, LogIndex, MemberId, Members, ProposerId, Term};
use raft_meta::node::{AdminCommand, AdminRefusal, AdminReply};
use raft_meta::replica::{Outcome, Proposal, Replica, StateMachine, Verdict};
use raft_meta::site::{MoveBegin, SiteCommand, SiteReply, SiteState};

fn address() -> SocketAddr {
    "10.0.0.1:7400".parse().expect("an address")
}

fn disk() -> impl Strategy<Value = DiskRef> {
    // Disk n has incarnation n; now and then one from another life.
    (0u32..12, 0u64..12, any::<bool>()).prop_map(|(disk, other, right)| {
        let incarnation = Incarnation(if right { u64::from(disk) } else { other });
        DiskRef {
            disk: DiskId(disk),
            incarnation,
        }
    })
}

fn code() -> impl Strategy<Value = Code> {
    prop_oneof![
        3 => Just(Code::Rs { k: 4, m: 2 }),
        1 => Just(Code::Geo { k: 2, m: 1, sites: 3 }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(k, m)| Code::Rs { k, m }),
        1 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(k, m, sites)| Code::Geo { k, m, sites }),
    ]
}

fn request() -> BoxedStrategy<MetaRequest> {
    let volume = || (0u32..5).prop_map(VolumeId);
    let epoch = || (0u64..6).prop_map(Epoch);
    let version = || (0u64..4).prop_map(Version);
    let node = || (0u16..8).prop_map(NodeId);
    let site = || (0u8..5).prop_map(SiteId);
    prop_oneof![
        (volume(), epoch(), node(), option::of(vec(disk(), 0..4))).prop_map(
            |(volume, expected, node, found_on)| MetaRequest::Claim {
                volume,
                expected,
                node,
                found_on,
            }
        ),
        volume().prop_map(|volume| MetaRequest::ReadVolume { volume }),
        (volume(), epoch(), 0u64..9, any::<bool>()).prop_map(|(volume, epoch, seq, clean)| {
            let covers = Position {
                epoch: Epoch(1),
                seq: Seq(seq),
            };
            let checkpoint = Checkpoint {
                covers,
                ..Checkpoint::EMPTY
            };
            MetaRequest::Publish {
                volume,
                epoch,
                checkpoint,
                clean,
                at: WallTime(seq),
            }
        }),
        (volume(), epoch(), version(), vec(disk(), 0..5)).prop_map(
            |(volume, epoch, version, replicas)| {
                MetaRequest::BeginJournalChange {
                    volume,
                    epoch,
                    version,
                    replicas,
                }
            }
        ),
        (volume(), epoch(), version(), any::<bool>()).prop_map(
            |(volume, epoch, version, adopt)| {
                MetaRequest::EndJournalChange {
                    volume,
                    epoch,
                    version,
                    adopt,
                }
            }
        ),
        ("[a-c@]{0,2}", 0u64..3, code(), site(), vec(disk(), 0..5)).prop_map(
            |(name, blocks, code, home, journal)| {
                MetaRequest::CreateVolume {
                    name,
                    size_bytes: blocks * 4096,
                    code,
                    home,
                    journal,
                }
            }
        ),
        (1u8..4, "[a-d]", code()).prop_map(|(home, name, code)| {
            // One that is likely accepted: disk 1, 2, 3 are in site 1, 2, 3.
            let order = (0..3).map(|i| u32::from((home - 1 + i) % 3) + 1);
            let at = |d: u32| DiskRef {
                disk: DiskId(d),
                incarnation: Incarnation(u64::from(d)),
            };
            let journal = order.map(at).collect();
            MetaRequest::CreateVolume {
                name,
                size_bytes: 4096,
                code,
                home: SiteId(home),
                journal,
            }
        }),
        (volume(), 1u64..5, 0u64..4).prop_map(|(volume, expected, blocks)| {
            MetaRequest::ResizeVolume {
                volume,
                expected: Version(expected),
                size_bytes: blocks * 4096,
            }
        }),
        (
            (volume(), epoch(), version()),
            (option::of(disk()), 0u64..9),
            (vec(disk(), 0..4), option::of(node()))
        )
            .prop_map(
                |((volume, expected, version), (from, seq), (replicas, to))| {
                    let covered = Position {
                        epoch: Epoch(1),
                        seq: Seq(seq),
                    };
                    MetaRequest::RecoverVolume {
                        volume,
                        expected,
                        version,
                        from: from.map_or(RecoveredFrom::Checkpoint, RecoveredFrom::Replica),
                        covered,
                        replicas,
                        to,
                        at: WallTime(seq),
                    }
                }
            ),
        (volume(), epoch(), 1u64..5).prop_map(|(volume, epoch, resized)| MetaRequest::EndCut {
            volume,
            epoch,
            resized: Version(resized),
        }),
        volume().prop_map(|volume| MetaRequest::DeleteVolume { volume }),
        (volume(), epoch(), node()).prop_map(|(volume, expected, to)| MetaRequest::MoveVolume {
            volume,
            expected,
            to
        }),
    ]
    .boxed()
}

fn duty() -> BoxedStrategy<Duty> {
    prop_oneof![Just(Duty::Serve), Just(Duty::Drain)].boxed()
}

fn admin() -> BoxedStrategy<AdminCommand> {
    let node = || (0u16..8).prop_map(NodeId);
    let site = || (0u8..5).prop_map(SiteId);
    prop_oneof![
        "[a-e]{0,2}".prop_map(|name| AdminCommand::AddSite { name }),
        (site(), "[a-e]{0,2}").prop_map(|(site, name)| AdminCommand::AddNode {
            site,
            name,
            address: address(),
            nbd: address()
        }),
        (node(), 0u64..9).prop_map(|(node, i)| AdminCommand::AddDisk {
            node,
            incarnation: Incarnation(i)
        }),
        any::<u8>().prop_map(|b| AdminCommand::AddToken { hash: [b % 4; 32] }),
        any::<u8>().prop_map(|b| AdminCommand::UseToken { hash: [b % 4; 32] }),
        code().prop_map(|code| AdminCommand::CreatePool { code }),
        node().prop_map(|node| AdminCommand::RemoveNode { node }),
        site().prop_map(|site| AdminCommand::RemoveSite { site }),
        ((1u32..9).prop_map(DiskId), duty())
            .prop_map(|(disk, duty)| AdminCommand::SetDiskDuty { disk, duty }),
        (node(), duty()).prop_map(|(node, duty)| AdminCommand::SetNodeDuty { node, duty }),
        ((1u32..9).prop_map(DiskId), any::<bool>())
            .prop_map(|(disk, lost)| AdminCommand::RemoveDisk { disk, lost }),
        iscsi(),
    ]
    .boxed()
}

fn iscsi() -> BoxedStrategy<AdminCommand> {
    let volume = || (0u32..5).prop_map(VolumeId);
    let names = || vec("[a-c,]{0,2}", 0..3);
    let state = |(names, port): (Vec<String>, u16)| UnitState {
        registrations: names
            .into_iter()
            .map(|initiator| Registration {
                nexus: Nexus { initiator, port },
                key: 1,
            })
            .collect(),
        ..UnitState::default()
    };
    prop_oneof![
        (volume(), names()).prop_map(|(volume, initiators)| AdminCommand::MapIscsi {
            volume,
            initiators,
            chap: None,
            mutual: None,
        }),
        volume().prop_map(|volume| AdminCommand::UnmapIscsi { volume }),
        (volume(), 0u64..6, names(), any::<u16>()).prop_map(
            move |(volume, expected, names, port)| AdminCommand::SetUnitState {
                volume,
                expected: Version(expected),
                state: Box::new(state((names, port))),
            }
        ),
    ]
    .boxed()
}

fn global_command() -> BoxedStrategy<GlobalCommand> {
    let node = || (0u16..8).prop_map(NodeId);
    let site = || (0u8..5).prop_map(SiteId);
    prop_oneof![
        12 => (node(), 0u64..3, request()).prop_map(|(by, boot, request)| GlobalCommand::Meta { by, boot: Boot(boot), request }),
        2 => admin().prop_map(GlobalCommand::Admin),
        1 => (site(), node(), 0u64..3).prop_map(|(site, node, boot)| {
            let founding = Boot(boot);
            GlobalCommand::FoundSite { site, node, founding }
        }),
        1 => (site(), vec(node(), 0..3)).prop_map(|(site, nodes)| GlobalCommand::SetSiteContacts { site, nodes }),
        2 => (node(), 0u64..3, vec(node(), 0..5)).prop_map(|(node, boot, candidates)| GlobalCommand::FailNode { node, boot: Boot(boot), candidates }),
        1 => (site(), vec(node(), 0..5)).prop_map(|(site, candidates)| GlobalCommand::FailSite { site, candidates }),
        1 => site().prop_map(|site| GlobalCommand::ReturnSite { site }),
        1 => (site(), vec(node(), 0..5)).prop_map(|(site, live)| GlobalCommand::AddPoolWithout { site, live }),
        1 => (node(), vec(node(), 0..5)).prop_map(|(node, candidates)| GlobalCommand::Evacuate { node, candidates }),
        2 => (site(), vec(node(), 0..5)).prop_map(|(site, live)| GlobalCommand::LeaveUnwritable { site, live }),
        1 => site().prop_map(|site| GlobalCommand::TakeWritable { site }),
        1 => Just(GlobalCommand::Respread),
    ]
    .boxed()
}

/// Three settled sites, nodes 1 to 3 and one disk each.
/// A node whose first answer was lost asks again: it has one disk, not two.
#[test]
fn a_disk_is_added_once() {
    let mut state = fabric();
    let mut add = |node: u16, incarnation: u64| {
        let command = AdminCommand::AddDisk {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
        };
        match state.apply(GlobalCommand::Admin(command)) {
            GlobalReply::Admin(AdminReply::Disk(at)) => at,
            other => panic!("a disk, not {other:?}"),
        }
    };
    let first = add(1, 70);
    assert_eq!(add(1, 70), first);
    assert!(add(1, 71) != first && add(2, 70) != first);
    assert_eq!(state.disks.len(), 6);
}

fn fabric() -> GlobalState {
    let entry = |site: u8| {
        let name = format!("n{site}");
        NodeEntry {
            name,
            site: SiteId(site),
            address: address(),
            nbd: address(),
            gone: false,
            duty: Duty::Serve,
        }
    };
    let mut state = GlobalState::new(8, "one".to_owned(), (NodeId(1), Boot(1)), entry(1));
    for site in 2..=3u8 {
        let name = format!("s{site}");
        state.apply(GlobalCommand::Admin(AdminCommand::AddSite { name }));
        let NodeEntry {
            name,
            site: id,
            address,
            nbd,
            ..
        } = entry(site);
        state.apply(GlobalCommand::Admin(AdminCommand::AddNode {
            site: id,
            name,
            address,
            nbd,
        }));
        let nodes = vec![NodeId(u16::from(site))];
        state.apply(GlobalCommand::SetSiteContacts { site: id, nodes });
    }
    for disk in 1..=3u16 {
        let incarnation = Incarnation(u64::from(disk));
        state.apply(GlobalCommand::Admin(AdminCommand::AddDisk {
            node: NodeId(disk),
            incarnation,
        }));
    }
    state
}

fn check_step(
    before: &GlobalState,
    after: &GlobalState,
) -> Result<(), proptest::test_runner::TestCaseError> {
    for (id, old) in before.volumes.iter() {
        let Some(new) = after.volumes.get(id) else {
            prop_assert!(false, "a record vanished");
            continue;
        };
        prop_assert!(new.epoch >= old.epoch, "an epoch only grows");
        if new.owner != old.owner && new.owner.is_some() {
            prop_assert!(new.epoch > old.epoch, "R1: another owner is another epoch");
        }
        let is_recovered = new.epoch.generation() > old.epoch.generation();
        if new.clean && !old.clean && !is_recovered {
            prop_assert!(new.epoch == old.epoch && new.owner.is_none(), "R3");
        }
        let adopts = old.journal.next.as_ref() == Some(&new.journal.replicas);
        let founds = old.clean && new.epoch > old.epoch && old.to_salvage().is_none();
        prop_assert!(
            new.journal.replicas == old.journal.replicas || adopts || founds || is_recovered,
            "R5: only a settled change replaces what may have the only copies"
        );
        if is_recovered {
            prop_assert!(new.is_to_found(), "R11: what was before counts no more");
        }
        if let Some((only, _)) = new.to_salvage() {
            let is_there = new.journal.replicas.contains(&only) && new.journal.next.is_none();
            prop_assert!(is_there, "R11: the only copy stays");
        }
        prop_assert!(new.deleted || !old.deleted, "R16: a tombstone stays");
        prop_assert!(new.journal.version >= old.journal.version);
        prop_assert!(new.checkpoint.covers >= old.checkpoint.covers);
        prop_assert_eq!(new.code, old.code);
        check_size(old, new)?;
    }
    for (pool, old) in &before.pools {
        let same = after.pools.get(pool).is_some_and(|new| new == old);
        prop_assert!(
            same || before.volumes.is_empty(),
            "R23: a table stays as it is"
        );
    }
    for (volume, new) in after.iscsi.iter() {
        prop_assert!(!after.volumes[volume].deleted, "what is gone is no target");
        let old = before.iscsi.get(volume);
        let highest = before.iscsi.values().map(|m| m.version).max();
        prop_assert!(
            old == Some(new) || highest.is_none_or(|highest| new.version > highest),
            "what is changed has a version of its own"
        );
    }
    for (id, site) in &before.sites {
        let now = after.sites[id].presence;
        prop_assert!(site.presence != Presence::Gone || now == Presence::Gone);
    }
    Ok(())
}

/// What was cut off stays so until the owner of this epoch says otherwise, and meanwhile an owned
/// volume does not grow.
fn check_size(old: &VolumeRecord, new: &VolumeRecord) -> Result<(), TestCaseError> {
    let same = (new.size_bytes, new.cut) == (old.size_bytes, old.cut);
    prop_assert_eq!(new.resized.0, old.resized.0 + u64::from(!same));
    match (old.cut, new.cut) {
        (_, None) if new.size_bytes < old.size_bytes => prop_assert!(false, "nothing is cut"),
        (Some(_), None) => {
            let claimed = old.owner.is_some_and(|o| o.boot.is_some());
            prop_assert!(claimed && new.size_bytes == old.size_bytes);
        }
        (Some(was), Some(is)) => {
            prop_assert!(is.from <= was.from && is.to >= was.to);
            prop_assert!(new.size_bytes <= old.size_bytes || new.owner.is_none());
        }
        (None, Some(is)) => prop_assert_eq!((is.from, is.to), (new.size_bytes, old.size_bytes)),
        (None, None) => {}
    }
    prop_assert!(new.served_bytes() <= new.size_bytes);
    Ok(())
}

fn check_state(state: &GlobalState) -> Result<(), proptest::test_runner::TestCaseError> {
    // What follows from the records is not in a snapshot: who reads one knows it all the same.
    let read: GlobalState = wire::decode(&wire::encode(state)).expect("its own bytes");
    prop_assert_eq!(&read, state);
    let mut names = BTreeSet::new();
    for volume in state.volumes.values() {
        prop_assert!(
            volume.deleted || names.insert(volume.name.clone()),
            "names are unique"
        );
        for set in volume.journal.next.iter().chain([&volume.journal.replicas]) {
            // R6, by the entries as they were made: nodes may have been removed since.
            let site = |at: &DiskRef| state.nodes[&state.disks[&at.disk].node].site;
            let sites: BTreeSet<_> = set.iter().map(site).collect();
            prop_assert!(!set.is_empty() && sites.len() == set.len());
        }
    }
    let settled = state.settled_sites();
    let is_up = |s: &SiteId| state.sites[s].presence == Presence::Up;
    prop_assert!(
        state.unwritable.is_none() || settled.iter().all(is_up),
        "R27: never without two sites"
    );
    for (pool, entry) in &state.pools {
        prop_assert_eq!(
            entry.sites.len(),
            usize::from(entry.rows) * usize::from(entry.slots)
        );
        prop_assert!(
            pool.without.is_none_or(|away| !entry.sites.contains(&away)),
            "R26"
        );
    }
    Ok(())
}

fn slots() -> impl Strategy<Value = Vec<Vec<Slot>>> {
    vec(vec((0u8..70).prop_map(Slot), 0..4), 0..6)
}

fn site_command() -> BoxedStrategy<SiteCommand> {
    let node = || (0u16..5).prop_map(NodeId);
    let presence = || {
        prop_oneof![
            Just(Presence::Up),
            Just(Presence::Down),
            Just(Presence::Gone)
        ]
    };
    let pool = |k: u8| Pool::of(Code::Rs { k, m: 2 });
    let begin = || {
        let of = (1u8..4, 0u16..6, 0u8..70, 0u64..4, disk());
        of.prop_map(move |(k, row, slot, version, to)| MoveBegin {
            pool: pool(k),
            row: Row(row),
            slot: Slot(slot),
            version: Version(version),
            to,
        })
    };
    prop_oneof![
        (node(), 0u64..3).prop_map(|(node, boot)| SiteCommand::RegisterNode {
            node,
            boot: Boot(boot),
            member: MemberId::new(node, Incarnation(1)),
            name: "n".to_owned(),
            address: address(),
            nbd: address(),
        }),
        (node(), presence(), 0u64..3, presence()).prop_map(|(node, expected, boot, to)| {
            SiteCommand::SetNodePresence {
                node,
                expected,
                boot: Boot(boot),
                to,
            }
        }),
        (disk(), node(), 0u64..1 << 45).prop_map(|(at, node, capacity_bytes)| {
            SiteCommand::RegisterDisk {
                at,
                node,
                capacity_bytes,
            }
        }),
        (disk(), presence(), presence())
            .prop_map(|(at, expected, to)| SiteCommand::SetDiskPresence { at, expected, to }),
        (1u8..4, slots()).prop_map(move |(k, rows)| SiteCommand::AssignPool {
            pool: pool(k),
            rows
        }),
        begin().prop_map(|begin| SiteCommand::BeginMoves(vec![begin])),
        (1u8..4, 0u16..6, 0u8..70, 0u64..4, disk()).prop_map(move |(k, row, slot, version, to)| {
            SiteCommand::EndMoves(vec![SlotMove {
                pool: pool(k),
                row: Row(row),
                slot: Slot(slot),
                version: Version(version),
                to,
            }])
        }),
        begin().prop_map(|begin| SiteCommand::Rebalance(vec![begin])),
        (disk(), duty()).prop_map(|(at, duty)| SiteCommand::SetDiskDuty { at, duty }),
        (disk(), any::<bool>()).prop_map(|(at, lost)| SiteCommand::RemoveDisk { at, lost }),
    ]
    .boxed()
}

/// R20: a slot changes its disk by the end of a move alone, to that move's target, and its
/// version by each beginning.
fn check_moves(
    before: &SiteState,
    after: &SiteState,
    command: &SiteCommand,
) -> Result<(), TestCaseError> {
    if let SiteCommand::RemoveDisk { at, lost: false } = command
        && before != after
    {
        let mut slots = after.slots.values().flatten().flat_map(BTreeMap::values);
        prop_assert!(!slots.any(|slot| slot.disk == *at || slot.to == Some(*at)));
    }
    for (pool, old) in &before.slots {
        for (row, slots) in (0..).map(Row).zip(old) {
            for (slot, was) in slots {
                let Some(is) = after.slot(*pool, row, *slot) else {
                    let assigned = matches!(command, SiteCommand::AssignPool { .. });
                    prop_assert!(assigned);
                    continue;
                };
                if is.disk != was.disk {
                    prop_assert!(matches!(command, SiteCommand::EndMoves(_)));
                    prop_assert_eq!((Some(is.disk), is.to), (was.to, None));
                }
                let begun = is.to != was.to && is.to.is_some();
                prop_assert_eq!(is.version.0, was.version.0 + u64::from(begun));
                if begun {
                    let begins = matches!(
                        command,
                        SiteCommand::BeginMoves(_) | SiteCommand::Rebalance(_)
                    );
                    prop_assert!(begins);
                    prop_assert_ne!(is.target(), was.target());
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn global_rules_hold(commands in vec(global_command(), 0..120), cut in 0usize..120) {
        let mut state = fabric();
        prop_assert_eq!(state.settled_sites().len(), 3);
        let mut copy: Option<GlobalState> = None;
        for (i, command) in commands.into_iter().enumerate() {
            if i == cut {
                copy = Some(wire::decode(&wire::encode(&state)).expect("its own bytes"));
            }
            let before = state.clone();
            let reply = state.apply(command.clone());
            if let Some(copy) = &mut copy {
                prop_assert_eq!(copy.apply(command), reply);
            }
            check_step(&before, &state)?;
            check_state(&state)?;
        }
        if let Some(copy) = copy {
            prop_assert_eq!(copy, state);
        }
    }

    #[test]
    fn site_rules_hold(commands in vec(site_command(), 0..120)) {
        let mut state = SiteState::new(SiteId(1), 0);
        for command in commands {
            let before = state.clone();
            let reply = state.apply(command.clone());
            if reply == SiteReply::Refused {
                prop_assert_eq!(&state, &before, "refused means unchanged");
            }
            if let (SiteCommand::AssignPool { pool, rows }, SiteReply::Done) = (&command, reply) {
                prop_assert!(state.has_assigned(*pool, rows));
                let had = before.slots.get(pool).cloned().unwrap_or_default();
                for (old, new) in had.iter().zip(&state.slots[pool]) {
                    for (slot, at) in new {
                        prop_assert!(old.get(slot).is_none_or(|o| o == at), "a slot keeps its disk");
                    }
                }
            }
            check_moves(&before, &state, &command)?;
        }
    }

    #[test]
    fn numbered_commands_apply_once(
        asks in vec((0u64..3, 0u64..12, 0u64..12), 0..80),
    ) {
        // Three nodes with a session each; every proposal adds a token, which works once: a
        // second application would be refused.
        let members = Members::of_voters(vec![MemberId(1)]);
        let mut replica = Replica::founded(Boot(1), members, fabric());
        let mut index = 1;
        let mut entry = |proposal: &Proposal| {
            index += 1;
            let body = EntryBody::Proposal(wire::encode(proposal));
            LogEntry { index: LogIndex(index), term: Term(1), body }
        };
        for node in 0..3 {
            replica.apply(&entry(&Proposal::Open { node: NodeId(node), boot: Boot(9) }));
        }
        let mut answers: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        let mut lows = [0; 3];
        for (who, number, low) in asks {
            let mut hash = [0; 32];
            hash[..2].copy_from_slice(&[u8::try_from(who).expect("small"), u8::try_from(number).expect("small")]);
            let command = wire::encode(&GlobalCommand::Admin(AdminCommand::AddToken { hash }));
            let proposer = ProposerId(LogIndex(who + 2));
            let outcome = replica.apply(&entry(&Proposal::Numbered { proposer, number, low, command }));
            let Outcome::Numbered { verdict, .. } = outcome else { panic!("numbered") };
            let mark = &mut lows[usize::try_from(who).expect("small")];
            if low <= number {
                *mark = (*mark).max(low);
            }
            match verdict {
                Verdict::Applied(reply) => {
                    prop_assert!(low <= number && number >= *mark);
                    let first = answers.entry((who, number)).or_insert_with(|| reply.clone());
                    prop_assert_eq!(&*first, &reply, "the same answer whenever it is asked");
                }
                Verdict::Superseded => prop_assert!(low > number || number < *mark),
                Verdict::NoSession => prop_assert!(false, "sessions are open"),
            }
            let copy = Replica::<GlobalState>::restore(&replica.snapshot()).expect("its own");
            prop_assert_eq!(copy.state(), replica.state());
        }
    }
}

/// What a node numbered in an earlier life is never applied again, though its answers are gone.
#[test]
fn a_session_ends_with_the_next_life_of_its_node() {
    let members = Members::of_voters(vec![MemberId(1)]);
    let mut replica = Replica::founded(Boot(1), members, fabric());
    let mut apply = |proposal: &Proposal| {
        let entry = LogEntry {
            index: LogIndex(replica.applied.0 + 1),
            term: Term(1),
            body: EntryBody::Proposal(wire::encode(proposal)),
        };
        let outcome = replica.apply(&entry);
        (
            outcome,
            replica.state().clone(),
            replica.snapshot().state.len(),
        )
    };
    let node = NodeId(1);
    let open = |boot: u64| Proposal::Open {
        node,
        boot: Boot(boot),
    };
    let opened = |outcome: Outcome| match outcome {
        Outcome::Opened { proposer, .. } => proposer,
        other => panic!("{other:?}"),
    };
    let numbered = |proposer: ProposerId, number: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        let command = wire::encode(&GlobalCommand::Admin(AdminCommand::AddToken { hash }));
        let low = 0;
        Proposal::Numbered {
            proposer,
            number,
            low,
            command,
        }
    };
    let verdict = |outcome: Outcome| match outcome {
        Outcome::Numbered { verdict, .. } => verdict,
        other => panic!("{other:?}"),
    };
    let first = opened(apply(&open(1)).0);
    for number in 0..30 {
        let (outcome, ..) = apply(&numbered(first, number));
        assert!(matches!(verdict(outcome), Verdict::Applied(_)));
    }
    assert_eq!(opened(apply(&open(1)).0), first, "the same life");
    let (_, state, held) = apply(&numbered(first, 7));
    let (outcome, _, left) = apply(&open(2));
    let second = opened(outcome);
    assert!(second != first && left < held, "{left} of {held} bytes");
    for number in [7, 99] {
        let (outcome, now, _) = apply(&numbered(first, number));
        assert_eq!(verdict(outcome), Verdict::NoSession);
        assert!(now == state, "{number} was applied again");
    }
    // An entry of the earlier life that comes last: the living one goes on in a session anew.
    opened(apply(&open(1)).0);
    assert_eq!(verdict(apply(&numbered(second, 1)).0), Verdict::NoSession);
    let third = opened(apply(&open(2)).0);
    assert!(third != second);
    let (outcome, ..) = apply(&numbered(third, 100));
    assert!(matches!(verdict(outcome), Verdict::Applied(_)));
}

fn disk_at(id: u32) -> DiskRef {
    DiskRef {
        disk: DiskId(id),
        incarnation: Incarnation(u64::from(id)),
    }
}

/// The operator has disk 1 removed: never before it was drained, nor while a journal names it;
/// and no journal takes it any more after that.
#[test]
fn a_disk_is_removed_once_it_is_drained_and_no_journal_names_it() {
    let mut state = fabric();
    let admin = |state: &mut GlobalState, command| state.apply(GlobalCommand::Admin(command));
    let refused = |why| GlobalReply::Admin(AdminReply::Refused(why));
    let done = GlobalReply::Admin(AdminReply::Done);
    let (disk, node) = (DiskId(1), NodeId(1));
    let remove = |lost| AdminCommand::RemoveDisk { disk, lost };
    let duty = |duty| AdminCommand::SetDiskDuty { disk, duty };
    let create = |name: &str| GlobalCommand::Meta {
        by: node,
        boot: Boot(1),
        request: MetaRequest::CreateVolume {
            name: name.to_owned(),
            size_bytes: 4096,
            code: Code::Rs { k: 4, m: 2 },
            home: SiteId(1),
            journal: (1..=3).map(disk_at).collect(),
        },
    };
    state.apply(create("vol"));
    assert_eq!(state.volumes.len(), 1);
    assert_eq!(
        admin(&mut state, remove(false)),
        refused(AdminRefusal::NotDrained)
    );
    assert_eq!(admin(&mut state, duty(Duty::Drain)), done);
    assert_eq!(
        admin(&mut state, remove(false)),
        refused(AdminRefusal::HoldsJournals)
    );
    assert_eq!(admin(&mut state, duty(Duty::Serve)), done);
    // A drained node's disks are drained with it, whatever was said of them.
    let of_node = AdminCommand::SetNodeDuty {
        node,
        duty: Duty::Drain,
    };
    assert_eq!(admin(&mut state, of_node), done);
    assert_eq!(state.duty_of_disk(&state.disks[&disk]), Duty::Drain);
    let volume = VolumeId(1);
    state.apply(GlobalCommand::Meta {
        by: node,
        boot: Boot(1),
        request: MetaRequest::DeleteVolume { volume },
    });
    assert_eq!(admin(&mut state, remove(false)), done);
    assert_eq!(
        admin(&mut state, duty(Duty::Serve)),
        refused(AdminRefusal::NoDisk)
    );
    state.apply(create("other"));
    assert!(
        state.volumes.values().all(|v| v.deleted),
        "no journal takes it"
    );
}

/// A drained node's volumes get other owners by a new epoch; a node that is not drained keeps
/// its own.
#[test]
fn a_drained_nodes_volumes_go_to_others() {
    let mut state = fabric();
    let node = NodeId(1);
    let meta = |request| GlobalCommand::Meta {
        by: node,
        boot: Boot(1),
        request,
    };
    state.apply(meta(MetaRequest::CreateVolume {
        name: "vol".to_owned(),
        size_bytes: 4096,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(1),
        journal: (1..=3).map(disk_at).collect(),
    }));
    let volume = VolumeId(1);
    let expected = Epoch(0);
    state.apply(meta(MetaRequest::Claim {
        volume,
        expected,
        node,
        found_on: None,
    }));
    let owner = |state: &GlobalState| state.volumes[&volume].owner.map(|o| o.node);
    assert_eq!(owner(&state), Some(node));
    let candidates = vec![NodeId(1), NodeId(2)];
    let evacuate = GlobalCommand::Evacuate { node, candidates };
    assert_eq!(state.apply(evacuate.clone()), GlobalReply::Done(false));
    assert_eq!(owner(&state), Some(node));
    let duty = Duty::Drain;
    let drain = AdminCommand::SetNodeDuty { node, duty };
    state.apply(GlobalCommand::Admin(drain));
    assert_eq!(state.apply(evacuate), GlobalReply::Done(true));
    assert_eq!(owner(&state), Some(NodeId(2)));
    assert!(
        state.volumes[&volume].epoch > Epoch(1),
        "the old one is fenced"
    );
}

/// A volume is made smaller and larger: with an owner it grows once that has ended the cut, and
/// a word that comes late, the operator's or the owner's, changes nothing.
#[test]
fn what_is_cut_off_is_ended_by_the_owner_before_the_volume_grows() {
    let mut state = fabric();
    let node = NodeId(1);
    let volume = VolumeId(1);
    let mut meta = |request| {
        let by = node;
        let boot = Boot(1);
        match state.apply(GlobalCommand::Meta { by, boot, request }) {
            GlobalReply::Meta(MetaReply::Volume(Some(record))) => Ok(record),
            GlobalReply::Meta(MetaReply::Refused { reason, .. }) => Err(reason),
            other => panic!("{other:?}"),
        }
    };
    let size = |expected: u64, blocks: u64| MetaRequest::ResizeVolume {
        volume,
        expected: Version(expected),
        size_bytes: blocks * 4096,
    };
    let end = |resized: u64| MetaRequest::EndCut {
        volume,
        epoch: Epoch(1),
        resized: Version(resized),
    };
    let cut = |from: u64, to: u64| {
        let (from, to) = (from * 4096, to * 4096);
        Some(Cut { from, to })
    };
    meta(MetaRequest::CreateVolume {
        name: "vol".to_owned(),
        size_bytes: 9 * 4096,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(1),
        journal: (1..=3).map(disk_at).collect(),
    })
    .expect("it is sound");
    // Nobody serves it: it may grow, and whoever comes knows what is to be cut.
    assert_eq!(meta(size(1, 5)).expect("smaller").cut, cut(5, 9));
    assert_eq!(meta(size(1, 9)), Err(Refusal::StaleVersion));
    let grown = meta(size(2, 8)).expect("larger");
    assert_eq!((grown.cut, grown.served_bytes()), (cut(5, 9), 5 * 4096));
    meta(MetaRequest::Claim {
        volume,
        expected: Epoch(0),
        node,
        found_on: None,
    })
    .expect("nobody owns it");
    assert_eq!(meta(size(3, 9)), Err(Refusal::CutPending));
    assert_eq!(meta(size(3, 4)).expect("smaller yet").cut, cut(4, 9));
    // It ended a cut that is not all of it any more.
    assert_eq!(meta(end(3)), Err(Refusal::StaleVersion));
    let ended = meta(end(4)).expect("that is all");
    assert_eq!((ended.cut, ended.size_bytes), (None, 4 * 4096));
    assert_eq!(meta(end(4)), Err(Refusal::StaleVersion));
    assert_eq!(meta(size(5, 9)).expect("larger").cut, None);
}

/// Names that would forge lines of a terminal or a log, and sizes that NBD's clients can't count.
#[test]
fn a_volume_that_no_client_could_use_is_refused() {
    let mut state = fabric();
    let mut meta = |request| {
        let (by, boot) = (NodeId(1), Boot(1));
        match state.apply(GlobalCommand::Meta { by, boot, request }) {
            GlobalReply::Meta(MetaReply::Volume(Some(record))) => Ok(record),
            GlobalReply::Meta(MetaReply::Refused { reason, .. }) => Err(reason),
            other => panic!("{other:?}"),
        }
    };
    let create = |name: &str, size_bytes| MetaRequest::CreateVolume {
        name: name.to_owned(),
        size_bytes,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(1),
        journal: (1..=3).map(disk_at).collect(),
    };
    let most = (1 << 63) - 4096;
    for name in ["", "a/b", "a@b", "a\nb", "\u{1b}[2J", "a\u{7f}", "a\u{9b}b"] {
        assert_eq!(meta(create(name, 4096)), Err(Refusal::BadName), "{name:?}");
    }
    for size in [0, 4095, 1 << 63, most + 1, u64::MAX - 4095] {
        assert_eq!(meta(create("vol", size)), Err(Refusal::BadSize), "{size}");
    }
    let record = meta(create("däta 1", most)).expect("the largest one");
    let resize = |size_bytes| MetaRequest::ResizeVolume {
        volume: record.id,
        expected: record.resized,
        size_bytes,
    };
    assert_eq!(meta(resize(1 << 63)), Err(Refusal::BadSize));
    assert_eq!(meta(resize(4096)).map(|r| r.size_bytes), Ok(4096));
}
