//! The last resort (R11): a volume is recovered with loss by one committed entry, and nothing of
//! before counts any more.

mod harness;

use model::ids::{DiskRef, Epoch, NodeId, Position, Seq, SiteId};
use model::journal::Checkpoint;
use model::meta::{MetaReply, MetaRequest, Refusal};
use model::placement::{RecoveredFrom, VolumeRecord};
use model::time::WallTime;

use harness::World;

const OWNER: NodeId = NodeId(5);
const NEXT: NodeId = NodeId(9);

fn at(epoch: Epoch, seq: u64) -> Position {
    Position {
        epoch,
        seq: Seq(seq),
    }
}

/// A volume that was founded, and published up to 10 in its epoch.
fn founded(w: &mut World) -> VolumeRecord {
    let v = w.create_volume(NEXT, "vol", SiteId(2));
    let claimed = w.claim(OWNER, &v);
    let publish = MetaRequest::Publish {
        volume: v.id,
        epoch: claimed.epoch,
        checkpoint: Checkpoint {
            covers: at(claimed.epoch, 10),
            ..Checkpoint::EMPTY
        },
        clean: false,
        at: WallTime(7),
    };
    assert_eq!(w.request(OWNER, publish), MetaReply::Done);
    w.read(NEXT, v.id)
}

fn recovery(v: &VolumeRecord, from: RecoveredFrom, covered: Position) -> MetaRequest {
    MetaRequest::RecoverVolume {
        volume: v.id,
        expected: v.epoch,
        version: v.journal.version,
        from,
        covered,
        replicas: v.journal.replicas.clone(),
        to: Some(NEXT),
        at: WallTime(1000),
    }
}

fn refused(reply: &MetaReply) -> Refusal {
    match reply {
        MetaReply::Refused { reason, .. } => *reason,
        other => panic!("it was done: {other:?}"),
    }
}

fn replica(v: &VolumeRecord) -> (DiskRef, RecoveredFrom) {
    let one = v.journal.replicas[1];
    (one, RecoveredFrom::Replica(one))
}

#[test]
fn a_recovery_is_a_new_generation_that_founds_anew() {
    let mut w = World::fabric(1, 3);
    let v = founded(&mut w);
    let (one, from) = replica(&v);
    let reply = w.request(NEXT, recovery(&v, from, at(v.epoch, 20)));
    let MetaReply::Volume(Some(now)) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(now.epoch.generation(), v.epoch.generation() + 1);
    assert!(now.journal.version > v.journal.version && now.is_to_found() && !now.clean);
    assert_eq!(now.to_salvage(), Some((one, at(v.epoch, 20))));
    // The last owner is fenced, and asking the same again is too late.
    let publish = MetaRequest::Publish {
        volume: v.id,
        epoch: v.epoch,
        checkpoint: v.checkpoint,
        clean: true,
        at: WallTime(8),
    };
    assert_eq!(refused(&w.request(OWNER, publish)), Refusal::StaleEpoch);
    let again = w.request(NEXT, recovery(&v, from, at(v.epoch, 20)));
    assert_eq!(refused(&again), Refusal::StaleEpoch);

    // Until the journal is founded, the only copy is not left.
    let claimed = w.claim(NEXT, &now);
    let change = MetaRequest::BeginJournalChange {
        volume: v.id,
        epoch: claimed.epoch,
        version: claimed.journal.version,
        replicas: vec![v.journal.replicas[0], v.journal.replicas[2]],
    };
    assert_eq!(refused(&w.request(NEXT, change)), Refusal::BadReplicas);
    let publish = MetaRequest::Publish {
        volume: v.id,
        epoch: claimed.epoch,
        checkpoint: v.checkpoint,
        clean: false,
        at: WallTime(9),
    };
    assert_eq!(w.request(NEXT, publish), MetaReply::Done);
    let served = w.read(OWNER, v.id);
    assert_eq!(served.founded, claimed.epoch);
    // That it happened stays.
    let recovered = served.recovered.expect("it was recovered");
    assert!(!recovered.pending && served.to_recover().is_none());
    assert_eq!(
        (recovered.covered, recovered.at),
        (at(v.epoch, 20), WallTime(1000))
    );
}

#[test]
fn nothing_older_than_the_record_is_taken() {
    let mut w = World::fabric(1, 3);
    let v = founded(&mut w);
    let (_, from) = replica(&v);
    for (from, covered) in [
        (from, at(v.epoch, 9)),
        (from, at(Epoch(v.epoch.0 - 1), 90)),
        (RecoveredFrom::Checkpoint, at(v.epoch, 11)),
    ] {
        let reply = w.request(NEXT, recovery(&v, from, covered));
        assert_eq!(refused(&reply), Refusal::BelowRecord, "{from:?} {covered}");
    }
    let nobody = RecoveredFrom::Replica(DiskRef::NONE);
    let reply = w.request(NEXT, recovery(&v, nobody, at(v.epoch, 20)));
    assert_eq!(refused(&reply), Refusal::BadReplicas);
    assert_eq!(w.read(NEXT, v.id), v, "nothing was changed");
}

#[test]
fn from_its_checkpoint_a_volume_is_clean_again() {
    let mut w = World::fabric(1, 3);
    let v = founded(&mut w);
    let covers = v.checkpoint.covers;
    let reply = w.request(NEXT, recovery(&v, RecoveredFrom::Checkpoint, covers));
    let MetaReply::Volume(Some(now)) = reply else {
        panic!("{reply:?}");
    };
    assert!(now.clean && now.to_salvage().is_none());
    assert!(now.recovered.is_some_and(|r| r.pending));

    // Of one that ended cleanly nothing is lost, and nothing is said.
    let v = w.create_volume(NEXT, "idle", SiteId(1));
    let reply = w.request(
        NEXT,
        recovery(&v, RecoveredFrom::Checkpoint, Position::ZERO),
    );
    let MetaReply::Volume(Some(now)) = reply else {
        panic!("{reply:?}");
    };
    assert!(now.clean && now.recovered.is_none() && now.epoch > v.epoch);
}
