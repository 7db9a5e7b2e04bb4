//! One Disk machine over a journal store in memory that can crash.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::crc32c;
use model::geometry::Code;
use model::ids::{
    Actor, DiskId, DiskRef, Endpoint, Epoch, Incarnation, NodeId, Position, RequestId, Seq, SiteId,
    Version, VolumeId,
};
use model::journal::{Checkpoint, RecordBody, RecordHead};
use model::machine::Machine;
use model::meta::{MetaReply, MetaToken};
use model::payload::Payload;
use model::placement::{JournalConfig, View, VolumeRecord};
use model::store::{
    DeviceError, EntryAt, FileNo, FragmentDone, FragmentOp, JournalDone, JournalOp, JournalRoom,
    OpId, ScanVerdict, ScannedEntry,
};
use model::time::Time;

use crate::disk::{Disk, DiskConfig, DiskEffect, DiskInput, Found, ScrubNews};
use crate::messages::{DiskReply, DiskRequest};

pub(super) const INCARNATION: Incarnation = Incarnation(77);
pub(super) const AT: DiskRef = DiskRef {
    disk: DiskId(7),
    incarnation: INCARNATION,
};
pub(super) const VOLUME: VolumeId = VolumeId(1);

/// The journal files, what is durable in them, and what was asked of them.
#[derive(Clone, Default)]
pub(super) struct Store {
    pub(super) entries: Vec<(ScannedEntry, Bytes)>,
    pub(super) queue: VecDeque<(OpId, JournalOp)>,
    appended: u64,
    pub(super) file_entries: u64,
    /// The place of the last entry that was lost.
    damaged_at: Option<u64>,
    pub(super) space: Space,
    pub(super) refuses_releases: bool,
}

/// What the device has for the journal.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Space {
    #[default]
    Ample,
    /// So many bytes of the current file.
    Left(u64),
}

impl Store {
    fn order(&self, at: EntryAt) -> u64 {
        at.file.0 * self.file_entries + at.offset
    }

    /// Loses an entry that was synced. Opening tells, until its file is released.
    pub(super) fn lose(&mut self, index: usize) {
        let (entry, _) = self.entries.remove(index);
        self.damaged_at = self.damaged_at.max(Some(self.order(entry.at)));
    }

    /// When it is opened again, it tells that these entries are damaged.
    pub(super) fn will_tell(&mut self, which: impl Fn(&ScannedEntry) -> bool) {
        let hit = self.entries.iter().filter(|(e, _)| which(e));
        let last = hit.map(|(e, _)| self.order(e.at)).max();
        self.damaged_at = self.damaged_at.max(last);
    }

    fn damage_before(&self) -> Option<usize> {
        let lost = self.damaged_at?;
        let before = self.entries.iter().filter(|(e, _)| self.order(e.at) < lost);
        Some(before.count())
    }

    /// Whether there is space for these.
    fn takes(&mut self, entries: &[model::store::JournalEntry]) -> bool {
        let bytes = entries.iter().map(|e| e.header.len() + e.payload.len());
        let bytes = bytes.sum::<usize>() as u64;
        match &mut self.space {
            Space::Left(left) if *left < bytes => return false,
            Space::Left(left) => *left -= bytes,
            Space::Ample => {}
        }
        true
    }

    fn room(&self) -> JournalRoom {
        match self.space {
            Space::Ample => JournalRoom::Ample,
            Space::Left(left) => JournalRoom::Left(left),
        }
    }

    fn append(&mut self, entries: Vec<model::store::JournalEntry>) -> Vec<EntryAt> {
        let mut places = Vec::new();
        for entry in entries {
            let payload = entry.payload.into_bytes();
            let at = EntryAt {
                file: FileNo(self.appended / self.file_entries),
                offset: self.appended % self.file_entries,
                payload_len: u32::try_from(payload.len()).unwrap(),
                payload_sum: crc32c(&payload),
            };
            self.appended += 1;
            let (volume, header) = (entry.volume, entry.header);
            self.entries
                .push((ScannedEntry { volume, header, at }, payload));
            places.push(at);
        }
        places
    }

    fn read(&self, at: EntryAt) -> Option<Bytes> {
        let found = self.entries.iter().find(|(e, _)| e.at == at);
        let (_, payload) = found.expect("a released entry was read");
        (crc32c(payload) == at.payload_sum).then(|| payload.clone())
    }

    fn carry_out(&mut self, op: JournalOp) -> JournalDone {
        match op {
            JournalOp::Append(entries) if !self.takes(&entries) => JournalDone::Full(entries),
            JournalOp::Append(entries) => JournalDone::Appended {
                places: self.append(entries),
                room: self.room(),
            },
            JournalOp::Read(places) => {
                JournalDone::Read(places.into_iter().map(|at| self.read(at)).collect())
            }
            JournalOp::ReleaseBefore(_) if self.refuses_releases => JournalDone::Full(Vec::new()),
            JournalOp::ReleaseBefore(file) => {
                self.entries.retain(|(e, _)| e.at.file >= file);
                let first = file.0 * self.file_entries;
                self.damaged_at = self.damaged_at.filter(|lost| *lost >= first);
                self.space = Space::Ample;
                JournalDone::Released
            }
            JournalOp::Prepare => JournalDone::Prepared(self.room()),
        }
    }

    pub(super) fn scan(&self) -> Vec<ScannedEntry> {
        self.entries.iter().map(|(e, _)| e.clone()).collect()
    }

    /// The payload of the newest entry becomes unreadable.
    pub(super) fn rot(&mut self, which: impl Fn(&ScannedEntry) -> bool) {
        for (entry, payload) in &mut self.entries {
            if which(entry) && !payload.is_empty() {
                *payload = Bytes::from(vec![0xEE; payload.len()]);
            }
        }
    }
}

pub(super) type Answer = (RequestId, DiskReply, Payload);

/// The machine, its store, its clock, and what it said.
pub(super) struct Bench {
    pub(super) disk: Disk,
    pub(super) config: DiskConfig,
    pub(super) store: Store,
    pub(super) now: Time,
    pub(super) answers: VecDeque<Answer>,
    pub(super) record_reads: VecDeque<(MetaToken, VolumeId)>,
    pub(super) fragment_ops: VecDeque<(OpId, FragmentOp)>,
    pub(super) news: Vec<ScrubNews>,
    pub(super) retired: u32,
    unanswered: BTreeMap<RequestId, u32>,
    last_request: u64,
}

impl Bench {
    pub(super) fn new(config: DiskConfig, file_entries: u64) -> Self {
        let now = Time(1_000_000_000);
        let store = Store {
            file_entries,
            ..Store::default()
        };
        Self {
            disk: Disk::open(config, AT, NodeId(1), now, Found::default()),
            config,
            store,
            now,
            answers: VecDeque::new(),
            record_reads: VecDeque::new(),
            fragment_ops: VecDeque::new(),
            news: Vec::new(),
            retired: 0,
            unanswered: BTreeMap::new(),
            last_request: 0,
        }
    }

    fn effects(&mut self, effects: Vec<DiskEffect>) {
        for effect in effects {
            match effect {
                DiskEffect::Reply {
                    id, reply, payload, ..
                } => {
                    let open = self.unanswered.get_mut(&id).filter(|n| **n > 0);
                    *open.expect("one answer a request") -= 1;
                    self.answers.push_back((id, reply, payload));
                }
                DiskEffect::Journal { op, request } => self.store.queue.push_back((op, request)),
                DiskEffect::Fragments { op, request } => {
                    self.fragment_ops.push_back((op, request));
                }
                DiskEffect::ReadVolume { token, volume } => {
                    self.record_reads.push_back((token, volume));
                }
                DiskEffect::Scrub(news) => self.news.push(news),
                DiskEffect::Room(_) | DiskEffect::Health(_) | DiskEffect::Shortage(_) => {}
                DiskEffect::Retire { .. } => self.retired += 1,
            }
        }
    }

    pub(super) fn input(&mut self, input: DiskInput) {
        let mut out = Vec::new();
        self.disk.handle(self.now, input, &mut out);
        self.effects(out);
    }

    /// Sends a request; nothing of the store is carried out yet.
    pub(super) fn send(&mut self, request: DiskRequest, payload: &[u8]) -> RequestId {
        let id = self.request_id();
        self.send_as(id, request, payload);
        id
    }

    pub(super) fn request_id(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    pub(super) fn send_as(&mut self, id: RequestId, request: DiskRequest, payload: &[u8]) {
        self.send_from(Actor::Volume(VOLUME), id, request, payload);
    }

    pub(super) fn send_from(
        &mut self,
        actor: Actor,
        id: RequestId,
        request: DiskRequest,
        payload: &[u8],
    ) {
        *self.unanswered.entry(id).or_insert(0) += 1;
        let from = Endpoint {
            node: NodeId(2),
            actor,
        };
        let payload = Bytes::copy_from_slice(payload);
        self.input(DiskInput::Request {
            from,
            id,
            request,
            payload,
        });
    }

    /// Carries out one queued operation: appends and releases in their order, reads anytime.
    pub(super) fn step(&mut self, which: usize) -> bool {
        if self.store.queue.is_empty() {
            return false;
        }
        let mut i = which % self.store.queue.len();
        if !matches!(self.store.queue[i].1, JournalOp::Read(_)) {
            let first = |q: &(OpId, JournalOp)| !matches!(q.1, JournalOp::Read(_));
            i = self.store.queue.iter().position(first).unwrap();
        }
        let (op, request) = self.store.queue.remove(i).unwrap();
        let done = Ok(self.store.carry_out(request));
        self.input(DiskInput::Journal { op, done });
        true
    }

    /// Carries out everything.
    pub(super) fn run(&mut self) {
        self.tick();
        let mut steps = 0;
        while self.step(0) {
            steps += 1;
            assert!(steps < 100_000, "the machine never comes to rest");
        }
    }

    pub(super) fn tick(&mut self) {
        if self.disk.next_deadline().is_some_and(|at| at <= self.now) {
            let mut out = Vec::new();
            self.disk.tick(self.now, &mut out);
            self.effects(out);
        }
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.tick();
    }

    pub(super) fn fail(&mut self) {
        let (op, _) = self.store.queue.pop_front().expect("something is queued");
        let error = DeviceError {
            what: "fdatasync",
            detail: "EIO".to_owned(),
        };
        self.input(DiskInput::Journal {
            op,
            done: Err(error),
        });
    }

    /// The answer to `id`, if there is one yet.
    pub(super) fn answer(&mut self, id: RequestId) -> Option<(DiskReply, Payload)> {
        let i = self.answers.iter().position(|(a, _, _)| *a == id)?;
        let (_, reply, payload) = self.answers.remove(i)?;
        Some((reply, payload))
    }

    /// Sends, carries everything out, and returns the answer.
    pub(super) fn ask(&mut self, request: DiskRequest, payload: &[u8]) -> DiskReply {
        let id = self.send(request, payload);
        self.run();
        self.answer(id).expect("answered").0
    }

    /// Power loss: of the append in flight the first `keep` entries reached the disk.
    /// Of damage nobody knows where it lies.
    pub(super) fn crash(&mut self, keep: usize, verdict: ScanVerdict) {
        self.lose_power(keep);
        let scan = self.store.scan();
        let damage_before = (verdict == ScanVerdict::Damaged).then_some(scan.len());
        self.disk = self.opened(Found {
            scan,
            damage_before,
            ..Found::default()
        });
    }

    /// Opens the store again, which says truly what it lost.
    pub(super) fn restart(&mut self) {
        self.disk = self.recovered();
    }

    pub(super) fn lose_power(&mut self, keep: usize) {
        let queue = std::mem::take(&mut self.store.queue);
        for (_, op) in queue {
            if let JournalOp::Append(mut entries) = op {
                entries.truncate(keep);
                self.store.append(entries);
            }
        }
        self.answers.clear();
        self.record_reads.clear();
        self.unanswered.clear();
    }

    /// The machine that a crash now would leave, with nothing of what is in flight.
    pub(super) fn recovered(&self) -> Disk {
        self.opened(Found {
            scan: self.store.scan(),
            damage_before: self.store.damage_before(),
            room: self.store.room(),
            ..Found::default()
        })
    }

    /// The disk's next life.
    pub(super) fn opened(&self, found: Found) -> Disk {
        Disk::open(self.config, AT, NodeId(1), self.now, found)
    }

    /// Answers all record reads: the volume is at `epoch` and its journal is on `disks`.
    pub(super) fn records(&mut self, epoch: u64, disks: &[DiskRef], next: Option<&[DiskRef]>) {
        while let Some((token, volume)) = self.record_reads.pop_front() {
            let mut record = record(volume, Epoch(epoch));
            record.journal.replicas = disks.to_vec();
            record.journal.next = next.map(<[DiskRef]>::to_vec);
            let reply = MetaReply::Volume(Some(record));
            self.input(DiskInput::Volume { token, reply });
        }
    }

    /// The placement shows [`VOLUME`] at `epoch`, on these disks, perhaps deleted.
    pub(super) fn view(&mut self, epoch: u64, disks: &[DiskRef], deleted: bool) {
        let mut record = record(VOLUME, Epoch(epoch));
        record.journal.replicas = disks.to_vec();
        record.deleted = deleted;
        let mut view = View::default();
        view.volumes.insert(VOLUME, record);
        self.input(DiskInput::View(Arc::new(view)));
    }

    /// A replica of [`VOLUME`], joined at `epoch`.
    pub(super) fn joined(&mut self, epoch: u64) {
        let id = self.send(join(epoch), &[]);
        self.records(epoch, &[AT], None);
        self.run();
        let (reply, _) = self.answer(id).expect("answered");
        assert!(matches!(reply, DiskReply::Joined { .. }), "{reply:?}");
    }

    pub(super) fn fragment_done(&mut self, done: FragmentDone) {
        let (op, _) = self.fragment_ops.pop_front().expect("something is asked");
        self.input(DiskInput::Fragments { op, done: Ok(done) });
    }
}

pub(super) fn record(volume: VolumeId, epoch: Epoch) -> VolumeRecord {
    VolumeRecord {
        id: volume,
        name: "v".to_owned(),
        size_bytes: 1 << 30,
        resized: Version(1),
        cut: None,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(0),
        epoch,
        owner: None,
        journal: JournalConfig {
            version: Version(1),
            replicas: vec![AT],
            next: None,
        },
        checkpoint: Checkpoint::EMPTY,
        clean: false,
        founded: Epoch(0),
        published: None,
        recovered: None,
        deleted: false,
    }
}

pub(super) fn at(epoch: u64, seq: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        seq: Seq(seq),
    }
}

pub(super) fn join(epoch: u64) -> DiskRequest {
    DiskRequest::Join {
        incarnation: INCARNATION,
        volume: VOLUME,
        epoch: Epoch(epoch),
        version: Version(1),
    }
}

pub(super) fn seal(epoch: u64) -> DiskRequest {
    DiskRequest::Seal {
        incarnation: INCARNATION,
        volume: VOLUME,
        epoch: Epoch(epoch),
    }
}

pub(super) fn release(epoch: u64) -> DiskRequest {
    DiskRequest::Release {
        incarnation: INCARNATION,
        volume: VOLUME,
        epoch: Epoch(epoch),
    }
}

pub(super) fn fetch(epoch: u64, from: u64) -> DiskRequest {
    DiskRequest::Fetch {
        incarnation: INCARNATION,
        volume: VOLUME,
        epoch: Epoch(epoch),
        from: Seq(from),
        bytes_max: 1 << 20,
    }
}

/// A record with one byte of payload: its seq.
pub(super) fn plain(position: Position) -> RecordHead {
    RecordHead {
        position,
        body: RecordBody::EpochStart,
        payload_len: 1,
    }
}

/// A checkpoint record with a one-byte table.
pub(super) fn checkpoint(position: Position, covers: Position) -> RecordHead {
    RecordHead {
        position,
        body: RecordBody::Checkpoint(Checkpoint {
            covers,
            ..Checkpoint::EMPTY
        }),
        payload_len: 1,
    }
}

/// An append with all optional things left out.
#[derive(Clone)]
pub(super) struct Append {
    pub(super) epoch: u64,
    pub(super) prev: Position,
    pub(super) records: Vec<RecordHead>,
    pub(super) committed: Position,
    pub(super) trim: Position,
    pub(super) lease: bool,
}

impl Append {
    pub(super) fn new(epoch: u64, prev: Position, records: Vec<RecordHead>) -> Self {
        Self {
            epoch,
            prev,
            records,
            committed: Position::ZERO,
            trim: Position::ZERO,
            lease: false,
        }
    }

    pub(super) fn request(self) -> DiskRequest {
        DiskRequest::Append {
            incarnation: INCARNATION,
            volume: VOLUME,
            epoch: Epoch(self.epoch),
            prev: self.prev,
            records: self.records,
            committed: self.committed,
            trim: self.trim,
            lease: self.lease,
        }
    }

    pub(super) fn payload(&self) -> Vec<u8> {
        let seq = |r: &RecordHead| u8::try_from(r.position.seq.0).unwrap();
        self.records.iter().map(seq).collect()
    }
}

impl Bench {
    pub(super) fn append(&mut self, append: Append) -> DiskReply {
        let payload = append.payload();
        self.ask(append.request(), &payload)
    }

    /// Appends records `seqs` of `epoch` after `prev`.
    pub(super) fn append_plain(
        &mut self,
        epoch: u64,
        prev: Position,
        seqs: std::ops::RangeInclusive<u64>,
    ) -> DiskReply {
        let records = seqs.map(|s| plain(at(epoch, s))).collect();
        self.append(Append::new(epoch, prev, records))
    }
}

pub(super) fn appended(last: Position) -> DiskReply {
    DiskReply::Appended {
        last,
        leased: false,
        short: false,
    }
}
