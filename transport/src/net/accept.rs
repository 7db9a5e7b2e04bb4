//! The receiving side: accept, judge, read streams, deliver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use model::ids::NodeId;
use quinn::VarInt;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::endpoint::{HANDSHAKES_MAX, Handlers, close};
use super::join;
use super::shared::{Peer, Shared};
use super::tls::{self, Accepted};
use super::ways;
use crate::class::{Class, Lane};
use crate::frame::{Decoder, FrameError, Limits};
use crate::paths::{MarkError, Refusal};

/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long a peer may take to open its first stream.
const FIRST_STREAM_MAX: Duration = Duration::from_secs(10);

/// Connections of this endpoint, both directions; more are refused.
const CONNECTIONS_MAX: usize = 16 << 10;

/// Pieces of a stream that are taken from QUIC at once.
const PIECES: usize = 64;

/// A peer broke the protocol, or the connection broke.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Stream(#[from] quinn::ReadError),
    #[error(transparent)]
    Open(#[from] quinn::ReadExactError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error(transparent)]
    Way(#[from] Refusal),
    #[error("a sounding that is none")]
    Sounding,
    #[error("a stream was ended")]
    Ended,
    #[error("a stream of no class, or of one that is not this connection's to carry")]
    WrongClass,
}

/// The connection that is read for a (peer, lane).
#[derive(Debug)]
struct Live {
    connection: quinn::Connection,
    /// Closed once nothing is read from it any more.
    done: watch::Receiver<()>,
}

/// Accepted connections in use: one a peer and lane.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    live: Mutex<HashMap<(NodeId, Lane), Live>>,
}

impl Inbound {
    fn lock(&self) -> MutexGuard<'_, HashMap<(NodeId, Lane), Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live_stats(&self, peer: NodeId) -> Vec<quinn::ConnectionStats> {
        let live = self.lock();
        Lane::ALL
            .iter()
            .filter_map(|lane| live.get(&(peer, *lane)))
            .map(|live| live.connection.stats())
            .collect()
    }

    pub(crate) fn close(&self, peer: NodeId, code: VarInt) {
        let live = self.lock();
        for lane in Lane::ALL {
            if let Some(live) = live.get(&(peer, lane)) {
                live.connection.close(code, b"");
            }
        }
    }

    /// Puts a connection in its predecessor's place, and returns once that is read no more:
    /// so a class's messages stay in order over connections.
    async fn take_over(&self, key: (NodeId, Lane), live: Live) {
        let before = self.lock().insert(key, live);
        if let Some(mut before) = before {
            before.connection.close(close::REPLACED, b"");
            // Fails when the sender is dropped, which is what is waited for.
            while before.done.changed().await.is_ok() {}
        }
    }

    fn remove(&self, key: (NodeId, Lane), connection: &quinn::Connection) {
        let mut live = self.lock();
        let ours = |l: &Live| l.connection.stable_id() == connection.stable_id();
        if live.get(&key).is_some_and(ours) {
            live.remove(&key);
        }
    }
}

/// Accepts until the endpoint is closed.
pub(crate) async fn run(shared: Arc<Shared>, handlers: Arc<Handlers>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let busy = shared.handshakes.available_permits() < HANDSHAKES_MAX / 2;
        if busy && !incoming.remote_address_validated() {
            // Anybody can write any address on a packet: with half of the handshakes under way,
            // one is begun only with who answers from its address.
            let _ = incoming.retry();
            continue;
        }
        let permit = Arc::clone(&shared.handshakes).try_acquire_owned();
        let crowded = shared.endpoint.open_connections() >= CONNECTIONS_MAX;
        let (Ok(permit), false) = (permit, crowded) else {
            incoming.refuse();
            continue;
        };
        let (shared, handlers) = (Arc::clone(&shared), Arc::clone(&handlers));
        tokio::spawn(async move {
            let Ok(connecting) = incoming.accept() else {
                return;
            };
            let Ok(Ok(connection)) = timeout(HANDSHAKE_MAX, connecting).await else {
                return;
            };
            drop(permit);
            serve(&shared, &handlers, connection).await;
        });
    }
}

async fn serve(shared: &Arc<Shared>, handlers: &Arc<Handlers>, connection: quinn::Connection) {
    match tls::judge(&connection, &shared.fabric) {
        Accepted::Node(id) if id != shared.node && (shared.config.admit)(id) => {
            serve_peer(shared, handlers, shared.peer(id), connection).await;
        }
        Accepted::Joiner => {
            join::serve(
                &shared.join_guard,
                handlers.join.as_ref(),
                &shared.fabric,
                connection,
            )
            .await;
        }
        Accepted::Node(_) | Accepted::Stranger => connection.close(close::NOT_ADMITTED, b""),
    }
}

/// Reads a peer's connection until it ends.
async fn serve_peer(
    shared: &Arc<Shared>,
    handlers: &Arc<Handlers>,
    peer: Arc<Peer>,
    connection: quinn::Connection,
) {
    // Of overlapping dials only one opens streams: the others never count.
    let Ok(Ok(first)) = timeout(FIRST_STREAM_MAX, connection.accept_uni()).await else {
        connection.close(close::PROTOCOL, b"");
        return;
    };
    // Dropped last, after the readers are gone.
    let (_done, done) = watch::channel(());
    let reader = Reader {
        shared,
        handlers,
        peer: &peer,
    };
    let mut readers = JoinSet::new();
    let result = match open(first).await {
        Ok((class, stream)) => {
            let key = (peer.id, class.lane());
            let live = Live {
                connection: connection.clone(),
                done,
            };
            shared.inbound.take_over(key, live).await;
            // Removed meanwhile: `disconnect` did not find it yet.
            if !(shared.config.admit)(peer.id) {
                connection.close(close::NOT_ADMITTED, b"");
            }
            readers.spawn(reader.read(class, stream));
            let result = reader
                .accept_streams(&connection, class, &mut readers)
                .await;
            shared.inbound.remove(key, &connection);
            result
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::debug!(peer = %peer.id, %error, "inbound connection ended");
    }
    // No effect if it is closed already.
    connection.close(close::PROTOCOL, b"");
    readers.shutdown().await;
    peer.wire.add(&connection.stats());
}

/// The class that a stream's first byte says.
async fn open(mut stream: quinn::RecvStream) -> Result<(Class, quinn::RecvStream), ReadError> {
    let mut code = [0];
    stream.read_exact(&mut code).await?;
    let class = Class::from_code(code[0]).ok_or(ReadError::WrongClass)?;
    Ok((class, stream))
}

/// What reading a peer's streams needs.
struct Reader<'a> {
    shared: &'a Arc<Shared>,
    handlers: &'a Arc<Handlers>,
    peer: &'a Arc<Peer>,
}

impl Reader<'_> {
    /// Takes further streams until one of them, or the connection, ends.
    async fn accept_streams(
        &self,
        connection: &quinn::Connection,
        first: Class,
        readers: &mut JoinSet<ReadError>,
    ) -> Result<(), ReadError> {
        let mut streams = [0; 4];
        streams[first.index()] = 1;
        loop {
            tokio::select! {
                Some(done) = readers.join_next() => {
                    return Err(done.unwrap_or(ReadError::Ended));
                }
                stream = connection.accept_uni() => {
                    let Ok(stream) = stream else { return Ok(()) };
                    let (class, stream) = open(stream).await?;
                    streams[class.index()] += 1;
                    if class.lane() != first.lane() || streams[class.index()] > class.streams() {
                        return Err(ReadError::WrongClass);
                    }
                    readers.spawn(self.read(class, stream));
                }
            }
        }
    }

    /// Reads a stream until it breaks.
    fn read(
        &self,
        class: Class,
        mut stream: quinn::RecvStream,
    ) -> impl Future<Output = ReadError> + Send + 'static {
        let (shared, peer) = (Arc::clone(self.shared), Arc::clone(self.peer));
        let handlers = Arc::clone(self.handlers);
        async move {
            let gate = &shared.gates[class.index()];
            let handler = &handlers.classes[class.index()];
            let counters = &peer.queue(class).counters;
            let mut decoder = Decoder::new(Limits::FABRIC);
            let mut pieces: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
            loop {
                gate.wait_open().await;
                match decoder.next_frame() {
                    Ok(Some(mut frame)) => {
                        counters.add_received(frame.header.len() + frame.payload.len());
                        match ways::arrived(&shared, &peer, class, &mut frame) {
                            Ok(Some(origin)) => {
                                handler(origin, class, frame.header, frame.payload);
                            }
                            Ok(None) => {}
                            Err(error) => return error,
                        }
                        continue;
                    }
                    Ok(None) => {}
                    Err(error) => return error.into(),
                }
                match stream.read_chunks(&mut pieces).await {
                    Ok(Some(n)) => {
                        for piece in pieces.iter_mut().take(n) {
                            decoder.push(std::mem::take(piece));
                        }
                    }
                    Ok(None) => return ReadError::Ended,
                    Err(error) => return error.into(),
                }
            }
        }
    }
}
