//! NBD server.
//!
//! [`session`] is the protocol: a sans-IO machine for one connection, bytes in, bytes and block
//! requests out. Feature `server` adds [`server`]: TCP and Unix sockets, TLS, and the loop that
//! drives a session against an export. [`client`] is the other side, over any stream: what checks
//! servers, ours and others.
//!
//! **Invariant:** without the feature there is no tokio, no clock and no socket here, and of our
//! crates only `model` is imported. Every byte of a client is hostile: it leads to an error
//! reply or to a closed connection, never to a panic or to an unbounded allocation.

pub mod client;
pub mod export;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
