//! How a transport behaves: limits, timeouts, QUIC parameters.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use model::ids::NodeId;
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::{
    AckFrequencyConfig, ConnectionId, ConnectionIdGenerator, IdleTimeout, MtuDiscoveryConfig,
    TransportConfig, VarInt,
};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::net::sockopt;

use super::ca::Identity;
use crate::class::{Class, Lane};

/// Where a node is reached now; `None` if it is not known. Asked at every dial.
pub type Resolver = Arc<dyn Fn(NodeId) -> Option<SocketAddr> + Send + Sync>;

/// Whether a node with a certificate of this fabric may connect (one that was removed may
/// not). Asked for every accepted connection.
pub type Admit = Arc<dyn Fn(NodeId) -> bool + Send + Sync>;

/// Told that a peer closed a connection of this node's because it does not admit it. It must not
/// block.
pub type Refused = Arc<dyn Fn(NodeId) + Send + Sync>;

/// Bounds of one class's queue to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassLimits {
    /// Messages.
    pub queue_messages_max: usize,
    /// Header and payload bytes. A longer message is taken when alone.
    pub queue_bytes_max: usize,
    /// A message that waited longer for its stream is dropped.
    pub deadline: Duration,
}

impl ClassLimits {
    /// The default of a class.
    #[must_use]
    pub const fn of(class: Class) -> Self {
        let (messages, mib, millis) = match class {
            Class::Meta => (4096, 16, 1_000),
            Class::Journal => (8192, 32, 2_000),
            Class::Client => (8192, 32, 5_000),
            Class::Bulk => (1024, 64, 10_000),
        };
        Self {
            queue_messages_max: messages,
            queue_bytes_max: mib << 20,
            deadline: Duration::from_millis(millis),
        }
    }
}

/// Size of QUIC packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathMtu {
    /// 1452 bytes with segmentation offload: every path with Ethernet frames.
    Ethernet,
    /// 8952 bytes: every path has 9000-byte frames. Without offload, since ten such segments
    /// are over 64 KiB and the kernel would refuse them.
    Jumbo,
    /// From 1200 bytes up by probing, with offload: tunnels and unknown paths.
    Discover,
}

impl PathMtu {
    /// What surely passes from that address on: what is bound to a loopback address reaches nothing
    /// beyond, and loopback carries 64 KiB.
    fn of(listen: SocketAddr) -> Self {
        match listen.ip().is_loopback() {
            true => Self::Jumbo,
            false => Self::Ethernet,
        }
    }

    fn bytes(self) -> u16 {
        match self {
            Self::Ethernet => 1452,
            Self::Jumbo => 8952,
            Self::Discover => 1200,
        }
    }
}

/// Which congestion controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Congestion {
    /// Cubic.
    Cubic,
    /// BBR (of quinn: version 1, experimental).
    Bbr,
}

/// A transport's configuration.
#[derive(Clone)]
pub struct Config {
    /// UDP address to bind.
    pub listen: SocketAddr,
    /// Where peers are.
    pub resolve: Resolver,
    /// Which peers may connect.
    pub admit: Admit,
    /// Who is told which peers do not admit this node.
    pub refused: Refused,
    /// Packet size.
    pub mtu: PathMtu,
    /// A peer that was silent for so long is gone: the connection is dropped.
    pub idle_timeout: Duration,
    /// A dialed connection is never silent for longer.
    pub keep_alive: Duration,
    /// Congestion controller.
    pub congestion: Congestion,
    /// Its first window, bytes.
    pub initial_window: u64,
    /// Queue bounds, by [`Class::index`].
    pub classes: [ClassLimits; 4],
}

impl Config {
    /// The defaults: packets by the address, every node of the fabric is admitted.
    #[must_use]
    pub fn new(listen: SocketAddr, resolve: Resolver) -> Self {
        Self {
            listen,
            resolve,
            admit: Arc::new(|_| true),
            refused: Arc::new(|_| ()),
            mtu: PathMtu::of(listen),
            idle_timeout: Duration::from_secs(1),
            keep_alive: Duration::from_millis(250),
            congestion: Congestion::Cubic,
            initial_window: 1 << 20,
            classes: Class::ALL.map(ClassLimits::of),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("mtu", &self.mtu)
            .field("idle_timeout", &self.idle_timeout)
            .field("keep_alive", &self.keep_alive)
            .field("congestion", &self.congestion)
            .field("initial_window", &self.initial_window)
            .field("classes", &self.classes)
            .finish_non_exhaustive()
    }
}

/// Flow control of one stream: what it may have in flight and unread. One class can't take
/// the others' share of the connection's windows.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// Flow control of a connection: its streams' together.
const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;

/// Kernel socket buffers: the default loses packets in bursts.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Before the first measurement. Low, since a lost first packet is repeated only after three
/// of these.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// Packets that a receiver may leave unacknowledged, and for how long: acknowledgements cost
/// as much processor as data.
const ACK_THRESHOLD_PACKETS: u32 = 16;
const ACK_DELAY_MAX: Duration = Duration::from_millis(2);

/// Streams that a peer may open on a connection.
fn streams_max() -> u32 {
    let lane = |lane: Lane| {
        lane.classes()
            .iter()
            .map(|class| class.streams())
            .sum::<usize>()
    };
    let most = Lane::ALL.into_iter().map(lane).max().unwrap_or(1);
    u32::try_from(most).unwrap_or(u32::MAX)
}

/// QUIC parameters between nodes.
pub(crate) fn quic(config: &Config, dialing: bool) -> TransportConfig {
    let mut quic = TransportConfig::default();
    let mut ack = AckFrequencyConfig::default();
    ack.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD_PACKETS))
        .max_ack_delay(Some(ACK_DELAY_MAX));
    let mtu = config.mtu.bytes();
    quic.max_concurrent_uni_streams(VarInt::from_u32(streams_max()))
        // For joiners; nodes open none.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_idle_timeout(IdleTimeout::try_from(config.idle_timeout).ok())
        .keep_alive_interval(dialing.then_some(config.keep_alive))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(mtu)
        .min_mtu(mtu)
        .mtu_discovery_config((config.mtu == PathMtu::Discover).then(MtuDiscoveryConfig::default))
        .enable_segmentation_offload(config.mtu != PathMtu::Jumbo)
        .ack_frequency_config(Some(ack));
    match config.congestion {
        Congestion::Cubic => {
            let mut cubic = CubicConfig::default();
            cubic.initial_window(config.initial_window);
            quic.congestion_controller_factory(Arc::new(cubic));
        }
        Congestion::Bbr => {
            let mut bbr = BbrConfig::default();
            bbr.initial_window(config.initial_window);
            quic.congestion_controller_factory(Arc::new(bbr));
        }
    }
    quic
}

/// The key of resets is derived from the node's own, so that a restarted node can tell peers of its former
/// life at once that their connections are gone (stateless reset), instead of after their
/// idle timeout.
pub(crate) fn endpoint(config: &Config, identity: &Identity) -> quinn::EndpointConfig {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, identity.key().secret_der());
    let reset = hmac::sign(&secret, b"atoll stateless reset");
    let reset = hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref());
    let mut out = quinn::EndpointConfig::new(Arc::new(reset));
    out.cid_generator(|| Box::new(RandomIds(SystemRandom::new())));
    // In range by construction of `PathMtu`; else the default holds.
    let _ = out.max_udp_payload_size(config.mtu.bytes().max(1472));
    out
}

const CONNECTION_ID_BYTES: usize = 8;

/// Random connection ids. quinn's default ones carry a check that only the process which
/// made them can do, so that a restarted node would answer nothing to its former peers.
#[derive(Debug)]
struct RandomIds(SystemRandom);

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CONNECTION_ID_BYTES];
        // Without a random source no key could have been made either.
        self.0
            .fill(&mut bytes)
            .expect("the system's random source works");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A bound socket with large buffers.
pub(crate) fn socket(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen)?;
    widen_buffers(&socket)?;
    Ok(socket)
}

/// The kernel caps the sizes at `net.core.{r,w}mem_max` without an error.
pub(crate) fn widen_buffers(socket: &UdpSocket) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES)?;
    if sockopt::socket_recv_buffer_size(socket)? < SOCKET_BUFFER_BYTES / 2 {
        tracing::warn!(
            "the kernel caps UDP buffers below {} bytes: raise net.core.rmem_max",
            SOCKET_BUFFER_BYTES
        );
    }
    Ok(())
}
