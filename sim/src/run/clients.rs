//! Clients: in slots, so that a slot whose client's session ended gets a new one, elsewhere;
//! each with a few lanes of one operation after the other.

use std::time::Duration;

use actors::client::Tag;
use model::block::{BlockError, Reply};
use model::ids::{ClientId, NodeId};
use model::time::Time;

use super::{Failure, Own, Run};
use crate::oracle::WriteId;
use crate::workload::{Mix, Op, values};

/// Lanes of a slot at most.
const LANES_MAX: usize = 4;

/// Where clients are, and what they do there.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) client: Option<ClientId>,
    node: NodeId,
    lanes: Vec<Lane>,
}

impl Slot {
    /// Where its client is, or was.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }
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
    called: Time,
    write: Option<WriteId>,
    /// The slot and its lane.
    lane: (usize, Option<usize>),
}

impl Run {
    pub(super) fn open_slots(&mut self) {
        let now = self.world.now();
        for slot in 0..self.rng.within(2, 4) as usize {
            self.add_slot(now);
            self.world.plan(now, Own::Open(slot).number());
        }
    }

    pub(super) fn add_slot(&mut self, now: Time) {
        // A lane is stuck with its write where no majority is heard; a reader goes on.
        let mixes = [Mix::All, Mix::All, Mix::Writes, Mix::Reads];
        let lanes = (0..self.rng.within(2, LANES_MAX as u64))
            .map(|lane| Lane {
                mix: match lane {
                    0 => Mix::Reads,
                    1 if self.outage.is_some() => Mix::Writes,
                    _ => *self.rng.pick(&mixes),
                },
                busy: false,
                due: now,
            })
            .collect();
        self.slots.push(Slot {
            client: None,
            node: NodeId(1),
            lanes,
        });
    }

    /// A live node: even slots are with the owner or near it, odd ones in other sites, so that
    /// whatever parts the owner from the world has clients on both sides. Not always.
    fn place(&mut self, slot: usize) -> Option<NodeId> {
        let live = self.running();
        if let Some(pin) = self.pins.get(slot) {
            return live.contains(pin).then_some(*pin);
        }
        let near = slot.is_multiple_of(2);
        if let Some(owner) = self.world.owner(self.volume)
            && !self.rng.one_in(4)
        {
            if near && live.contains(&owner) && self.rng.one_in(2) {
                return Some(owner);
            }
            let site = self.world.nodes[&owner].site;
            let fits = |n: &NodeId| (self.world.nodes[n].site == site) == near;
            let fitting: Vec<NodeId> = live.iter().copied().filter(fits).collect();
            if !fitting.is_empty() {
                return Some(*self.rng.pick(&fitting));
            }
        }
        (!live.is_empty()).then(|| *self.rng.pick(&live))
    }

    pub(super) fn open(&mut self, slot: usize) {
        let again = self.world.now() + Duration::from_millis(200);
        let Some(node) = self.place(slot) else {
            self.world.plan(again, Own::Open(slot).number());
            return;
        };
        self.next_client += 1;
        let client = ClientId(self.next_client);
        if !self.world.open_client(node, self.volume, client) {
            self.world.plan(again, Own::Open(slot).number());
            return;
        }
        self.slots[slot].client = Some(client);
        self.slots[slot].node = node;
        for lane in 0..self.slots[slot].lanes.len() {
            self.think(slot, lane);
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
            next.map_or(self.think_max, |next| self.think_max.min(next.since(now)))
        };
        let due = now + self.rng.duration(Duration::ZERO, longest);
        self.slots[slot].lanes[lane].due = due;
        self.world
            .plan(due, Own::Lane(slot * LANES_MAX + lane).number());
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
            self.world.plan(until, Own::Lane(number).number());
            return;
        }
        of.lanes[lane].busy = true;
        let op = self.workload.next(of.lanes[lane].mix);
        self.issue(slot, Some(lane), op);
    }

    pub(super) fn issue(&mut self, slot: usize, lane: Option<usize>, op: Op) {
        let Some(client) = self.slots[slot].client else {
            return;
        };
        let node = self.slots[slot].node;
        self.next_tag += 1;
        let tag = Tag(self.next_tag);
        let called = self.world.now();
        let mutates = !matches!(op, Op::Read { .. });
        let write = mutates.then(|| self.oracle.write_called(called, op.changes()));
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
        match reply {
            Reply::Done => {
                self.answered += 1;
                if let Some(write) = pending.write {
                    self.oracle.write_answered(now, write);
                    let node = self.slots[pending.lane.0].node;
                    self.note_resumed(node, pending.called, pending.op.written_bytes());
                }
            }
            Reply::Data(chunks) => {
                self.answered += 1;
                let Op::Read { first, .. } = pending.op else {
                    return Err(Failure::Refused(pending.op));
                };
                let earliest = self.pending.values().map(|p| p.called).min();
                let times = (
                    pending.called,
                    now,
                    earliest.unwrap_or(now).min(pending.called),
                );
                for (i, value) in values(&chunks).into_iter().enumerate() {
                    let sector = first + i as u64;
                    let value = value.ok_or(Failure::Torn(sector))?;
                    self.oracle.read(times, sector, value)?;
                }
            }
            // The session is gone with its owner's memory of it: unknown.
            Reply::Error(BlockError::NoSession) => {}
            Reply::Error(_) | Reply::Status(_) => return Err(Failure::Refused(pending.op)),
        }
        if let (slot, Some(lane)) = pending.lane {
            self.slots[slot].lanes[lane].busy = false;
            if !self.closing {
                self.think(slot, lane);
            }
        }
        Ok(())
    }

    pub(super) fn client_ended(&mut self, client: ClientId) {
        self.pending.retain(|(c, _), _| *c != client);
        let again = self.world.now() + Duration::from_millis(100);
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if slot.client == Some(client) {
                slot.client = None;
                for lane in &mut slot.lanes {
                    lane.busy = false;
                }
                if !self.leaving {
                    self.world.plan(again, Own::Open(i).number());
                }
            }
        }
    }
}
