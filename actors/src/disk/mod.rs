//! The Disk machine: the journal replicas of many volumes on one journal, and fragments.
//!
//! It answers [`DiskRequest`]s and drives a store ([`model::store`]). What it may promise is
//! what is durable: state in memory runs ahead of the disk by what is queued, and a reply
//! leaves once all that it rests on is durable (see `batch.rs`). Any device error ends it for
//! good: after a failed fdatasync nobody knows what the disk holds (R8).
//!
//! Files: `journal.rs` appends and resets, `seal.rs` seals, joins and leases, `reads.rs` what
//! needs the journal read, `progress.rs` what a finished operation means, `replica.rs`, `lease.rs` and `log.rs`
//! one volume's state, `entry.rs` the on-disk
//! headers, `opening.rs` a disk's begin, `recovery.rs` its journal's replay, `batch.rs` group commit, `files.rs` and `mover.rs` the
//! recycling of files, `fragments.rs` the fragments, `gone.rs` what the placement takes away, `moves.rs` what it
//! knows of rows' moves, `scrub.rs` the reading of all that it holds, `lacking.rs` what
//! opening it may have missed, `room.rs` and `shortage.rs` what a lack of space means.
//!
//! **Invariant:** a request is answered once at most, and nothing is answered `Appended`,
//! `Sealed`, `Joined` or `Stored` after the device failed.

mod api;
mod batch;
mod config;
mod entry;
mod files;
mod fragments;
mod gone;
mod journal;
mod lacking;
mod lease;
mod log;
mod mover;
mod moves;
mod opening;
mod progress;
mod reads;
mod recovery;
mod replica;
mod room;
mod scrub;
mod seal;
mod shortage;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::ids::{
    Actor, DiskRef, Endpoint, Epoch, Incarnation, NodeId, Position, RequestId, Seq, VolumeId,
};
use model::machine::Machine;
use model::meta::MetaToken;
use model::payload::Payload;
use model::store::{DeviceError, OpId};
use model::time::Time;

use crate::messages::{DiskReply, DiskRequest, PutFragment};
use crate::planted::{Bug, planted};
use batch::Batcher;
use entry::Health;
use files::Files;
use fragments::Fragments;
use gone::Gone;
use lacking::Lacking;
use log::Slot;
use moves::Moves;
use reads::Reading;
use replica::Replica;
use room::Room;
use scrub::Scrub;
use seal::Joining;
use shortage::Shortage;

pub use api::{DiskEffect, DiskInput, DiskStats, ReplicaStats, ScrubNews, ScrubStats};
pub use config::{
    APPEND_BYTES_MAX, DiskConfig, FETCH_BYTES_MAX, KEYS_MAX, RANGES_MAX, RECORDS_MAX, ScrubConfig,
    TABLE_BYTES_MAX,
};
pub use opening::Found;

/// Which bound a request counts against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Append,
    Control,
    Fragment,
}

/// Who gets an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asker {
    to: Endpoint,
    id: RequestId,
    class: Class,
}

/// The answer to a Seal or a Join that is to be given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    asker: Asker,
    volume: VolumeId,
    epoch: Epoch,
    join: bool,
}

/// Why an owner's request goes no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refuse {
    Unknown,
    Fenced(Epoch),
    Busy,
}

impl From<Refuse> for DiskReply {
    fn from(refuse: Refuse) -> Self {
        match refuse {
            Refuse::Unknown => Self::Unknown,
            Refuse::Fenced(promised) => Self::Fenced { promised },
            Refuse::Busy => Self::Busy,
        }
    }
}

/// What happens once something is durable, or a lease ran out.
#[derive(Debug)]
pub(crate) enum After {
    /// A reply that rests on it.
    Reply { asker: Asker, reply: DiskReply },
    /// Say what the log holds.
    Report(Report),
    /// Read records.
    Fetch {
        asker: Asker,
        volume: VolumeId,
        epoch: Epoch,
        from: Seq,
        bytes_max: u32,
    },
}

impl After {
    fn asker(&self) -> Asker {
        match self {
            Self::Reply { asker, .. } | Self::Fetch { asker, .. } => *asker,
            Self::Report(report) => report.asker,
        }
    }
}

/// What a timer is for.
#[derive(Debug)]
enum Timer {
    /// A lease ran out.
    Lease(Report),
    /// A Join has waited long enough.
    Join(MetaToken),
}

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
    lacking: Lacking,
    room: Room,
    /// Whether there is room, as the shell was told last.
    told_room: bool,
    shortage: Shortage,
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

    /// How it is. Costs a walk over all replicas.
    #[must_use]
    pub fn stats(&self) -> DiskStats {
        let replicas = self.replicas.iter();
        let stats = replicas.map(|(volume, replica)| (*volume, replica.stats()));
        DiskStats {
            replicas: stats.collect(),
            files: self.files.in_use(),
            syncs: self.batcher.syncs(),
            moved_bytes: self.moved_bytes,
            scrub: self.scrub.stats(),
            retired: self.retired,
        }
    }

    /// How a volume's replica is, if there is one.
    #[must_use]
    pub fn replica_stats(&self, volume: VolumeId) -> Option<ReplicaStats> {
        self.replicas.get(&volume).map(Replica::stats)
    }

    /// How its scrub is.
    #[must_use]
    pub fn scrub(&self) -> ScrubStats {
        self.scrub.stats()
    }

    /// The epoch that a volume's replica promised, if the promise is durable.
    #[must_use]
    pub fn promised(&self, volume: VolumeId) -> Option<Epoch> {
        let replica = self.replicas.get(&volume)?;
        self.batcher
            .is_durable(replica.promised_by())
            .then_some(replica.promised())
    }

    /// Whether a volume's replica holds the log up to a position, durably. One that is damaged
    /// held what it acknowledged (R8), and may do so.
    #[must_use]
    pub fn holds(&self, volume: VolumeId, position: Position) -> bool {
        let Some(replica) = self.replicas.get(&volume) else {
            return false;
        };
        let log = replica.log();
        // What was trimmed was committed.
        let below = position.seq < log.base().seq;
        let at = log.position_at(position.seq) == Some(position);
        let durable = |held: &log::Held| held.slot.at.is_some();
        let written = below || log.held(position.seq).is_none_or(durable);
        replica.health() != Health::Whole || ((below || at) && written)
    }

    fn op(&mut self) -> OpId {
        self.last_op += 1;
        OpId(self.last_op)
    }

    fn answer(&mut self, asker: Asker, reply: DiskReply, out: &mut Vec<DiskEffect>) {
        self.answer_with(asker, reply, Payload::empty(), out);
    }

    fn answer_with(
        &mut self,
        asker: Asker,
        reply: DiskReply,
        payload: Payload,
        out: &mut Vec<DiskEffect>,
    ) {
        let count = match asker.class {
            Class::Append => &mut self.appends,
            Class::Control => &mut self.controls,
            Class::Fragment => self.fragments.count_mut(),
        };
        assert!(*count > 0, "one answer for each admitted request");
        *count -= 1;
        let (to, id) = (asker.to, asker.id);
        out.push(DiskEffect::Reply {
            to,
            id,
            reply,
            payload,
        });
    }

    fn admit(&mut self, class: Class) -> bool {
        let (count, max) = match class {
            Class::Append => (&mut self.appends, self.config.appends_max),
            Class::Control => (&mut self.controls, self.config.controls_max),
            Class::Fragment => (self.fragments.count_mut(), self.config.fragments_max),
        };
        let admitted = *count < max;
        *count += usize::from(admitted);
        admitted
    }

    fn request(
        &mut self,
        now: Time,
        to: Endpoint,
        id: RequestId,
        request: DiskRequest,
        payload: Bytes,
        out: &mut Vec<DiskEffect>,
    ) {
        let class = class_of(&request);
        let refusal = if self.retired {
            Some(DiskReply::Busy)
        } else if incarnation_of(&request) != self.at.incarnation {
            Some(DiskReply::WrongIncarnation)
        } else if !self.admit(class) {
            Some(DiskReply::Busy)
        } else {
            None
        };
        if let Some(reply) = refusal {
            out.push(DiskEffect::Reply {
                to,
                id,
                reply,
                payload: Payload::empty(),
            });
            return;
        }
        let asker = Asker { to, id, class };
        match class {
            Class::Append => self.append_or_reset(now, asker, request, payload, out),
            Class::Control => self.control(now, asker, request, out),
            Class::Fragment => self.fragment(asker, request, payload, out),
        }
    }

    /// Runs what waited for durability or for a lease.
    fn run(&mut self, now: Time, after: After, out: &mut Vec<DiskEffect>) {
        match after {
            After::Reply { asker, reply } => self.answer(asker, reply, out),
            After::Report(report) => self.report(now, report, out),
            After::Fetch {
                asker,
                volume,
                epoch,
                from,
                bytes_max,
            } => self.fetch(asker, volume, epoch, from, bytes_max, out),
        }
    }

    /// Replies once the batch `ticket` is durable.
    fn answer_after(
        &mut self,
        ticket: batch::BatchNo,
        asker: Asker,
        reply: DiskReply,
        out: &mut Vec<DiskEffect>,
    ) {
        if planted(Bug::AckBeforeSync) {
            return self.answer(asker, reply, out);
        }
        let after = After::Reply { asker, reply };
        if let Some(After::Reply { asker, reply }) = self.batcher.after(ticket, after) {
            self.answer(asker, reply, out);
        }
    }

    fn note_wish(&mut self, volume: VolumeId) {
        if self.replicas.get(&volume).is_some_and(Replica::wants_state) {
            self.restate.insert(volume);
        }
    }

    /// R8: after a device error nothing is certain any more. All that waits is answered
    /// `Busy`, all that comes is, and nothing is ever acknowledged again.
    fn retire(&mut self, error: DeviceError, out: &mut Vec<DiskEffect>) {
        assert!(!self.retired, "retired once");
        self.retired = true;
        let mut askers: Vec<Asker> = Vec::new();
        askers.extend(self.batcher.abandon().iter().map(After::asker));
        for timer in std::mem::take(&mut self.timers).into_values() {
            if let Timer::Lease(report) = timer {
                askers.push(report.asker);
            }
        }
        let joins = std::mem::take(&mut self.joins);
        askers.extend(joins.into_values().map(|j| j.asker));
        let reads = std::mem::take(&mut self.reads);
        askers.extend(reads.into_values().filter_map(|r| r.asker()));
        askers.extend(self.fragments.abandon());
        for asker in askers {
            self.answer(asker, DiskReply::Busy, out);
        }
        assert!(self.appends == 0 && self.controls == 0, "all are answered");
        out.push(DiskEffect::Retire { error });
    }
}

impl Machine for Disk {
    type Input = DiskInput;
    type Effect = DiskEffect;

    fn handle(&mut self, now: Time, input: DiskInput, out: &mut Vec<DiskEffect>) {
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
                    self.fragment_done(op, done, out);
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
        self.tell_lacking(now, out);
        self.try_room(now, out);
        self.tell_room(out);
        self.try_prepare(now, out);
        self.tell_shortage(out);
        self.settle(out);
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
        let own = own.chain(self.lacking.deadline());
        let own = own.chain(self.room.deadline());
        own.chain(self.shortage.deadline()).min()
    }

    fn tick(&mut self, now: Time, out: &mut Vec<DiskEffect>) {
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
        self.tell_lacking(now, out);
        self.try_room(now, out);
        self.try_prepare(now, out);
        self.settle(out);
    }
}

fn class_of(request: &DiskRequest) -> Class {
    match request {
        DiskRequest::Append { .. } | DiskRequest::Reset { .. } => Class::Append,
        DiskRequest::Join { .. }
        | DiskRequest::Seal { .. }
        | DiskRequest::Fetch { .. }
        | DiskRequest::Release { .. } => Class::Control,
        DiskRequest::Put(_)
        | DiskRequest::Get { .. }
        | DiskRequest::Delete { .. }
        | DiskRequest::List { .. }
        | DiskRequest::ListRow { .. } => Class::Fragment,
    }
}

fn incarnation_of(request: &DiskRequest) -> Incarnation {
    match request {
        DiskRequest::Join { incarnation, .. }
        | DiskRequest::Append { incarnation, .. }
        | DiskRequest::Reset { incarnation, .. }
        | DiskRequest::Seal { incarnation, .. }
        | DiskRequest::Fetch { incarnation, .. }
        | DiskRequest::Release { incarnation, .. }
        | DiskRequest::Get { incarnation, .. }
        | DiskRequest::Delete { incarnation, .. }
        | DiskRequest::List { incarnation, .. }
        | DiskRequest::ListRow { incarnation, .. }
        | DiskRequest::Put(PutFragment { incarnation, .. }) => *incarnation,
    }
}
