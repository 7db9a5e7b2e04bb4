use model::geometry::{Code, Pool};
use model::ids::{Epoch, SegmentId, Seq, VolumeId};

use super::*;

fn at(seq: u64) -> Position {
    Position {
        epoch: Epoch(1),
        seq: Seq(seq),
    }
}

fn segment(counter: u32) -> SegmentRef {
    let pool = Pool::of(Code::INDEX);
    let id = SegmentId {
        volume: VolumeId(1),
        epoch: Epoch(1),
        counter,
    };
    SegmentRef {
        id,
        pool,
        bytes: 4096,
    }
}

#[test]
fn nothing_goes_before_its_checkpoint_is_published() {
    let mut dropped = DroppedSegments::default();
    dropped.push(at(5), JobId(1), vec![segment(1)]);
    dropped.push(at(9), JobId(1), vec![segment(2)]);
    assert_eq!(dropped.release(JobId(9)), None);
    dropped.published(at(5));
    assert_eq!(dropped.release(JobId(9)), Some(vec![segment(1)]));
    assert_eq!(dropped.release(JobId(9)), None);
    // An older publication's late answer takes nothing back, and releases nothing.
    dropped.published(at(4));
    assert_eq!(dropped.release(JobId(9)), None);
    dropped.published(at(9));
    assert_eq!(dropped.release(JobId(9)), Some(vec![segment(2)]));
}

/// The end of the last read that may look releases them, without another publication: an idle
/// volume publishes nothing more. (They stayed until the next checkpoint once.)
#[test]
fn a_running_read_delays_a_delete_and_its_end_releases_it() {
    let mut dropped = DroppedSegments::default();
    dropped.push(at(5), JobId(8), vec![segment(1)]);
    dropped.published(at(5));
    assert_eq!(dropped.release(JobId(7)), None);
    assert_eq!(dropped.release(JobId(8)), Some(vec![segment(1)]));
    assert_eq!(dropped.release(JobId(8)), None);
}
