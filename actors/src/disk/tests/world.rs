//! Random owners, a random network and a disk that crashes anywhere, against a model of what
//! the owners know. Every answer is checked at once against what a crash would leave *then*.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use model::ids::{Epoch, Position, RequestId, Seq, SessionId, VolumeId};
use model::journal::{Checkpoint, RecordBody, RecordHead, SealReport};
use model::payload::Payload;
use model::time::Time;
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert, prop_oneof, proptest};

use super::bench::{AT, Bench, INCARNATION};
use super::truth::{Owner, Truth, payload_of};
use crate::disk::DiskConfig;
use crate::disk::entry::Health;
use crate::messages::{DiskReply, DiskRequest};

const VOLUMES: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Op {
    Owner {
        v: usize,
        cut: u8,
    },
    Write {
        v: usize,
        old: bool,
        n: u8,
    },
    Checkpoint {
        v: usize,
        covers: u8,
    },
    Commit {
        v: usize,
        n: u8,
    },
    Append {
        v: usize,
        old: bool,
        from: u8,
        n: u8,
        lease: bool,
    },
    CatchUp {
        v: usize,
    },
    Seal {
        v: usize,
        old: bool,
    },
    Fetch {
        v: usize,
        from: u8,
    },
    Release {
        v: usize,
        old: bool,
    },
    Reset {
        v: usize,
        old: bool,
    },
    Deliver {
        i: u8,
        keep: bool,
    },
    Step {
        i: u8,
    },
    Settle,
    Advance {
        ms: u16,
    },
    Crash {
        keep: u8,
    },
    Damage {
        entry: u8,
        keep: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let v = 0..VOLUMES;
    let v = || v.clone();
    let b = any::<bool>;
    let n = any::<u8>;
    prop_oneof![
        2 => (v(), n()).prop_map(|(v, cut)| Op::Owner { v, cut }),
        6 => (v(), prop::bool::weighted(0.1), 1..4_u8).prop_map(|(v, old, n)| Op::Write { v, old, n }),
        3 => (v(), n()).prop_map(|(v, covers)| Op::Checkpoint { v, covers }),
        6 => (v(), 1..9_u8).prop_map(|(v, n)| Op::Commit { v, n }),
        8 => (v(), prop::bool::weighted(0.2), n(), 0..6_u8, b())
            .prop_map(|(v, old, from, n, lease)| Op::Append { v, old, from, n, lease }),
        8 => v().prop_map(|v| Op::CatchUp { v }),
        4 => (v(), prop::bool::weighted(0.2)).prop_map(|(v, old)| Op::Seal { v, old }),
        2 => (v(), n()).prop_map(|(v, from)| Op::Fetch { v, from }),
        1 => (v(), prop::bool::weighted(0.7)).prop_map(|(v, old)| Op::Release { v, old }),
        3 => (v(), prop::bool::weighted(0.2)).prop_map(|(v, old)| Op::Reset { v, old }),
        20 => (n(), prop::bool::weighted(0.2)).prop_map(|(i, keep)| Op::Deliver { i, keep }),
        14 => n().prop_map(|i| Op::Step { i }),
        4 => (0..1_u8).prop_map(|_| Op::Settle),
        4 => (0..700_u16).prop_map(|ms| Op::Advance { ms }),
        2 => (0..6_u8).prop_map(|keep| Op::Crash { keep }),
        1 => (n(), 0..6_u8).prop_map(|(entry, keep)| Op::Damage { entry, keep }),
    ]
}

#[derive(Clone)]
struct Sent {
    v: usize,
    epoch: u64,
    id: RequestId,
    request: DiskRequest,
    payload: Vec<u8>,
    /// When it, or a copy of it, came first. Its owner counts a lease from before that (R7),
    /// whichever of the copies is answered.
    came: Option<Time>,
}

struct World {
    bench: Bench,
    truths: Vec<Truth>,
    net: Vec<Sent>,
    /// Delivered, unanswered; with the promise known then.
    open: BTreeMap<RequestId, VecDeque<(Sent, u64)>>,
    sealed: u64,
}

fn volume(v: usize) -> VolumeId {
    VolumeId(u32::try_from(v).unwrap() + 1)
}

impl World {
    fn new() -> Self {
        let config = DiskConfig {
            files_max: 3,
            move_cheap_bytes: 300,
            move_credit_bytes_max: 2048,
            batch_entries_max: 5,
            ..DiskConfig::default()
        };
        let mut world = Self {
            bench: Bench::new(config, 5),
            truths: Vec::new(),
            net: Vec::new(),
            open: BTreeMap::new(),
            sealed: 0,
        };
        for v in 0..VOLUMES {
            let mut owner = Owner::default();
            owner.push(1, RecordBody::EpochStart);
            let truth = Truth {
                owners: vec![owner],
                promised: 1,
                ..Truth::default()
            };
            world.truths.push(truth);
            let request = DiskRequest::Join {
                incarnation: INCARNATION,
                volume: volume(v),
                epoch: Epoch(1),
                version: model::ids::Version(1),
            };
            world.bench.send(request, &[]);
            world.bench.records(1, &[AT], None);
            world.bench.run();
        }
        world.bench.answers.clear();
        world
    }

    fn send(&mut self, v: usize, epoch: u64, request: DiskRequest, payload: Vec<u8>) {
        let id = self.bench.request_id();
        self.net.push(Sent {
            v,
            epoch,
            id,
            request,
            payload,
            came: None,
        });
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Owner { v, cut } => self.new_owner(v, cut),
            Op::Write { v, old, n } => {
                let epoch = self.truths[v].pick(old);
                let owner = &mut self.truths[v].owners[usize::try_from(epoch).unwrap() - 1];
                for _ in 0..n {
                    owner.push(epoch, RecordBody::Close(SessionId(Position::ZERO)));
                }
            }
            Op::Checkpoint { v, covers } => {
                let epoch = self.truths[v].epoch();
                let owner = self.truths[v].owners.last_mut().unwrap();
                let first = owner.checkpoint().map_or(0, |(_, c)| c.covers.seq.0);
                let span = owner.committed.seq.0.max(first) - first;
                let covers = owner.position(first + span - u64::from(covers) % 4 % (span + 1));
                let checkpoint = Checkpoint {
                    covers,
                    ..Checkpoint::EMPTY
                };
                owner.push(epoch, RecordBody::Checkpoint(checkpoint));
            }
            Op::Commit { v, n } => {
                let epoch = self.truths[v].epoch();
                let owner = self.truths[v].owners.last_mut().unwrap();
                let first = owner.log.iter().find(|r| r.position.epoch.0 == epoch);
                let first = first.unwrap().position.seq.0;
                let seq = owner.committed.seq.0.max(first - 1) + u64::from(n);
                owner.committed = owner.position(seq.min(owner.len()));
                if let Some((_, c)) = owner.checkpoint() {
                    owner.trim = c.covers;
                }
            }
            Op::Append {
                v,
                old,
                from,
                n,
                lease,
            } => {
                let epoch = self.truths[v].pick(old);
                let len = self.truths[v].owner(epoch).len();
                let from = len.saturating_sub(u64::from(from) % 12);
                self.send_append(v, epoch, from, u64::from(n), lease);
            }
            Op::CatchUp { v } => {
                // What an owner does that follows its replica: everything from its end on.
                let epoch = self.truths[v].epoch();
                let Some(replica) = self.bench.disk.replicas.get(&volume(v)) else {
                    return;
                };
                let (log, owner) = (replica.log(), self.truths[v].owner(epoch));
                let agreed = log.from(Seq(0)).map(|r| r.head.position);
                let agreed = agreed.take_while(|p| owner.contains(*p)).last();
                let from = agreed.unwrap_or(log.base()).seq.0;
                self.send_append(v, epoch, from, 40, true);
            }
            Op::Seal { v, old } => {
                let epoch = self.truths[v].pick(old);
                let (incarnation, volume) = (INCARNATION, volume(v));
                let request = DiskRequest::Seal {
                    incarnation,
                    volume,
                    epoch: Epoch(epoch),
                };
                self.send(v, epoch, request, Vec::new());
            }
            Op::Fetch { v, from } => {
                let epoch = self.truths[v].epoch();
                let request = DiskRequest::Fetch {
                    incarnation: INCARNATION,
                    volume: volume(v),
                    epoch: Epoch(epoch),
                    from: Seq(u64::from(from) % 20),
                    bytes_max: 9,
                };
                self.send(v, epoch, request, Vec::new());
            }
            Op::Release { v, old } => {
                let epoch = self.truths[v].pick(old);
                let (incarnation, volume) = (INCARNATION, volume(v));
                let request = DiskRequest::Release {
                    incarnation,
                    volume,
                    epoch: Epoch(epoch),
                };
                // From here on it counts on no lease.
                self.truths[v].leases.retain(|(e, _)| *e != epoch);
                self.truths[v].released.insert(epoch);
                self.send(v, epoch, request, Vec::new());
            }
            Op::Reset { v, old } => self.send_reset(v, old),
            Op::Deliver { i, keep } => self.deliver(i, keep),
            Op::Step { i } => drop(self.bench.step(usize::from(i))),
            Op::Settle => self.bench.run(),
            Op::Advance { ms } => self.bench.advance(Duration::from_millis(ms.into())),
            Op::Crash { keep } => self.crash(usize::from(keep), None),
            Op::Damage { entry, keep } => self.crash(usize::from(keep), Some(usize::from(entry))),
        }
        for (v, truth) in self.truths.iter().enumerate() {
            let epoch = truth.epoch();
            let mut reads = std::mem::take(&mut self.bench.record_reads);
            let (mine, others) = reads
                .drain(..)
                .partition(|(_, volume_id)| *volume_id == volume(v));
            self.bench.record_reads = mine;
            self.bench.records(epoch, &[AT], None);
            self.bench.record_reads.extend::<VecDeque<_>>(others);
        }
        self.take_answers();
        self.check();
    }

    fn new_owner(&mut self, v: usize, cut: u8) {
        let truth = &mut self.truths[v];
        let newest = truth.owners.last().unwrap();
        let committed = newest.committed;
        // Any earlier owner's log that holds what is committed, cut anywhere after it.
        let able: Vec<&Owner> = truth
            .owners
            .iter()
            .rev()
            .filter(|o| o.contains(committed))
            .collect();
        let from = able[usize::from(cut) % 2 % able.len()];
        let span = from.len() - committed.seq.0;
        let keep = from.len() - u64::from(cut / 2) % 5 % (span + 1);
        let mut owner = Owner {
            log: from.log[..usize::try_from(keep).unwrap()].to_vec(),
            committed,
            trim: newest.trim,
        };
        let epoch = truth.epoch() + 1;
        owner.push(epoch, RecordBody::EpochStart);
        truth.owners.push(owner);
    }

    fn send_append(&mut self, v: usize, epoch: u64, from: u64, n: u64, lease: bool) {
        let owner = self.truths[v].owner(epoch);
        let from = from.min(owner.len());
        let upto = (from + n).min(owner.len());
        let records =
            owner.log[usize::try_from(from).unwrap()..usize::try_from(upto).unwrap()].to_vec();
        let payload = records
            .iter()
            .flat_map(|r| payload_of(r.position))
            .collect();
        let request = DiskRequest::Append {
            incarnation: INCARNATION,
            volume: volume(v),
            epoch: Epoch(epoch),
            prev: owner.position(from),
            records,
            committed: owner.committed,
            trim: owner.trim,
            lease,
        };
        self.send(v, epoch, request, payload);
    }

    fn send_reset(&mut self, v: usize, old: bool) {
        let epoch = self.truths[v].pick(old);
        let owner = self.truths[v].owner(epoch);
        let (position, checkpoint) = owner
            .checkpoint()
            .unwrap_or((Position::ZERO, Checkpoint::EMPTY));
        let payload = match position {
            Position::ZERO => Vec::new(),
            p => payload_of(p).to_vec(),
        };
        let request = DiskRequest::Reset {
            founded: Epoch(0),
            incarnation: INCARNATION,
            volume: volume(v),
            epoch: Epoch(epoch),
            base: checkpoint.covers,
            at: position,
            checkpoint,
        };
        self.send(v, epoch, request, payload);
    }

    fn deliver(&mut self, i: u8, keep: bool) {
        if self.net.is_empty() {
            return;
        }
        let i = usize::from(i) % self.net.len();
        self.net[i].came.get_or_insert(self.bench.now);
        let sent = if keep {
            self.net[i].clone()
        } else {
            self.net.remove(i)
        };
        let truth = &mut self.truths[sent.v];
        if matches!(
            sent.request,
            DiskRequest::Append { .. } | DiskRequest::Reset { .. }
        ) {
            truth.wrote.insert(sent.epoch);
        }
        let open = (sent.clone(), truth.promised);
        self.open.entry(sent.id).or_default().push_back(open);
        self.bench.send_as(sent.id, sent.request, &sent.payload);
    }

    fn crash(&mut self, keep: usize, damage: Option<usize>) {
        self.open.clear();
        let Some(entry) = damage else {
            self.bench.lose_power(keep);
            self.bench.restart();
            for (v, truth) in self.truths.iter_mut().enumerate() {
                // A restart forgets releases; those owners count on nothing any more.
                let replica = &self.bench.disk.replicas.get(&volume(v));
                let Some(replica) = replica else {
                    assert!(truth.wounded);
                    continue;
                };
                assert!(
                    replica.promised().0 >= truth.promised,
                    "a promise went back"
                );
                if !truth.wounded && replica.health() == Health::Whole {
                    truth.check_claims(replica.log());
                }
                assert!(truth.wounded || replica.health() == Health::Whole);
            }
            return;
        };
        self.bench.lose_power(keep);
        let entries = self.bench.store.entries.len();
        if entries > 0 {
            self.bench.store.lose(entry % entries);
        }
        self.bench.restart();
        for truth in &mut self.truths {
            truth.wounded = true;
            truth.promised = 0;
            // Owners hear of it: what they did not commit by this disk's word, they never will.
            let newest = truth.owners.last().unwrap();
            let committed = |p: &Position| p.seq <= newest.committed.seq && newest.contains(*p);
            truth.claims.retain(|(_, last)| committed(last));
        }
        self.net
            .retain(|s| !matches!(s.request, DiskRequest::Reset { .. }));
    }

    fn take_answers(&mut self) {
        while let Some((id, reply, payload)) = self.bench.answers.pop_front() {
            let (sent, promised) = self.open.get_mut(&id).unwrap().pop_front().unwrap();
            self.check_answer(&sent, promised, &reply, payload);
        }
    }

    fn check_answer(&mut self, sent: &Sent, promised: u64, reply: &DiskReply, payload: Payload) {
        let (now, epoch, v) = (self.bench.now, sent.epoch, volume(sent.v));
        let crashed = self.bench.recovered();
        let truth = &mut self.truths[sent.v];
        match reply {
            DiskReply::Appended { last, leased, .. } => {
                assert!(epoch >= promised, "a lower epoch's append after a promise");
                assert!(
                    truth.owner(epoch).contains(*last),
                    "it claims what was never sent"
                );
                let claim = (epoch, *last);
                let replica = &crashed.replicas[&v];
                assert!(replica.promised().0 >= epoch, "the promise was not durable");
                truth.promised = truth.promised.max(epoch);
                let log = replica.log();
                let held = log.position_at(last.seq) == Some(*last) || log.base().seq >= last.seq;
                assert!(
                    held || !truth.is_valid(claim),
                    "acknowledged before it was durable"
                );
                truth.claims.push(claim);
                if *leased && !truth.released.contains(&epoch) {
                    let came = sent.came.expect("it was delivered");
                    truth
                        .leases
                        .push((epoch, came + self.bench.config.lease_term));
                }
            }
            DiskReply::Sealed(report) => {
                self.sealed += 1;
                assert!(epoch >= promised && report.epoch.0 == epoch);
                for (lower, until) in truth.leases.iter().filter(|(e, _)| *e < epoch) {
                    assert!(
                        now >= *until,
                        "sealed {epoch} while {lower} holds a lease (R7)"
                    );
                }
                let replica = &crashed.replicas[&v];
                assert!(replica.promised().0 >= epoch, "the promise was not durable");
                truth.promised = truth.promised.max(epoch);
                if replica.promised().0 == epoch {
                    assert_eq!(replica.health(), Health::Whole);
                    // By (epoch, seq): the same owner may have cut off an older one's tail since.
                    assert!(replica.log().last() >= report.last);
                    truth.check_claims(replica.log());
                    truth.wounded = false;
                }
                check_report(truth, report);
            }
            DiskReply::Fenced { promised } => assert!(promised.0 > epoch),
            DiskReply::Fetched { records } => check_fetched(truth, sent, records, payload),
            DiskReply::Unknown | DiskReply::Damaged => assert!(truth.wounded),
            DiskReply::Mismatch { .. } | DiskReply::Released | DiskReply::Busy => {}
            other => panic!("{other:?} to {:?}", sent.request),
        }
    }

    fn check(&self) {
        assert_eq!(self.bench.retired, 0);
        for (v, truth) in self.truths.iter().enumerate() {
            let Some(replica) = self.bench.disk.replicas.get(&volume(v)) else {
                continue;
            };
            if replica.health() != Health::Damaged {
                truth.check_log(replica.log());
                truth.check_trim(&self.bench.disk, volume(v));
            }
        }
    }
}

fn check_report(truth: &Truth, report: &SealReport) {
    let newest = truth.owners.last().unwrap();
    assert!(report.base.seq <= report.committed.seq && report.committed.seq <= report.last.seq);
    if let Some((position, checkpoint, table)) = &report.checkpoint {
        assert!(newest.contains(*position) && *position <= newest.committed);
        assert!(checkpoint.covers.seq >= report.base.seq);
        let expected = match *position {
            Position::ZERO => Vec::new(),
            p => payload_of(p).to_vec(),
        };
        assert_eq!(*table, expected, "the session table is another's");
    } else {
        assert_eq!(report.base, Position::ZERO);
    }
}

fn check_fetched(truth: &Truth, sent: &Sent, records: &[RecordHead], payload: Payload) {
    let DiskRequest::Fetch { from, .. } = sent.request else {
        panic!()
    };
    let expected: Vec<u8> = records
        .iter()
        .flat_map(|r| payload_of(r.position))
        .collect();
    assert_eq!(payload.into_bytes(), expected);
    let dense = records
        .windows(2)
        .all(|w| w[0].position.seq.next() == w[1].position.seq);
    assert!(dense && records.iter().all(|r| r.position.seq >= from));
    for record in records {
        let seq = usize::try_from(record.position.seq.0).unwrap();
        assert_eq!(truth.owner(record.position.epoch.0).log[seq - 1], *record);
    }
}

/// After the storm: the newest owners bring everything up to date, whatever happened.
fn heal(world: &mut World) {
    world.net.clear();
    world.apply(Op::Advance { ms: 5000 });
    world.apply(Op::Settle);
    for v in 0..VOLUMES {
        if !world.bench.disk.replicas.contains_key(&volume(v)) {
            continue;
        }
        world.apply(Op::Owner { v, cut: 0 });
        for _ in 0..8 {
            world.apply(Op::CatchUp { v });
            world.apply(Op::Commit { v, n: 200 });
            world.apply(Op::Reset { v, old: false });
            world.apply(Op::CatchUp { v });
            while !world.net.is_empty() {
                world.apply(Op::Deliver { i: 0, keep: false });
                world.apply(Op::Settle);
                world.apply(Op::Advance { ms: 1100 });
            }
        }
        let replica = &world.bench.disk.replicas[&volume(v)];
        assert_eq!(replica.health(), Health::Whole, "it never got whole again");
        let newest = world.truths[v].owners.last().unwrap();
        assert_eq!(
            replica.log().last(),
            newest.position(newest.len()),
            "it lags for ever"
        );
        let before = world.sealed;
        world.apply(Op::Seal { v, old: false });
        world.apply(Op::Deliver { i: 0, keep: false });
        world.apply(Op::Settle);
        assert_eq!(world.sealed, before + 1, "it can't be sealed");
    }
}

/// 400 cases, or what PROPTEST_CASES says if that is more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(400),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn promises_hold_whatever_happens(ops in prop::collection::vec(op(), 1..250)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        heal(&mut world);
        prop_assert!(world.bench.disk.stats().files <= 30);
    }
}
