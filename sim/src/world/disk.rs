//! Driving Disk machines and their stores. A store works on one operation at a time, in order;
//! an operation is carried out when it ends, so that a crash before that loses it, or tears it.

use std::time::Duration;

use actors::disk::{DiskEffect, DiskInput};
use actors::heal;
use actors::messages::{Envelope, Message};
use model::ids::{Actor, DiskId, Endpoint, NodeId};
use model::machine::Machine;
use model::meta::MetaRequest;
use model::store::OpId;
use model::time::Time;

use super::{Event, Who, World};
use crate::node::{OpenDisk, SimDisk, open_disk};

/// One of a disk's two stores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Store {
    /// The journal.
    Journal,
    /// The fragments.
    Fragments,
}

impl Store {
    /// How long one operation takes, at least and at most.
    fn takes(self) -> (Duration, Duration) {
        match self {
            Self::Journal => (Duration::from_micros(30), Duration::from_millis(1)),
            Self::Fragments => (Duration::from_micros(50), Duration::from_millis(2)),
        }
    }

    /// A store that had nothing to do for so long settles, as the real shells do.
    fn settles_after(self) -> Duration {
        match self {
            Self::Journal => Duration::from_millis(50),
            Self::Fragments => Duration::from_millis(500),
        }
    }
}

/// An operation of a slow disk takes so many times as long.
pub(super) const SLOWDOWN: u32 = 40;

impl World {
    /// Opens a disk that a running node got.
    pub fn open_disk(&mut self, node: NodeId, disk: DiskId) {
        let now = self.now();
        let n = self.nodes.get_mut(&node).expect("the node exists");
        let clock = n.clock(now);
        open_disk(
            n.disks.get_mut(&disk).expect("it got it"),
            node,
            &self.terms,
            clock,
        );
        self.tick(node, Who::Disk(disk));
    }

    /// A disk that could not be opened is tried again.
    pub(super) fn reopen_disk(&mut self, node: NodeId, disk: DiskId) {
        self.open_disk(node, disk);
        self.announce_disks(node);
    }

    pub(super) fn drive_disk(&mut self, node: NodeId, id: DiskId, input: DiskInput) {
        let clock = self.nodes[&node].clock(self.now());
        let n = self.nodes.get_mut(&node).expect("the node exists");
        if n.process.is_none() {
            return;
        }
        let mut out = std::mem::take(&mut self.disk_out);
        if let Some(open) = n.disks.get_mut(&id).and_then(|d| d.open.as_mut()) {
            open.machine.handle(clock, input, &mut out);
        }
        self.after_disk(node, id, out);
    }

    pub(super) fn after_disk(&mut self, node: NodeId, id: DiskId, mut out: Vec<DiskEffect>) {
        let from = Endpoint {
            node,
            actor: Actor::Disk(id),
        };
        let mut retired = false;
        let mut found = Vec::new();
        let mut room = false;
        for effect in out.drain(..) {
            match effect {
                DiskEffect::Reply {
                    to,
                    id,
                    reply,
                    payload,
                } => {
                    let message = Message::DiskReply(reply);
                    self.post(Envelope::new(from, to, id, message), payload);
                }
                DiskEffect::Journal { op, request } => {
                    self.open(node, id).journal_queue.push_back((op, request));
                    self.enqueue(node, id, Store::Journal, op);
                }
                DiskEffect::Fragments { op, request } => {
                    self.open(node, id).fragment_queue.push_back((op, request));
                    self.enqueue(node, id, Store::Fragments, op);
                }
                DiskEffect::ReadVolume { token, volume } => {
                    self.ask(node, from.actor, token, MetaRequest::ReadVolume { volume });
                }
                DiskEffect::Scrub(news) => found.push(news),
                DiskEffect::Room(_) | DiskEffect::Health(_) => room = true,
                DiskEffect::Shortage(_) => {}
                DiskEffect::Retire { hangs, .. } => {
                    retired = true;
                    self.disk(node, id).is_let_go = hangs;
                }
            }
        }
        self.disk_out = out;
        if retired {
            // As the shells do: it is closed, and no longer announced.
            let disk = self.disk(node, id);
            disk.open = None;
            disk.held.clear();
        }
        if retired || room {
            self.announce_disks(node);
        }
        let disk = self.nodes[&node]
            .disks
            .get(&id)
            .and_then(|d| d.open.as_ref());
        let due = disk.and_then(|o| o.machine.next_deadline());
        let reopens = self.nodes[&node].disks.get(&id).and_then(|d| d.reopen_at);
        self.arm(node, Who::Disk(id), due.or(reopens));
        let at = self.nodes[&node].disks.get(&id).map(|d| d.at);
        for (news, at) in found.into_iter().zip(at.into_iter().cycle()) {
            self.drive_healer(node, heal::Input::Scrub { at, news });
        }
    }

    fn disk(&mut self, node: NodeId, id: DiskId) -> &mut SimDisk {
        let n = self.nodes.get_mut(&node).expect("the node exists");
        n.disks.get_mut(&id).expect("the disk exists")
    }

    fn find_disk(&mut self, node: NodeId, id: DiskId) -> Option<&mut SimDisk> {
        self.nodes.get_mut(&node)?.disks.get_mut(&id)
    }

    fn find_open(&mut self, node: NodeId, id: DiskId) -> Option<&mut OpenDisk> {
        self.find_disk(node, id)?.open.as_mut()
    }

    fn open(&mut self, node: NodeId, id: DiskId) -> &mut OpenDisk {
        self.disk(node, id).open.as_mut().expect("it runs")
    }

    /// An operation starts when the store has done all earlier ones.
    fn enqueue(&mut self, node: NodeId, disk: DiskId, store: Store, op: OpId) {
        let (least, most) = store.takes();
        let mut takes = self.rng.duration(least, most);
        let now = self.now();
        let life = self.nodes[&node].life;
        let d = self.disk(node, disk);
        if d.slowed > 0 {
            takes *= SLOWDOWN;
        }
        let busy = &mut d.open.as_mut().expect("it runs").pace(store).busy;
        let at = (*busy).max(now) + takes;
        *busy = at;
        self.queue.plan(
            at,
            Event::Stored {
                node,
                life,
                disk,
                store,
                op,
            },
        );
    }

    /// The oldest operation of a store ends.
    pub(super) fn stored(&mut self, node: NodeId, disk: DiskId, store: Store) {
        if let Some(disk) = self.find_disk(node, disk).filter(|d| d.hung) {
            disk.held.push(store);
            return;
        }
        // A disk that retired, or was taken out, does nothing more.
        let Some(open) = self.find_open(node, disk) else {
            return;
        };
        let input = match store {
            Store::Journal => open
                .next_journal_op()
                .map(|(op, done)| DiskInput::Journal { op, done }),
            Store::Fragments => open
                .next_fragment_op()
                .map(|(op, done)| DiskInput::Fragments { op, done }),
        };
        let is_lacking = store == Store::Fragments && open.fragments.take_lack();
        let now = self.now();
        let pace = self.open(node, disk).pace(store);
        pace.used = now;
        if !std::mem::replace(&mut pace.settle_planned, true) {
            self.plan_settle(node, disk, store, now);
        }
        let lack = is_lacking.then_some(DiskInput::Lacking);
        for input in lack.into_iter().chain(input) {
            self.drive_disk(node, disk, input);
        }
    }

    fn plan_settle(&mut self, node: NodeId, disk: DiskId, store: Store, from: Time) {
        let life = self.nodes[&node].life;
        let at = from + store.settles_after();
        self.queue.plan(
            at,
            Event::Settle {
                node,
                life,
                disk,
                store,
            },
        );
    }

    /// A store settles if it was idle.
    pub(super) fn settle(&mut self, node: NodeId, disk: DiskId, store: Store) {
        let now = self.now();
        let Some(open) = self.find_open(node, disk) else {
            return;
        };
        let pace = open.pace(store);
        let since = pace.used.max(pace.busy);
        let hangs = self.disk(node, disk).hung;
        if hangs || since + store.settles_after() > now {
            let since = if hangs { now } else { since };
            self.plan_settle(node, disk, store, since);
            return;
        }
        let open = self.open(node, disk);
        let pace = open.pace(store);
        pace.settle_planned = false;
        let settled = match store {
            Store::Journal => open.journal.settle(),
            Store::Fragments => open.fragments.settle(),
        };
        if let Err(error) = settled {
            self.drive_disk(node, disk, DiskInput::Failed(error));
        }
    }

    /// A crash finds a disk at work: its stores' current operations may be done, torn, or not
    /// begun.
    pub(super) fn interrupt(&mut self, node: NodeId) {
        let disks: Vec<DiskId> = self.nodes[&node].disks.keys().copied().collect();
        for disk in disks {
            let after = self.rng.below(8);
            let journal_first = self.rng.one_in(2);
            let d = self.disk(node, disk);
            let Some(open) = d.open.as_mut() else {
                continue;
            };
            d.files.halt_after(after);
            // What an operation that is cut short answers, nobody hears.
            if journal_first {
                let _ = open.next_journal_op();
            }
            let _ = open.next_fragment_op();
            if !journal_first {
                let _ = open.next_journal_op();
            }
        }
    }

    /// A disk is taken out of a node: a running process loses it, its state stays.
    pub fn pull_disk(&mut self, node: NodeId, disk: DiskId) {
        let d = self.disk(node, disk);
        d.pulled = true;
        if d.open.take().is_some() {
            d.files.kill();
            self.announce_disks(node);
        }
    }

    /// A disk that was taken out is back.
    pub fn return_disk(&mut self, node: NodeId, disk: DiskId) {
        self.disk(node, disk).pulled = false;
        if self.nodes[&node].process.is_some() {
            self.open_disk(node, disk);
            self.announce_disks(node);
        }
    }

    /// A disk is lost for good.
    pub fn remove_disk(&mut self, node: NodeId, disk: DiskId) {
        self.take_out(node, disk);
        self.damaged = true;
    }

    /// A disk is taken out for good.
    pub fn take_out(&mut self, node: NodeId, disk: DiskId) {
        self.pull_disk(node, disk);
        let n = self.nodes.get_mut(&node).expect("the node exists");
        n.disks.remove(&disk);
        n.armed.remove(Who::Disk(disk));
    }

    /// A disk answers nothing from now on.
    pub fn hang_disk(&mut self, node: NodeId, disk: DiskId) {
        self.disk(node, disk).hung = true;
    }

    /// It does again: what it was asked is done now, and if it was given up, it is opened again.
    pub fn unhang_disk(&mut self, node: NodeId, disk: DiskId) {
        let (now, life) = (self.now(), self.nodes[&node].life);
        let clock = self.nodes[&node].clock(now);
        let Some(d) = self.find_disk(node, disk) else {
            return;
        };
        d.hung = false;
        if std::mem::take(&mut d.is_let_go) {
            let pause = d.reopening.pause(clock);
            d.reopen_at = Some(clock + pause);
            let due = d.reopen_at;
            self.arm(node, Who::Disk(disk), due);
        }
        for store in std::mem::take(&mut self.disk(node, disk).held) {
            let op = OpId(0);
            let done = Event::Stored {
                node,
                life,
                disk,
                store,
                op,
            };
            self.queue.plan(now, done);
        }
    }

    /// A node's clock runs at another rate from now on.
    pub fn drift(&mut self, node: NodeId, ppm: i64) {
        let now = self.now();
        let n = self.nodes.get_mut(&node).expect("the node exists");
        n.clock.drift(now, ppm);
        // Timers that were armed by the old rate go off now, and are armed anew.
        let life = n.life;
        let armed: Vec<Who> = n.armed.of().collect();
        for who in armed {
            if n.armed.hasten(who, now) {
                let timer = Event::Timer {
                    node,
                    life,
                    who,
                    at: now,
                };
                self.queue.plan(now, timer);
            }
        }
    }

    /// A node's disks become slow, or fast again.
    pub fn slow_disks(&mut self, node: NodeId, slow: bool) {
        let n = self.nodes.get_mut(&node).expect("the node exists");
        for disk in n.disks.values_mut() {
            disk.slowed = if slow {
                disk.slowed + 1
            } else {
                disk.slowed.saturating_sub(1)
            };
        }
    }
}
