//! What a disk knows of rows' moves, scripted (R20).

use std::collections::BTreeMap;
use std::sync::Arc;

use model::geometry::{Code, Pool};
use model::ids::{
    DiskId, DiskRef, Epoch, FragmentKey, Incarnation, NodeId, Row, SegmentId, SiteId, Slot, Version,
};
use model::placement::{Disk, Duty, Node, Presence, Site, SiteRole, View};
use model::spread::{RowStamp, SlotPlace, SpreadTable};
use model::store::{Claim, FragmentDone, FragmentMeta, FragmentOp, SegmentKind};

use super::bench::{AT, Bench, INCARNATION, VOLUME};
use crate::disk::{DiskConfig, DiskInput};
use crate::messages::{DiskReply, DiskRequest, PutFragment, RowKnown};

const POOL: Pool = Pool::of(Code::Rs { k: 4, m: 2 });

const KEY: FragmentKey = FragmentKey {
    segment: SegmentId {
        volume: VOLUME,
        epoch: Epoch(1),
        counter: 3,
    },
    slot: Slot(2),
};

const META: FragmentMeta = FragmentMeta {
    pool: POOL,
    segment_bytes: 4 * 4096,
    fragment_bytes: 4096,
    kind: SegmentKind::Data,
};

const OTHER: DiskRef = DiskRef {
    disk: DiskId(9),
    incarnation: Incarnation(9),
};

fn stamp(versions: &[u64]) -> RowStamp {
    RowStamp::of(versions.iter().map(|v| Version(*v)))
}

fn put(stamp: RowStamp) -> DiskRequest {
    DiskRequest::Put(PutFragment {
        incarnation: INCARNATION,
        key: KEY,
        meta: META,
        claim: Claim::Client,
        sums: vec![1],
        row: Row(0),
        stamp,
    })
}

fn list_row(stamp: RowStamp) -> DiskRequest {
    DiskRequest::ListRow {
        incarnation: INCARNATION,
        pool: POOL,
        rows: 1,
        row: Row(0),
        stamp,
        after: None,
        limit: 10,
    }
}

fn bench() -> Bench {
    Bench::new(DiskConfig::default(), 1000)
}

/// A table of one row, with slot 2 there.
fn view(version: u64, place: SlotPlace) -> DiskInput {
    let mut places = vec![SlotPlace::default(); 6];
    places[2] = place;
    let table = SpreadTable {
        rows: 1,
        places,
        slots: 6,
    };
    let view = View {
        version: Version(version),
        pools: BTreeMap::from([(POOL, table)]),
        ..View::default()
    };
    DiskInput::View(Arc::new(view))
}

fn place(disk: DiskRef, to: Option<DiskRef>, version: u64) -> SlotPlace {
    SlotPlace {
        disk: Some(disk),
        to,
        version: Version(version),
    }
}

#[test]
fn a_listing_is_taken_after_a_durable_note_and_older_puts_are_refused_from_then_on() {
    let mut b = bench();
    let moved = stamp(&[0, 0, 1]);
    let listed = b.send(list_row(moved.clone()), &[]);
    assert!(matches!(&b.fragment_ops[0].1, FragmentOp::Adopt { stamp, .. } if *stamp == moved));
    assert!(matches!(&b.fragment_ops[1].1, FragmentOp::Scan { .. }));
    // Not even while the note is on its way to the disk.
    let known = moved.clone();
    let refused = b.ask(put(stamp(&[])), &[7; 4096]);
    assert_eq!(refused, DiskReply::NotMine { stamp: known });
    b.fragment_done(FragmentDone::Adopted);
    assert!(b.answer(listed).is_none());
    b.fragment_done(FragmentDone::Scanned {
        keys: vec![(KEY, META)],
        next: None,
    });
    let (reply, _) = b.answer(listed).expect("answered");
    assert!(matches!(reply, DiskReply::Row { keys, next: None } if keys.len() == 1));
    // What is placed by as much is taken, and what is placed by more is noted first.
    b.send(put(moved), &[7; 4096]);
    assert!(matches!(&b.fragment_ops[0].1, FragmentOp::Put { .. }));
    b.send(put(stamp(&[1, 0, 1])), &[7; 4096]);
    assert!(matches!(&b.fragment_ops[1].1, FragmentOp::Adopt { .. }));
    // A deletion by less would be forgotten too early.
    let delete = DiskRequest::Delete {
        incarnation: INCARNATION,
        keys: vec![KEY],
        rows: vec![known_of(KEY.slot)],
    };
    assert!(matches!(b.ask(delete, &[]), DiskReply::NotMine { .. }));
}

#[test]
fn what_lies_elsewhere_for_good_is_dropped_but_not_by_a_table_that_knows_less() {
    let mut b = bench();
    b.send(put(stamp(&[0, 0, 2])), &[7; 4096]);
    b.fragment_done(FragmentDone::Adopted);
    b.fragment_done(FragmentDone::Stored);
    // A table of before the last move: it left this disk, and came back since.
    let scanned = || FragmentDone::Scanned {
        keys: vec![(KEY, META)],
        next: None,
    };
    b.input(view(1, place(OTHER, None, 1)));
    b.fragment_done(scanned());
    assert!(b.fragment_ops.is_empty(), "nothing is dropped");
    // On its way elsewhere; then it is there.
    b.input(view(2, place(AT, Some(OTHER), 3)));
    b.fragment_done(scanned());
    assert!(b.fragment_ops.is_empty());
    b.input(view(3, place(OTHER, None, 3)));
    b.fragment_done(scanned());
    assert!(matches!(&b.fragment_ops[0].1, FragmentOp::Delete { keys } if *keys == [KEY]));
    b.fragment_done(FragmentDone::Deleted);
    assert!(b.fragment_ops.is_empty());
    // A reader with an older view is not told that there is no such fragment.
    let get = DiskRequest::Get {
        incarnation: INCARNATION,
        key: KEY,
        pool: POOL,
        ranges: vec![(0, 4096)],
    };
    let id = b.send(get, &[]);
    b.fragment_done(FragmentDone::NotFound);
    let (reply, _) = b.answer(id).expect("answered");
    assert!(matches!(reply, DiskReply::NotMine { .. }), "{reply:?}");
}

/// Nothing of the row's moves, by who deletes a fragment of that slot.
fn known_of(slot: Slot) -> RowKnown {
    RowKnown {
        pool: POOL,
        row: Row(0),
        stamp: stamp(&[]),
        slots: vec![slot],
    }
}

/// Slot 2 is this disk's, slot 5 another one's, in a site that is away or not.
fn view_of_two_sites(version: u64, presence: Presence) -> DiskInput {
    view_with_second(version, AT, presence)
}

/// The same with slot 2 on any disk.
fn view_with_second(version: u64, second: DiskRef, presence: Presence) -> DiskInput {
    let DiskInput::View(view) = view(version, place(second, None, 0)) else {
        unreachable!("it makes a view")
    };
    let mut view = View::clone(&view);
    let (far, node) = (SiteId(3), NodeId(9));
    let address = "127.0.0.1:1".parse().expect("an address");
    let site = Site {
        name: "c".into(),
        presence,
        takes_segments: true,
        role: SiteRole::Data,
    };
    view.sites.insert(far, site);
    let owner = Node {
        name: "c1".into(),
        site: far,
        address,
        nbd: address,
        presence,
        duty: Duty::Serve,
    };
    view.nodes.insert(node, owner);
    let disk = Disk {
        at: OTHER,
        node,
        capacity_bytes: 1 << 30,
        presence,
        duty: Duty::Serve,
        fault: None,
    };
    view.disks.insert(OTHER.disk, disk);
    let table = view.pools.get_mut(&POOL).expect("its pool");
    table.places[5] = place(OTHER, None, 0);
    DiskInput::View(Arc::new(view))
}

/// Only that site's own group could tell of a move within it, and it is gone (simulator seed 210).
#[test]
fn what_moved_in_a_site_that_is_away_holds_up_nobody_but_who_moves_the_slot_itself() {
    let nothing = || FragmentDone::Scanned {
        keys: vec![],
        next: None,
    };
    let delete = |slot: u8| DiskRequest::Delete {
        incarnation: INCARNATION,
        keys: vec![FragmentKey {
            slot: Slot(slot),
            ..KEY
        }],
        rows: vec![known_of(Slot(slot))],
    };
    let refused = |reply: DiskReply| matches!(reply, DiskReply::NotMine { .. });
    let mut b = bench();
    b.input(view_of_two_sites(1, Presence::Up));
    b.fragment_done(nothing());
    b.send(list_row(stamp(&[0, 0, 0, 0, 0, 1])), &[]);
    b.fragment_done(FragmentDone::Adopted);
    b.fragment_done(nothing());
    // As long as the site takes part, whoever does not know of it learns it first.
    assert!(refused(b.ask(put(stamp(&[])), &[7; 4096])));
    assert!(refused(b.ask(delete(2), &[])));
    b.input(view_of_two_sites(2, Presence::Down));
    // The slot in question counts, wherever it lies.
    assert!(refused(b.ask(delete(5), &[])));
    b.send(put(stamp(&[])), &[7; 4096]);
    assert!(matches!(&b.fragment_ops[0].1, FragmentOp::Put { .. }));
    b.fragment_done(FragmentDone::Stored);
    b.send(delete(2), &[]);
    assert!(matches!(&b.fragment_ops[0].1, FragmentOp::Delete { .. }));
    b.fragment_done(FragmentDone::Deleted);
    // A slot of the same number, but of another row, makes no difference to this one.
    let of_two_rows = DiskRequest::Delete {
        incarnation: INCARNATION,
        keys: vec![
            KEY,
            FragmentKey {
                slot: Slot(5),
                ..KEY
            },
        ],
        rows: vec![
            known_of(KEY.slot),
            RowKnown {
                row: Row(1),
                ..known_of(Slot(5))
            },
        ],
    };
    b.send(of_two_rows, &[]);
    assert!(matches!(&b.fragment_ops[0].1, FragmentOp::Delete { .. }));
    b.fragment_done(FragmentDone::Deleted);
    // Once the site is back, all counts again.
    b.input(view_of_two_sites(3, Presence::Up));
    assert!(refused(b.ask(delete(2), &[])));
}

/// There was no space for a note: what rests on it is answered `Busy`, and the disk goes by what it
/// durably knows. One that was asked for since holds what it held.
#[test]
fn what_rests_on_a_note_that_found_no_space_is_not_answered() {
    let mut b = bench();
    let ask = |b: &mut Bench, versions: &[u64]| b.send(list_row(stamp(versions)), &[]);
    let scanned = || FragmentDone::Scanned {
        keys: Vec::new(),
        next: None,
    };
    let first = ask(&mut b, &[3]);
    let same = ask(&mut b, &[3]);
    let more = ask(&mut b, &[3, 4]);
    // The first one's note, the two listings that rest on it; the third one's note and its listing.
    b.fragment_done(FragmentDone::Full);
    b.fragment_done(scanned());
    b.fragment_done(scanned());
    for id in [first, same] {
        assert_eq!(b.answer(id).map(|a| a.0), Some(DiskReply::Busy));
    }
    b.fragment_done(FragmentDone::Full);
    b.fragment_done(scanned());
    assert_eq!(b.answer(more).map(|a| a.0), Some(DiskReply::Busy));
    assert_eq!(b.retired, 0);
    // Nothing was noted: it is noted now.
    let again = ask(&mut b, &[3]);
    let is_note = |(_, op): &(_, FragmentOp)| matches!(op, FragmentOp::Adopt { .. });
    assert!(b.fragment_ops.front().is_some_and(is_note));
    b.fragment_done(FragmentDone::Adopted);
    b.fragment_done(scanned());
    let answer = b.answer(again).map(|a| a.0);
    assert!(matches!(answer, Some(DiskReply::Row { .. })), "{answer:?}");
}

/// What was left because of such a move goes once its site is found away: the table is the same.
#[test]
fn what_was_left_is_looked_at_again_once_a_site_is_away() {
    let scanned = || FragmentDone::Scanned {
        keys: vec![(KEY, META)],
        next: None,
    };
    let third = DiskRef {
        disk: DiskId(10),
        incarnation: Incarnation(10),
    };
    let mut b = bench();
    b.send(put(stamp(&[0, 0, 0, 0, 0, 1])), &[7; 4096]);
    b.fragment_done(FragmentDone::Adopted);
    b.fragment_done(FragmentDone::Stored);
    b.input(view_with_second(1, third, Presence::Up));
    b.fragment_done(scanned());
    assert!(b.fragment_ops.is_empty(), "the table knows too little");
    b.input(view_with_second(2, third, Presence::Down));
    b.fragment_done(scanned());
    assert!(matches!(&b.fragment_ops[0].1, FragmentOp::Delete { keys } if *keys == [KEY]));
}
