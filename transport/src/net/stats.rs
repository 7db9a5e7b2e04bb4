//! Counters of a peer. All count from the transport's start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::ids::NodeId;

use crate::class::Class;

/// What passed between this node and a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerStats {
    /// Whether the connection that this node dialed for `Meta`, `Journal` and `Client` is up.
    pub connected: bool,
    /// Through whom messages for the peer go now, if not directly (R27).
    pub relay: Option<NodeId>,
    /// Smoothed round trip of that connection; `None` without one.
    pub rtt: Option<Duration>,
    /// Bytes in UDP datagrams to the peer, all connections, acknowledgements included.
    pub wire_bytes_sent: u64,
    /// The same from the peer.
    pub wire_bytes_received: u64,
    /// QUIC packets to the peer deemed lost.
    pub packets_lost: u64,
    /// Connections to the peer established by this node.
    pub connects: u64,
    /// By class, as [`Class::index`].
    pub classes: [ClassStats; 4],
}

impl PeerStats {
    /// One class's.
    #[must_use]
    pub fn class(&self, class: Class) -> &ClassStats {
        &self.classes[class.index()]
    }
}

/// One class's messages to and from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClassStats {
    /// Messages handed to QUIC.
    pub sent: u64,
    /// Their header and payload bytes.
    pub sent_bytes: u64,
    /// Messages delivered to the handler.
    pub received: u64,
    /// Their header and payload bytes.
    pub received_bytes: u64,
    /// Messages refused as `Busy`.
    pub busy: u64,
    /// Messages dropped because they outlived the class's deadline in the queue.
    pub expired: u64,
    /// Messages from the peer that this node passed on.
    pub passed_on: u64,
    /// Messages from the peer, or by its word from another one, that were not passed on or not
    /// taken.
    pub refused: u64,
    /// Messages in the queue now.
    pub queued: u64,
    /// Their header and payload bytes.
    pub queued_bytes: u64,
}

/// The counters behind [`ClassStats`].
#[derive(Debug, Default)]
pub(crate) struct ClassCounters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    busy: AtomicU64,
    expired: AtomicU64,
    passed_on: AtomicU64,
    refused: AtomicU64,
}

pub(crate) fn widen(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl ClassCounters {
    pub(crate) fn add_sent(&self, messages: u64, bytes: usize) {
        self.sent.fetch_add(messages, Ordering::Relaxed);
        self.sent_bytes.fetch_add(widen(bytes), Ordering::Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.received_bytes
            .fetch_add(widen(bytes), Ordering::Relaxed);
    }

    pub(crate) fn add_busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_passed_on(&self) {
        self.passed_on.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_expired(&self, messages: u64) {
        if messages > 0 {
            self.expired.fetch_add(messages, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self, queued: usize, queued_bytes: usize) -> ClassStats {
        ClassStats {
            sent: self.sent.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            busy: self.busy.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            passed_on: self.passed_on.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            queued: widen(queued),
            queued_bytes: widen(queued_bytes),
        }
    }
}

/// Wire bytes of connections that are gone.
#[derive(Debug, Default)]
pub(crate) struct WireCounters {
    sent: AtomicU64,
    received: AtomicU64,
    lost: AtomicU64,
}

impl WireCounters {
    pub(crate) fn add(&self, stats: &quinn::ConnectionStats) {
        self.sent.fetch_add(stats.udp_tx.bytes, Ordering::Relaxed);
        self.received
            .fetch_add(stats.udp_rx.bytes, Ordering::Relaxed);
        self.lost
            .fetch_add(stats.path.lost_packets, Ordering::Relaxed);
    }

    /// (sent, received, packets lost)
    pub(crate) fn read(&self) -> (u64, u64, u64) {
        (
            self.sent.load(Ordering::Relaxed),
            self.received.load(Ordering::Relaxed),
            self.lost.load(Ordering::Relaxed),
        )
    }
}
