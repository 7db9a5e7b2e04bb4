//! What a window holds at most while nothing leaves it: no segment is written here.

use super::VolumeConfig;
use super::bench::{Asker, Bench};
use crate::messages::VolumeReply;

const WINDOW: u64 = 64 << 10;

fn small() -> VolumeConfig {
    VolumeConfig {
        window_bytes: WINDOW,
        ..VolumeConfig::default()
    }
}

/// One byte, over and over: a window's worth of them would be far more memory than a window.
#[test]
fn records_are_bounded_whatever_they_carry() {
    let mut b = Bench::new(small());
    b.held = Some(Vec::new());
    let mut asker = Asker::new(&mut b);
    let done = |told: &Option<VolumeReply>| *told == Some(VolumeReply::Done);
    let writes = (0..2000).map(|_| asker.write_next(&mut b, 1));
    let written = writes.take_while(done).count() as u64;
    assert!(
        (100..300).contains(&written),
        "{written} writes of one byte"
    );
    // What may free space goes on, and has an end too.
    let zeros = (0..2000).map(|_| asker.zero_next(&mut b, 4096));
    let zeroed = zeros.take_while(done).count() as u64;
    assert!((100..600).contains(&zeroed), "{zeroed} zeroed");
}
