//! The sending side of a lane: dial, open a stream a class, write batches, dial again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use model::ids::NodeId;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::endpoint::close;
use super::queue::{Item, Queue};
use super::shared::{Peer, Shared};
use super::stats::widen;
use crate::class::{Class, Lane};
use crate::frame::{FrameError, Limits, PREFIX_BYTES, prefix};

/// Between the starts of two attempts: from the first bound, doubled to the second. Attempts
/// overlap, so that a long round trip still connects and a peer that returns is found by the
/// next fresh attempt, not by the repetition of an old one's first packet.
const REDIAL_MIN: Duration = Duration::from_millis(125);
const REDIAL_MAX: Duration = Duration::from_millis(250);

/// How long an attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);

/// Attempts in progress.
const ATTEMPTS_MAX: usize = 12;

/// A connection that lived shorter is not followed by the next at once: the peer refuses us.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Bytes of messages that go to QUIC in one write.
const BATCH_BYTES: usize = 256 << 10;

/// Why a stream or a dial ended. Only logged: the layers above have their deadlines.
#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
    #[error(transparent)]
    Closed(#[from] quinn::ClosedStream),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("no answer")]
    Timeout,
}

/// Whether the peer said that it does not admit this node.
fn is_refusal(error: &quinn::ConnectionError) -> bool {
    matches!(error, quinn::ConnectionError::ApplicationClosed(closed) if closed.error_code == close::NOT_ADMITTED)
}

/// A lane's life: waits for a message, dials, serves the connection until it breaks.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, lane: Lane) {
    let mut jitter = Jitter::new(peer.id);
    loop {
        while !peer.has_work(lane, Instant::now()) {
            peer.work[lane.index()].notified().await;
        }
        let Some(connection) = dial(&shared, &peer, lane, &mut jitter).await else {
            continue;
        };
        let since = Instant::now();
        peer.connected(lane, connection.clone());
        let reason = drain(&peer, lane, &connection).await;
        tracing::debug!(peer = %peer.id, ?lane, %reason, "connection ended");
        if connection.close_reason().as_ref().is_some_and(is_refusal) {
            (shared.config.refused)(peer.id);
        }
        peer.disconnected(lane);
        connection.close(close::DONE, b"");
        if since.elapsed() < SHORT_LIFE {
            sleep(jitter.around(REDIAL_MAX)).await;
        }
    }
}

/// Connects; `None` if everything that waited has expired meanwhile.
async fn dial(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    lane: Lane,
    jitter: &mut Jitter,
) -> Option<quinn::Connection> {
    let mut attempts = JoinSet::new();
    let mut pause = REDIAL_MIN;
    loop {
        // Asked every time: the peer may have moved.
        let address = (shared.config.resolve)(peer.id);
        if let Some(address) = address.filter(|_| attempts.len() < ATTEMPTS_MAX) {
            let name = shared.fabric.node_name(peer.id);
            let connecting = shared
                .endpoint
                .connect_with(shared.client.clone(), address, &name);
            attempts.spawn(async move {
                timeout(ATTEMPT_MAX, connecting?)
                    .await
                    .map_err(|_| LinkError::Timeout)?
                    .map_err(LinkError::from)
            });
        }
        let next = tokio::time::Instant::now() + jitter.around(pause);
        pause = (pause * 2).min(REDIAL_MAX);
        loop {
            tokio::select! {
                Some(done) = attempts.join_next() => match done {
                    Ok(Ok(connection)) => return Some(connection),
                    Ok(Err(error)) => {
                        tracing::debug!(peer = %peer.id, ?lane, %error, "dial failed");
                        if matches!(&error, LinkError::Connection(error) if is_refusal(error)) {
                            (shared.config.refused)(peer.id);
                        }
                    }
                    Err(_) => {}
                },
                () = sleep_until(next) => break,
            }
        }
        if !peer.has_work(lane, Instant::now()) {
            return None;
        }
    }
}

/// Writes what is queued until the connection breaks; says why it did.
async fn drain(peer: &Arc<Peer>, lane: Lane, connection: &quinn::Connection) -> LinkError {
    let mut writers = JoinSet::new();
    for &class in lane.classes() {
        for _ in 0..class.streams() {
            writers.spawn(write(Arc::clone(peer), class, connection.clone()));
        }
    }
    // Dropping the set aborts the writers: a message that one of them holds is lost.
    tokio::select! {
        reason = connection.closed() => reason.into(),
        Some(done) = writers.join_next() => match done {
            Ok(error) => error,
            Err(_) => LinkError::Timeout,
        },
    }
}

/// One stream. Ends only with an error.
async fn write(peer: Arc<Peer>, class: Class, connection: quinn::Connection) -> LinkError {
    match write_loop(peer.queue(class), class, &connection).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn write_loop(
    queue: &Queue,
    class: Class,
    connection: &quinn::Connection,
) -> Result<std::convert::Infallible, LinkError> {
    let mut stream = connection.open_uni().await?;
    stream.set_priority(class.priority())?;
    stream
        .write_chunk(Bytes::copy_from_slice(&[class.code()]))
        .await?;
    let mut items = Vec::new();
    let mut batch = Batch::default();
    loop {
        queue.take(BATCH_BYTES, Instant::now(), &mut items);
        if items.is_empty() {
            queue.pushed().await;
            continue;
        }
        let messages = widen(items.len());
        let bytes = items.iter().map(Item::bytes).sum();
        for item in items.drain(..) {
            batch.add(item)?;
        }
        stream.write_all_chunks(batch.finish()).await?;
        queue.counters.add_sent(messages, bytes);
    }
}

/// Frames as the buffers that QUIC takes: headers gathered, payloads handed on.
#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    heads: BytesMut,
}

impl Batch {
    fn add(&mut self, item: Item) -> Result<(), FrameError> {
        let header = item.mark.len() + item.header.len();
        let bits = item.mark.bits();
        let prefix = prefix(bits, header, item.payload.len(), Limits::FABRIC)?;
        self.heads.reserve(PREFIX_BYTES + header);
        self.heads.put_slice(&prefix);
        if let Some(node) = item.mark.node() {
            self.heads.put_slice(&node);
        }
        self.heads.put_slice(&item.header);
        if !item.payload.is_empty() {
            self.flush();
            self.chunks.extend(item.payload.chunks().iter().cloned());
        }
        Ok(())
    }

    fn flush(&mut self) {
        if !self.heads.is_empty() {
            self.chunks.push(self.heads.split().freeze());
        }
    }

    /// What was added since the last call.
    fn finish(&mut self) -> &mut [Bytes] {
        self.flush();
        // The last batch's buffers are empty by now: everything was written.
        self.chunks.retain(|chunk| !chunk.is_empty());
        &mut self.chunks
    }
}

/// Spreads redials of many nodes to one that returns.
struct Jitter(u64);

impl Jitter {
    fn new(peer: NodeId) -> Self {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u16(peer.0);
        Self(hasher.finish() | 1)
    }

    /// Three quarters to five quarters of `pause`.
    fn around(&mut self, pause: Duration) -> Duration {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let thousandths = 750 + u32::try_from(self.0 % 501).unwrap_or(0);
        pause * thousandths / 1000
    }
}
