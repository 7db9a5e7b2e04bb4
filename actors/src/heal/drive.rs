//! Fragments on their way: what is asked next for each, and what is asked again.

use std::time::Duration;

use model::ids::{FragmentKey, RequestId, Slot};
use model::payload::Payload;
use model::spread::SlotMove;
use model::store::Claim;
use model::time::Time;

use super::copy::{Copy, Next};
use super::job::State;
use super::listing::Out;
use super::sources::Row;
use super::{About, Asked, Effect, Healer, Key};
use crate::messages::{DiskRequest, HealerRequest, Message, PutFragment};

impl Healer {
    /// Lets each fragment that is being brought go on; whether one of them ended.
    pub(super) fn drive_copies(&mut self, now: Time, key: Key, out: &mut Vec<Effect>) -> bool {
        let codec = self.codec(key.0.code);
        let timeout = self.config.ask_timeout;
        let job = self.jobs.get_mut(&key).expect("it is there");
        let own = job.row.disks[&job.healing.to];
        let State::Copying(copying) = &mut job.state else {
            return false;
        };
        let mut ended = Vec::new();
        let (mut sends, mut is_late) = (Vec::new(), false);
        for (segment, copy) in &mut copying.running {
            let silent = self.config.attempts_max;
            let late = copy
                .fetches
                .iter()
                .filter(|(_, o)| o.due <= now && o.attempts >= silent);
            let late: Vec<Slot> = late.map(|(slot, _)| *slot).collect();
            late.into_iter().for_each(|slot| copy.gave_up(slot));
            let parts = copy.parts.iter().flat_map(|parts| parts.sites.values());
            let mut awaited = parts.filter(|part| part.is_awaited());
            if awaited.any(|part| part.out.is_some_and(|o| o.due <= now && o.attempts > 0)) {
                copy.part_ways();
                is_late = true;
            }
            match copy.next(&codec, key.2, own.site) {
                Next::Fetch(slots, sites) => {
                    for slot in slots {
                        let id = self.next_id;
                        self.next_id = RequestId(id.0 + 1);
                        let (at, _) = copy.missing.holders[&slot];
                        let about = About::Fetch(*segment);
                        self.asked.insert(id, Asked { key, at, about });
                        copy.fetches.insert(slot, Out::new(id, now));
                    }
                    let parts = copy.parts.iter_mut().flat_map(|parts| &mut parts.sites);
                    for (site, part) in parts.filter(|(site, _)| sites.contains(site)) {
                        let id = self.next_id;
                        self.next_id = RequestId(id.0 + 1);
                        let at = part.near;
                        let about = About::Sum(*segment, *site);
                        self.asked.insert(id, Asked { key, at, about });
                        part.out = Some(Out::new(id, now));
                    }
                }
                Next::Put => {
                    let put = copy.put.as_mut().expect("it is ready");
                    if put.out.is_none() {
                        let id = self.next_id;
                        self.next_id = RequestId(id.0 + 1);
                        let about = About::Put(*segment);
                        let at = job.healing.to;
                        self.asked.insert(id, Asked { key, at, about });
                        put.out = Some(Out::new(id, now));
                    }
                }
                Next::Wait => {}
                Next::Stuck => {
                    let may_come = copy.may_come(job.row.unsure);
                    job.left += u64::from(may_come);
                    job.progress.lost += u64::from(!may_come);
                    if let Some(mend) = job.mend.as_mut().filter(|_| !may_come) {
                        mend.settled(*segment);
                    }
                    ended.push(*segment);
                    continue;
                }
            }
            is_late |= send_due(now, timeout, &job.healing, &job.row, copy, &mut sends);
        }
        for segment in &ended {
            copying.running.remove(segment);
        }
        if is_late {
            self.pace.late(now);
        }
        out.append(&mut sends);
        !ended.is_empty()
    }
}

/// Sends the questions for one fragment that are due; whether one of them was asked before.
fn send_due(
    now: Time,
    timeout: Duration,
    healing: &SlotMove,
    row: &Row,
    copy: &mut Copy,
    out: &mut Vec<Effect>,
) -> bool {
    let mut is_late = false;
    let segment = copy.missing.segment;
    let ranges = copy.ranges();
    for (slot, question) in &mut copy.fetches {
        if question.due > now {
            continue;
        }
        is_late |= question.attempts > 0;
        (question.due, question.attempts) = (now + timeout, question.attempts + 1);
        let (at, source) = copy.missing.holders[slot];
        let slot = *slot;
        out.push(Effect::ToDisk {
            node: source.node,
            disk: at.disk,
            id: question.id,
            request: DiskRequest::Get {
                incarnation: at.incarnation,
                key: FragmentKey { segment, slot },
                pool: healing.pool,
                ranges: ranges.clone(),
            },
            payload: Payload::empty(),
        });
    }
    send_sums(now + timeout, copy, out);
    let payload = copy.put.as_ref().map(|_| copy.payload());
    let Some(put) = &mut copy.put else {
        return is_late;
    };
    let Some(question) = put.out.as_mut().filter(|o| o.due <= now) else {
        return is_late;
    };
    is_late |= question.attempts > 0;
    (question.due, question.attempts) = (now + timeout, question.attempts + 1);
    let key = FragmentKey {
        segment,
        slot: healing.slot,
    };
    out.push(Effect::ToDisk {
        node: row.disks[&healing.to].node,
        disk: healing.to.disk,
        id: question.id,
        request: DiskRequest::Put(PutFragment {
            incarnation: healing.to.incarnation,
            key,
            meta: copy.missing.meta,
            claim: Claim::Upkeep,
            sums: put.sums.clone(),
            row: healing.row,
            stamp: row.stamp.clone(),
        }),
        payload: payload.expect("it is ready"),
    });
    is_late
}

/// Has other sites' Healers add up what was not asked of them yet. Each is asked once: without an
/// answer, the fragments come one by one.
fn send_sums(due: Time, copy: &mut Copy, out: &mut Vec<Effect>) {
    let (segment, meta) = (copy.missing.segment, copy.missing.meta);
    let parts = copy.parts.iter_mut().flat_map(|p| p.sites.values_mut());
    for part in parts {
        let Some(question) = part.out.as_mut().filter(|o| o.attempts == 0) else {
            continue;
        };
        (question.due, question.attempts) = (due, 1);
        out.push(Effect::ToHealer {
            node: part.node,
            id: question.id,
            message: Message::HealerRequest(HealerRequest::Sum {
                segment,
                meta,
                terms: part.terms.clone(),
            }),
            payload: Payload::empty(),
        });
    }
}
