//! What disks answered.

use std::time::Duration;

use bytes::Bytes;
use model::ids::{DiskId, NodeId, RequestId, SegmentId};
use model::payload::Payload;
use model::time::Time;

use super::job::{Job, State};
use super::listing::Out;
use super::{About, Asked, Effect, Healer, Key};
use crate::messages::{DiskReply, DiskRequest, HealerReply};

impl Healer {
    /// Asks every disk of the row that has not answered yet, as far as that is due.
    pub(super) fn ask_pages(&mut self, now: Time, key: Key, out: &mut Vec<Effect>) {
        let limit = self.config.page_keys;
        let timeout = self.config.ask_timeout;
        let job = self.jobs.get_mut(&key).expect("it is there");
        let State::Listing(listing) = &mut job.state else {
            return;
        };
        for (at, page) in &mut listing.pages {
            if page.got.is_some() || page.out.is_some_and(|o| o.due > now) {
                continue;
            }
            let (id, attempts) = match page.out {
                Some(question) => (question.id, question.attempts + 1),
                None => {
                    let id = self.next_id;
                    self.next_id = RequestId(id.0 + 1);
                    let (at, about) = (*at, About::Page);
                    self.asked.insert(id, Asked { key, at, about });
                    (id, 1)
                }
            };
            let due = now + timeout;
            page.out = Some(Out { id, due, attempts });
            out.push(Effect::ToDisk {
                node: page.source.node,
                disk: at.disk,
                id,
                request: DiskRequest::ListRow {
                    incarnation: at.incarnation,
                    pool: job.healing.pool,
                    rows: job.row.rows,
                    row: job.healing.row,
                    stamp: job.row.stamp.clone(),
                    after: job.cursor,
                    limit,
                },
                payload: Payload::empty(),
            });
        }
    }

    pub(super) fn answered(
        &mut self,
        now: Time,
        disk: DiskId,
        id: RequestId,
        reply: DiskReply,
        payload: &Bytes,
        out: &mut Vec<Effect>,
    ) {
        if self.sums.answered(disk, id, &reply, payload, out) {
            return;
        }
        if self
            .survey
            .answered(now, disk, id, &reply, &mut self.next_id)
        {
            return;
        }
        // Late, repeated or misdirected: nothing was asked of it, nothing is learnt.
        let Some(asked) = self.asked.get(&id).copied().filter(|a| a.at.disk == disk) else {
            return;
        };
        let pause = self.config.ask_timeout / 4;
        let job = self
            .jobs
            .get_mut(&asked.key)
            .expect("questions go with their move");
        match &reply {
            DiskReply::Data { is_pressed, .. } | DiskReply::Stored { is_pressed } => {
                self.pace.told(now, *is_pressed);
                if let Some(took) = job.took(now, self.config.ask_timeout, asked.about, id) {
                    self.pace.answered(now, took);
                }
            }
            DiskReply::Busy => self.pace.late(now),
            _ => {}
        }
        let stored_before = job.progress.stored_bytes;
        let settled = match asked.about {
            About::Page => job.page(now + pause, asked, reply),
            About::Fetch(segment) => job.fetched(now + pause, (segment, id), &reply, payload),
            About::Put(segment) => job.stored(now + pause, segment, &reply),
            // Asked of a Healer, not of a disk.
            About::Sum(..) => false,
        };
        let stored = job.progress.stored_bytes - stored_before;
        if stored > 0 {
            self.pace.brought(now);
            self.meter.add(now, stored);
            self.survey.stored(asked.key, stored);
        }
        if settled {
            self.asked.remove(&id);
        }
    }

    /// Another node's Healer answered.
    pub(super) fn told(
        &mut self,
        now: Time,
        (node, id): (NodeId, RequestId),
        reply: &HealerReply,
        payload: &Bytes,
    ) {
        let asked = self.asked.get(&id).copied();
        let asked = asked.filter(|a| self.view.node_of(a.at) == Some(node));
        let Some(Asked {
            key,
            about: About::Sum(segment, site),
            ..
        }) = asked
        else {
            return;
        };
        self.asked.remove(&id);
        let job = self.jobs.get_mut(&key);
        let job = job.expect("questions go with their move");
        let State::Copying(copying) = &mut job.state else {
            return;
        };
        let Some(copy) = copying.running.get_mut(&segment) else {
            return;
        };
        let Some(question) = copy.awaited_sum(site, id) else {
            return;
        };
        if let HealerReply::Sum { is_pressed } = reply {
            let left = question.due.since(now);
            self.pace.told(now, *is_pressed);
            self.pace
                .answered(now, self.config.ask_timeout.saturating_sub(left));
        }
        let bytes = copy.summed(site, reply, payload);
        job.progress.wan_bytes += bytes.map_or(0, u64::from);
    }
}

impl Job {
    /// How long the answer to a question about a fragment took, if it was asked once: which one of
    /// several an answer belongs to, nobody knows.
    fn took(&self, now: Time, timeout: Duration, about: About, id: RequestId) -> Option<Duration> {
        let State::Copying(copying) = &self.state else {
            return None;
        };
        let out = match about {
            About::Page | About::Sum(..) => return None,
            About::Fetch(segment) => {
                let copy = copying.running.get(&segment)?;
                *copy.fetches.get(&copy.slot_of(id)?)?
            }
            About::Put(segment) => copying.running.get(&segment)?.put.as_ref()?.out?,
        };
        (out.attempts == 1).then(|| timeout.saturating_sub(out.due.since(now)))
    }
}

/// Each says whether the question is settled; else it is asked again `later`.
impl Job {
    fn page(&mut self, later: Time, asked: Asked, reply: DiskReply) -> bool {
        let State::Listing(listing) = &mut self.state else {
            return true;
        };
        let Some(page) = listing.pages.get_mut(&asked.at) else {
            return true;
        };
        match reply {
            DiskReply::Row { keys, next } => {
                page.got = Some((keys, next));
                page.out = None;
                true
            }
            // Another life has the disk: it holds nothing of this one's. The view will say so.
            _ => {
                let question = page.out.as_mut().expect("it was asked");
                question.due = later;
                false
            }
        }
    }

    fn fetched(
        &mut self,
        later: Time,
        (segment, id): (SegmentId, RequestId),
        reply: &DiskReply,
        payload: &Bytes,
    ) -> bool {
        let (row, progress) = (&self.row, &mut self.progress);
        let State::Copying(copying) = &mut self.state else {
            return true;
        };
        let Some(copy) = copying.running.get_mut(&segment) else {
            return true;
        };
        let Some(slot) = copy.slot_of(id) else {
            return true;
        };
        if *reply == DiskReply::Busy {
            copy.fetches.get_mut(&slot).expect("just found").due = later;
            return false;
        }
        copy.fetches.remove(&slot);
        let here = row.disks[&self.healing.to].site;
        let is_local = copy.missing.holders[&slot].1.site == here;
        let bytes = copy.fetched(slot, reply, payload).map_or(0, u64::from);
        if is_local {
            progress.local_bytes += bytes;
        } else {
            progress.wan_bytes += bytes;
        }
        true
    }

    fn stored(&mut self, later: Time, segment: SegmentId, reply: &DiskReply) -> bool {
        let slot = self.healing.slot;
        let State::Copying(copying) = &mut self.state else {
            return true;
        };
        let Some(copy) = copying.running.get_mut(&segment) else {
            return true;
        };
        match reply {
            DiskReply::Stored { .. } => {
                let copy = copying.running.remove(&segment).expect("just found");
                let progress = &mut self.progress;
                match copy.missing.holders.contains_key(&slot) {
                    true => progress.copied += 1,
                    false => progress.rebuilt += 1,
                }
                progress.stored_bytes += u64::from(copy.missing.meta.fragment_bytes);
                if let Some(mend) = &mut self.mend {
                    mend.settled(segment);
                }
                true
            }
            DiskReply::Busy => {
                let put = copy.put.as_mut().expect("it was sent");
                put.out.as_mut().expect("it was sent").due = later;
                false
            }
            // Full, or the row has other moves that this node has not seen: with the next pass.
            _ => {
                copying.running.remove(&segment);
                self.left += 1;
                true
            }
        }
    }
}
