//! One volume's replica: its log, its promise, its leases, and where each of its entries lies.
//!
//! Its state in memory is what will be durable once all that it queued is: a promise counts
//! from the moment it is queued (R7), a reply leaves only after it.

use bytes::Bytes;
use model::ids::{Epoch, Position, RequestId, Seq, VolumeId};
use model::journal::{Checkpoint, RecordBody, RecordHead, SealReport};
use model::payload::Payload;
use model::store::EntryAt;
use model::time::Time;

use super::api::ReplicaStats;
use super::batch::{BatchNo, Batcher, Queued, Serial, Subject};
use super::entry::{Entry, Health, StateEntry};
use super::lease::Leases;
use super::log::{Held, Log, Slot};
use crate::planted::{Bug, planted};

/// The latest committed checkpoint that a replica knows (R3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    /// Its record's position.
    pub(super) position: Position,
    pub(super) checkpoint: Checkpoint,
    /// Where its session table lies; `None` while that is being written.
    pub(super) table: Option<EntryAt>,
}

/// Which request of which owner. An owner numbers its requests upward, and there is one owner
/// an epoch (R1): so a higher number was sent later.
pub(super) type Asked = (Epoch, RequestId);

/// One volume's replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Replica {
    volume: VolumeId,
    promised: Epoch,
    health: Health,
    log: Log,
    known: Option<Known>,
    /// Up to where an owner allowed trimming.
    trim_asked: Position,
    /// A refilling replica holds all that its owner committed; to be made durable.
    refilled: bool,
    /// The latest `State` or `Reset` entry.
    state: Slot,
    /// The checkpoint that the pending one carries.
    carried: Option<Position>,
    /// The latest `Promise` entry after that.
    promise: Slot,
    /// Changes whenever what was read before says nothing about the replica now.
    lineage: Serial,
    ticket: BatchNo,
    /// The batch that holds the entry by which it promised.
    promised_by: BatchNo,
    /// The last request that was told that this replica is damaged.
    told: Option<Asked>,
    leases: Leases,
    /// When it was appended to last. People are told; nothing is decided by it.
    appended: Option<Time>,
}

/// What a journal's replay makes of a replica.
pub(super) struct Replayed {
    pub(super) promised: Epoch,
    pub(super) health: Health,
    pub(super) log: Log,
    pub(super) known: Option<Known>,
    pub(super) state: Option<EntryAt>,
    pub(super) promise: Option<EntryAt>,
}

impl Replica {
    /// A new replica, by a checked Join (R2): nothing is known. Queues its first entry.
    pub(super) fn join(
        volume: VolumeId,
        epoch: Epoch,
        health: Health,
        batcher: &mut Batcher,
    ) -> Self {
        let replayed = Replayed {
            promised: epoch,
            health,
            log: Log::default(),
            known: None,
            state: None,
            promise: None,
        };
        let mut replica = Self::found(volume, replayed, Time::ZERO, batcher);
        replica.queue_state(Position::ZERO, health, None, Payload::empty(), batcher);
        replica.promised_by = replica.ticket;
        replica
    }

    /// A replica as recovery found it. Until `wait_until` a lease may run that it forgot (R7).
    pub(super) fn found(
        volume: VolumeId,
        replayed: Replayed,
        wait_until: Time,
        batcher: &mut Batcher,
    ) -> Self {
        let mut replica = Self {
            volume,
            promised: replayed.promised,
            health: replayed.health,
            log: replayed.log,
            known: replayed.known,
            trim_asked: Position::ZERO,
            refilled: false,
            state: Slot {
                at: replayed.state,
                pending: None,
            },
            carried: None,
            promise: Slot {
                at: replayed.promise,
                pending: None,
            },
            lineage: batcher.serial(),
            ticket: BatchNo::default(),
            promised_by: BatchNo::default(),
            told: None,
            leases: Leases::recovered(replayed.promised, wait_until),
            appended: None,
        };
        replica.advance_checkpoint();
        replica
    }

    pub(super) fn promised(&self) -> Epoch {
        self.promised
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    /// How it is.
    pub(super) fn stats(&self) -> ReplicaStats {
        ReplicaStats {
            untrimmed_bytes: self.log.bytes(),
            records: self.log.len() as u64,
            whole: self.health == Health::Whole,
            promised: self.promised,
            base: self.log.base(),
            last: self.log.last(),
            appended: self.appended,
            covers: self.known.map(|k| k.checkpoint.covers),
        }
    }

    /// Records are appended now.
    pub(super) fn append_at(&mut self, now: Time) {
        self.appended = Some(now);
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    pub(super) fn state(&self) -> Slot {
        self.state
    }

    pub(super) fn promise(&self) -> Slot {
        self.promise
    }

    pub(super) fn lineage(&self) -> Serial {
        self.lineage
    }

    /// The batch that holds its last queued entry.
    pub(super) fn ticket(&self) -> BatchNo {
        self.ticket
    }

    /// The batch that holds the entry by which it promised.
    pub(super) fn promised_by(&self) -> BatchNo {
        self.promised_by
    }

    /// A request is answered `Damaged`.
    pub(super) fn tell(&mut self, asked: Asked) {
        self.told = self.told.max(Some(asked));
    }

    /// Whether a reset was sent by an owner that had, by all signs, heard of the damage. One
    /// that travelled since before may precede what this replica then acknowledged and lost.
    pub(super) fn has_told(&self, asked: Asked) -> bool {
        self.told.is_some_and(|told| told < asked)
    }

    /// Makes a recovered replica count for nothing, in memory: the caller makes it durable.
    pub(super) fn mark_damaged(&mut self) {
        self.health = Health::Damaged;
    }

    // Leases (R7); see `lease.rs`.

    /// When a seal at `epoch` may be answered.
    pub(super) fn seal_after(&self, epoch: Epoch) -> Time {
        self.leases.seal_after(epoch)
    }

    /// When records of `epoch` may be appended.
    pub(super) fn append_after(&self, epoch: Epoch) -> Time {
        self.leases.append_after(epoch)
    }

    /// Whether an owner holds a lease here now.
    pub(super) fn has_owner(&self, now: Time) -> bool {
        self.leases.runs(now)
    }

    /// Grants the promised epoch a lease, unless it released its own.
    pub(super) fn grant(&mut self, now: Time, until: Time) -> bool {
        self.leases.grant(now, self.promised, until)
    }

    /// The owner of `epoch` stopped.
    pub(super) fn release(&mut self, epoch: Epoch) {
        if epoch <= self.promised {
            self.leases.release(epoch);
        }
    }

    // What is asked of it. Each queues entries and takes effect in memory at once.

    fn push(
        &mut self,
        subject: Subject,
        header: Vec<u8>,
        payload: Payload,
        batcher: &mut Batcher,
    ) -> Serial {
        let (serial, ticket) = batcher.push(self.volume, subject, header, payload);
        assert!(ticket >= self.ticket, "tickets never fall");
        self.ticket = ticket;
        serial
    }

    fn garbage(&self, places: Vec<EntryAt>, batcher: &mut Batcher) {
        for at in places {
            let queued = batcher.garbage(at, self.volume);
            assert!(queued, "what supersedes an entry was queued just now");
        }
    }

    /// Promises `epoch`: nothing lower is accepted from here on (R7).
    pub(super) fn queue_promise(&mut self, epoch: Epoch, batcher: &mut Batcher) {
        assert!(epoch > self.promised, "a promise only rises");
        self.promised = epoch;
        if planted(Bug::LostPromise) {
            return;
        }
        let header = Entry::Promise { epoch }.into_header();
        let serial = self.push(Subject::Promise, header, Payload::empty(), batcher);
        self.promise.pending = Some(serial);
        self.promised_by = self.ticket;
    }

    /// Appends what is not held of `records`; a conflicting suffix goes. `payload` is all
    /// records' payloads, as long as they say.
    pub(super) fn queue_records(
        &mut self,
        records: Vec<RecordHead>,
        skip: usize,
        payload: &Bytes,
        batcher: &mut Batcher,
    ) {
        assert_ne!(self.health, Health::Damaged, "a damaged log takes nothing");
        let mut offset = 0;
        for (i, head) in records.into_iter().enumerate() {
            let end = offset + head.payload_len as usize;
            let bytes = payload.slice(offset..end);
            offset = end;
            if i < skip {
                continue;
            }
            let position = head.position;
            let freed = if position.seq <= self.log.last().seq {
                self.log.truncate_from(position.seq)
            } else {
                Vec::new()
            };
            let (header, head) = Entry::record_header(head, self.log.committed(), false);
            let subject = Subject::Record(position.seq);
            let serial = self.push(subject, header, bytes.into(), batcher);
            self.garbage(freed, batcher);
            let slot = Slot {
                at: None,
                pending: Some(serial),
            };
            self.log.push(Held { head, slot });
        }
    }

    /// Learns from an owner whose log this one matches up to `matched`.
    pub(super) fn learn(
        &mut self,
        asked: Asked,
        matched: Position,
        committed: Position,
        trim: Position,
    ) {
        self.log.commit(committed, matched);
        if let Health::Refilling { epoch, by } = self.health {
            // A damaged replica acknowledged records that it lost. It holds them again once its
            // log is an owner's up to something committed in that owner's own epoch (R8, Raft's
            // commit rule): all that was committed before it was sent lies below. What was sent
            // before the reset does not count.
            let caught_up = committed.epoch == asked.0
                && committed.seq <= matched.seq
                && self.log.position_at(committed.seq) == Some(committed);
            self.refilled |= caught_up && asked > (epoch, by);
        }
        if trim.seq > self.trim_asked.seq {
            self.trim_asked = trim;
        }
        self.advance_checkpoint();
    }

    fn advance_checkpoint(&mut self) {
        if self.health == Health::Damaged {
            return;
        }
        let known = self.known.map_or(Seq(0), |k| k.position.seq);
        let covers = self.known.map_or(Seq(0), |k| k.checkpoint.covers.seq);
        if let Some((position, checkpoint, at)) = self.log.committed_checkpoint(known, covers) {
            self.known = Some(Known {
                position,
                checkpoint,
                table: Some(at),
            });
        }
    }

    /// Where the log would start after trimming: never beyond what `covers`, of a committed
    /// checkpoint, covers (R3), and by (epoch, seq), never by seq alone (R4).
    pub(super) fn trim_to(&self, covers: Position) -> Option<Position> {
        let to = self.trim_asked;
        let held = self.log.position_at(to.seq) == Some(to)
            && self.log.position_at(covers.seq) == Some(covers);
        let wanted = to.seq > self.log.base().seq && to.seq <= covers.seq;
        (wanted && held && to.seq <= self.log.committed().seq).then_some(to)
    }

    /// Whether a fresh `State` entry would say something new: a trim, or that it is refilled.
    pub(super) fn wants_state(&self) -> bool {
        let covers = self.known.map(|k| k.checkpoint.covers);
        self.health != Health::Damaged
            && (self.refilled || covers.and_then(|c| self.trim_to(c)).is_some())
    }

    /// Writes what is known beside the records, with a committed checkpoint whose table was
    /// read before, and trims as that allows.
    pub(super) fn restate(
        &mut self,
        checkpoint: Option<(Position, Checkpoint)>,
        table: Payload,
        batcher: &mut Batcher,
    ) {
        assert_ne!(
            self.health,
            Health::Damaged,
            "a damaged log is wrecked instead"
        );
        let covers = checkpoint.map(|(_, c)| c.covers);
        let base = covers
            .and_then(|c| self.trim_to(c))
            .unwrap_or(self.log.base());
        let health = if self.refilled {
            Health::Whole
        } else {
            self.health
        };
        self.refilled = false;
        self.queue_state(base, health, checkpoint, table, batcher);
    }

    /// Its payloads can't be read: it counts for nothing until refilled (R8). The records
    /// stay as long as their files do.
    pub(super) fn queue_damage(&mut self, batcher: &mut Batcher) {
        self.known = None;
        self.refilled = false;
        self.lineage = batcher.serial();
        let base = self.log.base();
        self.queue_state(base, Health::Damaged, None, Payload::empty(), batcher);
    }

    fn queue_state(
        &mut self,
        base: Position,
        health: Health,
        checkpoint: Option<(Position, Checkpoint)>,
        table: Payload,
        batcher: &mut Batcher,
    ) {
        self.health = health;
        let header = Entry::State(StateEntry {
            promised: self.promised,
            base,
            committed: self.log.committed(),
            health,
            checkpoint,
        });
        let serial = self.push(Subject::State, header.into_header(), table, batcher);
        self.superseded_by(serial, checkpoint.map(|(p, _)| p));
        if base != self.log.base() {
            let freed = self.log.trim(base);
            self.garbage(freed, batcher);
        }
    }

    fn superseded_by(&mut self, serial: Serial, carried: Option<Position>) {
        self.state.pending = Some(serial);
        self.carried = carried;
        self.promise.pending = None;
    }

    /// Forgets the log and starts after `base`, atomically (R9).
    pub(super) fn queue_reset(
        &mut self,
        base: Position,
        at: Position,
        checkpoint: Checkpoint,
        table: Payload,
        (epoch, by): Asked,
        batcher: &mut Batcher,
    ) {
        let health = match self.health {
            Health::Whole => Health::Whole,
            Health::Refilling { .. } | Health::Damaged => Health::Refilling { epoch, by },
        };
        self.start_over(base, health, Some((at, checkpoint)), table, batcher);
    }

    /// Drops a damaged log for its space: no reply can expose it any more.
    pub(super) fn queue_wreck(&mut self, batcher: &mut Batcher) {
        assert_eq!(self.health, Health::Damaged);
        let damaged = Health::Damaged;
        self.start_over(Position::ZERO, damaged, None, Payload::empty(), batcher);
    }

    fn start_over(
        &mut self,
        base: Position,
        health: Health,
        checkpoint: Option<(Position, Checkpoint)>,
        table: Payload,
        batcher: &mut Batcher,
    ) {
        let header = Entry::Reset(StateEntry {
            promised: self.promised,
            base,
            committed: base,
            health,
            checkpoint,
        });
        let serial = self.push(Subject::State, header.into_header(), table, batcher);
        self.superseded_by(serial, checkpoint.map(|(p, _)| p));
        self.health = health;
        self.known = checkpoint.map(|(position, checkpoint)| Known {
            position,
            checkpoint,
            table: None,
        });
        self.trim_asked = Position::ZERO;
        self.refilled = false;
        self.lineage = batcher.serial();
        let freed = self.log.reset(base);
        self.garbage(freed, batcher);
    }

    /// Writes a held record again, so that the file of its old place can go. `at` is where it
    /// was read; a record that moved or went meanwhile is left alone.
    pub(super) fn queue_moved(
        &mut self,
        position: Position,
        at: EntryAt,
        bytes: Bytes,
        batcher: &mut Batcher,
    ) -> bool {
        let committed = self.log.committed();
        let Some(held) = self.log.held(position.seq) else {
            return false;
        };
        let same = held.head.position == position && held.slot.at == Some(at);
        if !same || held.slot.pending.is_some() {
            return false;
        }
        let (header, _) = Entry::record_header(held.head.clone(), committed, true);
        let subject = Subject::Moved(position.seq);
        let serial = self.push(subject, header, bytes.into(), batcher);
        let held = self.log.held_mut(position.seq).expect("just seen");
        held.slot.pending = Some(serial);
        true
    }

    /// The volume is deleted (R16): nothing of it is needed any more.
    pub(super) fn queue_dropped(mut self, batcher: &mut Batcher) {
        let header = Entry::Dropped.into_header();
        self.push(Subject::Dropped, header, Payload::empty(), batcher);
        self.garbage(self.places(), batcher);
    }

    /// Where all its durable entries lie.
    pub(super) fn places(&self) -> Vec<EntryAt> {
        let records = self.log.from(Seq(0)).map(|r| r.slot.at);
        let places = records.chain([self.state.at, self.promise.at]);
        places.flatten().collect()
    }

    // What the disk says.

    /// A queued entry is durable. Returns whether it is still the current one; `freed` gets
    /// the places of the entries that it supersedes.
    pub(super) fn place(&mut self, queued: Queued, at: EntryAt, freed: &mut Vec<EntryAt>) -> bool {
        let me = Some(queued.serial);
        match queued.subject {
            Subject::State if self.state.pending == me => {
                self.state.pending = None;
                freed.extend(self.state.at.replace(at));
                freed.extend(self.promise.at.take());
                if let Some(known) = &mut self.known
                    && self.carried == Some(known.position)
                {
                    known.table = Some(at);
                }
            }
            Subject::Promise if self.promise.pending == me => {
                self.promise.pending = None;
                freed.extend(self.promise.at.replace(at));
            }
            Subject::Record(seq) | Subject::Moved(seq) => {
                let Some(held) = self.log.held_mut(seq).filter(|h| h.slot.pending == me) else {
                    return false;
                };
                held.slot.pending = None;
                let old = held.slot.at.replace(at);
                let is_checkpoint = matches!(held.head.body, RecordBody::Checkpoint(_));
                freed.extend(old);
                if let Some(known) = &mut self.known
                    && old.is_some()
                    && known.table == old
                {
                    known.table = Some(at);
                }
                if is_checkpoint {
                    self.advance_checkpoint();
                }
            }
            _ => return false,
        }
        true
    }

    /// What it holds; the checkpoint's table is to be read beside it.
    pub(super) fn report(&self, epoch: Epoch) -> SealReport {
        assert_eq!(
            self.health,
            Health::Whole,
            "only a whole log counts in a seal"
        );
        let known = self.known.map(|k| (k.position, k.checkpoint, Vec::new()));
        SealReport {
            epoch,
            base: self.log.base(),
            last: self.log.last(),
            committed: self.log.committed(),
            checkpoint: known,
        }
    }
}
