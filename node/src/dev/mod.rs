//! `atoll dev`: many nodes on one machine, one process each, under one supervisor.
//!
//! ```text
//! D/fabric.json        the layout: names, addresses, disks (written once)
//! D/dev.sock           the supervisor's control socket
//! D/<node>/            a node's directory, as `atoll init` or `atoll join` made it
//! D/<node>/log         what the node's process prints
//! D/<node>/disks/<d>/  its disks
//! ```
//!
//! **Invariant:** no data passes through the supervisor, and no node depends on it but for
//! its life: nodes of `dev` are the nodes of `run`. (With `--wan` its relays stand in for the
//! network between sites.)

pub mod child;
pub mod control;
pub mod layout;
pub mod node;
pub mod ready;
pub mod supervisor;
pub mod wan;
