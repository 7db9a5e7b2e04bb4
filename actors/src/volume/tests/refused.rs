//! What was refused stays refused (R10): a volume that is too small for a write, and grows.

use std::sync::Arc;
use std::time::Duration;

use model::block::BlockError;
use model::ids::VolumeId;

use super::bench::{Asker, Bench, VOLUME};
use super::{Input, VolumeConfig};
use crate::messages::VolumeReply;

const OUT_OF_RANGE: Option<VolumeReply> = Some(VolumeReply::Error(BlockError::OutOfRange));

fn grow(b: &mut Bench, volume: VolumeId) {
    let record = b.view.volumes.get_mut(&volume).expect("there is one");
    record.size_bytes *= 2;
    record.resized = record.resized.next();
    b.view.version = b.view.version.next();
    b.handle(Input::View(Arc::new(b.view.clone())));
}

/// A write beyond the end is refused, and then there is room: what was sent of it before and
/// comes only now is no new write. Its client writes anew, under another number.
#[test]
fn a_copy_of_what_was_refused_is_refused() {
    let mut b = Bench::new(VolumeConfig::default());
    let asker = Asker::new(&mut b);
    let end = b.view.volumes[&VOLUME].size_bytes;
    assert_eq!(asker.write_at(&mut b, 10, end, 4096), OUT_OF_RANGE);
    grow(&mut b, VOLUME);
    assert_eq!(
        asker.write_at(&mut b, 11, end, 4096),
        Some(VolumeReply::Done)
    );
    assert_eq!(asker.write_at(&mut b, 10, end, 4096), OUT_OF_RANGE);
}

/// Refusals are forgotten with what their client has answers to; its old copies are dropped.
#[test]
fn a_copy_of_what_was_answered_is_dropped() {
    let mut b = Bench::new(VolumeConfig::default());
    let mut asker = Asker::new(&mut b);
    let end = b.view.volumes[&VOLUME].size_bytes;
    let early = asker.clone();
    for _ in 0..3 {
        let n = asker.skip();
        assert_eq!(asker.write_at(&mut b, n, end, 4096), OUT_OF_RANGE);
    }
    grow(&mut b, VOLUME);
    assert_eq!(early.write_at(&mut b, 2, end, 4096), None);
    b.pass(Duration::from_secs(2));
    assert_eq!(b.told.get(&Asker::id(2)), None);
}
