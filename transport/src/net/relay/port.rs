//! A socket of the relay, and the datagrams that go through it in batches.

use std::cmp::Ordering;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};

use crate::net::config::widen_buffers;

/// No UDP payload is longer, and no batch that the kernel makes of datagrams.
pub(super) const BATCH_BYTES_MAX: usize = 65_535;
/// Batches taken from a socket in one call.
pub(super) const BATCHES: usize = 8;

/// A socket that takes and gives datagrams of one flow in batches (GRO, GSO).
pub(super) struct Port {
    pub(super) socket: UdpSocket,
    state: UdpSocketState,
}

/// Datagrams of one flow that arrived as one: all of `stride` bytes but a shorter last.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// Datagrams under way. Ordered by time, then by arrival.
pub(super) struct Held {
    pub(super) at: Instant,
    pub(super) number: u64,
    pub(super) direction: usize,
    pub(super) slot: usize,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) stride: usize,
    pub(super) ecn: Option<EcnCodepoint>,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Port {
    /// Takes batches into `buffers`; how many.
    pub(super) fn receive(
        &self,
        buffers: &mut [[u8; BATCH_BYTES_MAX]],
        meta: &mut [RecvMeta; BATCHES],
    ) -> io::Result<usize> {
        let mut targets: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| IoSliceMut::new(buffer))
            .collect();
        self.state.recv((&self.socket).into(), &mut targets, meta)
    }

    /// Sends a batch, in as few calls as the kernel allows; how many datagrams it took.
    pub(super) fn send(&self, held: &Held) -> usize {
        let segments = self.state.max_gso_segments().max(1);
        let mut sent = 0;
        for contents in held.bytes.chunks(segments * held.stride) {
            let transmit = Transmit {
                destination: held.to,
                ecn: held.ecn,
                contents,
                segment_size: (contents.len() > held.stride).then_some(held.stride),
                src_ip: None,
            };
            if self
                .state
                .try_send((&self.socket).into(), &transmit)
                .is_err()
            {
                break;
            }
            sent += contents.len().div_ceil(held.stride);
        }
        sent
    }
}

/// A socket on the loopback address of the target's family.
pub(super) fn open(target: SocketAddr) -> io::Result<Port> {
    let local: SocketAddr = if target.is_ipv4() {
        (Ipv4Addr::LOCALHOST, 0).into()
    } else {
        (Ipv6Addr::LOCALHOST, 0).into()
    };
    let socket = UdpSocket::bind(local)?;
    widen_buffers(&socket)?;
    // Makes it non-blocking, too.
    let state = UdpSocketState::new((&socket).into())?;
    Ok(Port { socket, state })
}
