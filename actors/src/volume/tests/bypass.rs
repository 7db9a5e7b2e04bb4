use bytes::Bytes;
use model::ids::{Actor, ClientId, Epoch, NodeId, Position, VolumeId};
use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use model::journal::RecordHead;

use super::*;
use crate::messages::VolumeRequest;

const KIB: usize = 1 << 10;

fn open() -> Bypass {
    let mut bypass = Bypass::new(BypassTerms::default());
    bypass.is_open = true;
    bypass
}

fn large(n: u64, bytes: usize) -> Large {
    let session = SessionId(Position::ZERO);
    let part = Part { session, n, low: 1 };
    let sums = vec![0; bytes / BLOCK_BYTES];
    let waiting = Waiting {
        from: Endpoint {
            node: NodeId(1),
            actor: Actor::Client(ClientId(1)),
        },
        id: RequestId(n),
        request: VolumeRequest::Write {
            volume: VolumeId(1),
            part,
            offset: 0,
            sums: sums.clone(),
        },
        payload: Bytes::from(vec![0; bytes]),
    };
    Large::new(waiting, part, 0, sums)
}

fn launch(bypass: &mut Bypass, id: u64, writes: Vec<Large>) {
    let segment = SegmentRef {
        id: SegmentId {
            volume: VolumeId(1),
            epoch: Epoch(1),
            counter: id as u32,
        },
        pool: Pool::of(model::geometry::Code::INDEX),
        bytes: writes.iter().map(Large::bytes).sum::<usize>() as u32,
    };
    let flight = Flight {
        segment,
        since: Time::ZERO,
        writes,
    };
    bypass.flying.insert(RequestId(id), flight);
}

#[test]
fn only_what_is_whole_and_large_goes_past() {
    let now = Time::ZERO;
    let mut bypass = open();
    let judge = |bypass: &Bypass, offset, bytes| bypass.judge(now, offset, bytes);
    // A lone one is sooner in the journal.
    assert_eq!(judge(&bypass, 0, 1024 * KIB), Verdict::Journal);
    bypass.journaled(Seq(1), 3072 * KIB);
    bypass.journaled(Seq(2), 4 * KIB);
    assert_eq!(judge(&bypass, 0, 1024 * KIB), Verdict::Past);
    assert_eq!(judge(&bypass, 0, 1020 * KIB), Verdict::Journal);
    assert_eq!(judge(&bypass, 512, 1024 * KIB), Verdict::Journal);
    assert_eq!(judge(&bypass, 0, 1024 * KIB + 512), Verdict::Journal);
    bypass.gather(large(1, 1024 * KIB));
    assert_eq!(judge(&bypass, 0, 64 * KIB), Verdict::Past);
    assert_eq!(judge(&bypass, 0, 60 * KIB), Verdict::Journal);
    // A site is away.
    bypass.is_open = false;
    assert_eq!(judge(&bypass, 0, 1024 * KIB), Verdict::Journal);
}

#[test]
fn what_is_late_is_journaled_and_its_segment_is_deleted() {
    let mut bypass = open();
    bypass.gather(large(1, 2048 * KIB));
    let writes = bypass.take_next().expect("enough for a segment");
    launch(&mut bypass, 7, writes);
    let patience = bypass.terms.patience;
    assert_eq!(bypass.deadline(), Some(Time::ZERO + patience));
    bypass.give_up_late(Time::ZERO + patience - Duration::from_nanos(1));
    assert!(bypass.failed.is_empty());
    bypass.give_up_late(Time::ZERO + patience);
    assert_eq!((bypass.failed.len(), bypass.deadline()), (1, None));
    // The client that asks again is answered once, whichever way the write goes.
    let part = bypass.failed[0].part;
    let from = bypass.failed[0].waiting.from;
    assert!(bypass.asked_again(part, (from, RequestId(9))));
    assert_eq!(bypass.failed[0].waiting.id, RequestId(9));
    assert!(matches!(
        bypass.answered(RequestId(7)),
        Some(Answered::Late(_))
    ));
    assert!(bypass.answered(RequestId(7)).is_none());
    assert_eq!(
        bypass.judge(Time::ZERO + patience, 0, 512 * KIB),
        Verdict::Journal
    );
}

#[test]
fn what_gathered_does_not_wait_for_what_came_later() {
    let mut bypass = open();
    bypass.journaled(Seq(1), bypass.terms.stream_bytes);
    assert_eq!(bypass.judge(Time::ZERO, 0, 64 * KIB), Verdict::Past);
    bypass.gather(large(1, 64 * KIB));
    assert!(bypass.take_next().is_none() && bypass.may_grow());
    bypass.journaled(Seq(2), 64 * KIB);
    bypass.committed(Seq(1));
    assert_eq!(bypass.journaled_bytes, 64 * KIB);
    assert!(!bypass.may_grow());
    bypass.give_up_gathered();
    assert_eq!((bypass.failed.len(), bypass.gathered_bytes), (1, 0));
}

/// A record that no owner wrote is damage, whatever else it says.
#[test]
fn what_no_owner_wrote_is_not_sound() {
    let write = |first, at, blocks: usize| StoredWrite {
        part: large(1, 4 * KIB).part,
        first: BlockNo(first),
        at,
        sums: vec![0; blocks],
    };
    let volume = VolumeId(1);
    let sound = Stored {
        segment: SegmentId {
            volume,
            epoch: Epoch(3),
            counter: 7,
        },
        pool: Pool::of(model::geometry::Code::INDEX),
        segment_bytes: 16 << 10,
        writes: vec![write(0, 0, 1), write(9, 8 << 10, 2)],
    };
    let head = |stored: &Stored| RecordHead {
        position: Position {
            epoch: Epoch(3),
            seq: Seq(9),
        },
        body: RecordBody::Stored(stored.clone()),
        payload_len: 0,
    };
    let holds = |stored: &Stored| head(stored).is_sound(volume);
    assert!(holds(&sound));
    assert_eq!(sound.written_bytes(), 12 << 10);
    assert_eq!(sound.writes[1].range(), 9 << 12..11 << 12);
    let broken: [&dyn Fn(&mut Stored); 11] = [
        &|s| s.segment.volume = VolumeId(2),
        &|s| s.segment.epoch = Epoch(4),
        &|s| s.pool.code = model::geometry::Code::Rs { k: 0, m: 2 },
        &|s| s.segment_bytes = 5 << 20,
        &|s| s.segment_bytes = 12 << 10,
        &|s| s.segment_bytes += 1,
        &|s| s.writes.clear(),
        &|s| s.writes[0].sums.clear(),
        &|s| s.writes[1].at = 0,
        &|s| s.writes[1].at += 1,
        &|s| s.writes[1].first = BlockNo(u64::MAX / 4096),
    ];
    for (i, harm) in broken.iter().enumerate() {
        let mut stored = sound.clone();
        harm(&mut stored);
        assert!(!holds(&stored), "harm {i}");
    }
}

#[derive(Clone, Debug)]
enum Event {
    Write(usize),
    Answer,
}

/// Of a journal that always holds enough for a stream.
fn busy() -> Bypass {
    let mut bypass = open();
    bypass.journaled(Seq(1), bypass.terms.stream_bytes);
    bypass
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (16_usize..=256).prop_map(|blocks| Event::Write(blocks * BLOCK_BYTES)),
        1 => proptest::strategy::Just(Event::Answer),
    ]
}

proptest! {
    /// Each write is in one segment, in the order in which they came; no segment is too small or
    /// too large, and what is under way is bounded.
    #[test]
    fn writes_that_are_under_way_share_segments(events in proptest::collection::vec(events(), 1..200)) {
        let mut bypass = busy();
        let (mut next, mut landed) = (0, 0);
        for event in events {
            match event {
                Event::Write(bytes) => {
                    if bypass.judge(Time::ZERO, 0, bytes) == Verdict::Past {
                        next += 1;
                        bypass.gather(large(next, bytes));
                    }
                }
                Event::Answer => {
                    let Some((&id, _)) = bypass.flying.first_key_value() else {
                        continue;
                    };
                    let Some(Answered::Flight(flight)) = bypass.answered(id) else {
                        panic!("it flies");
                    };
                    for large in flight.writes {
                        landed += 1;
                        prop_assert_eq!(large.part.n, landed);
                        bypass.leave(&large);
                    }
                }
            }
            while let Some(writes) = bypass.take_next() {
                let bytes: usize = writes.iter().map(Large::bytes).sum();
                prop_assert!(bytes <= SEGMENT_BYTES_MAX);
                prop_assert!(bytes >= bypass.terms.segment_bytes);
                launch(&mut bypass, writes[0].part.n, writes);
            }
            prop_assert!(bypass.flying.len() <= bypass.terms.segments);
            prop_assert!(bypass.bytes <= bypass.terms.bytes_max);
            prop_assert_eq!(bypass.parts.len() as u64, next - landed);
        }
        bypass.give_up_gathered();
        let flying = std::mem::take(&mut bypass.flying).into_values().flat_map(|f| f.writes);
        let left: Vec<Large> = flying.chain(std::mem::take(&mut bypass.failed)).collect();
        left.iter().for_each(|large| bypass.leave(large));
        prop_assert!(bypass.is_empty() && bypass.bytes == 0);
    }
}
