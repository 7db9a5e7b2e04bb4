//! Every seed, every kept input, and a bounded number of mutations of them.
#![allow(missing_docs)]

use fuzz::TARGETS;

fuzz::feed! {
    TARGETS, "corpus";
    nbd
    iscsi
    scsi
    frame
    envelope
    meta_message
    meta_commands
    meta_snapshot
    raft_log
    superblock
    journal
    disk_machine
    fragments
    catalog
    index
    sessions
}
