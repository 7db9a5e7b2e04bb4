use std::collections::VecDeque;

use model::ids::{DiskId, Incarnation, SessionId};
use model::journal::{PART_BYTES_MAX, Part, SealReport};

use super::*;

const VOLUME: VolumeId = VolumeId(1);
const EPOCH: Epoch = Epoch(5);
const NOW: Time = Time(1_000_000_000);

fn replica() -> DiskRef {
    DiskRef {
        disk: DiskId(1),
        incarnation: Incarnation(1),
    }
}

fn position(epoch: u64, seq: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
    }
}

/// One request, answered; the request.
fn answer(
    journal: &mut Journal,
    ids: &mut RequestIds,
    reply: impl FnOnce(&DiskRequest) -> DiskReply,
) -> DiskRequest {
    let mut out = Vec::new();
    journal.pump(NOW, ids, &mut out);
    let sent = out.pop().expect("there is something to send");
    let reply = reply(&sent.request);
    journal
        .reply(NOW, replica().disk, sent.id, &reply)
        .expect("no higher epoch");
    sent.request
}

/// An owner of a founded journal with one replica, which holds all of its `records`.
fn streaming(records: u64) -> (Journal, RequestIds) {
    let config = JournalConfig {
        version: Version::default(),
        replicas: vec![replica()],
        next: None,
    };
    let adopted = Adopted::founding(CommittedCheckpoint::backstop(Checkpoint::EMPTY));
    let mut journal = Journal::start(VOLUME, EPOCH, &config, JournalTerms::default(), adopted);
    let mut ids = RequestIds::default();
    // `EpochStart` is the first one.
    for _ in 1..records {
        journal.append(
            RecordBody::Close(SessionId(Position::ZERO)),
            Payload::empty(),
        );
    }
    let last = position(EPOCH.0, records);
    for _ in 0..3 {
        answer(&mut journal, &mut ids, |request| match request {
            DiskRequest::Join { .. } => DiskReply::Joined {
                report: SealReport {
                    epoch: EPOCH,
                    base: Position::ZERO,
                    last: Position::ZERO,
                    committed: Position::ZERO,
                    checkpoint: None,
                },
            },
            DiskRequest::Reset { base, .. } => DiskReply::Appended {
                last: *base,
                leased: true,
                short: false,
            },
            _ => DiskReply::Appended {
                last,
                leased: true,
                short: false,
            },
        });
    }
    assert_eq!(journal.replicas[0].matched, last);
    (journal, ids)
}

/// R7: a grant that was on its way when the lease was given up counts for nothing: the replica seals
/// for the next owner at once. (Seed 339 on four sites of one node.)
#[test]
fn a_grant_that_comes_after_the_release_is_none() {
    let (mut journal, mut ids) = streaming(1);
    journal.renew();
    let mut out = Vec::new();
    journal.pump(NOW, &mut ids, &mut out);
    let sent = out.pop().expect("a renewal");
    journal.release(&mut ids, &mut out);
    let last = journal.log().last();
    let reply = DiskReply::Appended {
        last,
        leased: true,
        short: false,
    };
    journal
        .reply(NOW, replica().disk, sent.id, &reply)
        .expect("no higher epoch");
    assert_eq!(journal.leased_until(), Time::ZERO);
}

/// A replica whose tail is another owner's is stepped back to where the logs meet: each append
/// tries below the last one, however much of the log goes with it. (It stepped on the spot
/// once, as fast as messages go.)
#[test]
fn a_mismatch_steps_back_until_the_logs_meet() {
    let (mut journal, mut ids) = streaming(20);
    journal.append(
        RecordBody::Close(SessionId(Position::ZERO)),
        Payload::empty(),
    );
    let mut prevs = Vec::new();
    while prevs.last().is_none_or(|prev| *prev > 10) {
        assert!(prevs.len() < 20, "it steps on the spot: {prevs:?}");
        let request = answer(&mut journal, &mut ids, |request| match request {
            DiskRequest::Append { prev, .. } if prev.seq.0 <= 10 => DiskReply::Appended {
                last: position(EPOCH.0, 21),
                leased: true,
                short: false,
            },
            _ => DiskReply::Mismatch {
                base: Position::ZERO,
                last: position(2, 15),
            },
        });
        let DiskRequest::Append { prev, .. } = request else {
            unreachable!("{request:?}")
        };
        prevs.push(prev.seq.0);
    }
    assert_eq!(prevs, [20, 14, 13, 12, 11, 10]);
    assert_eq!(journal.replicas[0].matched, position(EPOCH.0, 21));
}

#[test]
fn a_replica_that_meets_nowhere_starts_anew() {
    let (mut journal, mut ids) = streaming(5);
    journal.append(
        RecordBody::Close(SessionId(Position::ZERO)),
        Payload::empty(),
    );
    for _ in 0..10 {
        let request = answer(&mut journal, &mut ids, |_| DiskReply::Mismatch {
            base: Position::ZERO,
            last: position(2, 15),
        });
        if matches!(request, DiskRequest::Reset { .. }) {
            return;
        }
    }
    panic!("it steps on the spot");
}

/// A replica that takes and answers everything, at the end of a way of so many bytes a second, on
/// which nothing overtakes anything.
struct Far {
    now: Time,
    bytes_per_s: u64,
    delay: Duration,
    /// When the way has carried all that was sent.
    free: Time,
    answers: VecDeque<(Time, RequestId, DiskReply)>,
    /// Whether nothing that is sent arrives.
    is_cut: bool,
    sent_bytes: u64,
    /// How long no lease ran since it was first granted.
    unleased: Duration,
}

impl Far {
    fn new(bytes_per_s: u64, delay: Duration) -> Self {
        Self {
            now: NOW,
            bytes_per_s,
            delay,
            free: NOW,
            answers: VecDeque::new(),
            is_cut: false,
            sent_bytes: 0,
            unleased: Duration::ZERO,
        }
    }

    fn carry(&mut self, sent: ToDisk) {
        let bytes = 200 + sent.payload.len() as u64;
        self.sent_bytes += bytes;
        self.free = self.free.max(self.now) + Duration::from_secs(bytes) / self.bytes_per_s as u32;
        let DiskRequest::Append { prev, records, .. } = sent.request else {
            panic!("it matches: {:?}", sent.request)
        };
        let last = records.last().map_or(prev, |record| record.position);
        let reply = DiskReply::Appended {
            last,
            leased: true,
            short: false,
        };
        if !self.is_cut {
            let at = self.free + self.delay;
            self.answers.push_back((at, sent.id, reply));
        }
    }

    /// For so long, a request and its answer after the other.
    fn run(&mut self, journal: &mut Journal, ids: &mut RequestIds, span: Duration) {
        let end = self.now + span;
        loop {
            let mut out = Vec::new();
            journal.pump(self.now, ids, &mut out);
            out.into_iter().for_each(|sent| self.carry(sent));
            let answer = self.answers.front().map(|(at, _, _)| *at);
            let due = [answer, journal.next_deadline()];
            let next = due.into_iter().flatten().min().filter(|next| *next <= end);
            let next = next.unwrap_or(end).max(self.now);
            let leased = journal.leased_until();
            if leased > Time::ZERO {
                self.unleased += next.since(leased.max(self.now).min(next));
            }
            self.now = next;
            if next == end {
                return;
            }
            journal.expire(self.now);
            while let Some((_, id, reply)) = self.answers.pop_front_if(|(at, _, _)| *at <= next) {
                let landed = journal.reply(self.now, replica().disk, id, &reply);
                landed.expect("no higher epoch");
                journal.advance(self.now);
            }
        }
    }
}

fn write(journal: &mut Journal, bytes: usize) {
    let session = SessionId(Position::ZERO);
    let part = Part {
        session,
        n: 1,
        low: 1,
    };
    let (offset, sums) = (0, Vec::new());
    let payload = Payload::from(Bytes::from(vec![0; bytes]));
    journal.append(RecordBody::Write { part, offset, sums }, payload);
}

/// Whatever a replica took is counted, though the answer comes long after the request was given
/// up: else nothing would ever count where every answer takes longer.
#[test]
fn answers_that_come_late_count() {
    let (mut journal, mut ids) = streaming(1);
    let mut far = Far::new(u64::from(u32::MAX), Duration::from_secs(1));
    for n in 1..=8 {
        write(&mut journal, 256 << 10);
        far.run(&mut journal, &mut ids, Duration::from_millis(100));
        assert_eq!(journal.log().last(), position(EPOCH.0, 1 + n));
    }
    far.run(&mut journal, &mut ids, Duration::from_secs(8));
    assert_eq!(journal.committed(), journal.log().last());
}

/// Where a megabyte takes a second, what is written arrives at nearly that pace, once, and leases
/// run meanwhile.
#[test]
fn a_slow_way_is_filled_with_what_is_new_on_it() {
    let written = 32 << 20;
    for bytes in [4 << 10, 64 << 10, 256 << 10] {
        let (mut journal, mut ids) = streaming(1);
        let mut far = Far::new(1_000_000, Duration::from_millis(20));
        (0..written / bytes).for_each(|_| write(&mut journal, bytes));
        far.run(&mut journal, &mut ids, Duration::from_secs(40));
        assert_eq!(journal.committed(), journal.log().last(), "{bytes} a write");
        let twice = far.sent_bytes.saturating_sub(written as u64);
        assert!(twice < 4 << 20, "{twice} bytes too much, {bytes} a write");
        let without = far.unleased;
        assert!(
            without < Duration::from_secs(8),
            "{without:?}, {bytes} a write"
        );
    }
}

/// A record that takes longer than a lease and a retry by itself.
#[test]
fn the_largest_records_pass_a_slow_way() {
    let (mut journal, mut ids) = streaming(1);
    let mut far = Far::new(500_000, Duration::from_millis(20));
    (0..16).for_each(|_| write(&mut journal, PART_BYTES_MAX));
    far.run(&mut journal, &mut ids, Duration::from_secs(45));
    assert_eq!(journal.committed(), journal.log().last());
    assert!(far.sent_bytes < 20 << 20, "{} bytes", far.sent_bytes);
    // Once they are through, a lease runs when one is asked for.
    journal.renew();
    far.run(&mut journal, &mut ids, Duration::from_millis(100));
    assert!(journal.leased_until() > far.now);
}

/// Nothing that was sent is sent again before the replica is heard; then all of it is.
#[test]
fn a_silent_replica_is_asked_for_little() {
    let (mut journal, mut ids) = streaming(1);
    let mut far = Far::new(100_000_000, Duration::from_millis(5));
    far.is_cut = true;
    (0..32).for_each(|_| write(&mut journal, 256 << 10));
    far.run(&mut journal, &mut ids, Duration::from_secs(60));
    assert!(far.sent_bytes < 3 << 20, "{} bytes", far.sent_bytes);
    far.is_cut = false;
    far.run(&mut journal, &mut ids, Duration::from_secs(1));
    assert_eq!(journal.committed(), journal.log().last());
}

/// Where every answer takes long, however little is sent, small batches help nobody.
#[test]
fn a_slow_disk_is_sent_full_batches() {
    let full = JournalTerms::default().batch_bytes / 2;
    let (mut journal, mut ids) = streaming(1);
    let mut far = Far::new(u32::MAX.into(), Duration::from_millis(600));
    let mut batch_after = |journal: &mut Journal, delay, span| {
        far.delay = Duration::from_millis(delay);
        (0..2000).for_each(|_| write(journal, 64 << 10));
        far.run(journal, &mut ids, Duration::from_secs(span));
        assert!(journal.committed() < journal.log().last(), "it is busy");
        journal.replicas[0].batch_bytes
    };
    for delay in [600, 300, 1500] {
        let batch = batch_after(&mut journal, delay, 20);
        assert!(batch >= full, "{batch} bytes where answers take {delay} ms");
    }
}

/// What comes late says nothing of what was sent since: that has answers of its own.
#[test]
fn a_late_answer_leaves_what_was_sent_since_alone() {
    let (mut journal, mut ids) = streaming(1);
    write(&mut journal, 1000);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    journal.pump(NOW, &mut ids, &mut first);
    let later = NOW + Duration::from_millis(500);
    journal.expire(later);
    journal.pump(later, &mut ids, &mut second);
    let sent = [first.pop(), second.pop()].map(|sent| sent.expect("an append").id);
    for id in sent {
        let reply = DiskReply::Appended {
            last: position(EPOCH.0, 1),
            leased: true,
            short: false,
        };
        let landed = journal.reply(later, replica().disk, id, &reply);
        landed.expect("no higher epoch");
    }
    assert_eq!(
        journal.leased_until(),
        later + JournalTerms::default().lease
    );
}
