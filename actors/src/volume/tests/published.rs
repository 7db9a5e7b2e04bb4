use std::time::Duration;

use model::geometry::{Code, Pool};
use model::ids::Position;

use super::PUT_OFF_MAX;
use crate::messages::VolumeReply;
use crate::volume::bench::{Asker, Bench, VOLUME, view};
use crate::volume::{Input, VolumeConfig};

/// R28: a base that can't be read makes every checkpoint partial. It is told late, and not never:
/// what checkpoints drop is deleted only then (R15).
#[test]
fn a_lost_base_puts_off_publication_and_does_not_end_it() {
    let mut view = view();
    let code = view.volumes[&VOLUME].code;
    let (of_index, without) = (Code::INDEX, None);
    let pool = |code| Pool {
        without,
        ..Pool::of(code)
    };
    let table = view.pools[&pool(of_index)].clone();
    view.pools.insert(pool(code), table);
    let mut b = Bench::of(VolumeConfig::default(), view);
    let published = |b: &Bench| -> Position { b.view.volumes[&VOLUME].checkpoint.covers };
    let mut asker = Asker::new(&mut b);
    assert_eq!(asker.write(&mut b, 1, 4096), Some(VolumeReply::Done));
    b.pass(Duration::from_secs(5));
    let whole = published(&b);
    assert!(whole > Position::ZERO);
    let data = b.segments.iter().find(|(_, data)| data[0] == 7);
    let name = *data.expect("it was drained").0;
    b.lost.insert((name, 0));
    b.handle(Input::DropCache);
    let n = asker.skip();
    assert_eq!(asker.write_at(&mut b, n, 512, 512), Some(VolumeReply::Done));
    b.pass(PUT_OFF_MAX - Duration::from_secs(10));
    assert_eq!(published(&b), whole);
    b.pass(Duration::from_secs(30));
    let late = published(&b);
    assert!(late > whole, "put off for ever");
    // And the next one is put off anew.
    b.pass(Duration::from_secs(30));
    assert_eq!(published(&b), late);
    b.lost.clear();
    b.pass(Duration::from_secs(30));
    assert!(published(&b) > late);
}
