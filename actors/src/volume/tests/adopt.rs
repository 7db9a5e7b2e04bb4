//! What replicas say of their logs is a peer's word: it makes a log that can be replayed, or none.

use model::ids::{Seq, SessionId};
use model::journal::{Checkpoint, Part};

use super::*;
use crate::volume::bench;

const VOLUME: VolumeId = VolumeId(1);
const EPOCH: Epoch = Epoch(5);

fn at(epoch: u64, seq: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
    }
}

fn record(position: Position, body: RecordBody, payload_len: u32) -> RecordHead {
    RecordHead {
        position,
        body,
        payload_len,
    }
}

fn close(position: Position) -> RecordHead {
    record(position, RecordBody::Close(SessionId(at(1, 1))), 0)
}

fn covering(position: Position, covers: Position) -> RecordHead {
    let checkpoint = Checkpoint {
        covers,
        ..Checkpoint::EMPTY
    };
    record(position, RecordBody::Checkpoint(checkpoint), 0)
}

/// Whether a log that begins after (2, 10), and has (2, 11) and (3, 12), takes one more record.
fn takes(next: RecordHead) -> bool {
    let mut log = Log::new(at(2, 10));
    let of = (VOLUME, EPOCH);
    let held = vec![close(at(2, 11)), close(at(3, 12))];
    assert!(extend(&mut log, of, held, &Bytes::new()));
    let payload = Bytes::from(vec![0; next.payload_len as usize]);
    extend(&mut log, of, vec![next], &payload)
}

#[test]
fn a_log_goes_on_below_the_epoch_that_adopts_it() {
    assert!(takes(close(at(3, 13))) && takes(close(at(4, 13))));
    for position in [at(2, 13), at(3, 12), at(3, 14), at(5, 13), at(6, 13)] {
        assert!(!takes(close(position)), "{position:?}");
    }
}

#[test]
fn a_log_holds_what_can_be_replayed() {
    let part = Part {
        session: SessionId(at(1, 1)),
        n: 1,
        low: 1,
    };
    let write = |sums: usize| RecordBody::Write {
        part,
        offset: 0,
        sums: vec![0; sums],
    };
    assert!(takes(record(at(3, 13), write(2), 8192)));
    assert!(!takes(record(at(3, 13), write(1), 8192)));
    let kept = |offset| record(at(3, 13), RecordBody::Kept { offset }, 100);
    assert!(takes(kept(0)));
    assert!(!takes(kept(4000)));
    let zero = |offset, length| RecordBody::Zero {
        part,
        offset,
        length,
        allocate: false,
    };
    assert!(takes(record(at(3, 13), zero(0, u64::MAX), 0)));
    assert!(!takes(record(at(3, 13), zero(2, u64::MAX), 0)));
}

#[test]
fn a_checkpoint_covers_a_place_of_the_log_or_what_is_before_it() {
    for covers in [at(1, 3), at(2, 9), at(2, 10), at(2, 11), at(3, 12)] {
        assert!(takes(covering(at(3, 13), covers)), "{covers:?}");
    }
    for covers in [at(3, 9), at(1, 10), at(3, 11), at(2, 12), at(3, 13)] {
        assert!(!takes(covering(at(3, 13), covers)), "{covers:?}");
    }
}

#[test]
fn a_replica_that_holds_what_nobody_wrote_yet_counts_for_nothing() {
    let report = |base, last, checkpoint| SealReport {
        epoch: EPOCH,
        base,
        last,
        committed: Position::ZERO,
        checkpoint,
    };
    let (low, own) = (at(4, 9), at(5, 9));
    let known = |at, covers| {
        let checkpoint = Checkpoint {
            covers,
            ..Checkpoint::EMPTY
        };
        Some((at, checkpoint, Vec::new()))
    };
    assert!(is_below(&report(low, low, None), EPOCH));
    assert!(is_below(&report(low, low, known(low, low)), EPOCH));
    assert!(!is_below(&report(own, low, None), EPOCH));
    assert!(!is_below(&report(low, own, None), EPOCH));
    assert!(!is_below(&report(low, low, known(own, low)), EPOCH));
    assert!(!is_below(&report(low, low, known(low, own)), EPOCH));
}

/// Epoch 5's owner, and who is asked: three replicas, of which the first one is in its site.
struct Owner {
    recovery: Recovery,
    replicas: Vec<DiskRef>,
    ids: RequestIds,
    out: Vec<ToDisk>,
    now: Time,
}

impl Owner {
    fn new() -> Self {
        Self::near(1)
    }

    /// So many replicas, the first ones, are in its site.
    fn near(count: usize) -> Self {
        let mut record = bench::view().volumes[&VOLUME].clone();
        (record.epoch, record.founded, record.clean) = (EPOCH, Epoch(2), false);
        let replicas = record.journal.replicas.clone();
        let recovery = Recovery::new(&record, replicas[..count].to_vec(), Duration::from_secs(1));
        let (ids, now) = (RequestIds::after(RequestId(1)), Time(1_000_000_000));
        let mut owner = Self {
            recovery,
            replicas,
            ids,
            out: Vec::new(),
            now,
        };
        owner.pump();
        owner
    }

    fn pump(&mut self) {
        self.recovery.pump(self.now, &mut self.ids, &mut self.out);
    }

    /// Who was asked last, and for what.
    fn asked(&self) -> (DiskRef, RequestId, &DiskRequest) {
        let last = self.out.last().expect("somebody was asked");
        (last.at, last.id, &last.request)
    }

    fn seal(&mut self, replica: usize, last: Position) -> RecoveryStep {
        let report = SealReport {
            epoch: EPOCH,
            base: Position::ZERO,
            last,
            committed: Position::ZERO,
            checkpoint: None,
        };
        let at = self.replicas[replica];
        let asked = self.out.iter().find(|m| m.at == at).expect("it was asked");
        let id = asked.id;
        self.reply((at, id), DiskReply::Sealed(report))
    }

    fn reply(&mut self, from: (DiskRef, RequestId), reply: DiskReply) -> RecoveryStep {
        let (ids, out) = (&mut self.ids, &mut self.out);
        let step = self
            .recovery
            .reply(self.now, from, reply, Bytes::new(), ids, out);
        step.expect("nobody else owns it")
    }

    /// Whoever is asked now says this; who is asked next, and from where on.
    fn then(&mut self, reply: DiskReply) -> (DiskRef, Seq) {
        let (at, id, _) = self.asked();
        assert!(matches!(self.reply((at, id), reply), RecoveryStep::Waiting));
        match self.asked() {
            (at, _, DiskRequest::Fetch { from, .. }) => (at, *from),
            (_, _, other) => panic!("a fetch, not {other:?}"),
        }
    }
}

fn records(seqs: std::ops::RangeInclusive<u64>) -> DiskReply {
    let records = seqs.map(|seq| close(at(4, seq))).collect();
    DiskReply::Fetched { records }
}

/// What it sent stays, and it lost nothing that an operator would have to know of.
#[test]
fn a_near_replica_that_is_busy_is_done_without() {
    let mut owner = Owner::new();
    owner.seal(0, at(4, 20));
    owner.seal(1, at(4, 30));
    let (near, far) = (owner.replicas[0], owner.replicas[1]);
    assert_eq!(owner.asked().0, near);
    assert_eq!(owner.then(records(1..=10)), (near, Seq(11)));
    assert_eq!(owner.then(DiskReply::Busy), (far, Seq(11)));
    assert_eq!(owner.recovery.heard(), (3, 2, 0));
    let (_, id, _) = owner.asked();
    match owner.reply((far, id), records(11..=30)) {
        RecoveryStep::Adopted(adopted) => assert_eq!(adopted.log.last(), at(4, 30)),
        RecoveryStep::Waiting => panic!("all is there"),
    }
}

/// A replica without its log any more counts for nothing, near or not.
#[test]
fn a_near_replica_that_lost_its_log_is_known_to() {
    let mut owner = Owner::new();
    owner.seal(0, at(4, 20));
    owner.seal(1, at(4, 30));
    let (near, id, _) = owner.asked();
    let step = owner.reply((near, id), DiskReply::Damaged);
    assert!(matches!(step, RecoveryStep::Waiting));
    assert_eq!(owner.recovery.heard(), (3, 1, 1));
}

/// All sealed, and who was fetched from says no more: the others have what was acknowledged.
#[test]
fn a_source_that_fails_and_stays_away_is_done_without() {
    for last_word in [DiskReply::Busy, DiskReply::Damaged] {
        let mut owner = Owner::near(0);
        owner.seal(0, at(4, 20));
        owner.seal(1, at(4, 30));
        owner.seal(2, at(4, 20));
        let (far, id, _) = owner.asked();
        assert_eq!(far, owner.replicas[1]);
        let step = owner.reply((far, id), last_word);
        assert!(matches!(step, RecoveryStep::Waiting));
        owner.now += Duration::from_secs(2);
        owner.out.clear();
        owner.pump();
        owner.seal(0, at(4, 20));
        owner.seal(2, at(4, 20));
        let (next, id, request) = owner.asked();
        assert!(
            next != far && matches!(request, DiskRequest::Fetch { .. }),
            "{request:?}"
        );
        match owner.reply((next, id), records(1..=20)) {
            RecoveryStep::Adopted(adopted) => assert_eq!(adopted.log.last(), at(4, 20)),
            RecoveryStep::Waiting => panic!("all is there"),
        }
    }
}
