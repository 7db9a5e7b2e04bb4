//! Whose sessions are closed, and whose are not (R10): an owner of an empty volume, against disks
//! that take everything, nodes that answer when they are told to, and a group that agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::BLOCK_BYTES;
use model::geometry::{Code, Pool};
use model::ids::{
    Actor, Boot, ClientId, ClientRef, DiskId, DiskRef, Endpoint, Epoch, Incarnation, NodeId,
    Position, RequestId, SegmentId, SessionId, SiteId, Version, VolumeId,
};
use model::journal::{Checkpoint, SealReport};
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest};
use model::placement::{
    Disk, Duty, JournalConfig, Node, Owner, Presence, Site, SpreadTable, View, VolumeRecord,
};
use model::time::Time;

use super::*;
use crate::messages::{
    BlockRun, ClientsReply, ClientsRequest, DiskReply, DiskRequest, SegmentReply, SegmentRequest,
    VolumeReply,
};

#[path = "zeros.rs"]
mod zeros;

const VOLUME: VolumeId = VolumeId(1);
const OWNER: NodeId = NodeId(1);
const FRONT_END: NodeId = NodeId(2);
const SITES: std::ops::RangeInclusive<u8> = 1..=3;

fn disk(site: u8) -> DiskRef {
    DiskRef {
        disk: DiskId(site.into()),
        incarnation: Incarnation(1),
    }
}

fn client(node: NodeId, boot: u64, client: u64) -> ClientRef {
    ClientRef {
        node,
        boot: Boot(boot),
        client: ClientId(client),
    }
}

/// A node and a disk in each of three sites, and the volume.
fn view() -> View {
    let mut view = View::default();
    let address = "127.0.0.1:1".parse().expect("an address");
    let presence = Presence::Up;
    let duty = Duty::Serve;
    for s in SITES {
        let (site, node, at) = (SiteId(s), NodeId(s.into()), disk(s));
        let name = s.to_string();
        let takes_segments = true;
        view.sites.insert(
            site,
            Site {
                name: name.clone(),
                presence,
                takes_segments,
            },
        );
        view.nodes.insert(
            node,
            Node {
                name,
                site,
                address,
                nbd: address,
                presence,
                duty,
            },
        );
        view.disks.insert(
            at.disk,
            Disk {
                at,
                node,
                capacity_bytes: 1 << 30,
                presence,
                duty,
            },
        );
    }
    // An index without a page needs no disk.
    let pool = Pool {
        code: Code::INDEX,
        without: None,
    };
    let table = SpreadTable {
        rows: 1,
        places: Vec::new(),
        slots: 6,
    };
    view.pools.insert(pool, table);
    let record = VolumeRecord {
        id: VOLUME,
        name: "v".to_owned(),
        size_bytes: 1 << 20,
        resized: Version(0),
        cut: None,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(1),
        epoch: Epoch(0),
        owner: None,
        journal: JournalConfig {
            version: Version(1),
            replicas: SITES.map(disk).collect(),
            next: None,
        },
        checkpoint: Checkpoint::EMPTY,
        clean: true,
        founded: Epoch(0),
        published: None,
        recovered: None,
        deleted: false,
    };
    view.volumes.insert(VOLUME, record);
    view
}

struct Bench {
    now: Time,
    volume: Volume,
    view: View,
    logs: BTreeMap<DiskId, Position>,
    /// Whether disks answer.
    disks_answer: bool,
    requests: u64,
    told: BTreeMap<RequestId, VolumeReply>,
    /// Who was asked for which clients, since it was last looked at.
    asked: Vec<(NodeId, Vec<ClientRef>)>,
    ended: Option<StopReason>,
    /// Segments that were written.
    segments: BTreeMap<SegmentId, Bytes>,
    /// Pages that can't be read: their segments, and where they begin there.
    lost: BTreeSet<(SegmentId, u32)>,
    /// Pages that were read.
    read: Vec<(SegmentId, u32)>,
    /// While there are some, reads wait.
    held: Option<Vec<SegmentRequest>>,
}

impl Bench {
    /// An owner that serves.
    fn new(config: VolumeConfig) -> Self {
        Self::of(config, view())
    }

    fn of(config: VolumeConfig, view: View) -> Self {
        let volume = Volume::new(VOLUME, OWNER, config, Arc::new(view.clone()), 0);
        let mut bench = Self {
            now: Time(1_000_000_000),
            volume,
            view,
            logs: BTreeMap::new(),
            disks_answer: true,
            requests: 0,
            told: BTreeMap::new(),
            asked: Vec::new(),
            ended: None,
            segments: BTreeMap::new(),
            lost: BTreeSet::new(),
            read: Vec::new(),
            held: None,
        };
        bench.pass(Duration::from_millis(100));
        assert!(bench.volume.stats().serving);
        bench
    }

    fn handle(&mut self, input: Input) {
        let mut out = Vec::new();
        self.volume.handle(self.now, input, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Meta { token, request } => {
                    let reply = self.decide(&request);
                    self.handle(Input::Meta { token, reply });
                }
                Effect::ToDisk {
                    disk, id, request, ..
                } if self.disks_answer => {
                    let reply = self.store(disk, &request);
                    self.handle(Input::Disk {
                        disk,
                        id,
                        reply,
                        payload: Bytes::new(),
                    });
                }
                Effect::ToClient { id, reply, .. } => {
                    self.told.insert(id, reply);
                }
                Effect::ToClients { node, request, .. } => {
                    let ClientsRequest::WhoEnded(clients) = request;
                    self.asked.push((node, clients));
                }
                Effect::Stopped(reason) => self.ended = Some(reason),
                Effect::ToSegment(request) => match &mut self.held {
                    Some(held) => held.push(request),
                    None => self.segment(request),
                },
                Effect::ToDisk { .. } | Effect::Serving { .. } => {}
            }
        }
    }

    fn segment(&mut self, request: SegmentRequest) {
        let reply = match request {
            SegmentRequest::Write {
                id, segment, data, ..
            } => {
                self.segments.insert(segment.id, data.into_bytes());
                let segment = segment.id;
                SegmentReply::Written { id, segment }
            }
            SegmentRequest::Read { id, segment, runs } => {
                let name = segment.id;
                let pages = runs.iter().map(|run| (name, run.offset));
                self.read.extend(pages.clone());
                let is_lost = pages.into_iter().any(|page| self.lost.contains(&page));
                let data = &self.segments[&name];
                let bytes = |run: &BlockRun| {
                    let from = run.offset as usize;
                    data.slice(from..from + run.sums.len() * BLOCK_BYTES)
                };
                match is_lost {
                    true => SegmentReply::Unreadable { id },
                    false => SegmentReply::Read {
                        id,
                        runs: runs.iter().map(bytes).collect(),
                    },
                }
            }
            SegmentRequest::Delete { .. } | SegmentRequest::Forget { .. } => return,
        };
        self.handle(Input::Segment(reply));
    }

    fn decide(&mut self, request: &MetaRequest) -> MetaReply {
        let record = self.view.volumes.get_mut(&VOLUME).expect("there is one");
        match request {
            MetaRequest::Claim { node, .. } => {
                record.epoch = record.epoch.next();
                let boot = Some(Boot(1));
                record.owner = Some(Owner { node: *node, boot });
            }
            MetaRequest::Publish {
                checkpoint, clean, ..
            } => {
                (record.checkpoint, record.clean) = (*checkpoint, *clean);
                record.owner = record.owner.filter(|_| !clean);
            }
            MetaRequest::ReadVolume { .. } => {}
            other => panic!("not asked for here: {other:?}"),
        }
        MetaReply::Volume(Some(record.clone()))
    }

    fn store(&mut self, disk: DiskId, request: &DiskRequest) -> DiskReply {
        let last = self.logs.entry(disk).or_insert(Position::ZERO);
        match request {
            DiskRequest::Join { epoch, .. } => DiskReply::Joined {
                report: SealReport {
                    epoch: *epoch,
                    base: Position::ZERO,
                    last: *last,
                    committed: Position::ZERO,
                    checkpoint: None,
                },
            },
            DiskRequest::Append { prev, records, .. } => {
                *last = records.last().map_or(*prev, |r| r.position).max(*last);
                let (last, leased) = (*last, true);
                DiskReply::Appended { last, leased }
            }
            DiskRequest::Reset { base, .. } => {
                *last = *base;
                let (last, leased) = (*last, false);
                DiskReply::Appended { last, leased }
            }
            DiskRequest::Release { .. } => DiskReply::Released,
            DiskRequest::List { .. } => DiskReply::Keys(Vec::new()),
            other => panic!("not asked of a disk here: {other:?}"),
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.ended.is_none()
            && let Some(due) = self.volume.next_deadline()
            && due <= end
        {
            self.now = due.max(self.now + Duration::from_millis(1));
            let mut out = Vec::new();
            self.volume.tick(self.now, &mut out);
            self.carry_out(out);
        }
        self.now = self.now.max(end);
    }

    /// A client asks for a session; what it is told, if it is.
    fn open(&mut self, of: ClientRef) -> Option<VolumeReply> {
        self.requests += 1;
        let id = RequestId(self.requests);
        let from = Endpoint {
            node: of.node,
            actor: Actor::Client(of.client),
        };
        let (volume, boot) = (VOLUME, of.boot);
        self.handle(Input::Request {
            from,
            id,
            request: VolumeRequest::Open { volume, boot },
            payload: Bytes::new(),
        });
        self.told.get(&id).cloned()
    }

    fn say(&mut self, node: NodeId, ended: Vec<ClientRef>) {
        let reply = ClientsReply::Ended(ended);
        self.handle(Input::Clients { node, reply });
    }

    fn place(&mut self, node: NodeId, presence: Presence) {
        self.view.version = self.view.version.next();
        let known = self.view.nodes.get_mut(&node);
        known.expect("there is one").presence = presence;
        self.handle(Input::View(Arc::new(self.view.clone())));
    }

    fn asked(&mut self) -> Vec<(NodeId, Vec<ClientRef>)> {
        std::mem::take(&mut self.asked)
    }

    fn stop(mut self) -> (Option<StopReason>, bool) {
        self.handle(Input::Stop);
        self.pass(Duration::from_secs(5));
        (self.ended, self.view.volumes[&VOLUME].clean)
    }
}

fn session(told: Option<VolumeReply>) -> SessionId {
    match told {
        Some(VolumeReply::Opened { session, .. }) => session,
        other => panic!("no session was opened: {other:?}"),
    }
}

fn every() -> Duration {
    VolumeConfig::default().roll_every
}

#[test]
fn a_client_has_one_session_however_often_it_asks() {
    let mut b = Bench::new(VolumeConfig::default());
    let of = client(FRONT_END, 1, 1);
    b.disks_answer = false;
    // Neither is committed: the second one waits for the first one's record.
    assert_eq!((b.open(of), b.open(of)), (None, None));
    b.disks_answer = true;
    b.pass(Duration::from_secs(1));
    let answers: Vec<VolumeReply> = b.told.values().cloned().collect();
    let opened: Vec<SessionId> = answers.into_iter().map(|r| session(Some(r))).collect();
    assert_eq!(opened.len(), 2);
    assert_eq!(opened[0], opened[1]);
    assert_eq!(session(b.open(of)), opened[0]);
    assert_ne!(session(b.open(client(FRONT_END, 2, 1))), opened[0]);
    assert_eq!(b.volume.stats().sessions, 2);
}

#[test]
fn the_sessions_of_a_life_that_ended_are_closed_and_the_volume_ends_cleanly() {
    let mut b = Bench::new(VolumeConfig::default());
    let (dead, lives) = (client(FRONT_END, 1, 1), client(FRONT_END, 2, 1));
    session(b.open(dead));
    session(b.open(lives));
    assert_eq!(b.asked(), []);
    b.pass(every());
    assert_eq!(b.asked(), [(FRONT_END, vec![dead, lives])]);
    b.say(FRONT_END, vec![dead]);
    assert_eq!(b.volume.clients(), [lives]);
    // Said again, and late: that changes nothing.
    b.say(FRONT_END, vec![dead]);
    b.pass(every());
    assert_eq!(b.asked(), [(FRONT_END, vec![lives])]);
    b.say(FRONT_END, vec![lives]);
    assert_eq!(b.volume.clients(), []);
    // Nobody is left to be asked for.
    b.pass(every() * 3);
    assert_eq!(b.asked(), []);
    assert_eq!(b.stop(), (Some(StopReason::Clean), true));
}

#[test]
fn silence_closes_nothing() {
    let mut b = Bench::new(VolumeConfig::default());
    let of = client(FRONT_END, 1, 1);
    let opened = session(b.open(of));
    b.place(FRONT_END, Presence::Down);
    b.pass(every() * 10);
    assert_eq!(b.volume.clients(), [of]);
    assert_eq!(session(b.open(of)), opened);
    // What another node says of it is not that node's to say.
    b.say(OWNER, vec![of]);
    assert_eq!(b.volume.clients(), [of]);
    assert_eq!(b.stop(), (Some(StopReason::Released), false));
}

#[test]
fn a_node_that_is_back_is_asked_soon() {
    let mut b = Bench::new(VolumeConfig::default());
    let of = client(FRONT_END, 1, 1);
    session(b.open(of));
    b.place(FRONT_END, Presence::Down);
    b.pass(every() * 10);
    b.asked();
    b.place(FRONT_END, Presence::Up);
    b.pass(every() / 8);
    assert_eq!(b.asked(), [(FRONT_END, vec![of])]);
}

#[test]
fn a_node_that_is_gone_for_good_has_no_sessions() {
    let mut b = Bench::new(VolumeConfig::default());
    let (of, other) = (client(FRONT_END, 1, 1), client(OWNER, 1, 1));
    session(b.open(of));
    session(b.open(other));
    // A view that does not have the node (yet) says nothing of it.
    b.view.nodes.remove(&FRONT_END);
    b.pass(every());
    assert_eq!(b.volume.clients(), [other, of]);
    b.view = View {
        nodes: view().nodes,
        ..b.view
    };
    b.place(FRONT_END, Presence::Gone);
    b.pass(every() / 8);
    assert_eq!(b.volume.clients(), [other]);
}

#[test]
fn no_session_is_given_up_for_one_too_many() {
    let mut b = Bench::new(VolumeConfig {
        sessions_max: 2,
        ..VolumeConfig::default()
    });
    let [first, second, third] = [1, 2, 3].map(|n| client(FRONT_END, n, n));
    let opened = session(b.open(first));
    session(b.open(second));
    assert_eq!(b.open(third), Some(VolumeReply::Busy));
    assert_eq!(b.volume.clients(), [first, second]);
    // It is asked soon who of them lives, but not with every refusal.
    b.pass(every() / 8);
    assert_eq!(b.asked(), [(FRONT_END, vec![first, second])]);
    assert_eq!(b.open(third), Some(VolumeReply::Busy));
    b.pass(Duration::from_millis(1));
    assert_eq!(b.asked(), []);
    assert_eq!(session(b.open(first)), opened);
    b.say(FRONT_END, vec![second]);
    session(b.open(third));
    assert_eq!(b.volume.clients(), [first, third]);
}
