//! Random faults: what is read is always what was written, `Written` always means all slots,
//! and when the faults end everything ends well.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use model::geometry::{Code, Pool};
use model::ids::{RequestId, SiteId, Slot};
use model::machine::Machine;
use model::placement::Presence;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::world::{GEO, Mood, RS_4_2, Weather, World, assert_right};
use crate::messages::{SegmentRef, SegmentReply};
use crate::segment::SegmentConfig;

#[derive(Clone, Debug)]
enum Action {
    Write {
        blocks: u32,
    },
    Read {
        which: usize,
        first: u32,
        blocks: u32,
    },
    Delete {
        which: usize,
    },
    Mood {
        disk: u32,
        mood: Mood,
    },
    Slow {
        disk: u32,
        ms: u64,
    },
    Rot {
        which: usize,
        slot: u8,
        row: usize,
        lie: bool,
    },
    Lose {
        which: usize,
        slot: u8,
    },
    Site {
        site: u8,
        up: bool,
    },
    Wait {
        ms: u64,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let mood = prop_oneof![
        Just(Mood::Well),
        Just(Mood::Mute),
        Just(Mood::Busy),
        Just(Mood::Full)
    ];
    prop_oneof![
        3 => (1_u32..40).prop_map(|blocks| Action::Write { blocks }),
        6 => (any::<usize>(), any::<u32>(), 1_u32..40)
            .prop_map(|(which, first, blocks)| Action::Read { which, first, blocks }),
        1 => any::<usize>().prop_map(|which| Action::Delete { which }),
        2 => (0_u32..9, mood).prop_map(|(disk, mood)| Action::Mood { disk, mood }),
        1 => (0_u32..9, 0_u64..200).prop_map(|(disk, ms)| Action::Slow { disk, ms }),
        3 => (any::<usize>(), any::<u8>(), any::<usize>(), any::<bool>())
            .prop_map(|(which, slot, row, lie)| Action::Rot { which, slot, row, lie }),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(which, slot)| Action::Lose { which, slot }),
        1 => (0_u8..3, any::<bool>()).prop_map(|(site, up)| Action::Site { site, up }),
        3 => (0_u64..5000).prop_map(|ms| Action::Wait { ms }),
    ]
}

struct Run {
    world: World,
    code: Code,
    writing: BTreeMap<RequestId, (SegmentRef, Bytes)>,
    written: Vec<(SegmentRef, Bytes)>,
    /// Slots damaged or lost on purpose, by segment counter: at most one each, so that every
    /// block stays decodable beside one lie.
    hurt: BTreeMap<u32, u8>,
    reading: BTreeMap<RequestId, (Bytes, Vec<(u32, u32)>)>,
}

impl Run {
    fn pick(&self, which: usize) -> Option<(SegmentRef, Bytes)> {
        (!self.written.is_empty()).then(|| self.written[which % self.written.len()].clone())
    }

    fn settle(&mut self) {
        while let Some(reply) = self.world.replies.pop_front() {
            match reply {
                SegmentReply::Written { id, segment } => {
                    let (at, data) = self.writing.remove(&id).expect("answered once");
                    assert_eq!(at.id, segment);
                    self.world.assert_complete(at);
                    self.written.push((at, data));
                }
                SegmentReply::Unwritable { id, segment, .. } => {
                    let (at, _) = self.writing.remove(&id).expect("answered once");
                    assert_eq!(at.id, segment);
                }
                SegmentReply::Read { id, runs } => {
                    let (data, wanted) = self.reading.remove(&id).expect("answered once");
                    assert_right(&data, &wanted, &runs);
                }
                SegmentReply::Unreadable { id } => panic!("{id}: every block is decodable"),
            }
        }
    }

    /// A slot that may be hurt: the one of this segment that already is, or any first one.
    fn victim(&mut self, segment: SegmentRef, slot: u8) -> u8 {
        *self
            .hurt
            .entry(segment.id.counter)
            .or_insert(slot % self.code.slots())
    }

    fn act(&mut self, action: Action) {
        let world = &mut self.world;
        match action {
            Action::Write { blocks } if world.machine.write_room() > 0 => {
                let pool = Pool::of(self.code);
                let (id, segment, data) = world.write(pool, blocks);
                self.writing.insert(id, (segment, data));
            }
            Action::Read {
                which,
                first,
                blocks,
            } => {
                let Some((segment, data)) = self.pick(which) else {
                    return;
                };
                let total = segment.bytes / 4096;
                let (first, half) = (first % total, blocks.div_ceil(2));
                let one = (first, half.min(total - first));
                let second = one.0 + one.1 + blocks % 3;
                let mut runs = vec![one];
                if second < total {
                    runs.push((second, half.min(total - second)));
                }
                let id = self.world.read(segment, &data, &runs);
                self.reading.insert(id, (data, runs));
            }
            // Only what nobody reads: else `Unreadable` is the right answer.
            Action::Delete { which } if self.reading.is_empty() && !self.written.is_empty() => {
                let (segment, _) = self.written.swap_remove(which % self.written.len());
                self.world.delete(vec![segment]);
            }
            Action::Mood { disk, mood } => {
                world.disks.get_mut(&model::ids::DiskId(disk)).unwrap().mood = mood;
            }
            Action::Slow { disk, ms } => {
                let disk = world.disks.get_mut(&model::ids::DiskId(disk)).unwrap();
                disk.extra = Duration::from_millis(ms);
            }
            Action::Rot {
                which,
                slot,
                row,
                lie,
            } => {
                let Some((segment, _)) = self.pick(which) else {
                    return;
                };
                let slot = self.victim(segment, slot);
                let key = model::ids::FragmentKey {
                    segment: segment.id,
                    slot: Slot(slot),
                };
                let world = &mut self.world;
                if !world.disk(segment, slot).fragments.contains_key(&key) {
                    return;
                }
                let rows = world.fragment(segment, slot).sums.len();
                if lie {
                    world.lie(segment, slot, row % rows);
                } else {
                    world.rot(segment, slot, row % rows);
                }
            }
            Action::Lose { which, slot } => {
                let Some((segment, _)) = self.pick(which) else {
                    return;
                };
                let slot = self.victim(segment, slot);
                let key = model::ids::FragmentKey {
                    segment: segment.id,
                    slot: Slot(slot),
                };
                self.world.disk(segment, slot).fragments.remove(&key);
            }
            Action::Site { site, up } => {
                let presence = if up { Presence::Up } else { Presence::Down };
                let away = world
                    .view
                    .sites
                    .iter()
                    .any(|(id, s)| *id != SiteId(site) && s.presence == Presence::Down);
                if up || !away {
                    world.set_site(site, presence);
                }
            }
            Action::Wait { ms } => world.run_for(Duration::from_millis(ms)),
            Action::Write { .. } | Action::Delete { .. } => {}
        }
        self.settle();
    }

    fn heal(&mut self) {
        let world = &mut self.world;
        world.weather = Weather::default();
        for disk in world.disks.values_mut() {
            (disk.mood, disk.extra) = (Mood::Well, Duration::ZERO);
        }
        (0..3).for_each(|site| world.set_site(site, Presence::Up));
        world.run_for(Duration::from_secs(120));
        self.settle();
        assert!(
            self.writing.is_empty() && self.reading.is_empty(),
            "all is answered"
        );
        assert_eq!(self.world.machine.pending_deletes(), 0);
        assert_eq!(self.world.machine.requests_outstanding(), 0);
        assert_eq!(self.world.machine.next_deadline(), None);
        for (segment, data) in std::mem::take(&mut self.written) {
            let blocks = segment.bytes / 4096;
            self.world.assert_read(segment, &data, &[(0, blocks)]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn faults_never_lose_or_change_a_byte(
        seed in any::<u64>(), geo in any::<bool>(), lost in 0_u64..30, twice in 0_u64..30,
        jitter in 0_u64..400, actions in proptest::collection::vec(action(), 1..60),
    ) {
        let code = if geo { GEO } else { RS_4_2 };
        let mut world = World::new(&[code], 3, SegmentConfig::default()).seeded(seed);
        world.weather = Weather { lost, twice, jitter: Duration::from_millis(jitter) };
        let mut run = Run {
            world, code, writing: BTreeMap::new(), written: Vec::new(), hurt: BTreeMap::new(),
            reading: BTreeMap::new(),
        };
        for action in actions {
            run.act(action);
        }
        run.heal();
    }
}
