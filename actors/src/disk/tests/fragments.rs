//! Fragments and device errors, scripted.

use std::time::Duration;

use bytes::Bytes;
use model::geometry::{Code, Pool};
use model::ids::{Actor, Epoch, FragmentKey, Position, Row, SegmentId, Slot};
use model::spread::RowStamp;
use model::store::{Claim, FragmentDone, FragmentMeta, FragmentOp, SegmentKind};

use super::bench::{Append, Bench, INCARNATION, VOLUME, at, plain, seal};
use crate::disk::DiskConfig;
use crate::messages::{DiskReply, DiskRequest, FragmentAt, PutFragment};

const KEY: FragmentKey = FragmentKey {
    segment: SegmentId {
        volume: VOLUME,
        epoch: Epoch(1),
        counter: 3,
    },
    slot: Slot(2),
};

const META: FragmentMeta = FragmentMeta {
    pool: Pool::of(Code::Rs { k: 4, m: 2 }),
    segment_bytes: 4 * 8192,
    fragment_bytes: 8192,
    kind: SegmentKind::Data,
};

fn put() -> PutFragment {
    PutFragment {
        incarnation: INCARNATION,
        key: KEY,
        meta: META,
        claim: Claim::Client,
        sums: vec![1, 2],
        row: Row(0),
        stamp: RowStamp::default(),
    }
}

fn get(ranges: Vec<(u32, u32)>) -> DiskRequest {
    DiskRequest::Get {
        incarnation: INCARNATION,
        key: KEY,
        pool: META.pool,
        ranges,
    }
}

fn bench() -> Bench {
    Bench::new(DiskConfig::default(), 1000)
}

/// What a disk answers that clients leave alone.
fn data(good: Vec<bool>) -> DiskReply {
    DiskReply::Data {
        meta: META,
        good,
        is_pressed: false,
    }
}

#[test]
fn puts_gets_deletes_and_lists_pass_through() {
    let mut b = bench();
    let id = b.send(DiskRequest::Put(put()), &[7; 8192]);
    assert!(b.answer(id).is_none());
    b.fragment_done(FragmentDone::Stored);
    assert_eq!(
        b.answer(id).unwrap().0,
        DiskReply::Stored { is_pressed: false }
    );

    let id = b.send(get(vec![(0, 4096), (4096, 4096)]), &[]);
    let ranges = vec![None, Some(Bytes::from(vec![9; 4096]))];
    b.fragment_done(FragmentDone::Data { meta: META, ranges });
    let (reply, payload) = b.answer(id).unwrap();
    let good = vec![false, true];
    assert_eq!(reply, data(good));
    assert_eq!(payload.len(), 4096);
    // What looked damaged is looked at.
    let verify = &b.fragment_ops[0].1;
    assert!(matches!(verify, FragmentOp::Verify { key } if *key == KEY));
    let whole = true;
    b.fragment_done(FragmentDone::Verified { meta: META, whole });

    let delete = DiskRequest::Delete {
        incarnation: INCARNATION,
        keys: vec![KEY],
        rows: Vec::new(),
    };
    let id = b.send(delete, &[]);
    b.fragment_done(FragmentDone::Deleted);
    assert_eq!(b.answer(id).unwrap().0, DiskReply::Deleted);

    let list = DiskRequest::List {
        incarnation: INCARNATION,
        volume: VOLUME,
        after: None,
        limit: 1,
    };
    let id = b.send(list, &[]);
    b.fragment_done(FragmentDone::Keys(vec![(KEY, META), (KEY, META)]));
    let keys = vec![FragmentAt {
        key: KEY,
        meta: META,
    }];
    assert_eq!(b.answer(id).unwrap().0, DiskReply::Keys(keys));
}

#[test]
fn a_buffer_of_another_length_is_damaged() {
    let mut b = bench();
    let id = b.send(get(vec![(0, 4096)]), &[]);
    let ranges = vec![Some(Bytes::from(vec![9; 4095]))];
    b.fragment_done(FragmentDone::Data { meta: META, ranges });
    let (reply, payload) = b.answer(id).unwrap();
    let good = vec![false];
    assert_eq!(reply, data(good));
    assert!(payload.is_empty());
}

#[test]
fn malformed_requests_reach_no_store() {
    let mut b = bench();
    let mut puts = Vec::new();
    let mut change = |f: &dyn Fn(&mut PutFragment)| {
        let mut p = put();
        f(&mut p);
        puts.push(p);
    };
    change(&|p| p.sums.push(3));
    change(&|p| p.meta.fragment_bytes = 4096);
    change(&|p| p.meta.segment_bytes = u32::MAX);
    change(&|p| p.key.slot = Slot(6));
    change(&|p| p.meta.pool.code = Code::Rs { k: 255, m: 255 });
    change(&|p| {
        p.meta.pool.code = Code::Geo {
            k: 255,
            m: 255,
            sites: 255,
        };
    });
    for p in puts {
        assert_eq!(b.ask(DiskRequest::Put(p), &[7; 8192]), DiskReply::Busy);
    }
    assert_eq!(b.ask(DiskRequest::Put(put()), &[7; 8191]), DiskReply::Busy);
    let gets = [
        vec![],
        vec![(1, 4096)],
        vec![(0, 0)],
        vec![(u32::MAX - 4095, 4096)],
        vec![(0, 4096); 1025],
        vec![(0, 4 << 20); 3],
    ];
    for ranges in gets {
        assert_eq!(b.ask(get(ranges), &[]), DiskReply::Busy);
    }
    let keys = vec![KEY; 5000];
    let delete = DiskRequest::Delete {
        incarnation: INCARNATION,
        keys,
        rows: Vec::new(),
    };
    assert_eq!(b.ask(delete, &[]), DiskReply::Busy);
    assert!(b.fragment_ops.is_empty());
}

#[test]
fn fragments_in_flight_are_bounded() {
    let config = DiskConfig {
        fragments_max: 2,
        ..DiskConfig::default()
    };
    let mut b = Bench::new(config, 1000);
    let one = b.send(get(vec![(0, 4096)]), &[]);
    b.send(get(vec![(0, 4096)]), &[]);
    let third = b.send(get(vec![(0, 4096)]), &[]);
    assert_eq!(b.answer(third).unwrap().0, DiskReply::Busy);
    b.fragment_done(FragmentDone::NotFound);
    assert_eq!(b.answer(one).unwrap().0, DiskReply::NotFound);
    b.send(get(vec![(0, 4096)]), &[]);
    assert_eq!(b.fragment_ops.len(), 2);
}

#[test]
fn a_device_error_retires_for_good() {
    let mut b = bench();
    b.joined(1);
    let append = || Append::new(1, Position::ZERO, vec![plain(at(1, 1))]);
    let journal = b.send(append().request(), &[1]);
    let sealing = b.send(seal(2), &[]);
    let fragment = b.send(DiskRequest::Put(put()), &[7; 8192]);
    b.fail();
    for id in [journal, sealing, fragment] {
        assert_eq!(b.answer(id).unwrap().0, DiskReply::Busy);
    }
    assert_eq!(b.retired, 1);
    // A late completion changes nothing, and nothing is ever done again.
    b.fragment_done(FragmentDone::Stored);
    b.run();
    assert_eq!(b.append(append()), DiskReply::Busy);
    assert_eq!(b.ask(seal(3), &[]), DiskReply::Busy);
    assert!(b.store.queue.is_empty() && b.answers.is_empty());
    assert_eq!(b.retired, 1);
    assert!(b.disk.stats().retired);
}

/// R16: a tombstone frees what the volume has here, step by step, and nothing comes back.
#[test]
fn a_deleted_volumes_fragments_go() {
    let mut b = bench();
    b.view(1, &[], false);
    assert!(b.fragment_ops.is_empty());
    b.view(1, &[], true);
    b.view(1, &[], true);
    assert!(matches!(
        b.fragment_ops[0].1,
        FragmentOp::List { volume: VOLUME, .. }
    ));
    assert_eq!(b.fragment_ops.len(), 1, "one step at a time");
    b.fragment_done(FragmentDone::Keys(vec![(KEY, META)]));
    assert!(matches!(&b.fragment_ops[0].1, FragmentOp::Delete { keys } if keys == &[KEY]));
    b.fragment_done(FragmentDone::Deleted);
    assert!(matches!(b.fragment_ops[0].1, FragmentOp::List { .. }));
    b.fragment_done(FragmentDone::Keys(Vec::new()));
    assert!(b.fragment_ops.is_empty());
    let id = b.send(DiskRequest::Put(put()), &[7; 8192]);
    assert_eq!(b.answer(id).unwrap().0, DiskReply::Busy);
}

/// What a Healer asks is told whether clients asked for something just before; its own asking is no
/// client's.
#[test]
fn a_disk_tells_whether_clients_want_something_of_it() {
    let mut b = bench();
    let is_pressed = |b: &mut Bench, from: Actor| {
        let id = b.request_id();
        b.send_from(from, id, get(vec![(0, 4096)]), &[]);
        let ranges = vec![Some(Bytes::from(vec![9; 4096]))];
        b.fragment_done(FragmentDone::Data { meta: META, ranges });
        match b.answer(id).map(|answer| answer.0) {
            Some(DiskReply::Data { is_pressed, .. }) => is_pressed,
            other => panic!("a fragment is read: {other:?}"),
        }
    };
    assert!(!is_pressed(&mut b, Actor::Healer));
    assert!(!is_pressed(&mut b, Actor::Healer));
    is_pressed(&mut b, Actor::Segment(VOLUME));
    assert!(is_pressed(&mut b, Actor::Healer));
    b.now += Duration::from_millis(499);
    assert!(is_pressed(&mut b, Actor::Healer));
    b.now += Duration::from_millis(1);
    assert!(!is_pressed(&mut b, Actor::Healer));
}
