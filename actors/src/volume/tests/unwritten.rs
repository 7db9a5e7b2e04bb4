//! What can't be written leaves nothing behind (R16).

use std::time::Duration;

use model::geometry::{Code, Pool};

use super::VolumeConfig;
use super::bench::{Asker, Bench, VOLUME, view};
use crate::messages::VolumeReply;

/// More leaves than one segment of the index holds.
const LEAVES: u64 = 1100;

/// A checkpoint of several segments, one of which can't be written: the others were, and no root
/// will ever reach them.
#[test]
fn what_was_written_of_a_plan_that_failed_is_deleted() {
    let mut view = view();
    let record = view.volumes.get_mut(&VOLUME).expect("there is one");
    record.size_bytes = 4 << 30;
    let (of_data, without) = (record.code, None);
    let pool = |code| Pool {
        without,
        ..Pool::of(code)
    };
    let table = view.pools[&pool(Code::INDEX)].clone();
    view.pools.insert(pool(of_data), table);
    let config = VolumeConfig {
        index_pending_bytes: 4096,
        ..VolumeConfig::default()
    };
    let mut b = Bench::of(config, view);
    let mut asker = Asker::new(&mut b);
    b.unwritable_after = Some(1);
    for leaf in 0..LEAVES {
        let n = if leaf == 0 { 1 } else { asker.skip() };
        let told = asker.write_at(&mut b, n, leaf << 20, 4096);
        assert_eq!(told, Some(VolumeReply::Done));
    }
    b.pass(Duration::from_secs(30));
    assert_eq!(
        b.unwritable_after, None,
        "a plan of several segments failed"
    );
    let record = &b.view.volumes[&VOLUME];
    assert!(record.checkpoint.root.is_some(), "another one did not");
    let left =
        |b: &Bench| -> usize { b.segments.keys().filter(|s| !b.deleted.contains(s)).count() };
    let (written, root) = (left(&b), record.checkpoint.root);
    // Data, and the index as it is.
    let index: Vec<_> = b
        .segments
        .keys()
        .filter(|s| !b.deleted.contains(s))
        .collect();
    assert!(root.is_some_and(|r| index.contains(&&r.segment)));
    assert_eq!(written, reached(&b), "{index:?}");
}

/// How many segments the volume says that it has.
fn reached(b: &Bench) -> usize {
    let stats = b.volume.stats();
    usize::try_from(stats.segments).expect("few")
}
