//! iSCSI target.
//!
//! [`session`] is the protocol (RFC 7143): a sans-IO machine for one session of one connection,
//! bytes in, bytes and commands out. [`scsi`] is what the commands mean (SPC-4, SBC-3): pure steps
//! between a command and block requests. Feature `server` adds [`server`]: the sockets, and the loop
//! that drives both against volumes.
//!
//! **Invariant:** without the feature there is no tokio, no clock and no socket here, and of our
//! crates only `model` is imported. Every byte of a client is hostile: it leads to an error
//! reply or to a closed connection, never to a panic or to an unbounded allocation.

pub mod scsi;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
