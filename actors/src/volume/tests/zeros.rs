//! A volume of zeros that stay allocated, which are all in its index.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::block::{BlockError, Reply, Request};
use model::ids::{Actor, Boot, ClientId, Endpoint, RequestId, SessionId};
use model::journal::{Part, ZERO_PART_BYTES_MAX};
use model::machine::Machine;

use super::bench::{Bench, FRONT_END, VOLUME, client as one_of, session, view};
use super::{Input, Phase, VolumeConfig, index};
use crate::client::{self, Client, ClientConfig, Tag};
use crate::messages::{ReadChunk, VolumeReply, VolumeRequest};

const TIB: u64 = 1 << 40;

fn of_a_tib(config: VolumeConfig) -> Bench {
    let mut view = view();
    let record = view.volumes.get_mut(&VOLUME);
    record.expect("there is one").size_bytes = TIB;
    Bench::of(config, view)
}

impl Bench {
    fn ask_next(&mut self, request: VolumeRequest) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        let from = Endpoint {
            node: FRONT_END,
            actor: Actor::Client(ClientId(1)),
        };
        let payload = Bytes::new();
        self.handle(Input::Request {
            from,
            id,
            request,
            payload,
        });
        id
    }

    fn read_at(&mut self, session: SessionId, offset: u64) -> RequestId {
        self.ask_next(VolumeRequest::Read {
            volume: VOLUME,
            session,
            offset,
            length: 4096,
        })
    }

    fn zero(&mut self, session: SessionId, n: u64, offset: u64, length: u64) -> RequestId {
        let part = Part { session, n, low: n };
        self.ask_next(VolumeRequest::Zero {
            volume: VOLUME,
            part,
            offset,
            length,
            allocate: true,
        })
    }

    /// As a new owner's, the index has no page in memory; nothing waits to be drained.
    fn forget_pages(&mut self) {
        let Phase::Leading(serving) = &mut self.volume.phase else {
            panic!("it serves")
        };
        assert!(serving.layers.active.is_empty() && serving.layers.frozen.is_none());
        let checkpoint = serving.journal.checkpoint().checkpoint;
        let config = index::IndexConfig::default();
        serving.layers.index = index::Index::open(VOLUME, &checkpoint, config);
        self.read.clear();
    }

    /// What the index keeps until a checkpoint, and what the next owner would have to.
    fn kept(&self) -> (usize, u64) {
        let Phase::Leading(serving) = &self.volume.phase else {
            panic!("it serves")
        };
        let dirty = serving.layers.index.dirty_bytes();
        (dirty, serving.journal.log().zeroed_bytes())
    }
}

/// A client zeroes a TiB with one request: neither the client, nor the owner, nor the next one has
/// more of it at a time than there is room for, and what is asked meanwhile goes past it.
#[test]
fn a_tib_of_zeros_that_stay_allocated_is_drained_in_bounded_memory() {
    let mut b = of_a_tib(VolumeConfig::default());
    let config = ClientConfig::default();
    let view = Arc::new(b.view.clone());
    let mut of = Client::new(VOLUME, (FRONT_END, Boot(1)), config, view);
    let all = Request::Zero {
        offset: 0,
        length: TIB,
        allocate: true,
    };
    let (offset, length) = (TIB - 4096, 4096);
    let read = Request::Read { offset, length };
    let submit = |tag, request| client::Input::Submit { tag, request };
    let mut inputs = vec![submit(Tag(1), all), submit(Tag(2), read)];
    let (mut answered, mut parts, mut most) = (None, BTreeSet::new(), (0, 0));
    for _ in 0..4000 {
        let mut out = Vec::new();
        of.tick(b.now, &mut out);
        for input in inputs.drain(..) {
            of.handle(b.now, input, &mut out);
        }
        for effect in out {
            match effect {
                client::Effect::ToVolume { id, request, .. } => {
                    if let VolumeRequest::Zero { part, length, .. } = &request {
                        assert!(*length <= ZERO_PART_BYTES_MAX);
                        parts.insert(part.n);
                    }
                    let from = Endpoint {
                        node: FRONT_END,
                        actor: Actor::Client(ClientId(1)),
                    };
                    let payload = Bytes::new();
                    b.handle(Input::Request {
                        from,
                        id,
                        request,
                        payload,
                    });
                }
                client::Effect::Complete { tag, reply } => {
                    assert_eq!(tag, Tag(2), "no TiB of zeros is journaled at once");
                    answered = Some((reply, parts.len()));
                }
                client::Effect::Opened { .. } | client::Effect::Ended => {}
            }
        }
        b.pass(Duration::from_millis(20));
        let told = std::mem::take(&mut b.told).into_iter();
        inputs.extend(told.map(|(id, reply)| {
            let payload = Bytes::new();
            client::Input::Reply { id, reply, payload }
        }));
        let (dirty, zeroed) = b.kept();
        most = (most.0.max(dirty), most.1.max(zeroed));
        // All of that lies in segments here.
        b.segments.retain(|_, data| data.len() < 4 << 20);
        if parts.len() >= 64 {
            break;
        }
    }
    assert!(
        parts.len() >= 64,
        "{} parts of 256 MiB were sent",
        parts.len()
    );
    let (dirty, zeroed) = most;
    assert!(dirty < 16 << 20, "{dirty} bytes");
    assert!(
        zeroed <= VolumeConfig::default().zeros_bytes,
        "{zeroed} bytes"
    );
    let (reply, before) = answered.expect("the read was answered");
    assert!(
        matches!(reply, Reply::Data(_)) && before <= 8,
        "{reply:?} after {before}"
    );
}

#[test]
fn an_owner_takes_no_longer_part_of_zeros() {
    let mut b = of_a_tib(VolumeConfig::default());
    let session = session(b.open(one_of(FRONT_END, 1, 1)));
    let long = b.zero(session, 1, 0, ZERO_PART_BYTES_MAX + 1);
    b.pass(Duration::from_secs(2));
    let refused = VolumeReply::Error(BlockError::OutOfRange);
    assert_eq!(b.told.get(&long), Some(&refused));
    let longest = b.zero(session, 2, 0, ZERO_PART_BYTES_MAX);
    b.pass(Duration::from_secs(1));
    assert_eq!(b.told.get(&longest), Some(&VolumeReply::Done));
}

/// What a next owner would replay is bounded, whoever sends how many parts: more wait for a
/// checkpoint.
#[test]
fn zeros_beyond_the_window_wait_for_a_checkpoint() {
    let mut b = of_a_tib(VolumeConfig::default());
    let session = session(b.open(one_of(FRONT_END, 1, 1)));
    // No page is stored.
    b.held = Some(Vec::new());
    let part = ZERO_PART_BYTES_MAX;
    let all: Vec<RequestId> = (0..16)
        .map(|n| b.zero(session, n + 1, n * part, part))
        .collect();
    b.pass(Duration::from_secs(2));
    let done = |b: &Bench| {
        let done = all.iter().map(|id| b.told.get(id));
        done.filter(|reply| *reply == Some(&VolumeReply::Done))
            .count() as u64
    };
    let most = VolumeConfig::default().zeros_bytes;
    assert_eq!((done(&b), b.kept().1), (most / part, most));
    let held = b.held.take().unwrap_or_default();
    held.into_iter().for_each(|request| b.segment(request));
    b.pass(Duration::from_secs(30));
    assert_eq!(done(&b), 16);
}

/// A page of the index that can't be read fails reads of what it maps, and no others.
#[test]
fn one_page_that_is_lost_fails_its_own_reads_alone() {
    let mut b = of_a_tib(VolumeConfig::default());
    let session = session(b.open(one_of(FRONT_END, 1, 1)));
    let (here, elsewhere, there) = (0, TIB / 4, TIB / 2);
    let leaf = 1 << 20;
    b.zero(session, 1, here, leaf);
    b.zero(session, 2, there, leaf);
    b.pass(Duration::from_secs(5));
    // The leaf is the last page that a read needs.
    b.forget_pages();
    b.read_at(session, here);
    let page = *b.read.last().expect("no page is in memory");
    b.forget_pages();
    b.read_at(session, elsewhere);
    b.lost.insert(page);
    b.held = Some(Vec::new());
    let (wrong, right) = (b.read_at(session, here), b.read_at(session, there));
    for _ in 0..20 {
        for request in b.held.replace(Vec::new()).unwrap_or_default() {
            b.segment(request);
        }
    }
    b.held = None;
    b.pass(Duration::from_secs(1));
    let unreadable = VolumeReply::Error(BlockError::Unreadable);
    assert_eq!(b.told.get(&wrong), Some(&unreadable));
    let zeros = VolumeReply::Data(vec![ReadChunk::Zeros(4096)]);
    assert_eq!(b.told.get(&right), Some(&zeros));
    // A drain that needs it asks now and then, until it is back.
    b.read.clear();
    b.zero(session, 3, here, 4096);
    b.pass(Duration::from_secs(3));
    let asked = b.read.iter().filter(|at| **at == page).count();
    assert!((2..=20).contains(&asked), "{asked} times in 3 s");
    b.lost.clear();
    b.pass(Duration::from_secs(3));
    let Phase::Leading(serving) = &b.volume.phase else {
        panic!("it serves")
    };
    assert!(serving.layers.frozen.is_none(), "the drain went on");
}
