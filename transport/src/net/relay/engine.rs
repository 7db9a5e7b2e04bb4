//! The relay's thread: sockets, the heap of delayed datagrams, the clock.
//!
//! Datagrams that the kernel hands over as one batch travel as one: that costs a third of the
//! processor. Losses are drawn for each of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quinn::udp::RecvMeta;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::port::{BATCH_BYTES_MAX, BATCHES, Batch, Held, Port, open};
use super::{Control, Link, Pair, Passed, Shape, lock};
use crate::net::stats::widen;

/// Calls for one socket before the others get their turn.
const BURST: usize = 8;
/// Datagrams under way, bytes; more are dropped.
const HELD_BYTES_MAX: usize = 256 << 20;
/// Clients of one link (a dialing node has one address; a joiner another): the oldest goes.
const CLIENTS_MAX: usize = 8;
/// What a paced direction may have waiting.
const PACE_QUEUE_MAX: Duration = Duration::from_millis(100);
/// Free buffers kept.
const SPARE_MAX: usize = 4096;
/// How often the counters are published.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// One direction between two sites.
struct Direction {
    pair: Pair,
    shape: Shape,
    /// When a paced direction can take the next byte.
    free_at: Instant,
    passed: Passed,
}

/// What a socket is for.
enum Role {
    /// The port that a link's dialer knows.
    Listen {
        target: SocketAddr,
        forward: usize,
        backward: usize,
        /// Client address -> the socket that speaks for it; oldest first.
        clients: Vec<(SocketAddr, usize)>,
    },
    /// Speaks to the target for one client.
    Upstream {
        listen: usize,
        client: SocketAddr,
        target: SocketAddr,
        backward: usize,
    },
    /// A client that was dropped for a newer one.
    Retired,
}

struct Slot {
    /// `None` once retired.
    port: Option<Port>,
    role: Role,
    /// The last delivery to and from this flow: jitter never reorders.
    last_out: Instant,
    last_back: Instant,
}

pub(super) struct Engine {
    control: Arc<Control>,
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: Option<Instant>,
    slots: Vec<Slot>,
    directions: Vec<Direction>,
    by_pair: BTreeMap<Pair, usize>,
    version: u64,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    number: u64,
    spare: Vec<Vec<u8>>,
    published: Instant,
    random: u64,
}

impl Engine {
    pub(super) fn new(control: Arc<Control>, seed: u64) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(
            &epoll,
            &timer,
            epoll::EventData::new_u64(TIMER),
            epoll::EventFlags::IN,
        )?;
        epoll::add(
            &epoll,
            &control.wake,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            control,
            epoll,
            timer,
            armed: None,
            slots: Vec::new(),
            directions: Vec::new(),
            by_pair: BTreeMap::new(),
            version: 0,
            held: BinaryHeap::new(),
            held_bytes: 0,
            number: 0,
            spare: Vec::new(),
            published: Instant::now(),
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        })
    }

    /// Opens a link's port; returns its address.
    pub(super) fn listen(&mut self, link: &Link) -> io::Result<SocketAddr> {
        let forward = self.direction((link.from_site, link.to_site));
        let backward = self.direction((link.to_site, link.from_site));
        let role = Role::Listen {
            target: link.target,
            forward,
            backward,
            clients: Vec::new(),
        };
        let port = open(link.target)?;
        let address = port.socket.local_addr()?;
        self.add(port, role)?;
        Ok(address)
    }

    fn direction(&mut self, pair: Pair) -> usize {
        let directions = &mut self.directions;
        *self.by_pair.entry(pair).or_insert_with(|| {
            directions.push(Direction {
                pair,
                shape: Shape::default(),
                free_at: Instant::now(),
                passed: Passed::default(),
            });
            directions.len() - 1
        })
    }

    fn add(&mut self, port: Port, role: Role) -> io::Result<usize> {
        let index = self.slots.len();
        let data = epoll::EventData::new_u64(widen(index));
        epoll::add(&self.epoll, &port.socket, data, epoll::EventFlags::IN)?;
        let now = Instant::now();
        self.slots.push(Slot {
            port: Some(port),
            role,
            last_out: now,
            last_back: now,
        });
        Ok(index)
    }

    /// Relays until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(128);
        let mut buffers = vec![[0; BATCH_BYTES_MAX]; BATCHES];
        while !self.control.stop.load(Ordering::Acquire) {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.reload();
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        let _ = rustix::io::read(&self.control.wake, &mut [0; 8][..]);
                    }
                    // Re-arming clears it.
                    TIMER => self.armed = None,
                    index => {
                        self.receive(usize::try_from(index).unwrap_or(usize::MAX), &mut buffers)
                    }
                }
            }
            self.deliver(Instant::now());
            self.publish();
            self.arm()?;
        }
        Ok(())
    }

    fn reload(&mut self) {
        let version = self.control.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            let shapes = lock(&self.control.shapes);
            for direction in &mut self.directions {
                direction.shape = shapes.get(&direction.pair).copied().unwrap_or_default();
            }
        }
    }

    fn receive(&mut self, index: usize, buffers: &mut [[u8; BATCH_BYTES_MAX]]) {
        for _ in 0..BURST {
            let mut meta = [RecvMeta::default(); BATCHES];
            let Some(port) = self.slots.get(index).and_then(|slot| slot.port.as_ref()) else {
                return;
            };
            let count = match port.receive(buffers, &mut meta) {
                Ok(count) => count,
                // A refused port of the other side shows here too: as lost as on a real wire.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(_) => return,
            };
            for (meta, buffer) in meta.iter().zip(buffers.iter()).take(count) {
                let Some(bytes) = buffer.get(..meta.len) else {
                    continue;
                };
                self.route(
                    index,
                    meta.addr,
                    Batch {
                        bytes,
                        stride: meta.stride,
                        ecn: meta.ecn,
                    },
                );
            }
        }
    }

    /// Sends a batch on its way: to the target of a link, or back to a client.
    fn route(&mut self, index: usize, from: SocketAddr, batch: Batch<'_>) {
        match &self.slots[index].role {
            Role::Listen {
                target, forward, ..
            } => {
                let (target, forward) = (*target, *forward);
                if let Some(upstream) = self.upstream(index, from) {
                    self.pass((upstream, true), forward, upstream, target, batch);
                }
            }
            Role::Upstream {
                listen,
                client,
                target,
                backward,
            } if from == *target => {
                let (listen, client, backward) = (*listen, *client, *backward);
                self.pass((index, false), backward, listen, client, batch);
            }
            Role::Upstream { .. } | Role::Retired => {}
        }
    }

    /// The socket that speaks to the target for this client of a link.
    fn upstream(&mut self, listen: usize, client: SocketAddr) -> Option<usize> {
        let Role::Listen {
            target,
            backward,
            clients,
            ..
        } = &mut self.slots[listen].role
        else {
            return None;
        };
        if let Some((_, index)) = clients.iter().find(|(address, _)| *address == client) {
            return Some(*index);
        }
        let (target, backward) = (*target, *backward);
        let oldest = (clients.len() >= CLIENTS_MAX).then(|| clients.remove(0).1);
        if let Some(oldest) = oldest {
            self.slots[oldest].port = None;
            self.slots[oldest].role = Role::Retired;
        }
        let role = Role::Upstream {
            listen,
            client,
            target,
            backward,
        };
        let index = match open(target).and_then(|port| self.add(port, role)) {
            Ok(index) => index,
            Err(error) => {
                tracing::warn!(%error, "the WAN emulator has no socket for a client");
                return None;
            }
        };
        if let Role::Listen { clients, .. } = &mut self.slots[listen].role {
            clients.push((client, index));
        }
        Some(index)
    }

    /// Lets a batch of a flow (its upstream slot, and whether it goes out or back) pass
    /// through a direction, out of `slot` to `to`.
    fn pass(
        &mut self,
        (flow, outward): (usize, bool),
        direction: usize,
        slot: usize,
        to: SocketAddr,
        batch: Batch<'_>,
    ) {
        let now = Instant::now();
        let shape = self.directions[direction].shape;
        let stride = batch.stride.clamp(1, BATCH_BYTES_MAX);
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        let mut dropped = 0;
        for datagram in batch.bytes.chunks(stride) {
            let lost = shape.loss_per_million > 0
                && self.next_random() % 1_000_000 < u64::from(shape.loss_per_million);
            if lost {
                dropped += 1;
            } else {
                bytes.extend_from_slice(datagram);
            }
        }
        let jitter = self.jitter(shape.jitter);
        let road = &mut self.directions[direction];
        let depart = match shape.bytes_per_second {
            Some(rate) => {
                let took = Duration::from_secs_f64(bytes.len() as f64 / rate.max(1) as f64);
                road.free_at.max(now) + took
            }
            None => now,
        };
        let full = depart.saturating_duration_since(now) > PACE_QUEUE_MAX
            || self.held_bytes + bytes.len() > HELD_BYTES_MAX;
        if shape.cut || full {
            dropped += widen(bytes.len().div_ceil(stride));
            bytes.clear();
        }
        road.passed.dropped += dropped;
        if bytes.is_empty() {
            self.recycle(bytes);
            return;
        }
        if shape.bytes_per_second.is_some() {
            road.free_at = depart;
        }
        let flow = &mut self.slots[flow];
        let last = if outward {
            &mut flow.last_out
        } else {
            &mut flow.last_back
        };
        let at = (depart + shape.delay + jitter).max(*last);
        *last = at;
        self.held_bytes += bytes.len();
        self.number += 1;
        let (number, ecn) = (self.number, batch.ecn);
        self.held.push(Reverse(Held {
            at,
            number,
            direction,
            slot,
            to,
            bytes,
            stride,
            ecn,
        }));
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.next_random() % nanos)
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(buffer);
        }
    }

    /// Sends what is due. A full socket loses it, as a router would.
    fn deliver(&mut self, now: Instant) {
        while self.held.peek().is_some_and(|Reverse(held)| held.at <= now) {
            let Some(Reverse(held)) = self.held.pop() else {
                return;
            };
            self.held_bytes -= held.bytes.len();
            let datagrams = held.bytes.len().div_ceil(held.stride);
            let sent = match &self.slots[held.slot].port {
                Some(port) if !self.directions[held.direction].shape.cut => port.send(&held),
                _ => 0,
            };
            let passed = &mut self.directions[held.direction].passed;
            passed.datagrams += widen(sent);
            passed.dropped += widen(datagrams - sent);
            if sent == datagrams {
                passed.bytes += widen(held.bytes.len());
            } else {
                passed.bytes += widen(sent * held.stride);
            }
            self.recycle(held.bytes);
        }
    }

    fn publish(&mut self) {
        if self.published.elapsed() >= PUBLISH_EVERY {
            self.published = Instant::now();
            let mut passed = lock(&self.control.passed);
            for direction in &self.directions {
                passed.insert(direction.pair, direction.passed);
            }
        }
    }

    /// Sets the timer to the next delivery.
    fn arm(&mut self) -> io::Result<()> {
        let next = self.held.peek().map(|Reverse(held)| held.at);
        // Without traffic, a last publication is still due.
        let next = next.unwrap_or(self.published + PUBLISH_EVERY);
        if self.armed == Some(next) {
            return Ok(());
        }
        // Zero would disarm it.
        let wait = next
            .saturating_duration_since(Instant::now())
            .max(Duration::from_nanos(1));
        let value = Timespec::try_from(wait).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spec = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        self.armed = Some(next);
        Ok(())
    }

    fn next_random(&mut self) -> u64 {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
