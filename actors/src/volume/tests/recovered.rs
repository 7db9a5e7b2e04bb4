//! The first owner after a recovery with loss.

use std::time::Duration;

use model::ids::{Epoch, Position};
use model::placement::{Recovered, RecoveredFrom};
use model::time::WallTime;

use super::VolumeConfig;
use super::bench::{Bench, VOLUME, view};

/// R7: replicas that are lost may have granted leases to the last owner, and nobody is left to tell
/// when they end: nothing is served, and nothing told, before they are over.
#[test]
fn leases_of_lost_replicas_are_waited_for() {
    let mut view = view();
    let record = view.volumes.get_mut(&VOLUME).expect("there is one");
    record.recovered = Some(Recovered {
        epoch: Epoch(0),
        from: RecoveredFrom::Checkpoint,
        covered: Position::ZERO,
        at: WallTime::default(),
        pending: true,
    });
    let config = VolumeConfig::default();
    let wait = 2 * config.journal.lease;
    let mut b = Bench::starting(config, view);
    b.pass(wait - Duration::from_millis(1));
    assert!(!b.volume.stats().serving);
    b.pass(Duration::from_millis(10));
    assert!(b.volume.stats().serving);
}
