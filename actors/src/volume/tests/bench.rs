//! An owner of an empty volume, against disks that take everything, nodes that answer when they
//! are told to, and a group that agrees.

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
use model::journal::{Checkpoint, Part, SealReport};
use model::machine::Machine;
use model::meta::{MetaReply, MetaRequest};
use model::placement::{
    Disk, Duty, JournalConfig, Node, Owner, Presence, Site, SiteRole, SpreadTable, View,
    VolumeRecord,
};
use model::store::SegmentKind;
use model::time::Time;

use super::{Effect, Input, StopReason, Volume, VolumeConfig, write_sums};
use crate::messages::{
    BlockRun, ClientsReply, ClientsRequest, DiskReply, DiskRequest, SegmentReply, SegmentRequest,
    VolumeReply, VolumeRequest,
};

pub(crate) const VOLUME: VolumeId = VolumeId(1);
pub(crate) const OWNER: NodeId = NodeId(1);
pub(crate) const FRONT_END: NodeId = NodeId(2);
const SITES: std::ops::RangeInclusive<u8> = 1..=3;

fn disk(site: u8) -> DiskRef {
    DiskRef {
        disk: DiskId(site.into()),
        incarnation: Incarnation(1),
    }
}

pub(crate) fn client(node: NodeId, boot: u64, client: u64) -> ClientRef {
    ClientRef {
        node,
        boot: Boot(boot),
        client: ClientId(client),
    }
}

/// A node and a disk in each of three sites, and the volume.
pub(crate) fn view() -> View {
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
                role: SiteRole::Data,
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
                fault: None,
            },
        );
    }
    // An index without a page needs no disk.
    let pool = Pool::of(Code::INDEX);
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

pub(crate) struct Bench {
    pub(crate) now: Time,
    pub(crate) volume: Volume,
    pub(crate) view: View,
    logs: BTreeMap<DiskId, Position>,
    /// Whether disks answer.
    pub(crate) disks_answer: bool,
    /// Those that never do.
    pub(crate) silent: BTreeSet<DiskId>,
    pub(crate) requests: u64,
    pub(crate) told: BTreeMap<RequestId, VolumeReply>,
    /// So many answers were given.
    pub(crate) answers: usize,
    /// Who was asked for which clients, since it was last looked at.
    asked: Vec<(NodeId, Vec<ClientRef>)>,
    ended: Option<StopReason>,
    /// Segments that were written.
    pub(crate) segments: BTreeMap<SegmentId, Bytes>,
    /// Pages that can't be read: their segments, and where they begin there.
    pub(crate) lost: BTreeSet<(SegmentId, u32)>,
    /// Pages that were read.
    pub(crate) read: Vec<(SegmentId, u32)>,
    /// While there are some, requests to segments wait.
    pub(crate) held: Option<Vec<SegmentRequest>>,
    /// The segment of the index after so many is not to be written.
    pub(crate) unwritable_after: Option<usize>,
    /// Segments that were to be deleted.
    pub(crate) deleted: BTreeSet<SegmentId>,
}

impl Bench {
    /// An owner that serves.
    pub(crate) fn new(config: VolumeConfig) -> Self {
        Self::of(config, view())
    }

    /// An owner that serves the volume of a view.
    pub(crate) fn of(config: VolumeConfig, view: View) -> Self {
        let mut bench = Self::starting(config, view);
        bench.pass(Duration::from_millis(100));
        assert!(bench.volume.stats().serving);
        bench
    }

    /// An owner that has not begun.
    pub(crate) fn starting(config: VolumeConfig, view: View) -> Self {
        let volume = Volume::new(VOLUME, OWNER, config, Arc::new(view.clone()), RequestId(0));
        Self {
            now: Time(1_000_000_000),
            volume,
            view,
            logs: BTreeMap::new(),
            disks_answer: true,
            silent: BTreeSet::new(),
            requests: 0,
            told: BTreeMap::new(),
            answers: 0,
            asked: Vec::new(),
            ended: None,
            segments: BTreeMap::new(),
            lost: BTreeSet::new(),
            read: Vec::new(),
            held: None,
            unwritable_after: None,
            deleted: BTreeSet::new(),
        }
    }

    pub(crate) fn handle(&mut self, input: Input) {
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
                } if self.disks_answer && !self.silent.contains(&disk) => {
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
                    self.answers += 1;
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

    pub(crate) fn segment(&mut self, request: SegmentRequest) {
        let reply = match request {
            SegmentRequest::Write {
                id,
                segment,
                kind: SegmentKind::Index,
                ..
            } if self.is_unwritable() => SegmentReply::Unwritable {
                id,
                segment: segment.id,
                full: false,
            },
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
            SegmentRequest::Delete { segments } => {
                self.deleted.extend(segments.iter().map(|s| s.id));
                return;
            }
            SegmentRequest::Forget { .. } => return,
        };
        self.handle(Input::Segment(reply));
    }

    fn is_unwritable(&mut self) -> bool {
        let after = self.unwritable_after.take();
        self.unwritable_after = after.and_then(|n| n.checked_sub(1));
        after == Some(0)
    }

    fn decide(&mut self, request: &MetaRequest) -> MetaReply {
        let record = self.view.volumes.get_mut(&VOLUME).expect("there is one");
        match request {
            MetaRequest::Claim { node, found_on, .. } => {
                record.epoch = record.epoch.next();
                let boot = Some(Boot(1));
                if let Some(set) = found_on.as_ref().filter(|_| record.clean) {
                    record.journal.replicas.clone_from(set);
                    record.journal.version = record.journal.version.next();
                }
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
                DiskReply::Appended {
                    last,
                    leased,
                    short: false,
                }
            }
            DiskRequest::Reset { base, .. } => {
                *last = *base;
                let (last, leased) = (*last, false);
                DiskReply::Appended {
                    last,
                    leased,
                    short: false,
                }
            }
            DiskRequest::Release { .. } => DiskReply::Released,
            DiskRequest::List { .. } => DiskReply::Keys(Vec::new()),
            other => panic!("not asked of a disk here: {other:?}"),
        }
    }

    pub(crate) fn pass(&mut self, span: Duration) {
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
    pub(crate) fn open(&mut self, of: ClientRef) -> Option<VolumeReply> {
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

    /// A client asks for a change, with that id; what it is told, if it is.
    pub(crate) fn ask(
        &mut self,
        of: ClientRef,
        id: RequestId,
        request: VolumeRequest,
        payload: Bytes,
    ) -> Option<VolumeReply> {
        let from = Endpoint {
            node: of.node,
            actor: Actor::Client(of.client),
        };
        self.told.remove(&id);
        self.handle(Input::Request {
            from,
            id,
            request,
            payload,
        });
        self.told.get(&id).cloned()
    }

    pub(crate) fn say(&mut self, node: NodeId, ended: Vec<ClientRef>) {
        let reply = ClientsReply::Ended(ended);
        self.handle(Input::Clients { node, reply });
    }

    pub(crate) fn place(&mut self, node: NodeId, presence: Presence) {
        self.view.version = self.view.version.next();
        let known = self.view.nodes.get_mut(&node);
        known.expect("there is one").presence = presence;
        self.handle(Input::View(Arc::new(self.view.clone())));
    }

    pub(crate) fn asked(&mut self) -> Vec<(NodeId, Vec<ClientRef>)> {
        std::mem::take(&mut self.asked)
    }

    pub(crate) fn stop(mut self) -> (Option<StopReason>, bool) {
        self.handle(Input::Stop);
        self.pass(Duration::from_secs(5));
        (self.ended, self.view.volumes[&VOLUME].clean)
    }
}

pub(crate) fn session(told: Option<VolumeReply>) -> SessionId {
    match told {
        Some(VolumeReply::Opened { session, .. }) => session,
        other => panic!("no session was opened: {other:?}"),
    }
}

/// A client that changes the volume, with a session and the numbers of its parts.
#[derive(Clone)]
pub(crate) struct Asker {
    of: ClientRef,
    session: SessionId,
    /// The lowest part that it has no answer to.
    low: u64,
}

impl Asker {
    pub(crate) fn new(b: &mut Bench) -> Self {
        let of = client(FRONT_END, 1, 1);
        let session = session(b.open(of));
        Self {
            of,
            session,
            low: 1,
        }
    }

    /// The message that a part goes with.
    pub(crate) fn id(n: u64) -> RequestId {
        RequestId(1000 + n)
    }

    fn part(&self, n: u64) -> Part {
        Part {
            session: self.session,
            n,
            low: self.low,
        }
    }

    /// A part that writes to the volume's begin.
    pub(crate) fn write(&self, b: &mut Bench, n: u64, bytes: usize) -> Option<VolumeReply> {
        self.write_at(b, n, 0, bytes)
    }

    pub(crate) fn write_at(
        &self,
        b: &mut Bench,
        n: u64,
        offset: u64,
        bytes: usize,
    ) -> Option<VolumeReply> {
        let payload = Bytes::from(vec![7; bytes]);
        let request = VolumeRequest::Write {
            volume: VOLUME,
            part: self.part(n),
            offset,
            sums: write_sums(offset, &payload),
        };
        b.ask(self.of, Self::id(n), request, payload)
    }

    /// The next part's number, once the one before is answered.
    pub(crate) fn skip(&mut self) -> u64 {
        self.low += 1;
        self.low
    }

    /// The next part, once the one before is answered.
    pub(crate) fn write_next(&mut self, b: &mut Bench, bytes: usize) -> Option<VolumeReply> {
        let n = self.skip();
        self.write(b, n, bytes)
    }

    /// The next part, once the one before is answered.
    pub(crate) fn zero_next(&mut self, b: &mut Bench, length: u64) -> Option<VolumeReply> {
        let n = self.skip();
        let request = VolumeRequest::Zero {
            volume: VOLUME,
            part: self.part(n),
            offset: 0,
            length,
            allocate: false,
        };
        b.ask(self.of, Self::id(n), request, Bytes::new())
    }
}
