//! Targets in memory: one unit, with several portals.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use iscsi_frontend::scsi::facts::{AccessState, Facts, Identity, PortGroup};
use iscsi_frontend::server::{
    Changed, Client, Config, Hub, IdentifyResult, Listener, OpenResult, Stop, Targets, Unit, serve,
};
use iscsi_frontend::session::{Access, Entropy, ListedTarget, LoginError, Names};
use model::block::{Allocation, BlockError, Chunk, Extent, Reply, Request};
use model::ids::Version;
use model::iscsi::UnitState;

const BLOCK: u64 = 4096;

/// A unit that all its portals share.
#[derive(Debug)]
pub(crate) struct Memory {
    blocks: RefCell<Vec<Option<Box<[u8]>>>>,
    state: RefCell<(Version, Arc<UnitState>)>,
    size_bytes: u64,
    /// Its target's name.
    pub(crate) name: String,
    /// How initiators prove who they are.
    pub(crate) access: Access,
}

impl Memory {
    /// A unit of that size, without data.
    pub(crate) fn new(size_bytes: u64, access: Access) -> Rc<Self> {
        let blocks = usize::try_from(size_bytes / BLOCK).expect("in memory");
        Rc::new(Self {
            blocks: RefCell::new(vec![None; blocks]),
            state: RefCell::new((Version(1), Arc::default())),
            size_bytes,
            name: "iqn.2026-01.io.atoll:memory".into(),
            access,
        })
    }

    /// Each block that a range touches: its index, where the range begins in it, where it ends, and
    /// where that is in the range.
    fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let end = offset + length;
        (offset / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
            let start = offset.max(block * BLOCK);
            let stop = end.min((block + 1) * BLOCK);
            let within = |at: u64| usize::try_from(at).expect("in memory");
            (
                within(block),
                within(start - block * BLOCK),
                within(stop - block * BLOCK),
                within(start - offset),
            )
        })
    }

    fn read(&self, offset: u64, length: u64) -> Vec<Chunk> {
        let blocks = self.blocks.borrow();
        let piece = |(block, start, stop, _): (usize, usize, usize, usize)| match &blocks[block] {
            Some(bytes) => Chunk::Data(Bytes::copy_from_slice(&bytes[start..stop])),
            None => Chunk::Zeros((stop - start) as u64),
        };
        Self::pieces(offset, length).map(piece).collect()
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut blocks = self.blocks.borrow_mut();
        for (block, start, stop, at) in Self::pieces(offset, data.len() as u64) {
            let zeros = || vec![0; BLOCK as usize].into();
            let bytes = blocks[block].get_or_insert_with(zeros);
            bytes[start..stop].copy_from_slice(&data[at..at + stop - start]);
        }
    }

    fn trim(&self, offset: u64, length: u64) {
        let mut blocks = self.blocks.borrow_mut();
        for (block, start, stop, _) in Self::pieces(offset, length) {
            if stop - start == BLOCK as usize {
                blocks[block] = None;
            } else if let Some(bytes) = &mut blocks[block] {
                bytes[start..stop].fill(0);
            }
        }
    }

    fn status(&self, offset: u64, length: u64) -> Vec<Extent> {
        let blocks = self.blocks.borrow();
        let extent = |(block, start, stop, _): (usize, usize, usize, usize)| Extent {
            length: (stop - start) as u64,
            state: match blocks[block] {
                Some(_) => Allocation::Data,
                None => Allocation::Hole,
            },
        };
        Self::pieces(offset, length).map(extent).collect()
    }

    fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Read { offset, length } => Reply::Data(self.read(offset, length.into())),
            Request::Write { offset, data } => {
                if offset + data.len() as u64 > self.size_bytes {
                    return Reply::Error(BlockError::OutOfRange);
                }
                self.write(offset, &data);
                Reply::Done
            }
            Request::Zero { offset, length, .. } | Request::Trim { offset, length } => {
                self.trim(offset, length);
                Reply::Done
            }
            Request::Flush => Reply::Done,
            Request::Status { offset, length } => Reply::Status(self.status(offset, length)),
        }
    }
}

/// One portal: its port's number, and the addresses of all.
pub(crate) struct Portal {
    /// The unit.
    pub(crate) memory: Rc<Memory>,
    /// The port.
    pub(crate) port: u16,
    /// All portals.
    pub(crate) portals: Vec<SocketAddr>,
}

struct Opened {
    memory: Rc<Memory>,
    port: u16,
}

impl Unit for Opened {
    fn facts(&self) -> Option<Rc<Facts>> {
        let (version, state) = self.memory.state.borrow().clone();
        let group = |id, access| PortGroup {
            id,
            access,
            ports: vec![id],
        };
        Some(Rc::new(Facts {
            size_bytes: self.memory.size_bytes,
            read_only: false,
            identity: Identity {
                naa: 0x3000_0000_0000_0007,
                serial: "0000000000000007".into(),
                target: self.memory.name.clone(),
            },
            port: self.port,
            groups: vec![
                group(1, AccessState::Optimized),
                group(2, AccessState::NonOptimized),
            ],
            version,
            state,
        }))
    }

    fn refresh(&self) -> LocalBoxFuture<'static, ()> {
        async {}.boxed_local()
    }

    fn change(&self, expected: Version, next: UnitState) -> LocalBoxFuture<'static, Changed> {
        let mut state = self.memory.state.borrow_mut();
        let done = if state.0 == expected {
            *state = (state.0.next(), Arc::new(next));
            Changed::Done
        } else {
            Changed::Stale
        };
        async move { done }.boxed_local()
    }

    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Reply> {
        let reply = self.memory.answer(request);
        // As a volume's, it takes a while.
        async move {
            tokio::task::yield_now().await;
            reply
        }
        .boxed_local()
    }
}

impl Targets for Portal {
    fn identify(&self, _client: &Client, names: &Names) -> LocalBoxFuture<'static, IdentifyResult> {
        let found = match &names.target {
            None => Ok(Access::Open),
            Some(name) if *name == self.memory.name => Ok(self.memory.access.clone()),
            Some(_) => Err(LoginError::NotFound),
        };
        async move { found }.boxed_local()
    }

    fn discover(
        &self,
        _client: &Client,
        _initiator: &str,
        which: Option<&str>,
    ) -> LocalBoxFuture<'static, Vec<ListedTarget>> {
        let name = self.memory.name.clone();
        let shown = which.is_none_or(|which| which == name);
        let portals = self.portals.iter().map(SocketAddr::to_string).collect();
        let listed = ListedTarget { name, portals };
        let listed = shown.then_some(listed).into_iter().collect();
        async move { listed }.boxed_local()
    }

    fn open(&self, _client: &Client, _names: &Names) -> LocalBoxFuture<'static, OpenResult> {
        let (memory, port) = (Rc::clone(&self.memory), self.port);
        async move { Ok(Rc::new(Opened { memory, port }) as Rc<dyn Unit>) }.boxed_local()
    }

    fn entropy(&self) -> Entropy {
        Entropy {
            identifier: 1,
            challenge: *b"not random: test",
        }
    }
}

/// Listens on two portals, which each have sessions of their own.
pub(crate) fn listen() -> [Listener; 2] {
    let bind = |_| Listener::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    [1, 2].map(bind)
}

/// Serves a unit through two portals until `stop`.
pub(crate) async fn serve_memory(
    listeners: [Listener; 2],
    memory: Rc<Memory>,
    config: Config,
    stop: Stop,
) {
    let portals: Vec<SocketAddr> = listeners.iter().map(Listener::address).collect();
    let served = listeners.into_iter().zip(1..).map(|(listener, port)| {
        let portal = Portal {
            memory: Rc::clone(&memory),
            port,
            portals: portals.clone(),
        };
        let (config, stop) = (config.clone(), stop.clone());
        serve(
            listener,
            Rc::new(portal),
            Rc::new(Hub::default()),
            config,
            stop,
        )
    });
    futures::future::join_all(served).await;
}
