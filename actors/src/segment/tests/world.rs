//! The fabric of the tests: sites of nodes of one disk each, a queue of messages in flight.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::geometry::{Code, Pool};
use model::ids::{
    DiskId, DiskRef, Epoch, FragmentKey, Incarnation, NodeId, RequestId, SegmentId, SiteId, Slot,
    Version, VolumeId,
};
use model::machine::Machine;
use model::payload::Payload;
use model::placement::{Disk, Duty, Node, Presence, Site, SiteRole, SlotPlace, SpreadTable, View};
use model::store::{Claim, FragmentMeta, SegmentKind, block_sum};
use model::time::Time;

use crate::messages::{BlockRun, DiskReply, DiskRequest, SegmentRef, SegmentReply, SegmentRequest};
use crate::segment::{Effect, Input, SegmentConfig, Segments};

pub(super) const RS_4_2: Code = Code::Rs { k: 4, m: 2 };
pub(super) const GEO: Code = Code::Geo {
    k: 2,
    m: 1,
    sites: 3,
};

/// Latency within the site of the machine, and to others.
const NEAR: Duration = Duration::from_micros(200);
const FAR: Duration = Duration::from_millis(8);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fragment {
    pub(super) meta: FragmentMeta,
    pub(super) sums: Vec<u32>,
    pub(super) data: Vec<u8>,
}

/// How a disk behaves beside what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mood {
    Well,
    /// Takes requests, answers nothing.
    Mute,
    Busy,
    Full,
    Conflict,
}

pub(super) struct ModelDisk {
    pub(super) at: DiskRef,
    pub(super) site: u8,
    pub(super) mood: Mood,
    pub(super) extra: Duration,
    pub(super) fragments: BTreeMap<FragmentKey, Fragment>,
    /// Requests that it saw, in order.
    pub(super) seen: Vec<(RequestId, DiskRequest)>,
}

impl ModelDisk {
    fn serve(&mut self, request: &DiskRequest, payload: &Payload) -> Option<(DiskReply, Bytes)> {
        let empty = |reply| Some((reply, Bytes::new()));
        let (DiskRequest::Put(crate::messages::PutFragment { incarnation, .. })
        | DiskRequest::Get { incarnation, .. }
        | DiskRequest::Delete { incarnation, .. }) = request
        else {
            panic!("not for a Segment machine: {request:?}")
        };
        match (self.mood, request) {
            (Mood::Mute, _) => return None,
            (Mood::Busy, _) => return empty(DiskReply::Busy),
            _ if *incarnation != self.at.incarnation => return empty(DiskReply::WrongIncarnation),
            (Mood::Full, DiskRequest::Put(_)) => return empty(DiskReply::Full),
            (Mood::Conflict, DiskRequest::Put(_)) => return empty(DiskReply::Conflict),
            _ => {}
        }
        match request {
            DiskRequest::Put(put) => {
                let data = payload.clone().into_bytes();
                assert_eq!(data.len(), put.meta.fragment_bytes as usize);
                for (i, block) in (0..).zip(data.chunks(BLOCK_BYTES)) {
                    assert_eq!(put.sums[i as usize], block_sum(put.key, i, block));
                }
                let new = Fragment {
                    meta: put.meta,
                    sums: put.sums.clone(),
                    data: data.to_vec(),
                };
                let kept = self.fragments.entry(put.key).or_insert_with(|| new.clone());
                empty(if *kept == new {
                    DiskReply::Stored { is_pressed: false }
                } else {
                    DiskReply::Conflict
                })
            }
            DiskRequest::Get { key, ranges, .. } => {
                assert!(ranges.len() <= 1024);
                let Some(fragment) = self.fragments.get(key) else {
                    return empty(DiskReply::NotFound);
                };
                let (mut good, mut bytes) = (Vec::new(), Vec::new());
                for &(offset, length) in ranges {
                    let range = offset as usize..(offset + length) as usize;
                    let range = &fragment.data[range];
                    let ok = (offset / BLOCK_BYTES as u32..)
                        .zip(range.chunks(BLOCK_BYTES))
                        .all(|(i, block)| fragment.sums[i as usize] == block_sum(*key, i, block));
                    good.push(ok);
                    if ok {
                        bytes.extend_from_slice(range);
                    }
                }
                Some((
                    DiskReply::Data {
                        meta: fragment.meta,
                        good,
                        is_pressed: false,
                    },
                    Bytes::from(bytes),
                ))
            }
            DiskRequest::Delete { keys, .. } => {
                assert!(keys.len() <= 256 && !keys.is_empty());
                keys.iter().for_each(|key| drop(self.fragments.remove(key)));
                empty(DiskReply::Deleted)
            }
            _ => unreachable!(),
        }
    }
}

enum Flying {
    ToDisk {
        disk: DiskId,
        id: RequestId,
        request: DiskRequest,
        payload: Payload,
    },
    Back {
        disk: DiskId,
        id: RequestId,
        reply: DiskReply,
        payload: Bytes,
    },
}

/// Faults of the network, in percent.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Weather {
    pub(super) lost: u64,
    pub(super) twice: u64,
    /// Up to so much is added to a message's latency: messages overtake each other.
    pub(super) jitter: Duration,
}

pub(super) struct World {
    pub(super) machine: Segments,
    pub(super) now: Time,
    pub(super) disks: BTreeMap<DiskId, ModelDisk>,
    pub(super) view: View,
    pub(super) replies: VecDeque<SegmentReply>,
    pub(super) weather: Weather,
    flying: BTreeMap<(Time, u64), Flying>,
    sent: u64,
    random: u64,
    next_id: u64,
    next_segment: u32,
    out: Vec<Effect>,
}

impl World {
    /// Three sites, of `per_site` nodes with a disk each. Every row of each code's table uses
    /// disks of all sites, slot by slot in groups; the machine is on a node of site 0.
    pub(super) fn new(codes: &[Code], per_site: u8, config: SegmentConfig) -> Self {
        let mut view = View {
            version: Version(1),
            ..View::default()
        };
        let mut disks = BTreeMap::new();
        let address = "127.0.0.1:1".parse().unwrap();
        for site in 0..3_u8 {
            let name = format!("s{site}");
            view.sites.insert(
                SiteId(site),
                Site {
                    name,
                    presence: Presence::Up,
                    takes_segments: true,
                    role: SiteRole::Data,
                },
            );
            for i in 0..per_site {
                let n = u16::from(site * per_site + i);
                let at = DiskRef {
                    disk: DiskId(n.into()),
                    incarnation: Incarnation(n.into()),
                };
                let node = Node {
                    name: format!("n{n}"),
                    site: SiteId(site),
                    address,
                    nbd: address,
                    presence: Presence::Up,
                    duty: Duty::Serve,
                };
                view.nodes.insert(NodeId(n), node);
                let disk = Disk {
                    at,
                    node: NodeId(n),
                    capacity_bytes: 1 << 40,
                    presence: Presence::Up,
                    duty: Duty::Serve,
                    fault: None,
                };
                view.disks.insert(at.disk, disk);
                let model = ModelDisk {
                    at,
                    site,
                    mood: Mood::Well,
                    extra: Duration::ZERO,
                    fragments: BTreeMap::new(),
                    seen: Vec::new(),
                };
                disks.insert(at.disk, model);
            }
        }
        for &code in codes {
            view.pools.insert(Pool::of(code), table(code, per_site));
        }
        let machine = Segments::new(NodeId(0), config, Arc::new(view.clone()), RequestId(1000));
        Self {
            machine,
            now: Time(1),
            disks,
            view,
            replies: VecDeque::new(),
            weather: Weather::default(),
            flying: BTreeMap::new(),
            sent: 0,
            random: 0x1234_5678_9abc_def1,
            next_id: 0,
            next_segment: 0,
            out: Vec::new(),
        }
    }

    pub(super) fn seeded(mut self, seed: u64) -> Self {
        self.random = seed | 1;
        self
    }

    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(super) fn handle(&mut self, input: Input) {
        self.machine.handle(self.now, input, &mut self.out);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in std::mem::take(&mut self.out) {
            match effect {
                Effect::Reply(reply) => self.replies.push_back(reply),
                Effect::ToDisk {
                    node,
                    disk,
                    id,
                    request,
                    payload,
                } => {
                    assert_eq!(self.view.disks[&disk].node, node, "sent where the disk is");
                    self.fly(disk, || Flying::ToDisk {
                        disk,
                        id,
                        request: request.clone(),
                        payload: payload.clone(),
                    });
                }
            }
        }
    }

    fn fly(&mut self, disk: DiskId, message: impl Fn() -> Flying) {
        let copies = match self.random() % 100 {
            x if x < self.weather.lost => 0,
            x if x < self.weather.lost + self.weather.twice => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let model = &self.disks[&disk];
            let base = if model.site == 0 { NEAR } else { FAR };
            let jitter = self.weather.jitter.as_nanos() as u64;
            let jitter = if jitter == 0 {
                0
            } else {
                self.random() % jitter
            };
            let at = self.now + base + self.disks[&disk].extra / 2 + Duration::from_nanos(jitter);
            self.sent += 1;
            self.flying.insert((at, self.sent), message());
        }
    }

    /// The next thing that happens, up to `until`. `false` if nothing does.
    fn step(&mut self, until: Time) -> bool {
        let message = self.flying.keys().next().map(|(at, _)| *at);
        let timer = self.machine.next_deadline();
        let next = message.into_iter().chain(timer).min();
        let Some(at) = next.filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(at);
        if message == Some(at) {
            match self.flying.pop_first().unwrap().1 {
                Flying::ToDisk {
                    disk,
                    id,
                    request,
                    payload,
                } => {
                    let model = self.disks.get_mut(&disk).unwrap();
                    model.seen.push((id, request.clone()));
                    if let Some((reply, payload)) = model.serve(&request, &payload) {
                        self.fly(disk, || Flying::Back {
                            disk,
                            id,
                            reply: reply.clone(),
                            payload: payload.clone(),
                        });
                    }
                }
                Flying::Back {
                    disk,
                    id,
                    reply,
                    payload,
                } => {
                    self.handle(Input::Disk {
                        disk,
                        id,
                        reply,
                        payload,
                    });
                }
            }
        } else {
            self.machine.tick(self.now, &mut self.out);
            self.carry_out();
        }
        true
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until the machine has answered, for at most a minute.
    pub(super) fn answer(&mut self) -> SegmentReply {
        let until = self.now + Duration::from_secs(60);
        while self.replies.is_empty() && self.step(until) {}
        self.replies.pop_front().expect("an answer within a minute")
    }

    pub(super) fn change_view(&mut self, change: impl FnOnce(&mut View)) {
        change(&mut self.view);
        self.view.version = self.view.version.next();
        self.handle(Input::View(Arc::new(self.view.clone())));
    }

    pub(super) fn set_site(&mut self, site: u8, presence: Presence) {
        self.change_view(|view| view.sites.get_mut(&SiteId(site)).unwrap().presence = presence);
    }

    pub(super) fn mood_of_site(&mut self, site: u8, mood: Mood) {
        self.disks
            .values_mut()
            .filter(|d| d.site == site)
            .for_each(|d| d.mood = mood);
    }

    fn id(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id)
    }

    /// Asks for a segment of random bytes to be written.
    pub(super) fn write(&mut self, pool: Pool, blocks: u32) -> (RequestId, SegmentRef, Bytes) {
        self.next_segment += 1;
        let bytes = blocks * BLOCK_BYTES as u32;
        let id = SegmentId {
            volume: VolumeId(7),
            epoch: Epoch(1),
            counter: self.next_segment,
        };
        let segment = SegmentRef { id, pool, bytes };
        let words: Vec<u8> = (0..bytes / 8)
            .flat_map(|_| self.random().to_le_bytes())
            .collect();
        let data = Bytes::from(words);
        let id = self.id();
        let kind = SegmentKind::Data;
        let payload = Payload::from(data.clone());
        self.handle(Input::Request(SegmentRequest::Write {
            id,
            segment,
            kind,
            claim: Claim::Client,
            data: payload,
        }));
        (id, segment, data)
    }

    /// Writes a segment, which succeeds.
    pub(super) fn written(&mut self, code: Code, blocks: u32) -> (SegmentRef, Bytes) {
        let (id, segment, data) = self.write(Pool::of(code), blocks);
        assert_eq!(
            self.answer(),
            SegmentReply::Written {
                id,
                segment: segment.id
            }
        );
        self.assert_complete(segment);
        (segment, data)
    }

    /// Every slot's disk holds the slot's fragment (R14).
    pub(super) fn assert_complete(&self, segment: SegmentRef) {
        for slot in (0..segment.pool.code.slots()).map(Slot) {
            let at = self.disk_of(segment, slot);
            let key = FragmentKey {
                segment: segment.id,
                slot,
            };
            assert!(
                self.disks[&at].fragments.contains_key(&key),
                "{slot} is not on {at}"
            );
        }
    }

    pub(super) fn disk_of(&self, segment: SegmentRef, slot: Slot) -> DiskId {
        let table = &self.view.pools[&segment.pool];
        table.disk(table.row(segment.id), slot).unwrap().disk
    }

    /// Where new fragments of a slot go, if there is such a disk.
    pub(super) fn place(&self, segment: SegmentRef, slot: u8) -> Option<DiskRef> {
        let table = &self.view.pools[&segment.pool];
        table.disk(table.row(segment.id), Slot(slot))
    }

    pub(super) fn fragment(&mut self, segment: SegmentRef, slot: u8) -> &mut Fragment {
        let at = self.disk_of(segment, Slot(slot));
        let key = FragmentKey {
            segment: segment.id,
            slot: Slot(slot),
        };
        self.disks
            .get_mut(&at)
            .unwrap()
            .fragments
            .get_mut(&key)
            .unwrap()
    }

    pub(super) fn disk(&mut self, segment: SegmentRef, slot: u8) -> &mut ModelDisk {
        let at = self.disk_of(segment, Slot(slot));
        self.disks.get_mut(&at).unwrap()
    }

    pub(super) fn lose(&mut self, segment: SegmentRef, slot: u8) {
        let key = FragmentKey {
            segment: segment.id,
            slot: Slot(slot),
        };
        self.disk(segment, slot).fragments.remove(&key).unwrap();
    }

    /// A block whose bytes no longer have the disk's checksum.
    pub(super) fn rot(&mut self, segment: SegmentRef, slot: u8, row: usize) {
        self.fragment(segment, slot).data[row * BLOCK_BYTES + 9] ^= 4;
    }

    /// A block that the disk believes in although it is wrong (a lost write, say).
    pub(super) fn lie(&mut self, segment: SegmentRef, slot: u8, row: usize) {
        self.rot(segment, slot, row);
        let key = FragmentKey {
            segment: segment.id,
            slot: Slot(slot),
        };
        let fragment = self.fragment(segment, slot);
        let block = &fragment.data[row * BLOCK_BYTES..][..BLOCK_BYTES];
        fragment.sums[row] = block_sum(key, row as u32, block);
    }

    /// Asks for runs of (first block, blocks).
    pub(super) fn read(
        &mut self,
        segment: SegmentRef,
        data: &Bytes,
        runs: &[(u32, u32)],
    ) -> RequestId {
        let id = self.id();
        let runs = runs.iter().map(|&(first, blocks)| {
            let start = first as usize * BLOCK_BYTES;
            let of = &data[start..start + blocks as usize * BLOCK_BYTES];
            let sums = of.chunks(BLOCK_BYTES).map(model::crc32c).collect();
            BlockRun {
                offset: start as u32,
                sums,
            }
        });
        let runs = runs.collect();
        self.handle(Input::Request(SegmentRequest::Read { id, segment, runs }));
        id
    }

    /// Reads runs, which succeeds, with the right bytes.
    pub(super) fn assert_read(
        &mut self,
        segment: SegmentRef,
        data: &Bytes,
        runs: &[(u32, u32)],
    ) -> Vec<Bytes> {
        let id = self.read(segment, data, runs);
        let reply = self.answer();
        let SegmentReply::Read {
            id: answered,
            runs: got,
        } = reply
        else {
            panic!("{reply:?}")
        };
        assert_eq!(answered, id);
        assert_right(data, runs, &got);
        got
    }

    pub(super) fn delete(&mut self, segments: Vec<SegmentRef>) {
        self.handle(Input::Request(SegmentRequest::Delete { segments }));
    }

    pub(super) fn stored(&self) -> usize {
        self.disks.values().map(|d| d.fragments.len()).sum()
    }

    /// How many messages all disks saw.
    pub(super) fn seen(&self) -> usize {
        self.disks.values().map(|d| d.seen.len()).sum()
    }
}

pub(super) fn assert_right(data: &Bytes, runs: &[(u32, u32)], got: &[Bytes]) {
    assert_eq!(got.len(), runs.len());
    for (&(first, blocks), got) in runs.iter().zip(got) {
        let start = first as usize * BLOCK_BYTES;
        assert!(
            *got == data[start..start + blocks as usize * BLOCK_BYTES],
            "wrong bytes"
        );
    }
}

/// Slots in as many groups as there are sites; row r turns each site's disks by r.
fn table(code: Code, per_site: u8) -> SpreadTable {
    let rows = 16_u16;
    let per = code.slots().div_ceil(3);
    let mut places = Vec::new();
    for row in 0..rows {
        for slot in 0..code.slots() {
            let (site, place) = (slot / per, slot % per);
            assert!(place < per_site, "distinct disks");
            let n = u32::from(site * per_site)
                + (u32::from(place) + u32::from(row)) % u32::from(per_site);
            places.push(SlotPlace {
                disk: Some(DiskRef {
                    disk: DiskId(n),
                    incarnation: Incarnation(n.into()),
                }),
                ..SlotPlace::default()
            });
        }
    }
    SpreadTable {
        rows,
        places,
        slots: code.slots(),
    }
}
