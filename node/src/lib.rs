//! The composition root: command line, admin API, the supervisor behind `atoll dev`, and the
//! daemon that puts machines, disks, network and front ends together.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`cli`] | arguments, tables, `--json`, what a person reads |
//! | [`admin`] | one JSON line asked, one answered, over a node's Unix socket |
//! | [`dev`] | many nodes on one machine, one process each |
//! | `check` | the history checker over NBD: the simulator's oracle on real servers |
//! | `drill` | a scenario of the simulator on the processes of `atoll dev` |
//! | [`daemon`] | one node: its configuration and (with the machines) its life |
//! | [`units`] | sizes and durations as people write them |
//!
//! **Invariant:** nothing imports this crate.

pub mod admin;
#[cfg(feature = "sim")]
pub mod check;
pub mod cli;
pub mod daemon;
pub mod dev;
#[cfg(feature = "sim")]
pub mod drill;
pub mod line_server;
pub mod lines;
pub mod socket;
pub use model::units;
