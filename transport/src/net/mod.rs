//! The network half: QUIC under mutual TLS, the authority, joining, the WAN emulator.
//!
//! Needs a tokio runtime; everything runs on the one that [`endpoint::Transport::bind`] was
//! called in.

pub mod ca;
pub mod config;
pub mod endpoint;
pub mod gate;
pub mod join;
pub mod relay;
pub mod stats;
pub mod tls;

mod accept;
mod dial;
mod fence;
mod queue;
mod shared;
#[cfg(test)]
mod tests;
mod ways;
