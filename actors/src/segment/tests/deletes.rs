use std::time::Duration;

use model::geometry::{Code, Pool};
use model::ids::{DiskId, DiskRef, FragmentKey, Incarnation, Slot, Version};
use model::machine::Machine;
use model::placement::Presence;

use super::world::{GEO, Mood, RS_4_2, Weather, World};
use crate::messages::{DiskRequest, SegmentRef};
use crate::segment::SegmentConfig;

fn deletes_seen(world: &World) -> usize {
    let seen = world.disks.values().flat_map(|d| &d.seen);
    seen.filter(|(_, request)| matches!(request, DiskRequest::Delete { .. }))
        .count()
}

fn world_with(count: usize) -> (World, Vec<SegmentRef>) {
    let mut world = World::new(&[GEO], 3, SegmentConfig::default());
    let segments = (0..count).map(|_| world.written(GEO, 4).0).collect();
    (world, segments)
}

#[test]
fn deletes_go_in_batches_until_every_slot_answered() {
    let (mut world, segments) = world_with(40);
    world.delete(segments);
    assert_eq!(world.machine.pending_deletes(), 40);
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.machine.pending_deletes(), world.stored()), (0, 0));
    assert_eq!(deletes_seen(&world), 9, "one batch a disk");
    assert_eq!(world.machine.next_deadline(), None);
}

#[test]
fn lost_repeated_and_reordered_answers_are_no_matter() {
    let (mut world, segments) = world_with(20);
    world.weather = Weather {
        lost: 40,
        twice: 30,
        jitter: Duration::from_secs(7),
    };
    for one in segments {
        world.delete(vec![one, one]);
        world.run_for(Duration::from_secs(1));
    }
    world.run_for(Duration::from_secs(300));
    assert_eq!((world.machine.pending_deletes(), world.stored()), (0, 0));
    assert_eq!(world.machine.requests_outstanding(), 0);
}

#[test]
fn a_disk_that_is_down_is_tried_slowly_and_remembered() {
    let (mut world, segments) = world_with(10);
    world.mood_of_site(1, Mood::Mute);
    world.set_site(1, Presence::Down);
    world.delete(segments);
    world.run_for(Duration::from_secs(100));
    assert_eq!(world.machine.pending_deletes(), 10);
    let tries = deletes_seen(&world);
    assert!((6 + 3 * 5..=6 + 3 * 12).contains(&tries), "{tries}");
    world.mood_of_site(1, Mood::Well);
    world.set_site(1, Presence::Up);
    world.run_for(Duration::from_secs(1));
    assert_eq!((world.machine.pending_deletes(), world.stored()), (0, 0));
}

#[test]
fn a_disk_that_is_gone_or_lives_anew_counts_as_answered() {
    let (mut world, segments) = world_with(10);
    for disk in 3..6 {
        world.disks.get_mut(&DiskId(disk)).unwrap().mood = Mood::Mute;
    }
    // One answers that it is another life, one is known to be, one is removed for good.
    let reborn = world.disks.get_mut(&DiskId(3)).unwrap();
    (reborn.at.incarnation, reborn.mood) = (Incarnation(77), Mood::Well);
    reborn.fragments.clear();
    world.delete(segments);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.machine.pending_deletes(), 10);
    world.change_view(|view| {
        let at = DiskRef {
            disk: DiskId(4),
            incarnation: Incarnation(78),
        };
        view.disks.get_mut(&DiskId(4)).unwrap().at = at;
        view.disks.get_mut(&DiskId(5)).unwrap().presence = Presence::Gone;
    });
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.machine.pending_deletes(), 0);
}

#[test]
fn a_slot_without_a_disk_waits_for_one_and_moved_slots_are_followed() {
    let (mut world, segments) = world_with(6);
    let pool = Pool::of(GEO);
    let table = world.view.pools[&pool].clone();
    world.change_view(|view| drop(view.pools.remove(&pool)));
    world.delete(segments.clone());
    world.run_for(Duration::from_secs(10));
    assert_eq!(
        (world.machine.pending_deletes(), deletes_seen(&world)),
        (6, 0)
    );
    world.change_view(|view| drop(view.pools.insert(pool, table)));
    let disk = world.disk_of(segments[0], Slot(0));
    assert!(world.disks.contains_key(&disk));
    world.run_for(Duration::from_secs(10));
    assert_eq!((world.machine.pending_deletes(), world.stored()), (0, 0));
}

#[test]
fn what_is_remembered_is_bounded_and_nonsense_names_nothing() {
    let config = SegmentConfig {
        deletes_max: 3,
        ..SegmentConfig::default()
    };
    let mut world = World::new(&[RS_4_2], 3, config);
    let segments: Vec<_> = (0..5).map(|_| world.written(RS_4_2, 4).0).collect();
    world.mood_of_site(0, Mood::Mute);
    world.delete(segments.clone());
    assert_eq!(world.machine.pending_deletes(), 3);
    assert_eq!(world.machine.counters().deletes_dropped, 2);
    let pool = Pool::of(Code::Geo {
        k: 255,
        m: 255,
        sites: 255,
    });
    world.delete(vec![SegmentRef {
        pool,
        ..segments[0]
    }]);
    assert_eq!(world.machine.pending_deletes(), 3);
}

#[test]
fn busy_is_no_answer() {
    let (mut world, segments) = world_with(3);
    world.mood_of_site(2, Mood::Busy);
    world.delete(segments);
    world.run_for(Duration::from_secs(20));
    assert_eq!((world.machine.pending_deletes(), world.stored()), (3, 9));
    world.mood_of_site(2, Mood::Well);
    world.run_for(Duration::from_secs(20));
    assert_eq!((world.machine.pending_deletes(), world.stored()), (0, 0));
}

/// R20: a move that nobody knew of here listed the row before all of it was deleted, found the slot missing, and
/// rebuilt it from the others.
#[test]
fn what_a_move_rebuilds_before_all_is_deleted_is_deleted_again() {
    let mut world = World::new(&[RS_4_2], 3, SegmentConfig::default());
    let segments = vec![world.written(RS_4_2, 4).0];
    let (segment, slot) = (segments[0], Slot(0));
    let key = FragmentKey {
        segment: segment.id,
        slot,
    };
    let old = world.disk_of(segment, slot);
    let rebuilt = world.disks[&old].fragments[&key].clone();
    world.mood_of_site(1, Mood::Mute);
    world.delete(segments);
    world.run_for(Duration::from_secs(2));
    assert!(!world.disks[&old].fragments.contains_key(&key));
    assert_eq!(world.machine.pending_deletes(), 1, "not all of it is gone");

    let row = world.view.pools[&segment.pool].row(segment.id);
    let taken = |disk: &DiskId| {
        let table = &world.view.pools[&segment.pool];
        table
            .iter()
            .any(|(of, _, place)| of == row && place.disk.is_some_and(|at| at.disk == *disk))
    };
    let new = *world
        .disks
        .keys()
        .find(|disk| !taken(disk))
        .expect("a disk");
    let at = world.disks[&new].at;
    world
        .disks
        .get_mut(&new)
        .expect("it")
        .fragments
        .insert(key, rebuilt);
    world.change_view(|view| {
        let table = view.pools.get_mut(&segment.pool).expect("its pool");
        let place = table.iter().position(|(of, at, _)| (of, at) == (row, slot));
        let place = &mut table.places[place.expect("a slot")];
        (place.disk, place.version) = (Some(at), Version(place.version.0 + 1));
    });
    world.mood_of_site(1, Mood::Well);
    world.run_for(Duration::from_secs(60));
    assert_eq!((world.machine.pending_deletes(), world.stored()), (0, 0));
}
