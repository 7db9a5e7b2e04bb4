//! NBD over TCP and Unix sockets.
//!
//! Everything here runs on one thread: inside a `tokio::task::LocalSet` or an actix arbiter.
//! An export's futures need not be `Send`, and a request costs no task, no timer and no lock:
//! one task serves a connection, gathers what it reads and what it answers, and polls the
//! requests in flight itself.

mod budget;
mod connection;
mod listener;
mod presence;
mod tls;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use model::block::{Reply, Request};
use rustls::pki_types::CertificateDer;

pub use self::budget::{Budget, OWN_BYTES, POOL_BYTES_MIN};
pub use self::connection::serve_stream;
pub use self::listener::{Address, Listener, Stop, serve};
pub use self::presence::{ClientStream, Presence};
pub use self::tls::{TlsConfigError, tls_config};
use crate::export::{ExportError, ExportInfo, ListedExport};
use crate::session::{Encryption, Limits};

/// The exports of a server.
///
/// The futures may be dropped at any time, when a client goes away or takes too long.
pub trait Exports {
    /// What a client may see in a list: at most [`crate::export::LIST_MAX`] exports.
    fn list(&self, client: &Client) -> LocalBoxFuture<'static, ListResult>;

    /// What an export is, without using it. `name` is empty for the default export.
    fn describe(&self, client: &Client, name: &str) -> LocalBoxFuture<'static, DescribeResult>;

    /// Opens an export for one connection. A volume takes any number of connections at once: a
    /// live migration opens the destination's before the source's is closed.
    fn open(&self, client: &Client, name: &str) -> LocalBoxFuture<'static, OpenResult>;
}

/// What [`Exports::list`] comes to.
pub type ListResult = Result<Vec<ListedExport>, ExportError>;
/// What [`Exports::describe`] comes to.
pub type DescribeResult = Result<ExportInfo, ExportError>;
/// What [`Exports::open`] comes to.
pub type OpenResult = Result<Rc<dyn Export>, ExportError>;

/// An export opened for one connection.
pub trait Export {
    /// What it is: the same as [`Exports::describe`] said, as long as nothing changes it.
    fn info(&self) -> ExportInfo;

    /// Carries out a request. Requests are submitted in the order in which they came, may
    /// complete in any order, and are within the export's size. The future may be dropped when
    /// the client is gone: whether a mutation then happens is unknown to everybody.
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Reply>;
}

/// Who is connected.
#[derive(Clone, Debug)]
pub struct Client {
    /// The peer's address; none on a Unix socket.
    pub address: Option<SocketAddr>,
    /// Whether the connection is encrypted by now.
    pub encrypted: bool,
    /// The certificates that the client proved to hold, its own first; empty if it was not
    /// asked.
    pub certificates: Vec<CertificateDer<'static>>,
}

impl Client {
    /// A client on a connection in the clear.
    #[must_use]
    pub const fn new(address: Option<SocketAddr>) -> Self {
        Self {
            address,
            encrypted: false,
            certificates: Vec::new(),
        }
    }
}

/// Whether clients may, or must, encrypt, and how ([`tls_config`]).
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// In the clear only.
    #[default]
    Off,
    /// As the client likes.
    Allowed(Arc<rustls::ServerConfig>),
    /// Nothing is told or served in the clear.
    Required(Arc<rustls::ServerConfig>),
}

impl Tls {
    const fn encryption(&self) -> Encryption {
        match self {
            Self::Off => Encryption::Off,
            Self::Allowed(_) => Encryption::Allowed,
            Self::Required(_) => Encryption::Required,
        }
    }

    fn config(&self) -> Option<&Arc<rustls::ServerConfig>> {
        match self {
            Self::Off => None,
            Self::Allowed(config) | Self::Required(config) => Some(config),
        }
    }
}

/// How a server treats its connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bounds of each.
    pub limits: Limits,
    /// Bytes that all connections together may hold beyond [`OWN_BYTES`] of each: payload in
    /// flight and unsent replies. At least [`POOL_BYTES_MIN`].
    pub pool_bytes: usize,
    /// A client that holds a part of the pool and within this time moves neither all that it owed
    /// nor [`Config::stall_bytes`] is dropped, if others wait for it.
    pub stall_max: Duration,
    /// Bytes that a slow link moves within [`Config::stall_max`], at least.
    pub stall_bytes: u64,
    /// Encryption.
    pub tls: Tls,
    /// Connections at once; more are closed at once, with a warning in the log.
    pub connections_max: usize,
    /// Time from the connection to the transmission phase.
    pub handshake_max: Duration,
    /// Time for what is in flight when a connection ends; and for any answer, once a client that is
    /// not read sends no more.
    pub drain_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            pool_bytes: 512 << 20,
            stall_max: Duration::from_secs(30),
            stall_bytes: 2 << 20,
            tls: Tls::Off,
            connections_max: 1024,
            handshake_max: Duration::from_secs(30),
            drain_max: Duration::from_secs(30),
        }
    }
}
