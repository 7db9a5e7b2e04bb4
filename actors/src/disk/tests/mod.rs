//! Tests of the Disk machine: scripts, and a random owner whose disk crashes anywhere.

mod bench;
mod files;
mod fragments;
mod journal_scrub;
mod leases;
mod log;
mod moves;
mod recovery;
mod room;
mod scrub;
mod shortage;
mod truth;
mod world;
