//! Site groups and the global placement group as deterministic state machines on raft-rs's
//! `RawNode`, without I/O: [`node::MetaNode`] is all of one node's metadata.
//!
//! **Invariant:** no clock, no thread, no random source beyond a seed, no iteration over a
//! hash map; raft-rs's protobuf never parses a byte from the network or a disk.

pub mod detector;
pub mod global;
pub mod group;
pub mod log;
mod memory;
pub mod message;
pub mod node;
pub mod replica;
pub mod site;

mod claims;
mod controller;
mod convert;
mod courier;
mod descent;
mod desk;
mod follower;
mod guard;
mod jitter;
mod loads;
mod rendezvous;
mod seat;
mod storage;
mod view;

pub use guard::Refused;
pub use log::{LogWrite, MemoryLog, RaftLog};
pub use message::{GroupId, MetaMessage};
pub use node::MetaNode;
