//! Mending, with disks that answer from what they hold.

use std::time::Duration;

use bytes::Bytes;
use model::ids::{Epoch, FragmentKey, SiteId, Version, VolumeId};
use model::journal::Checkpoint;
use model::placement::{Disk, JournalConfig, Presence, VolumeRecord};
use model::spread::SpreadTable;
use model::store::{FragmentMeta, SegmentKind};

use super::fixture::{POOL, at, place, site_of_four};
use super::sources::Row;
use super::*;
use crate::messages::FragmentAt;

const VOLUME: VolumeId = VolumeId(1);
const HERE: NodeId = NodeId(1);
const FRAGMENT: u32 = 4096;

fn key(counter: u32, slot: u8) -> FragmentKey {
    FragmentKey {
        segment: SegmentId {
            volume: VOLUME,
            epoch: Epoch(1),
            counter,
        },
        slot: Slot(slot),
    }
}

fn meta() -> FragmentMeta {
    FragmentMeta {
        pool: POOL,
        segment_bytes: 2 * FRAGMENT,
        fragment_bytes: FRAGMENT,
        kind: SegmentKind::Data,
    }
}

/// Node n has disk n, in one site; slot n - 1 of the only row lies on it.
fn view() -> View {
    let mut view = site_of_four();
    let table = SpreadTable {
        rows: 1,
        places: [1, 2, 3].map(place).to_vec(),
        slots: 3,
    };
    view.pools.insert(POOL, table);
    view
}

/// The fragments of a segment, by slot.
fn fragments(counter: u32) -> Vec<Bytes> {
    let data: Vec<u8> = (0..2 * FRAGMENT)
        .map(|i| (i * 31 / 7 + counter) as u8)
        .collect();
    let codec = Codec::new(POOL.code).expect("a sound code");
    let coded = codec.encode(&Payload::from(Bytes::from(data)));
    let coded = coded.expect("whole blocks").into_iter();
    coded.map(Payload::into_bytes).collect()
}

struct World {
    healer: Healer,
    view: View,
    now: Time,
    disks: BTreeMap<DiskId, BTreeMap<FragmentKey, Bytes>>,
    /// Fragments that the Healer stored, in turn.
    put: Vec<FragmentKey>,
}

impl World {
    /// All of some segments is there.
    fn holding(segments: u32) -> Self {
        let mut world = Self {
            healer: Healer::new(HERE, HealConfig::default(), RequestId(1)),
            view: view(),
            now: Time(1 << 40),
            disks: BTreeMap::new(),
            put: Vec::new(),
        };
        for counter in 1..=segments {
            for (slot, fragment) in (0_u8..).zip(fragments(counter)) {
                let disk = world.disks.entry(DiskId(u32::from(slot) + 1));
                disk.or_default().insert(key(counter, slot), fragment);
            }
        }
        world.see(|_| ());
        world
    }

    /// The placement is another one from now on.
    fn see(&mut self, change: impl FnOnce(&mut View)) {
        self.view.version = Version(self.view.version.0 + 1);
        change(&mut self.view);
        self.input(Input::View(Arc::new(self.view.clone())));
    }

    fn news(&mut self, news: ScrubNews) {
        self.input(Input::Scrub { at: at(1), news });
    }

    /// A block of the first disk's fragment rotted, and its scrub says so.
    fn rot(&mut self, counter: u32) {
        let here = self.disks.entry(DiskId(1)).or_default();
        here.insert(key(counter, 0), Bytes::from(vec![0xee; FRAGMENT as usize]));
        self.news(ScrubNews::Rotten(FragmentAt {
            key: key(counter, 0),
            meta: meta(),
        }));
    }

    fn lose(&mut self, counter: u32) {
        let here = self.disks.entry(DiskId(1)).or_default();
        assert!(here.remove(&key(counter, 0)).is_some());
    }

    fn input(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.healer.handle(self.now, input, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let Effect::ToDisk {
                disk,
                id,
                request,
                payload,
                ..
            } = effect
            else {
                continue;
            };
            let node = self.view.disks[&disk].node;
            let presences = [
                self.view.disks[&disk].presence,
                self.view.nodes[&node].presence,
            ];
            if presences != [Presence::Up; 2] {
                continue;
            }
            let (reply, payload) = self.answer(disk, request, payload);
            self.input(Input::Disk {
                disk,
                id,
                reply,
                payload,
            });
        }
    }

    fn answer(
        &mut self,
        disk: DiskId,
        request: DiskRequest,
        payload: Payload,
    ) -> (DiskReply, Bytes) {
        let held = self.disks.entry(disk).or_default();
        match request {
            DiskRequest::ListRow { .. } => {
                let keys = held.keys().map(|key| FragmentAt {
                    key: *key,
                    meta: meta(),
                });
                let keys = keys.collect();
                (DiskReply::Row { keys, next: None }, Bytes::new())
            }
            DiskRequest::Get { key, .. } => match held.get(&key) {
                Some(fragment) => {
                    let (meta, good) = (meta(), vec![true]);
                    (
                        DiskReply::Data {
                            meta,
                            good,
                            is_pressed: false,
                        },
                        fragment.clone(),
                    )
                }
                None => (DiskReply::NotFound, Bytes::new()),
            },
            DiskRequest::Put(put) => {
                assert_eq!(disk, DiskId(1), "only what lies here is mended");
                self.put.push(put.key);
                held.insert(put.key, payload.into_bytes());
                (DiskReply::Stored { is_pressed: false }, Bytes::new())
            }
            other => panic!("a Healer asks no {other:?}"),
        }
    }

    /// Meets all deadlines of so long a time.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.healer.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let mut effects = Vec::new();
            self.healer.tick(self.now, &mut effects);
            self.carry_out(effects);
        }
        self.now = end;
    }

    fn is_whole(&self, counter: u32) -> bool {
        let here = self.disks[&DiskId(1)].get(&key(counter, 0));
        here == Some(&fragments(counter)[0])
    }

    fn is_idle(&self) -> bool {
        self.healer.jobs.is_empty() && self.healer.asked.is_empty()
    }
}

const PAUSE: Duration = Duration::from_secs(3);

#[test]
fn what_rotted_is_rebuilt_where_it_lies_and_once() {
    let mut world = World::holding(3);
    world.rot(2);
    world.pass(PAUSE);
    assert!(world.is_whole(2) && world.is_idle());
    assert_eq!(world.put, [key(2, 0)]);
    // The scrub tells of it until it is whole: another time it rots, it is mended again.
    world.rot(2);
    world.rot(3);
    world.pass(PAUSE);
    assert!(world.is_whole(2) && world.is_whole(3) && world.is_idle());
    assert_eq!(world.put, [key(2, 0), key(2, 0), key(3, 0)]);
}

#[test]
fn what_is_gone_is_brought_back_when_it_is_missed_twice() {
    for news in [ScrubNews::Walked, ScrubNews::Lacking] {
        let mut world = World::holding(3);
        world.lose(1);
        world.news(news);
        assert!(world.put.is_empty(), "it may just be written");
        world.pass(PAUSE);
        assert_eq!(world.put, [key(1, 0)]);
        assert!(world.is_whole(1) && world.is_idle());
    }
}

#[test]
fn what_was_only_being_written_is_left_alone() {
    let mut world = World::holding(3);
    world.lose(1);
    world.news(ScrubNews::Walked);
    assert!(!world.is_idle(), "it looks again");
    let late = fragments(1).swap_remove(0);
    let here = world.disks.get_mut(&DiskId(1)).expect("it holds others");
    here.insert(key(1, 0), late);
    world.pass(PAUSE);
    assert!(world.put.is_empty() && world.is_idle());
}

#[test]
fn a_look_that_finds_all_there_ends() {
    let mut world = World::holding(3);
    world.news(ScrubNews::Walked);
    world.pass(PAUSE);
    assert!(world.put.is_empty() && world.is_idle());
}

/// Of three fragments one rotted and one is away: what is left is too little.
#[test]
fn a_mending_waits_for_a_source_that_is_away() {
    let mut world = World::holding(1);
    let presence = |presence| {
        move |view: &mut View| {
            view.nodes.get_mut(&NodeId(3)).expect("there").presence = presence;
        }
    };
    world.see(presence(Presence::Down));
    world.rot(1);
    world.pass(Duration::from_secs(60));
    assert!(world.put.is_empty() && !world.is_idle());
    world.see(presence(Presence::Up));
    world.pass(Duration::from_secs(60));
    assert!(world.is_whole(1) && world.is_idle());
}

#[test]
fn nothing_of_a_deleted_volume_is_mended() {
    let mut world = World::holding(2);
    world.see(|view| {
        view.volumes.insert(VOLUME, deleted());
    });
    world.rot(1);
    assert!(world.is_idle());
    world.lose(2);
    world.news(ScrubNews::Walked);
    world.pass(PAUSE);
    assert!(world.put.is_empty() && world.is_idle());
}

#[test]
fn what_is_moved_away_is_not_mended() {
    let mut world = World::holding(1);
    world.see(|view| {
        let table = view.pools.get_mut(&POOL).expect("there");
        table.places[0].to = Some(at(4));
        table.places[0].version = Version(1);
    });
    world.rot(1);
    world.news(ScrubNews::Walked);
    world.pass(PAUSE);
    assert!(world.put.is_empty() && world.is_idle());
}

/// The move begins while its slot is mended: the move brings all of it.
#[test]
fn a_mending_ends_when_its_slot_is_moved() {
    let mut world = World::holding(1);
    world.see(|view| {
        view.nodes.get_mut(&NodeId(3)).expect("there").presence = Presence::Down;
    });
    world.rot(1);
    assert!(!world.is_idle());
    world.see(|view| {
        let table = view.pools.get_mut(&POOL).expect("there");
        table.places[0].to = Some(at(4));
        table.places[0].version = Version(1);
    });
    assert!(world.is_idle());
}

/// A disk is compared with others, and answers no more: what waits for it leaves room to the moves of
/// what it had, and goes on when it serves again.
#[test]
fn the_mendings_of_a_lost_disk_leave_room_to_moves() {
    let mut world = World::holding(0);
    let spare = at(5);
    world.see(|view| {
        let other = view.disks[&DiskId(1)].clone();
        view.disks.insert(spare.disk, Disk { at: spare, ..other });
        let table = view.pools.get_mut(&POOL).expect("there");
        table.rows = 3;
        table.places = [1, 2, 3].map(place).repeat(3);
    });
    let is_done = |world: &World| {
        let moved = world.healer.jobs.get(&(POOL, model::ids::Row(2), Slot(0)));
        moved.is_some_and(|job| matches!(job.state, State::Done))
    };
    // Nobody was told yet.
    let silent = |world: &mut World, presence| {
        let disk = world.view.disks.get_mut(&DiskId(1));
        disk.expect("there").presence = presence;
    };
    silent(&mut world, Presence::Down);
    world.news(ScrubNews::Walked);
    world.pass(PAUSE);
    world.see(|view| {
        let table = view.pools.get_mut(&POOL).expect("there");
        table.places[6].to = Some(spare);
        table.places[6].version = Version(1);
    });
    world.pass(PAUSE);
    assert!(is_done(&world));
    assert_eq!(world.healer.jobs.len(), 3, "two wait for it");
    silent(&mut world, Presence::Up);
    world.see(|_| ());
    world.pass(PAUSE);
    assert_eq!(world.healer.jobs.len(), 1);
}

/// A peer's listing says how long a fragment is: what no segment has is not believed.
#[test]
fn a_listing_with_an_impossible_length_is_ignored() {
    let healing = SlotMove {
        pool: POOL,
        row: RowNo(0),
        slot: Slot(0),
        version: Version(0),
        to: at(1),
    };
    let row = Row::of(&view(), &healing).expect("it lies here");
    for (segment_bytes, fragment_bytes, is_possible) in [
        (2 * FRAGMENT, FRAGMENT, true),
        (2 * FRAGMENT, u32::MAX, false),
        (u32::MAX, u32::MAX, false),
        (0, 0, false),
    ] {
        let mut listing = listing::Listing::of(&row);
        for (disk, page) in &mut listing.pages {
            let meta = FragmentMeta {
                segment_bytes,
                fragment_bytes,
                ..meta()
            };
            let key = key(1, 1);
            let told = (*disk == at(2)).then_some(FragmentAt { key, meta });
            page.got = Some((told.into_iter().collect(), None));
        }
        let (missing, _) = listing.missing(&healing, None);
        assert_eq!(!missing.is_empty(), is_possible, "{fragment_bytes}");
    }
}

fn deleted() -> VolumeRecord {
    VolumeRecord {
        id: VOLUME,
        name: "v".to_owned(),
        size_bytes: 1 << 30,
        resized: Version(1),
        cut: None,
        code: POOL.code,
        home: SiteId(1),
        epoch: Epoch(1),
        owner: None,
        journal: JournalConfig {
            version: Version(1),
            replicas: Vec::new(),
            next: None,
        },
        checkpoint: Checkpoint::EMPTY,
        published: None,
        recovered: None,
        clean: true,
        founded: Epoch(1),
        deleted: true,
    }
}
