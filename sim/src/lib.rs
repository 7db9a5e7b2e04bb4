//! The deterministic simulator: whole fabrics (the machines that production runs, over
//! simulated files and a simulated network) on one seed, in one thread, on virtual time,
//! under faults, with an oracle of what clients were promised.
//!
//! A seed decides everything: the same seed gives the same trace hash. A run has a safety
//! phase under faults, then a liveness phase without them, in which everything must be
//! served again.

pub mod allocation;
pub mod campaign;
#[cfg(feature = "cli")]
pub mod cli;
pub mod durability;
pub mod faults;
pub mod invariants;
pub mod minimize;
pub mod network;
pub mod node;
pub mod nodes;
pub mod oracle;
mod pairs;
pub mod plan;
pub mod queue;
pub mod report;
pub mod rng;
pub mod run;
pub mod scale;
pub mod service;
pub mod timers;
pub mod trace;
pub mod workload;
pub mod world;
