//! The transport: messages to and from peers over one UDP socket.
//!
//! # Delivery, exactly
//! - **At most once.** A message leaves its queue before it is written, and is never written
//!   again. What was queued in QUIC when a connection broke may or may not have arrived.
//! - **In order within a class** (`Meta`, `Journal`, `Client`), from one node to another by
//!   one way, for the lives of both processes: gaps can appear where a connection broke, but
//!   never an older message after a younger one (a new connection is read only after its
//!   predecessor was closed). Between classes, within `Bulk` (four streams), and between
//!   messages that were relayed and others, there is no order.
//! - **Bounded.** A full queue says [`SendError::Busy`]; a message that outlived its class's
//!   deadline in the queue is dropped and counted. Nothing is reported for a message that was
//!   accepted and then lost: the layers above have ids, deadlines and retries.
//! - **From whom** a message is comes from the peer's certificate; of a relayed one, the relay's
//!   says who passed it on, and the relay says for whom ([`crate::paths`]).
//!
//! Each node dials for its own sending; an accepted connection is only read.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use model::ids::{NodeId, SiteId};
use model::payload::Payload;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::accept::{self, Inbound};
use super::ca::Identity;
use super::config::{self, Config};
use super::fence::{self, Fencing};
use super::gate::Gate;
use super::join::{JoinGuard, JoinHandler};
use super::shared::{Accepting, Peer, Shared, lock};
use super::stats::PeerStats;
use super::tls::{self, TlsError};
use super::ways::{self, Ways};
use crate::class::{Class, Lane};
use crate::fence::{DrillId, Order, Refusal, Standing};
use crate::frame::FrameError;
use crate::paths::Mark;

/// Takes a message: (from, class, header, payload). Called on the runtime's threads, one
/// call at a time per stream; it must not block. The header may share a receive buffer:
/// decode it, don't keep it.
pub type Handler = Arc<dyn Fn(NodeId, Class, Bytes, Bytes) + Send + Sync>;

/// Who takes what arrives.
#[derive(Clone)]
pub struct Handlers {
    /// By [`Class::index`].
    pub classes: [Handler; 4],
    /// Who judges joiners; without one they are refused.
    pub join: Option<Arc<dyn JoinHandler>>,
}

impl Handlers {
    /// One handler for every class; no joining.
    #[must_use]
    pub fn all(handler: Handler) -> Self {
        Self {
            classes: std::array::from_fn(|_| Arc::clone(&handler)),
            join: None,
        }
    }

    /// Replaces the handler of a class.
    #[must_use]
    pub fn with(mut self, class: Class, handler: Handler) -> Self {
        self.classes[class.index()] = handler;
        self
    }

    /// Lets joiners in to be judged.
    #[must_use]
    pub fn joining(mut self, handler: Arc<dyn JoinHandler>) -> Self {
        self.join = Some(handler);
        self
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("join", &self.join.is_some())
            .finish_non_exhaustive()
    }
}

/// A transport could not be started.
#[derive(Debug, Error)]
pub enum BindError {
    /// The socket.
    #[error("cannot listen on {address}: {source}")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The identity.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It must be called in a tokio runtime.
    #[error("not in a tokio runtime")]
    NoRuntime,
}

/// A message was not accepted; nothing was sent.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The queue to that peer is full: try again later.
    #[error("the queue is full")]
    Busy,
    /// The message breaks the frame's limits.
    #[error(transparent)]
    TooLong(#[from] FrameError),
    /// To this node itself: no business of the network's.
    #[error("a node does not send to itself")]
    Local,
    /// The transport was shut down.
    #[error("the transport is shut down")]
    Closed,
}

/// [`Transport::serve`] was called before.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("the transport is already serving, or shut down")]
pub struct AlreadyServing;

/// Application close codes; `docs/wire-protocol.md` lists them.
pub(crate) mod close {
    use quinn::VarInt;

    /// The node stops, or has no more use for the connection.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// Not a node of this fabric, or one that was removed.
    pub(crate) const NOT_ADMITTED: VarInt = VarInt::from_u32(1);
    /// The peer broke the protocol.
    pub(crate) const PROTOCOL: VarInt = VarInt::from_u32(2);
    /// A younger connection of the same peer took over.
    pub(crate) const REPLACED: VarInt = VarInt::from_u32(3);
    /// Too many joiners at once.
    pub(crate) const BUSY: VarInt = VarInt::from_u32(4);
}

/// Sends to peers and delivers what they send. Cheap to clone; all clones are one transport.
/// It runs until [`Transport::shutdown`], whether or not a clone is left.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("node", &self.shared.node)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

/// Handshakes of accepted connections in progress; more are refused.
pub(super) const HANDSHAKES_MAX: usize = 256;

impl Transport {
    /// Binds the socket and prepares TLS; sending works from here on, receiving from
    /// [`Transport::serve`] on. All tasks run on the runtime that this is called in.
    ///
    /// # Errors
    /// The address can't be bound, the identity is unusable, or there is no runtime.
    pub fn bind(config: Config, identity: &Identity) -> Result<Self, BindError> {
        let runtime = Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls::server_config(identity)?));
        server.transport_config(Arc::new(config::quic(&config, false)));
        let mut client = quinn::ClientConfig::new(Arc::new(tls::client_config(identity)?));
        client.transport_config(Arc::new(config::quic(&config, true)));

        let failed = |source| BindError::Socket {
            address: config.listen,
            source,
        };
        let socket = config::socket(config.listen).map_err(failed)?;
        let endpoint = quinn::Endpoint::new(
            config::endpoint(&config, identity),
            Some(server),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(failed)?;

        Ok(Self {
            shared: Arc::new(Shared {
                node: identity.node(),
                fabric: identity.fabric().clone(),
                config,
                endpoint,
                client,
                gates: Default::default(),
                inbound: Inbound::default(),
                handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
                join_guard: JoinGuard::default(),
                ways: Ways::new(identity.node()),
                fence: Fencing::new(identity.node()),
                runtime,
                peers: RwLock::default(),
                accepting: Mutex::new(Accepting::NotYet),
            }),
        })
    }

    /// Starts to accept connections and to deliver messages. Connections that arrived since
    /// the socket was bound have waited.
    ///
    /// # Errors
    /// If it serves already, or was shut down.
    pub fn serve(&self, handlers: Handlers) -> Result<(), AlreadyServing> {
        let mut accepting = lock(&self.shared.accepting);
        if !matches!(*accepting, Accepting::NotYet) {
            return Err(AlreadyServing);
        }
        let task = accept::run(Arc::clone(&self.shared), Arc::new(handlers));
        *accepting = Accepting::Running(self.shared.runtime.spawn(task).abort_handle());
        Ok(())
    }

    /// Queues a message; never waits. May be called from any thread. What happens to it from
    /// then on: see the module.
    ///
    /// # Errors
    /// [`SendError`]; the message was not queued.
    pub fn send(
        &self,
        to: NodeId,
        class: Class,
        header: Vec<u8>,
        payload: Payload,
    ) -> Result<(), SendError> {
        if to == self.shared.node {
            return Err(SendError::Local);
        }
        let hop = self.shared.ways.leave(to);
        let mark = Mark {
            leg: hop.leg,
            sounding: false,
        };
        self.shared.push(hop.to, class, mark, header, payload)
    }

    /// Which nodes are in which sites, from now on: from then on peers in other sites that can't
    /// be reached directly are reached through a third site (R27). May be called from any thread.
    pub fn know_sites(&self, sites: BTreeMap<NodeId, SiteId>) {
        self.shared.fence.know(sites.clone());
        ways::know(&self.shared, sites);
    }

    /// Fences a site for a drill, or keeps it fenced. While it is, what is sent to its nodes or
    /// comes from them is lost without a word, as it is where they are gone.
    ///
    /// # Errors
    /// [`Refusal`]: nothing changed.
    pub fn fence(&self, order: Order) -> Result<Standing, Refusal> {
        fence::order(&self.shared, order)
    }

    /// A drill is over: the site that it fenced is heard again.
    pub fn lift(&self, drill: DrillId) {
        self.shared.fence.lift(drill);
    }

    /// The fence that stands.
    #[must_use]
    pub fn fenced(&self) -> Option<Standing> {
        self.shared.fence.standing()
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// The bound address.
    ///
    /// # Errors
    /// From the operating system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Backpressure of a class: a closed gate stops reading its streams.
    #[must_use]
    pub fn gate(&self, class: Class) -> &Gate {
        &self.shared.gates[class.index()]
    }

    /// Counters and round trip of a peer; `None` if nothing ever passed.
    #[must_use]
    pub fn peer_stats(&self, id: NodeId) -> Option<PeerStats> {
        let peer = self.shared.known(id)?;
        Some(self.read_stats(&peer))
    }

    /// The same for every peer.
    #[must_use]
    pub fn stats(&self) -> BTreeMap<NodeId, PeerStats> {
        let peers: Vec<_> = {
            let read = self
                .shared
                .peers
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            read.values().cloned().collect()
        };
        peers
            .iter()
            .map(|peer| (peer.id, self.read_stats(peer)))
            .collect()
    }

    fn read_stats(&self, peer: &Peer) -> PeerStats {
        let (mut sent, mut received, mut lost) = peer.wire.read();
        let mut out = PeerStats {
            relay: self.shared.ways.relay_of(peer.id),
            ..PeerStats::default()
        };
        {
            let outbound = lock(&peer.outbound);
            let main = outbound[Lane::Main.index()].connection.as_ref();
            out.connected = main.is_some();
            out.rtt = main.map(quinn::Connection::rtt);
            out.connects = outbound.iter().map(|slot| slot.connects).sum();
            for connection in outbound.iter().filter_map(|slot| slot.connection.as_ref()) {
                let stats = connection.stats();
                sent += stats.udp_tx.bytes;
                received += stats.udp_rx.bytes;
                lost += stats.path.lost_packets;
            }
        }
        for stats in self.shared.inbound.live_stats(peer.id) {
            sent += stats.udp_tx.bytes;
            received += stats.udp_rx.bytes;
            lost += stats.path.lost_packets;
        }
        out.wire_bytes_sent = sent;
        out.wire_bytes_received = received;
        out.packets_lost = lost;
        for (class, queue) in out.classes.iter_mut().zip(&peer.queues) {
            let (messages, bytes) = queue.len();
            *class = queue.counters.read(messages, bytes);
        }
        out
    }

    /// Closes every connection with a peer and drops what is queued for it. A later send
    /// dials again; a removed node's own dials are `Config::admit`'s to refuse.
    pub fn disconnect(&self, id: NodeId) {
        if let Some(peer) = self.shared.known(id) {
            peer.stop(close::NOT_ADMITTED);
        }
        self.shared.inbound.close(id, close::NOT_ADMITTED);
    }

    /// Closes every connection (peers notice at once) and releases the socket once the last
    /// clone is dropped. What is still queued is lost. Waits at most a second.
    pub async fn shutdown(&self) {
        let before = std::mem::replace(&mut *lock(&self.shared.accepting), Accepting::Stopped);
        if let Accepting::Running(task) = before {
            task.abort();
        }
        self.shared.ways.stop();
        let peers: Vec<_> = {
            let read = self
                .shared
                .peers
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            read.values().cloned().collect()
        };
        for peer in peers {
            peer.stop(close::DONE);
        }
        self.shared.endpoint.close(close::DONE, b"");
        let idle = self.shared.endpoint.wait_idle();
        if tokio::time::timeout(Duration::from_secs(1), idle)
            .await
            .is_err()
        {
            tracing::debug!("connections still draining at shutdown");
        }
    }
}
