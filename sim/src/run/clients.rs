//! Clients: in slots, so that a slot whose client's session ended gets a new one, elsewhere;
//! each with a few lanes of one operation after the other.

use std::time::Duration;

use actors::client::Tag;
use model::BLOCK_BYTES;
use model::block::{Allocation, BlockError, Chunk, Extent, Reply};
use model::ids::{ClientId, NodeId};
use model::sometimes::{Sometimes, reached};
use model::time::Time;

use super::{Failure, Own, Run, answers};
use crate::allocation::TouchId;
use crate::oracle::{SECTOR, Value, WriteId};
use crate::plan::load::{ClientPlan, Place, Scripted};
use crate::workload::{Mix, Op, values};

/// A client follows its volume after a while: who is cut off with the old owner goes on there.
const FOLLOW_MIN: Duration = Duration::from_millis(1500);
const FOLLOW_MAX: Duration = Duration::from_secs(5);

/// Lanes of a slot at most.
const LANES_MAX: usize = 4;

/// Where clients are, and what they do there.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) client: Option<ClientId>,
    /// Since when it is there.
    opened: Time,
    pub(super) node: NodeId,
    lanes: Vec<Lane>,
}

/// One operation after the other.
#[derive(Debug)]
struct Lane {
    mix: Mix,
    busy: bool,
    /// When it asks again; other plans are void.
    due: Time,
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Pending {
    op: Op,
    pub(super) called: Time,
    write: Option<(WriteId, TouchId)>,
    /// The slot and its lane.
    lane: (usize, Option<usize>),
}

impl Run {
    pub(super) fn open_slots(&mut self) {
        let now = self.world.now();
        for (slot, client) in self.plan.workload.clients.iter().enumerate() {
            let lanes = client.lanes.iter().map(|mix| Lane {
                mix: *mix,
                busy: false,
                due: now,
            });
            self.slots.push(Slot {
                client: None,
                opened: now,
                node: NodeId(1),
                lanes: lanes.collect(),
            });
            self.world.schedule(now, Own::Open(slot).number());
        }
    }

    /// The clients that can read at the end: not those whose place is lost for good.
    pub(super) fn readers(&self) -> impl Iterator<Item = usize> {
        let clients = self.plan.workload.clients.iter().enumerate();
        let stays = |(_, client): &(usize, &ClientPlan)| match client.place {
            Place::At(name) => {
                let node = self.by_name.get(&name);
                node.is_some_and(|node| !self.lost.contains(node))
            }
            Place::NearOwner | Place::FarFromOwner => true,
        };
        clients.filter(stays).map(|(slot, _)| slot)
    }

    /// A live node that suits a client. Not always where it would rather be.
    fn place(&mut self, slot: usize) -> Option<NodeId> {
        let mut live = self.running();
        live.retain(|node| !self.ending.contains_key(node));
        let near = match self.plan.workload.clients[slot].place {
            Place::At(name) => {
                let pin = self.by_name.get(&name).filter(|pin| live.contains(pin));
                return pin.copied();
            }
            Place::NearOwner => true,
            Place::FarFromOwner => false,
        };
        if let Some(owner) = self.world.owner(self.volume)
            && !self.placing.one_in(4)
        {
            if near && live.contains(&owner) && !self.placing.one_in(4) {
                return Some(owner);
            }
            let site = self.world.nodes[&owner].site;
            let fits = |n: &NodeId| (self.world.nodes[n].site == site) == near;
            let fitting: Vec<NodeId> = live.iter().copied().filter(fits).collect();
            if !fitting.is_empty() {
                return Some(*self.placing.pick(&fitting));
            }
        }
        (!live.is_empty()).then(|| *self.placing.pick(&live))
    }

    pub(super) fn open(&mut self, slot: usize) {
        if self.leaving || self.slots[slot].client.is_some() {
            return;
        }
        let again = self.world.now() + Duration::from_millis(200);
        let Some(node) = self.place(slot) else {
            self.world.schedule(again, Own::Open(slot).number());
            return;
        };
        self.next_client += 1;
        let client = ClientId(self.next_client);
        if !self.world.open_client(node, self.volume, client) {
            self.world.schedule(again, Own::Open(slot).number());
            return;
        }
        self.slots[slot].client = Some(client);
        self.slots[slot].opened = self.world.now();
        self.slots[slot].node = node;
        if self.plan.workload.operations.is_empty() {
            for lane in 0..self.slots[slot].lanes.len() {
                self.think(slot, lane);
            }
        }
    }

    /// Plans a lane's next operation.
    fn think(&mut self, slot: usize, lane: usize) {
        let now = self.world.now();
        let longest = if self
            .flurries
            .iter()
            .any(|(from, to)| (*from..*to).contains(&now))
        {
            Duration::from_millis(2)
        } else {
            let next = self
                .flurries
                .iter()
                .map(|(from, _)| *from)
                .filter(|from| *from > now)
                .min();
            let think = self.plan.workload.think;
            next.map_or(think, |next| think.min(next.since(now)))
        };
        let due = now + self.thinking.duration(Duration::ZERO, longest);
        self.slots[slot].lanes[lane].due = due;
        self.world
            .schedule(due, Own::Lane(slot * LANES_MAX + lane).number());
    }

    pub(super) fn lane_due(&mut self, number: usize) {
        let (slot, lane) = (number / LANES_MAX, number % LANES_MAX);
        let now = self.world.now();
        let of = &mut self.slots[slot];
        if self.closing || of.client.is_none() || of.lanes[lane].busy || of.lanes[lane].due != now {
            return;
        }
        if let Some(until) = self.world.paused_until(of.node) {
            // Who runs there stands still too.
            of.lanes[lane].due = until;
            self.world.schedule(until, Own::Lane(number).number());
            return;
        }
        of.lanes[lane].busy = true;
        let op = self.workload.next(of.lanes[lane].mix);
        let at = now.since(self.begun);
        self.asked.push(Scripted::of(at, slot, op));
        self.issue(slot, Some(lane), op);
    }

    /// A scripted operation's time has come; without a session there is nobody to ask it.
    pub(super) fn scripted(&mut self, i: usize) {
        let scripted = self.plan.workload.operations[i];
        if !self.closing {
            let op = scripted.op(self.workload.values(scripted.count));
            self.issue(scripted.client, None, op);
        }
    }

    pub(super) fn issue(&mut self, slot: usize, lane: Option<usize>, op: Op) {
        let Some(client) = self.slots[slot].client else {
            return;
        };
        let node = self.slots[slot].node;
        self.next_tag += 1;
        let tag = Tag(self.next_tag);
        let called = self.world.now();
        let horizon = self.horizon();
        let write = op.mutates().then(|| {
            let write = self.oracle.write_called(called, op.changes());
            let blocks = op.allocates();
            (write, self.allocation.called(called, blocks, horizon))
        });
        self.pending.insert(
            (client, tag),
            Pending {
                op,
                called,
                write,
                lane: (slot, lane),
            },
        );
        self.world.submit(node, client, tag, op.request());
    }

    pub(super) fn complete(
        &mut self,
        client: ClientId,
        tag: Tag,
        reply: Reply,
    ) -> Result<(), Failure> {
        let Some(pending) = self.pending.remove(&(client, tag)) else {
            return Ok(());
        };
        let now = self.world.now();
        if !matches!(reply, Reply::Error(_)) {
            self.check_session(client, &pending)?;
        }
        answers::check(pending.op, &reply)?;
        let took = now.since(pending.called);
        if self.plan.expect.answered.is_some_and(|most| took > most) {
            let op = pending.op;
            let what = format!("an answer sooner than {took:?} after it was asked: {op:?}");
            return Err(Failure::Unexpected(what));
        }
        match reply {
            Reply::Done => {
                self.answered += 1;
                if let Some((write, _)) = pending.write
                    && self.is_answer_of_before(client)
                {
                    reached(Sometimes::AnsweredAfterRecovery);
                    self.oracle.optional_answered(now, write);
                } else if let Some((write, touch)) = pending.write {
                    self.oracle.write_answered(now, write);
                    self.allocation.answered(now, touch);
                    let node = self.slots[pending.lane.0].node;
                    if pending.op.written_bytes() > 0 {
                        self.taken = self.taken.max(Some(pending.called));
                    }
                    self.note_resumed(node, pending.called, pending.op.written_bytes());
                }
            }
            Reply::Data(chunks) => {
                self.answered += 1;
                self.check_read(&pending, &chunks)?;
            }
            Reply::Status(extents) => {
                self.answered += 1;
                self.check_status(&pending, &extents)?;
            }
            // The session is gone with its owner's memory of it: unknown.
            Reply::Error(BlockError::NoSession) => {}
            // The volume was smaller meanwhile.
            Reply::Error(BlockError::OutOfRange) if self.was_too_far(&pending) => {}
            Reply::Error(BlockError::NoSpace) if self.may_lack_room(&pending) => {
                self.refused = Some(now);
            }
            Reply::Error(_) => return Err(Failure::Refused(pending.op)),
        }
        if let (slot, Some(lane)) = pending.lane {
            self.slots[slot].lanes[lane].busy = false;
            if !self.closing {
                self.think(slot, lane);
            }
        }
        Ok(())
    }

    /// What reads as zeros needs no room, and for what replaces data alone there is some kept
    /// (R18).
    fn may_lack_room(&self, pending: &Pending) -> bool {
        let times = (pending.called, self.world.now());
        let could_be = |block, state| self.allocation.said(times, block, state).is_ok();
        let could_be_none =
            |(block, _)| could_be(block, Allocation::Hole) || could_be(block, Allocation::Zero);
        let mut blocks = pending.op.allocates();
        self.plan.expect.full && pending.op.written_bytes() > 0 && blocks.any(could_be_none)
    }

    fn was_too_far(&self, pending: &Pending) -> bool {
        let (first, count) = pending.op.sectors();
        self.sizes.may_refuse(pending.called, first, count)
    }

    /// No operation that is under way, or comes later, was called before this.
    pub(super) fn horizon(&self) -> Time {
        let earliest = self.pending.values().map(|p| p.called).min();
        earliest.unwrap_or_else(|| self.world.now())
    }

    fn check_read(&mut self, pending: &Pending, chunks: &[Chunk]) -> Result<(), Failure> {
        let (first, _) = pending.op.sectors();
        self.judge(pending, first, values(chunks))
    }

    /// Looks at all that was read, so that all that is lost of it is counted; the first fault
    /// is the one that is told.
    fn judge(
        &mut self,
        pending: &Pending,
        first: u64,
        read: Vec<Option<Value>>,
    ) -> Result<(), Failure> {
        let (mut fault, times) = (None, self.times(pending));
        for (sector, value) in (first..).zip(read) {
            let wrong = match value {
                None => Some(Failure::Torn(sector)),
                Some(value) => self.check_sector(times, sector, value).err(),
            };
            if wrong.is_some() {
                self.bytes_lost += SECTOR as u64;
                fault = fault.or(wrong);
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// When a read that is answered now was called, now, and before when none is called any more.
    fn times(&self, pending: &Pending) -> (Time, Time, Time) {
        let now = self.world.now();
        (pending.called, now, self.horizon().min(pending.called))
    }

    fn check_sector(
        &mut self,
        times: (Time, Time, Time),
        sector: u64,
        value: Value,
    ) -> Result<(), Failure> {
        let (called, now, _) = times;
        if called < self.stale_until {
            return Ok(self.oracle.glance(now, sector, value)?);
        }
        Ok(self.oracle.read(times, sector, value)?)
    }

    /// What is a hole or a zero reads as zeros, and every block's allocation is one that the
    /// mutations allow.
    fn check_status(&mut self, pending: &Pending, extents: &[Extent]) -> Result<(), Failure> {
        let (first, _) = pending.op.sectors();
        let of_sectors = self.times(pending);
        let (called, now, _) = of_sectors;
        let mut at = first * SECTOR as u64;
        for extent in extents {
            let end = at + extent.length;
            let sectors = at / SECTOR as u64..end / SECTOR as u64;
            if extent.state != Allocation::Data {
                for sector in sectors {
                    self.check_sector(of_sectors, sector, Value::ZERO)?;
                }
            }
            let block = BLOCK_BYTES as u64;
            if called >= self.stale_until {
                for block in at / block..end.div_ceil(block) {
                    self.allocation.said((called, now), block, extent.state)?;
                }
            }
            at = end;
        }
        Ok(())
    }

    /// A client is at its end: it was asked to, its process died, or its session is gone, which
    /// must not be (R10).
    pub(super) fn client_ended(&mut self, client: ClientId, killed: bool) -> Result<(), Failure> {
        let mut slots = self.slots.iter().filter(|s| s.client == Some(client));
        let is_over = slots.any(|s| self.may_end(s.opened));
        if !killed && !self.left.remove(&client) && !is_over {
            return Err(Failure::SessionLost(client));
        }
        self.pending.retain(|(c, _), _| *c != client);
        let again = self.world.now() + Duration::from_millis(100);
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if slot.client == Some(client) {
                slot.client = None;
                for lane in &mut slot.lanes {
                    lane.busy = false;
                }
                if !self.leaving {
                    self.world.schedule(again, Own::Open(i).number());
                }
            }
        }
        Ok(())
    }

    /// The owner is asked to stop, and the clients are back while it does.
    pub(super) fn come_back(&mut self) {
        if let Some(owner) = self.world.owner(self.volume) {
            self.world.stop_volume(owner, self.volume);
        }
        self.leaving = false;
        for slot in 0..self.slots.len() {
            let after = self
                .rng
                .duration(Duration::ZERO, Duration::from_millis(250));
            let at = self.world.now() + after;
            self.world.schedule(at, Own::Open(slot).number());
        }
    }

    /// A volume goes with its virtual machine, and the machine with its volume: who would rather
    /// be near the owner moves there, some time after another node began to serve.
    pub(super) fn owner_changed(&mut self) {
        for (slot, client) in self.plan.workload.clients.iter().enumerate() {
            if client.place == Place::NearOwner {
                let after = self.placing.duration(FOLLOW_MIN, FOLLOW_MAX);
                let at = self.world.now() + after;
                self.world.schedule(at, Own::Follow(slot).number());
            }
        }
    }

    pub(super) fn follow(&mut self, slot: usize) {
        let (client, node) = (self.slots[slot].client, self.slots[slot].node);
        let near = self.world.owner(self.volume) == Some(node);
        let Some(client) = client.filter(|_| !near && !self.closing && !self.leaving) else {
            return;
        };
        self.left.insert(client);
        self.world.close_client(node, client);
    }

    /// All clients leave; nobody comes until [`Run::leaving`] ends.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        let clients: Vec<(NodeId, ClientId)> = self
            .slots
            .iter()
            .filter_map(|s| Some((s.node, s.client?)))
            .collect();
        for (node, client) in clients {
            self.left.insert(client);
            self.world.close_client(node, client);
        }
    }
}
