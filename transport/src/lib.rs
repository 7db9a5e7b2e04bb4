//! Messages between nodes: classes, framing, the ways to peers and a drill's fence (pure); QUIC under mutual
//! TLS, the fabric's certificate authority, join tokens and the WAN emulator (feature `net`).
//!
//! A message is a class, a header (bincode, by the sender) and a payload beside it. Bytes on
//! the wire: `docs/wire-protocol.md`.
//!
//! **Invariant:** without the feature `net` there is no clock, thread, socket or runtime here.

pub mod class;
pub mod fence;
pub mod frame;
pub mod name;
pub mod paths;

#[cfg(feature = "net")]
// The one place in this crate that has a clock and threads. Maps here are never iterated
// where the order could matter to a decision.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod net;
