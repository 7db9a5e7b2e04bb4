//! What the tests share: a volume in memory, and a peer that speaks the protocol by its own
//! numbers, written down independently of the crate's.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod memory;
pub mod peer;
pub mod server;
