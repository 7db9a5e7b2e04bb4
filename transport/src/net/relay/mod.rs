//! The WAN emulator of `atoll dev --wan`: a UDP relay in user space between sites.
//!
//! Each directed link (a node that dials, a node that is dialed) gets a UDP port of its own;
//! a node's resolver names that port instead of the peer's address. Datagrams to the port go
//! to the target under the shape of (from site, to site); what the target answers goes back
//! under the shape of (to site, from site): a one-way cut cuts one direction of every link
//! between two sites, acknowledgements included.
//!
//! A shape delays, jitters (without reordering), loses, paces and cuts. One thread does it
//! all, with a timer of the kernel's precision (well under 1 ms).

mod engine;
mod port;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use model::ids::{NodeId, SiteId};
use rustix::event::{EventfdFlags, eventfd};

use engine::Engine;

/// A directed link: `from` dials, `to` is dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Who dials.
    pub from: NodeId,
    /// Its site.
    pub from_site: SiteId,
    /// Who is dialed.
    pub to: NodeId,
    /// Its site.
    pub to_site: SiteId,
    /// Where that node really listens.
    pub target: SocketAddr,
}

/// What happens to datagrams of one direction between two sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// One-way delay.
    pub delay: Duration,
    /// Added delay, uniform between zero and this; never reorders a flow.
    pub jitter: Duration,
    /// Datagrams lost in a million.
    pub loss_per_million: u32,
    /// Bytes a second, shared by all links of the direction; `None` is without limit. A
    /// queue of more than 100 ms drops.
    pub bytes_per_second: Option<u64>,
    /// Nothing passes, what is under way included.
    pub cut: bool,
}

impl Shape {
    /// Half of a round trip, and nothing else.
    #[must_use]
    pub fn half_of(round_trip: Duration) -> Self {
        Self {
            delay: round_trip / 2,
            ..Self::default()
        }
    }
}

/// Datagrams of one direction between two sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Forwarded.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Dropped by loss, cut or a full queue.
    pub dropped: u64,
}

type Pair = (SiteId, SiteId);

/// What the thread and its handle share.
#[derive(Debug)]
struct Control {
    shapes: Mutex<BTreeMap<Pair, Shape>>,
    /// Raised by every change of the shapes.
    version: AtomicU64,
    passed: Mutex<BTreeMap<Pair, Passed>>,
    stop: AtomicBool,
    wake: OwnedFd,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps of plain values: never half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    fn wake(&self) {
        // Fails only if the counter is full, and then the thread wakes anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// A running relay; dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    control: Arc<Control>,
    addresses: BTreeMap<(NodeId, NodeId), SocketAddr>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Opens a port for every link, on the loopback address of the target's family, and
    /// starts to relay without any shape. `seed` decides jitter and losses.
    ///
    /// # Errors
    /// From the operating system.
    pub fn start(links: &[Link], seed: u64) -> io::Result<Self> {
        let control = Arc::new(Control {
            shapes: Mutex::default(),
            version: AtomicU64::new(1),
            passed: Mutex::default(),
            stop: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        });
        let mut engine = Engine::new(Arc::clone(&control), seed)?;
        let mut addresses = BTreeMap::new();
        for link in links {
            addresses.insert((link.from, link.to), engine.listen(link)?);
        }
        let thread = std::thread::Builder::new()
            .name("wan-relay".to_owned())
            .spawn(move || {
                if let Err(error) = engine.run() {
                    tracing::error!(%error, "the WAN emulator stopped");
                }
            })?;
        Ok(Self {
            control,
            addresses,
            thread: Some(thread),
        })
    }

    /// Where `from` reaches `to`; `None` without such a link.
    #[must_use]
    pub fn address(&self, from: NodeId, to: NodeId) -> Option<SocketAddr> {
        self.addresses.get(&(from, to)).copied()
    }

    /// Sets the shape of one direction; from now on, for datagrams under way only as to cuts.
    pub fn set(&self, from: SiteId, to: SiteId, shape: Shape) {
        lock(&self.control.shapes).insert((from, to), shape);
        self.changed();
    }

    /// Sets both directions.
    pub fn set_both(&self, a: SiteId, b: SiteId, shape: Shape) {
        self.set(a, b, shape);
        self.set(b, a, shape);
    }

    /// Cuts or mends one direction, and leaves the rest of its shape.
    pub fn cut(&self, from: SiteId, to: SiteId, cut: bool) {
        lock(&self.control.shapes)
            .entry((from, to))
            .or_default()
            .cut = cut;
        self.changed();
    }

    /// One direction's shape.
    #[must_use]
    pub fn shape(&self, from: SiteId, to: SiteId) -> Shape {
        lock(&self.control.shapes)
            .get(&(from, to))
            .copied()
            .unwrap_or_default()
    }

    /// What passed between sites since the start; up to 100 ms old.
    #[must_use]
    pub fn passed(&self, from: SiteId, to: SiteId) -> Passed {
        lock(&self.control.passed)
            .get(&(from, to))
            .copied()
            .unwrap_or_default()
    }

    fn changed(&self) {
        self.control.version.fetch_add(1, Ordering::Release);
        self.control.wake();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Release);
        self.control.wake();
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which was printed.
            let _ = thread.join();
        }
    }
}
