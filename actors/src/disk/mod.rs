//! The Disk machine: the journal replicas of many volumes on one journal, and fragments.
//!
//! It answers [`DiskRequest`](crate::messages::DiskRequest)s and drives a store
//! ([`model::store`]). What it may promise is what is durable: state in memory runs ahead of the
//! disk by what is queued, and a reply leaves once all that it rests on is durable (see
//! `batch.rs`). Any device error ends it for good: after a failed fdatasync nobody knows what the
//! disk holds (R8).
//!
//! Files: `admission.rs` takes requests and answers them, `after.rs` is what waits until something is
//! durable; `journal.rs` appends and resets, `seal.rs` seals, joins and leases, `reads.rs` what
//! needs the journal read, `progress.rs` what a finished operation means, `replica.rs`, `lease.rs`
//! and `log.rs` one volume's state, `entry.rs` the on-disk headers, `opening.rs` a machine's begin,
//! `recovery.rs` the journal's replay, `batch.rs` group commit, `files.rs` and `mover.rs` the
//! recycling of files, `fragments.rs` the fragments, `gone.rs` what the placement takes away, `hung.rs` a device
//! that answers nothing,
//! `moves.rs` what it knows of rows' moves, `scrub.rs` the reading of all that it holds,
//! `lacking.rs` what opening it may have missed, `reopening.rs` when it is opened again, `room.rs` and `shortage.rs` what a lack of space
//! means, `look.rs` what others see of it.
//!
//! **Invariant:** a request is answered once at most, and nothing is answered `Appended`,
//! `Sealed`, `Joined` or `Stored` after the device failed.

mod admission;
mod after;
mod api;
mod batch;
mod config;
mod entry;
mod files;
mod fragments;
mod gone;
mod hung;
mod journal;
mod journal_scrub;
mod lacking;
mod lease;
mod log;
mod look;
mod mover;
mod moves;
mod opening;
mod pressure;
mod progress;
mod reads;
mod recovery;
mod reopening;
mod replica;
mod room;
mod scrub;
mod seal;
mod shortage;
mod slowness;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{Actor, DiskRef, Endpoint, NodeId, VolumeId};
use model::machine::Machine;
use model::meta::MetaToken;
use model::placement::DiskHealth;
use model::store::OpId;
use model::time::Time;

use after::Timer;
use batch::Batcher;
use files::Files;
use fragments::Fragments;
use gone::Gone;
use hung::Waits;
use journal_scrub::JournalScrub;
use lacking::Lacking;
use log::Slot;
use moves::Moves;
use pressure::Pressure;
use reads::Reading;
use replica::Replica;
use room::Room;
use scrub::Scrub;
use seal::Joining;
use shortage::Shortage;
use slowness::Slowness;

pub use api::{DiskEffect, DiskInput, DiskStats, ReplicaStats, ScrubNews, ScrubStats};
pub use config::{
    APPEND_BYTES_MAX, DiskConfig, FETCH_BYTES_MAX, KEYS_MAX, RANGES_MAX, RECORDS_MAX, ScrubConfig,
    SlownessConfig, TABLE_BYTES_MAX,
};
pub use opening::Found;
pub use reopening::Reopening;

/// The Disk machine.
#[derive(Debug)]
pub struct Disk {
    config: DiskConfig,
    at: DiskRef,
    node: NodeId,
    started: Time,
    replicas: BTreeMap<VolumeId, Replica>,
    batcher: Batcher,
    files: Files,
    reads: BTreeMap<OpId, Reading>,
    joins: BTreeMap<MetaToken, Joining>,
    timers: BTreeMap<(Time, u64), Timer>,
    /// Replicas that want a fresh `State` entry.
    restate: BTreeSet<VolumeId>,
    /// Whether copying forward may have something new to look at.
    look_for_moves: bool,
    moved_bytes: u64,
    fragments: Fragments,
    gone: Gone,
    moves: Moves,
    scrub: Scrub,
    journal_scrub: JournalScrub,
    lacking: Lacking,
    room: Room,
    /// Whether there is room, as the shell was told last.
    told_room: bool,
    slowness: Slowness,
    told_health: DiskHealth,
    shortage: Shortage,
    waits: Waits,
    pressure: Pressure,
    /// Whether its journal is short of space, as the shell was told last.
    told_short: bool,
    appends: usize,
    controls: usize,
    /// R8: the journal lost synced bytes once. A replica that should exist but does not may
    /// have been among them.
    damaged: bool,
    damaged_mark: Slot,
    last_op: u64,
    last_token: u64,
    last_timer: u64,
    retired: bool,
}

impl Disk {
    /// Where its requests go.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            node: self.node,
            actor: Actor::Disk(self.at.disk),
        }
    }

    /// Which disk it is, in which life.
    #[must_use]
    pub fn disk_ref(&self) -> DiskRef {
        self.at
    }

    fn op(&mut self) -> OpId {
        self.last_op += 1;
        OpId(self.last_op)
    }

    fn note_wish(&mut self, volume: VolumeId) {
        if self.replicas.get(&volume).is_some_and(Replica::wants_state) {
            self.restate.insert(volume);
        }
    }
}

impl Machine for Disk {
    type Input = DiskInput;
    type Effect = DiskEffect;

    fn handle(&mut self, now: Time, input: DiskInput, out: &mut Vec<DiskEffect>) {
        let before = out.len();
        match &input {
            DiskInput::Journal { op, .. } => self.note_answer(now, *op, true),
            DiskInput::Fragments { op, .. } => self.note_answer(now, *op, false),
            _ => {}
        }
        match input {
            DiskInput::Request {
                from,
                id,
                request,
                payload,
            } => self.request(now, from, id, request, payload, out),
            // A retired disk's late completions say nothing.
            _ if self.retired => {}
            DiskInput::Journal { op, done } => self.journal_done(now, op, done, out),
            DiskInput::Fragments { op, done: Ok(done) } => {
                let done = self.swept(op, done, out);
                let done = done.and_then(|done| self.cleared(op, done, out));
                let done = done.and_then(|done| self.tried(op, done));
                let done = done.and_then(|done| self.scrubbed(now, op, done, out));
                if let Some(done) = done {
                    self.fragment_done(now, op, done, out);
                }
            }
            DiskInput::Fragments { done: Err(e), .. } => self.retire(e, out),
            DiskInput::Volume { token, reply } => {
                if !self.left_behind(now, token, &reply, out) {
                    self.volume_read(now, token, reply, out);
                }
            }
            DiskInput::View(view) => {
                self.view(now, &view, out);
                self.moves_seen(view, out);
            }
            DiskInput::ScrubNow => self.scrub.start(now),
            DiskInput::Lacking => self.lacking.note(),
            DiskInput::Failed(error) => self.retire(error, out),
        }
        self.scrub_on(now, out);
        self.scrub_journals(now, out);
        self.tell_lacking(now, out);
        self.try_room(now, out);
        self.tell_room(out);
        self.tell_health(out);
        self.try_prepare(now, out);
        self.tell_shortage(out);
        self.settle(out);
        self.note_asked(now, before, out);
    }

    fn next_deadline(&self) -> Option<Time> {
        if self.retired {
            return None;
        }
        if self.batcher.is_ready() && !self.shortage.holds_appends() {
            return Some(self.started);
        }
        let timer = self.timers.keys().next().map(|(at, _)| *at);
        let own = timer.into_iter().chain(self.scrub.deadline());
        let own = own.chain(self.journal_scrub_deadline());
        let own = own.chain(self.lacking.deadline());
        let own = own.chain(self.room.deadline());
        let own = own.chain(self.hung_deadline());
        own.chain(self.shortage.deadline()).min()
    }

    fn tick(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
        self.look_for_hang(now, out);
        if self.retired {
            return;
        }
        let before = out.len();
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Timer::Lease(report) => self.report(now, report, out),
                Timer::Join(token) => self.join_expired(token, out),
            }
        }
        self.scrub_on(now, out);
        self.scrub_journals(now, out);
        self.tell_lacking(now, out);
        self.try_room(now, out);
        self.try_prepare(now, out);
        self.settle(out);
        self.note_asked(now, before, out);
    }
}
