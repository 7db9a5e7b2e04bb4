//! Clients ask again each second, for as long as it takes: an owner keeps of that what it needs.

use std::time::Duration;

use bytes::Bytes;
use model::ids::{ClientRef, RequestId, SessionId};
use model::journal::{PART_BYTES_MAX, Part};

use super::bench::{Bench, FRONT_END, VOLUME, client, session};
use super::{VolumeConfig, write_sums};
use crate::messages::{VolumeReply, VolumeRequest};

/// The owner's client, with a session and the numbers of its parts.
struct Asker {
    of: ClientRef,
    session: SessionId,
}

impl Asker {
    fn new(b: &mut Bench) -> Self {
        let of = client(FRONT_END, 1, 1);
        let session = session(b.open(of));
        Self { of, session }
    }

    fn write(&self, b: &mut Bench, n: u64, bytes: usize) -> Option<VolumeReply> {
        let payload = Bytes::from(vec![7; bytes]);
        let request = VolumeRequest::Write {
            volume: VOLUME,
            part: Part {
                session: self.session,
                n,
                low: 1,
            },
            offset: 0,
            sums: write_sums(0, &payload),
        };
        b.ask(self.of, RequestId(1000 + n), request, payload)
    }
}

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
    let done = |n: u64| b.told.get(&RequestId(1000 + n)) == Some(&VolumeReply::Done);
    assert!((1..=3).all(done));
    assert_eq!(b.answers - before, 3);
}
