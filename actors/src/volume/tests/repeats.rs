//! Clients ask again each second, for as long as it takes: an owner keeps of that what it needs.

use std::time::Duration;

use model::journal::PART_BYTES_MAX;

use super::VolumeConfig;
use super::bench::{Asker, Bench};
use crate::messages::VolumeReply;

/// A window that has no room for a block.
fn shut() -> VolumeConfig {
    VolumeConfig {
        window_bytes: 4000,
        ..VolumeConfig::default()
    }
}

#[test]
fn what_waits_is_kept_once() {
    let mut b = Bench::new(shut());
    let asker = Asker::new(&mut b);
    for _ in 0..200 {
        assert_eq!(asker.write(&mut b, 1, 4096), None);
        assert_eq!(asker.write(&mut b, 2, 8192), None);
    }
    assert_eq!(
        (b.volume.waiting.len(), b.volume.waiting.bytes()),
        (2, 12288)
    );
}

#[test]
fn so_many_bytes_wait_at_most() {
    let mut b = Bench::new(shut());
    let asker = Asker::new(&mut b);
    let max = VolumeConfig::default().waiting_bytes_max;
    let fit = (max / PART_BYTES_MAX) as u64;
    for n in 1..=fit {
        assert_eq!(asker.write(&mut b, n, PART_BYTES_MAX), None);
    }
    assert_eq!(asker.write(&mut b, fit + 1, 4096), Some(VolumeReply::Busy));
    assert_eq!(b.volume.waiting.bytes(), max);
}

/// While nothing is committed, who asks again is not put down again.
#[test]
fn what_was_asked_often_is_answered_once() {
    let mut b = Bench::new(VolumeConfig::default());
    let asker = Asker::new(&mut b);
    b.disks_answer = false;
    let before = b.answers;
    for _ in 0..1000 {
        for n in 1..=3 {
            assert_eq!(asker.write(&mut b, n, 4096), None);
        }
    }
    b.disks_answer = true;
    b.pass(Duration::from_secs(10));
    let done = |n: u64| b.told.get(&Asker::id(n)) == Some(&VolumeReply::Done);
    assert!((1..=3).all(done));
    assert_eq!(b.answers - before, 3);
}
