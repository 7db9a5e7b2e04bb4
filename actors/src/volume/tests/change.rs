//! Changes of the replicas (R5, R6), against disks that hold what they are told.

use std::collections::BTreeMap;

use model::ids::{DiskId, Incarnation, SessionId};
use model::journal::SealReport;
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

use super::*;

const VOLUME: VolumeId = VolumeId(1);
const EPOCH: Epoch = Epoch(5);
const NOW: Time = Time(1_000_000_000);

fn disk(id: u32) -> DiskRef {
    DiskRef {
        disk: DiskId(id),
        incarnation: Incarnation(1),
    }
}

fn config(version: u64, replicas: &[u32]) -> JournalConfig {
    JournalConfig {
        version: Version(version),
        replicas: replicas.iter().map(|id| disk(*id)).collect(),
        next: None,
    }
}

/// A journal and the logs of its disks: the last position of each that has joined.
struct World {
    journal: Journal,
    ids: RequestIds,
    disks: BTreeMap<DiskId, Position>,
    version: u64,
}

impl World {
    fn new(replicas: &[u32]) -> Self {
        let adopted = Adopted::founding(CommittedCheckpoint::backstop(Checkpoint::EMPTY));
        let terms = JournalTerms::default();
        let journal = Journal::start(VOLUME, EPOCH, &config(1, replicas), terms, adopted);
        Self {
            journal,
            ids: RequestIds::default(),
            disks: BTreeMap::new(),
            version: 1,
        }
    }

    /// Sends what is due; the disks that `answers` answer, the others are silent.
    fn exchange(&mut self, answers: impl Fn(DiskId) -> bool) {
        for _ in 0..8 {
            let mut out = Vec::new();
            self.journal.renew();
            self.journal.pump(NOW, &mut self.ids, &mut out);
            for sent in out {
                let id = sent.at.disk;
                if !answers(id) {
                    continue;
                }
                let reply = self.answer(id, &sent.request);
                let taken = self.journal.reply(NOW, id, sent.id, &reply);
                taken.expect("no higher epoch");
            }
            self.journal.advance(NOW);
        }
        // The silent ones' requests are lost.
        self.journal.expire(NOW + JournalTerms::default().retry);
    }

    fn answer(&mut self, id: DiskId, request: &DiskRequest) -> DiskReply {
        match request {
            DiskRequest::Join { .. } => {
                let last = *self.disks.entry(id).or_insert(Position::ZERO);
                let report = SealReport {
                    epoch: EPOCH,
                    base: Position::ZERO,
                    last,
                    committed: Position::ZERO,
                    checkpoint: None,
                };
                DiskReply::Joined { report }
            }
            _ if !self.disks.contains_key(&id) => DiskReply::Unknown,
            DiskRequest::Reset { base, .. } => {
                self.disks.insert(id, *base);
                DiskReply::Appended {
                    last: *base,
                    leased: false,
                    short: false,
                }
            }
            DiskRequest::Append { prev, records, .. } => {
                let held = self.disks[&id];
                if held < *prev {
                    return DiskReply::Mismatch {
                        base: Position::ZERO,
                        last: held,
                    };
                }
                let sent = records.last().map_or(*prev, |r| r.position);
                let last = held.max(sent);
                self.disks.insert(id, last);
                DiskReply::Appended {
                    last,
                    leased: true,
                    short: false,
                }
            }
            other => panic!("not asked of a disk here: {other:?}"),
        }
    }

    fn write(&mut self) -> Position {
        self.journal.append(
            RecordBody::Close(SessionId(Position::ZERO)),
            Payload::empty(),
        )
    }

    fn settle(&mut self, replicas: &[u32]) {
        self.version += 1;
        let settled = self.journal.settle_change(&config(self.version, replicas));
        assert_eq!(settled, Ok(()));
    }
}

#[test]
fn while_a_change_is_pending_both_sets_acknowledge_and_lease() {
    let mut w = World::new(&[1, 2, 3]);
    w.exchange(|_| true);
    let before = w.journal.committed();
    w.journal.begin_change(vec![disk(1), disk(4)]);
    // The lease of a quorum of the old set is not enough: the new set's needs disk 4.
    assert_eq!(w.journal.leased_until(), Time::ZERO);
    w.write();
    w.exchange(|id| id.0 != 4);
    assert_eq!(w.journal.committed(), before);
    assert!(!w.journal.change_is_ready());
    w.exchange(|id| id.0 != 2 && id.0 != 3);
    assert_eq!(w.journal.committed(), w.journal.log().last());
    assert!(w.journal.change_is_ready());
    w.settle(&[1, 4]);
    assert!(w.journal.leased_until() > NOW);
    let last = w.write();
    w.exchange(|id| id.0 != 4);
    assert!(w.journal.committed() < last, "two of two acknowledge (R6)");
    w.exchange(|_| true);
    assert_eq!(w.journal.committed(), last);
}

/// Seed 20544: a set was adopted whose new replica had not joined; then a site was lost, and
/// one copy was left, while the replaced member was back.
#[test]
fn a_set_is_adopted_with_its_new_replica_filled() {
    let mut w = World::new(&[1, 2, 3]);
    w.exchange(|_| true);
    w.journal.begin_change(vec![disk(1), disk(4), disk(3)]);
    w.exchange(|id| id.0 != 2 && id.0 != 4);
    assert_eq!(w.journal.committed(), w.journal.log().last());
    assert!(!w.journal.change_is_ready());
    // The other old one may be silent.
    w.exchange(|id| id.0 != 2 && id.0 != 3);
    assert!(w.journal.change_is_ready());
}

#[test]
fn a_cancelled_change_leaves_the_old_set_alone() {
    let mut w = World::new(&[1, 2, 3]);
    w.exchange(|_| true);
    w.journal.begin_change(vec![disk(1), disk(2), disk(4)]);
    w.settle(&[1, 2, 3]);
    assert_eq!(w.journal.next_members(), None);
    let last = w.write();
    w.exchange(|id| id.0 != 1);
    assert_eq!(w.journal.committed(), last);
}

/// What the group answers is a peer's word: a set that was never proposed changes nothing.
#[test]
fn a_foreign_set_is_refused() {
    let mut w = World::new(&[1, 2, 3]);
    w.exchange(|_| true);
    assert_eq!(
        w.journal.settle_change(&config(2, &[1, 2, 4])),
        Err(Foreign)
    );
    w.journal.begin_change(vec![disk(1), disk(2), disk(4)]);
    assert_eq!(
        w.journal.settle_change(&config(2, &[1, 2, 5])),
        Err(Foreign)
    );
    w.version = 2;
    w.settle(&[1, 2, 3]);
}

/// R6: of two, one is dead. The owner commits nothing before the set is another one, and what
/// it adopted is then on both.
#[test]
fn a_lost_one_of_two_is_replaced_before_anything_commits() {
    let mut w = World::new(&[1, 2]);
    let start = w.journal.log().last();
    w.exchange(|id| id.0 != 2);
    assert!(w.journal.committed() < start);
    w.journal.begin_change(vec![disk(1), disk(5)]);
    w.exchange(|id| id.0 != 2);
    assert!(w.journal.committed() < start, "the old set has no quorum");
    assert!(w.journal.change_is_ready());
    w.settle(&[1, 5]);
    w.exchange(|id| id.0 != 2);
    assert_eq!(w.journal.committed(), start);
    assert_eq!(w.disks[&DiskId(5)], start);
}

/// Two lives of one disk in one change: an answer counts for the life that was asked.
#[test]
fn a_disks_new_life_replaces_its_old_one() {
    let mut w = World::new(&[1, 2, 3]);
    w.exchange(|_| true);
    let reborn = DiskRef {
        disk: DiskId(2),
        incarnation: Incarnation(2),
    };
    w.journal.begin_change(vec![disk(1), reborn, disk(3)]);
    w.write();
    w.exchange(|_| true);
    assert!(w.journal.change_is_ready());
    assert_eq!(w.journal.committed(), w.journal.log().last());
    let replicas = vec![disk(1), reborn, disk(3)];
    let settled = w.journal.settle_change(&JournalConfig {
        version: Version(2),
        replicas,
        next: None,
    });
    assert_eq!(settled, Ok(()));
    assert_eq!(w.journal.replicas_current(), 3);
}

#[derive(Clone, Debug)]
enum Step {
    Write,
    Exchange(u8),
    Begin(Vec<u32>),
    End,
}

fn step() -> impl Strategy<Value = Step> {
    let set = prop::sample::subsequence(vec![1_u32, 2, 3, 4, 5], 2..=3);
    prop_oneof![
        3 => prop::strategy::Just(Step::Write),
        5 => any::<u8>().prop_map(Step::Exchange),
        2 => set.prop_map(Step::Begin),
        3 => prop::strategy::Just(Step::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever changes, and whoever is silent: what is committed is held by a disk of every
    /// seal quorum of the committed set (a new owner asks only that).
    #[test]
    fn a_seal_always_meets_what_was_committed(steps in prop::collection::vec(step(), 1..60)) {
        let mut w = World::new(&[1, 2, 3]);
        let mut committed = w.journal.committed();
        let mut members = vec![1, 2, 3];
        let mut next: Option<Vec<u32>> = None;
        for step in steps {
            match step {
                Step::Write => {
                    w.write();
                }
                Step::Exchange(silent) => w.exchange(|id| silent & (1 << id.0) == 0),
                Step::Begin(set) if next.is_none() && set != members => {
                    w.journal.begin_change(set.iter().map(|id| disk(*id)).collect());
                    next = Some(set);
                }
                Step::End if next.is_some() => {
                    let set = next.take().expect("just seen");
                    if w.journal.change_is_ready() {
                        members = set;
                    }
                    w.settle(&members);
                }
                Step::Begin(_) | Step::End => {}
            }
            assert!(w.journal.committed() >= committed, "commits are never taken back");
            committed = w.journal.committed();
            let holds = |id: &&u32| w.disks.get(&DiskId(**id)).is_some_and(|p| *p >= committed);
            let holders = members.iter().filter(holds).count();
            let need = JournalConfig::seal_quorum(members.len());
            let missed = members.len() - holders;
            assert!(committed == Position::ZERO || missed < need, "{members:?} {:?}", w.disks);
        }
    }
}

/// A journal that is founded on a checkpoint sends resets that replicas take: what a checkpoint
/// covers ends where its record is, or before (R3). (The record's place was nought once, and no
/// volume started that had ended cleanly.)
#[test]
fn founding_on_a_checkpoint_makes_resets_in_order() {
    let covers = Position {
        epoch: Epoch(3),
        seq: Seq(94),
    };
    let checkpoint = Checkpoint {
        covers,
        ..Checkpoint::EMPTY
    };
    let adopted = Adopted::founding(CommittedCheckpoint::backstop(checkpoint));
    let terms = JournalTerms::default();
    let mut w = World::new(&[1, 2, 3]);
    w.journal = Journal::start(VOLUME, EPOCH, &config(1, &[1, 2, 3]), terms, adopted);
    let mut resets = 0;
    for _ in 0..3 {
        let mut out = Vec::new();
        w.journal.pump(NOW, &mut w.ids, &mut out);
        for sent in out {
            if let DiskRequest::Reset { base, at, .. } = &sent.request {
                assert!(*base == covers && *at >= covers);
                resets += 1;
            }
            let id = sent.at.disk;
            let reply = w.answer(id, &sent.request);
            let taken = w.journal.reply(NOW, id, sent.id, &reply);
            taken.expect("no higher epoch");
        }
    }
    assert_eq!(resets, 3);
}
