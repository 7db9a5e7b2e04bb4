//! The scrub: passes, their pace, what is found, what is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::geometry::{Code, Pool};
use model::ids::{Actor, Epoch, FragmentKey, NodeId, Row, SegmentId, Slot};
use model::machine::Machine;
use model::placement::{self, Duty, Presence, SlotPlace, View};
use model::spread::{RowStamp, SpreadTable};
use model::store::{Claim, FragmentDone, FragmentMeta, FragmentOp, ScrubMark, SegmentKind};

use super::bench::{AT, Bench, INCARNATION, VOLUME};
use crate::disk::{DiskConfig, DiskInput, Found, ScrubConfig, ScrubNews, ScrubStats};
use crate::messages::{DiskReply, DiskRequest, FragmentAt, PutFragment};

const META: FragmentMeta = FragmentMeta {
    pool: Pool::of(Code::Rs { k: 4, m: 2 }),
    segment_bytes: 4 << 20,
    fragment_bytes: 1 << 20,
    kind: SegmentKind::Data,
};

fn key(counter: u32) -> FragmentKey {
    let segment = SegmentId {
        volume: VOLUME,
        epoch: Epoch(1),
        counter,
    };
    FragmentKey {
        segment,
        slot: Slot(2),
    }
}

fn bench() -> Bench {
    let scrub = ScrubConfig {
        every: Duration::from_secs(100),
        bytes_per_s: 2 << 20,
        flagged_at: 2,
        keep_every: Duration::from_secs(5),
        ..ScrubConfig::default()
    };
    let config = DiskConfig {
        scrub,
        ..DiskConfig::default()
    };
    Bench::new(config, 1000)
}

fn get(n: u32) -> DiskRequest {
    DiskRequest::Get {
        incarnation: INCARNATION,
        key: key(n),
        pool: META.pool,
        ranges: vec![(0, 4096)],
    }
}

fn stats(b: &Bench) -> ScrubStats {
    b.disk.scrub()
}

/// Time passes until the machine asks its store for something; how long that took.
fn until_asked(b: &mut Bench) -> Duration {
    let begun = b.now;
    while b.fragment_ops.is_empty() {
        let due = b.disk.next_deadline().expect("it goes on");
        b.now = b.now.max(due);
        b.tick();
        assert!(
            b.now.since(begun) < Duration::from_secs(1000),
            "it never does"
        );
    }
    b.now.since(begun)
}

fn asked(b: &Bench) -> &FragmentOp {
    &b.fragment_ops[0].1
}

/// The next thing asked is to verify this one: it is whole, or not.
fn verify(b: &mut Bench, n: u32, whole: bool) -> Duration {
    let took = until_asked(b);
    assert!(
        matches!(asked(b), FragmentOp::Verify { key: of } if *of == key(n)),
        "{:?}",
        asked(b)
    );
    b.fragment_done(FragmentDone::Verified { meta: META, whole });
    took
}

fn list(b: &mut Bench, counters: std::ops::Range<u32>, next: Option<u32>) {
    until_asked(b);
    assert!(
        matches!(asked(b), FragmentOp::Scan { of: None, .. }),
        "{:?}",
        asked(b)
    );
    let keys = counters.map(|n| (key(n), META)).collect();
    let next = next.map(|n| key(n).segment);
    b.fragment_done(FragmentDone::Scanned { keys, next });
}

fn keep(b: &mut Bench) -> ScrubMark {
    until_asked(b);
    let FragmentOp::KeepScrub(mark) = *asked(b) else {
        panic!("{:?}", asked(b));
    };
    b.fragment_done(FragmentDone::Kept);
    mark
}

#[test]
fn a_pass_reads_everything_at_its_pace_and_says_that_it_ended() {
    let mut b = bench();
    b.input(DiskInput::ScrubNow);
    list(&mut b, 0..3, Some(2));
    let begun = b.now;
    (0..3).for_each(|n| {
        verify(&mut b, n, true);
    });
    list(&mut b, 3..8, None);
    (3..8).for_each(|n| {
        verify(&mut b, n, true);
    });
    // 8 MiB at 2 MiB a second, of which a second's worth and one fragment were saved up.
    let took = b.now.since(begun);
    assert!(
        took > Duration::from_millis(2400) && took < Duration::from_secs(4),
        "{took:?}"
    );
    let mark = keep(&mut b);
    assert_eq!(
        (mark.passes, mark.cursor, mark.pass_bytes),
        (1, None, 8 << 20)
    );
    assert_eq!(b.news, [ScrubNews::Walked]);
    assert!(!stats(&b).running && !stats(&b).flagged);
    // The next one comes by itself; until then it is kept now and then how long ago this was.
    let rested = b.now;
    let kept = keep(&mut b);
    assert!(kept.pass_ns > mark.pass_ns);
    list(&mut b, 0..0, None);
    assert!(b.now.since(rested) > Duration::from_secs(90));
}

#[test]
fn what_is_rotten_is_told_until_it_is_stored_anew() {
    let mut b = bench();
    b.input(DiskInput::ScrubNow);
    list(&mut b, 0..2, None);
    verify(&mut b, 0, false);
    let rotten = ScrubNews::Rotten(FragmentAt {
        key: key(0),
        meta: META,
    });
    assert_eq!(b.news, [rotten]);
    verify(&mut b, 1, true);
    keep(&mut b);
    assert_eq!((stats(&b).rotten, stats(&b).mark.found), (1, 1));
    // Nobody repaired it: it is told again, and counted once.
    b.news.clear();
    while b.news.is_empty() {
        until_asked(&mut b);
        match asked(&b) {
            FragmentOp::KeepScrub(_) => drop(keep(&mut b)),
            _ => drop(verify(&mut b, 0, false)),
        }
    }
    assert_eq!(
        (b.news.as_slice(), stats(&b).mark.found),
        (&[rotten][..], 1)
    );
    assert!(!stats(&b).flagged);
    // Deleted meanwhile: nothing is left to repair.
    loop {
        until_asked(&mut b);
        match asked(&b) {
            FragmentOp::KeepScrub(_) => drop(keep(&mut b)),
            FragmentOp::Verify { .. } => break b.fragment_done(FragmentDone::NotFound),
            // The next pass, which finds nothing else.
            FragmentOp::Scan { .. } => list(&mut b, 0..0, None),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((stats(&b).rotten, stats(&b).mark.repaired), (0, 0));
}

#[test]
fn what_a_reader_met_is_looked_at_first_and_a_bad_disk_is_flagged() {
    let mut b = bench();
    for n in 0..2 {
        b.send(get(n), &[]);
        let ranges = vec![None::<Bytes>];
        b.fragment_done(FragmentDone::Data { meta: META, ranges });
        verify(&mut b, n, false);
    }
    assert_eq!(b.news.len(), 2);
    assert!(stats(&b).flagged, "two of two");
}

/// What the Healer brings to a slot that lies here was gone; what it brings to one that is moved
/// here was not.
#[test]
fn only_what_had_been_here_is_restored() {
    for (moved, restored) in [(false, 1), (true, 0)] {
        let mut b = bench();
        let here = Some(super::bench::AT);
        let place = SlotPlace {
            disk: here.filter(|_| !moved),
            to: here.filter(|_| moved),
            ..SlotPlace::default()
        };
        let mut places = vec![SlotPlace::default(); 6];
        places[2] = place;
        let mut view = View::default();
        let table = SpreadTable {
            rows: 1,
            places,
            slots: 6,
        };
        view.pools.insert(META.pool, table);
        b.input(DiskInput::View(Arc::new(view)));
        while !b.fragment_ops.is_empty() {
            // What it looks for to clear: nothing is there.
            let (keys, next) = (Vec::new(), None);
            b.fragment_done(FragmentDone::Scanned { keys, next });
        }
        let put = PutFragment {
            incarnation: INCARNATION,
            key: key(1),
            claim: Claim::Client,
            meta: FragmentMeta {
                segment_bytes: 4 * 4096,
                fragment_bytes: 4096,
                ..META
            },
            sums: vec![1],
            row: Row(0),
            stamp: RowStamp::default(),
        };
        let id = b.request_id();
        b.send_from(Actor::Healer, id, DiskRequest::Put(put), &[7; 4096]);
        b.fragment_done(FragmentDone::Stored);
        assert_eq!(
            b.answer(id).expect("an answer").0,
            DiskReply::Stored { is_pressed: false }
        );
        assert_eq!(stats(&b).mark.restored, restored, "moved: {moved}");
    }
}

#[test]
fn a_pass_goes_on_where_an_earlier_life_was() {
    let mut b = bench();
    let mark = ScrubMark {
        cursor: Some(key(5).segment),
        pass_bytes: 6 << 20,
        ..ScrubMark::default()
    };
    b.disk = b.opened(Found {
        scrubbed: mark,
        ..Found::default()
    });
    until_asked(&mut b);
    assert!(matches!(asked(&b), FragmentOp::Scan { after, .. } if *after == mark.cursor));
    b.fragment_done(FragmentDone::Scanned {
        keys: vec![(key(6), META)],
        next: None,
    });
    verify(&mut b, 6, true);
    assert_eq!(keep(&mut b).pass_bytes, 7 << 20);
}

#[test]
fn clients_go_first_but_not_for_ever() {
    let mut b = bench();
    for n in 0..8 {
        b.send(get(n), &[]);
    }
    b.input(DiskInput::ScrubNow);
    let is_read = |op: &FragmentOp| matches!(op, FragmentOp::Get { .. });
    assert!(b.fragment_ops.iter().all(|(_, op)| is_read(op)));
    let begun = b.now;
    while b.fragment_ops.len() == 8 {
        b.now = b.disk.next_deadline().expect("it goes on").max(b.now);
        b.tick();
    }
    let waited = b.now.since(begun);
    assert!(
        waited >= Duration::from_millis(900) && waited < Duration::from_secs(2),
        "{waited:?}"
    );
}

/// What the view shows no more is not waited for: a deadline that has passed would be one for ever.
#[test]
fn a_disk_that_the_view_drops_waits_for_nothing() {
    let mut b = Bench::new(DiskConfig::default(), 1000);
    let mut seen = View::default();
    seen.disks.insert(
        AT.disk,
        placement::Disk {
            at: AT,
            node: NodeId(1),
            capacity_bytes: 1 << 30,
            presence: Presence::Up,
            duty: Duty::Serve,
            fault: None,
        },
    );
    b.input(DiskInput::View(Arc::new(seen.clone())));
    b.input(DiskInput::Lacking);
    b.input(DiskInput::View(Arc::new(View::default())));
    b.advance(Duration::from_secs(60));
    b.run();
    let due = b.disk.next_deadline();
    assert!(due.is_none_or(|due| due > b.now), "{due:?} at {:?}", b.now);
    assert!(!b.news.contains(&ScrubNews::Lacking));
    b.input(DiskInput::View(Arc::new(seen)));
    b.advance(Duration::from_secs(6));
    assert!(b.news.contains(&ScrubNews::Lacking));
}

/// What rotted and is deleted is nobody's any more, at once: whether it was told of before, or is
/// being read just then.
#[test]
fn what_is_deleted_is_not_rotten() {
    for is_told in [true, false] {
        let mut b = bench();
        b.send(get(0), &[]);
        let ranges = vec![None::<Bytes>];
        b.fragment_done(FragmentDone::Data { meta: META, ranges });
        if is_told {
            verify(&mut b, 0, false);
            assert_eq!(stats(&b).rotten, 1);
        }
        let request = DiskRequest::Delete {
            incarnation: super::bench::INCARNATION,
            keys: vec![key(0)],
            rows: Vec::new(),
        };
        b.send(request, &[]);
        if !is_told {
            verify(&mut b, 0, false);
        }
        assert_eq!(stats(&b).rotten, 0, "told before: {is_told}");
    }
}
