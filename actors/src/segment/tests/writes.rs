use std::time::Duration;

use model::BLOCK_BYTES;
use model::geometry::{Code, Pool};
use model::ids::{DiskRef, Incarnation, SiteId, Slot};
use model::machine::Machine;
use model::placement::Presence;

use super::world::{GEO, Mood, RS_4_2, Weather, World};
use crate::messages::{DiskRequest, SegmentReply};
use crate::segment::SegmentConfig;

const POOL: Pool = Pool::of(RS_4_2);

fn world(codes: &[Code]) -> World {
    World::new(codes, 3, SegmentConfig::default())
}

#[test]
fn written_means_every_slot_of_any_length() {
    for code in [RS_4_2, GEO, Code::INDEX] {
        let mut world = world(&[code]);
        for blocks in [1, 2, 5, 64, 1024] {
            let before = world.stored();
            world.written(code, blocks);
            assert_eq!(world.stored() - before, usize::from(code.slots()));
        }
        assert_eq!(world.machine.counters().written, 5);
        assert_eq!(world.machine.requests_outstanding(), 0);
        assert_eq!(world.machine.next_deadline(), None);
    }
}

#[test]
fn a_mute_disk_holds_the_write_and_is_asked_again_under_one_id() {
    let mut world = world(&[RS_4_2]);
    world.mood_of_site(2, Mood::Mute);
    let (id, segment, _) = world.write(POOL, 8);
    world.run_for(Duration::from_secs(120));
    assert!(world.replies.is_empty(), "five of six are not enough");
    let seen = &world.disk(segment, 4).seen;
    assert!(
        (8..20).contains(&seen.len()),
        "asked every 16 s at last: {}",
        seen.len()
    );
    assert!(seen.iter().all(|(id, _)| *id == seen[0].0));
    assert_eq!(
        world.disk(segment, 0).seen.len(),
        1,
        "stored ones are left alone"
    );
    world.mood_of_site(2, Mood::Well);
    assert_eq!(
        world.answer(),
        SegmentReply::Written {
            id,
            segment: segment.id
        }
    );
    world.assert_complete(segment);
}

#[test]
fn busy_disks_are_asked_again_with_growing_pauses() {
    let mut world = world(&[RS_4_2]);
    world.mood_of_site(1, Mood::Busy);
    let (id, segment, _) = world.write(POOL, 8);
    world.run_for(Duration::from_secs(60));
    let seen = world.disk(segment, 2).seen.len();
    assert!((20..80).contains(&seen), "{seen}");
    world.mood_of_site(1, Mood::Well);
    assert_eq!(
        world.answer(),
        SegmentReply::Written {
            id,
            segment: segment.id
        }
    );
}

/// A disk that answers is no silent one: what is lost on the way to it next is sent again as soon as
/// if nothing had gone before.
#[test]
fn a_busy_answer_ends_a_silence() {
    let mut world = world(&[RS_4_2]);
    world.mood_of_site(1, Mood::Busy);
    let (id, segment, _) = world.write(POOL, 8);
    world.run_for(Duration::from_millis(300));
    let busy = world.disk(segment, 2).seen.len();
    assert!(busy >= 3, "{busy} answers");
    world.mood_of_site(1, Mood::Mute);
    while world.disk(segment, 2).seen.len() == busy {
        world.run_for(Duration::from_millis(10));
    }
    world.mood_of_site(1, Mood::Well);
    let lost = world.now;
    assert_eq!(
        world.answer(),
        SegmentReply::Written {
            id,
            segment: segment.id
        }
    );
    let waited = world.now.since(lost);
    assert!(waited < Duration::from_secs(3), "{waited:?}");
}

#[test]
fn a_committed_site_loss_abandons_and_deletes() {
    let mut world = world(&[RS_4_2]);
    world.mood_of_site(2, Mood::Mute);
    let (id, segment, _) = world.write(POOL, 8);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.stored(), 4);
    world.set_site(2, Presence::Down);
    let unwritable = SegmentReply::Unwritable {
        id,
        segment: segment.id,
        full: false,
    };
    assert_eq!(world.replies.pop_front(), Some(unwritable), "at once");
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.stored(), 0, "what was stored is deleted");
    assert_eq!(
        world.machine.pending_deletes(),
        1,
        "the away site may have got some of it"
    );
    world.mood_of_site(2, Mood::Well);
    world.set_site(2, Presence::Up);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.machine.pending_deletes(), 0);
    assert_eq!(world.machine.requests_outstanding(), 0);
}

#[test]
fn another_pool_for_the_sites_left_abandons_at_once() {
    let left = Code::Rs { k: 3, m: 3 };
    let mut world = world(&[RS_4_2, left]);
    // The away site holds none of this pool's slots: only the other pool's table tells.
    let two = Pool::of(Code::Rs { k: 2, m: 2 });
    world.change_view(|view| {
        let mut table = view.pools[&POOL].clone();
        table.slots = 4;
        table.places = (0..16)
            .flat_map(|r| table.places[r * 6..r * 6 + 4].to_vec())
            .collect();
        view.pools.insert(two, table);
    });
    world.mood_of_site(1, Mood::Mute);
    let (id, segment, _) = world.write(two, 8);
    world.run_for(Duration::from_secs(1));
    world.set_site(2, Presence::Down);
    assert!(
        world.replies.is_empty(),
        "no other pool yet, and all slots take part"
    );
    let away = Pool {
        without: Some(SiteId(2)),
        ..Pool::of(left)
    };
    world.change_view(|view| {
        let table = view.pools[&Pool::of(left)].clone();
        view.pools.insert(away, table);
    });
    let unwritable = SegmentReply::Unwritable {
        id,
        segment: segment.id,
        full: false,
    };
    assert_eq!(world.replies.pop_front(), Some(unwritable));
}

#[test]
fn no_space_and_conflict_are_said_after_a_few_tries() {
    for (mood, full) in [(Mood::Full, true), (Mood::Conflict, false)] {
        let mut world = world(&[RS_4_2]);
        world.mood_of_site(1, mood);
        let (id, segment, _) = world.write(POOL, 8);
        assert_eq!(
            world.answer(),
            SegmentReply::Unwritable {
                id,
                segment: segment.id,
                full
            }
        );
        let tries = world.disk(segment, 2).seen.len() + world.disk(segment, 3).seen.len();
        assert!(
            (4..=6).contains(&tries),
            "not after one refusal, not forever: {tries}"
        );
        world.mood_of_site(1, Mood::Well);
        world.run_for(Duration::from_secs(20));
        assert_eq!((world.stored(), world.machine.pending_deletes()), (0, 0));
    }
}

/// Where rows have room, and wait for a disk that is being replaced, space is not what lacks
/// (simulator seed 1380).
#[test]
fn what_waits_for_a_disk_is_not_full() {
    for others_wait in [true, false] {
        let mut world = world(&[RS_4_2]);
        let (_, first, _) = world.write(POOL, 8);
        world.answer();
        let disk = world.disk(first, 2);
        disk.mood = Mood::Full;
        let full = disk.at;
        world.change_view(|view| {
            let table = view.pools.get_mut(&POOL).expect("its pool");
            let slots = usize::from(table.slots);
            for row in table.places.chunks_mut(slots) {
                match (row.iter().any(|p| p.disk == Some(full)), others_wait) {
                    (true, _) => {}
                    (false, true) => row[0].disk = None,
                    // Of these, each has the full disk too.
                    (false, false) => row[2].disk = Some(full),
                }
            }
        });
        let mut answers = Vec::new();
        for _ in 0..20 {
            let (_, segment, _) = world.write(POOL, 8);
            let on_it = (0..6).any(|slot| world.place(segment, slot) == Some(full));
            let answer = world.answer();
            if on_it {
                answers.push(answer);
            }
        }
        let told = |a: &SegmentReply| matches!(a, SegmentReply::Unwritable { full: true, .. });
        assert!(!answers.is_empty());
        assert_eq!(answers.iter().any(told), !others_wait, "{answers:?}");
    }
}

/// A few full disks are not a full fabric: after one answered so, other rows are taken at once.
#[test]
fn rows_with_a_full_disk_are_left_alone() {
    let mut world = world(&[RS_4_2]);
    let (_, first, _) = world.write(POOL, 8);
    world.answer();
    let disk = world.disk(first, 2);
    disk.mood = Mood::Full;
    let full = disk.at.disk;
    let (mut written, mut skipped, mut tried) = (0, 0, false);
    for _ in 0..40 {
        let puts = |world: &mut World| {
            let seen = world.disk(first, 2).seen.iter();
            seen.filter(|(_, r)| matches!(r, DiskRequest::Put(_)))
                .count()
        };
        let before = puts(&mut world);
        let (_, segment, _) = world.write(POOL, 8);
        let on_it = (0..6).any(|slot| world.disk(segment, slot).at.disk == full);
        match (world.answer(), on_it) {
            (SegmentReply::Written { .. }, false) => written += 1,
            (SegmentReply::Unwritable { full: true, .. }, true) if !tried => tried = true,
            (SegmentReply::Unwritable { full: false, .. }, true) if tried => {
                assert_eq!(puts(&mut world), before, "it was not asked again");
                skipped += 1;
            }
            (reply, on_it) => panic!("on the full disk: {on_it}: {reply:?}"),
        }
    }
    assert!(
        written > 0 && skipped > 0,
        "{written} written, {skipped} skipped"
    );
    // It is asked again later: it may have room by then.
    world.run_for(Duration::from_secs(20));
    world.disk(first, 2).mood = Mood::Well;
    let replies = (0..16).map(|_| {
        world.write(POOL, 8);
        world.answer()
    });
    let mut replies = replies.collect::<Vec<_>>().into_iter();
    assert!(replies.all(|r| matches!(r, SegmentReply::Written { .. })));
}

#[test]
fn a_slot_without_a_disk_abandons_before_anything_is_sent() {
    let mut world = world(&[RS_4_2]);
    world.change_view(|view| {
        let table = view.pools.get_mut(&POOL).unwrap();
        (0..16).for_each(|row| table.places[row * 6 + 3].disk = None);
    });
    let (id, segment, _) = world.write(POOL, 8);
    assert_eq!(
        world.answer(),
        SegmentReply::Unwritable {
            id,
            segment: segment.id,
            full: false
        }
    );
    assert_eq!((world.seen(), world.machine.pending_deletes()), (0, 0));
}

#[test]
fn a_slot_that_moves_is_stored_at_its_new_disk_before_written() {
    let mut world = world(&[RS_4_2]);
    world.mood_of_site(2, Mood::Mute);
    let (id, segment, _) = world.write(POOL, 8);
    world.run_for(Duration::from_secs(1));
    // Slot 0, stored already, moves to the third disk of its site.
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
        let table = view.pools.get_mut(&POOL).unwrap();
        let row = usize::from(table.row(segment.id).0);
        table.places[row * 6].disk = Some(new);
    });
    world.mood_of_site(2, Mood::Well);
    assert_eq!(
        world.answer(),
        SegmentReply::Written {
            id,
            segment: segment.id
        }
    );
    world.assert_complete(segment);
}

#[test]
fn a_disk_in_another_life_is_not_written_to() {
    let mut world = world(&[RS_4_2]);
    let (id, segment, _) = world.write(POOL, 8);
    let disk = world.disk_of(segment, Slot(5));
    // Reformatted before the request arrives; nobody has committed that yet.
    world.disks.get_mut(&disk).unwrap().at.incarnation = Incarnation(99);
    assert_eq!(
        world.answer(),
        SegmentReply::Unwritable {
            id,
            segment: segment.id,
            full: false
        }
    );
    // Then the view knows the new life, while the table still names the old one.
    world.change_view(|view| {
        view.disks.get_mut(&disk).unwrap().at = DiskRef {
            disk,
            incarnation: Incarnation(99),
        };
    });
    let answers: Vec<bool> = (0..16)
        .map(|_| {
            let (_, segment, _) = world.write(POOL, 8);
            let touches = (0..6).any(|s| world.disk_of(segment, Slot(s)) == disk);
            let written = matches!(world.answer(), SegmentReply::Written { .. });
            assert_ne!(written, touches);
            written
        })
        .collect();
    assert!(answers.contains(&true) && answers.contains(&false));
}

#[test]
fn writes_at_a_time_are_bounded_and_none_is_forgotten() {
    let config = SegmentConfig {
        writes_max: 2,
        write_queue_max: 10,
        ..SegmentConfig::default()
    };
    let mut world = World::new(&[RS_4_2], 3, config);
    assert_eq!(world.machine.write_room(), 12);
    world.mood_of_site(1, Mood::Mute);
    let ids: Vec<_> = (0..12).map(|_| world.write(POOL, 4).0).collect();
    assert_eq!(world.machine.write_room(), 0);
    assert_eq!(
        world.machine.requests_outstanding(),
        12,
        "two writes of six slots"
    );
    world.mood_of_site(1, Mood::Well);
    for id in ids {
        assert!(matches!(world.answer(), SegmentReply::Written { id: i, .. } if i == id));
    }
}

#[test]
fn an_owner_that_tries_counter_after_counter_is_paced() {
    let mut world = world(&[RS_4_2]);
    world.set_site(2, Presence::Down);
    let start = world.now;
    for _ in 0..30 {
        world.write(POOL, 4);
        assert!(matches!(world.answer(), SegmentReply::Unwritable { .. }));
    }
    let took = world.now.since(start);
    assert!(took > Duration::from_secs(10), "{took:?}");
    world.write(POOL, 4);
    world.set_site(2, Presence::Up);
    assert!(
        matches!(world.answer(), SegmentReply::Written { .. }),
        "a new view is tried at once"
    );
}

#[test]
fn loss_repetition_and_reordering_change_nothing() {
    let mut world = world(&[GEO]);
    world.weather = Weather {
        lost: 20,
        twice: 20,
        jitter: Duration::from_secs(3),
    };
    for _ in 0..20 {
        world.written(GEO, 12);
    }
}

#[test]
fn fragments_share_the_segments_buffer() {
    let mut world = world(&[RS_4_2]);
    let (segment, data) = world.written(RS_4_2, 8);
    let put = |world: &mut World, slot| match &world.disk(segment, slot).seen[0].1 {
        DiskRequest::Put(put) => put.clone(),
        other => panic!("{other:?}"),
    };
    let meta = put(&mut world, 3).meta;
    assert_eq!(
        (meta.segment_bytes, meta.fragment_bytes),
        (8 * 4096, 2 * 4096)
    );
    assert_eq!(world.fragment(segment, 3).data, data[6 * BLOCK_BYTES..]);
}
