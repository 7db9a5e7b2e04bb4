//! Writing: encode once, put a fragment to every slot, and again until every slot holds it.

use std::collections::{BTreeMap, VecDeque};

use coding::{SlotSet, layout};
use model::BLOCK_BYTES;
use model::ids::{DiskRef, FragmentKey, RequestId, SegmentId, Slot};
use model::payload::Payload;
use model::sometimes::{Sometimes, reached};
use model::store::{Claim, FragmentMeta, SegmentKind, block_sum};
use model::time::Time;

use super::Turn;
use super::core::{Core, Place, Purpose, Timer, send};
use super::delete::Deletes;
use super::tries::Tries;
use crate::messages::{DiskReply, DiskRequest, PutFragment, SegmentRef, SegmentReply};

/// A write that waits for its turn.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) id: RequestId,
    pub(super) segment: SegmentRef,
    pub(super) kind: SegmentKind,
    pub(super) claim: Claim,
    pub(super) data: Payload,
}

#[derive(Debug, Default)]
pub(super) struct Writes {
    queue: VecDeque<Queued>,
    running: BTreeMap<RequestId, Write>,
    abandoned_in_a_row: u32,
    /// No write is begun before this.
    hold_until: Time,
}

#[derive(Debug)]
struct Write {
    segment: SegmentRef,
    meta: FragmentMeta,
    claim: Claim,
    slots: Vec<SlotWrite>,
}

#[derive(Debug)]
struct SlotWrite {
    fragment: Payload,
    sums: Vec<u32>,
    state: State,
    /// Of the current disk.
    tries: Tries,
    refusals: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Asked {
        id: RequestId,
        at: DiskRef,
        due: Time,
    },
    Stored {
        at: DiskRef,
    },
}

/// Why a write is given up.
#[derive(Clone, Copy, Debug)]
struct Abandoned {
    full: bool,
    /// Another row of the pool can be written to: the next id is worth a try at once.
    elsewhere: bool,
}

impl Writes {
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.running.len()
    }

    pub(super) fn contains(&self, segment: SegmentId) -> bool {
        self.running.values().any(|w| w.segment.id == segment)
            || self.queue.iter().any(|q| q.segment.id == segment)
    }

    pub(super) fn submit(&mut self, turn: &mut Turn<'_>, deletes: &mut Deletes, queued: Queued) {
        assert!(
            !self.contains(queued.segment.id),
            "segment ids are never reused (R1)"
        );
        self.queue.push_back(queued);
        self.admit(turn, deletes);
    }

    /// Begins what may begin now.
    pub(super) fn admit(&mut self, turn: &mut Turn<'_>, deletes: &mut Deletes) {
        while self.running.len() < turn.core.config.writes_max && turn.now >= self.hold_until {
            let Some(queued) = self.queue.pop_front() else {
                break;
            };
            let id = queued.id;
            match begin(turn.now, turn.core, &queued) {
                Ok(write) => {
                    let before = self.running.insert(id, write);
                    assert!(before.is_none(), "the Volume machine numbers its requests");
                    self.step(turn, deletes, id);
                }
                Err(why) => self.gave_up(turn, id, queued.segment.id, why),
            }
        }
        let held = !self.queue.is_empty() && turn.now < self.hold_until;
        turn.core
            .timers
            .set(Timer::Admission, held.then_some(self.hold_until));
    }

    /// Sends what is to be sent now for one write, or ends it, and then begins others.
    pub(super) fn drive(&mut self, turn: &mut Turn<'_>, deletes: &mut Deletes, id: RequestId) {
        self.step(turn, deletes, id);
        self.admit(turn, deletes);
    }

    fn step(&mut self, turn: &mut Turn<'_>, deletes: &mut Deletes, id: RequestId) {
        let Some(write) = self.running.get_mut(&id) else {
            return;
        };
        if let Err(why) = check(turn.core, write.segment) {
            return self.abandon(turn, deletes, id, why);
        }
        write.put_all(turn, id);
        if write
            .slots
            .iter()
            .all(|s| matches!(s.state, State::Stored { .. }))
        {
            return self.finish(turn, id);
        }
        let due = write.slots.iter().filter_map(|s| match s.state {
            State::Asked { due, .. } => Some(due),
            State::Idle | State::Stored { .. } => None,
        });
        turn.core.timers.set(Timer::Write(id), due.min());
    }

    pub(super) fn answered(
        &mut self,
        turn: &mut Turn<'_>,
        deletes: &mut Deletes,
        id: RequestId,
        slot: Slot,
        reply: &DiskReply,
    ) {
        let write = self
            .running
            .get_mut(&id)
            .expect("a request of a write that runs");
        let slot = &mut write.slots[usize::from(slot.0)];
        let State::Asked {
            id: request, at, ..
        } = slot.state
        else {
            unreachable!("an answered request is forgotten");
        };
        let pause = slot.tries.put_off(&turn.core.config);
        let again = State::Asked {
            id: request,
            at,
            due: turn.now + pause,
        };
        match reply {
            DiskReply::Stored { .. } => {
                turn.core.forget(request);
                slot.state = State::Stored { at };
            }
            DiskReply::Full | DiskReply::Conflict | DiskReply::WrongIncarnation => {
                slot.refusals += 1;
                if slot.refusals >= turn.core.config.refusals_max {
                    let mut full = *reply == DiskReply::Full;
                    if full {
                        turn.core.note_full(turn.now, at.disk);
                        let pool = self.running[&id].segment.pool;
                        full = turn.core.lacks_space_alone(pool);
                    }
                    self.abandon(
                        turn,
                        deletes,
                        id,
                        Abandoned {
                            full,
                            elsewhere: false,
                        },
                    );
                    return self.admit(turn, deletes);
                }
                slot.state = again;
            }
            // `Busy`, or `NotMine` until the view knows as much as the disk (R20), or an answer
            // that makes no sense: the same again later.
            _ => slot.state = again,
        }
        self.drive(turn, deletes, id);
    }

    pub(super) fn placement_changed(&mut self, turn: &mut Turn<'_>, deletes: &mut Deletes) {
        self.abandoned_in_a_row = 0;
        self.hold_until = turn.now;
        let ids: Vec<RequestId> = self.running.keys().copied().collect();
        for id in ids {
            self.step(turn, deletes, id);
        }
        self.admit(turn, deletes);
    }

    fn finish(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        let write = self.running.remove(&id).expect("it runs");
        let code = write.segment.pool.code;
        assert_eq!(
            write.slots.len(),
            usize::from(code.slots()),
            "one fragment a slot"
        );
        for (slot, place) in write.places(turn.core).enumerate() {
            let State::Stored { at } = write.slots[slot].state else {
                unreachable!("a write ends when every slot is stored (R14)");
            };
            let now_at = place.disk().map(|on| on.at);
            assert_eq!(now_at, Some(at), "stored where readers will look (R14)");
        }
        turn.core.timers.set(Timer::Write(id), None);
        self.abandoned_in_a_row = 0;
        turn.counters.written += 1;
        turn.reply(SegmentReply::Written {
            id,
            segment: write.segment.id,
        });
    }

    /// Gives a write up; what was stored of it, or may still be, is deleted (R16).
    fn abandon(
        &mut self,
        turn: &mut Turn<'_>,
        deletes: &mut Deletes,
        id: RequestId,
        why: Abandoned,
    ) {
        reached(Sometimes::SegmentAbandoned);
        let write = self.running.remove(&id).expect("it runs");
        let mut touched = SlotSet::EMPTY;
        for (slot, state) in (0..).map(Slot).zip(write.slots.iter().map(|s| s.state)) {
            match state {
                State::Idle => continue,
                State::Asked { id, .. } => turn.core.forget(id),
                State::Stored { .. } => {}
            }
            touched.insert(slot);
        }
        turn.core.timers.set(Timer::Write(id), None);
        if !touched.is_empty() {
            deletes.add(turn, write.segment, touched);
            deletes.send_ready(turn);
        }
        self.gave_up(turn, id, write.segment.id, why);
    }

    fn gave_up(&mut self, turn: &mut Turn<'_>, id: RequestId, segment: SegmentId, why: Abandoned) {
        self.abandoned_in_a_row += u32::from(!why.elsewhere);
        let config = &turn.core.config;
        if let Some(n) = self
            .abandoned_in_a_row
            .checked_sub(config.abandoned_in_a_row_max)
        {
            self.hold_until = turn.now + config.backoff(n);
        }
        turn.counters.abandoned += 1;
        turn.reply(SegmentReply::Unwritable {
            id,
            segment,
            full: why.full,
        });
    }
}

/// Encodes, if the spread is writable at all.
fn begin(now: Time, core: &mut Core, queued: &Queued) -> Result<Write, Abandoned> {
    let segment = queued.segment;
    let unsound = Abandoned {
        full: false,
        elsewhere: false,
    };
    let codec = core.codec(segment.pool.code).map_err(|_| unsound)?;
    check(core, segment)?;
    avoid_full(now, core, segment)?;
    let fragments = codec.encode(&queued.data).map_err(|_| unsound)?;
    let fragment_bytes = layout::fragment_bytes(segment.pool.code, segment.bytes);
    let slots = (0..).map(Slot).zip(fragments).map(|(slot, fragment)| {
        assert_eq!(
            fragment.len(),
            fragment_bytes as usize,
            "fragments are equally long"
        );
        let key = FragmentKey {
            segment: segment.id,
            slot,
        };
        let sums = block_sums(key, &fragment);
        SlotWrite {
            fragment,
            sums,
            state: State::Idle,
            tries: Tries::default(),
            refusals: 0,
        }
    });
    let meta = FragmentMeta {
        pool: segment.pool,
        segment_bytes: segment.bytes,
        fragment_bytes,
        kind: queued.kind,
    };
    Ok(Write {
        segment,
        meta,
        claim: queued.claim,
        slots: slots.collect(),
    })
}

fn block_sums(key: FragmentKey, fragment: &Payload) -> Vec<u32> {
    let blocks = fragment.chunks().iter().flat_map(|chunk| {
        assert!(
            chunk.len().is_multiple_of(BLOCK_BYTES),
            "buffers of whole blocks"
        );
        chunk.chunks_exact(BLOCK_BYTES)
    });
    (0..)
        .zip(blocks)
        .map(|(block, bytes)| block_sum(key, block, bytes))
        .collect()
}

/// Whether the view still lets the segment be written: every slot on a disk that takes part,
/// and no other pool to be taken because a site is away (R26), or one site alone (R22).
fn check(core: &Core, segment: SegmentRef) -> Result<(), Abandoned> {
    let another = core.view.without().is_some()
        && core
            .view
            .pool_for(segment.pool.code)
            .is_some_and(|pool| pool != segment.pool);
    let another = another || core.view.is_forbidden(segment.pool);
    if !another && core.is_writable(segment.pool, segment.id) {
        return Ok(());
    }
    Err(Abandoned {
        full: false,
        elsewhere: !another && core.has_writable_row(segment.pool),
    })
}

/// A disk that was full a moment ago is left alone while other rows of the pool have room: a few
/// full disks are not a full fabric (R18).
fn avoid_full(now: Time, core: &mut Core, segment: SegmentRef) -> Result<(), Abandoned> {
    if core.has_room(now, segment.pool, segment.id) {
        return Ok(());
    }
    Err(Abandoned {
        full: false,
        elsewhere: true,
    })
}

impl Write {
    fn places<'a>(&'a self, core: &'a Core) -> impl Iterator<Item = Place> + 'a {
        let slots = (0..self.segment.pool.code.slots()).map(Slot);
        slots.map(|slot| core.place(self.segment.pool, self.segment.id, slot))
    }

    /// Sends each fragment that is not where the newest view wants it and is due.
    fn put_all(&mut self, turn: &mut Turn<'_>, write: RequestId) {
        let Self {
            segment,
            meta,
            claim,
            slots,
        } = self;
        let (row, stamp) = turn.core.row(segment.pool, segment.id);
        for (slot, job) in (0..).map(Slot).zip(slots) {
            let place = turn.core.place(segment.pool, segment.id, slot);
            let on = place.disk().expect("checked: every slot has a disk");
            let id = match job.state {
                State::Stored { at } if at == on.at => continue,
                State::Asked { at, due, .. } if at == on.at && due > turn.now => continue,
                State::Asked { id, at, .. } if at == on.at => id,
                // Another disk now: what the old one holds or is sent is found by the audit.
                State::Idle | State::Stored { .. } | State::Asked { .. } => {
                    if let State::Asked { id, .. } = job.state {
                        turn.core.forget(id);
                    }
                    (job.tries, job.refusals) = (Tries::default(), 0);
                    turn.core.ask(on.at.disk, Purpose::Put { write, slot })
                }
            };
            let wait = job.tries.sent(turn.core.config.put_timeout);
            job.state = State::Asked {
                id,
                at: on.at,
                due: turn.now + wait,
            };
            let request = DiskRequest::Put(PutFragment {
                incarnation: on.at.incarnation,
                key: FragmentKey {
                    segment: segment.id,
                    slot,
                },
                meta: *meta,
                claim: *claim,
                sums: job.sums.clone(),
                row,
                stamp: stamp.clone(),
            });
            send(
                turn.out,
                on.node,
                on.at.disk,
                id,
                request,
                job.fragment.clone(),
            );
        }
    }
}
