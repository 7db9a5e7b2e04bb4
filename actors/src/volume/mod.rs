//! The owner of a volume: orders writes, journals them, answers reads under a lease, packs
//! what is committed into segments, keeps the index and its checkpoints.
//!
//! Data flows one way: request -> journal -> (committed) overlay -> segments -> index ->
//! checkpoint -> trim.

mod asking;
pub(crate) mod bypass;
pub mod cache;
mod config;
mod drain;
mod dropped;
mod events;
mod fullness;
pub mod index;
pub mod journal;
mod kept;
mod layers;
pub mod overlay;
mod read;
pub mod recover;
mod rewrite;
mod serve;
pub mod sessions;
mod start;
mod waiting;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use model::ids::{
    ClientRef, DiskId, DiskRef, Epoch, NodeId, Position, RequestId, SegmentId, VolumeId,
};
use model::machine::Machine;
use model::meta::MetaToken;
use model::payload::Payload;
use model::placement::{View, VolumeRecord};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use crate::messages::{DiskReply, SegmentRef, VolumeReply};
pub use asking::SegmentRoom;
pub use bypass::BypassTerms;
pub use config::VolumeConfig;
pub use events::{Effect, Input, StopReason};
use journal::{Recovery, RequestIds, ToDisk};
pub use read::STATUS_BYTES_MAX;
pub use rewrite::{Cause, RewriteTerms, Rewriting};
use serve::Serving;
pub use serve::write_sums;
use waiting::Waiting;

#[derive(Debug)]
enum Phase {
    /// Waits for a new epoch of its own (R1).
    Claiming {
        asked: Option<(MetaToken, Time)>,
    },
    /// Seals and fetches.
    Recovering {
        record: Box<VolumeRecord>,
        recovery: Box<Recovery>,
    },
    /// Replicates `EpochStart`, then serves.
    Leading(Box<Serving>),
    Stopped,
}

/// The Volume machine: one life of one owner.
#[derive(Debug)]
pub struct Volume {
    id: VolumeId,
    node: NodeId,
    config: VolumeConfig,
    view: Arc<View>,
    ids: RequestIds,
    tokens: u64,
    phase: Phase,
    /// The epoch that this life's latest claim makes, if it succeeds.
    claimed_epoch: Option<Epoch>,
    waiting: waiting::Queue,
    to_disk: Vec<ToDisk>,
}

/// What `volume show` tells of an attached volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeStats {
    /// The epoch.
    pub epoch: Epoch,
    /// Whether it serves.
    pub serving: bool,
    /// Bytes of writes that the published checkpoint does not cover, in the journal or in segments.
    pub untrimmed_bytes: u64,
    /// Bytes that hold data.
    pub logical_bytes: u64,
    /// Bytes of all live fragments.
    pub stored_bytes: u64,
    /// Open sessions.
    pub sessions: usize,
    /// Replicas that hold all that is committed; before it serves, those that sealed.
    pub replicas_current: usize,
    /// Replicas that take what is appended, if they hold not all of it yet.
    pub replicas_in_step: usize,
    /// Before it serves: replicas that lost what they had.
    pub replicas_lost: usize,
    /// Replicas of the committed set.
    pub replicas: usize,
    /// Segments that the index reaches, of data and of its own pages.
    pub segments: u64,
    /// Fragments that the audit freed (R16).
    pub freed_orphans: u64,
    /// Bytes that the next loss may make unreadable, as long as a site is away (R26).
    pub at_risk_bytes: u64,
    /// What is being written anew.
    pub rewriting: Option<Rewriting>,
    /// Bytes that were written anew in this owner's life.
    pub rewritten_bytes: u64,
    /// Bytes of cached blocks.
    pub cache_bytes: u64,
    /// All that it acknowledged lies up to here, once it leads and replaces lost replicas by itself.
    pub committed: Option<Position>,
}

impl Volume {
    /// A new life of `id`'s owner on `node`. `first` must be beyond every id that an earlier life
    /// on this node used for a request to a disk or the metadata ([`RequestId::first_of_life`]).
    #[must_use]
    pub fn new(
        id: VolumeId,
        node: NodeId,
        config: VolumeConfig,
        view: Arc<View>,
        first: RequestId,
    ) -> Self {
        Self {
            id,
            node,
            config,
            view,
            ids: RequestIds::after(first),
            tokens: first.0,
            phase: Phase::Claiming { asked: None },
            claimed_epoch: None,
            waiting: waiting::Queue::default(),
            to_disk: Vec::new(),
        }
    }

    /// Its record as this node knows it.
    fn record(&self) -> Option<&VolumeRecord> {
        self.view.volumes.get(&self.id)
    }

    fn token(&mut self) -> MetaToken {
        self.tokens += 1;
        MetaToken(self.tokens)
    }

    /// Its epoch and the last position that it holds for committed, once it leads.
    #[must_use]
    pub fn committed(&self) -> Option<(Epoch, Position)> {
        match &self.phase {
            Phase::Leading(serving) => Some((serving.epoch(), serving.journal.committed())),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => None,
        }
    }

    /// Until when it may answer reads, by its node's clock (R7), once it leads.
    #[must_use]
    pub fn leased_until(&self) -> Option<Time> {
        match &self.phase {
            Phase::Leading(serving) => Some(serving.journal.leased_until()),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => None,
        }
    }

    /// Whether its log has this record, or covers it, once it leads.
    #[must_use]
    pub fn has_record(&self, at: Position) -> Option<bool> {
        match &self.phase {
            Phase::Leading(serving) => {
                let log = serving.journal.log();
                Some(at.seq < log.base().seq || log.position(at.seq) == Some(at))
            }
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => None,
        }
    }

    /// Its epoch, and until when it counts the lease that a disk granted it, once it leads.
    #[must_use]
    pub fn grant_of(&self, disk: DiskId) -> Option<(Epoch, Time)> {
        match &self.phase {
            Phase::Leading(serving) => Some((serving.epoch(), serving.journal.grant_of(disk)?)),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => None,
        }
    }

    /// The sets of replicas of which a quorum holds what it committed last (R5).
    #[must_use]
    pub fn replica_sets(&self) -> Vec<Vec<DiskRef>> {
        match &self.phase {
            Phase::Leading(serving) => serving.journal.counted_sets(),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => Vec::new(),
        }
    }

    /// The segments that the checkpoint brings whose record is on its way, if one is.
    #[must_use]
    pub fn recording(&self) -> Option<Vec<SegmentRef>> {
        match &self.phase {
            Phase::Leading(serving) => serving.recording(),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => None,
        }
    }

    /// The segments that its records refer to that it does not know for committed (R14).
    #[must_use]
    pub fn referred(&self) -> Vec<SegmentRef> {
        match &self.phase {
            Phase::Leading(serving) => serving.referred(),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => Vec::new(),
        }
    }

    /// The segments of index pages that its last committed checkpoint reaches.
    #[must_use]
    pub fn index_segments(&self) -> Vec<SegmentRef> {
        match &self.phase {
            Phase::Leading(serving) => serving.layers.index.index_segments().collect(),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => Vec::new(),
        }
    }

    /// Whether its index reaches a segment, once it leads; unknown where a page of it that is not
    /// in memory says so.
    pub fn reaches(&mut self, segment: SegmentId) -> Option<bool> {
        match &mut self.phase {
            Phase::Leading(serving) => serving.layers.index.reaches(segment).ok(),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => None,
        }
    }

    /// The clients that have a session, once it leads.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientRef> {
        match &self.phase {
            Phase::Leading(serving) => serving.sessions.clients().collect(),
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => Vec::new(),
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn stats(&self) -> VolumeStats {
        match &self.phase {
            Phase::Leading(serving) => serving.stats(),
            Phase::Recovering { recovery, .. } => {
                let (replicas, replicas_current, replicas_lost) = recovery.heard();
                VolumeStats {
                    replicas,
                    replicas_current,
                    replicas_lost,
                    ..VolumeStats::default()
                }
            }
            Phase::Claiming { .. } | Phase::Stopped => VolumeStats::default(),
        }
    }

    fn stop(&mut self, reason: StopReason, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Stopped) {
            return;
        }
        self.phase = Phase::Stopped;
        let epoch = self.record().map_or(Epoch(0), |r| r.epoch);
        while let Some((_, waiting)) = self.waiting.pop() {
            out.push(Effect::ToClient {
                to: waiting.from,
                id: waiting.id,
                reply: VolumeReply::NotOwner { epoch },
                payload: Payload::empty(),
            });
        }
        out.push(Effect::Stopped(reason));
    }

    fn on_request(&mut self, now: Time, waiting: Waiting, out: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Leading(serving) if serving.is_serving() => {
                if let Some(refused) = serving.request(now, waiting, out) {
                    self.wait(refused, out);
                }
            }
            Phase::Stopped => {
                let epoch = self.record().map_or(Epoch(0), |r| r.epoch);
                let reply = VolumeReply::NotOwner { epoch };
                let (to, id) = (waiting.from, waiting.id);
                out.push(Effect::ToClient {
                    to,
                    id,
                    reply,
                    payload: Payload::empty(),
                });
            }
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Leading(_) => {
                self.wait(waiting, out);
            }
        }
    }

    fn wait(&mut self, waiting: Waiting, out: &mut Vec<Effect>) {
        let bytes = self.waiting.bytes() + waiting.payload.len();
        if self.waiting.len() < self.config.waiting_max && bytes <= self.config.waiting_bytes_max {
            self.waiting.push(waiting);
            return;
        }
        let (to, id) = (waiting.from, waiting.id);
        out.push(Effect::ToClient {
            to,
            id,
            reply: VolumeReply::Busy,
            payload: Payload::empty(),
        });
    }

    /// Serves those that waited, as far as the window lets it.
    fn retry_waiting(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Phase::Leading(serving) = &mut self.phase else {
            return;
        };
        if !serving.is_serving() {
            return;
        }
        while let Some((turn, waiting)) = self.waiting.pop() {
            if let Some(refused) = serving.request(now, waiting, out) {
                self.waiting.put(turn, refused);
                break;
            }
        }
    }

    fn on_view(&mut self, view: Arc<View>, out: &mut Vec<Effect>) {
        if view.version < self.view.version {
            return;
        }
        let before = std::mem::replace(&mut self.view, view);
        let Some(record) = self.view.volumes.get(&self.id) else {
            return;
        };
        if record.deleted {
            self.stop(StopReason::Deleted, out);
            return;
        }
        let record = record.clone();
        match &mut self.phase {
            // R7: it answers nothing from here on, so its successor need not wait for the lease.
            Phase::Leading(serving) if record.epoch > serving.epoch() => {
                serving.release(&mut self.ids, &mut self.to_disk);
                self.send_to_disks(out);
                self.stop(StopReason::Fenced, out);
            }
            Phase::Recovering { record: mine, .. } if record.epoch > mine.epoch => {
                self.stop(StopReason::Fenced, out);
            }
            Phase::Leading(serving) => {
                serving.learn(&record);
                serving.fullness.without(self.view.without());
                serving.nodes_changed(&before, &self.view);
            }
            Phase::Claiming { .. } | Phase::Recovering { .. } | Phase::Stopped => {}
        }
    }

    fn on_disk(
        &mut self,
        now: Time,
        disk: DiskId,
        id: RequestId,
        (reply, payload): (DiskReply, Bytes),
        out: &mut Vec<Effect>,
    ) {
        let fenced = match &mut self.phase {
            Phase::Recovering { .. } => self.recovery_reply(now, disk, id, reply, payload, out),
            Phase::Leading(serving) => serving.disk_reply(now, disk, id, &reply),
            Phase::Claiming { .. } | Phase::Stopped => Ok(()),
        };
        if fenced.is_err() {
            reached(Sometimes::OwnerFenced);
            self.stop(StopReason::Fenced, out);
        }
    }

    /// After every input: commits, answers, drains, sends.
    fn settle(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.pump_start(now, out);
        if let Phase::Leading(serving) = &mut self.phase {
            serving.settle(now, &self.view, out);
            let served = serving.no_longer_beyond();
            served.into_iter().for_each(|one| self.waiting.push(one));
            if let Some(reason) = serving.ended() {
                serving.give_up(&mut self.ids, &mut self.to_disk);
                self.send_to_disks(out);
                self.stop(reason, out);
                return;
            }
        }
        if !self.waiting.is_empty() {
            self.retry_waiting(now, out);
        }
        if let Phase::Leading(serving) = &mut self.phase {
            if serving.is_serving() {
                serving.step_bypass(now, &self.view, out);
                let returned = serving.bypass.take_returned();
                returned.into_iter().for_each(|one| self.waiting.push(one));
            }
            serving.send_to_segment(out);
            serving.pump(now, &mut self.ids, &mut self.to_disk);
        }
        self.send_to_disks(out);
    }

    fn send_to_disks(&mut self, out: &mut Vec<Effect>) {
        for ToDisk {
            at,
            id,
            request,
            payload,
        } in self.to_disk.drain(..)
        {
            // A disk that no node has now is as good as silent: the request times out.
            if let Some(node) = self.view.node_of(at) {
                out.push(Effect::ToDisk {
                    node,
                    disk: at.disk,
                    id,
                    request,
                    payload,
                });
            }
        }
    }
}

impl Machine for Volume {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Request {
                from,
                id,
                request,
                payload,
            } => {
                self.on_request(
                    now,
                    Waiting {
                        from,
                        id,
                        request,
                        payload,
                    },
                    out,
                );
            }
            Input::Disk {
                disk,
                id,
                reply,
                payload,
            } => {
                self.on_disk(now, disk, id, (reply, payload), out);
            }
            Input::Clients { node, reply } => {
                if let Phase::Leading(serving) = &mut self.phase {
                    serving.clients_reply(now, node, &reply);
                }
            }
            Input::Segment(reply) => {
                if let Phase::Leading(serving) = &mut self.phase {
                    serving.segment_reply(now, reply);
                }
            }
            Input::Meta { token, reply } => self.on_meta(now, token, reply, out),
            Input::View(view) => self.on_view(view, out),
            Input::DropCache => {
                if let Phase::Leading(serving) = &mut self.phase {
                    serving.drop_cache();
                }
            }
            Input::Stop => match &mut self.phase {
                Phase::Leading(serving) => serving.begin_stop(),
                // Nothing was acknowledged in this life: there is nothing to cover.
                _ => self.stop(StopReason::Fenced, out),
            },
        }
        self.settle(now, out);
    }

    fn next_deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Claiming { asked } => {
                Some(asked.map_or(Time::ZERO, |(_, at)| at + self.config.meta_retry * 10))
            }
            Phase::Recovering { recovery, .. } => recovery.next_deadline(),
            Phase::Leading(serving) => serving.next_deadline(),
            Phase::Stopped => None,
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        if let Phase::Leading(serving) = &mut self.phase {
            serving.expire(now);
        }
        self.settle(now, out);
    }
}

/// What is awaited, by the request that is still out.
type Pending<T> = BTreeMap<RequestId, T>;

#[cfg(test)]
#[path = "tests/bench.rs"]
pub(crate) mod bench;

#[cfg(test)]
#[path = "tests/roll.rs"]
mod roll_tests;

#[cfg(test)]
#[path = "tests/repeats.rs"]
mod repeat_tests;

#[cfg(test)]
#[path = "tests/recovered.rs"]
mod recovered_tests;

#[cfg(test)]
#[path = "tests/window.rs"]
mod window_tests;

#[cfg(test)]
#[path = "tests/zeros.rs"]
mod zero_tests;

#[cfg(test)]
#[path = "tests/refused.rs"]
mod refused_tests;

#[cfg(test)]
#[path = "tests/unwritten.rs"]
mod unwritten_tests;

#[cfg(test)]
#[path = "tests/founding.rs"]
mod founding_tests;
