use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use model::geometry::Code;
use model::ids::{Boot, DiskId, Epoch, Incarnation, Seq, SiteId, Version, VolumeId};
use model::journal::{Checkpoint, SealReport};
use model::placement::{Disk, Node, Owner, Recovered, Site, SiteRole};
use model::time::{Time, WallTime};

use super::*;
use crate::messages::{DiskReply, DiskRequest};
use crate::volume::journal::{Recovery, RecoveryStep, RequestIds};

const VOLUME: VolumeId = VolumeId(1);

fn disk(n: u32) -> DiskRef {
    DiskRef {
        disk: DiskId(n),
        incarnation: Incarnation(u64::from(n)),
    }
}

fn at(epoch: u64, seq: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
    }
}

fn holds(epoch: u64, seq: u64) -> Heard {
    Heard::Holds {
        last: at(epoch, seq),
        idle: None,
    }
}

/// Three sites with two nodes of one disk each; disk n is node n's, of site n / 2.
fn view() -> View {
    let mut view = View::default();
    let address = "127.0.0.1:1".parse().expect("an address");
    for n in 0..6_u8 {
        let site = SiteId(n / 2);
        let name = n.to_string();
        view.sites.entry(site).or_insert(Site {
            name: name.clone(),
            presence: Presence::Up,
            takes_segments: true,
            role: SiteRole::Data,
        });
        let node = Node {
            name,
            site,
            address,
            nbd: address,
            presence: Presence::Up,
            duty: Duty::Serve,
        };
        view.nodes.insert(NodeId(n.into()), node);
        let one = Disk {
            at: disk(n.into()),
            node: NodeId(n.into()),
            capacity_bytes: 1 << 30,
            presence: Presence::Up,
            duty: Duty::Serve,
            fault: None,
        };
        view.disks.insert(one.at.disk, one);
    }
    view
}

/// With replicas on disks 0, 2 and 4, published up to e2.s10, founded in e2.
fn record() -> VolumeRecord {
    VolumeRecord {
        id: VOLUME,
        name: "v".to_owned(),
        size_bytes: 1 << 20,
        resized: Version(1),
        cut: None,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(0),
        epoch: Epoch(3),
        owner: None,
        journal: JournalConfig {
            version: Version(1),
            replicas: [0, 2, 4].map(disk).to_vec(),
            next: None,
        },
        checkpoint: Checkpoint {
            covers: at(2, 10),
            ..Checkpoint::EMPTY
        },
        clean: false,
        founded: Epoch(2),
        published: None,
        recovered: None,
        deleted: false,
    }
}

fn judged(record: &VolumeRecord, heard: [Heard; 3]) -> Verdict {
    let heard: BTreeMap<_, _> = [0, 2, 4].map(disk).into_iter().zip(heard).collect();
    judge(&Situation {
        view: &view(),
        record,
        heard: &heard,
        silent: &BTreeSet::new(),
        leads: false,
    })
}

fn offer(verdict: Verdict) -> Offer {
    match verdict {
        Verdict::Offer(offer) => offer,
        other => panic!("no offer: {other:?}"),
    }
}

#[test]
fn a_majority_needs_nothing() {
    let (r, lost) = (record(), Heard::Gone);
    assert_eq!(
        judged(&r, [holds(2, 20), holds(2, 19), lost]),
        Verdict::NotNeeded
    );
    assert_eq!(
        judged(&r, [holds(2, 20), Heard::Damaged, holds(2, 3)]),
        Verdict::NotNeeded
    );
    // A set of two: the one that is left has all that was acknowledged (R6).
    let mut two = record();
    two.journal.replicas.pop();
    assert_eq!(judged(&two, [holds(2, 20), lost, lost]), Verdict::NotNeeded);
}

#[test]
fn who_may_come_back_is_waited_for() {
    let r = record();
    let verdict = judged(&r, [holds(2, 20), Heard::Silent, Heard::Gone]);
    assert_eq!(verdict, Verdict::Wait(vec![disk(2)]));
    // It may hold more than the checkpoint, even alone.
    let verdict = judged(&r, [Heard::Gone, Heard::Silent, Heard::Gone]);
    assert_eq!(verdict, Verdict::Wait(vec![disk(2)]));
    let leads = Situation {
        view: &view(),
        record: &r,
        heard: &BTreeMap::new(),
        silent: &BTreeSet::new(),
        leads: true,
    };
    assert_eq!(judge(&leads), Verdict::NotNeeded);
}

#[test]
fn the_longest_log_that_counts_is_offered() {
    let r = record();
    let found = offer(judged(&r, [Heard::Gone, holds(2, 20), Heard::Gone]));
    assert_eq!(
        (found.from, found.covered),
        (RecoveredFrom::Replica(disk(2)), at(2, 20))
    );
    assert!(found.replicas.contains(&disk(2)) && found.replicas.len() == 3);
    // Lost disks are not chosen again, though the placement has not found that out yet.
    assert!(!found.replicas.contains(&disk(0)) && !found.replicas.contains(&disk(4)));
    assert!(found.to.is_some() && !found.clean);
    // A damaged replica's disk is as good as any other.
    let found = offer(judged(&r, [Heard::Damaged, holds(2, 20), Heard::Missing]));
    assert_eq!(found.from, RecoveredFrom::Replica(disk(2)));
}

#[test]
fn what_is_older_than_the_checkpoint_is_not() {
    let r = record();
    for old in [holds(2, 9), holds(1, 90), Heard::Damaged, Heard::Gone] {
        let found = offer(judged(&r, [Heard::Gone, old, Heard::Gone]));
        assert_eq!(
            (found.from, found.covered),
            (RecoveredFrom::Checkpoint, at(2, 10))
        );
        assert_eq!((found.to, found.replicas.len()), (None, 3));
    }
}

#[test]
fn of_a_clean_volume_nothing_is_lost() {
    let mut r = record();
    r.clean = true;
    // Any disks that serve will do.
    let verdict = judged(&r, [Heard::Missing, Heard::Damaged, Heard::Gone]);
    assert_eq!(verdict, Verdict::NotNeeded);
    let found = offer(judged(&r, [Heard::Gone, holds(2, 30), Heard::Gone]));
    assert_eq!(found.from, RecoveredFrom::Checkpoint);
    assert!(found.clean);
}

#[test]
fn a_recovery_under_way_needs_its_only_copy() {
    let mut r = record();
    r.recovered = Some(Recovered {
        epoch: Epoch(9),
        from: RecoveredFrom::Replica(disk(2)),
        covered: at(2, 20),
        at: WallTime(0),
        pending: true,
    });
    let fresh = Heard::Missing;
    assert_eq!(judged(&r, [fresh, holds(2, 20), fresh]), Verdict::NotNeeded);
    let found = offer(judged(&r, [fresh, Heard::Gone, fresh]));
    assert_eq!(found.from, RecoveredFrom::Checkpoint);
}

#[test]
fn one_site_alone_is_no_home_for_a_journal() {
    let (r, view) = (record(), view());
    let heard = BTreeMap::from([
        (disk(0), holds(2, 20)),
        (disk(2), Heard::Gone),
        (disk(4), Heard::Gone),
    ]);
    let verdict = judge(&Situation {
        view: &view,
        record: &r,
        heard: &heard,
        silent: &[2, 3, 4, 5].map(NodeId).into(),
        leads: false,
    });
    assert_eq!(verdict, Verdict::NoDisks);
}

/// The owner may hold in memory what no disk has: as long as nobody decided that its node is
/// down, silence says nothing.
#[test]
fn an_owner_that_is_silent_is_waited_for() {
    let mut r = record();
    let owner = |boot| {
        let node = NodeId(1);
        Some(Owner { node, boot })
    };
    let heard: BTreeMap<_, _> = [0, 2, 4].map(disk).map(|at| (at, Heard::Gone)).into();
    let judged = |view: &View, record: &VolumeRecord| {
        judge(&Situation {
            view,
            record,
            heard: &heard,
            silent: &[NodeId(1)].into(),
            leads: false,
        })
    };
    let mut view = view();
    r.owner = owner(Some(Boot(1)));
    assert_eq!(judged(&view, &r), Verdict::AwaitOwner(NodeId(1)));
    // It was only assigned: no life of it acknowledged anything.
    r.owner = owner(None);
    assert!(matches!(judged(&view, &r), Verdict::Offer(_)));
    r.owner = owner(Some(Boot(1)));
    view.nodes.get_mut(&NodeId(1)).expect("there").presence = Presence::Down;
    assert!(matches!(judged(&view, &r), Verdict::Offer(_)));
}

/// The one replica that is left may lack the record of the checkpoint that was published, and
/// what its own one reaches may be deleted (R15): its log is read from the published one on.
#[test]
fn a_salvage_begins_at_the_published_checkpoint() {
    let fetched_from = |own: u64| {
        let mut r = record();
        r.epoch = Epoch(9);
        r.recovered = Some(Recovered {
            epoch: Epoch(9),
            from: RecoveredFrom::Replica(disk(2)),
            covered: at(2, 20),
            at: WallTime(0),
            pending: true,
        });
        let mut recovery = Recovery::new(&r, Vec::new(), Duration::from_millis(100));
        let (mut ids, mut out) = (RequestIds::default(), Vec::new());
        recovery.pump(Time::ZERO, &mut ids, &mut out);
        assert_eq!(out.len(), 1, "the others are not sealed");
        let checkpoint = Checkpoint {
            covers: at(2, own),
            ..Checkpoint::EMPTY
        };
        let report = SealReport {
            epoch: Epoch(9),
            base: at(2, own.min(4)),
            last: at(2, 20),
            committed: at(2, 6),
            checkpoint: Some((at(2, own + 1), checkpoint, Vec::new())),
        };
        let asked = (disk(2), out[0].id);
        out.clear();
        let (reply, none) = (DiskReply::Sealed(report), Bytes::new());
        let step = recovery.reply(Time::ZERO, asked, reply, none, &mut ids, &mut out);
        assert!(matches!(step, Ok(RecoveryStep::Waiting)));
        match out[0].request {
            DiskRequest::Fetch { from, .. } => from,
            ref other => panic!("no fetch: {other:?}"),
        }
    };
    // Published up to e2.s10.
    assert_eq!(fetched_from(4), Seq(11));
    assert_eq!(fetched_from(12), Seq(13));
}
