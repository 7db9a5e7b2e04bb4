//! A Disk machine over a real journal on a device that has no space for another file (R18).

use std::collections::VecDeque;

use actors::disk::{Disk, DiskConfig, DiskEffect, DiskInput, Found};
use actors::messages::{DiskReply, DiskRequest};
use bytes::Bytes;
use disk_store::file::sim::SimFiles;
use disk_store::journal::{Journal, JournalConfig};
use model::geometry::Code;
use model::ids::{
    Actor, DiskId, DiskRef, Endpoint, Epoch, Incarnation, NodeId, Position, RequestId, Seq, SiteId,
    Version, VolumeId,
};
use model::journal::{Checkpoint, RecordBody, RecordHead};
use model::machine::Machine;
use model::meta::MetaReply;
use model::placement::{self, VolumeRecord};
use model::store::{JournalDone, JournalOp, OpId};
use model::time::Time;

const VOLUME: VolumeId = VolumeId(1);
const EPOCH: Epoch = Epoch(1);
const AT: DiskRef = DiskRef {
    disk: DiskId(1),
    incarnation: Incarnation(1),
};
/// Records of an append, of a block each.
const RECORDS: u64 = 256;

struct Bench {
    machine: Disk,
    journal: Journal<SimFiles>,
    work: VecDeque<(OpId, JournalOp)>,
    answers: Vec<DiskReply>,
    requests: u64,
}

impl Bench {
    fn new(layer: &SimFiles) -> Self {
        let config = JournalConfig::new(AT.incarnation.0);
        let journal = Journal::create(layer, config).expect("a new device takes a journal");
        drop(journal);
        let (journal, scan, _) = Journal::open(layer, config).expect("it opens");
        let found = Found {
            scan,
            damage_before: journal.damage_before(),
            room: journal.room(),
            ..Found::default()
        };
        let machine = Disk::open(DiskConfig::default(), AT, NodeId(1), Time(1), found);
        let mut bench = Self {
            machine,
            journal,
            work: VecDeque::new(),
            answers: Vec::new(),
            requests: 0,
        };
        bench.request(
            DiskRequest::Join {
                incarnation: AT.incarnation,
                volume: VOLUME,
                epoch: EPOCH,
                version: Version(1),
            },
            Bytes::new(),
        );
        while bench.step() {}
        bench
    }

    fn input(&mut self, input: DiskInput) {
        let mut out = Vec::new();
        self.machine.handle(Time(1), input, &mut out);
        for effect in out {
            match effect {
                DiskEffect::Journal { op, request } => self.work.push_back((op, request)),
                DiskEffect::Reply { reply, .. } => self.answers.push(reply),
                DiskEffect::ReadVolume { token, .. } => {
                    let reply = MetaReply::Volume(Some(record()));
                    self.input(DiskInput::Volume { token, reply });
                }
                DiskEffect::Retire { error, .. } => panic!("{error:?}"),
                _ => {}
            }
        }
    }

    fn request(&mut self, request: DiskRequest, payload: Bytes) {
        self.requests += 1;
        let from = Endpoint {
            node: NodeId(1),
            actor: Actor::Volume(VOLUME),
        };
        let id = RequestId(self.requests);
        self.input(DiskInput::Request {
            from,
            id,
            request,
            payload,
        });
    }

    /// The oldest operation is carried out; whether there was one.
    fn step(&mut self) -> bool {
        let Some((op, request)) = self.work.pop_front() else {
            return false;
        };
        let done = self.journal.execute(request).expect("the device works");
        let is_full = matches!(done, JournalDone::Full(_));
        assert!(!is_full, "what is queued has its place");
        self.input(DiskInput::Journal { op, done: Ok(done) });
        true
    }

    fn append(&mut self, records: Vec<RecordHead>, payload: Bytes) {
        let prev = self.held();
        let request = DiskRequest::Append {
            incarnation: AT.incarnation,
            volume: VOLUME,
            epoch: EPOCH,
            prev,
            records,
            committed: prev,
            trim: Position::ZERO,
            lease: true,
        };
        self.request(request, payload);
    }

    fn held(&self) -> Position {
        self.machine.replica_stats(VOLUME).expect("it joined").last
    }

    /// Sends more as long as it is taken; whether anything was.
    fn fill(&mut self) -> bool {
        let begun = self.held();
        loop {
            let before = self.held();
            let records: Vec<RecordHead> = (1..=RECORDS)
                .map(|n| RecordHead {
                    position: at(before.seq.0 + n),
                    body: RecordBody::Kept { offset: 0 },
                    payload_len: 4096,
                })
                .collect();
            let all = records[records.len() - 1].position;
            self.append(records, Bytes::from(vec![7; RECORDS as usize * 4096]));
            if self.held() != all {
                return self.held() != begun;
            }
        }
    }
}

fn at(seq: u64) -> Position {
    Position {
        epoch: EPOCH,
        seq: Seq(seq),
    }
}

fn record() -> VolumeRecord {
    VolumeRecord {
        id: VOLUME,
        name: "v".to_owned(),
        size_bytes: 1 << 30,
        resized: Version(1),
        cut: None,
        code: Code::Rs { k: 4, m: 2 },
        home: SiteId(0),
        epoch: EPOCH,
        owner: None,
        journal: placement::JournalConfig {
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

/// However much is queued when the shortage is told, it has its place in what is left, and as much is
/// left again for what frees files. (Half a file was left once, and a file's half queued: the batch
/// that found no place held up promises and checkpoints for as long as there was no space.)
#[test]
fn what_is_queued_when_space_ends_has_its_place() {
    let files = SimFiles::new();
    let mut bench = Bench::new(&files);
    files.set_capacity(Some(files.allocated()));
    while bench.fill() || !bench.work.is_empty() {
        bench.step();
    }
    let held = bench.held();
    assert!(held.seq.0 > 64 << 8, "a file is full: {held:?}");
    let file = JournalConfig::new(0).file_bytes;
    let left = bench.journal.bytes_left() % file;
    assert!(left >= file / 8, "{left} bytes for what frees files");
    let checkpoint = RecordHead {
        position: at(held.seq.0 + 1),
        body: RecordBody::Checkpoint(Checkpoint {
            covers: held,
            ..Checkpoint::EMPTY
        }),
        payload_len: 0,
    };
    bench.append(vec![checkpoint], Bytes::new());
    while bench.step() {}
    let answer = bench.answers.pop();
    assert!(
        matches!(answer, Some(DiskReply::Appended { last, short: true, .. }) if last > held),
        "{answer:?}"
    );
}
