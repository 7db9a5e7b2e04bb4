//! One group as one of its members: raft-rs's `RawNode` without I/O. Messages that rest on
//! what is durable leave only once the shell reported it; one write is under way at a time,
//! and what comes meanwhile is gathered into the next.

use std::collections::VecDeque;

use model::ids::{Boot, NodeId};
use model::wire;
use raft::eraftpb::{Entry, Message};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use slog::{Discard, Logger, o};
use thiserror::Error;

use crate::convert;
use crate::guard::{self, Refused};
use crate::jitter::Jitter;
use crate::log::{HardState, LoadedLog, LogDamage, LogWrite, SnapshotWrite};
use crate::message::{
    EntryBody, LogEntry, LogIndex, MESSAGE_BYTES, MemberId, MemberStep, Members, RaftMessage,
    Snapshot, Term,
};
use crate::node::Ticket;
use crate::replica::{Outcome, Proposal, Replica, StateMachine};
use crate::storage::MemoryStorage;

/// An election starts after so many ticks without a leader, at the earliest.
const ELECTION_TICKS_MIN: usize = 5;
/// And before so many.
const ELECTION_TICKS_END: usize = 10;
/// Append messages in flight to one member.
const APPENDS_IN_FLIGHT: usize = 64;
/// Bound of proposed and uncommitted bytes; beyond, proposals are refused as busy.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// A snapshot that was not acknowledged for so many ticks is sent again.
const SNAPSHOT_RETRY_TICKS: u32 = 20;
/// A snapshot costs as much as the state is large: the log since the last one has a quarter of its
/// bytes first, however many entries that takes.
const SNAPSHOT_SHARE: usize = 4;
/// Entries that a learner may lack and still be made a voter.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// Correlates a linearizable read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadId(pub u64);

/// What a member's group asks for.
#[derive(Clone, PartialEq, Debug)]
pub enum GroupEffect {
    /// Send to `message.to`'s node.
    Send(RaftMessage),
    /// Make durable, then call [`MetaGroup::persisted`].
    Persist(Ticket, LogWrite),
    /// A committed entry was applied.
    Applied(Outcome),
    /// The whole state was replaced by a leader's snapshot.
    Restored,
    /// All commands committed before the read was asked for are applied.
    ReadReady(ReadId),
}

/// Why nothing was proposed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProposeError {
    /// This member does not lead.
    #[error("not the leader")]
    NotLeader,
    /// Too much is uncommitted, or a hand-over is under way.
    #[error("busy")]
    Busy,
}

/// How a group is tuned on this member.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Decides elections' jitter.
    pub seed: u64,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
}

struct Writing {
    ticket: Ticket,
    after: Vec<Message>,
    restored: Option<Snapshot>,
}

/// A member of a group.
pub struct MetaGroup<S: StateMachine> {
    me: MemberId,
    raw: RawNode<MemoryStorage>,
    /// `None` until the first snapshot came.
    replica: Option<Replica<S>>,
    snapshot_every: u64,
    /// Bytes of the entries that were applied since the last snapshot.
    bytes_since: usize,
    writing: Option<Writing>,
    compaction: Option<Snapshot>,
    reads: VecDeque<(ReadId, LogIndex)>,
    asked: Option<(ReadId, u64)>,
    jitter: Jitter,
    election_ticks: usize,
    seen_elapsed: usize,
    snapshot_ticks: u32,
}

impl<S: StateMachine> MetaGroup<S> {
    /// What a founder writes before it loads the group for the first time: the snapshot at
    /// index 1, itself the only voter.
    #[must_use]
    pub fn founding(me: MemberId, founding: Boot, state: S) -> LogWrite {
        let members = Members::of_voters(vec![me]);
        let snapshot = Replica::founded(founding, members, state).snapshot();
        LogWrite {
            snapshot: Some(SnapshotWrite {
                snapshot,
                reset: true,
            }),
            entries: Vec::new(),
            hard: Some(HardState {
                term: Term(1),
                vote: None,
                commit: LogIndex(1),
            }),
        }
    }

    /// A member from its log; with an empty log, one that waits for a leader's snapshot.
    ///
    /// # Errors
    /// [`LogDamage`]: start anew as another member (R8).
    pub fn load(me: MemberId, loaded: &LoadedLog, tuning: Tuning) -> Result<Self, LogDamage> {
        loaded.check()?;
        let replica = match &loaded.snapshot {
            Some(s) => Some(Replica::restore_own(s).map_err(|_| LogDamage::Snapshot)?),
            None => None,
        };
        let storage = MemoryStorage::load(loaded);
        let config = raft::Config {
            id: me.0,
            election_tick: ELECTION_TICKS_MIN,
            min_election_tick: ELECTION_TICKS_MIN,
            max_election_tick: ELECTION_TICKS_END,
            heartbeat_tick: 1,
            applied: storage.snapshot_index(),
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: APPENDS_IN_FLIGHT,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            ..raft::Config::default()
        };
        let logger = Logger::root(Discard, o!());
        let raw = RawNode::new(&config, storage, &logger).expect("the configuration is sound");
        let mut jitter = Jitter::new(tuning.seed);
        let election_ticks = draw_election(&mut jitter);
        Ok(Self {
            me,
            raw,
            replica,
            snapshot_every: tuning.snapshot_every.max(1),
            bytes_since: 0,
            writing: None,
            compaction: None,
            reads: VecDeque::new(),
            asked: None,
            jitter,
            election_ticks,
            seen_elapsed: 0,
            snapshot_ticks: 0,
        })
    }

    /// The state, once there is one.
    #[must_use]
    pub fn replica(&self) -> Option<&Replica<S>> {
        self.replica.as_ref()
    }

    /// Whether this member leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The leader that this member hears.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        // A learner never stands for election, and so never forgets a leader by itself.
        let heard = self.is_leader() || self.raw.raft.election_elapsed < ELECTION_TICKS_END;
        Some(self.raw.raft.leader_id)
            .filter(|id| heard && *id != 0)
            .map(MemberId)
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// On a leader: whether that member answers and holds nearly all that is committed.
    #[must_use]
    pub fn caught_up(&self, member: MemberId) -> bool {
        let committed = self.raw.raft.raft_log.committed;
        let progress = self.raw.raft.prs().get(member.0);
        self.is_leader()
            && progress.is_some_and(|p| {
                let answers = p.recent_active && p.matched > 0;
                let in_snapshot = p.state == ProgressState::Snapshot;
                answers && !in_snapshot && p.matched + CAUGHT_UP_ENTRIES >= committed
            })
    }

    /// A tick of the clock; raft-rs's own random timeouts are overruled by the seed's.
    pub fn tick(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader && raft.raft_log.persisted < raft.raft_log.last_index() {
            // Its log must be durable before it stands for election.
            return;
        }
        if raft.election_elapsed < self.seen_elapsed {
            self.election_ticks = draw_election(&mut self.jitter);
        }
        raft.set_randomized_election_timeout(self.election_ticks);
        self.seen_elapsed = raft.election_elapsed + 1;
        self.raw.tick();
        if self.raw.store().take_wanted() {
            self.compact(1, 0);
        }
        self.retry_snapshots();
        self.ask_read();
    }

    /// A snapshot's loss is noticed by nobody else.
    fn retry_snapshots(&mut self) {
        let in_snapshot = |p: &raft::Progress| p.state == ProgressState::Snapshot;
        let mut waiting: Vec<u64> = self
            .raw
            .raft
            .prs()
            .iter()
            .filter(|(id, p)| **id != self.me.0 && in_snapshot(p))
            .map(|(id, _)| *id)
            .collect();
        if waiting.is_empty() || !self.is_leader() {
            self.snapshot_ticks = 0;
            return;
        }
        self.snapshot_ticks += 1;
        if self.snapshot_ticks >= SNAPSHOT_RETRY_TICKS {
            self.snapshot_ticks = 0;
            waiting.sort_unstable();
            for id in waiting {
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    /// A peer's message, from the node that the transport authenticated.
    ///
    /// # Errors
    /// [`Refused`]: it was dropped, nothing happened.
    pub fn receive(&mut self, sender: NodeId, message: RaftMessage) -> Result<(), Refused> {
        let me = (self.me, self.replica().map(|r| r.founding));
        guard::check::<S>(&self.raw, me, sender, &message)?;
        // What raft-rs itself ignores is no error of the peer's.
        let _ = self.raw.step(convert::message_to_raft(message));
        Ok(())
    }

    /// Proposes an entry. That it is committed shows by [`GroupEffect::Applied`]; whether it
    /// ever is, only the state tells.
    ///
    /// # Errors
    /// [`ProposeError`]: it was not proposed.
    pub fn propose(&mut self, proposal: &Proposal) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader);
        }
        let bytes = wire::encode(proposal);
        self.raw
            .propose(Vec::new(), bytes)
            .map_err(|_| ProposeError::Busy)
    }

    /// Proposes a membership step.
    ///
    /// # Errors
    /// [`ProposeError`]: it was not proposed; another one is under way, or it is impossible.
    pub fn propose_step(&mut self, step: &MemberStep) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader);
        }
        let members = self.replica.as_ref().map(|r| &r.members);
        let possible = members.filter(|m| m.after(step).is_some());
        let Some(members) = possible.filter(|_| !self.raw.raft.has_pending_conf()) else {
            return Err(ProposeError::Busy);
        };
        let change = convert::step_to_raft(step, members);
        let proposed = self.raw.propose_conf_change(wire::encode(step), change);
        proposed.map_err(|_| ProposeError::Busy)
    }

    /// On a leader: hand over to that voter.
    pub fn hand_over(&mut self, to: MemberId) {
        if self.is_leader() && to != self.me {
            self.raw.transfer_leader(to.0);
        }
    }

    /// On a leader: asks for a linearizable read. Reads are lost when leadership is; ids
    /// ascend.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`].
    pub fn read(&mut self, id: ReadId) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader);
        }
        self.asked = Some((id, self.raw.raft.term));
        self.ask_read();
        Ok(())
    }

    /// raft-rs drops a read silently until a leader committed in its term: asked again at
    /// every tick, which is harmless.
    fn ask_read(&mut self) {
        match self.asked {
            Some((id, term)) if self.is_leader() && term == self.raw.raft.term => {
                self.raw.read_index(id.0.to_le_bytes().to_vec());
            }
            Some(_) => self.asked = None,
            None => {}
        }
    }

    /// The write with that ticket is durable.
    pub fn persisted(&mut self, ticket: Ticket, out: &mut Vec<GroupEffect>) {
        let Some(writing) = self.writing.take_if(|w| w.ticket == ticket) else {
            return;
        };
        self.raw.on_persist_ready(ticket.0);
        if let Some(snapshot) = writing.restored {
            self.raw.advance_apply_to(snapshot.index.0);
            self.replica = Some(Replica::restore(&snapshot).expect("checked by the guard"));
            self.bytes_since = 0;
            out.push(GroupEffect::Restored);
        }
        emit(writing.after, out);
    }

    /// Does all that can be done now. Called after every input.
    pub fn pump(&mut self, out: &mut Vec<GroupEffect>) {
        while self.writing.is_none() && self.raw.has_ready() {
            self.turn(out);
        }
        self.release_reads(out);
    }

    fn turn(&mut self, out: &mut Vec<GroupEffect>) {
        let mut ready = self.raw.ready();
        emit(ready.take_messages(), out);
        let after = ready.take_persisted_messages();
        let ticket = Ticket(ready.number());
        let must_sync = ready.must_sync();
        let entries = ready.take_entries();
        let restored = Some(ready.snapshot())
            .filter(|s| !s.is_empty())
            .map(convert::snapshot_from_raft);
        let committed = ready.take_committed_entries();
        let reads = ready.take_read_states();
        let hard = ready.hs().cloned();

        let storage = self.raw.mut_store();
        if let Some(snapshot) = &restored {
            storage.install(snapshot.clone());
        }
        storage.append(&entries);
        if let Some(hard) = hard {
            storage.set_hard(hard);
        }
        let hard = convert::hard_from_raft(storage.hard());
        self.raw.advance_append_async(ready);

        let changed = self.apply(&committed, out);
        for read in reads {
            if let Ok(id) = read.request_ctx.try_into().map(u64::from_le_bytes) {
                self.reads.push_back((ReadId(id), LogIndex(read.index)));
            }
        }
        if !must_sync && !changed {
            // Only the commit index moved, or messages are to go: nothing to make durable. But
            // who forgets in a restart that other members count now may wait for one that left.
            self.raw.on_persist_ready(ticket.0);
            emit(after, out);
            return;
        }
        let snapshot = match &restored {
            Some(snapshot) => {
                self.compaction = None;
                Some(SnapshotWrite {
                    snapshot: snapshot.clone(),
                    reset: true,
                })
            }
            None => {
                let compaction = self.compaction.take();
                compaction.map(|snapshot| SnapshotWrite {
                    snapshot,
                    reset: false,
                })
            }
        };
        let entries = entries.iter().map(convert::entry_from_raft).collect();
        let write = LogWrite {
            snapshot,
            entries,
            hard: Some(hard),
        };
        self.writing = Some(Writing {
            ticket,
            after,
            restored,
        });
        out.push(GroupEffect::Persist(ticket, write));
    }

    /// Whether the members changed.
    fn apply(&mut self, committed: &[Entry], out: &mut Vec<GroupEffect>) -> bool {
        let Some(last) = committed.last() else {
            return false;
        };
        let mut changed = false;
        let replica = self
            .replica
            .as_mut()
            .expect("entries come after a snapshot");
        for raw_entry in committed {
            let entry = convert::entry_from_raft(raw_entry);
            if let EntryBody::Members(step) = &entry.body
                && replica.members.after(step).is_some()
            {
                let change = convert::step_to_raft(step, &replica.members);
                let state = self.raw.apply_conf_change(&change);
                let state = state.expect("what is possible for the members is for raft-rs");
                self.raw.mut_store().set_members(state);
                changed = true;
                step_down_if_removed(&mut self.raw.raft);
            }
            self.bytes_since += raw_entry.data.len();
            let outcome = replica.apply(&entry);
            out.push(GroupEffect::Applied(outcome));
        }
        self.raw.advance_apply_to(last.index);
        let last = self.raw.store().latest_snapshot();
        let share = last.map_or(0, |s| s.state.len() / SNAPSHOT_SHARE);
        self.compact(self.snapshot_every, share);
        changed
    }

    /// Makes a snapshot if the last one is so many entries, and bytes, old.
    fn compact(&mut self, entries_min: u64, bytes_min: usize) {
        let Some(replica) = &self.replica else { return };
        let since = replica
            .applied
            .0
            .saturating_sub(self.raw.store().snapshot_index());
        if since >= entries_min && self.bytes_since >= bytes_min {
            let snapshot = replica.snapshot();
            self.bytes_since = 0;
            self.raw.mut_store().compact(snapshot.clone());
            self.compaction = Some(snapshot);
        }
    }

    fn release_reads(&mut self, out: &mut Vec<GroupEffect>) {
        let Some(applied) = self.replica.as_ref().map(|r| r.applied) else {
            return;
        };
        while self.reads.front().is_some_and(|(_, at)| *at <= applied) {
            let (id, _) = self.reads.pop_front().expect("there is a front");
            self.asked = self.asked.filter(|(asked, _)| *asked > id);
            out.push(GroupEffect::ReadReady(id));
        }
    }

    /// Applied entries after `after`, at most `max`; `None` if they were compacted.
    #[must_use]
    pub fn entries_after(&self, after: LogIndex, max: u64) -> Option<Vec<LogEntry>> {
        let applied = self.replica.as_ref()?.applied;
        if after >= applied {
            return Some(Vec::new());
        }
        let to = applied.0.min(after.0 + max);
        let entries = self.raw.store().range(after.0 + 1, to)?;
        Some(entries.iter().map(convert::entry_from_raft).collect())
    }

    /// The latest snapshot; the entries after it are there.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.raw.store().latest_snapshot()
    }
}

fn draw_election(jitter: &mut Jitter) -> usize {
    let span = (ELECTION_TICKS_END - ELECTION_TICKS_MIN) as u64;
    ELECTION_TICKS_MIN + usize::try_from(jitter.below(span)).expect("small")
}

/// A leader may apply the step that removes it, if an earlier one proposed that. raft-rs leaves it
/// leading, and panics at the next answer that it gets: it counts itself.
fn step_down_if_removed<S: raft::Storage>(raft: &mut raft::Raft<S>) {
    let is_voter = raft.prs().conf().voters().contains(raft.id);
    if raft.state == StateRole::Leader && !is_voter {
        raft.become_follower(raft.term, raft::INVALID_ID);
    }
}

fn emit(messages: Vec<Message>, out: &mut Vec<GroupEffect>) {
    out.extend(
        messages
            .iter()
            .filter_map(convert::message_from_raft)
            .map(GroupEffect::Send),
    );
}
