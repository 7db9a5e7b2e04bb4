//! Volume, Segment, Disk, Client and Healer as sans-IO state machines, the messages between them, and
//! (feature `runtime`) the actix shells that carry out what they decide.
//!
//! **Invariant:** without the feature `runtime` nothing here knows a clock, a thread, a socket
//! or a file.

mod bucket;
pub mod client;
pub mod delivery;
pub mod disk;
pub mod heal;
pub mod host;
pub mod messages;
mod meter;
pub mod planted;
pub mod segment;
pub mod volume;

#[cfg(feature = "runtime")]
pub mod runtime;
