//! A Disk machine that starts on entries which its journal's scan found, and is then asked by
//! peers; its stores are the real ones, in memory.

use actors::disk::{Disk, DiskConfig, DiskEffect, DiskInput, Found};
use actors::messages::DiskRequest;
use actors::volume::sessions::Sessions;
use bytes::Bytes;
use disk_store::BLOCK;
use disk_store::catalog::MemCatalog;
use disk_store::file::sim::SimFiles;
use disk_store::fragments::Fragments;
use disk_store::journal::{Journal, JournalConfig};
use model::ids::{
    Actor, DiskId, DiskRef, Endpoint, Epoch, Incarnation, NodeId, Position, RequestId, Seq,
    VolumeId,
};
use model::journal::Checkpoint;
use model::machine::Machine;
use model::meta::MetaReply;
use model::payload::Payload;
use model::store::{JournalEntry, JournalOp};
use model::time::Time;
use model::wire;

use super::disk::{FRAGMENTS, JOURNAL};
use super::envelope::{POSITION, write_head};
use crate::Verdict;
use crate::input::{Input, chunk};

const INCARNATION: Incarnation = Incarnation(1);
const VOLUME: VolumeId = VolumeId(2);

const CONFIG: JournalConfig = JournalConfig {
    file_bytes: 64 * BLOCK,
    ..JOURNAL
};

/// Rounds of effects that one input may cause.
const ROUNDS_MAX: usize = 200;
/// Deadlines that are met after all was asked.
const TICKS: usize = 8;

struct Driven {
    disk: Disk,
    now: Time,
    journal: Journal<SimFiles>,
    fragments: Fragments<SimFiles, MemCatalog>,
    effects: Vec<DiskEffect>,
}

impl Driven {
    fn carry_out(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.effects.is_empty() {
                return;
            }
            for effect in std::mem::take(&mut self.effects) {
                let input = match effect {
                    DiskEffect::Journal { op, request } => {
                        let done = self.journal.execute(request);
                        DiskInput::Journal { op, done }
                    }
                    DiskEffect::Fragments { op, request } => {
                        let done = self.fragments.execute(request);
                        DiskInput::Fragments { op, done }
                    }
                    DiskEffect::ReadVolume { token, .. } => DiskInput::Volume {
                        token,
                        reply: MetaReply::Unavailable,
                    },
                    DiskEffect::Reply { .. }
                    | DiskEffect::Scrub(_)
                    | DiskEffect::Room(_)
                    | DiskEffect::Health(_)
                    | DiskEffect::Shortage(_)
                    | DiskEffect::Retire { .. } => continue,
                };
                self.disk.handle(self.now, input, &mut self.effects);
            }
        }
        panic!("an input never ends");
    }

    fn ask(&mut self, id: u64, request: DiskRequest, payload: Bytes) {
        let from = Endpoint {
            node: NodeId(2),
            actor: Actor::Volume(VOLUME),
        };
        let input = DiskInput::Request {
            from,
            id: RequestId(id),
            request,
            payload,
        };
        self.disk.handle(self.now, input, &mut self.effects);
        self.carry_out();
    }
}

fn zeros(length: u16) -> Bytes {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    Bytes::from_static(&ZEROS[..length.into()])
}

/// The entries that an input names, as a journal holds them.
fn journal(input: &mut Input<'_>) -> Option<SimFiles> {
    let files = SimFiles::new();
    let mut journal = Journal::create(&files, CONFIG).expect("memory");
    for _ in 0..input.u8() % 16 {
        let volume = match input.u8() % 4 {
            3 => VolumeId(u32::MAX),
            volume => VolumeId(volume.into()),
        };
        let payload = Payload::from(zeros(input.u16()));
        let header = input.chunk().to_vec();
        let entry = JournalEntry {
            volume,
            header,
            payload,
        };
        journal.execute(JournalOp::Append(vec![entry])).ok()?;
    }
    Some(files)
}

pub(super) fn run(data: &[u8]) -> Verdict {
    let mut input = Input::new(data);
    let damage = input.u8();
    let Some(files) = journal(&mut input) else {
        return Verdict::Refused;
    };
    let (journal, scan, _) = Journal::open(&files, CONFIG).expect("as it was left");
    let at = DiskRef {
        disk: DiskId(1),
        incarnation: INCARNATION,
    };
    let damage_before = (damage & 1 == 1).then_some(usize::from(damage >> 1).min(scan.len()));
    let found = Found {
        scan,
        damage_before,
        ..Found::default()
    };
    let config = DiskConfig::default();
    let now = Time(0);
    let opened = Fragments::open(&files, MemCatalog::new(), FRAGMENTS);
    let mut driven = Driven {
        disk: Disk::open(config, at, NodeId(1), now, found),
        now,
        journal,
        fragments: opened.expect("an empty store").0,
        effects: Vec::new(),
    };
    let mut all = true;
    let mut id = 0;
    while !input.is_empty() {
        id += 1;
        let request = wire::decode::<DiskRequest>(input.chunk());
        let payload = zeros(input.u16());
        match request {
            Ok(request) => driven.ask(id, request, payload),
            Err(_) => all = false,
        }
    }
    for _ in 0..TICKS {
        let Some(due) = driven.disk.next_deadline() else {
            break;
        };
        driven.now = driven.now.max(due);
        driven.disk.tick(driven.now, &mut driven.effects);
        driven.carry_out();
    }
    Verdict::of(all && !driven.disk.stats().retired)
}

/// Variants of the one version of an entry's header (`actors/src/disk/entry.rs`).
const STATE: u8 = 0;
const RESET: u8 = 1;
const PROMISE: u8 = 2;
const RECORD: u8 = 3;
const MOVED: u8 = 4;
const DISK_WAS_DAMAGED: u8 = 7;

fn entry(volume: u8, variant: u8, fields: &[u8], payload: u16) -> Vec<u8> {
    let header = [&[0, variant], fields].concat();
    [&[volume][..], &payload.to_le_bytes(), &chunk(&header)].concat()
}

fn state(variant: u8) -> Vec<u8> {
    let table = Sessions::default().encode(POSITION).len();
    let whole = 0_u8;
    let fields = wire::encode(&(
        (Epoch(3), POSITION, POSITION, whole),
        Some((POSITION, Checkpoint::EMPTY)),
    ));
    entry(2, variant, &fields, table as u16)
}

fn record(variant: u8, seq: u64) -> Vec<u8> {
    entry(
        2,
        variant,
        &wire::encode(&(write_head(seq), POSITION)),
        8192,
    )
}

fn asked(request: &DiskRequest, payload: u16) -> Vec<u8> {
    [&chunk(&wire::encode(request))[..], &payload.to_le_bytes()].concat()
}

fn requests() -> Vec<u8> {
    let (incarnation, volume, epoch) = (INCARNATION, VOLUME, Epoch(3));
    let at = |seq| Position {
        epoch: Epoch(3),
        seq: Seq(seq),
    };
    let append = DiskRequest::Append {
        incarnation,
        volume,
        epoch,
        prev: at(902),
        records: vec![write_head(903)],
        committed: at(901),
        trim: Position::ZERO,
        lease: true,
    };
    let reset = DiskRequest::Reset {
        incarnation,
        volume,
        epoch: Epoch(4),
        base: at(950),
        at: at(950),
        checkpoint: Checkpoint::EMPTY,
        founded: Epoch(1),
    };
    let seal = DiskRequest::Seal {
        incarnation,
        volume,
        epoch: Epoch(4),
    };
    let fetch = DiskRequest::Fetch {
        incarnation,
        volume,
        epoch: Epoch(4),
        from: Seq(901),
        bytes_max: 1 << 20,
    };
    let list = DiskRequest::List {
        incarnation,
        volume,
        after: None,
        limit: 10,
    };
    [
        asked(&append, 8192),
        asked(&seal, 0),
        asked(&fetch, 0),
        asked(&reset, 1),
        asked(&list, 0),
    ]
    .concat()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let log = [state(STATE), record(RECORD, 901), record(RECORD, 902)].concat();
    let promise = entry(2, PROMISE, &wire::encode(&Epoch(3)), 0);
    let refilled = [
        promise,
        state(RESET),
        record(MOVED, 901),
        entry(3, DISK_WAS_DAMAGED, &[], 0),
    ];
    vec![
        vec![0, 0],
        [&[0, 3], &log[..]].concat(),
        [&[0, 3], &log[..], &requests()].concat(),
        [&[5, 4], &refilled.concat()[..], &requests()].concat(),
    ]
}
