//! The targets, by what hands us the bytes: a client (`nbd`, `iscsi`, `scsi`), a peer (`frame`, `envelope`,
//! `meta`), a disk (`disk`, `journal`, `disk_machine`, `fragments`, `index`, `meta`).

mod disk;
mod disk_machine;
mod envelope;
mod fragments;
mod frame;
mod index;
mod iscsi;
mod journal;
mod meta;
mod nbd;

use crate::{BUDGET, Target};

macro_rules! target {
    ($name:literal, $module:ident :: $run:ident, $seeds:ident, $budget:expr) => {
        Target {
            name: $name,
            run: $module::$run,
            seeds: $module::$seeds,
            budget: $budget,
        }
    };
}

/// All of them.
pub static TARGETS: [Target; 16] = [
    target!("nbd", nbd::run, seeds, nbd::BUDGET),
    target!("iscsi", iscsi::run, seeds, iscsi::BUDGET),
    target!("scsi", iscsi::scsi, scsi_seeds, iscsi::BUDGET),
    target!("frame", frame::run, seeds, BUDGET),
    target!("envelope", envelope::run, seeds, BUDGET),
    target!("meta_message", meta::message, message_seeds, BUDGET),
    target!("meta_commands", meta::commands, command_seeds, BUDGET),
    target!("meta_snapshot", meta::snapshot, snapshot_seeds, BUDGET),
    target!("raft_log", meta::log, log_seeds, BUDGET),
    target!("superblock", disk::superblock, superblock_seeds, BUDGET),
    target!("journal", journal::run, seeds, BUDGET),
    target!("disk_machine", disk_machine::run, seeds, BUDGET),
    target!("fragments", fragments::run, seeds, BUDGET),
    target!("catalog", fragments::catalog, catalog_seeds, BUDGET),
    target!("index", index::run, seeds, BUDGET),
    target!("sessions", envelope::sessions, session_seeds, BUDGET),
];
