use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::geometry::{Code, Pool};
use model::ids::{DiskRef, Incarnation, Slot, Version};
use model::placement::{Presence, View};

use super::world::{GEO, Mood, RS_4_2, Weather, World};
use crate::messages::{BlockRun, DiskReply, DiskRequest, SegmentReply, SegmentRequest};
use crate::segment::{Effect, Input, SegmentConfig};
use model::ids::RequestId;
use model::machine::Machine;

fn world(codes: &[Code]) -> World {
    World::new(codes, 3, SegmentConfig::default())
}

fn gets(world: &World) -> Vec<Vec<(u32, u32)>> {
    let seen = world.disks.values().flat_map(|d| &d.seen);
    let get = seen.filter_map(|(_, request)| match request {
        DiskRequest::Get { ranges, .. } => Some(ranges.clone()),
        _ => None,
    });
    get.collect()
}

#[test]
fn only_the_blocks_asked_for_travel_once() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 64);
    // Runs that touch are one range; the fourth run spans three fragments of 16 blocks.
    let runs = [(1, 2), (3, 1), (9, 1), (14, 30), (63, 1)];
    world.assert_read(segment, &data, &runs);
    let mut seen = gets(&world);
    seen.sort();
    let b = BLOCK_BYTES as u32;
    let expected = [
        vec![(0, 12 * b)],
        vec![(0, 16 * b)],
        vec![(b, 3 * b), (9 * b, b), (14 * b, 2 * b)],
        vec![(15 * b, b)],
    ];
    assert_eq!(seen, expected);
    let counters = world.machine.counters();
    assert_eq!(
        (
            counters.reads,
            counters.degraded_reads,
            counters.hedged_gets
        ),
        (1, 0, 0)
    );
    assert_eq!(world.machine.requests_outstanding(), 0);
    world.assert_read(segment, &data, &[]);
}

#[test]
fn a_run_from_one_fragment_is_not_copied() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 64);
    world.run_for(Duration::from_secs(1));
    let sums = |blocks: std::ops::Range<usize>| {
        data[blocks.start * 4096..blocks.end * 4096]
            .chunks(4096)
            .map(model::crc32c)
            .collect()
    };
    let runs = vec![
        BlockRun {
            offset: 4096,
            sums: sums(1..3),
        },
        BlockRun {
            offset: 3 * 4096,
            sums: sums(3..5),
        },
    ];
    let mut out = Vec::new();
    let request = SegmentRequest::Read {
        id: RequestId(9999),
        segment,
        runs,
    };
    world
        .machine
        .handle(world.now, Input::Request(request), &mut out);
    let [Effect::ToDisk { disk, id, .. }] = out[..] else {
        panic!("one request: {out:?}")
    };
    let meta = world.fragment(segment, 0).meta;
    let payload = data.slice(4096..5 * 4096);
    let reply = DiskReply::Data {
        meta,
        good: vec![true],
        is_pressed: false,
    };
    out.clear();
    world.machine.handle(
        world.now,
        Input::Disk {
            disk,
            id,
            reply,
            payload: payload.clone(),
        },
        &mut out,
    );
    let [Effect::Reply(SegmentReply::Read { runs, .. })] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(runs[0].as_ptr(), payload.as_ptr());
    assert_eq!(runs[1].as_ptr(), payload[2 * 4096..].as_ptr());
}

#[test]
fn every_code_reads_with_any_site_down_and_asks_it_nothing() {
    for (code, per_site) in [(RS_4_2, 3), (GEO, 3), (Code::INDEX, 3)] {
        let mut world = World::new(&[code], per_site, SegmentConfig::default());
        let (segment, data) = world.written(code, 61);
        for site in 0..3 {
            world.set_site(site, Presence::Down);
            world.disks.values_mut().for_each(|d| d.seen.clear());
            world.assert_read(segment, &data, &[(0, 61)]);
            world.assert_read(segment, &data, &[(3, 1), (17, 9), (60, 1)]);
            let asked = world
                .disks
                .values()
                .filter(|d| d.site == site && !d.seen.is_empty());
            assert_eq!(asked.count(), 0, "{code:?} without site {site}");
            assert!(
                gets(&world).len() <= 2 * usize::from(code.slots()),
                "ranges are joined"
            );
            world.set_site(site, Presence::Up);
        }
        assert!(world.machine.counters().degraded_reads >= 2);
    }
}

#[test]
fn a_silent_site_is_hedged_and_a_late_answer_is_harmless() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 32);
    world.mood_of_site(1, Mood::Mute);
    let start = world.now;
    world.assert_read(segment, &data, &[(0, 32)]);
    assert!(
        world.now.since(start) < Duration::from_millis(100),
        "{:?}",
        world.now.since(start)
    );
    assert!(world.machine.counters().hedged_gets > 0);
    world.mood_of_site(1, Mood::Well);
    // Slow, not silent: the answers come after those of others, or after the end.
    for extra in [40, 60, 100, 3000] {
        world
            .disks
            .values_mut()
            .filter(|d| d.site == 1)
            .for_each(|d| d.extra = Duration::from_millis(extra));
        world.assert_read(segment, &data, &[(0, 32)]);
        world.run_for(Duration::from_secs(10));
    }
    assert_eq!(world.machine.requests_outstanding(), 0);
    assert_eq!(world.machine.next_deadline(), None);
}

#[test]
fn the_hedge_follows_the_answers() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 32);
    for _ in 0..2000 {
        world.assert_read(segment, &data, &[(16, 1)]);
    }
    assert_eq!(
        world.machine.counters().hedged_gets,
        0,
        "even answers are not hedged"
    );
    world.mood_of_site(1, Mood::Mute);
    let start = world.now;
    world.read(segment, &data, &[(16, 1)]);
    while world.machine.counters().hedged_gets == 0 {
        world.run_for(Duration::from_millis(1));
    }
    let hedge = world.now.since(start);
    assert!(
        (15..=30).contains(&hedge.as_millis()),
        "answers take 16 ms: {hedge:?}"
    );
}

#[test]
fn a_busy_disk_is_replaced_at_once() {
    let mut world = world(&[GEO]);
    let (segment, data) = world.written(GEO, 8);
    world.disk(segment, 0).mood = Mood::Busy;
    let start = world.now;
    world.assert_read(segment, &data, &[(0, 1)]);
    assert!(
        world.now.since(start) < Duration::from_millis(2),
        "from its own site, no hedge"
    );
}

#[test]
fn damage_and_lies_never_pass() {
    for code in [RS_4_2, GEO] {
        let mut world = world(&[code]);
        let (segment, data) = world.written(code, 40);
        world.rot(segment, 0, 2);
        world.lie(segment, 1, 4);
        world.assert_read(segment, &data, &[(0, 40)]);
        world.assert_read(segment, &data, &[(2, 1)]);
        assert!(world.machine.counters().wrong_blocks >= 3);
        assert_eq!(world.machine.counters().degraded_reads, 2);
    }
}

/// Each row is a code word of its own: every fragment is damaged somewhere, and yet every
/// block can be had.
#[test]
fn rows_are_rebuilt_each_from_its_own_sources() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 64);
    for slot in 0..6 {
        world.rot(segment, slot, usize::from(slot));
        world.rot(segment, slot, usize::from(slot) + 1);
    }
    world.assert_read(segment, &data, &[(0, 64)]);
}

#[test]
fn a_lying_source_is_found_out_and_left_out() {
    for code in [RS_4_2, GEO] {
        let mut world = world(&[code]);
        let (segment, data) = world.written(code, 16);
        world.lose(segment, 0);
        let sources: Vec<u8> = (1..code.slots()).collect();
        for liar in sources {
            let original = world.fragment(segment, liar).clone();
            world.lie(segment, liar, 0);
            world.assert_read(segment, &data, &[(0, 1)]);
            *world.fragment(segment, liar) = original;
        }
    }
    // geo: the fragment lost, one liar in its column and one outside.
    let mut world = world(&[GEO]);
    let (segment, data) = world.written(GEO, 16);
    world.lose(segment, 0);
    world.lie(segment, 1, 0);
    world.lie(segment, 8, 0);
    world.assert_read(segment, &data, &[(0, 1)]);
}

#[test]
fn unreadable_only_after_definite_answers_of_all() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 16);
    (0..3).for_each(|slot| world.lose(segment, slot));
    world.disk(segment, 3).mood = Mood::Mute;
    let id = world.read(segment, &data, &[(0, 16)]);
    world.run_for(Duration::from_secs(300));
    assert!(world.replies.is_empty(), "one disk has not spoken");
    let tries = world.disk(segment, 3).seen.len();
    assert!(
        (30..60).contains(&tries),
        "with longer and longer pauses: {tries}"
    );
    world.disk(segment, 3).mood = Mood::Well;
    assert_eq!(world.answer(), SegmentReply::Unreadable { id });
    assert_eq!(world.machine.requests_outstanding(), 0);
    // What is still there is still read.
    world.assert_read(segment, &data, &[(12, 4)]);
}

/// A view changes for many reasons: that a disk which says nothing is still there is none to ask it
/// again. That it is back is one.
#[test]
fn only_a_disk_that_is_back_is_asked_at_once() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 16);
    (0..3).for_each(|slot| world.lose(segment, slot));
    world.disk(segment, 3).mood = Mood::Mute;
    world.read(segment, &data, &[(0, 16)]);
    world.run_for(Duration::from_secs(60));
    let asked = |world: &mut World| world.disk(segment, 3).seen.len();
    let other = world.disk(segment, 5).at.disk;
    let before = asked(&mut world);
    for _ in 0..100 {
        let grown = |view: &mut View| view.disks.get_mut(&other).unwrap().capacity_bytes += 1;
        world.change_view(grown);
        world.run_for(Duration::from_millis(70));
    }
    assert!(asked(&mut world) <= before + 1, "not more than every 8 s");
    let disk = world.disk(segment, 3).at.disk;
    for presence in [Presence::Down, Presence::Up] {
        let set = |view: &mut View| view.disks.get_mut(&disk).unwrap().presence = presence;
        world.change_view(set);
    }
    let before = asked(&mut world);
    world.run_for(Duration::from_millis(100));
    assert_eq!(asked(&mut world), before + 1);
}

#[test]
fn lies_without_remedy_are_unreadable_not_wrong() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 16);
    world.lose(segment, 0);
    world.lose(segment, 5);
    world.lie(segment, 3, 0);
    let id = world.read(segment, &data, &[(0, 1)]);
    assert_eq!(world.answer(), SegmentReply::Unreadable { id });
}

#[test]
fn too_few_reachable_is_a_wait_and_down_disks_are_the_last_resort() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 16);
    world.mood_of_site(1, Mood::Mute);
    world.mood_of_site(2, Mood::Mute);
    world.set_site(2, Presence::Down);
    let id = world.read(segment, &data, &[(0, 16)]);
    world.run_for(Duration::from_secs(600));
    assert!(world.replies.is_empty());
    world.mood_of_site(2, Mood::Well);
    assert!(matches!(world.answer(), SegmentReply::Read { id: answered, .. } if answered == id));
}

#[test]
fn another_segments_fragment_and_malformed_answers_are_refused() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 16);
    let (other, _) = world.written(RS_4_2, 20);
    let meta = world.fragment(other, 0).meta;
    world.fragment(segment, 0).meta = meta;
    world.assert_read(segment, &data, &[(0, 2)]);

    let wrong = [
        DiskReply::Data {
            meta: world.fragment(segment, 1).meta,
            good: vec![],
            is_pressed: false,
        },
        DiskReply::Data {
            meta: world.fragment(segment, 1).meta,
            good: vec![true; 3],
            is_pressed: false,
        },
        DiskReply::Data {
            meta: world.fragment(segment, 1).meta,
            good: vec![true],
            is_pressed: false,
        },
        DiskReply::Deleted,
        DiskReply::WrongIncarnation,
    ];
    for reply in wrong {
        let disk = world.disk_of(segment, Slot(1));
        world.disks.get_mut(&disk).unwrap().mood = Mood::Mute;
        let asked = world.disks[&disk].seen.len();
        world.read(segment, &data, &[(4, 2)]);
        while world.disks[&disk].seen.len() == asked {
            world.run_for(Duration::from_micros(100));
        }
        let id = world.disks[&disk].seen[asked].0;
        let payload = Bytes::from_static(b"short");
        world.handle(Input::Disk {
            disk,
            id,
            reply,
            payload,
        });
        let reply = world.answer();
        let SegmentReply::Read { runs, .. } = reply else {
            panic!("{reply:?}")
        };
        assert!(runs[0] == data[4 * BLOCK_BYTES..6 * BLOCK_BYTES]);
        world.disks.get_mut(&disk).unwrap().mood = Mood::Well;
    }
}

#[test]
fn a_reference_that_makes_no_sense_is_unreadable() {
    let mut world = world(&[RS_4_2]);
    let (segment, _) = world.written(RS_4_2, 16);
    let run = |offset, blocks| {
        vec![BlockRun {
            offset,
            sums: vec![0; blocks],
        }]
    };
    let bad_code = Pool::of(Code::Rs { k: 200, m: 200 });
    let cases = [
        (segment, run(1, 1)),
        (segment, run(4096, 0)),
        (segment, run(15 * 4096, 2)),
        (segment, run(u32::MAX - 4095, 2)),
        (segment, [run(4096, 2), run(8192, 1)].concat()),
        (
            crate::messages::SegmentRef {
                bytes: 5,
                ..segment
            },
            run(0, 1),
        ),
        (
            crate::messages::SegmentRef {
                pool: bad_code,
                ..segment
            },
            run(0, 1),
        ),
    ];
    for (segment, runs) in cases {
        let id = RequestId(5555);
        world.handle(Input::Request(SegmentRequest::Read { id, segment, runs }));
        assert_eq!(world.answer(), SegmentReply::Unreadable { id });
    }
}

#[test]
fn moved_slots_are_followed_and_old_verdicts_void() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 16);
    (0..2).for_each(|slot| world.lose(segment, slot));
    // Two fragments are gone; of the other four, one is on a mute disk.
    world.disk(segment, 3).mood = Mood::Mute;
    let id = world.read(segment, &data, &[(0, 16)]);
    world.run_for(Duration::from_secs(5));
    assert!(world.replies.is_empty());
    // A repair puts slot 0 on another disk, and the placement says so.
    let pool = segment.pool;
    let taken = [
        world.disk_of(segment, Slot(0)),
        world.disk_of(segment, Slot(1)),
    ];
    let new = world
        .disks
        .values()
        .find(|d| d.site == 0 && !taken.contains(&d.at.disk))
        .unwrap()
        .at;
    world.change_view(|view| {
        let table = view.pools.get_mut(&pool).unwrap();
        let row = usize::from(table.row(segment.id).0);
        table.places[row * 6].disk = Some(new);
    });
    let mut fragment = world.fragment(segment, 2).clone();
    fragment.data = data[..4 * BLOCK_BYTES].to_vec();
    let key = model::ids::FragmentKey {
        segment: segment.id,
        slot: Slot(0),
    };
    let sums = (0..).zip(fragment.data.chunks(BLOCK_BYTES));
    fragment.sums = sums
        .map(|(i, b)| model::store::block_sum(key, i, b))
        .collect();
    world
        .disks
        .get_mut(&new.disk)
        .unwrap()
        .fragments
        .insert(key, fragment);
    assert!(matches!(world.answer(), SegmentReply::Read { id: answered, .. } if answered == id));
}

#[test]
fn a_read_waits_for_a_view_that_places_its_segment() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 16);
    let table = world.view.pools[&segment.pool].clone();
    world.change_view(|view| drop(view.pools.remove(&segment.pool)));
    let id = world.read(segment, &data, &[(5, 4)]);
    world.run_for(Duration::from_secs(10));
    assert!(world.replies.is_empty());
    // An older view is not believed.
    let mut old = world.view.clone();
    old.version = Version(0);
    old.pools.insert(segment.pool, table.clone());
    world.handle(Input::View(Arc::new(old)));
    world.run_for(Duration::from_secs(1));
    assert!(world.replies.is_empty());
    world.change_view(|view| drop(view.pools.insert(segment.pool, table)));
    assert!(matches!(world.answer(), SegmentReply::Read { id: answered, .. } if answered == id));
}

#[test]
fn a_disk_reborn_is_asked_nothing_and_its_fragment_rebuilt() {
    let mut world = world(&[GEO]);
    let (segment, data) = world.written(GEO, 8);
    let disk = world.disk_of(segment, Slot(0));
    world.change_view(|view| {
        view.disks.get_mut(&disk).unwrap().at = DiskRef {
            disk,
            incarnation: Incarnation(99),
        };
    });
    world.disks.get_mut(&disk).unwrap().seen.clear();
    world.assert_read(segment, &data, &[(0, 8)]);
    assert!(world.disks[&disk].seen.is_empty());
}

#[test]
fn reads_at_a_time_are_bounded_and_none_is_forgotten() {
    let config = SegmentConfig {
        reads_max: 3,
        read_queue_max: 20,
        ..SegmentConfig::default()
    };
    let mut world = World::new(&[RS_4_2], 3, config);
    let (segment, data) = world.written(RS_4_2, 16);
    world.weather = Weather {
        lost: 10,
        twice: 10,
        jitter: Duration::from_millis(50),
    };
    let ids: Vec<_> = (0..23)
        .map(|i| world.read(segment, &data, &[(i % 16, 1)]))
        .collect();
    assert_eq!(world.machine.read_room(), 0);
    assert_eq!(world.machine.requests_outstanding(), 3);
    let mut answered: Vec<_> = (0..23)
        .map(|_| match world.answer() {
            SegmentReply::Read { id, .. } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    answered.sort();
    assert_eq!(answered, ids);
}

/// What was asked for directly is a source too: no block of any fragment travels twice.
#[test]
fn a_rescue_shares_what_is_under_way() {
    for code in [RS_4_2, GEO] {
        let mut world = world(&[code]);
        let (segment, data) = world.written(code, 64);
        world.lose(segment, 0);
        world.assert_read(segment, &data, &[(0, 64)]);
        for disk in world.disks.values() {
            let gets = disk
                .seen
                .iter()
                .filter(|(_, r)| matches!(r, DiskRequest::Get { .. }));
            assert!(gets.count() <= 1, "{code:?}: {} was asked twice", disk.at);
        }
    }
}
