//! iSCSI over TCP.
//!
//! Everything here runs on one thread: inside a `tokio::task::LocalSet` or an actix arbiter. A
//! unit's futures need not be `Send`, and a command costs no task, no timer and no lock that is not
//! its own unit's: one task serves a connection, gathers what it reads and what it answers, and
//! polls the requests in flight itself.

mod connection;
mod hub;
mod listener;
mod work;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use model::block::{Reply, Request};
use model::ids::Version;
use model::iscsi::UnitState;

pub use self::connection::serve_stream;
pub use self::hub::{Hub, SessionSeen};
pub use self::listener::{Listener, Stop, serve};
use crate::scsi::facts::Facts;
use crate::session::{Access, Entropy, Limits, ListedTarget, LoginError, Names};

/// The targets of a server: the only way to volumes.
///
/// The futures may be dropped at any time, when an initiator goes away or takes too long.
pub trait Targets {
    /// Whether an initiator may log in, and how it proves who it is. Every initiator may look for
    /// targets; it is shown those that it may log in to.
    fn identify(&self, client: &Client, names: &Names) -> LocalBoxFuture<'static, IdentifyResult>;

    /// The targets that an initiator may see, or only that one, and where they are reached.
    fn discover(
        &self,
        client: &Client,
        initiator: &str,
        which: Option<&str>,
    ) -> LocalBoxFuture<'static, Vec<ListedTarget>>;

    /// Opens a target's unit for one session. It takes any number of sessions at once.
    fn open(&self, client: &Client, names: &Names) -> LocalBoxFuture<'static, OpenResult>;

    /// What nobody can foresee.
    fn entropy(&self) -> Entropy;
}

/// What [`Targets::identify`] comes to.
pub type IdentifyResult = Result<Access, LoginError>;
/// What [`Targets::open`] comes to.
pub type OpenResult = Result<Rc<dyn Unit>, LoginError>;

/// A unit opened for one session.
pub trait Unit {
    /// What is to be known of it, as this node knows it; nothing once it is no longer a target.
    fn facts(&self) -> Option<Rc<Facts>>;

    /// Waits until this node knows of it what any node knew when this was asked, or some time.
    fn refresh(&self) -> LocalBoxFuture<'static, ()>;

    /// Has its state be this, if it still has that version. Once it is done, the facts tell it.
    fn change(&self, expected: Version, state: UnitState) -> LocalBoxFuture<'static, Changed>;

    /// Carries out a request. Requests are submitted in the order in which they came, may complete
    /// in any order, and are within the unit's size. The future may be dropped when the initiator
    /// is gone: whether a mutation then happens is unknown to everybody.
    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Reply>;
}

/// What [`Unit::change`] comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is so, on a majority of the sites.
    Done,
    /// Its version is another by now.
    Stale,
    /// Nobody knows in time whether it is so.
    Unavailable,
}

/// Who is connected.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// The address that it reached.
    pub portal: Option<SocketAddr>,
}

/// How a server treats its connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bounds of each.
    pub limits: Limits,
    /// Bytes of commands' data that all connections together may have under way, each at least
    /// [`OWN_BYTES`].
    pub pool_bytes: usize,
    /// Connections at once; more are closed at once, with a warning in the log.
    pub connections_max: usize,
    /// Time from the connection to the full feature phase.
    pub login_max: Duration,
    /// After so long without a byte an initiator is pinged, and after as long again it is dropped.
    pub quiet_max: Duration,
    /// Time for what is in flight when a connection ends.
    pub drain_max: Duration,
}

/// Bytes of commands' data that every connection may have under way.
pub const OWN_BYTES: usize = 1 << 20;

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            pool_bytes: 512 << 20,
            connections_max: 1024,
            login_max: Duration::from_secs(15),
            quiet_max: Duration::from_secs(30),
            drain_max: Duration::from_secs(30),
        }
    }
}
