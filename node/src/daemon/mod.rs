//! One node: its configuration, its identity, and its life.

pub mod admin;
pub mod config;
pub mod disks;
pub mod exports;
pub mod footing;
pub mod identity;
pub mod join;
pub(crate) mod making;
pub mod membership;
pub mod meta;
pub mod nbd_tls;
mod open_files;
mod panics;
pub mod peers;
mod previous;
pub mod raft_log;
pub mod removal;
pub mod repair_traffic;
pub mod run;
pub mod served;
pub mod targets;
pub mod voter;
