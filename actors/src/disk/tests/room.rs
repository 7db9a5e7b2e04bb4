//! Whether the disk has room: a refused put says no, a try says yes again (R27).

use std::time::Duration;

use model::geometry::{Code, Pool};
use model::ids::{Epoch, FragmentKey, Row, SegmentId, Slot};
use model::machine::Machine;
use model::spread::RowStamp;
use model::store::{Claim, FragmentDone, FragmentMeta, FragmentOp, SegmentKind};

use super::bench::{Bench, INCARNATION, VOLUME};
use crate::disk::DiskConfig;
use crate::messages::{DiskRequest, PutFragment};

const BYTES: u32 = 8192;

fn put(b: &mut Bench, counter: u32) {
    let segment = SegmentId {
        volume: VOLUME,
        epoch: Epoch(1),
        counter,
    };
    let put = PutFragment {
        incarnation: INCARNATION,
        key: FragmentKey {
            segment,
            slot: Slot(2),
        },
        row: Row(0),
        stamp: RowStamp::default(),
        claim: Claim::Client,
        meta: FragmentMeta {
            pool: Pool::of(Code::Rs { k: 4, m: 2 }),
            segment_bytes: 4 * BYTES,
            fragment_bytes: BYTES,
            kind: SegmentKind::Data,
        },
        sums: vec![0; 2],
    };
    b.send(DiskRequest::Put(put), &[0; BYTES as usize]);
}

/// Time passes until the store is asked whether there is room.
fn until_tried(b: &mut Bench) -> Duration {
    let begun = b.now;
    while b.fragment_ops.is_empty() {
        b.now = b.now.max(b.disk.next_deadline().expect("it tries again"));
        b.tick();
    }
    let (_, op) = &b.fragment_ops[0];
    let FragmentOp::Try { fragment_bytes } = op else {
        panic!("{op:?}")
    };
    assert_eq!(*fragment_bytes, BYTES);
    b.now.since(begun)
}

#[test]
fn what_was_refused_is_tried_until_there_is_room() {
    let mut b = Bench::new(DiskConfig::default(), 1000);
    assert!(b.disk.takes_fragments());
    put(&mut b, 1);
    b.fragment_done(FragmentDone::Full);
    assert!(!b.disk.takes_fragments());
    until_tried(&mut b);
    for _ in 0..3 {
        b.fragment_done(FragmentDone::Full);
        assert!(!b.disk.takes_fragments());
        let pause = until_tried(&mut b);
        assert!(pause >= Duration::from_millis(900), "{pause:?}");
    }
    b.fragment_done(FragmentDone::HasRoom);
    assert!(b.disk.takes_fragments());
    assert!(b.fragment_ops.is_empty());
}
