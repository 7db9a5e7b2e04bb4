//! The Segment machine: one beside each Volume machine. It encodes and spreads segments, reads
//! blocks of them (hedged, and from other fragments where one is late, missing or wrong), and
//! deletes them.
//!
//! **Invariants:**
//! - `Written` is said only when every slot's disk, by the newest view, said `Stored` (R14).
//! - A byte handed out has the checksum that the index demands, whatever disks answer (R19).
//! - A segment is deleted only because the Volume machine said so (R15), or because its write
//!   was abandoned, after which its id is never written again (R16, R18).
//!
//! Reading order: `core`, [`Segments`], `write`, `read` (the direct path), `rescue` (all other
//! sources), `delete`.

mod config;
mod core;
mod delete;
mod read;
mod rescue;
mod run;
#[cfg(test)]
mod tests;
mod tries;
mod write;

pub use config::SegmentConfig;

use std::sync::Arc;

use bytes::Bytes;
use model::ids::{DiskId, NodeId, RequestId};
use model::machine::Machine;
use model::payload::Payload;
use model::placement::View;
use model::time::Time;

use self::core::{Core, Purpose, Timer};
use self::delete::Deletes;
use self::read::Reads;
use self::write::Writes;
use crate::messages::{DiskReply, DiskRequest, SegmentReply, SegmentRequest};

/// What may happen to a [`Segments`] machine.
#[derive(Debug)]
pub enum Input {
    /// The Volume machine asks. It asks for no more than [`Segments::write_room`] and
    /// [`Segments::read_room`] allow.
    Request(SegmentRequest),
    /// A disk answered.
    Disk {
        /// The disk.
        disk: DiskId,
        /// The request's id.
        id: RequestId,
        /// The answer.
        reply: DiskReply,
        /// The bytes beside it.
        payload: Bytes,
    },
    /// The placement as it is now. Older ones than the current are ignored.
    View(Arc<View>),
}

/// What a [`Segments`] machine asks of its shell.
#[derive(Debug)]
pub enum Effect {
    /// Send to a disk; the answer comes back as [`Input::Disk`] with the same id. It may get
    /// lost: the machine asks again, with the same id.
    ToDisk {
        /// Where the disk is.
        node: NodeId,
        /// The disk.
        disk: DiskId,
        /// Correlates the answer.
        id: RequestId,
        /// The request.
        request: DiskRequest,
        /// The bytes beside it.
        payload: Payload,
    },
    /// Answer the Volume machine.
    Reply(SegmentReply),
}

/// What a machine did so far, and has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentCounters {
    /// Segments written.
    pub written: u64,
    /// Writes abandoned.
    pub abandoned: u64,
    /// Reads answered with data.
    pub reads: u64,
    /// Of them, reads for which at least one block was rebuilt from other fragments.
    pub degraded_reads: u64,
    /// Gets that were late enough for others to be asked.
    pub hedged_gets: u64,
    /// Blocks that came with a wrong checksum, or were rebuilt to one.
    pub wrong_blocks: u64,
    /// Reads answered with `Unreadable`.
    pub unreadable: u64,
    /// Deletions forgotten because too many were pending: the audit frees them (R16).
    pub deletes_dropped: u64,
}

/// The Segment machine of one volume's owner.
#[derive(Debug)]
pub struct Segments {
    core: Core,
    counters: SegmentCounters,
    writes: Writes,
    reads: Reads,
    deletes: Deletes,
}

impl Segments {
    /// A machine on `node` (reads prefer disks of its site) that knows `view` and numbers its requests from `start` on: a shell that
    /// starts another one for the same volume in the same process passes a higher start, so
    /// that late answers meet no new request.
    #[must_use]
    pub fn new(node: NodeId, config: SegmentConfig, view: Arc<View>, start: RequestId) -> Self {
        Self {
            core: Core::new(node, config, view, start),
            counters: SegmentCounters::default(),
            writes: Writes::default(),
            reads: Reads::default(),
            deletes: Deletes::default(),
        }
    }

    /// How many more writes the machine takes now.
    #[must_use]
    pub fn write_room(&self) -> usize {
        let config = &self.core.config;
        (config.writes_max + config.write_queue_max).saturating_sub(self.writes.len())
    }

    /// How many more reads the machine takes now.
    #[must_use]
    pub fn read_room(&self) -> usize {
        let config = &self.core.config;
        (config.reads_max + config.read_queue_max).saturating_sub(self.reads.len())
    }

    /// Segments whose deletion is not answered by every slot yet.
    #[must_use]
    pub fn pending_deletes(&self) -> usize {
        self.deletes.len()
    }

    /// What the machine did so far.
    #[must_use]
    pub fn counters(&self) -> SegmentCounters {
        self.counters
    }

    /// Requests to disks that await an answer.
    #[must_use]
    pub fn requests_outstanding(&self) -> usize {
        self.core.asked_count()
    }

    fn with<'a>(&'a mut self, now: Time, out: &'a mut Vec<Effect>) -> (Turn<'a>, Halves<'a>) {
        let turn = Turn {
            now,
            core: &mut self.core,
            counters: &mut self.counters,
            out,
        };
        let halves = Halves {
            writes: &mut self.writes,
            reads: &mut self.reads,
            deletes: &mut self.deletes,
        };
        (turn, halves)
    }
}

/// What a half of the machine works with during one call.
struct Turn<'a> {
    now: Time,
    core: &'a mut Core,
    counters: &'a mut SegmentCounters,
    out: &'a mut Vec<Effect>,
}

struct Halves<'a> {
    writes: &'a mut Writes,
    reads: &'a mut Reads,
    deletes: &'a mut Deletes,
}

impl Turn<'_> {
    fn reply(&mut self, reply: SegmentReply) {
        self.out.push(Effect::Reply(reply));
    }

    /// Takes a newer view; whether segments lie elsewhere by it.
    fn see(&mut self, view: Arc<View>) -> bool {
        let old = &self.core.view;
        if view.version < old.version {
            return false;
        }
        let moved = view.pools != old.pools
            || view.disks != old.disks
            || view.nodes != old.nodes
            || view.sites != old.sites;
        self.core.view = view;
        moved
    }
}

impl Machine for Segments {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        let (write_room, read_room) = (self.write_room(), self.read_room());
        let (mut turn, halves) = self.with(now, out);
        let turn = &mut turn;
        let Halves {
            writes,
            reads,
            deletes,
        } = halves;
        match input {
            Input::Request(SegmentRequest::Write {
                id,
                segment,
                kind,
                claim,
                data,
            }) => {
                assert!(
                    write_room > 0,
                    "the Volume machine minds the room for writes"
                );
                assert_eq!(
                    data.len(),
                    segment.bytes as usize,
                    "a segment is as long as it says"
                );
                assert!(
                    !deletes.contains(segment.id),
                    "segment ids are never reused (R1)"
                );
                writes.submit(
                    turn,
                    deletes,
                    write::Queued {
                        id,
                        segment,
                        kind,
                        claim,
                        data,
                    },
                );
            }
            Input::Request(SegmentRequest::Read { id, segment, runs }) => {
                assert!(read_room > 0, "the Volume machine minds the room for reads");
                reads.submit(turn, id, segment, runs);
            }
            Input::Request(SegmentRequest::Forget { id }) => reads.forget(turn, id),
            Input::Request(SegmentRequest::Delete { segments }) => {
                for segment in segments {
                    let busy = writes.contains(segment.id);
                    assert!(
                        !busy,
                        "a segment is in no checkpoint before it is written (R15)"
                    );
                    deletes.submit(turn, segment);
                }
                deletes.send_ready(turn);
            }
            Input::Disk {
                disk,
                id,
                reply,
                payload,
            } => {
                // Late, repeated or misdirected: nothing was asked of it, nothing is learnt.
                let Some(asked) = turn.core.asked(id).filter(|a| a.disk == disk) else {
                    return;
                };
                match asked.purpose {
                    Purpose::Put { write, slot } => {
                        writes.answered(turn, deletes, write, slot, &reply);
                    }
                    Purpose::Get { read } => reads.answered(turn, read, id, reply, &payload),
                    Purpose::Delete => deletes.answered(turn, disk, id, &reply),
                }
            }
            Input::View(view) => {
                if turn.see(view) {
                    deletes.placement_changed(turn);
                    writes.placement_changed(turn, deletes);
                    reads.placement_changed(turn);
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.core.timers.next()
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        let (
            mut turn,
            Halves {
                writes,
                reads,
                deletes,
            },
        ) = self.with(now, out);
        let turn = &mut turn;
        while let Some(timer) = turn.core.timers.pop(now) {
            match timer {
                Timer::Write(id) => writes.drive(turn, deletes, id),
                Timer::Admission => writes.admit(turn, deletes),
                Timer::Read(id) => reads.due(turn, id),
                Timer::Delete(disk) => deletes.due(turn, disk),
            }
        }
    }
}
