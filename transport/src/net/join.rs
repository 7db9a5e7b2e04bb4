//! Joining: a node without a certificate shows a one-time token, and gets what it needs.
//!
//! The joiner believes whoever holds a certificate of the authority whose fingerprint is in
//! the token; the fabric believes whoever knows the token's secret. Request and reply are
//! bytes to this module; that a token counts once is a committed entry, made by the
//! [`JoinHandler`] before it answers.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use bytes::Bytes;
use quinn::VarInt;
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::endpoint::close;
use super::tls::{self, Fingerprint, sha256};
use crate::frame::{Decoder, Frame, Limits, prefix};
use crate::name::FabricId;

/// What a join exchange may carry.
pub const JOIN_LIMITS: Limits = Limits {
    header_bytes_max: 256,
    payload_bytes_max: 256 << 10,
    marked: false,
};

const TOKEN_PREFIX: &str = "atoll-join-1.";
const CONTACTS_MAX: usize = 16;
const CONTACT_BYTES_MAX: usize = 255;
const TOKEN_TEXT_BYTES_MAX: usize = 8 << 10;

/// The server's side of an exchange, from the handshake to the answer.
const EXCHANGE_MAX: Duration = Duration::from_secs(15);
/// The joiner's time for one contact.
const CONTACT_MAX: Duration = Duration::from_secs(20);
/// Exchanges in progress.
const JOINERS_MAX: usize = 8;
/// Exchanges a second, and how many may come at once.
const JOINS_PER_SECOND: f64 = 10.0;
const JOINS_BURST: f64 = 20.0;

/// A token's secret.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-256 of a token's secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// What the fabric stores of a token that is for one node of one site only: it does not admit
    /// another one, and whoever reads it learns neither.
    #[must_use]
    pub fn bound_to(&self, node: &str, site: &str) -> Self {
        let mut bytes = self.0.to_vec();
        // The length keeps a node's name from running into its site's.
        bytes.extend((node.len() as u64).to_le_bytes());
        bytes.extend(node.as_bytes());
        bytes.extend(site.as_bytes());
        Self(sha256(&bytes))
    }
}

/// All that an operator hands to a new node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinToken {
    /// The fabric.
    pub fabric: FabricId,
    /// Its authority's certificate.
    pub authority: Fingerprint,
    /// Nodes to ask, `host:port`, in this order; 1 to 16.
    pub contacts: Vec<String>,
    secret: Secret,
}

/// A token that can't be made or read.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Not a token, or one that lost or changed a character on its way.
    #[error("not a join token, or a damaged one")]
    Malformed,
    /// None, too many or too long.
    #[error("a token names 1 to 16 contacts host:port")]
    Contacts,
    /// The system's random source failed.
    #[error("no random bytes to be had")]
    Random,
}

#[derive(Encode, Decode)]
struct TokenBody {
    fabric: String,
    authority: Fingerprint,
    contacts: Vec<String>,
    secret: Secret,
}

impl JoinToken {
    /// A token with a new secret.
    ///
    /// # Errors
    /// The contacts are out of bounds, or the random source fails.
    pub fn create(
        fabric: FabricId,
        authority: Fingerprint,
        contacts: Vec<String>,
    ) -> Result<Self, TokenError> {
        check_contacts(&contacts)?;
        let mut secret = [0; 32];
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| TokenError::Random)?;
        Ok(Self {
            fabric,
            authority,
            contacts,
            secret: Secret(secret),
        })
    }

    /// The token's name.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(&self.secret.0))
    }
}

fn check_contacts(contacts: &[String]) -> Result<(), TokenError> {
    let fits = |contact: &String| (1..=CONTACT_BYTES_MAX).contains(&contact.len());
    if (1..=CONTACTS_MAX).contains(&contacts.len()) && contacts.iter().all(fits) {
        Ok(())
    } else {
        Err(TokenError::Contacts)
    }
}

/// The token as text, with a checksum. It holds the secret: don't log it.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = model::wire::encode(&TokenBody {
            fabric: self.fabric.to_string(),
            authority: self.authority,
            contacts: self.contacts.clone(),
            secret: self.secret,
        });
        let sum = model::crc32c(&bytes);
        bytes.extend(sum.to_le_bytes());
        write!(
            f,
            "{TOKEN_PREFIX}{}",
            data_encoding::BASE64URL_NOPAD.encode(&bytes)
        )
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let text = text
            .strip_prefix(TOKEN_PREFIX)
            .ok_or(TokenError::Malformed)?;
        let bytes = data_encoding::BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| TokenError::Malformed)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Malformed)?;
        if model::crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(TokenError::Malformed);
        }
        let body: TokenBody = model::wire::decode(body).map_err(|_| TokenError::Malformed)?;
        check_contacts(&body.contacts)?;
        let fabric = body.fabric.parse().map_err(|_| TokenError::Malformed)?;
        let TokenBody {
            authority,
            contacts,
            secret,
            ..
        } = body;
        Ok(Self {
            fabric,
            authority,
            contacts,
            secret,
        })
    }
}

/// A joiner's request, as the handler sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinRequest {
    /// Which token it showed.
    pub token: TokenHash,
    /// Where it came from.
    pub remote: SocketAddr,
    /// What it wants: the node's own encoding (name, signing request, ...). Untrusted.
    pub body: Bytes,
}

/// Why a joiner is not let in.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum JoinRefusal {
    /// No such token was made, or it was withdrawn.
    #[error("the token is unknown")]
    UnknownToken,
    /// It was used before, for another key, or is for a node of another name or site.
    #[error("the token was used, or is for a node of another name or site")]
    UsedToken,
    /// It is too old.
    #[error("the token has expired")]
    ExpiredToken,
    /// The request is malformed.
    #[error("the request is malformed")]
    BadRequest,
    /// The request can't be met (a name is taken, a site is unknown).
    #[error("the request conflicts with the fabric's state")]
    Conflict,
    /// Not now: no leader, too many joiners. Worth another try, also elsewhere.
    #[error("the fabric can't answer now")]
    Unavailable,
}

/// What a handler answers with.
pub type JoinFuture = Pin<Box<dyn Future<Output = Result<Vec<u8>, JoinRefusal>> + Send>>;

/// Judges joiners. A joiner whose reply was lost asks again with the same key: that must be
/// answered with the same admission, not with [`JoinRefusal::UsedToken`].
pub trait JoinHandler: Send + Sync {
    /// The reply's bytes, once the token's use is committed. Dropped unfinished after 15 s.
    fn join(&self, request: JoinRequest) -> JoinFuture;
}

impl<F: Fn(JoinRequest) -> JoinFuture + Send + Sync> JoinHandler for F {
    fn join(&self, request: JoinRequest) -> JoinFuture {
        self(request)
    }
}

/// The joiner's header; the payload is the request's body.
#[derive(Encode, Decode)]
struct Hello {
    fabric: String,
    secret: Secret,
}

/// The answer's header; the payload is the reply.
#[derive(Encode, Decode)]
enum Answer {
    Welcome,
    Refused(JoinRefusal),
}

/// Bounds what strangers can make a node do.
#[derive(Debug)]
pub(crate) struct JoinGuard {
    slots: Semaphore,
    /// (when, allowance then)
    bucket: Mutex<Option<(Instant, f64)>>,
}

impl Default for JoinGuard {
    fn default() -> Self {
        Self {
            slots: Semaphore::new(JOINERS_MAX),
            bucket: Mutex::new(None),
        }
    }
}

impl JoinGuard {
    fn allow(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, left) = bucket.unwrap_or((now, JOINS_BURST));
        let earned = now.saturating_duration_since(since).as_secs_f64() * JOINS_PER_SECOND;
        let left = (left + earned).min(JOINS_BURST);
        let allowed = left >= 1.0;
        *bucket = Some((now, if allowed { left - 1.0 } else { left }));
        allowed
    }
}

/// Serves one joiner.
pub(crate) async fn serve(
    guard: &JoinGuard,
    handler: Option<&Arc<dyn JoinHandler>>,
    fabric: &FabricId,
    connection: quinn::Connection,
) {
    let slot = guard.slots.try_acquire();
    let (Some(handler), Ok(_slot), true) = (handler, slot, guard.allow(Instant::now())) else {
        connection.close(close::BUSY, b"");
        return;
    };
    let exchange = exchange(handler, fabric, &connection);
    match timeout(EXCHANGE_MAX, exchange).await {
        // The joiner closes once it has the answer.
        Ok(Ok(())) => drop(timeout(EXCHANGE_MAX, connection.closed()).await),
        Ok(Err(error)) => tracing::debug!(%error, "join exchange failed"),
        Err(_) => tracing::debug!("join exchange took too long"),
    }
    connection.close(close::PROTOCOL, b"");
}

async fn exchange(
    handler: &Arc<dyn JoinHandler>,
    fabric: &FabricId,
    connection: &quinn::Connection,
) -> Result<(), JoinError> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let frame = read_frame(&mut receive).await?;
    let hello: Hello = model::wire::decode(&frame.header).map_err(|_| JoinError::Protocol)?;
    let result = if hello.fabric == fabric.as_str() {
        let token = TokenHash(sha256(&hello.secret.0));
        let remote = connection.remote_address();
        handler
            .join(JoinRequest {
                token,
                remote,
                body: frame.payload,
            })
            .await
    } else {
        Err(JoinRefusal::UnknownToken)
    };
    let (answer, reply) = match result {
        Ok(reply) => (Answer::Welcome, reply),
        Err(refusal) => (Answer::Refused(refusal), Vec::new()),
    };
    write_frame(&mut send, model::wire::encode(&answer), reply).await
}

/// A node could not join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The fabric said no.
    #[error("refused: {0}")]
    Refused(#[from] JoinRefusal),
    /// A contact's name has no address.
    #[error("cannot resolve {contact}")]
    Resolve {
        /// The contact.
        contact: String,
    },
    /// No contact answered in time.
    #[error("no contact answered")]
    NoAnswer,
    /// The request is too long.
    #[error("the request is too long")]
    TooLong,
    /// The other side does not follow the protocol.
    #[error("the other side broke the protocol")]
    Protocol,
    /// The connection failed (a wrong fingerprint shows here as a TLS error).
    #[error("connection failed: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// The connection could not be started.
    #[error("connection failed: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// A local socket could not be opened.
    #[error("no socket: {0}")]
    Socket(#[from] std::io::Error),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

/// Shows the token to its contacts, in order, until one answers. The last error counts; a
/// refusal other than [`JoinRefusal::Unavailable`] is final.
///
/// # Errors
/// [`JoinError`].
pub async fn join(token: &JoinToken, request: &[u8]) -> Result<Bytes, JoinError> {
    if request.len() > JOIN_LIMITS.payload_bytes_max {
        return Err(JoinError::TooLong);
    }
    let mut last = JoinError::NoAnswer;
    for contact in &token.contacts {
        match timeout(CONTACT_MAX, join_at(token, contact, request)).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(JoinError::Refused(refusal))) if refusal != JoinRefusal::Unavailable => {
                return Err(refusal.into());
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = JoinError::NoAnswer,
        }
    }
    Err(last)
}

async fn join_at(token: &JoinToken, contact: &str, request: &[u8]) -> Result<Bytes, JoinError> {
    let unresolved = || JoinError::Resolve {
        contact: contact.to_owned(),
    };
    let address = tokio::net::lookup_host(contact)
        .await
        .map_err(|_| unresolved())?
        .next()
        .ok_or_else(unresolved)?;
    let local: SocketAddr = if address.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let endpoint = quinn::Endpoint::client(local)?;
    let crypto = tls::join_config(token.fabric.clone(), token.authority)?;
    let client = quinn::ClientConfig::new(Arc::new(crypto));
    let name = token.fabric.authority_name();
    let connection = endpoint.connect_with(client, address, &name)?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let hello = Hello {
        fabric: token.fabric.to_string(),
        secret: token.secret,
    };
    write_frame(&mut send, model::wire::encode(&hello), request.to_vec()).await?;
    let frame = read_frame(&mut receive).await?;
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    match model::wire::decode(&frame.header).map_err(|_| JoinError::Protocol)? {
        Answer::Welcome => Ok(frame.payload),
        Answer::Refused(refusal) => Err(refusal.into()),
    }
}

async fn write_frame(
    stream: &mut quinn::SendStream,
    header: Vec<u8>,
    payload: Vec<u8>,
) -> Result<(), JoinError> {
    let prefix =
        prefix(0, header.len(), payload.len(), JOIN_LIMITS).map_err(|_| JoinError::TooLong)?;
    let mut chunks = [
        Bytes::copy_from_slice(&prefix),
        Bytes::from(header),
        Bytes::from(payload),
    ];
    match stream.write_all_chunks(&mut chunks).await {
        Ok(()) => {}
        // A contact that takes nobody now closes while it is being asked.
        Err(quinn::WriteError::ConnectionLost(error)) => return Err(error.into()),
        Err(_) => return Err(JoinError::Protocol),
    }
    stream.finish().map_err(|_| JoinError::Protocol)
}

async fn read_frame(stream: &mut quinn::RecvStream) -> Result<Frame, JoinError> {
    let mut decoder = Decoder::new(JOIN_LIMITS);
    loop {
        if let Some(frame) = decoder.next_frame().map_err(|_| JoinError::Protocol)? {
            return Ok(frame);
        }
        match stream.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => decoder.push(chunk.bytes),
            Ok(None) => return Err(JoinError::Protocol),
            Err(quinn::ReadError::ConnectionLost(error)) => return Err(error.into()),
            Err(_) => return Err(JoinError::Protocol),
        }
    }
}
